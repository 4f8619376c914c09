"""Waiting for workers, on a thread and on an event loop. Whoever stops waiting takes the call back."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from typing import Any, Final, TypeAlias, TypeVar

from pgstore.app.context import check_not_loading
from pgstore.app.pickles import Outcome
from pgstore.app.runner import runner
from pgstore.client import default_client
from pgstore.client.transaction import check_nothing_written
from pgstore.core.async_usage import running_loop, warn_of_blocking
from pgstore.errors import InvalidError

T = TypeVar("T")
Tell: TypeAlias = Callable[[Any], None]
Steps: TypeAlias = Generator[Any, Any, None]

NEXT: Final = object()
"""What the steps of a stream yield to be sent the next event; all else that they yield is a value of the stream."""


def check_may_wait(what: str) -> None:
    """Raise `InvalidError` where *what*, which waits for a worker, would never return or start workers without end."""
    check_not_loading(what)
    check_nothing_written(default_client(), what)


def check_not_on_loop(what: str) -> None:
    """Raise `InvalidError` in a running event loop, which a blocking loop would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidError(f"{what}(…) would block the event loop that is running here; use {what}.aio(…)")


def wait(future: Future[Outcome]) -> Any:
    """What the call returns or raises."""
    try:
        if running_loop() is not None:
            warn_of_blocking()
        outcome = future.result()
    except BaseException:
        take_back(future)
        raise
    return outcome.value()


async def wait_async(future: Future[Outcome]) -> Any:
    """`wait` on an event loop."""
    try:
        outcome = await asyncio.wrap_future(future)
    except BaseException:
        take_back(future)
        raise
    return outcome.value()


def take_back(future: Future[Outcome]) -> None:
    """End a call for which nobody waits any more."""
    if not future.done():
        runner().cancel(future)


def stream(start: Callable[[Tell], Steps]) -> Generator[Any]:
    """
    Yield the values of the steps that *start* gives.

    Nothing begins before the first is asked for, and the steps are closed with the loop over the stream.

    Args:
        start: is given what any thread may tell of an event by.
    """
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with contextlib.closing(start(events.put)) as steps:
        step = next(steps, steps)
        while step is not steps:  # which stands for their end
            if step is NEXT:
                step = _resume(steps, events.get())
            else:
                yield step
                step = next(steps, steps)


async def stream_async(start: Callable[[Tell], Steps]) -> AsyncGenerator[Any]:
    """`stream` on an event loop."""
    events: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(events.put_nowait, event)

    with contextlib.closing(start(tell)) as steps:
        step = next(steps, steps)
        while step is not steps:
            if step is NEXT:
                step = _resume(steps, await events.get())
            else:
                yield step
                step = next(steps, steps)


def _resume(steps: Steps, event: Any) -> Any:
    try:
        return steps.send(event)
    except StopIteration:
        return steps
