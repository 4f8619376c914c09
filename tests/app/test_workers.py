"""Workers: fresh interpreters that run what they are given, and whose end nobody waits for in vain."""

from __future__ import annotations

import os
import pickle
import time

import pytest

from pgstore import errors
from tests.app.conftest import given, worker
from tests.app.work import Refused


def test_a_function_runs_in_another_process_and_returns_its_result(run):
    spec = worker("process_id")

    first, second = run(spec), run(spec)

    assert first not in (0, os.getpid())
    assert first == second  # a worker that is idle is used again


def test_a_coroutine_function_is_awaited(run):
    assert run(worker("awaited"), [1, None]) == [1, None]


@pytest.mark.parametrize("function", ["count", "count_async"])
def test_a_generator_streams_what_it_yields(runner, function):
    items: list[bytes] = []

    outcome = runner.submit(worker(function), given(3, is_generator=True), on_item=items.append).result(60)

    assert outcome.value() is None
    assert len(items) == 3


def test_methods_run_in_one_object_that_has_entered_and_leaves_at_the_end(runner, capsys):
    spec = worker("Model", is_class=True, parameters=pickle.dumps({"size": 3}))

    def call(method, *args):
        return runner.submit(spec, given(*args, method=method)).result(60).value()

    assert call("grow", 2)[:2] == (5, ["load", "warm"])
    assert call("shrink", 1) == 2
    assert call("grow", 2) == call("grow", 2)
    assert "left" not in capsys.readouterr().out
    runner.close()
    assert capsys.readouterr().out == "left\n"


# ----------------------------------------------------------------------------------------------------------- exceptions


def test_an_exception_arrives_as_itself_with_its_attributes_its_cause_and_the_traceback_of_the_worker(run):
    with pytest.raises(Refused, match="no") as caught:
        run(worker("refuse"))

    exc = caught.value
    assert (type(exc), exc.args, exc.code) == (Refused, ("no",), 7)
    assert isinstance(exc.__cause__, KeyError)
    assert "in refuse" in exc.__notes__[0]
    assert "jobs.py" not in exc.__notes__[0]  # it begins at the user's first line


def test_an_exception_that_cannot_be_loaded_is_told_of(run):
    with pytest.raises(errors.ExecutionError, match=r"Unpicklable: what code(?s:.*)in raise_unpicklable"):
        run(worker("raise_unpicklable"))


def test_a_result_that_cannot_be_pickled_is_an_error_that_names_function_and_type(run):
    with pytest.raises(errors.SerializationError, match="the result of give_unpicklable of type 'generator'"):
        run(worker("give_unpicklable"))


def test_sys_exit_in_a_function_does_not_end_the_caller(run):
    with pytest.raises(errors.RemoteError, match="leave has ended with SystemExit: 4"):
        run(worker("leave"), 4)


# ------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("function", "complaint"),
    [("die", r"killed by signal 9 \(SIGKILL\); out of memory"), ("exit_at_once", "exit code 3")],
)
def test_the_death_of_a_worker_is_an_error_within_two_seconds(runner, run, function, complaint):
    spec = worker(function)
    begun = time.monotonic()

    with pytest.raises(errors.RemoteError, match=f"the worker of {function} .*{complaint}"):
        run(spec)

    assert time.monotonic() - begun < 5  # of which most is its start


def test_a_function_that_is_too_slow_is_interrupted(run):
    with pytest.raises(errors.FunctionTimeoutError, match=r"sleep ran longer than its timeout of 0\.2 s"):
        run(worker("sleep"), timeout=0.2)


def test_a_program_that_raises_while_it_is_loaded_fails_the_call(run, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    from pgstore.app.spec import Program, WorkerSpec

    with pytest.raises(ZeroDivisionError) as caught:
        run(WorkerSpec("f", Program("module", "broken", None), "f"))

    assert "broken.py" in caught.value.__notes__[0]


# -------------------------------------------------------------------------------------------------------------- output


def test_what_a_worker_prints_is_printed_before_its_result_is_there(run, capsys):
    run(worker("shout"), 2000)

    out, err = capsys.readouterr()
    assert out == "".join(f"line {number}\n" for number in range(2000))
    assert err == "an error\n"
