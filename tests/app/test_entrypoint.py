"""`pgstore run`: what is run, with which arguments, what is printed, and the exit code."""

from __future__ import annotations

import datetime as dt
import inspect
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

import pgstore
from pgstore import cli as command_line
from pgstore.admin import calls as admin
from pgstore.app.parameters import Parameters
from tests.app.running import Programs, ended, output

PROGRAM = """
import os, sys
from typing import Literal, Optional
import helper
import pgstore as modal

app = modal.App("entrypoints")
other = modal.App("others")

@app.function()
def double(x: int) -> None:
    print("double", x * 2, helper.VALUE, modal.is_local())

@app.function()
def generates():
    yield 1

@other.function(name="renamed")
def named() -> None:
    print("renamed")

@app.cls()
class Greeter:
    greeting: str = modal.parameter(default="hello")

    @modal.method()
    def greet(self, name: str, times: int = 1) -> None:
        print(f"{self.greeting} {name}" * times)

@app.local_entrypoint()
def main(number: int, text="as it is", maybe: Optional[float] = None, on: bool = True, kind: Literal["a", "b"] = "a"):
    print(number, repr(text), maybe, on, kind, modal.is_local())

@app.local_entrypoint()
async def rest(*arguments):
    print(arguments)

@app.local_entrypoint()
def fails(how: str, message: str = "lamp"):
    if how == "exit":
        sys.exit(7)
    if how == "message":
        sys.exit("no lamps")
    helper.fail(message)

@app.local_entrypoint()
def odd(i: int | str):
    pass
"""
HELPER = """
VALUE = "imported"

def fail(message):
    raise KeyError(message)
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text(HELPER)
    return tmp_path


@pytest.fixture
def programs(own_database, directory):
    return Programs(own_database, directory)


# --- what is run, and with what: each takes a process, so each has several of them to show ----------------------------


def test_an_entrypoint_gets_its_arguments_from_the_command_line(programs):
    given = ["--number", "3", "--text", "-x", "--maybe", "0.5", "--no-on", "--kind", "b"]

    assert output(programs.pgstore("run", "program.py::main", *given)) == "3 '-x' 0.5 False b True\n"


def test_what_is_not_given_is_the_default_of_the_function(programs):
    assert output(programs.pgstore("run", "program.py::app.main", "--number", "3")) == "3 'as it is' None True a True\n"


def test_what_takes_the_rest_gets_all_that_follows(programs):
    assert output(programs.pgstore("run", "program.py::rest", "--", "--config", "x")) == "('--config', 'x')\n"


def test_a_function_runs_in_a_worker_and_imports_what_stands_beside_the_file(programs, directory):
    (directory / "below").mkdir()

    done = Programs(programs.url, directory / "below").pgstore("run", directory / "program.py::double", "--x", "4")

    assert output(done) == "double 8 imported False\n"


def test_a_detached_function_is_a_call_whose_id_is_printed_first(programs):
    """
    It can be looked at, and cancelled, from elsewhere.
    """
    call_id, line = output(programs.pgstore("run", "--detach", "program.py::double", "--x", "4")).splitlines()

    assert line == "double 8 imported False"
    with pgstore.Client(programs.url) as client:
        assert admin.call(client, call_id).state == "done"


def test_a_method_gets_the_parameters_of_its_class_too(programs):
    given = ["--greeting", "hi", "--name", "ann", "--times", "2"]

    assert output(programs.pgstore("run", "program.py::Greeter.greet", *given)) == "hi annhi ann\n"


def test_a_module_is_run_by_its_dotted_name(programs, directory):
    (directory / "package").mkdir()
    (directory / "package" / "inner.py").write_text("NUMBER = 7\n")
    (directory / "package" / "jobs.py").write_text(
        "import pgstore\nfrom .inner import NUMBER\napp = pgstore.App()\n@app.function()\ndef job(): print(NUMBER)\n"
    )

    code, _, err = ended(programs.pgstore("run", "package/jobs.py"))

    assert (code, "pgstore run -m package.jobs" in err) == (1, True)
    assert output(programs.pgstore("run", "-m", "package.jobs::job")) == "7\n"


def test_database_and_environment_of_the_command_line_are_those_of_workers(programs, directory):
    (directory / "puts.py").write_text(
        textwrap.dedent("""
            import pgstore

            app = pgstore.App()

            @app.function()
            def put():
                pgstore.Dict.from_name("mine", create_if_missing=True)["key"] = "value"
        """)
    )
    nowhere = Programs("postgresql://127.0.0.1:1/nowhere", directory)

    output(nowhere.pgstore("run", "--url", programs.url, "-e", "staging", "puts.py"))

    with pgstore.Client(programs.url, environment="staging") as client:
        assert pgstore.Dict.from_name("mine", client=client)["key"] == "value"


@pytest.mark.parametrize(("mode", "options"), [("auto", []), ("sync", []), ("auto", ["--mode", "sync"])])
def test_how_stores_are_mounted_is_what_the_option_says_else_the_environment(
    own_database, directory, fuse, mode, options
):
    (directory / "mounted.py").write_text(
        textwrap.dedent("""
            import pgstore

            app = pgstore.App()

            @app.function(volumes={"/data": pgstore.Volume.from_name("mine", create_if_missing=True)})
            def kinds():
                print([line.split()[2] for line in open("/proc/self/mounts") if line.split()[1] == "/data"])
        """)
    )

    kinds = output(Programs(own_database, directory, mode=mode).pgstore("run", *options, "mounted.py"))

    assert ("fuse" in kinds) == ([mode, *options] == ["auto"])


def test_a_program_for_modal_is_run_unedited(programs, directory):
    """
    Its classes of exceptions are pgstore's, here and in the worker.
    """
    (directory / "unedited.py").write_text(
        textwrap.dedent("""
            import modal
            import modal.experimental  # not offered: refused when it is used
            from modal.exception import NotFoundError

            app = modal.App()

            @app.function()
            def missing():
                modal.Dict.from_name("missing").len()

            @app.local_entrypoint()
            def main():
                try:
                    missing.remote()
                except NotFoundError as exc:
                    print(type(exc).__module__)
        """)
    )

    assert output(programs.pgstore("run", "--as-modal", "unedited.py")) == "pgstore.errors\n"


# --- exit codes and errors --------------------------------------------------------------------------------------------


def test_an_error_of_the_program_shows_its_own_frames_alone(programs):
    code, out, err = ended(programs.pgstore("run", "program.py::fails", "--how", "raise"))

    assert (code, out) == (1, "")
    files = [line.split('"')[1].rpartition("/")[2] for line in err.splitlines() if line.startswith("  File ")]
    assert files == ["program.py", "helper.py"]
    assert err.endswith("KeyError: 'lamp'\n")


def test_with_a_variable_it_shows_all_frames(programs):
    _, _, err = ended(programs.pgstore("run", "program.py::fails", "--how", "raise", PGSTORE_TRACEBACK="1"))

    assert "entrypoint.py" in err


@pytest.mark.parametrize(("how", "expected"), [("exit", (7, "")), ("message", (1, "no lamps\n"))])
def test_what_sys_exit_says_is_the_exit_code(programs, how, expected):
    code, _, err = ended(programs.pgstore("run", "program.py::fails", "--how", how))

    assert (code, err) == expected


def test_ctrl_c_is_exit_code_130_without_a_word(programs, directory):
    (directory / "sleeps.py").write_text(
        textwrap.dedent("""
            import os, time
            import pgstore

            app = pgstore.App()

            @app.function()
            def sleep():
                print(os.getpid(), flush=True)
                time.sleep(60)
        """)
    )
    process = programs.pgstore("run", "sleeps.py")
    assert process.stdout is not None
    worker = int(process.stdout.readline())

    process.send_signal(signal.SIGINT)

    assert ended(process) == (130, "", "")
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["program.py"], 1, "Specify a function or local entrypoint to run: double, generates, named"),
        (["program.py::nothing"], 1, "there is no 'nothing'. Specify a function"),
        (["program.py:main"], 2, "Did you mean '::'"),
        (["missing.py"], 2, "there is no file 'missing.py'"),
        (["program"], 2, "pgstore run -m program"),
        (["-m", "program.py"], 2, "leave -m out"),
        (["two.dots.py"], 2, "no dots"),
        (["program.py::main"], 2, "missing option '--number'"),
        (["program.py::main", "--number", "x"], 2, "'x' is not a valid integer"),
        (["program.py::main", "--number", "1", "--other", "2"], 2, "--other"),
        (["program.py::main", "--number", "1", "--kind", "c"], 2, "'c' is not one of 'a', 'b'"),
        (["program.py::odd", "--i", "1"], 1, "Parameter `i` has unparseable annotation: int | str"),
        (["program.py::generates"], 2, "is a generator"),
        (["--mode", "magic", "program.py::main"], 2, "magic"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(arguments, code, said, directory, monkeypatch, capsys):
    """
    In this process, for nothing of it gets as far as a worker.
    """
    (directory / "two.dots.py").touch()
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delitem(sys.modules, "program", raising=False)

    found = command_line.run(["run", *arguments])

    printed = capsys.readouterr()
    assert (found, printed.out) == (code, "")
    assert said in printed.err


def test_an_error_while_loading_begins_at_the_file(programs, directory):
    (directory / "broken.py").write_text("import pgstore\nimport helper\nhelper.fail('early')\n")

    code, _, err = ended(programs.pgstore("run", "broken.py"))

    assert code == 1
    assert err.startswith('Traceback (most recent call last):\n  File "')
    assert "frozen" not in err
    assert err.endswith("KeyError: 'early'\n")


def test_help_after_the_reference_is_that_of_the_function(programs):
    out = output(programs.pgstore("run", "program.py::main", "--help"))

    assert "--number INTEGER" in out
    assert "--on / --no-on" in out
    assert "[default: ('as it is')]" in out


# --- parameters -------------------------------------------------------------------------------------------------------


def test_annotations_that_cannot_be_evaluated_are_named():
    def function(x: "Missing"): ...  # type: ignore[name-defined]  # noqa: F821, UP037

    with pytest.raises(Exception, match="Unable to generate command line interface .*'Missing' is not defined"):
        Parameters.of(function)


def test_a_rest_beside_others_is_refused():
    def function(x, *rest): ...

    with pytest.raises(Exception, match=r"\(\*args\) cannot have other parameters"):
        Parameters.of(function)


@pytest.mark.parametrize(
    ("annotation", "given", "value"),
    [
        (inspect.Parameter.empty, "2", "2"),
        (Any, "2", "2"),
        (int, "-2", -2),
        ("int | None", "2", 2),
        (Optional[float], "2", 2.0),  # noqa: UP045
        (dt.datetime, "2024-02-29", dt.datetime(2024, 2, 29)),  # noqa: DTZ001
        (Literal["a", "b"], "b", "b"),
    ],
    ids=str,
)
def test_an_annotation_says_what_a_command_line_gives(annotation, given, value):
    def function(snake_case): ...

    if annotation is not inspect.Parameter.empty:
        function.__annotations__["snake_case"] = annotation

    assert Parameters.of(function).parse(["--snake-case", given], "run", None) == ([], {"snake_case": value})


@pytest.mark.parametrize("annotation", [int | str, list[str], dict, Literal[True], Literal["2", 2], bytes], ids=str)
def test_what_a_command_line_cannot_give_is_refused_by_its_name(annotation):
    def function(of_this): ...

    function.__annotations__["of_this"] = annotation

    with pytest.raises(pgstore.Error, match="Parameter `of_this` has unparseable annotation: "):
        Parameters.of(function).parse([], "run", None)
