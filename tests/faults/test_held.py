"""What a mount of a Volume has changed, where its commit loses the connection: committed once, or all as it was before."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import psycopg
import pytest

import pgstore
from pgstore import Volume, connection, errors
from pgstore.client import executor
from pgstore.core.operation import Commit
from pgstore.fs.model import ROOT
from pgstore.fs.retention.collection import Collection
from tests.fixtures.nodes import HeldFiles
from tests.fixtures.trees import assert_sound, content

LARGE = os.urandom(300_000)


@pytest.fixture
def client(own_database, proxy, monkeypatch):
    """A client whose connections all lead through the proxy, and are looked at before every use."""
    monkeypatch.setattr(connection.blocking, "_FRESH_SECONDS", -1.0)
    client = pgstore.Client(proxy.url(own_database))
    yield client
    client.close()


@pytest.fixture
def volume(client, own_database):
    volume = Volume.persist("v", client=client).hydrate()
    yield volume
    assert_sound(own_database, volume)


@pytest.fixture
def held(volume):
    held = HeldFiles(volume)
    held.write(held.file(b"old"), b"old")
    held.commit()
    return held


def change(held):
    """Changes that cannot be made twice: a rename, a removal, contents that belong to the session."""
    held.rename(ROOT, b"old", ROOT, b"renamed")
    held.write(held.file(b"large", held.directory(b"d")), LARGE)


EXPECTED = {b"d": {b"large": LARGE}, b"renamed": b"old"}


def test_a_commit_during_which_the_connection_breaks_is_done_once(held, volume, proxy):
    """
    Wherever it breaks: after an error all is as it was, and the next one makes the version, unless that was done.
    """
    rng = random.Random(1)
    for turn in range(12):
        change(held)
        proxy.cut_after(**{rng.choice(["from_client", "from_server"]): rng.randrange(0, 4000)})
        with contextlib.suppress(errors.StoreUnavailable, errors.TransactionFailed):
            held.commit()
        assert held.tree() == EXPECTED
        held.commit()

        assert [each.version for each in volume.versions(limit=1)] == [2 + 2 * turn]
        assert held.tree() == EXPECTED
        assert content(volume, "d/large") == LARGE
        held.remove(held.look_up(ROOT, b"d").ino, b"large")
        held.remove_directory(ROOT, b"d")
        held.rename(ROOT, b"renamed", ROOT, b"old")
        held.commit()


def before_commit(operation, call):
    """*operation*, with *call* made when all but the COMMIT has been sent."""
    result, failure = None, None
    while True:
        try:
            request = operation.send(result) if failure is None else operation.throw(failure)
        except StopIteration as done:
            return done.value
        if isinstance(request, Commit):
            call()
        result, failure = None, None
        try:
            result = yield request
        except Exception as exc:
            failure = exc


@pytest.mark.parametrize("arrives", [True, False])
def test_a_commit_whose_outcome_is_unknown_is_found_out_later(held, volume, client, proxy, monkeypatch, arrives):
    """
    While the server cannot be asked all stays as it was. It is asked before anything is committed again.
    """

    def no_answer(*_):
        raise errors.TimedOut("nobody answers")
        yield

    change(held)
    with monkeypatch.context() as patch, pytest.raises(errors.StoreUnavailable):
        patch.setattr(executor.Executor, "outcome", no_answer)
        cut = partial(proxy.cut_after, from_server=0) if arrives else partial(proxy.cut_after, from_client=0)
        client.run(before_commit(held.held.commit(), cut))
    assert held.tree() == EXPECTED
    held.write(held.file(b"later"), b"later")

    assert held.commit() == (3 if arrives else 2)

    assert held.tree() == {**EXPECTED, b"later": b"later"}
    assert len(volume.versions()) == (3 if arrives else 2)
    held.reload()
    assert held.tree() == {**EXPECTED, b"later": b"later"}
    assert held.commit() is None


KILLED = """
import sys
import pgstore
from pgstore.fs.model import ROOT
from tests.fixtures.nodes import HeldFiles

with pgstore.Client(sys.argv[1]) as client:
    held = HeldFiles(pgstore.Volume.from_name("v", client=client))
    held.write(held.file(b"f"), bytes(range(256)) * 2000)
    for number in range(3000):
        held.file(b"%d" % number)
    print("ready", flush=True)
    held.commit()
    sys.stdin.read()
"""


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_of_a_killed_process_all_is_committed_or_nothing_is_left(own_database, delay):
    with pgstore.Client(own_database) as client:
        volume = Volume.persist("v", client=client).hydrate()
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, own_database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(delay)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        with psycopg.connect(own_database, autocommit=True) as sql:
            sql.execute("UPDATE pgstore.session SET heartbeat_at = '-infinity' WHERE pid = %s", [process.pid])
            store_id = int(volume.object_id[3:])
            client.run(Collection(store_id, grace_seconds=0.0).run())

            count = len(volume.listdir("/"))
            assert count in (0, 3001)
            rows = sql.execute("SELECT count(*) FROM pgstore.blob WHERE store_id = %s", [store_id]).fetchone()
            assert rows == (1 if count else 0,)
            rows = sql.execute("SELECT count(*) FROM pgstore.inode WHERE store_id = %s", [store_id]).fetchone()
            assert rows is not None
            assert rows[0] in ((3002, 3003) if count else (1,))
        assert_sound(own_database, volume)
