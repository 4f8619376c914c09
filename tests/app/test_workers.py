"""Workers: fresh interpreters that run what they are given, and whose end nobody waits for in vain."""

from __future__ import annotations

import os
import pickle
import threading
import time
from typing import Any

import pytest

from pgstore import errors
from pgstore.app.retries import Retries
from pgstore.app.spec import Program, WorkerSpec
from tests.app.conftest import given, worker
from tests.app.test_worker_ends import wait_until_gone
from tests.app.work import Deadly, Refused


def test_a_function_runs_in_another_process_and_returns_its_result(run):
    spec = worker("process_id")

    first, second = run(spec), run(spec)

    assert first not in (0, os.getpid())
    assert first == second  # a worker that is idle is used again


def test_a_repeated_input_has_a_worker_that_nobody_has_used(run):
    """
    What has failed may have left the other one in any state.
    """
    spec = worker("process_id")

    assert run(spec) != run(spec, is_repeated=True)


def test_a_coroutine_function_is_awaited(run):
    assert run(worker("awaited"), [1, None]) == [1, None]


@pytest.mark.parametrize("function", ["count", "count_async"])
def test_a_generator_streams_what_it_yields(runner, function):
    items: list[bytes] = []

    outcome = runner.submit(worker(function), given(3, is_generator=True), on_item=items.append).result(60)

    assert outcome.value() is None
    assert len(items) == 3


def test_methods_run_in_one_object_that_has_entered_and_leaves_at_the_end(runner, capsys):
    spec = worker("Model", parameters=pickle.dumps({"size": 3}))

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


@pytest.mark.parametrize("name", ["Unshowable", "Unreducible"])
def test_an_exception_that_raises_when_it_is_shown_or_pickled_ends_the_call_and_not_the_worker(run, name):
    spec = worker("raise_odd", max_workers=1)

    for _ in range(2):
        with pytest.raises(
            errors.ExecutionError, match=f"raise_odd has raised {name}, which cannot be shown or brought"
        ):
            run(spec, name)


@pytest.mark.parametrize("by", ["closed", "detached", "another"])
def test_a_function_may_do_away_with_its_stdout(run, by):
    assert run(worker("replace_stdout"), by) == by


@pytest.mark.parametrize("function", ["fork", "fork_async"])
@pytest.mark.parametrize("how", ["return", "raise"])
def test_a_child_that_comes_out_of_the_function_ends_and_the_result_is_that_of_the_worker(run, function, how, capfd):
    spec = worker(function, max_workers=1)

    assert [run(spec, how), run(spec, how)] == ["parent", "parent"]

    assert ("ValueError: of the child" in capfd.readouterr().err) == (how == "raise")


# ------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("function", "complaint"),
    [("die_at", r"killed by signal 9 \(SIGKILL\); out of memory"), ("exit_at", "exit code 3")],
)
def test_the_death_of_a_worker_is_an_error_within_two_seconds(run, tmp_path, function, complaint):
    with pytest.raises(errors.RemoteError, match=f"the worker of {function} .*{complaint}"):
        run(worker(function), str(tmp_path / "died"))

    assert time.monotonic() - float((tmp_path / "died").read_text()) < 2


def test_a_worker_may_die_at_each_stage(runner, run, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("from tests.app.work import die; die()")
    monkeypatch.syspath_prepend(tmp_path)
    import_dies = WorkerSpec("f", Program("module", "deadly", None), "f")

    with pytest.raises(errors.RemoteError, match="the worker of f was killed .* while it was starting"):
        run(import_dies)
    with pytest.raises(errors.RemoteError, match="the worker of DiesAtStart was killed .* while it was starting"):
        run(worker("DiesAtStart", parameters=pickle.dumps({})), method="run")
    with pytest.raises(errors.RemoteError, match="the worker of give_deadly was killed"):
        run(worker("give_deadly"))
    with pytest.raises(errors.RemoteError, match="the worker of same was killed"):
        run(worker("same"), Deadly("loaded"))


def test_a_function_that_closes_what_its_worker_needs_is_an_error(run):
    """
    A socket in which a thread waits is not closed by closing its descriptor: nobody else notices.
    """
    with pytest.raises(errors.RemoteError, match="the worker of close_descriptors has"):
        run(worker("close_descriptors"))


def test_a_worker_that_is_not_ready_in_time_fails_the_call(run, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(errors.FunctionTimeoutError, match=r"startup_timeout of 0\.1 s"):
        run(WorkerSpec("f", Program("module", "slow", None), "f", startup_timeout=0.1))


def test_secrets_that_cannot_be_had_fail_the_call(run):
    def missing():
        raise errors.InvalidError("the key TOKEN of the Secret 'it' is missing")

    with pytest.raises(errors.InvalidError, match="TOKEN"):
        run(worker("same", environment=missing))


def test_a_function_that_is_too_slow_is_interrupted(run):
    with pytest.raises(errors.FunctionTimeoutError, match=r"sleep ran longer than its timeout of 0\.2 s"):
        run(worker("sleep"), timeout=0.2)


def test_a_program_that_raises_while_it_is_loaded_fails_the_call(run, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        run(WorkerSpec("f", Program("module", "broken", None), "f"))

    assert "broken.py" in caught.value.__notes__[0]


# ------------------------------------------------------------------------------------------------------------ attempts


@pytest.mark.parametrize("how", ["refuse", "die"])
def test_a_call_that_fails_is_repeated_on_a_fresh_worker_as_often_as_its_retries_say(run, tmp_path, how):
    retries = Retries(max_retries=2, initial_delay=0.01)

    workers = run(worker("fail_until"), str(tmp_path / "n"), 3, how, retries=retries)

    assert len(set(workers)) == 3


def test_the_last_error_is_raised_where_all_retries_fail(run, tmp_path):
    with pytest.raises(Refused):
        run(worker("fail_until"), str(tmp_path / "n"), 9, retries=Retries(max_retries=1, initial_delay=0.01))

    assert len((tmp_path / "n").read_text().split()) == 2


@pytest.fixture
def delayed(monkeypatch):
    """Repetitions wait until they are told to begin."""
    timers: list[Any] = []

    class Held(threading.Timer):
        def start(self) -> None:
            timers.append(self)

    monkeypatch.setattr(threading, "Timer", Held)
    return timers


def test_a_call_that_was_cancelled_before_it_was_to_be_repeated_is_not(runner, run, tmp_path, delayed):
    spec = worker("fail_until", max_workers=1)
    future = runner.submit(spec, given(str(tmp_path / "n"), 9, retries=Retries(max_retries=3)))
    wait_until(lambda: delayed)

    runner.cancel(future)
    delayed[0].function(*delayed[0].args)
    run(spec, str(tmp_path / "other"), 1)

    with pytest.raises(errors.RemoteError, match="was cancelled"):
        future.result(0).value()
    assert len((tmp_path / "n").read_text().split()) == 1


def test_a_call_that_waits_to_be_repeated_ends_with_the_runner(runner, tmp_path, delayed):
    future = runner.submit(worker("fail_until"), given(str(tmp_path / "n"), 9, retries=Retries(max_retries=3)))
    wait_until(lambda: delayed)

    runner.close()

    with pytest.raises(errors.RemoteError, match="the program that made it has ended"):
        future.result(0).value()


# ----------------------------------------------------------------------------------------------------------- cancelling


def wait_until(is_so):
    give_up = time.monotonic() + 30
    while not is_so() and time.monotonic() < give_up:
        time.sleep(0.01)


def wait_for(path):
    give_up = time.monotonic() + 30
    while not path.exists() and time.monotonic() < give_up:
        time.sleep(0.01)


def test_a_call_that_runs_is_cancelled_by_an_interrupt_and_one_that_waits_never_runs(runner, tmp_path):
    spec = worker("note_interrupt", max_workers=1)
    runs, waits = (runner.submit(spec, given(str(tmp_path / name))) for name in ("runs", "waits"))
    wait_for(tmp_path / "runs")

    runner.cancel(waits)
    runner.cancel(runs)

    for future in (runs, waits):
        with pytest.raises(errors.RemoteError, match="the call of note_interrupt was cancelled"):
            future.result(20).value()
    assert (tmp_path / "runs").read_text() == "InputCancellation"
    assert not (tmp_path / "waits").exists()


def test_of_several_at_once_only_the_one_that_is_cancelled_is_interrupted(runner, tmp_path):
    spec = worker("note_interrupt_of_thread", inputs_at_once=2, max_workers=1)
    futures = {name: runner.submit(spec, given(str(tmp_path / name))) for name in ("one", "two")}
    for name in futures:
        wait_for(tmp_path / name)

    runner.cancel(futures["one"])
    with pytest.raises(errors.RemoteError, match="cancelled"):
        futures["one"].result(20).value()

    assert (tmp_path / "one").read_text() == "InputCancellation"
    assert (tmp_path / "two").read_text() == "begun"
    assert not futures["two"].done()


def test_a_cancelled_generator_is_closed(runner, tmp_path):
    items: list[bytes] = []
    future = runner.submit(worker("endless"), given(str(tmp_path / "end"), is_generator=True), on_item=items.append)
    while len(items) < 2:
        time.sleep(0.01)

    runner.cancel(future)
    future.result(20)

    assert (tmp_path / "end").read_text() == "closed"


# --------------------------------------------------------------------------------------------------------- several at once


@pytest.mark.parametrize("function", ["meet", "meet_async"])
def test_a_worker_runs_as_many_inputs_at_once_as_it_is_allowed_to(runner, tmp_path, function):
    spec = worker(function, inputs_at_once=3, max_workers=1)

    futures = [runner.submit(spec, given(str(tmp_path / "n"), 3)) for _ in range(3)]

    met = [future.result(30).value() for future in futures]
    assert {size for size, _ in met} == {3}
    assert len({process for _, process in met}) == 1


def test_a_worker_for_a_single_use_is_given_one_input(run):
    spec = worker("process_id", single_use=True)

    assert run(spec) != run(spec)


def test_a_worker_that_is_idle_for_long_ends(runner):
    spec = worker("process_id", scaledown_window=0.1)

    process = runner.submit(spec, given()).result(30).value()

    assert wait_until_gone([process], 20)


# --------------------------------------------------------------------------------------------------------- what it is like


def test_a_worker_has_the_variables_of_its_spec_and_those_that_programs_ask_for(run):
    spec = worker("environment", environment=lambda: {"TOKEN": "secret"}, workdir="/usr")

    token, task, remote, call, temporary, working = run(
        spec, "TOKEN", "MODAL_TASK_ID", "PGSTORE_IS_REMOTE", "MODAL_FUNCTION_CALL_ID", "TMPDIR"
    )

    assert (token, remote, call) == ("secret", "1", "fc-test")
    assert task.startswith("ta-")
    assert "pgstore-worker-" in temporary
    assert working == "/usr"
    assert "secret" not in repr(spec)


# -------------------------------------------------------------------------------------------------------------- output


def test_what_a_worker_prints_is_printed_before_its_result_is_there(run, capsys):
    run(worker("shout"), 2000)

    out, err = capsys.readouterr()
    assert out == "".join(f"line {number}\n" for number in range(2000))
    assert err == "an error\n"
