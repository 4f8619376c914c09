"""`pgstore top`: what a sample says, that it comes from everywhere, and that the terminal is as it was afterwards."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace

import psycopg
import pytest
from rich.console import Console

import pgstore
from pgstore import errors, migrate
from pgstore.admin import live as live_module
from pgstore.admin import live_sql
from pgstore.admin.live import Live
from pgstore.admin.slow_statements import SlowStatements
from pgstore.cli import top_view
from pgstore.cli.sampler import Sampler
from pgstore.cli.terminal import Keys
from pgstore.cli.top import _page
from pgstore.core import clock
from tests.fixtures.terminal import terminal

BUSY = "busy.1"


@pytest.fixture
def filled(own_database):
    """A database with something of each kind in it, analyzed."""
    with pgstore.Client(own_database) as client:
        queue = pgstore.Queue.persist(BUSY, client=client)
        queue.put_many(list(range(5)))
        queue.put_many(["a", "b"], partition="other")
        pgstore.Queue.persist("empty", environment_name="staging", client=client).hydrate()
        pgstore.Dict.persist("cache", client=client).update({str(n): n for n in range(300)})
        pgstore.Dict.persist("small", client=client)["a"] = 1
        pgstore.Volume.persist("models", client=client).put_file(io.BytesIO(b"x" * 100_000), "/weights")
        pgstore.NetworkFileSystem.persist("shared", client=client).put_file(io.BytesIO(b"y"), "/notes")
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("ANALYZE")
    return own_database


def test_a_sample_tells_what_is_there(filled):
    """
    Queues are counted where they are short, dicts and files estimated from the statistics of the server.
    """
    with pgstore.Client(filled) as client:
        sample = Live(client).sample()

    queues = {(each.environment, each.name): each for each in sample.queues}
    busy, empty = queues["main", BUSY], queues["staging", "empty"]
    assert (busy.depth, busy.depth_is_estimate, empty.depth) == (7, False, 0)
    assert busy.oldest_seconds is not None
    assert 0 <= busy.oldest_seconds < 60
    assert empty.oldest_seconds is None
    dicts = {each.name: each.entries for each in sample.dicts}
    assert dicts == {"cache": 300, "small": 1}
    files = {each.name: each for each in sample.files}
    assert files["models"].version == 1
    assert files["models"].size_bytes
    assert files["models"].committed_at is not None
    assert files["shared"].version is None
    assert sample.server.connections_max >= sample.server.connections >= 0
    assert sample.seconds is None


def test_an_empty_database_has_nothing_and_not_less(own_database):
    """
    For what was never analyzed PostgreSQL's number of rows is -1.
    """
    with pgstore.Client(own_database) as client:
        sample = Live(client).sample()

    assert (sample.totals.queue_items, sample.totals.dict_entries) == (0, 0)


def test_one_environment_can_be_watched(filled):
    """
    Of several teams each looks at its own.
    """
    with pgstore.Client(filled) as client:
        sample = Live(client, "staging").sample()

    assert [each.name for each in sample.queues] == ["empty"]
    assert sample.dicts == []


def test_leased_delayed_and_dead_items_are_told_apart(filled):
    """
    Depth is what can be taken now.
    """
    with pgstore.Client(filled) as client:
        queue = pgstore.Queue.persist("work", client=client, max_attempts=1)
        queue.put_many([1, 2, 3])
        queue.put("later", delay=3600)
        queue.get(lease=60).nack(reason="broken")
        held = queue.get(lease=60)

        (work,) = [each for each in Live(client).sample().queues if each.name == "work"]

        held.ack()
    assert (work.depth, work.leased, work.delayed, work.dead) == (1, 1, 1, 1)


def test_a_long_queue_is_estimated_and_not_counted(filled):
    """
    Counting takes as long as a queue is long.
    """
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO pgstore.queue_item (store_id, payload) "
            "SELECT s.id, '\\x80' FROM pgstore.store s, generate_series(1, 3000) WHERE s.name = %s",
            [BUSY],
        )
    with psycopg.connect(filled, autocommit=True) as connection:  # another, for the first has now told what it inserted
        connection.execute("ANALYZE")
    with pgstore.Client(filled) as client:
        (busy,) = [each for each in Live(client).sample().queues if each.name == BUSY]

    assert busy.depth_is_estimate
    assert busy.depth is not None
    assert 2900 <= busy.depth <= 3100
    assert live_sql.COUNTED_MAX < 2900


def test_rates_are_those_between_two_samples(filled, monkeypatch):
    """
    Gets are known when clients tell them; puts follow from what is there then.
    """
    now = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    with pgstore.Client(filled) as client:
        live = Live(client)
        live.sample()
        with pgstore.Client(filled) as other:
            queue = pgstore.Queue.persist(BUSY, client=other)
            queue.put_many(list(range(20)))
            queue.get_many(6)
        now[0] += 10

        sample = live.sample()

    (busy,) = [each for each in sample.queues if each.name == BUSY]
    assert (busy.depth, busy.puts_per_second, busy.gets_per_second) == (21, 2.0, 0.6)
    assert sample.seconds == 10


def test_who_waits_is_counted(filled):
    """
    Workers that are not there are the first thing to look for when a queue grows.
    """
    with pgstore.Client(filled) as client, pgstore.Client(filled) as waiting:
        queue = pgstore.Queue.persist("awaited", client=waiting)
        getting = threading.Thread(target=queue.get)
        getting.start()
        live = Live(client)
        deadline = time.monotonic() + 30
        while not [each for each in live.sample().queues if each.name == "awaited" and each.waiters == 1]:
            assert time.monotonic() < deadline
        pgstore.Queue.from_name("awaited", client=client).put(1)
        getting.join()


def test_a_sample_goes_on_for_as_many_queues_as_there_is_credit_for(filled, monkeypatch):
    """
    What it costs the server is bounded, however many queues there are; each has its turn.
    """
    monkeypatch.setattr(live_module, "CREDIT_SECONDS_MAX", 1e-9)
    monkeypatch.setattr(live_module, "BATCH_MAX", 2)
    monkeypatch.setattr(live_module, "BATCH_MIN", 1)
    now = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    with pgstore.Client(filled) as client:
        live = Live(client)
        first = live.sample()
        now[0] += 3600
        second = live.sample()

    assert first.not_looked_into == 1
    assert second.not_looked_into == 0


def test_a_role_that_may_only_read_can_watch(filled):
    """
    Operators have no more rights than they need.
    """
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS top_reader")
        connection.execute("CREATE ROLE top_reader LOGIN IN ROLE pgstore_reader")
    try:
        with pgstore.Client(filled.replace("postgres@", "top_reader@"), auto_migrate=False) as client:
            live = Live(client)
            live.sample()
            sample = live.sample()
    finally:
        with psycopg.connect(filled, autocommit=True) as connection:
            connection.execute("DROP ROLE top_reader")

    assert {each.name: each.entries for each in sample.dicts} == {"cache": 300, "small": 1}
    assert sample.server.login == "top_reader"


def test_a_pooler_in_transaction_mode_does(filled, pgbouncer):
    """
    Nothing of it rests on the session.
    """
    with pgstore.Client(pgbouncer.url(filled), auto_migrate=False) as client:
        live = Live(client)
        samples = [live.sample() for _ in range(5)]

    assert {each.depth for sample in samples for each in sample.queues if each.name == BUSY} == {7}


def test_slow_statements_or_why_there_are_none(filled):
    """
    An empty place would say that nothing is slow.
    """
    with pgstore.Client(filled) as client:
        sample = Live(client).sample()

    assert sample.statements == []
    assert "pg_stat_statements is not installed" in (sample.statements_missing or "")


def test_statements_are_compared_with_the_look_before(filled):
    """
    What was slow a week ago is not what is slow.
    """
    with psycopg.connect(filled, autocommit=True) as connection:
        # The counters as the extension has them: its library has to be loaded when a server starts.
        connection.execute("CREATE SCHEMA stats")
        connection.execute(
            "CREATE TABLE stats.counted (queryid bigint, calls bigint, total_exec_time float8, query text, dbid oid)"
        )
        connection.execute(
            "CREATE FUNCTION stats.pg_stat_statements(boolean) RETURNS SETOF stats.counted "
            "LANGUAGE sql AS 'SELECT * FROM stats.counted'"
        )
        connection.execute(
            "INSERT INTO stats.counted SELECT n, 10, 100, 'SELECT ' || n, oid FROM pg_database, generate_series(1, 2) AS n "
            "WHERE datname = current_database()"
        )
        with pgstore.Client(filled) as client:
            statements = SlowStatements(client)
            statements._read_from("stats", may_see_all=True)
            first = statements.busiest(0.0)
            connection.execute("UPDATE stats.counted SET calls = 30, total_exec_time = 1100 WHERE queryid = 2")
            second = statements.busiest(10.0)

    assert [each.query for each in first] == ["SELECT 2", "SELECT 1"]
    assert [(each.query, each.calls_per_second, each.milliseconds_per_call, each.share) for each in second] == [
        ("SELECT 2", 2.0, 50.0, 0.1)
    ]


def test_a_schema_that_goes_and_comes_back_is_watched_again(filled):
    """
    As when a backup is restored while somebody watches.
    """
    sampler = Sampler(filled, None, 1.0)
    sampler.sample()
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("DROP SCHEMA pgstore CASCADE")

        with pytest.raises(errors.Error):
            sampler.sample()

    migrate.upgrade(filled)
    assert sampler.sample().queues == []
    sampler.close()


# --- the screen -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sample(filled):
    with pgstore.Client(filled) as client:
        return Live(client).sample()


def test_lines_fit_any_terminal(sample):
    """
    What is folded pushes the rest out of sight.
    """
    for width in (1, 10, 20, 40, 79, 200):
        for height in (1, 5, 10, 24, 60):
            lines = top_view.lines(sample, top_view.History(), width=width, height=height, message="lost " * 50)
            assert len(lines) <= height
            assert max(len(line.text) for line in lines) <= width


def test_narrow_terminals_keep_name_and_depth(sample):
    """
    The columns that matter least go first.
    """
    (title,) = [
        line.text for line in top_view.lines(sample, top_view.History(), width=40) if line.text.startswith("QUEUE")
    ]

    assert "depth" in title
    assert "delayed" not in title


def test_no_text_of_others_is_a_command_to_the_terminal(sample):
    """
    Statements and host names are what somebody else wrote.
    """
    statement = pgstore.admin.live_model.SlowStatement("SELECT '\x1b[2J'", 1.0, 1.0, 0.1)
    lines = top_view.lines(replace(sample, statements=[statement]), top_view.History())

    assert any("SELECT '·[2J'" in line.text for line in lines)


def test_sparklines_grow_with_their_values(sample):
    """
    From nothing to the most of them.
    """
    history = top_view.History()
    for depth in (0, 5, 10):
        history.add(replace(sample, queues=[replace(sample.queues[0], depth=depth)]))

    line = history.sparkline(sample.queues[0].store_id, 3)
    assert line in ("▁▅█", "▁▄█", "_+#", "_=#", "_*#")


def test_a_server_that_is_lost_is_tried_again_and_said_to_be_lost(sample):
    """
    The last that was known stays on the screen.
    """
    sampler = Sampler("postgresql://me@127.0.0.1:1/app", None, 0.01)
    sampler.latest = sample
    with open(os.devnull, "rb") as nothing:
        woken = Keys(nothing.fileno())
        sampling = threading.Thread(target=sampler.run, args=[woken])
        sampling.start()
        deadline = time.monotonic() + 30
        while sampler.lost_at is None:
            assert time.monotonic() < deadline
        sampler.end()
        sampling.join()
        woken.close()

    page = _page(sampler, top_view.History(), Console(width=150, height=30), "depth").plain

    assert "lost 0 s ago, trying again: cannot reach the server at me@127.0.0.1:1/app" in page
    assert BUSY in page


# --- at a terminal ----------------------------------------------------------------------------------------------------


def watching(url, *options, columns=100, rows=40):
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG", "DATABASE"))}
    environ |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    for name in ("COLUMNS", "LINES"):  # which would be believed more than the terminal
        environ.pop(name, None)
    command = [sys.executable, "-m", "pgstore", "--url", url, "top", "--interval", "0.2", *options]
    return terminal(command, rows=rows, columns=columns, env=environ)


def test_the_screen_follows_the_terminal_the_keys_and_the_server(filled, proxy):
    """
    Whoever watches through a restart sees that, and then goes on seeing.
    """
    with watching(proxy.url(filled)) as screen:
        shown = screen.read_until("q quit")
        assert "delayed" in shown
        assert "▁" in shown or "█" in shown
        screen.resize(30, 40)
        while "delayed" in screen.read_until("q quit").rpartition("pgstore top")[2]:
            pass  # drawn before
        screen.type("s")
        screen.read_until("queues: rate")
        proxy.refuse()
        proxy.cut()
        screen.read_until("no answer for ")
        proxy.accept()
        shown = screen.read_until("QUEUE")
        while "no answer" in shown.rpartition("pgstore top")[2]:
            shown = screen.read_until("q quit")
        screen.type("q")

        code, shown = screen.end()

        assert code == 0
        assert "\x1b[?1049l" in shown, "the screen of before is not back"
        assert "\x1b[?25h" in shown, "the cursor is not back"
        assert termios.tcgetattr(screen.descriptor) == screen.modes


def test_a_server_that_is_silent_keeps_no_key_from_being_heard(filled, proxy):
    """
    What is shown is old then, and is said to be.
    """
    with watching(proxy.url(filled)) as screen:
        screen.read_until("q quit")
        proxy.stall()
        screen.read_until("no answer for ")
        screen.type("q")

        code, shown = screen.end()

        assert code == 0
        assert "Traceback" not in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_the_terminal_is_put_back_when_a_signal_ends_it(filled, number, code):
    """
    A shell without echo is of no use.
    """
    with watching(filled) as screen:
        screen.read_until("q quit")
        screen.process.send_signal(number)

        found, shown = screen.end()

        assert found == code
        assert "Traceback" not in shown
        assert "\x1b[?1049l" in shown
        assert termios.tcgetattr(screen.descriptor) == screen.modes


def run(url, *options):
    return subprocess.run(
        [sys.executable, "-m", "pgstore", "--url", url, "top", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_off_a_terminal_one_sample_is_printed(filled):
    """
    For scripts: as lines, or as JSON.
    """
    lines = run(filled, "--interval", "0.2")
    told = run(filled, "--interval", "0.2", "--json")

    assert (lines.returncode, lines.stderr) == (0, "")
    assert BUSY in lines.stdout
    sample = json.loads(told.stdout)
    assert {each["name"]: each["depth"] for each in sample["queues"]} == {BUSY: 7, "empty": 0}
    assert sample["seconds"] > 0.1
