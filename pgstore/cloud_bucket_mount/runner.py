"""How operations on a bucket are carried out: they ask for nothing but `Call`s of code that blocks, and there is no database."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from pgstore import errors
from pgstore.core import clock
from pgstore.core.async_usage import running_loop, warn_of_blocking
from pgstore.core.operation import Call, Op
from pgstore.core.steps import Steps, run_async, run_blocking
from pgstore.core.workers import Workers

T = TypeVar("T")

THREADS_MAX: Final = 64  # of calls that are awaited: so many requests may be under way
WAIT_SECONDS: Final = 60.0  # that a cancelled task waits for the request that is under way


class Runner:
    """
    Runs operations: blocking, in the thread that calls; awaited, in threads, so that the event loop goes on.

    A task that is cancelled waits for the request that is under way, and then for what the operation has to tidy up.
    """

    def run(self, op: Op[T], bound: Any = None) -> T:
        return run_blocking(_perform(op, _here))

    async def run_async(self, op: Op[T], bound: Any = None) -> T:
        return await run_async(_perform(op, _in_thread))

    def pin(self, bound: Any = None) -> None:
        """Nothing here belongs to a transaction."""


def _perform(op: Op[T], call: Callable[[Callable[[], Any]], Any]) -> Steps[T]:
    answer: Any = None
    failures: list[BaseException] = []  # a list that is empty again: else frame and error keep each other alive
    while True:
        try:
            request = op.throw(failures.pop()) if failures else op.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        answer = None
        if not isinstance(request, Call):
            raise errors.InvalidError(f"an operation on a bucket asked for {request!r}, which takes a database")
        try:
            answer = yield call(request.function)
        except GeneratorExit:
            raise  # abandoned: nobody will answer
        except BaseException as exc:  # noqa: BLE001 - the operation is told of it
            failures.append(exc)


def _here(function: Callable[[], Any]) -> Any:
    if running_loop() is not None:
        warn_of_blocking()
    return function()


async def _in_thread(function: Callable[[], Any]) -> Any:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    task = _workers.submit(partial(_do, function, loop, over))
    interrupt: asyncio.CancelledError | None = None
    give_up = float("inf")
    while not over.is_set():
        try:
            async with asyncio.timeout(None if interrupt is None else give_up - clock.monotonic()):
                await over.wait()
        except asyncio.CancelledError as exc:
            if task.cancel():
                raise
            interrupt, give_up = exc, clock.monotonic() + WAIT_SECONDS
        except TimeoutError:
            break
    if interrupt is not None:
        raise interrupt
    return task.result()


def _do(function: Callable[[], T], loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> T:
    try:
        return function()
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(over.set)


_workers = Workers(THREADS_MAX, "pgstore-bucket-call")


def _after_fork_in_child() -> None:
    global _workers
    _workers = Workers(THREADS_MAX, "pgstore-bucket-call")  # the threads were not taken along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
