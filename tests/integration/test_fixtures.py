"""The servers and faults that other tests rest on: one that never happens would make their claims empty."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.clients import Call


def connect(url, **options):
    return psycopg.connect(url, autocommit=True, **options)


@pytest.fixture
def numbers(empty_database):
    """The URL of a database with an empty table `number`."""
    with connect(empty_database) as connection:
        connection.execute("CREATE TABLE number (n integer)")
    return empty_database


def stored(url):
    with connect(url) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM number ORDER BY n")]


def test_a_killed_durable_server_keeps_what_was_committed(own_server):
    """
    Crash tests claim durability: the server must die at once, and have had fsync on.
    """
    with connect(own_server.url()) as connection:
        connection.execute("CREATE TABLE number (n integer)")
        connection.execute("INSERT INTO number VALUES (1)")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)

        own_server.kill()

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        connect(own_server.url())
    own_server.start()
    assert stored(own_server.url()) == [1]


def test_a_restarted_server_keeps_its_port(own_server):
    """
    Clients find a restarted server again without being told.
    """
    port = own_server.port

    own_server.restart()

    assert own_server.port == port
    connect(own_server.url()).close()


@pytest.mark.slow
def test_a_server_ends_with_the_process_that_started_it():
    """
    A worker that is killed leaves no server behind.
    """
    program = "from tests.fixtures.server import Server; s = Server(); print(s.child_process.pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()

        os.kill(parent.pid, signal.SIGKILL)

    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_server18_is_version_18(server18):
    """
    What is special about that release is tested on it, whatever is installed.
    """
    with connect(server18.url()) as connection:
        assert connection.info.server_version // 10000 == 18


def test_a_cut_breaks_a_connection_that_waits(proxy, empty_database):
    """
    A lost network shows in the middle of a statement, not at the next one.
    """
    with connect(proxy.url(empty_database)) as connection:
        timer = threading.Timer(0.2, proxy.cut)
        timer.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT pg_sleep(60)")
        timer.join()
    assert proxy.connections_cut == 1
    connect(proxy.url(empty_database)).close()


def test_a_request_lost_on_the_way_has_not_run(proxy, numbers):
    """
    The cut before the request is the one after which a retry is safe.
    """
    with connect(proxy.url(numbers)) as connection:
        proxy.cut_after(from_client=0)

        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO number VALUES (1)")

    proxy.wait_for_cut()
    assert stored(numbers) == []


def test_a_request_whose_answer_is_lost_has_run(proxy, numbers):
    """
    The cut after the request looks the same to the client, and a retry would do it twice.
    """
    with connect(proxy.url(numbers)) as connection:
        proxy.cut_after(from_server=0)

        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO number VALUES (1)")

    proxy.wait_for_cut()
    assert stored(numbers) == [1]


def test_a_cut_in_the_middle_passes_that_many_bytes(proxy, empty_database):
    """
    Half an answer is neither an answer nor none.
    """
    with connect(proxy.url(empty_database)) as connection:
        before = proxy.bytes_from["server"]
        proxy.cut_after(from_server=100_000)

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT repeat('x', 1000000)")

        proxy.wait_for_cut()
        assert proxy.bytes_from["server"] - before == 100_000


def test_a_refusing_proxy_takes_no_new_connection_and_keeps_the_old(proxy, empty_database):
    """
    A server that is down answers differently from a network that is.
    """
    with connect(proxy.url(empty_database)) as connection:
        proxy.refuse()

        with pytest.raises(psycopg.OperationalError, match="refused"):
            connect(proxy.url(empty_database))
        connection.execute("SELECT 1")

        proxy.accept()
        connect(proxy.url(empty_database)).close()


def test_a_stalled_proxy_delivers_late_what_was_sent(proxy, numbers):
    """
    A hung network loses nothing; it only keeps the client waiting.
    """
    with connect(proxy.url(numbers)) as connection:
        proxy.stall("server")
        worker = threading.Thread(target=connection.execute, args=("INSERT INTO number VALUES (1)",))
        worker.start()
        worker.join(0.3)
        assert worker.is_alive()
        assert stored(numbers) == [1]

        proxy.resume()

        worker.join(10)
        assert not worker.is_alive()


def test_pgbouncer_gives_successive_transactions_different_connections(pgbouncer, empty_database):
    """
    What rests on the session must fail here at once.
    """
    with (
        connect(pgbouncer.url(empty_database), prepare_threshold=None) as mine,
        connect(pgbouncer.url(empty_database), prepare_threshold=None) as theirs,
    ):
        with mine.transaction(), theirs.transaction():
            theirs.execute("SELECT 1")
            mine.execute("SELECT 1")
        pids = {mine.execute("SELECT pg_backend_pid()").fetchone() for _ in range(4)}

    assert len(pids) == 2


class Doubler:
    """An operation with both forms, and an iterator with both."""

    def __call__(self, n):
        return 2 * n

    async def aio(self, n):
        return 2 * n

    def __iter__(self):
        return iter([1, 2, 3])

    async def __aiter__(self):
        for n in (1, 2, 3):
            yield n


@pytest.mark.parametrize("form", ["blocking", "aio"])
def test_call_uses_the_form_it_is_named_after(form):
    """
    Both forms of a test must not turn out to be one.
    """
    call = Call(form)

    assert call(Doubler(), 2) == 4
    assert call.iterate(Doubler()) == [1, 2, 3]
    assert call.iterate(Doubler(), items_max=2) == [1, 2]

    call.close()
