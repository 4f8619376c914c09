"""Ctrl-C and cancelled tasks: they end a wait promptly and take nothing with them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import linecache
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus

import pgstore
from pgstore import connection
from pgstore.client.scope import AMBIENT
from pgstore.connection.spin_wait import SpinWait
from pgstore.core import limit
from pgstore.core.statement import Statement
from pgstore.core.steps import run_async, run_blocking
from pgstore.queue import take
from pgstore.queue.state import PartitionState
from tests.faults.conftest import Background, until

# An interrupt may hit psycopg while it hands a new connection over, too.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function BaseConnection.__del__:pytest.PytestUnraisableExceptionWarning"
)

PACKAGE = os.path.dirname(pgstore.__file__)


@pytest.fixture(autouse=True)
def nothing_of_other_tests_is_finalised():
    """Interrupts that come before a line would come into its end, where Python can only drop them, with a warning."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def client(own_database):
    client = pgstore.Client(own_database)
    yield client
    client.close()


@pytest.fixture
def queue(client):
    return pgstore.Queue.persist("queue", client=client).hydrate()


# ---------------------------------------------------------------------------------------------------------- cancelling


async def acknowledged(queue):
    """
    An item by lease. What a cancelled lease had is back at once; a cancelled acknowledgement may have been received.
    """
    lease = await queue.get.aio(lease=600)
    ack = asyncio.ensure_future(lease.ack.aio())
    while not ack.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(ack)
    ack.result()
    return lease.item


TAKES = {
    "get": lambda queue: queue.get.aio(),
    "get_many": lambda queue: queue.get_many.aio(3),
    "get at once": lambda queue: queue.get.aio(block=False),
    "lease": acknowledged,
}


@pytest.mark.parametrize("kind", TAKES)
def test_a_cancelled_get_loses_and_doubles_nothing(client, queue, kind):
    """
    A naive client deletes the row and never reads the answer: then every cancelled get costs an item.
    """
    rng = random.Random(4)
    received: list[int] = []

    async def main():
        await queue.put_many.aio(range(300))
        interrupted = 0
        for _ in range(700):
            try:
                async with asyncio.timeout(rng.choice([0, 0.0001, 0.0003, 0.001]) * rng.random()):
                    taken = await TAKES[kind](queue)
                received.extend(taken if isinstance(taken, list) else [taken] if taken is not None else [])
            except TimeoutError:
                interrupted += 1
            if len(received) > 250:
                await queue.put_many.aio(received)
                received.clear()
        return interrupted

    assert asyncio.run(main()) > 50

    left = queue.get_many(1000)
    assert sorted(received + left) == list(range(300))


def test_a_cancelled_get_in_a_transaction_leaves_it_usable_and_the_item_in_its_place(client, queue):
    rng = random.Random(5)
    received: list[int] = []

    async def main():
        await queue.put_many.aio(range(100))
        interrupted = 0
        for _ in range(150):
            got = []
            async with client.transaction():
                try:
                    async with asyncio.timeout(0.002 * rng.random() ** 2):
                        got.append(await queue.get.aio())
                        got.append(await queue.get.aio())
                except TimeoutError:
                    interrupted += 1
                await queue.len.aio()
            received.extend(got)
            if len(received) > 80:
                await queue.put_many.aio(received)
                received.clear()
        return interrupted

    assert asyncio.run(main()) > 5

    assert sorted(received + queue.get_many(1000)) == list(range(100))


def test_cancelling_a_second_time_does_not_stop_the_tidying_up(client, queue):
    """
    An impatient program cancels again while the first cancellation is still putting the item back.
    """
    queue.put_many(range(20))
    received = []

    async def main():
        for number in range(60):
            task = asyncio.create_task(queue.get.aio())
            for _ in range(number % 12):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            try:
                received.append(await task)
            except asyncio.CancelledError:
                continue
            await queue.put.aio(received.pop())

    asyncio.run(main())

    assert sorted(queue.get_many(100)) == list(range(20))


def putting_back():
    """Whether something is being brought to its end that an interrupt has stopped."""
    return any(thread.name == "pgstore-uninterrupted" for thread in threading.enumerate())


STOPPED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "get": (lambda queue, entries: queue.get, {"block": False}, "queue_item"),
    "get_many": (lambda queue, entries: queue.get_many, {"n": 2, "block": False}, "queue_item"),
    "lease": (lambda queue, entries: queue.get, {"block": False, "lease": 600}, "queue_item"),
    "pop": (lambda queue, entries: entries.pop, {"key": "k"}, "dict_entry"),
    "popitem": (lambda queue, entries: entries.popitem, {}, "dict_entry"),
    "pop_many": (lambda queue, entries: entries.pop_many, {"keys": ["k", "l"]}, "dict_entry"),
}


@pytest.fixture
def behind_proxy(own_database, proxy):
    with pgstore.Client(proxy.url(own_database)) as client:
        yield client


@pytest.mark.parametrize("kind", STOPPED)
def test_further_interrupts_do_not_stop_the_putting_back(behind_proxy, proxy, eye, monkeypatch, kind):
    """
    The terminal and the shell above it both send Ctrl-C, and users press it again.
    """
    queue, entries = _filled(behind_proxy, kind)
    method, arguments, table = STOPPED[kind]
    look = f"SELECT count(*) FROM pgstore.{table}"

    def interrupt():
        # The answer to the statement that takes is on its way when Ctrl-C comes.
        until(lambda: eye.value(look) < 2)
        press_ctrl_c()
        until(putting_back)
        for _ in range(3):
            press_ctrl_c()
            time.sleep(0.05)
        proxy.resume()

    if kind in ("popitem", "pop_many"):  # whose first statement only reads
        remove = entries._remove
        monkeypatch.setattr(
            pgstore.Dict, "_remove", lambda self, *arguments: (proxy.stall("server"), remove(*arguments))[1]
        )
    else:
        proxy.stall("server")
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        method(queue, entries)(**arguments)
    thread.join()

    assert eye.value(look) == 2
    if table == "dict_entry":
        assert entries.items() == [("k", "v"), ("l", "w")]
    else:
        assert sorted(queue.get_many(5)) == ["a", "b"]


def _filled(client, kind):
    """A Queue and a Dict with two of each, whose statements are prepared: the answer to another would be held back."""
    queue = pgstore.Queue.persist("queue", client=client)
    entries = pgstore.Dict.persist("entries", client=client)
    method, arguments, _ = STOPPED[kind]
    queue.put_many(["x", "y"])
    entries.update({"k": "x", "l": "y"})
    method(queue, entries)(**arguments)
    queue.clear()
    queue.put_many(["a", "b"])
    entries.update({"k": "v", "l": "w"})
    return queue, entries


@pytest.mark.parametrize("kind", ["get", "get_many", "lease", "pop"])
def test_an_event_loop_that_a_second_ctrl_c_ends_does_not_take_the_item_with_it(behind_proxy, proxy, eye, kind):
    """
    The first cancels the main task, the second ends the loop, which cancels everything that runs on it.
    """
    queue, entries = _filled(behind_proxy, kind)
    method, arguments, table = STOPPED[kind]
    look = f"SELECT count(*) FROM pgstore.{table}"

    def interrupt():
        until(lambda: eye.value(look) < 2)
        press_ctrl_c()
        until(putting_back)
        for _ in range(2):
            press_ctrl_c()
            time.sleep(0.05)
        proxy.resume()

    async def main():
        await method(queue, entries).aio(**arguments)
        await queue.clear.aio()
        await queue.put_many.aio(["a", "b"])
        await entries.update.aio({"k": "v", "l": "w"})
        proxy.stall("server")
        threading.Thread(target=interrupt).start()
        await method(queue, entries).aio(**arguments)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    until(lambda: eye.value(look) == 2)


def test_what_a_program_was_putting_back_when_it_ended_is_put_back(own_database, proxy, eye):
    """
    The interpreter waits for it.
    """
    pgstore.Queue.persist("queue", client=pgstore.Client(own_database)).put("item")
    program = subprocess.Popen(
        [sys.executable, "-c", LEAVING, proxy.url(own_database)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(PACKAGE),
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        proxy.stall("server")
        program.send_signal(signal.SIGUSR1)
        until(lambda: eye.items() == 0)
        program.send_signal(signal.SIGINT)
        time.sleep(0.1)
        program.send_signal(signal.SIGINT)
        time.sleep(0.1)
        proxy.resume()
        program.wait(30)

    assert eye.items() == 1


LEAVING = """
import signal, sys, threading
import pgstore

go = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: go.set())
queue = pgstore.Queue.persist("queue", client=pgstore.Client(sys.argv[1]))
queue.get(block=False, partition="empty")
print("ready", flush=True)
while not go.wait(0.01):
    pass
queue.get(block=False)
"""


def test_what_is_put_back_in_several_statements_comes_back_in_one_step(client, queue, eye, monkeypatch):
    """
    Items of more than a gibibyte together do not fit into one; here the bound is a hundred bytes.
    """
    monkeypatch.setattr(take, "BATCH_BYTES", 100)
    queue.put("warm")
    queue.get()
    queue.put_many([str(number) * 60 for number in range(6)])
    monkeypatch.setattr(PartitionState, "note", _interrupted)

    with pytest.raises(KeyboardInterrupt):
        queue.get_many(6)

    monkeypatch.undo()
    assert eye.value("SELECT count(DISTINCT xmin::text) FROM pgstore.queue_item") == 1
    assert [item[0] for item in queue.get_many(6)] == ["0", "1", "2", "3", "4", "5"]


def _interrupted(*_):
    raise KeyboardInterrupt


def test_a_task_blocked_on_a_row_lock_is_cancelled_promptly_and_so_is_its_statement(client, own_database, eye):
    entries = pgstore.Dict.persist("entries", client=client)
    entries["k"] = 1

    async def main():
        with psycopg.connect(own_database) as blocker:
            blocker.execute("UPDATE pgstore.dict_entry SET updated_at = updated_at")
            task = asyncio.create_task(entries.put.aio("k", 2))
            await asyncio.to_thread(until, lambda: eye.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 5
            assert eye.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
            blocker.rollback()
        assert await entries.get.aio("k") == 1

    asyncio.run(main())


def test_a_cancelled_wait_leaves_nobody_registered(call, client, queue, eye):
    """
    Else every put would notify for ever, which makes all commits of the database wait for each other.
    """
    for _ in range(3):
        with pytest.raises(pgstore.errors.QueueEmpty):
            call(queue.get, timeout=0.05)
    if call.form == "aio":

        async def cancel():
            task = asyncio.create_task(queue.get.aio())
            await asyncio.to_thread(until, eye.waiting)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(until, lambda: not eye.waiting(), 10.0)

        call.run(cancel())
    else:
        until(lambda: not eye.waiting(), 10.0)


# --------------------------------------------------------------------------------------------------------------- Ctrl-C


def press_ctrl_c():
    """As the terminal does: the main thread is hit, and what it waits for is interrupted."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def every_line(function, step=1, where=None):
    """
    Call *function* again and again, raising KeyboardInterrupt before the first, the second, the third ... line that the package
    runs in it; yields where, and what it returned or None if it was interrupted, until it gets through.
    *step* leaves lines out where there are many, *where* those that it does not say yes to.
    """
    number = 0
    while True:
        number += step
        left = number
        place: str | None = None

        def trace(frame, event, arg):
            nonlocal left, place
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            if event == "line" and place is None and can_be_interrupted(frame) and (where is None or where(frame)):
                left -= 1
                if not left:
                    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            result = function()
        except KeyboardInterrupt:
            result = None
        finally:
            sys.settrace(None)
        yield place, result
        if not place:
            assert number > 30
            return


def can_be_interrupted(frame):
    """
    Not between a `with` block and the call of `__exit__`, nor between an expression and its return: there Python looks at no
    signals, as it does not at an assignment with which a `finally` begins. It does at the beginning of an `__exit__` written in
    Python, and then nobody can help. In a finaliser, such as the pool's `_leave`, Python drops the interrupt.
    """
    if frame.f_code.co_name == "_leave":
        return False
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return not re.match(
        r"try:|with |async with |except StopIteration|return [\w.]+($| )|self\.is_at_work = False", line
    )


def calls_or_turns(frame):
    """Whether the line calls something or is the head of a loop."""
    return calls(frame) or linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("while ")


def calls(frame):
    """Whether the line calls something: only there, and at the end of a loop, Python looks at signals."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return "(" in line and not line.startswith(("except", "def ")) and frame.f_code.co_name != "__del__"


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
def test_an_interrupt_before_any_line_of_a_get_loses_and_doubles_nothing(client, queue, eye, monkeypatch, pooled):
    """
    Python raises KeyboardInterrupt between any two lines, also between the arrival of an item and its return.
    """
    queue.put("warm")
    queue.get()
    if pooled:
        client._blocking.pool._local.slot.free[0].prepared = None
    queue.put_many(["a", "b", "c"])

    for place, item in every_line(lambda: queue.get(block=False)):
        if item is not None:
            queue.put(item)
        assert eye.rows("SELECT count(*), count(DISTINCT payload) FROM pgstore.queue_item") == [(3, 3)], place
        assert limit.current() is None, f"the next call has the bound of this one: {place}"


@pytest.mark.parametrize("first", [(SpinWait, "catch"), (PartitionState, "note")], ids=["on its way", "in hand"])
def test_a_second_interrupt_before_any_line_after_the_first_loses_and_doubles_nothing(
    client, queue, eye, monkeypatch, first
):
    """
    Two programs send Ctrl-C at once: the second may come before the first has set about tidying up.
    """
    owner, name = first
    queue.put("warm")
    queue.get()
    queue.put_many(["a", "b", "c"])
    original = getattr(owner, name)
    pressed: list[int] = []

    def press(self, *arguments):
        if sys.gettrace() is None or pressed:
            return original(self, *arguments)
        pressed.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, press)
    number, place = 0, "none yet"
    while place:
        number += 1
        pressed.clear()
        place = _interrupted_after(pressed, number, lambda: queue.get(block=False))
        until(lambda: not putting_back())
        counts = eye.rows("SELECT count(*), count(DISTINCT payload) FROM pgstore.queue_item")
        assert counts == [(3, 3)], (number, place)

    assert number > 20


def _interrupted_after(pressed, number, function):
    """Call *function*, interrupting it before the line that is *number* lines on since it was *pressed*; where that was."""
    left = number
    place: str | None = None

    def trace(frame, event, arg):
        nonlocal left, place
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and pressed and place is None and can_be_interrupted(frame) and calls(frame):
            left -= 1
            if not left:
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            function()
    finally:
        sys.settrace(None)
    return place


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_interrupt_while_the_answers_to_a_get_that_begins_a_transaction_are_read_loses_nothing(
    client, queue, eye, monkeypatch, number
):
    """
    To BEGIN, to the get, and to the question for the transaction's number; whoever catches Ctrl-C around `get` still commits.
    """
    queue.put("warm")
    queue.get()
    queue.put("item")
    read = connection.Connection.read
    calls = itertools.count(1)

    def interrupted(self, result, statement=None, **how):
        if next(calls) == number:
            raise KeyboardInterrupt
        return read(self, result, statement, **how)

    with client.transaction():
        monkeypatch.setattr(connection.Connection, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.get(block=False)
        monkeypatch.setattr(connection.Connection, "read", read)

    assert eye.rows("SELECT count(*) FROM pgstore.queue_item") == [(1,)]
    assert queue.get(block=False) == "item"


def test_an_interrupt_while_the_answer_to_a_failed_begin_is_read_is_what_the_caller_hears_of(
    client, queue, monkeypatch
):
    """
    The answer to the get, which the server then skipped, is not looked for.
    """
    queue.put("item")
    monkeypatch.setattr(connection.base, "BEGIN", Statement("BEGIN ISOLATION LEVEL WRONG"))
    read = connection.Connection.read

    def interrupted(self, result, statement=None, **how):
        if result.status == ExecStatus.FATAL_ERROR:
            monkeypatch.setattr(connection.Connection, "read", read)
            raise KeyboardInterrupt
        return read(self, result, statement, **how)

    with pytest.raises(KeyboardInterrupt), client.transaction():
        monkeypatch.setattr(connection.Connection, "read", interrupted)
        queue.get(block=False)

    monkeypatch.undo()
    assert queue.get(block=False) == "item"


def test_an_interrupt_before_any_line_of_a_get_in_a_transaction_that_goes_on_loses_nothing(client, queue, eye):
    """
    The first statement, which comes with BEGIN: whoever catches Ctrl-C around `get` still commits, unless it came while answers
    were being taken apart, which costs the connection and with it all of the transaction.
    """
    queue.put("warm")
    queue.get()
    queue.put_many(["a", "b", "c"])
    gets = every_line(lambda: queue.get(block=False))

    place = "before the first"
    while place:
        with contextlib.suppress(pgstore.errors.StoreUnavailable), client.transaction():
            place, item = next(gets)
            if item is not None:
                queue.put(item)
        assert eye.rows("SELECT count(*), count(DISTINCT payload) FROM pgstore.queue_item") == [(3, 3)], place


def test_an_interrupt_before_any_line_of_a_lease_gives_the_item_back(client, queue, eye):
    """
    At once, not when the lease ends.
    """
    queue.put("warm")
    queue.get(lease=600).ack()
    queue.put_many(["a", "b", "c"])

    for place, lease in every_line(lambda: queue.get(block=False, lease=600)):
        if lease is not None:
            lease.nack(0)
        assert eye.rows("SELECT count(*), count(DISTINCT payload) FROM pgstore.queue_item") == [(3, 3)], place


def test_an_interrupt_before_any_line_of_a_waiting_get_loses_and_doubles_nothing(client, queue, eye, monkeypatch):
    """
    The long way: it finds nothing, registers, looks, takes.
    """
    with pytest.raises(pgstore.errors.QueueEmpty):
        queue.get(timeout=0.01)
    original = pgstore.Queue._try_take
    looks = []

    def look(self, *arguments):
        looks.append(1)
        if len(looks) == 1:
            return []
        return (yield from original(self, *arguments))

    monkeypatch.setattr(pgstore.Queue, "_try_take", look)
    queue.put_many(["a", "b", "c"])

    def get():
        looks.clear()
        return queue.get(timeout=5)

    for place, item in every_line(get, step=3):
        if item is not None:
            queue.put(item)
        assert eye.rows("SELECT count(*), count(DISTINCT payload) FROM pgstore.queue_item") == [(3, 3)], place

    until(lambda: not eye.waiting(), 10.0)


def test_an_interrupt_before_any_line_of_a_pop_loses_nothing(client, eye):
    entries = pgstore.Dict.persist("entries", client=client)
    entries[1, 2] = {"value": 1}
    entries.pop("absent")

    for place, value in every_line(lambda: entries.pop((1, 2))):
        if value is not None:
            entries[1, 2] = value
        assert eye.value("SELECT count(*) FROM pgstore.dict_entry") == 1, place


@pytest.mark.parametrize("kind", ["get_many", "pop"])
def test_an_interrupt_before_any_line_of_what_puts_back_what_cannot_be_loaded_loses_nothing(client, eye, kind):
    """
    What was taken is in nobody's hands between the failure and the statement that puts it back.
    """
    queue = pgstore.Queue.persist("queue", client=client).hydrate()
    entries = pgstore.Dict.persist("entries", client=client)
    queue.put_many(["a", "b", "c"])
    entries.update({"k": "a", "l": "b", "m": "c"})
    eye.rows(
        "UPDATE pgstore.queue_item SET payload = '\\x8004522e' WHERE id = (SELECT min(id) FROM pgstore.queue_item)"
    )
    eye.rows("UPDATE pgstore.dict_entry SET value = '\\x8004522e' WHERE key = 'k'")

    def take():
        with contextlib.suppress(pgstore.errors.DeserializationError):
            queue.get_many(3, block=False) if kind == "get_many" else entries.pop("k")

    for place, _ in every_line(take):
        until(lambda: not putting_back())
        assert eye.value("SELECT count(*) FROM pgstore.queue_item") == 3, place
        assert eye.value("SELECT count(*) FROM pgstore.dict_entry") == 3, place


@pytest.mark.parametrize("kind", ["get", "lease", "pop", "pop_many"])
def test_an_interrupt_before_any_line_in_a_joined_transaction_that_goes_on_loses_nothing(
    client, own_database, queue, eye, kind
):
    """
    Psycopg forgets the answer to what it could not stop; whoever catches Ctrl-C in the block still commits.
    """
    entries = pgstore.Dict.persist("entries", client=client)
    take = {
        "get": lambda: queue.get(block=False),
        "lease": lambda: queue.get(block=False, lease=600),
        "pop": lambda: entries.pop("k"),
        "pop_many": lambda: entries.pop_many(["k", "l"]),
    }[kind]

    def fill():
        queue.clear()
        eye.rows("DELETE FROM pgstore.queue_deferred")
        queue.put_many(["a", "b"])
        entries.update({"k": ("v",), "l": ("w",)})

    fill()
    take()
    fill()
    place = "before the first"
    takes = every_line(take, where=calls_or_turns)
    with psycopg.connect(own_database) as connection:
        while place:
            result = None
            with contextlib.suppress(pgstore.errors.TransactionFailed), client.transaction(connection=connection):
                place, result = next(takes)
            connection.commit()
            if result is not None:
                fill()
            assert eye.value("SELECT count(*) FROM pgstore.queue_item") == 2, place
            assert eye.value("SELECT count(*) FROM pgstore.dict_entry") == 2, place


def test_a_cancelled_take_in_a_joined_transaction_that_goes_on_loses_nothing(client, own_database, eye):
    """
    A time limit around a get is caught in the block, so the caller's transaction commits.
    """
    queue = pgstore.Queue.persist("queue", client=client).hydrate()
    entries = pgstore.Dict.persist("entries", client=client)
    rng = random.Random(6)

    async def main():
        interrupted = 0
        await queue.put_many.aio(range(3))
        await entries.put.aio("k", ("v",))
        async with await psycopg.AsyncConnection.connect(own_database) as connection:
            for _ in range(120):
                got, value = [], None
                with contextlib.suppress(pgstore.errors.TransactionFailed):
                    async with client.transaction(connection=connection):
                        try:
                            async with asyncio.timeout(0.004 * rng.random() ** 2):
                                got.append(await queue.get.aio(block=False))
                                value = await entries.pop.aio("k")
                        except TimeoutError:
                            interrupted += 1
                        if value is not None:
                            await entries.put.aio("k", value)
                        if got:
                            await queue.put_many.aio(got)
                await connection.commit()
                assert eye.value("SELECT count(*) FROM pgstore.queue_item") == 3
                assert eye.value("SELECT count(*) FROM pgstore.dict_entry") == 1
        return interrupted

    assert asyncio.run(main()) > 5


def test_an_interrupt_before_any_line_of_a_transaction_commits_all_or_nothing(client, queue, eye):
    entries = pgstore.Dict.persist("entries", client=client)
    entries["n"] = 0
    queue.put(0)

    def move():
        with client.transaction():
            item = queue.get(timeout=5)
            entries["n"] = item + 1
            queue.put(item + 1)
        return True

    for place, _ in every_line(move, step=3):
        assert not any(not tx.ended for tx in AMBIENT.get()), place
        assert eye.items() == 1, place
        with client.transaction():
            item = queue.get(timeout=5)
            assert item == entries["n"], place
            queue.put(item)


@pytest.mark.parametrize("form", ["blocking", "aio"])
def test_an_interrupt_on_the_way_out_does_not_lose_what_steps_return(form):
    """
    When they have returned there is nothing left that could put it back.
    """
    returned = []

    class Step:
        def __await__(self):
            return iter(())

    def steps():
        for _ in range(20):
            yield Step()
        returned.append("item")
        return "item"

    def run():
        returned.clear()
        if form == "blocking":
            return run_blocking(steps())
        try:
            run_async(steps()).send(None)
        except StopIteration as done:
            return done.value

    for place, result in every_line(run):
        assert returned == ([result] if result else []), place


def test_interrupts_do_not_use_up_the_connections(own_database):
    """
    A connection that is lost between two lines must not count for ever: after ten such the program would stand still.
    """
    with pgstore.Client(own_database, connections_max=2) as client:
        queue = pgstore.Queue.persist("queue", client=client)
        queue.put("item")

        for _, item in every_line(lambda: queue.get(block=False), step=5):
            if item is not None:
                queue.put(item)

        with client.transaction():
            queue.put("a")
            assert Background(queue.len).result() == 1


PROGRAM = """
import os, signal, sys
import pgstore

PACKAGE = os.path.dirname(pgstore.__file__)

def interrupt(number, frame):
    # Ctrl-C in the user's own line is the user's: what `get` returned is then theirs already.
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code.co_name == "run":
            raise KeyboardInterrupt
        frame = frame.f_back
    os.write(1, b".")

signal.signal(signal.SIGINT, interrupt)
client = pgstore.Client(sys.argv[1])
queue = pgstore.Queue.persist("queue", client=client)
done = pgstore.Queue.persist("done", client=client)
queue.hydrate()
print("ready", flush=True)
received, interrupted = [], 0
while True:
    try:
        item = queue.get()
    except KeyboardInterrupt:
        interrupted += 1
        os.write(1, b".")
        continue
    received.append(item)
    if item == "end":
        break
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(interrupted)
print(*received[:-1])
client.close()
"""


def test_ctrl_c_at_random_moments_loses_and_doubles_nothing(client, queue, eye):
    """
    A worker that handles Ctrl-C and goes on, as every interactive session does.
    """
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, eye.url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(PACKAGE),
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        rng = random.Random(6)
        for number in range(400):
            queue.put(number)
            for _ in range(rng.randrange(20_000)):
                pass
            program.send_signal(signal.SIGINT)
            assert program.stdout.read(1) == "."  # a second one would give up what the first has begun to tidy up
        queue.put("end")
        output = program.stdout.read().splitlines()

    assert int(output[0]) > 20
    assert sorted(map(int, output[1].split())) == list(range(400))
    assert eye.items() == 0


def test_ctrl_c_ends_a_wait_for_a_row_lock_promptly_and_cancels_the_statement(client, own_database, eye):
    """
    The program is told, and the server does not go on waiting for it.
    """
    entries = pgstore.Dict.persist("entries", client=client)
    entries["k"] = 1

    def interrupt():
        until(lambda: eye.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        press_ctrl_c()

    with psycopg.connect(own_database) as blocker:
        blocker.execute("UPDATE pgstore.dict_entry SET updated_at = updated_at")
        thread = threading.Thread(target=interrupt)
        thread.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            entries["k"] = 2
        assert time.monotonic() - began < connection.SETTLE_SECONDS
        thread.join()
        assert eye.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
        blocker.rollback()

    assert entries["k"] == 1


def test_ctrl_c_while_the_server_is_unreachable_is_still_ctrl_c(own_database, proxy):
    """
    The statement can neither be finished nor cancelled: what comes out is the interrupt, not an error of the cancelling.
    """
    with pgstore.Client(proxy.url(own_database)) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        proxy.stall("server")
        sent = proxy.bytes_from["client"]

        def interrupt():
            until(lambda: proxy.bytes_from["client"] > sent)
            proxy.refuse()
            press_ctrl_c()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            entries.get("k")
        thread.join()
        proxy.accept()
        proxy.resume()
        assert entries["k"] == 1


def test_ctrl_c_ends_a_wait_for_a_connection(own_database):
    with pgstore.Client(own_database, connections_max=1) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        held, release = threading.Event(), threading.Event()

        def hold():
            with client.transaction():
                entries["k"] = 2
                held.set()
                release.wait(30)

        holder = Background(hold)
        held.wait(30)
        threading.Timer(0.1, press_ctrl_c).start()
        with pytest.raises(KeyboardInterrupt):
            entries.get("k")
        release.set()
        holder.result()
        assert entries["k"] == 2
