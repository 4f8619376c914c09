"""Workers for tests: a runner of the test's own, and inputs for the functions of tests/app/work.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgstore.app import pickles
from pgstore.app.runner import Runner
from pgstore.app.spec import Input, Program, WorkerSpec
from tests.mount.conftest import fuse, fuse_of_users  # noqa: F401 - fixtures

PROGRAM = Program("module", "tests.app.work", None)


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


def worker(function: str, **options: Any) -> WorkerSpec:
    """Workers for a function of tests/app/work.py."""
    return WorkerSpec(function, PROGRAM, function, **options)


def given(*args: Any, **options: Any) -> Input:
    """An input with the arguments *args*."""
    return Input("fc-test", None, pickles.dumps((args, {}), "arguments", PROGRAM), **options)


@pytest.fixture
def run(runner) -> Callable[..., Any]:
    """`run(spec, *args, **options)` has a worker run it, and returns the result or raises the exception."""

    def run(spec: WorkerSpec, *args: Any, **options: Any) -> Any:
        return runner.submit(spec, given(*args, **options)).result(60).value()

    return run
