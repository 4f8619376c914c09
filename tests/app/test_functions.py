"""Functions in workers, as programs call them: blocking and asynchronous, one call and many."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import threading
import time
from typing import Any

import pytest

import pgstore
from pgstore.exception import AsyncUsageWarning
from tests.app import program
from tests.app.program import Refused, app, count, do, later, variable
from tests.app.test_calls import until


@pytest.fixture(scope="module", autouse=True)
def _run():
    with app.run():
        yield


# --------------------------------------------------------------------------------------------------------------- one call


def test_a_call_runs_elsewhere_and_returns_the_result(call):
    assert call(do.remote, "same", 5) == 5
    assert call(do.remote, "same", None) is None
    assert call(do.remote, "keywords", a=1) == {"a": 1}
    assert call(do.remote, "pid") != os.getpid()


def test_an_asynchronous_function_is_awaited_there(call):
    assert call(later.remote, 5) == 5


def test_an_exception_of_the_program_matches_and_has_the_remote_traceback(call):
    with pytest.raises(Refused, match="why") as caught:
        call(do.remote, "fail", "why")

    assert "in _fail" in caught.value.__notes__[0]


def test_a_worker_knows_that_it_is_one_and_for_which_call():
    call_id, input_id = do.remote("ids")

    assert do.remote("is_local") is False
    assert call_id.startswith("fc-")
    assert input_id == f"in-{call_id[3:]}"
    assert pgstore.is_local()
    assert (pgstore.current_function_call_id(), pgstore.current_input_id()) == (None, None)


def test_functions_travel_in_arguments_and_are_called_in_workers_that_have_no_secret_of_the_callers():
    assert do.remote("variable", "OF_DO") == "secret"
    assert do.remote("call", variable, "OF_DO") is None
    assert do.remote("same", do) is do


def test_what_cannot_be_pickled_is_an_error_of_the_caller(call):
    with pytest.raises(pgstore.SerializationError, match="arguments of do"):
        call(do.remote, "same", threading.Lock())


def test_a_cancelled_task_takes_its_call_back():
    async def cancelled():
        task = asyncio.create_task(do.remote.aio("sleep", 30))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await do.remote.aio("same", 1)

    begun = time.monotonic()
    assert asyncio.run(cancelled()) == 1
    assert time.monotonic() - begun < 10


# ------------------------------------------------------------------------------------------------------------ called here


def test_a_call_that_blocks_an_event_loop_is_warned_of():
    async def blocking():
        return do.remote("same", 1)

    with pytest.warns(
        AsyncUsageWarning, match=r"Function.remote\(…\) blocks the event loop .* `await ….remote.aio\(…\)`"
    ):
        assert asyncio.run(blocking()) == 1


def test_called_here_it_is_the_plain_function():
    assert do("pid") == do.local("pid") == os.getpid()
    assert asyncio.run(later.local(3)) == asyncio.run(later(3)) == 3
    assert do.get_raw_f()("same", 1) == 1


def test_it_looks_like_the_function():
    assert (getattr(do, "__name__", None), do.__doc__) == ("do", program.do.get_raw_f().__doc__)
    assert list(inspect.signature(do).parameters) == ["what", "args", "kwargs"]
    assert repr(do) == "<pgstore.Function do>"


def test_frameworks_see_what_the_forms_of_a_method_give():
    """
    They ask before they decide whether to await what a callback returns.
    """
    assert inspect.iscoroutinefunction(do.spawn.aio)
    assert not inspect.iscoroutinefunction(do.spawn)
    assert not inspect.iscoroutinefunction(do.map.aio)
    assert inspect.signature(do.spawn_map).return_annotation == "list[FunctionCall]"
    assert inspect.signature(do.map).return_annotation == "Generator[Any]"


def test_a_function_with_mounts_is_not_called_here_by_mistake():
    mounted: Any = pgstore.App().function(volumes={"/data": pgstore.Volume.from_name("v")})(do.get_raw_f())

    with pytest.raises(pgstore.InvalidError, match=r"/data is not mounted; use do\.remote"):
        mounted("pid")
    with pytest.warns(UserWarning, match="will not see its mounts"):
        assert mounted.local("pid") == os.getpid()


# ------------------------------------------------------------------------------------------------------------- generators


def test_a_generator_streams(call):
    assert call.iterate(count.remote_gen.aio(3) if call.form == "aio" else count.remote_gen(3)) == [0, 1, 2]


def test_the_end_of_the_loop_closes_the_generator_in_the_worker(tmp_path):
    (worker,) = count.remote_gen(-1)
    for number in count.remote_gen(10**6, str(tmp_path / "a")):
        if number == 3:
            break

    async def loop():
        async for number in count.remote_gen.aio(10**6, str(tmp_path / "b")):
            if number == 3:
                break

    asyncio.run(loop())

    assert list(count.remote_gen(-1)) == [worker]  # it is free again
    assert [(tmp_path / name).read_text() for name in "ab"] == ["closed", "closed"]


def test_a_generator_does_not_run_far_ahead_of_its_reader(tmp_path):
    """
    Else its values, which are in the memory of the reader, might fill that.
    """
    noted = tmp_path / "n"
    values = count.remote_gen(1000, str(noted), slowly=False)
    assert next(values) == 0

    until(lambda: noted.exists() and noted.stat().st_size >= 100)
    time.sleep(0.2)

    assert 100 <= noted.stat().st_size <= 101
    assert list(values) == list(range(1, 1000))


def test_generators_and_functions_are_told_apart():
    wrongs: list[Any] = [count.remote, count.map, count.for_each, count.starmap]
    for wrong in wrongs:
        with pytest.raises(pgstore.InvalidError, match=r"Use `\.remote_gen\(\.\.\.\)` instead"):
            wrong([1])
    with pytest.raises(pgstore.InvalidError, match=r"Use `\.remote\(\.\.\.\)` instead"):
        do.remote_gen("same")


# -------------------------------------------------------------------------------------------------------------------- map


@pytest.fixture
def mapped(call):
    """`mapped(f.map, …)` gives what the map yields, in the form of the test."""
    return lambda method, *args, items_max=None, **kwargs: call.iterate(
        (method.aio if call.form == "aio" else method)(*args, **kwargs), items_max=items_max
    )


def test_map_gives_results_in_the_order_of_the_elements(mapped):
    assert mapped(do.map, ["sleep", "same"], [0.2, "b"]) == [None, "b"]
    assert mapped(do.map, itertools.repeat("same"), "abc", range(2)) == [("a", 0), ("b", 1)]
    assert mapped(do.map, []) == []
    assert mapped(do.map, ["same"], [None]) == [None]
    assert mapped(do.map, ["keywords"], kwargs={"a": 1}) == [{"a": 1}]


def test_unordered_map_gives_results_as_calls_end(mapped, tmp_path):
    path = str(tmp_path / "there")

    assert mapped(do.map, ["wait_for", "create"], [path, path], order_outputs=False) == [None, True]


def test_starmap_takes_the_arguments_of_each_call(mapped):
    assert mapped(do.starmap, [("same", 1, 2), ["same", 3]]) == [(1, 2), 3]


def test_for_each_returns_nothing_and_raises_unless_errors_are_ignored(call):
    assert call(do.for_each, ["same", "same"], [1, 2]) is None
    assert call(do.for_each, ["same", "fail"], [1, 2], ignore_exceptions=True) is None
    with pytest.raises(Refused):
        call(do.for_each, ["same", "fail"], [1, 2])


def test_nothing_runs_before_the_first_result_is_asked_for():
    read = []

    def elements():
        read.append(1)
        yield 1

    do.map(["same"], elements())
    time.sleep(0.1)

    assert not read


def test_elements_are_read_while_results_are_taken_and_at_most_1000_ahead(mapped):
    read = []

    def elements():
        for number in itertools.count():
            read.append(number)
            yield number

    assert mapped(do.map, itertools.repeat("same"), elements(), items_max=20) == list(range(20))
    assert 20 <= len(read) <= 1021


def test_whoever_makes_the_elements_may_wait_for_earlier_results():
    given = threading.Event()

    def elements():
        yield 1
        assert given.wait(10)
        yield 2

    results = do.map(itertools.repeat("same"), elements())
    assert next(results) == 1
    given.set()
    assert list(results) == [2]


def test_an_exception_is_raised_at_once_and_nothing_more_is_begun(mapped, tmp_path):
    path = str(tmp_path / "begun")
    elements = [("note", path, "slow", 1.0), ("note", path, "bad"), *[("note", path, n, 0.05) for n in range(100)]]

    begun = time.monotonic()
    with pytest.raises(Refused):
        mapped(do.starmap, elements)
    assert time.monotonic() - begun < 0.9  # before the first element has ended

    time.sleep(0.3)
    assert len((tmp_path / "begun").read_text().splitlines()) < 20
    assert do.remote("same", 1) == 1


def test_exceptions_are_yielded_as_they_are_where_that_is_asked_for(mapped):
    first, second = mapped(do.map, ["fail", "same"], ["x", "y"], return_exceptions=True, wrap_returned_exceptions=True)

    assert (type(first), first.args, second) == (Refused, ("x",), "y")


def test_an_error_of_the_elements_reaches_the_caller(mapped):
    def elements():
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        mapped(do.map, itertools.repeat("same"), elements())


def test_asynchronous_elements_are_for_the_asynchronous_form():
    async def elements():
        yield 1
        await asyncio.sleep(0)
        yield 2

    async def collected():
        return [each async for each in do.map.aio(itertools.repeat("same"), elements())]

    assert asyncio.run(collected()) == [1, 2]
    with pytest.raises(pgstore.InvalidError, match=r"use do\.map\.aio"):
        do.map(["same"], elements())


def test_a_blocking_map_is_refused_in_a_running_event_loop():
    async def blocking():
        do.map(["same"], [1])

    with pytest.raises(pgstore.InvalidError, match=r"do\.map\.aio"):
        asyncio.run(blocking())


@pytest.mark.parametrize("wrong", [(), (5,)])
def test_map_takes_iterables(wrong):
    with pytest.raises(pgstore.InvalidError, match="iterable"):
        do.map(*wrong)


# -------------------------------------------------------------------------------------------------------------- the App


def test_a_running_app_is_not_started_again():
    with pytest.raises(pgstore.InvalidError, match="already running"), app.run():
        pass


def test_nothing_is_deployed():
    for refused in (
        lambda: pgstore.Function.from_name("app", "f"),
        lambda: pgstore.App.lookup("app", create_if_missing=True),
        app.deploy,
    ):
        with pytest.raises(pgstore.errors.NotOffered, match="pgstore"):
            refused()
