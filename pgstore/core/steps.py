"""Steps: generators over resources that exist in a blocking and an asynchronous kind, written once.

A step yields what a resource's method returned. From a blocking resource that is the value, which is handed straight back; from an
asynchronous one it is an awaitable, and what awaiting it gives comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Coroutine, Generator
from typing import Any, TypeAlias, TypeVar

from pgstore.core.limit import lift

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]


def is_interrupt(exc: BaseException) -> bool:
    """Ctrl-C or a cancelled task; not an error, and not a generator that nobody answers any more."""
    return not isinstance(exc, (Exception, GeneratorExit))


def run_blocking(steps: Steps[T]) -> T:
    """Run steps over blocking resources: each step has its value already."""
    value: Any = None
    # A list, which is empty once the steps have heard of it: else frame and error keep each other, and the connections that they
    # know, alive. Not `finally`: Ctrl-C on a line there would lose what is being returned.
    failures: list[BaseException] = []
    while True:
        try:
            while not failures:
                value = steps.send(value)
            value = steps.throw(failures.pop())
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except BaseException as exc:
            if inspect.getgeneratorstate(steps) != inspect.GEN_SUSPENDED:
                if is_interrupt(exc):
                    lift()
                raise
            failures.append(exc)  # Ctrl-C, between two steps: they have something to tidy up


async def run_async(steps: Steps[T]) -> T:
    """Run steps over asynchronous resources, awaiting each."""
    value: Any = None
    failures: list[BaseException] = []  # as in `run_blocking`
    while True:
        try:
            step = steps.throw(failures.pop()) if failures else steps.send(value)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        value = None
        try:
            value = await step
        except GeneratorExit:
            raise  # the event loop is gone: nothing can be awaited any more
        except BaseException as exc:
            failures.append(exc)


async def run_either(steps: Steps[T]) -> T:
    """`run_async` over resources of both kinds: awaits what can be awaited, and takes all else for the value of a step."""
    return await run_async(_awaitable(steps))


def _awaitable(steps: Steps[T]) -> Steps[T]:
    value: Any = None
    failure: BaseException | None = None
    while True:
        try:
            step = steps.send(value) if failure is None else steps.throw(failure)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        value = failure = None
        if not inspect.isawaitable(step):
            value = step
            continue
        try:
            value = yield step
        except BaseException as exc:
            failure = exc


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end, however often the current task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
