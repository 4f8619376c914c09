"""A program with an App, for tests of what functions offer. Few functions: each has workers of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pgstore

app = pgstore.App("tests-program")


class Refused(Exception):
    """Of the program's own."""


@app.function(max_containers=2, secrets=[pgstore.Secret.from_dict({"OF_DO": "secret"})])
def do(what, *args, **kwargs):
    """Do one of many things, so that one worker serves many tests."""
    return _THINGS[what](*args, **kwargs)


@app.function(max_containers=1)
def count(numbers, path=None, slowly=True):
    """Count; below 0 is the number of the process."""
    if numbers < 0:
        yield os.getpid()
    try:
        for number in range(numbers):
            yield number
            if path is not None and slowly:
                time.sleep(0.01)
            elif path is not None:
                with open(path, "a") as file:
                    file.write(".")
    finally:
        if path is not None:
            Path(path).write_text("closed")


@app.function(max_containers=1)
async def later(value):
    """An asynchronous function."""
    await asyncio.sleep(0)
    return value


@app.function(max_containers=1)
def variable(name):
    return os.environ.get(name)


def _fail(value):
    raise Refused(value)


def _wait_for(path):
    deadline = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # for the result of who has made it to arrive
    return os.path.exists(path)


def _note(path, value, seconds=0.0):
    with open(path, "a") as file:
        file.write(f"{value}\n")
    time.sleep(seconds)
    if value == "bad":
        raise Refused(value)
    return value


_THINGS: dict[str, Callable[..., Any]] = {
    "same": lambda *values: values[0] if len(values) == 1 else values,
    "fail": _fail,
    "sleep": time.sleep,
    "wait_for": _wait_for,
    "create": lambda path: Path(path).touch(),
    "note": _note,
    "pid": os.getpid,
    "variable": os.environ.get,
    "is_local": pgstore.is_local,
    "ids": lambda: (pgstore.current_function_call_id(), pgstore.current_input_id()),
    "call": lambda function, *args: function.remote(*args),
    "keywords": lambda **kwargs: kwargs,
}
