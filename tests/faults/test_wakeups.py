"""Who is told of what: as many as there is something for, and another one where the first cannot."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from functools import partial

import psycopg
import pytest

import pgstore
from pgstore.client import waiters
from pgstore.client.listener import BlockingListener
from pgstore.client.tickets import SLOTS
from pgstore.client.waking import EVERYBODY_CLASS, LOCK_CLASS, SLOT_CLASS, lock_key
from pgstore.connection import BlockingConnection
from pgstore.core.operation import Listen, Topic
from pgstore.queue import take as take_module
from tests.faults.conftest import Background, look_rarely, until

PROMPT = 5.0  # far below the time after which a waiter would look by itself; a busy machine needs some of it

WORKER = """
import os, sys, pgstore
queue = pgstore.Queue.from_name("queue", client=pgstore.Client(sys.argv[1]))
while True:
    item = queue.get()
    print(item, flush=True)
"""


@pytest.fixture
def client(own_database):
    client = pgstore.Client(own_database, connections_max=40)
    yield client
    client.close()


@pytest.fixture
def queue(client):
    return pgstore.Queue.persist("queue", client=client).hydrate()


@pytest.fixture
def elsewhere(own_database):
    with pgstore.Client(own_database) as client:
        yield pgstore.Queue.persist("queue", client=client).hydrate()


@pytest.fixture
def deaf_otherwise(monkeypatch):
    look_rarely(monkeypatch)


@pytest.fixture
def clients(own_database):
    """Makes clients that share nothing: other processes, to the server."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(pgstore.Client(own_database))


@pytest.fixture
def worker(own_database):
    """Starts processes that take items and print them."""
    with contextlib.ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, own_database], stdout=subprocess.PIPE, text=True, env=os.environ
            )
            stack.enter_context(process)  # closes its pipe
            stack.callback(process.kill)
            return process

        yield start


def store_id(store):
    return int(store.object_id[3:])


def one_has_ended(*calls):
    return not all(each.running for each in calls)


def idle(client):
    """How many of a client's waiters sleep."""
    executors = [client._blocking, *client._loops.values()]
    return sum(
        len(entry.idle) for each in executors if each for entry in list(each.listener.registry._entries.values())
    )


# ------------------------------------------------------------------------------------------------------- as many as


def test_a_batch_wakes_as_many_threads_of_one_client_as_it_has_items(client, queue, elsewhere, deaf_otherwise):
    getting = [Background(queue.get) for _ in range(20)]
    until(lambda: idle(client) == 20)

    elsewhere.put_many(range(20))

    assert sorted(each.result(PROMPT) for each in getting) == list(range(20))


def test_a_batch_wakes_as_many_clients_as_it_has_items(call, clients, elsewhere, deaf_otherwise, eye):
    there = [clients() for _ in range(8)]
    getting = [Background(pgstore.Queue.from_name("queue", client=each).get) for each in there]
    until(lambda: sum(map(idle, there)) == 8)

    call(elsewhere.put_many, range(5))

    until(lambda: sum(each.running for each in getting) == 3, PROMPT)
    assert sum(map(idle, there)) == 3, "and nobody else"
    call(elsewhere.put_many, range(3))
    for each in getting:
        each.result(PROMPT)


def test_a_batch_of_more_items_than_clients_wakes_all_their_threads(client, queue, elsewhere, clients, deaf_otherwise):
    """
    Whoever takes something tells another, until there is nothing more.
    """
    other = clients()
    getting = [Background(queue.get) for _ in range(12)]
    getting += [Background(pgstore.Queue.from_name("queue", client=other).get) for _ in range(2)]
    until(lambda: idle(client) == 12 and idle(other) == 2)

    elsewhere.put_many(range(14))

    assert sorted(each.result(PROMPT) for each in getting) == list(range(14))


def test_a_put_tells_one_who_waits_alone_what_the_function_would(call, client, queue, elsewhere, own_database):
    """
    It does without the function then.
    """
    topic = Topic(store_id(queue), "")
    getting = Background(queue.get)
    until(lambda: idle(client) == 1)
    with psycopg.connect(own_database, autocommit=True) as listening:
        listening.execute(f"LISTEN pgstore_{lock_key(topic) & 255}")
        listening.execute("SELECT pgstore.wake(%s::integer, %s::text, 1)", (lock_key(topic), topic.payload))
        (function_told,) = listening.notifies(timeout=PROMPT, stop_after=1)
        until(lambda: idle(client) == 1)  # it found nothing

        call(elsewhere.put, "item")

        (put_told,) = listening.notifies(timeout=PROMPT, stop_after=1)
    assert (put_told.channel, put_told.payload) == (function_told.channel, function_told.payload)
    assert getting.result(PROMPT) == "item"


def test_a_put_wakes_one_of_those_who_wait(call, clients, elsewhere, deaf_otherwise):
    there = [clients() for _ in range(6)]
    getting = [Background(pgstore.Queue.from_name("queue", client=each).get) for each in there]
    for left in range(5, -1, -1):
        until(partial(lambda left: sum(map(idle, there)) == left + 1, left))
        call(elsewhere.put, left)
        until(partial(lambda left: sum(each.running for each in getting) == left, left), PROMPT)

    assert sorted(each.result() for each in getting) == list(range(6))


def test_room_wakes_as_many_putters_as_there_is_room_for(clients, own_database, deaf_otherwise):
    queue = pgstore.Queue.from_name("narrow", create_if_missing=True, maxsize=3, client=clients())
    queue.put_many(range(3))
    there = [clients() for _ in range(4)]
    putting = [
        Background(pgstore.Queue.from_name("narrow", client=each).put, number) for number, each in enumerate(there)
    ]
    until(lambda: sum(map(idle, there)) == 4)

    queue.get_many(2)

    until(lambda: sum(each.running for each in putting) == 2, PROMPT)
    queue.get_many(2)
    for each in putting:
        each.result(PROMPT)


def test_a_lock_that_is_released_wakes_one_who_waits_for_it(clients):
    entries = pgstore.Dict.from_name("entries", create_if_missing=True, client=clients()).hydrate()
    order: list[int] = []

    def take(number, client):
        with pgstore.Dict.from_name("entries", client=client).lock("k"):
            order.append(number)

    there = [clients() for _ in range(4)]
    with entries.lock("k"):
        taking = [Background(take, number, client) for number, client in enumerate(there)]
        until(lambda: sum(map(idle, there)) == 4)
    for each in taking:
        each.result()
    assert sorted(order) == [0, 1, 2, 3]


def test_who_looks_at_a_queue_hears_of_every_item_and_takes_none_from_a_taker(call, queue, clients, elsewhere, eye):
    """
    `iterate` waits for a further item; the one who gets it is another.
    """
    there = pgstore.Queue.from_name("queue", client=clients())
    looking = Background(lambda: list(itertools.islice(there.iterate(timeout=30.0), 3)))
    until(lambda: eye.locks(EVERYBODY_CLASS))
    getting = Background(call, queue.get)
    until(eye.slots)

    elsewhere.put_many("abcd")

    assert looking.result(PROMPT)[-2:] in (["b", "c"], ["c", "d"])
    assert getting.result(PROMPT) == "a"


# ------------------------------------------------------------------------------------------------- who cannot take it


def test_one_that_waited_alone_answers_for_the_second_to_come(client, queue, worker, eye):
    """
    Alone it looks rarely; the second is told of an item, and is stopped.
    """
    getting = Background(queue.get)
    until(eye.slots)
    time.sleep(0.5)
    second = worker()
    until(lambda: len(eye.slots()) == 2)
    time.sleep(0.5)
    second.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    for number in range(3):
        if not getting.running:
            getting = Background(queue.get)
        queue.put(number)
        getting.result(PROMPT)
    assert time.monotonic() - began < 3 * 1.5


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_an_item_whose_waiter_is_stopped_or_killed_is_taken_by_another_within_a_second(worker, queue, eye, how):
    """
    One of two is chosen; each time it may be the one that cannot.
    """
    workers = [worker() for _ in range(2)]
    until(lambda: len(eye.slots()) == 2)
    workers[0].send_signal(how)
    if how is signal.SIGKILL:
        workers[0].wait()
    for number in range(5):
        began = time.monotonic()
        queue.put(number)
        assert workers[1].stdout.readline() == f"{number}\n"
        assert time.monotonic() - began < 2.0  # the second, and what a busy machine takes


def test_what_was_told_to_a_get_that_fails_is_passed_on(clients, elsewhere, deaf_otherwise, monkeypatch):
    there = [clients() for _ in range(2)]
    getting = [Background(pgstore.Queue.from_name("queue", client=each).get) for each in there]
    until(lambda: sum(map(idle, there)) == 2)
    original = pgstore.Queue._try_take
    failed: list[object] = []

    def fail_once(self, *args, **kwargs):
        if not failed:
            failed.append(self)
            raise LookupError("the first that is told")
        return (yield from original(self, *args, **kwargs))

    monkeypatch.setattr(pgstore.Queue, "_try_take", fail_once)
    elsewhere.put("item")

    until(lambda: not any(each.running for each in getting), PROMPT)
    results = []
    for each in getting:
        try:
            results.append(each.result())
        except LookupError as exc:
            results.append(str(exc))
    assert sorted(results) == ["item", "the first that is told"]


def test_a_get_that_is_cancelled_when_it_is_told_passes_on(clients, elsewhere, deaf_otherwise):
    client, other = clients(), clients()
    queue = pgstore.Queue.from_name("queue", client=client).hydrate()

    async def main():
        cancelled = 0
        for number in range(8):
            getting = asyncio.create_task(queue.get.aio())
            there = asyncio.create_task(pgstore.Queue.from_name("queue", client=other).get.aio())
            await asyncio.to_thread(until, lambda: idle(client) + idle(other) == 2)
            await asyncio.to_thread(elsewhere.put, number)
            await asyncio.sleep(random.random() * 0.003)
            getting.cancel()
            done, _ = await asyncio.wait([getting, there], timeout=PROMPT, return_when=asyncio.ALL_COMPLETED)
            if getting in done and not getting.cancelled():
                assert getting.result() == number
                there.cancel()
                await asyncio.wait([there])
                continue
            cancelled += 1
            assert there.result() == number
        await client.aclose()
        await other.aclose()
        return cancelled

    assert asyncio.run(main()) > 0


def test_who_puts_before_a_waiter_comes_and_commits_after_it_is_seen(call, queue, own_database, eye):
    """
    The putter saw nobody who waits, and the waiter saw no item.
    """
    with psycopg.connect(own_database) as connection:
        connection.execute("SELECT pgstore.queue_put('queue', '1')")
        getting = Background(call, queue.get)
        until(eye.slots)
        time.sleep(0.3)
        assert getting.running
        began = time.monotonic()
        connection.commit()

        assert getting.result(PROMPT) == 1
        assert time.monotonic() - began < 2.0


def test_what_was_put_before_all_came_is_seen_although_the_first_has_gone(
    clients, elsewhere, own_database, deaf_otherwise
):
    """
    The first to come answers for those whose commit is under way; the second relies on it, and the first leaves with another item.
    """
    first, second = clients(), clients()
    with psycopg.connect(own_database) as connection:
        connection.execute("SELECT pgstore.queue_put('queue', '0')")
        getting = Background(pgstore.Queue.from_name("queue", client=first).get)
        until(lambda: idle(first) == 1)
        while True:
            relying = Background(pgstore.Queue.from_name("queue", client=second).get)
            until(lambda: idle(second) == 1)
            elsewhere.put(1)
            until(partial(one_has_ended, getting, relying))
            if not getting.running:
                break
        assert getting.result() == 1
        connection.commit()

        assert relying.result(PROMPT) == 0


# ---------------------------------------------------------------------------------------------------------- what it costs


def test_a_client_that_waits_for_very_many_topics_has_one_lock_for_each(own_database, elsewhere, eye, monkeypatch):
    monkeypatch.setattr(waiters, "SLOTTED_TOPICS_MAX", 20)
    topics = 100

    async def main():
        client = pgstore.Client(own_database)
        queue = pgstore.Queue.from_name("queue", client=client)
        await queue.hydrate.aio()
        getting = [asyncio.create_task(queue.get.aio(partition=f"p{number}")) for number in range(topics)]
        await asyncio.to_thread(until, lambda: idle(client) == topics)
        locks = eye.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        for number in range(topics):
            await asyncio.to_thread(elsewhere.put, number, partition=f"p{number}")
        async with asyncio.timeout(30):
            items = [await each for each in getting]
        await client.aclose()
        return locks, items

    locks, items = asyncio.run(main())

    assert locks <= topics + 1
    assert items == list(range(topics))


def test_a_client_that_waited_for_very_many_topics_has_slots_again(call, own_database, elsewhere, eye, monkeypatch):
    monkeypatch.setattr(waiters, "SLOTTED_TOPICS_MAX", 3)
    client = call.client(own_database)
    queue = pgstore.Queue.from_name("queue", client=client)
    getting = [Background(queue.get, partition=f"p{number}") for number in range(5)]
    until(lambda: idle(client) == 5)
    assert not eye.slots()
    for number in range(5):
        elsewhere.put(number, partition=f"p{number}")
    for each in getting:
        each.result(PROMPT)
    until(lambda: not client._blocking.listener.registry._entries)

    waiting = Background(queue.get)
    until(eye.slots)
    elsewhere.put("item")
    assert waiting.result(PROMPT) == "item"


def test_who_waits_sends_less_than_ten_statements_a_second_whatever_their_number(clients, queue, eye):
    there = [clients() for _ in range(12)]
    getting = [Background(pgstore.Queue.from_name("queue", client=each).get) for each in there]
    until(lambda: sum(map(idle, there)) == 12)
    sent: list[object] = []
    time.sleep(1.0)  # as long as each thinks that few wait
    with pytest.MonkeyPatch.context() as patch:
        original = BlockingConnection.execute

        def execute(self, query):
            sent.append(query)
            return original(self, query)

        patch.setattr(BlockingConnection, "execute", execute)
        time.sleep(3.0)
    queue.put_many(range(12))
    for each in getting:
        each.result()
    assert len(sent) <= 30


def test_a_client_that_merely_waits_needs_no_connection_but_the_one_on_which_it_is_told(
    call, client, queue, elsewhere, eye
):
    """
    Its others are closed when they have been idle for long, as they would be if it did nothing.
    """
    getting = Background(call, queue.get)
    until(eye.slots)
    told = eye.slots()
    time.sleep(1.0)
    before = dict(eye.rows("SELECT pid, query_start FROM pg_stat_activity WHERE datname = current_database()"))
    until(lambda: dict(eye.rows("SELECT pid, query_start FROM pg_stat_activity"))[told[0]] > before[told[0]], 10.0)
    after = dict(eye.rows("SELECT pid, query_start FROM pg_stat_activity WHERE datname = current_database()"))
    assert {pid for pid in after if after[pid] != before.get(pid)} - {eye.value("SELECT pg_backend_pid()")} == set(told)
    elsewhere.put("item")
    assert getting.result(PROMPT) == "item"


def test_due_items_are_brought_back_by_one_of_those_who_wait(clients, queue, monkeypatch):
    there = [clients() for _ in range(6)]
    brought: list[object] = []
    original = pgstore.Queue._bring_back
    getting = [Background(pgstore.Queue.from_name("queue", client=each).get) for each in there]
    until(lambda: sum(map(idle, there)) == 6)
    queue.put("item", delay=0.5)

    def bring_back(self, record):
        brought.append(self)
        return original(self, record)

    monkeypatch.setattr(pgstore.Queue, "_bring_back", bring_back)
    began = time.monotonic()

    until(lambda: sum(each.running for each in getting) == 5, PROMPT)

    assert time.monotonic() - began < 2.0
    assert len(brought) <= 3
    queue.put_many(range(5))
    for each in getting:
        each.result()


# -------------------------------------------------------------------------------------------------------- strangers


@pytest.mark.parametrize("what", ["the topic", "all slots", "those with slots"])
def test_a_stranger_who_keeps_the_locks_of_those_who_wait_stops_nobody(call, queue, elsewhere, own_database, what):
    """
    Every login may hold advisory locks: then waiters look by themselves.
    """
    key = lock_key(Topic(store_id(queue), ""))
    locks = {
        "the topic": [(LOCK_CLASS, key)],
        "all slots": [(SLOT_CLASS + slot, key) for slot in range(SLOTS)],
        "those with slots": [(0x70677377, key)],
    }[what]
    with psycopg.connect(own_database, autocommit=True) as stranger:
        for lock in locks:
            stranger.execute("SELECT pg_advisory_lock(%s, %s)", lock)
        getting = Background(call, queue.get)
        time.sleep(0.3)
        elsewhere.put("item")

        assert getting.result(15.0) == "item"


@pytest.mark.parametrize("payload", ["", "x", "- 1", "99 1 0 x", "* x", "0 99999999999 0 y", "- 1 0 ", "☃" * 1000])
def test_a_stranger_who_notifies_our_channel_disturbs_nobody(call, queue, elsewhere, eye, payload):
    getting = Background(call, queue.get)
    until(eye.slots)
    pid = eye.slots()

    eye.rows("SELECT pg_notify('pgstore', %s)", payload)
    elsewhere.put("item")

    assert getting.result(PROMPT) == "item"
    waiting = Background(call, queue.get)
    until(lambda: idle(queue._runner) == 1)
    assert eye.slots() == pid, "the same connection"
    elsewhere.put("item")
    waiting.result()


def test_forged_wake_ups_cost_a_look_and_take_nothing(call, queue, elsewhere, eye):
    getting = Background(call, queue.get)
    until(eye.slots)
    for channel in ("pgstore", *(f"pgstore_{number}" for number in range(256))):
        eye.rows("SELECT pg_notify(%s, %s)", channel, f"0 3 1 {store_id(queue)}/")
    time.sleep(0.2)
    assert getting.running

    elsewhere.put("item")
    assert getting.result(PROMPT) == "item"


# ------------------------------------------------------------------------------------------------------------- masks


def mask_of(queue, client):
    """A ticket of a taker in full swing, as one would have made it; and whether the server knows."""
    there = pgstore.Queue.from_name(queue.name, client=client).hydrate()
    state = there._state_of(store_id(there)).partition("", client.servers_seen)
    request = there._listening(store_id(there), "", state, 0.001)
    while True:
        ticket = client._blocking.listener.register(request)
        until(partial(lambda mask: mask.is_held or mask.has_ended, ticket.mask))
        if ticket.mask.is_held:  # else it has only just begun to listen
            return ticket


def keep_masked(ticket):
    """Have its caller take something all the time."""
    while not ticket.mask.has_ended:
        ticket.mask.take()
        ticket.mask.told_at = ticket.mask.taken_at
        time.sleep(0.001)


def test_while_a_taker_is_in_full_swing_nobody_is_told_and_after_it_somebody_is(
    clients, elsewhere, deaf_otherwise, monkeypatch
):
    monkeypatch.setattr("pgstore.client.waiters.BUSY_SECONDS", 60.0)  # however late its thread has its turn
    monkeypatch.setattr("pgstore.client.waiters.BEHIND_SECONDS", 60.0)
    masking, waiting = clients(), clients()
    pgstore.Queue.from_name("queue", client=masking).len()
    with pytest.raises(pgstore.errors.QueueEmpty):
        pgstore.Queue.from_name("queue", client=masking).get(timeout=0.5)  # from now on it listens
    getting = Background(pgstore.Queue.from_name("queue", client=waiting).get)
    until(lambda: idle(waiting) == 1)
    ticket = mask_of(elsewhere, masking)
    keeping = Background(keep_masked, ticket)

    elsewhere.put("item")
    time.sleep(0.3)
    assert getting.running, "not told"
    ticket.close()
    keeping.result()

    assert getting.result(PROMPT) == "item"


def test_a_taker_whose_work_takes_longer_lets_others_be_told(clients, elsewhere, deaf_otherwise):
    masking, waiting = clients(), clients()
    with pytest.raises(pgstore.errors.QueueEmpty):
        pgstore.Queue.from_name("queue", client=masking).get(timeout=0.5)
    getting = Background(pgstore.Queue.from_name("queue", client=waiting).get)
    until(lambda: idle(waiting) == 1)
    ticket = mask_of(elsewhere, masking)

    elsewhere.put("item")  # while its caller is at work

    assert getting.result(PROMPT) == "item"
    until(lambda: ticket.mask.has_ended)


def test_the_server_ends_the_session_of_one_that_masks_and_is_heard_of_no_more(
    call, queue, elsewhere, own_database, eye
):
    getting = Background(call, queue.get)
    until(eye.slots)
    with psycopg.connect(own_database, autocommit=True) as stopped:
        key = lock_key(Topic(store_id(queue), ""))
        assert stopped.execute("SELECT pgstore.mask_begin(%s)", [key]).fetchone() == (True,)
        elsewhere.put("item")

        assert getting.result(PROMPT) == "item", "by a look that nobody asked for"
        with pytest.raises(psycopg.OperationalError):
            time.sleep(1.2)
            stopped.execute("SELECT 1")


def test_a_mask_leaves_the_limit_of_an_idle_session_as_it_was(own_database, queue):
    key = lock_key(Topic(store_id(queue), ""))
    with psycopg.connect(f"{own_database}?options=-c%20idle_session_timeout%3D77min", autocommit=True) as session:
        for topic in (key, key + 1):
            session.execute("SELECT pgstore.mask_begin(%s)", [topic])
        session.execute("SELECT pgstore.mask_end(%s, false)", [key])
        assert session.execute("SHOW idle_session_timeout").fetchone() == ("1s",)
        session.execute("SELECT pgstore.mask_end(%s, true)", [key + 1])

        assert session.execute("SHOW idle_session_timeout").fetchone() == ("77min",)


def test_a_flood_is_taken_by_few_and_all_of_it(call, clients, elsewhere):
    """
    A put that nobody has to be told of costs no notification.
    """
    there = [clients() for _ in range(3)]
    taken: list[int] = []

    def take(client):
        queue = pgstore.Queue.from_name("queue", client=client)
        while (item := queue.get()) is not None:
            taken.append(item)

    taking = [Background(take, each) for each in there]
    until(lambda: sum(map(idle, there)) == 3)
    for number in range(600):
        call(elsewhere.put, number)
    until(lambda: len(taken) == 600)
    for _ in taking:
        elsewhere.put(None)
    for each in taking:
        each.result()
    assert sorted(taken) == list(range(600))
    until(lambda: not any(each._blocking.listener.registry._masked for each in there))


# ----------------------------------------------------------------------------------------------- at the wrong moment


class Taker:
    """Takes what comes, one after the other, until the test ends."""

    def __init__(self, queue):
        self.taken: list[object] = []
        self._queue = queue
        self._thread = Background(self._take)

    def _take(self):
        while (item := self._queue.get()) is not None:
            self.taken.append(item)


@pytest.fixture
def taker(queue, clients, deaf_otherwise):
    there = clients()
    taker = Taker(pgstore.Queue.from_name("queue", client=there))
    until(lambda: idle(there) == 1)
    yield taker
    queue.put(None)


def put_until_told(elsewhere, taker, is_told):
    """Put items, until one is not *taker*'s because another was told of it. Returns that."""
    for number in itertools.count(1):
        elsewhere.put(number)
        until(partial(lambda number: number in taker.taken or is_told(), number))
        if is_told():
            return number
    raise AssertionError("unreachable")


def test_what_a_get_is_told_of_while_it_takes_something_else_is_passed_on(
    client,
    queue,
    elsewhere,
    taker,
    deaf_otherwise,
    eye,
    monkeypatch,
):
    """
    It found the first item by itself; of the second nobody else knows.
    """
    original = pgstore.Queue._try_take
    left: list[int] = []

    def try_take(self, record, *args):
        rows = yield from original(self, record, *args)
        if self is queue and rows and not left:
            assert idle(client) == 1, "it has registered, and nobody has told it of what it found"
            left.append(put_until_told(elsewhere, taker, lambda: not idle(client)))
        return rows

    monkeypatch.setattr(pgstore.Queue, "_try_take", try_take)
    queue._state_of(store_id(queue)).partition("", client.servers_seen).is_awaited = True  # so it registers at once
    # As by one who saw nobody.
    eye.rows(
        "INSERT INTO pgstore.queue_item (store_id, partition, codec, payload) VALUES (%s, '', 'j', '0')",
        store_id(queue),
    )

    assert queue.get() == 0

    until(lambda: left and left[0] in taker.taken, PROMPT)


def test_what_one_who_comes_back_was_to_take_is_passed_on_if_it_fails_before_it_looks(
    client,
    queue,
    elsewhere,
    taker,
    deaf_otherwise,
    monkeypatch,
):
    monkeypatch.setattr(waiters, "_KEPT_SECONDS", 60.0)
    with pytest.raises(pgstore.errors.QueueEmpty):
        queue.get(timeout=0.5)
    listener = client._blocking.listener
    (entry,) = listener.registry._entries.values()
    left = put_until_told(elsewhere, taker, lambda: entry.pending is not None)

    ticket = listener.register(Listen(Topic(store_id(queue), "")))
    ticket.close()  # interrupted

    until(lambda: left in taker.taken, PROMPT)


def test_one_who_has_waited_alone_is_there_within_a_second_for_an_item_that_a_stopped_one_was_told_of(
    worker,
    queue,
    eye,
):
    """
    It does not know of the other, who came later.
    """
    alone = worker()
    until(lambda: len(eye.slots()) == 1)
    time.sleep(2.2)  # until it has looked how many wait
    stopped = worker()
    until(lambda: len(eye.slots()) == 2)
    stopped.send_signal(signal.SIGSTOP)
    for number in range(4):
        began = time.monotonic()
        queue.put(number)
        assert alone.stdout.readline() == f"{number}\n"
        assert time.monotonic() - began < 3.0  # the second, and what a busy machine takes


def test_an_item_that_a_transaction_gives_back_is_taken_within_a_second(
    call,
    client,
    queue,
    elsewhere,
    monkeypatch,
):
    """
    Nobody tells of a rollback, so who knows that something is there but locked looks as often as others do.
    """
    monkeypatch.setattr(take_module, "waits", lambda: itertools.repeat(60.0))
    elsewhere.put("item")
    with contextlib.suppress(ZeroDivisionError), elsewhere._runner.transaction():
        assert elsewhere.get() == "item"
        getting = Background(call, queue.get)
        until(lambda: idle(client) == 1)
        time.sleep(0.5)
        assert getting.running
        raise ZeroDivisionError

    assert getting.result(PROMPT) == "item"


def test_topics_whose_keys_are_close_do_not_take_each_others_wake_ups(
    clients,
    queue,
    elsewhere,
    deaf_otherwise,
):
    """
    Of some thousand topics two have keys of which only the last bits differ.
    """
    number = store_id(queue)
    seen: dict[int, str] = {}
    partition, close = "", None
    while close is None:
        partition = str(len(seen))
        rest = zlib.crc32(f"{number}/{partition}".encode()) >> 6
        close = seen.get(rest)
        seen[rest] = partition
    assert lock_key(Topic(number, close)) ^ lock_key(Topic(number, partition)) < SLOTS
    there = [clients() for _ in range(4)]
    others = [Background(pgstore.Queue.from_name("queue", client=each).get, partition=close) for each in there[:3]]
    until(lambda: sum(map(idle, there)) == 3)
    for item in range(12):
        getting = Background(pgstore.Queue.from_name("queue", client=there[3]).get, partition=partition)
        until(lambda: idle(there[3]) == 1)

        elsewhere.put(item, partition=partition)

        assert getting.result(PROMPT) == item
    elsewhere.put_many(range(3), partition=close)
    for each in others:
        each.result(PROMPT)


def test_room_for_one_is_not_lost_on_a_putter_that_wants_more(clients, deaf_otherwise):
    queue = pgstore.Queue.from_name("narrow", create_if_missing=True, maxsize=4, client=clients())
    queue.put_many(range(4))
    there = [clients() for _ in range(2)]
    many = Background(pgstore.Queue.from_name("narrow", client=there[0]).put_many, "abcd")
    until(lambda: idle(there[0]) == 1)
    for item in range(8):
        putting = Background(pgstore.Queue.from_name("narrow", client=there[1]).put, item)
        until(lambda: idle(there[1]) == 1)

        queue.get()

        putting.result(PROMPT)
    queue.get_many(4)
    many.result(PROMPT)


def test_a_mask_of_a_thread_and_takers_of_an_event_loop_go_together(client, queue):
    """
    A client may be used by both, and of one partition it knows one mask.
    """
    with pytest.raises(pgstore.errors.QueueEmpty):
        queue.get(timeout=0.5)
    state = queue._state_of(store_id(queue)).partition("", client.servers_seen)
    state.masking = mask_of(queue, client)
    keeping = Background(keep_masked, state.masking)
    state.is_awaited = False

    async def take():
        with pytest.raises(pgstore.errors.QueueEmpty):
            await queue.get.aio(timeout=0.3)
        await queue.put.aio("item")
        return await queue.get.aio()

    assert asyncio.run(take()) == "item"
    with contextlib.suppress(AttributeError):
        state.masking.close()
    for entry in list(client._blocking.listener.registry._masked):
        entry.mask.has_ended = True
    keeping.result()


def test_one_who_waits_while_the_client_is_closed_still_gets_what_comes(
    call,
    clients,
    elsewhere,
    deaf_otherwise,
):
    """
    By looking once a second: nobody listens for it any more.
    """
    there = clients()
    getting = Background(call, pgstore.Queue.from_name("queue", client=there).get)
    until(lambda: idle(there) == 1)
    listeners = [each.listener for each in (there._blocking, *there._loops.values())]

    there.close()
    for listener in listeners[1:]:
        listener._task.get_loop().call_soon_threadsafe(lambda: asyncio.ensure_future(there.aclose()))
        until(listener._task.done)
    elsewhere.put("item")

    assert getting.result(PROMPT) == "item"


def test_a_listener_that_does_not_read_its_pipe_keeps_nobody(monkeypatch):
    """
    As long as the server is away it tries to connect; who comes and goes meanwhile fills the pipe.
    """
    is_over = threading.Event()

    def connect():
        is_over.wait()
        raise pgstore.errors.StoreUnavailable("away")

    listener = BlockingListener(connect)
    asking = Background(listener.register, Listen(Topic(1, "x")))
    until(lambda: listener._wake_pipe)

    def wake_often():
        for _ in range(100_000):
            listener._wake_thread()

    waking = Background(wake_often)

    waking.result()
    asking.result()
    is_over.set()
    listener.close()


def test_a_client_that_waits_for_very_many_topics_hears_of_them_whoever_asks_for_it_just_then(
    client,
    queue,
    own_database,
    eye,
    monkeypatch,
):
    """
    A put asks by trying the lock of those who do, which nobody else gets in that moment. It is tried again, however long.
    """
    monkeypatch.setattr(waiters, "SLOTTED_TOPICS_MAX", 2)
    with psycopg.connect(own_database, autocommit=True) as asking:
        asking.execute("SELECT pg_advisory_lock(%s, 0)", [EVERYBODY_CLASS])
        getting = [Background(queue.get, partition=str(number)) for number in range(4)]
        until(lambda: idle(client) == 4)
        assert len(eye.locks(EVERYBODY_CLASS)) == 1
    until(lambda: eye.locks(EVERYBODY_CLASS))
    for number in range(4):
        queue.put(number, partition=str(number))
    for each in getting:
        each.result(PROMPT)


# ------------------------------------------------------------------------------------------------------------- chaos


def test_no_item_is_left_or_taken_twice_while_waiters_are_killed_stopped_and_cut_off(worker, queue, eye):
    rng = random.Random(1)
    workers = [worker() for _ in range(4)]
    until(lambda: len(eye.slots()) == 4)
    ended: list[subprocess.Popen[str]] = []
    items = 1500
    for number in range(items):
        queue.put(number)
        if rng.random() < 0.01:
            victim = rng.randrange(4)
            match rng.randrange(3):
                case 0:
                    workers[victim].kill()
                    ended.append(workers[victim])
                    workers[victim] = worker()
                case 1:
                    workers[victim].send_signal(signal.SIGSTOP)
                    time.sleep(rng.random() * 0.1)
                    workers[victim].send_signal(signal.SIGCONT)
                case 2:
                    if pids := eye.slots():
                        eye.rows("SELECT pg_terminate_backend(%s)", rng.choice(pids))
        if rng.random() < 0.2:
            time.sleep(rng.random() * 0.005)

    until(lambda: queue.len() == 0)
    time.sleep(0.1)
    for each in workers:
        each.send_signal(signal.SIGTERM)
    taken = [int(line) for each in (*ended, *workers) for line in each.stdout.read().split()]
    assert len(taken) == len(set(taken)), "taken twice"
    # One that was killed between a take and its print: at most once, as promised.
    assert items - len(taken) <= len(ended) + 1
