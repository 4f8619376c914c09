"""Spawned calls as rows: when they exist, who runs them, how they end. What runs them here are threads; see also test_worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

import pgstore
from pgstore import errors
from pgstore.admin import calls as admin
from pgstore.app import pickles
from pgstore.app.calls import FunctionCall
from pgstore.app.calls.dispatcher import Dispatcher
from pgstore.app.calls.ending import Ending
from pgstore.app.calls.queue import CallQueue, StartedCall, packed, partition_of
from pgstore.app.calls.targets import Target, app_name
from pgstore.app.options import Options
from pgstore.app.pickles import Outcome
from pgstore.app.retries import Retries
from pgstore.app.spec import Input, Program, WorkerSpec
from pgstore.queue.state import PartitionState

NOWHERE = Program("none", "", None)


class Threads:
    """Runs inputs of `functions` in threads of this process."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.functions = functions
        self.cancelled: list[bool] = []

    def submit(self, spec: WorkerSpec, given: Input) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        threading.Thread(target=self._run, args=(spec.name, given, future), daemon=True).start()
        return future

    def _run(self, name: str, given: Input, future: Future[Outcome]) -> None:
        args, kwargs = pickles.loads(given.arguments, "the arguments")
        try:
            outcome = Outcome(pickles.dumps(self.functions[name](*args, **kwargs), "the result", NOWHERE), False)
        except Exception as exc:
            outcome = pickles.failed(exc, NOWHERE, name, None)
        if not future.done():
            future.set_result(outcome)

    def cancel(self, future: Future[Outcome], *, kill: bool = False) -> None:
        self.cancelled.append(kill)
        if not future.done():
            future.set_result(pickles.failed_here(errors.RemoteError("stopped")))


@pytest.fixture
def queue(client, store_name) -> CallQueue:
    return CallQueue.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def take(queue) -> Iterator[Callable[..., Dispatcher]]:
    """Begins to take the calls of functions."""
    begun = []

    def take(run: int | None = None, retries: Retries | None = None, **functions: Callable[..., Any]) -> Dispatcher:
        dispatcher = Dispatcher(queue, Threads(functions), run)
        options = Options(retries=retries, max_containers=2)
        dispatcher.serve(Target(name, partial(spec_of, name), options) for name in functions)
        begun.append(dispatcher)
        return dispatcher

    yield take
    for dispatcher in begun:
        dispatcher.stop(0)


@pytest.fixture
def own_rows(sql, store_name) -> Iterator[str]:
    """A table of the user's."""
    name = f"own_{store_name.replace('-', '_').replace('.', '_')}".lower()
    sql(f"CREATE TABLE {name} (number integer)")
    yield name
    sql(f"DROP TABLE {name}")


def spec_of(name: str, parameters: bytes | None) -> WorkerSpec:
    return WorkerSpec(name, NOWHERE, name)


def given(*args: Any, **kwargs: Any) -> bytes:
    return packed(pickles.dumps((args, kwargs), "the arguments", NOWHERE))


def spawned(queue: CallQueue, function: str, *args: Any, run: int | None = None) -> FunctionCall:
    return FunctionCall(queue.spawn(function, [given(*args)], run)[0], queue._runner)


def state(client: Any, call: FunctionCall) -> str:
    return admin.call(client, call.object_id).state


# ------------------------------------------------------------------------------------------------------ when they exist


def test_a_spawned_call_is_a_row_that_everybody_can_read(queue, call, sql):
    (call_id,) = call(queue.spawn, "f", [given(1)])

    row = sql("SELECT app, function, state, attempts, error FROM pgstore.calls WHERE call_id = %s", call_id)
    assert row == [(queue.name, "f", "pending", 0, None)]


def test_a_call_exists_if_and_only_if_the_rows_of_its_transaction_do(queue, own_rows, sql, client):
    """
    A transactional outbox: neither an order without its work, nor work without the order.
    """
    with client.transaction() as tx:
        tx.connection.execute(f"INSERT INTO {own_rows} VALUES (1)")
        kept = spawned(queue, "f", 1)
        assert sql("SELECT count(*) FROM pgstore.calls WHERE app = %s", queue.name) == [(0,)]
    with pytest.raises(ZeroDivisionError), client.transaction() as tx:
        tx.connection.execute(f"INSERT INTO {own_rows} VALUES (2)")
        dropped = spawned(queue, "f", 2)
        raise ZeroDivisionError

    assert sql(f"SELECT number FROM {own_rows}") == [(1,)]
    assert state(client, kept) == "pending"
    with pytest.raises(pgstore.NotFoundError, match="rolled back"):
        dropped.get(timeout=0)


def test_a_call_is_part_of_a_transaction_of_psycopg_that_was_joined(queue, own_rows, client, database):
    with psycopg.connect(database) as connection:
        with client.transaction(connection=connection):
            connection.execute(f"INSERT INTO {own_rows} VALUES (1)")
            dropped = spawned(queue, "f")
        connection.rollback()
        with client.transaction(connection=connection):
            kept = spawned(queue, "f")
        connection.commit()

    assert [each.id for each in admin.calls(client, queue.name)] == [kept.object_id]
    with pytest.raises(pgstore.NotFoundError):
        dropped.get(timeout=0)


def test_a_call_is_part_of_a_session_of_sqlalchemy_that_was_joined(queue, client, database, take):
    """
    And whoever waits for it is told when the caller commits.
    """
    take(f=lambda: 5)
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(database).set(drivername="postgresql+psycopg"))
    with Session(engine) as session:
        with client.transaction(connection=session):
            dropped = spawned(queue, "f")
        session.rollback()
        with client.transaction(connection=session):
            kept = spawned(queue, "f")
        session.commit()
    engine.dispose()

    assert kept.get(timeout=10) == 5
    with pytest.raises(pgstore.NotFoundError):
        dropped.get(timeout=0)


def test_a_savepoint_that_is_rolled_back_takes_its_calls_along(queue, client):
    with client.transaction():
        spawned(queue, "f", 1)
        with pytest.raises(ZeroDivisionError), client.transaction():
            spawned(queue, "f", 2)
            raise ZeroDivisionError

    assert [each.function for each in admin.calls(client, queue.name)] == ["f"]


def test_many_are_spawned_all_or_none_and_in_order(queue, call, take):
    ids = call(queue.spawn, "f", [given(number) for number in range(20)])
    take(f=lambda number: number)

    calls = [FunctionCall(each, queue._runner) for each in ids]
    assert [each.get(timeout=10) for each in calls] == list(range(20))


# ------------------------------------------------------------------------------------------------------- how they end


def test_get_waits_and_gives_the_result_again_and_to_anybody(queue, call, take, client_elsewhere):
    take(f=lambda a, b: a + b)
    spawned_call = spawned(queue, "f", 1, 2)

    assert call(spawned_call.get) == 3
    assert call(spawned_call.get, timeout=0) == 3
    assert FunctionCall.from_id(spawned_call.object_id, client_elsewhere).get() == 3


def test_get_raises_what_the_function_raised(queue, call, take):
    def f(_: object) -> None:
        raise KeyError("nothing there")

    take(f=f)

    with pytest.raises(KeyError, match="nothing there") as caught:
        call(spawned(queue, "f", 1).get)
    assert any("In the worker" in note for note in caught.value.__notes__)


def test_get_of_a_call_that_has_not_ended_is_a_timeout_of_pythons(queue, call):
    pending = spawned(queue, "f")

    for seconds in (0, 0.05):
        with pytest.raises(TimeoutError, match="has not ended") as caught:
            call(pending.get, timeout=seconds)
        assert not isinstance(caught.value, pgstore.exception.TimeoutError)


def test_who_waits_for_a_call_that_no_worker_takes_is_told_once_what_to_do(queue, client, monkeypatch, caplog):
    """
    A program that spawned without a run would wait for ever, and not know for what.
    """
    monkeypatch.setattr("pgstore.app.calls.function_call._TAKEN_SECONDS", 0.0)
    mine = spawned(queue, "f", run=client.run(client.session.current()))
    pending = spawned(queue, "f")

    for call in (mine, pending, pending):
        with pytest.raises(TimeoutError):
            call.get(timeout=0)

    assert caplog.messages == [
        f"{pending!r} waits for a worker: run `pgstore worker FILE`, or spawn it within `app.run()`"
    ]


def test_an_outcome_is_kept_for_seven_days_and_its_row_for_thirty(queue, call, take, sql):
    take(f=lambda: 1)
    old = spawned(queue, "f")
    old.get()

    def ended(ago: str) -> None:
        sql("UPDATE pgstore.spawned_call SET ended_at = now() - %s::interval WHERE id = %s", ago, old._number)
        queue.collect()

    ended("6 days 23 hours")
    assert call(old.get) == 1
    ended("7 days 1 minute")
    assert sql("SELECT outcome FROM pgstore.spawned_call WHERE id = %s", old._number) == [(None,)]
    with pytest.raises(pgstore.exception.OutputExpiredError, match="7 days"):
        call(old.get)
    ended("30 days 1 minute")
    with pytest.raises(pgstore.NotFoundError):
        call(old.get)


def test_get_is_refused_in_a_transaction_that_has_written(queue, client):
    """
    The call could not see what was written, and may wait for its locks: for ever.
    """
    pending = spawned(queue, "f")

    with client.transaction():
        with pytest.raises(TimeoutError):
            pending.get(timeout=0)  # nothing written yet
        spawned(queue, "f")
        with pytest.raises(pgstore.InvalidError, match="has written"):
            pending.get(timeout=0)


@pytest.mark.parametrize("wrong", ["", "fc-", "fc-1", "fc-g-1", "fc-1-1-1", 7, None, "fc-ffffffffffffffff-1"])
def test_what_is_no_id_of_a_call_is_refused(wrong):
    with pytest.raises(pgstore.InvalidError, match="is not the id of a call"):
        FunctionCall.from_id(wrong)


def test_an_unknown_id_is_not_found(client, call):
    with pytest.raises(pgstore.NotFoundError, match="no call 'fc-1-1'"):
        call(FunctionCall.from_id("fc-1-1", client).get)
    with pytest.raises(pgstore.NotFoundError, match="no call 'fc-1-1'"):
        call(FunctionCall.from_id("fc-1-1", client).cancel)


def test_gather_gives_all_results_in_order_and_raises_the_first_failure(queue, take, call):
    take(f=lambda number: 6 // number)
    good, bad = [spawned(queue, "f", number) for number in (1, 2, 3)], spawned(queue, "f", 0)

    assert call(FunctionCall.gather, *good) == [6, 3, 2]
    with pytest.raises(ZeroDivisionError):
        call(FunctionCall.gather, *good, bad)


def test_a_call_travels_by_its_id_and_the_graph_of_calls_is_not_kept():
    import pickle

    call = FunctionCall.from_id("fc-2a-17")

    assert pickle.loads(pickle.dumps(call)) == call
    with pytest.raises(pgstore.InvalidError, match="not kept here"):
        call.get_call_graph()


# --------------------------------------------------------------------------------------------------------- cancelling


def test_a_pending_call_that_is_cancelled_never_runs(queue, call, take, client):
    ran: list[int] = []
    first = spawned(queue, "f", 1)
    call(first.cancel)
    last = spawned(queue, "f", 2)
    take(f=ran.append)
    last.get(timeout=10)

    assert ran == [2]
    assert state(client, first) == "cancelled"
    with pytest.raises(errors.RemoteError, match="was cancelled"):
        call(first.get)
    assert queue.len(total=True) == 0


@pytest.mark.parametrize("kill", [False, True])
def test_a_running_call_that_is_cancelled_is_stopped_and_counts_no_more(queue, call, take, client, kill):
    begun, stop = threading.Event(), threading.Event()

    def f() -> None:
        begun.set()
        stop.wait(10)

    dispatcher = take(f=f, retries=Retries(max_retries=3))
    running = spawned(queue, "f")
    assert begun.wait(10)
    call(running.cancel, terminate_containers=kill)

    with pytest.raises(errors.RemoteError, match="was cancelled"):
        call(running.get, timeout=10)
    until(lambda: dispatcher._runner.cancelled == [kill])
    stop.set()
    assert state(client, running) == "cancelled"


def test_cancelling_a_call_that_has_ended_does_nothing(queue, call, take):
    take(f=lambda: 1)
    ended = spawned(queue, "f")
    ended.get(timeout=10)

    call(ended.cancel)

    assert ended.get() == 1


# ------------------------------------------------------------------------------------------------ retries, lost workers


def test_a_call_that_fails_is_repeated_as_often_as_its_retries_say(queue, take, client):
    failures: list[int] = []

    def f() -> int:
        failures.append(1)
        if len(failures) < 3:
            raise ValueError(f"attempt {len(failures)}")
        return len(failures)

    take(f=f, retries=Retries(max_retries=2, initial_delay=0, backoff_coefficient=1))
    repeated = spawned(queue, "f")

    assert repeated.get(timeout=10) == 3
    row = admin.call(client, repeated.object_id)
    assert (row.state, row.attempts, row.error) == ("done", 3, "ValueError: attempt 2")


def test_the_last_failure_is_raised_when_there_are_no_more_retries(queue, take, client):
    numbers = iter(range(1, 10))

    def f() -> None:
        raise ValueError(f"attempt {next(numbers)}")

    take(f=f, retries=Retries(max_retries=1, initial_delay=0))
    failing = spawned(queue, "f")

    with pytest.raises(ValueError, match="attempt 2"):
        failing.get(timeout=10)
    assert state(client, failing) == "failed"


def begun(queue: CallQueue) -> StartedCall:
    """A call that a worker has taken."""
    started = queue.begun("f", queue.get(partition="f", lease=60))
    assert started is not None
    return started


def lose(queue: CallQueue, sql: Any) -> None:
    """Take a call as a worker that is then killed, and let the time of its lease pass."""
    begun(queue)
    ((store_id,),) = sql("SELECT id FROM pgstore.store WHERE name = %s", queue.name)
    sql("UPDATE pgstore.queue_deferred SET due_at = now() - interval '1 s' WHERE store_id = %s", store_id)


@pytest.mark.parametrize("retries", [None, Retries(max_retries=1, initial_delay=0)])
def test_a_call_whose_worker_is_lost_counts_an_attempt_and_follows_its_retries(queue, take, sql, client, retries):
    lost = spawned(queue, "f")
    lose(queue, sql)
    assert state(client, lost) == "pending"

    take(f=lambda: "done", retries=retries)

    if retries is None:
        with pytest.raises(errors.RemoteError, match="was lost"):
            lost.get(timeout=10)
    else:
        assert lost.get(timeout=10) == "done"
    assert admin.call(client, lost.object_id).attempts == (1 if retries is None else 2)


def test_a_worker_that_was_away_for_too_long_changes_nothing(queue, sql, client, take):
    """
    Its call is another's by now: there is one outcome.
    """
    call = spawned(queue, "f")
    late = begun(queue)
    sql("UPDATE pgstore.queue_deferred SET due_at = now() - interval '1 s' WHERE id = %s", late.lease.token[0])
    take(f=lambda: "the other's", retries=Retries(max_retries=1))
    assert call.get(timeout=10) == "the other's"

    outcome = Outcome(pickles.dumps("mine", "the result", NOWHERE), False)
    assert client.run(late.ending.end(client, outcome)) is False
    assert call.get() == "the other's"


def test_the_end_of_a_call_is_part_of_the_transaction_that_it_is_written_in(queue, client, own_rows, sql):
    call = spawned(queue, "f")
    started = begun(queue)
    ending: Ending = started.ending
    outcome = Outcome(pickles.dumps(7, "the result", NOWHERE), False)

    with pytest.raises(ZeroDivisionError), client.transaction() as tx:
        tx.connection.execute(f"INSERT INTO {own_rows} VALUES (1)")
        assert client.run(ending.end(client, outcome))
        raise ZeroDivisionError
    assert state(client, call) == "running"
    with client.transaction() as tx:
        tx.connection.execute(f"INSERT INTO {own_rows} VALUES (2)")
        assert client.run(ending.end(client, outcome))

    assert call.get(timeout=0) == 7
    assert sql(f"SELECT number FROM {own_rows}") == [(2,)]


def test_a_call_that_nobody_has_got_counts_no_attempt(queue, client, take, monkeypatch):
    """
    Whoever takes it is interrupted just then.
    """

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    call = spawned(queue, "f")
    with monkeypatch.context() as patch:
        patch.setattr(PartitionState, "note", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.get(partition="f", lease=60)

    assert (state(client, call), admin.call(client, call.object_id).attempts) == ("pending", 0)
    take(f=lambda: "once")
    assert call.get(timeout=10) == "once"


# ------------------------------------------------------------------------------------------------------------- workers


def test_functions_do_not_wait_for_each_other(queue, take):
    """
    One whose workers are all busy takes no more, and keeps no other waiting.
    """
    stop = threading.Event()
    dispatcher = take(slow=lambda: stop.wait(20), quick=lambda: "quick")
    dispatcher.serve(tuple(dispatcher._targets.values()))  # as each further spawn in a run does
    slow = [spawned(queue, "slow") for _ in range(5)]

    assert spawned(queue, "quick").get(timeout=10) == "quick"
    states = [state(queue._runner, each) for each in slow]
    stop.set()
    assert sorted(states) == ["pending", "pending", "pending", "running", "running"]
    assert FunctionCall.gather(*slow) == [True] * 5


def test_a_call_with_damaged_arguments_fails_and_others_of_its_function_go_on(queue, take, sql):
    broken, whole = spawned(queue, "f", 1), spawned(queue, "f", 2)
    sql("UPDATE pgstore.spawned_call SET arguments = 'no pickle' WHERE id = %s", broken._number)

    take(f=lambda number: number)

    assert whole.get(timeout=10) == 2
    with pytest.raises(pgstore.DeserializationError, match="the arguments of"):
        broken.get(timeout=10)


def test_a_dispatcher_that_stops_ends_what_runs_and_leaves_the_rest(queue, take, client):
    begun, stop = threading.Event(), threading.Event()

    def f() -> str:
        begun.set()
        stop.wait(20)
        return "done"

    dispatcher = take(f=f)
    running = [spawned(queue, "f") for _ in range(3)]
    assert begun.wait(10)
    until(lambda: dispatcher.running == 2)
    stopping = threading.Thread(target=dispatcher.stop)
    stopping.start()
    until(dispatcher._stopping.is_set)
    stop.set()
    stopping.join()

    assert [state(client, each) for each in running] == ["done", "done", "pending"]


def test_calls_of_a_run_are_taken_by_it_alone_and_cancelled_with_it(queue, take, client):
    run = client.run(client.session.current())
    mine, other = spawned(queue, "f", run=run), spawned(queue, "f")
    take(f=lambda: "any worker's")
    assert other.get(timeout=10) == "any worker's"

    assert state(client, mine) == "pending"
    assert (queue.unended(run), queue.cancel_run(run), queue.unended(run)) == (1, 1, 0)
    assert state(client, mine) == "cancelled"
    assert queue.len(total=True) == 0


def test_a_call_of_a_run_that_was_killed_is_cancelled(queue, call, client, sql):
    """
    Nobody waits for it for ever, and its rows go when somebody collects.
    """
    ((run,),) = sql("INSERT INTO pgstore.session (host, pid) VALUES ('elsewhere', 1) RETURNING id")
    orphan = spawned(queue, "f", run=run)
    sql("DELETE FROM pgstore.session WHERE id = %s", run)

    assert state(client, orphan) == "cancelled"
    with pytest.raises(errors.RemoteError, match="the run that was to take it has ended"):
        call(orphan.get)
    queue.collect()
    assert queue.len(total=True) == 0


def test_many_who_wait_for_one_call_are_all_told(queue, client):
    pending = spawned(queue, "f")
    started = begun(queue)
    outcome = Outcome(pickles.dumps(7, "the result", NOWHERE), False)

    async def wait() -> tuple[list[int], float]:
        waiting = [asyncio.ensure_future(pending.get.aio()) for _ in range(5)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await client.run_async(started.ending.end(client, outcome))
        return await asyncio.gather(*waiting), time.monotonic() - began

    async def main() -> tuple[list[int], float]:
        try:
            return await wait()
        finally:
            await client.aclose()

    results, seconds = asyncio.run(main())
    assert results == [7] * 5
    assert seconds < 0.7  # who is not told looks after a second


# -------------------------------------------------------------------------------------------------------------- signing


def test_with_signing_keys_nothing_is_loaded_that_no_key_has_signed(database, store_name, client, sql):
    """
    Whoever may write to the table may not run code in workers, nor in those who ask.
    """
    key = b"k" * 32
    keyed = pgstore.Client(database, signing_keys=[key])
    queue = CallQueue.from_name(store_name, create_if_missing=True, client=keyed)
    unsigned = spawned(CallQueue.from_name(store_name, create_if_missing=True, client=client), "f", 1)
    signed = spawned(queue, "f", 2)
    moved = spawned(queue, "g", 3)
    sql("UPDATE pgstore.spawned_call SET function = 'f' WHERE id = %s", moved._number)
    ran: list[int] = []

    def f(number: int) -> int:
        ran.append(number)
        return number

    dispatcher = Dispatcher(queue, Threads({"f": f}))
    dispatcher.serve([Target("f", partial(spec_of, "f"), Options())])

    assert FunctionCall(signed.object_id, keyed).get(timeout=10) == 2
    with pytest.raises(pgstore.DeserializationError, match="not signed"):
        FunctionCall(unsigned.object_id, keyed).get(timeout=10)
    payload = sql("SELECT outcome FROM pgstore.spawned_call WHERE id = %s", signed._number)[0][0]
    sql(
        "UPDATE pgstore.spawned_call SET outcome = %s, codec = 's', state = 'd' WHERE id = %s",
        payload,
        unsigned._number,
    )
    with pytest.raises(pgstore.DeserializationError, match="signed by none"):
        FunctionCall(unsigned.object_id, keyed).get(timeout=10)
    dispatcher.stop(0)
    keyed.close()
    assert ran == [2]


# ---------------------------------------------------------------------------------------------------------------- names


def test_every_function_has_a_partition_of_a_queue():
    """
    Names of functions may be longer than those of partitions.
    """
    names = [partition_of("f" * length, run) for length in (1, 64, 65, 500) for run in (None, 1 << 62)]

    assert len(set(names)) == len(names)
    assert all(len(pgstore.Queue.validate_partition_key(name)) <= 64 for name in names)


@pytest.mark.parametrize(
    ("name", "program", "expected"),
    [("shop", "x", "shop"), (None, "shop.tasks", "shop.tasks"), (None, "my tasks", "my-tasks"), (None, "", "app")],
)
def test_an_app_without_a_name_is_called_as_its_program(name, program, expected):
    assert app_name(name, program) == expected


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)
