"""Many threads and tasks on few connections: everybody gets a turn, nobody gets another's connection, nothing is left behind."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import gc
import os
import signal
import threading
import time
from functools import partial

import psycopg
import pytest

import pgstore
from pgstore import connection
from pgstore.client import client as client_module
from pgstore.connection import base, pool
from pgstore.core import limit
from pgstore.errors import StoreUnavailable
from tests.faults.conftest import Background, until


def named(url, name):
    return f"{url}?application_name={name}"


def backends(eye, name):
    return eye.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", name)


@pytest.fixture
def only(own_database):
    """A client with at most three connections."""
    with pgstore.Client(named(own_database, "only"), connections_max=3) as client:
        yield client


@pytest.fixture
def held_once(monkeypatch):
    """Watches that no connection is used by two threads at once."""
    holders: dict[int, int] = {}
    original = connection.BlockingConnection.execute

    def execute(self, query):
        thread = threading.get_ident()
        assert holders.setdefault(id(self), thread) == thread, "a connection has two holders"
        try:
            return original(self, query)
        finally:
            del holders[id(self)]

    monkeypatch.setattr(connection.BlockingConnection, "execute", execute)


def test_thirty_threads_share_five_connections_and_all_finish(own_database, eye, held_once):
    """
    With calls and transactions mixed, no thread starves and none gets a connection that another one is using.
    """
    most = 0
    with pgstore.Client(named(own_database, "crowd"), connections_max=5) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries.hydrate()

        def work(number):
            for step in range(20):
                if step % 3:
                    entries[number] = step
                    assert entries[number] == step
                else:
                    with client.transaction():
                        entries[number, "tx"] = step
                        assert entries[number, "tx"] == step

        crowd = [Background(work, number) for number in range(30)]
        while any(each.running for each in crowd):
            most = max(most, backends(eye, "crowd"))
        for each in crowd:
            each.result()

        assert entries.len() == 60
    assert 2 <= most <= 5
    until(lambda: not backends(eye, "crowd"))


def test_a_busy_thread_does_not_keep_the_others_out(own_database):
    """
    A thread in a tight loop has its connection back before a waiting thread has woken up, unless there is a queue.
    """
    with pgstore.Client(own_database, connections_max=1) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        turns: collections.Counter[int] = collections.Counter()
        stop = threading.Event()

        def hammer(number):
            while not stop.is_set():
                entries.get("k")
                turns[number] += 1

        hammers = [Background(hammer, number) for number in range(4)]
        until(lambda: sum(turns.values()) > 400)
        stop.set()
        for each in hammers:
            each.result()

        assert min(turns[number] for number in range(4)) > 20, turns


def test_a_busy_task_does_not_keep_the_others_out(own_database):
    client = pgstore.Client(own_database, connections_max=1)
    turns: collections.Counter[int] = collections.Counter()

    async def main():
        entries = pgstore.Dict.persist("entries", client=client)
        await entries.put.aio("k", 1)

        async def hammer(number):
            while sum(turns.values()) < 400:
                await entries.get.aio("k")
                turns[number] += 1

        await asyncio.gather(*(hammer(number) for number in range(4)))

    asyncio.run(main())

    assert min(turns[number] for number in range(4)) > 80, turns


def test_a_hundred_tasks_share_three_connections_and_all_finish(only, eye):
    most = 0

    async def main():
        nonlocal most
        entries = pgstore.Dict.persist("entries", client=only)
        await entries.hydrate.aio()

        async def work(number):
            await entries.put.aio(number, number)
            async with only.transaction():
                await entries.put.aio((number, "tx"), number)
                assert await entries.get.aio(number) == number

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(work(number))
        most = backends(eye, "only")
        return await entries.len.aio()

    assert asyncio.run(main()) == 200
    assert 3 <= most <= 3 + 2  # two more for what must go on while these are busy
    until(lambda: not backends(eye, "only"))


def test_a_cancelled_wait_for_a_connection_passes_its_turn_on(own_database):
    """
    A turn that came to a task that is gone would be lost for all.
    """
    client = pgstore.Client(own_database, connections_max=1)

    async def main():
        entries = pgstore.Dict.persist("entries", client=client)
        await entries.put.aio("k", 1)
        async with client.transaction():
            await entries.get.aio("k")
            # Each in a context of its own: else they would be inside the transaction.
            waiting = [_apart(entries.get.aio("k")) for _ in range(6)]
            await asyncio.sleep(0)
            for task in waiting[:3]:
                task.cancel()
        waiting[3].cancel()  # its turn has just come
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert results[4:] == [1, 1]
        assert await entries.get.aio("k") == 1

    asyncio.run(main())


def _apart(coroutine):
    return contextvars.Context().run(asyncio.ensure_future, coroutine)


def test_a_thread_that_ends_gives_its_connection_up(only, eye):
    """
    Programs that start a thread per request must not need a connection per request.
    """
    entries = pgstore.Dict.persist("entries", client=only)
    for number in range(10):
        Background(entries.put, number, number).result()
        gc.collect()

    assert backends(eye, "only") <= 3
    assert entries.len() == 10


def test_threads_that_hold_transactions_are_waited_for_and_then_explained(own_database, monkeypatch):
    """
    A thread that waits for its own second connection would wait for ever.
    """
    monkeypatch.setattr(pool, "ACQUIRE_SECONDS", 0.3)
    monkeypatch.setattr("pgstore.client.client._RETRIES", 2)  # each waits as long
    with pgstore.Client(own_database, connections_max=1) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        with client.transaction():
            entries["k"] = 2
            with pytest.raises(StoreUnavailable, match="connections_max"):
                Background(client.run_transaction, partial(entries.get, "k")).result()
        assert entries["k"] == 2


def test_tasks_that_hold_transactions_are_waited_for_and_then_explained(own_database, monkeypatch):
    monkeypatch.setattr(pool, "ACQUIRE_SECONDS", 0.3)
    monkeypatch.setattr("pgstore.client.client._RETRIES", 2)  # each waits as long
    client = pgstore.Client(own_database, connections_max=1)

    async def main():
        entries = pgstore.Dict.persist("entries", client=client)
        await entries.put.aio("k", 1)
        async with client.transaction():
            await entries.put.aio("k", 2)
            with pytest.raises(StoreUnavailable, match="connections_max"):
                await _apart(client.run_transaction_async(partial(entries.get.aio, "k")))
        assert await entries.get.aio("k") == 2

    asyncio.run(main())


def test_threads_that_start_a_session_at_once_share_one(own_database, eye, monkeypatch):
    """
    A store of the other one would be swept after ten minutes under its owner's hands: nobody beats for it.
    """
    together = threading.Barrier(3)

    def gethostname():
        together.wait(30)
        return "host"

    monkeypatch.setattr("socket.gethostname", gethostname)
    with pgstore.Client(own_database) as client:
        queues = [pgstore.Queue.ephemeral(client=client) for _ in range(3)]
        crowd = [Background(queue.put, 1) for queue in queues]
        for each in crowd:
            each.result()

        assert eye.value("SELECT count(*) FROM pgstore.session") == 1
        assert eye.value("SELECT count(*) FROM pgstore.store JOIN pgstore.session s ON s.id = session_id") == 3


def test_a_failed_connection_does_not_count(own_database, proxy):
    """
    A server that was down for a while must not leave the client with fewer connections than before.
    """
    with pgstore.Client(proxy.url(own_database), connections_max=1) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        proxy.refuse()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                entries.get("k")
        proxy.accept()
        entries["k"] = 1
        assert entries["k"] == 1


def test_idle_connections_are_closed(own_database, eye, monkeypatch):
    with pgstore.Client(named(own_database, "idle")) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        assert backends(eye, "idle") == 1

        client._blocking.pool.close_idle()
        assert backends(eye, "idle") == 1
        monkeypatch.setattr(pool, "IDLE_SECONDS", -1.0)
        client._blocking.pool.close_idle()
        until(lambda: not backends(eye, "idle"))

        assert entries["k"] == 1


# --------------------------------------------------------------------------------------------------------- event loops


def test_several_event_loops_one_after_another_use_one_client(only, eye):
    """
    `asyncio.run` for every piece of work is what many programs do; each closes its connections as it ends.
    """

    async def work(number):
        queue = pgstore.Queue.persist("queue", client=only)
        await queue.put.aio(number)
        taken = await queue.get.aio()
        with pytest.raises(pgstore.errors.QueueEmpty):
            await queue.get.aio(timeout=0.05)  # starts listening
        return taken

    for number in range(4):
        assert asyncio.run(work(number)) == number
        until(lambda: not backends(eye, "only"))
    assert not only._loops


def test_a_loop_that_was_closed_without_a_word_costs_nothing(only, eye):
    """
    No warning, no error from a finaliser, and its connections go with the next one that is opened.
    """
    entries = pgstore.Dict.persist("entries", client=only)
    for number in range(4):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(entries.put.aio(number, number))
        loop.close()
        del loop
        gc.collect()
        assert backends(eye, "only") <= 2

    only.close()
    gc.collect()
    until(lambda: not backends(eye, "only"))


# Of a task that the loop was closed before it could begin, as asyncio warns whoever made it.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("steps", [0, 1, 2, 4, 8, 16, 32, 64])
def test_a_loop_that_was_closed_with_work_under_way_costs_nothing(only, eye, steps):
    """
    The tasks are gone in the middle of connecting, of an operation, of a transaction, of a wait: their connections are closed.
    """
    queue = pgstore.Queue.persist("queue", client=only)
    queue.put("item")

    async def hold():
        async with only.transaction():
            await queue.get.aio()
            await asyncio.sleep(3600)

    async def run():
        for _ in range(steps):
            await asyncio.sleep(0.0005)

    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(hold()), loop.create_task(queue.get.aio(partition="none")), loop.create_task(hold())]
    loop.run_until_complete(run())
    for task in [*tasks, *asyncio.all_tasks(loop)]:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own reproach, to the log
    loop.close()
    del tasks, task, loop
    gc.collect()

    assert queue.get(timeout=10) == "item"
    only.close()
    gc.collect()  # a connection that psycopg has not handed over yet
    until(lambda: not backends(eye, "only"))


def test_two_event_loops_in_two_threads_use_one_client(only):
    queue = pgstore.Queue.persist("queue", client=only)
    queue.hydrate()

    async def produce():
        for number in range(50):
            await queue.put.aio(number)

    async def consume():
        return [await queue.get.aio(timeout=20) for _ in range(50)]

    consuming = Background(asyncio.run, consume())
    asyncio.run(produce())

    assert consuming.result() == list(range(50))


# ------------------------------------------------------------------------------------------------------------- closing


def test_a_closed_client_can_be_used_again(call, client, client_elsewhere, store_name):
    entries = pgstore.Dict.persist(store_name, client=client)
    call(entries.put, "k", 1)

    if call.form == "aio":
        call.run(client.aclose())
    client.close()

    assert call(entries.get, "k") == 1


def test_a_client_that_is_closed_under_a_waiting_get_does_not_break_it(own_database):
    with pgstore.Client(own_database) as client, pgstore.Client(own_database) as other:
        getting = Background(pgstore.Queue.persist("queue", client=client).get)
        queue = pgstore.Queue.persist("queue", client=other)
        queue.hydrate()
        time.sleep(0.05)  # it may be anywhere

        client.close()
        queue.put("item")

        assert getting.result() == "item"


def test_threads_that_use_a_client_while_it_is_closed_finish(own_database, eye):
    with pgstore.Client(named(own_database, "closing"), connections_max=3) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries.hydrate()

        def work(number):
            for step in range(30):
                entries[number] = step

        crowd = [Background(work, number) for number in range(6)]
        for _ in range(5):
            client.close()
        for each in crowd:
            each.result()
        assert entries.items() == [(number, 29) for number in range(6)]
    gc.collect()
    until(lambda: not backends(eye, "closing"))


# -------------------------------------------------------------------------------- what must go on while all are busy


def hold_all(client, work, number):
    """Run *work* in as many transactions as *client* has connections, in all at once when each has begun."""
    entries = pgstore.Dict.persist("held", client=client).hydrate()
    begun = threading.Barrier(number)

    def hold(each):
        with client.transaction():
            entries[each] = 1
            begun.wait(30)
            return work(each)

    return [Background(hold, each) for each in range(number)]


def test_locks_in_transactions_of_all_connections_are_taken(only, eye):
    """
    A lock is apart from the transaction, so it wants a connection that no other transaction can hold.
    """
    entries = pgstore.Dict.persist("entries", client=only).hydrate()

    def lock(number):
        with entries.lock(number):
            entries[number] = number
        return backends(eye, "only")

    counts = [each.result(20) for each in hold_all(only, lock, 3)]

    assert max(counts) <= 5
    assert entries.len() == 3


def test_locks_in_transactions_of_all_tasks_are_taken(only):
    async def main():
        entries = pgstore.Dict.persist("entries", client=only)
        await entries.hydrate.aio()
        begun = asyncio.Barrier(3)

        async def work(number):
            async with only.transaction():
                await entries.put.aio(("held", number), 1)
                await begun.wait()
                async with entries.lock(number):
                    await entries.put.aio(number, number)

        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(3))), 20)
        return await entries.len.aio()

    assert asyncio.run(main()) == 6


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_put_comes_through_when_gets_wait_in_transactions_of_all_connections(only, in_transaction):
    """
    They wait for what only this put brings.
    """
    queue = pgstore.Queue.persist("queue", client=only).hydrate()
    waiting = hold_all(only, lambda _: queue.get(timeout=20), 3)
    until(lambda: sum(connection.is_waiting for connection in list(only._blocking.pool._connections)) == 3)

    put = partial(queue.put_many, range(3))
    Background(only.run_transaction, put).result(10) if in_transaction else Background(put).result(10)

    assert sorted(each.result(10) for each in waiting) == [0, 1, 2]


def test_a_put_comes_through_when_gets_of_tasks_wait_in_transactions_of_all_connections(only):
    async def main():
        queue = pgstore.Queue.persist("queue", client=only)
        await queue.hydrate.aio()
        begun = asyncio.Barrier(4)

        async def wait(number):
            async with only.transaction():
                await queue.put.aio(number, partition="held")
                await begun.wait()
                return await queue.get.aio(timeout=20)

        waiting = [asyncio.ensure_future(wait(number)) for number in range(3)]
        await begun.wait()
        await asyncio.wait_for(queue.put_many.aio(range(3)), 10)
        return sorted(await asyncio.wait_for(asyncio.gather(*waiting), 10))

    assert asyncio.run(main()) == [0, 1, 2]


def test_the_last_connection_is_not_waited_on(only):
    """
    Else nobody could put what all of them wait for.
    """
    queue = pgstore.Queue.persist("queue", client=only).hydrate()
    waiting = hold_all(only, lambda _: queue.get(timeout=20), 3)
    until(lambda: sum(connection.is_waiting for connection in list(only._blocking.pool._connections)) == 3)

    def wait_too():
        with only.transaction():
            queue.put("x", partition="other")
            queue.get(timeout=20)

    with pytest.raises(StoreUnavailable, match="must not wait too"):
        Background(wait_too).result(10)
    queue.put_many(range(3))
    assert sorted(each.result(10) for each in waiting) == [0, 1, 2]


def test_leases_are_renewed_while_transactions_hold_all_connections(only, own_database, monkeypatch):
    queue = pgstore.Queue.persist("queue", client=only).hydrate()
    queue.put_many(range(3))
    leases = [queue.get(lease=1, renew=True) for _ in range(3)]
    done = threading.Event()

    def ack(number):
        done.wait(30)
        leases[number].ack()

    working = hold_all(only, ack, 3)
    with pgstore.Client(own_database) as other, pytest.raises(pgstore.errors.QueueEmpty):
        pgstore.Queue.from_name("queue", client=other).get(timeout=2.5)
    done.set()
    for each in working:
        each.result(20)
    assert not any(lease.is_lost for lease in leases)


def test_a_lock_is_renewed_while_transactions_hold_all_connections(only, own_database):
    """
    Its holder cannot see that it has lost it, so whoever comes would work beside it.
    """
    entries = pgstore.Dict.persist("entries", client=only).hydrate()
    done = threading.Event()
    with entries.lock("k", ttl=1):
        working = hold_all(only, lambda _: done.wait(30), 3)
        with pgstore.Client(own_database) as other, pytest.raises(pgstore.errors.LockTimeout):
            pgstore.Dict.from_name("entries", client=other).lock("k", timeout=2.5).acquire()
        done.set()
        for each in working:
            each.result(20)


def test_renewals_go_on_beside_a_server_process_that_has_stopped(own_database, eye, monkeypatch):
    """
    All of them are on one thread, which must not wait for its connection for ever.
    """
    monkeypatch.setattr(client_module, "_URGENT_SECONDS", 0.5)
    monkeypatch.setattr(limit, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(base, "CANCEL_SECONDS", 0.3)
    with pgstore.Client(named(own_database, "stopping")) as client:
        entries = pgstore.Dict.persist("entries", client=client).hydrate()
        renewed_at = "SELECT expires_at FROM pgstore.dict_lock"
        with entries.lock("k", ttl=6):
            first = eye.value(renewed_at)
            until(lambda: eye.value(renewed_at) > first)  # now the thread has a connection
            before, pids = eye.value(renewed_at), eye.backends()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                until(lambda: eye.value(renewed_at) > before, 6)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)


def test_renewals_and_heartbeats_wait_for_nobody_who_has_their_rows_locked(only, own_database, eye):
    """
    One that waited would keep all the others waiting, until they are too late.
    """
    entries = pgstore.Dict.persist("entries", client=only).hydrate()
    pgstore.Dict.ephemeral(client=only).hydrate()
    with psycopg.connect(own_database) as other, entries.lock("free", ttl=1), entries.lock("locked", ttl=1):
        other.execute("SELECT FROM pgstore.dict_lock WHERE key = 'locked' FOR UPDATE")
        other.execute("SELECT FROM pgstore.session FOR UPDATE")
        renewed_at = "SELECT expires_at FROM pgstore.dict_lock WHERE key = 'free'"
        before = eye.value(renewed_at)

        Background(only._run_urgently, only.session._beat_again()).result(3)
        until(lambda: eye.value(renewed_at) > before, 3)

        other.rollback()
        until(lambda: eye.value("SELECT bool_and(expires_at > now()) FROM pgstore.dict_lock"), 3)


def test_the_session_beats_while_transactions_hold_all_connections(only, eye):
    ephemeral = pgstore.Dict.ephemeral(client=only)
    ephemeral["k"] = 1
    before = eye.value("SELECT heartbeat_at FROM pgstore.session")
    done = threading.Event()
    working = hold_all(only, lambda _: done.wait(30), 3)

    Background(only._run_urgently, only.session._beat_again()).result(5)

    assert eye.value("SELECT heartbeat_at FROM pgstore.session") > before
    done.set()
    for each in working:
        each.result(20)


def test_a_signal_handler_uses_a_store_while_its_thread_holds_the_only_connection(own_database):
    with pgstore.Client(own_database, connections_max=1) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["n"] = 0
        done: list[int] = []

        def beat(*_):
            done.append(entries.increment("n"))
            signal.setitimer(signal.ITIMER_REAL, 0.01)

        before = signal.signal(signal.SIGALRM, beat)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while len(done) < 20:
                entries["k"] = 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert entries["n"] == len(done)


def test_a_call_within_calls_that_hold_all_connections_raises_at_once(own_database):
    """
    It would wait for what its own thread holds, and that for it.
    """
    with pgstore.Client(own_database, connections_max=1) as client:
        pool_of_one = client._blocking.pool
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        held = [
            pool_of_one.acquire() for _ in range(3)
        ]  # as three calls, each in a signal handler that came into the one before
        with pytest.raises(StoreUnavailable, match="very thread"):
            entries.get("k")
        for connection in held:
            pool_of_one.release(connection)
        assert entries["k"] == 1
