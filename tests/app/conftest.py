"""Workers for tests: a runner of the test's own, and inputs for the functions of tests/app/work.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest

import pgstore
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


_OPTIONS = {field.name for field in fields(Input)}


def given(*args: Any, **kwargs: Any) -> Input:
    """An input with these arguments; those that have names of an `Input`'s are its own."""
    options = {name: kwargs.pop(name) for name in _OPTIONS & kwargs.keys()}
    arguments = pickles.dumps((args, kwargs), "arguments", PROGRAM)
    return Input(**{"call_id": "fc-test", "method": None, "arguments": arguments, **options})


@pytest.fixture
def run(runner) -> Callable[..., Any]:
    """`run(spec, *args, **options)` has a worker run it, and returns the result or raises the exception."""

    def run(spec: WorkerSpec, *args: Any, **options: Any) -> Any:
        return runner.submit(spec, given(*args, **options)).result(60).value()

    return run


@pytest.fixture
def default_client(database, monkeypatch) -> Iterator[pgstore.Client]:
    """The default client, on the shared database: workers use that, too."""
    monkeypatch.setenv("PGSTORE_URL", database)
    client = pgstore.configure(database)
    yield client
    client.close()
    pgstore.configure(None)
