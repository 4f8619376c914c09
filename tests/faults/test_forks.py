"""Forked processes: the child has connections of its own, and leaves the parent's alone, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

import pytest

import pgstore
from pgstore.client import session
from tests.faults.conftest import Background, Eye, until

# Python 3.12 warns about every fork of a process that has threads, and pytest's has some.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def client(own_database):
    client = pgstore.Client(own_database)
    yield client
    client.close()


def in_child(function):
    """Run *function* in a forked child, which ends as a script does; return its exit status, 0 if all went well."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            signal.alarm(30)
            function()
            status = 0
        except SystemExit as exc:
            status = 0 if exc.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_block(block, function):
    """Call *function* as if it stood in the `with` *block*, which was entered by the parent; return an exit status."""
    status = 70
    try:
        signal.alarm(30)
        try:
            function()
        finally:
            block.__exit__(*sys.exc_info())
    except SystemExit:
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    return status


def backend(client):
    with client.transaction() as tx:
        return tx.connection.execute("SELECT pg_backend_pid()").fetchone()[0]


def test_a_child_has_a_connection_of_its_own_and_the_parent_keeps_its(client):
    """
    Two processes on one socket read each other's answers.
    """
    entries = pgstore.Dict.persist("entries", client=client)
    entries["parent"] = mine = backend(client)

    def child():
        assert entries["parent"] == mine
        entries["child"] = backend(client)
        client.close()

    assert in_child(child) == 0
    assert entries["child"] != mine
    assert backend(client) == mine


def test_a_child_that_exits_inside_the_parents_transaction_does_not_end_it(client):
    """
    Leaving the block in the child would send ROLLBACK on the parent's connection.
    """
    entries = pgstore.Dict.persist("entries", client=client)
    entries["k"] = 0

    def child():
        with client.transaction():
            entries["child"] = 1
        assert entries["k"] == 0  # outside of the parent's transaction

    with client.transaction() as tx:
        entries["k"] = 1
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(30)
                with pytest.raises(pgstore.TransactionScopeError, match="forked"):
                    entries.using(tx).get("k")
                child()
                tx.__exit__(SystemExit, SystemExit(), None)
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(70)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        entries["l"] = 1
        with client.transaction():
            assert in_child(lambda: entries.get("k")) == 0
            entries["m"] = 1

    assert entries.items() == [("child", 1), ("k", 1), ("l", 1), ("m", 1)]


def _work(name, url):
    # The client is the parent's, by the fork.
    assert pgstore.default_client().settings.url == url
    entries = pgstore.Dict.persist(name)
    entries["pid"] = os.getpid()
    with pgstore.transaction():
        entries["tx"] = 1


def test_multiprocessing_by_fork_works(own_database, monkeypatch):
    monkeypatch.setattr("pgstore.client.default._default", None)
    with pgstore.configure(own_database):
        entries = pgstore.Dict.persist("entries")
        entries["k"] = 1
        with pgstore.transaction():
            entries["k"] = 2
            process = multiprocessing.get_context("fork").Process(target=_work, args=("entries", own_database))
            process.start()
            process.join(60)
            assert process.exitcode == 0
        assert entries["k"] == 2
        assert entries["pid"] == process.pid


@pytest.mark.parametrize("ending", ["return", "sys.exit", "collected"])
def test_ephemeral_stores_of_the_parent_survive_the_child(client, ending):
    with pgstore.Queue.ephemeral(client=client) as queue:
        queue.put("item")

        def child():
            nonlocal queue
            assert queue.len() == 1
            if ending == "collected":
                del queue
            if ending == "sys.exit":
                queue.__exit__(SystemExit, SystemExit(), None)
                sys.exit()
            client.close()
            pgstore.client.client._at_exit()

        assert in_child(child) == 0
        assert queue.get() == "item"


def test_a_child_makes_ephemeral_stores_of_its_own_which_go_with_it(client, eye):
    with pgstore.Queue.ephemeral(client=client) as queue:

        def child():
            with pgstore.Queue.ephemeral(client=client) as mine:
                mine.put("item")
                assert mine.get() == "item"
            client.close()

        assert in_child(child) == 0
        assert eye.value("SELECT count(*) FROM pgstore.store WHERE name IS NULL") == 1
        assert queue.len() == 0


def test_a_child_that_exits_inside_the_parents_lock_leaves_it_to_the_parent_who_goes_on_renewing(client, own_database):
    entries = pgstore.Dict.persist("entries", client=client).hydrate()

    def child():
        sys.exit()

    with entries.lock("k", ttl=0.5) as lock:
        pid = os.fork()
        if pid == 0:
            os._exit(in_block(lock, child))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pgstore.Client(own_database) as other, pytest.raises(pgstore.errors.LockTimeout):
            pgstore.Dict.from_name("entries", client=other).lock("k", timeout=1).acquire()


def test_a_child_that_exits_inside_the_parents_lease_leaves_the_item_to_the_parent(client):
    """
    The work is the parent's: it is neither done nor has it failed.
    """
    queue = pgstore.Queue.persist("queue", client=client).hydrate()
    for failure in (None, LookupError):
        queue.put("item")

        def child(failure=failure):
            if failure is not None:
                raise failure

        with queue.get(lease=60) as lease:
            pid = os.fork()
            if pid == 0:
                os._exit(in_block(lease, child))
            os.waitpid(pid, 0)
            assert queue.len() == 0
            lease.extend(60)
        assert queue.len() == 0


def test_a_child_renews_its_own_lock_and_writes_heartbeats_of_its_own(client, own_database, monkeypatch):
    """
    The threads that do it for the parent are not in the child.
    """
    monkeypatch.setattr(session, "BEAT_SECONDS", 0.05)
    entries = pgstore.Dict.persist("entries", client=client).hydrate()
    pgstore.Dict.ephemeral(client=client).hydrate()

    def child():
        eye = Eye(own_database)
        pgstore.Dict.ephemeral(client=client).hydrate()
        mine = client.session.id
        heartbeat = f"SELECT heartbeat_at FROM pgstore.session WHERE id = {mine}"
        before = eye.value(heartbeat)
        until(lambda: eye.value(heartbeat) > before)
        with entries.lock("child", ttl=0.5):
            taken = eye.value("SELECT expires_at FROM pgstore.dict_lock WHERE key = 'child'")
            until(lambda: eye.value("SELECT expires_at FROM pgstore.dict_lock WHERE key = 'child'") > taken)
        eye.close()
        client.close()

    with entries.lock("parent", ttl=0.5):
        assert in_child(child) == 0


def test_a_child_can_wait_and_so_can_the_parent_after_it(client, own_database):
    """
    The listening thread does not exist in the child, and its connection is not the child's.
    """
    queue = pgstore.Queue.persist("queue", client=client)
    with pytest.raises(pgstore.errors.QueueEmpty):
        queue.get(timeout=0.05)

    def child():
        with pytest.raises(pgstore.errors.QueueEmpty):
            queue.get(timeout=0.05)
        client.close()

    assert in_child(child) == 0
    eye = Eye(own_database)
    getting = Background(queue.get)
    until(eye.waiting)
    queue.put("item")
    assert getting.result() == "item"
    eye.close()


def test_a_fork_from_a_running_event_loop_leaves_its_connections_alone(client):
    import asyncio

    entries = pgstore.Dict.persist("entries", client=client)

    async def main():
        async with client.transaction():
            await entries.put.aio("k", 1)
            assert in_child(lambda: entries.put("child", 1)) == 0
            await entries.put.aio("l", 1)
        return await entries.get.aio("k")

    assert asyncio.run(main()) == 1
    assert entries.keys() == ["child", "k", "l"]


def test_what_the_parent_has_taken_is_told_by_the_parent_alone(client):
    queue = pgstore.Queue.persist("queue", client=client)
    queue.put_many(range(10))
    queue.get_many(3)
    lease = queue.get(lease=60, renew=True)

    def child():
        queue.get()
        lease.extend()
        client.close()

    assert in_child(child) == 0
    lease.ack()
    client.close()

    with client.transaction() as tx:
        counts = tx.connection.execute("SELECT puts, gets, depth FROM pgstore.queue_stats").fetchone()
    assert counts == (10, 5, 5)
