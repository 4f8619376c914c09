"""Spawned calls and the processes that run them: `pgstore worker`, runs, and what is left when they are killed."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pgstore
from pgstore import cli
from pgstore.admin import calls as admin
from pgstore.app.calls import FunctionCall
from tests.app.test_calls import until

PROGRAM = Path(__file__).parent / "spawning.py"


@pytest.fixture(scope="module")
def app_name() -> str:
    return f"spawning-{os.getpid()}"


@pytest.fixture
def environ(database, store_name) -> dict[str, str]:
    """Of a run that has an App of its own."""
    return environ_of(database, store_name)


def environ_of(url: str, app: str) -> dict[str, str]:
    return {
        **os.environ,
        "PGSTORE_URL": url,
        "PGSTORE_TEST_APP": app,
        "PGSTORE_PARALLELISM": "2",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


@pytest.fixture(scope="module")
def program(database, app_name) -> Iterator[Any]:
    """The program, as a web process imports it: functions to spawn, and no run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGSTORE_TEST_APP", app_name)
        patch.syspath_prepend(str(PROGRAM.parent))
        pgstore.configure(url=database)
        yield importlib.import_module("spawning")
        pgstore.default_client().close()
        del sys.modules["spawning"]


@pytest.fixture(scope="module")
def worker(database, app_name) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Gives a `pgstore worker` of the program: the one that is there, or another."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        if not started or started[-1].poll() is not None:
            command = [sys.executable, "-m", "pgstore", "worker", str(PROGRAM)]
            process = subprocess.Popen(command, env=environ_of(database, app_name), stderr=subprocess.PIPE, text=True)
            started.append(process)
            assert process.stderr is not None
            assert "runs calls of App" in process.stderr.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()  # what it has started still has the other end, and needs some seconds to end


def children(process: subprocess.Popen[str]) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                status = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if status[1] == str(process.pid):
                found.append(int(path.name))
    return found


def test_calls_are_shown_and_cancelled_from_the_command_line(database, program, capsys):
    call = program.now.spawn()

    def pgs(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["--url", database, "calls", *arguments])
        return (code, *capsys.readouterr())

    _, out, err = pgs("--app", program.app.name)
    assert call.object_id in out
    assert "1 calls of now wait, and no worker" in err
    assert '"state": "pending"' in pgs("--app", program.app.name, "--json")[1]
    assert '"state": "pending"' in pgs("get", call.object_id, "--json")[1]
    assert "cancelled" in pgs("cancel", call.object_id)[1]
    assert pgs("get", "fc-1-1") == (1, "", "error: there is no call 'fc-1-1'\n")
    assert pgs("get", "nonsense")[0] == 2


def test_a_worker_runs_what_a_web_process_has_spawned(program, worker):
    before = program.add.spawn(1, 2)
    worker()
    after = program.add.spawn(3, 4)
    failing = program.fail.spawn("no")

    assert FunctionCall.gather(before, after) == [3, 7]
    with pytest.raises(ValueError, match="no"):
        failing.get(timeout=20)


def test_a_call_is_part_of_an_asynchronous_transaction(program, worker):
    async def spawn() -> tuple[FunctionCall, FunctionCall]:
        try:
            async with pgstore.transaction():
                kept = await program.add.spawn.aio(1, 2)
            with pytest.raises(ZeroDivisionError):
                async with pgstore.transaction():
                    dropped = await program.add.spawn.aio(1, 2)
                    raise ZeroDivisionError
            return kept, dropped
        finally:
            await pgstore.default_client().aclose()

    worker()
    kept, dropped = asyncio.run(spawn())

    assert kept.get(timeout=20) == 3
    with pytest.raises(pgstore.NotFoundError):
        dropped.get(timeout=0)


def test_an_object_of_a_class_runs_in_a_worker(program, worker):
    worker()

    assert program.Adder(base=10).add.spawn(5).get(timeout=20) == 15
    assert FunctionCall.gather(*program.Adder().add.spawn_map([1, 2])) == [1, 2]


def test_what_a_function_spawns_in_a_worker_is_any_workers_too(program, worker):
    worker()

    calls = program.spawn_more.spawn(3).get(timeout=20)

    assert [each.get(timeout=20) for each in calls] == [0, 2, 4]
    assert {admin.call(pgstore.default_client(), each.object_id).run for each in calls} == {None}


def test_the_death_of_a_process_fails_its_call_within_two_seconds(program, worker):
    process = worker()
    running = program.sleep.spawn(60)
    until(lambda: state(running) == "running" and children(process) != [])
    time.sleep(0.3)

    for child in children(process):
        os.kill(child, signal.SIGKILL)

    with pytest.raises(pgstore.exception.RemoteError, match="SIGKILL"):
        running.get(timeout=2)


def test_a_worker_that_is_told_to_end_ends_what_runs_and_leaves_the_rest(program, worker):
    process = worker()
    running = [program.sleep.spawn(1.0) for _ in range(3)]
    until(lambda: sum(state(each) == "running" for each in running) == 2)

    process.send_signal(signal.SIGTERM)
    process.wait(40)

    assert sorted(map(state, running)) == ["done", "done", "pending"]
    assert process.returncode == 0


def test_a_call_counts_once_whenever_workers_are_killed(program, worker, sql, app_name):
    """
    Its files, its Dict entries, its rows, what it spawns and its own end are one transaction.
    """
    table = app_name.replace("-", "_")
    sql(f"CREATE TABLE {table} (number integer)")
    counters = pgstore.Dict.from_name(app_name, create_if_missing=True)
    counters.hydrate()
    program.counted.hydrate()
    calls = [program.count.spawn(app_name, table, number) for number in range(20)]
    chance = random.Random(7)
    process = worker()

    ((app_id,),) = sql("SELECT id FROM pgstore.store WHERE kind = 'app' AND name = %s", app_name)
    for attempt in range(8):
        time.sleep(chance.uniform(0.1, 0.7))
        if attempt == 4:
            process.kill()
            process.wait()
            # The time of its leases passes at once.
            sql("UPDATE pgstore.queue_deferred SET due_at = now() WHERE store_id = %s AND kind = 'l'", app_id)
            process = worker()
        elif found := children(process):
            os.kill(chance.choice(found), signal.SIGKILL)

    assert [call.get(timeout=60) for call in calls] == list(range(20))
    assert sorted(number for (number,) in sql(f"SELECT number FROM {table}")) == list(range(20))
    assert sum(counters.get(f"total {number}", 0) for number in range(4)) == 20
    assert sorted(int(file.path) for file in program.counted.listdir("/")) == list(range(20))
    followers = "SELECT count(*) FROM pgstore.calls WHERE app = %s AND function = 'follow'"
    assert sql(followers, app_name) == [(20,)]
    assert sum(admin.call(pgstore.default_client(), call.object_id).attempts for call in calls) > 20
    sql(f"DROP TABLE {table}")


# ---------------------------------------------------------------------------------------------------------------- runs


def run(environ, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgstore", "run", *arguments]
    return subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=60, **options)


def test_the_end_of_a_run_waits_for_what_was_spawned_in_it(environ, tmp_path, store_name, client):
    done = run(environ, f"{PROGRAM}::main", "--path", str(tmp_path / "out"))

    assert (done.returncode, done.stdout, done.stderr) == (0, "spawned\n", "")
    assert (tmp_path / "out").read_text() == "xxxxx"
    assert {call.state for call in admin.calls(client, store_name)} == {"done"}


def test_the_end_of_a_run_waits_for_what_its_workers_have_spawned(environ, tmp_path):
    done = run(environ, f"{PROGRAM}::coordinate", "--path", str(tmp_path / "out"))

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_text() == "xxxxx"


def test_a_program_without_a_run_waits_for_what_its_workers_have_spawned(environ, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import spawning; spawning.coordinate.remote(sys.argv[1])"

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        check=False,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_text() == "xxxxx"


@pytest.mark.parametrize("of_run", [True, False])
def test_ctrl_c_cancels_what_the_end_of_a_program_waits_for(environ, tmp_path, of_run):
    code = f"""
import contextlib, sys
sys.path.insert(0, {str(PROGRAM.parent)!r})
import spawning
with spawning.app.run() if {of_run} else contextlib.nullcontext():
    spawning.spawn_sleeps.remote(5)
    print("spawned", flush=True)
"""
    (tmp_path / "program.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "spawned\n"
    time.sleep(0.3)

    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)

    assert told.startswith("pgstore: 5 spawned calls were cancelled\n")
    assert told.endswith("KeyboardInterrupt\n" if of_run else "cancelled\n")


def test_ctrl_c_cancels_a_thousand_spawned_calls_and_one_line_says_so(environ, tmp_path, client, store_name):
    command = [sys.executable, "-m", "pgstore", "run", f"{PROGRAM}::main"]
    arguments = ["--path", str(tmp_path / "out"), "--count", "1000", "--end", "sleep"]
    process = subprocess.Popen(
        [*command, *arguments], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "spawned\n"

    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, told = process.communicate(timeout=20)

    assert time.monotonic() - began < 6
    assert process.returncode == 130
    # What is interrupted in a finaliser says so itself, by Python, on the stderr of its worker.
    (cancelled,) = re.findall(r"^pgstore: (\d+) spawned calls were cancelled$", told, re.MULTILINE)
    states = [call.state for call in admin.calls(client, store_name, limit=2000)]
    assert len(states) == 1000
    assert set(states) <= {"done", "cancelled"}
    assert int(cancelled) == states.count("cancelled")


def test_what_a_detached_run_has_spawned_stays_for_a_worker(database, tmp_path, worker, client, app_name):
    done = run(environ_of(database, app_name), "--detach", f"{PROGRAM}::main", "--path", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")

    worker()

    until(lambda: {call.state for call in admin.calls(client, app_name) if call.function == "write"} == {"done"}, 30)
    assert (tmp_path / "out").read_text() == "xxxxx"


def state(call: FunctionCall) -> str:
    return admin.call(pgstore.default_client(), call.object_id).state
