"""An App: its entrypoints, what it runs and when."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import pgstore
from pgstore.app import context
from tests.app import program


def main(n: int = 1) -> int:
    """An entrypoint."""
    return n


async def main_async() -> str:
    return "awaited"


def test_a_local_entrypoint_is_the_function_and_calling_it_runs_it():
    app = pgstore.App()
    entrypoint = app.local_entrypoint()(main)

    assert entrypoint(3) == 3
    assert asyncio.run(app.local_entrypoint()(main_async)()) == "awaited"
    assert app.registered_entrypoints == {"main": entrypoint, "main_async": app.registered_entrypoints["main_async"]}
    assert entrypoint.__doc__ == "An entrypoint."


def test_two_local_entrypoints_of_one_name_are_refused():
    app = pgstore.App()
    app.local_entrypoint()(main)

    with pytest.raises(pgstore.InvalidError, match="two local entrypoints of the name 'main'"):
        app.local_entrypoint()(main)
    app.local_entrypoint(name="other")(main)
    with pytest.raises(pgstore.InvalidError, match="expected a str"):
        app.local_entrypoint(name=5)  # type: ignore[arg-type]


def test_an_app_runs_between_begin_and_end_blocking_and_asynchronous():
    app = pgstore.App("named")

    with app.run(name="today") as same:
        assert same is app
        assert app._is_running

    async def run():
        async with app.run():
            assert app._is_running

    asyncio.run(run())
    assert not app._is_running


def test_an_app_runs_in_the_environment_of_the_program():
    app = pgstore.App()

    with app.run(environment_name=pgstore.default_client().environment):
        pass
    with pytest.raises(pgstore.InvalidError, match=r"pgstore\.configure\(environment="):
        app.run(environment_name="another")


def test_two_apps_may_run_at_once_and_one_not_twice():
    one, two = pgstore.App("one"), pgstore.App("two")

    with one.run(), two.run():
        with pytest.raises(pgstore.InvalidError, match="already running"):
            one.run().__enter__()
        assert one._is_running


def test_nothing_runs_while_a_worker_imports_the_program(monkeypatch):
    """
    Each worker imports it, and would start workers, which import it.
    """
    monkeypatch.setattr(context, "is_loading", True)

    for wrong in (lambda: pgstore.App().run().__enter__(), lambda: program.do.remote("same", 1)):
        with pytest.raises(pgstore.InvalidError, match="while a worker imports the program"):
            wrong()


SCRIPT = """
import pgstore as modal

class Refused(Exception): pass

app = modal.App()

@app.function()
def f(x):
    if x < 0:
        raise Refused(x)
    return x + 1

@app.cls()
class Model:
    n: int = modal.parameter(default=1)

    @modal.method()
    def run(self, x):
        return f.remote(x) + self.n

if __name__ == "__main__":
    print(f.remote(1), Model(n=5).run.remote(1))
    try:
        f.remote(-1)
    except Refused as exc:
        print("refused", exc)
"""


@pytest.mark.parametrize("how", ["script", "typed in"])
def test_a_program_runs_without_app_run_however_it_was_started(tmp_path, how):
    """
    The first call starts the workers, and the end of the interpreter ends them.
    """
    (tmp_path / "program.py").write_text(SCRIPT)
    command = {"script": ["program.py"], "typed in": ["-c", SCRIPT]}[how]

    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.stdout, done.stderr, done.returncode) == ("2 7\nrefused -1\n", "", 0)
