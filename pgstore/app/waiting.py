"""Waiting for workers, on a thread and on an event loop. Whoever stops waiting takes the call back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pgstore.app.context import check_not_loading
from pgstore.app.runner import runner
from pgstore.app.spec import Input, Outcome, WorkerSpec
from pgstore.client import default_client
from pgstore.client.transaction import check_nothing_written
from pgstore.errors import InvalidError

T = TypeVar("T")


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


def submit(spec: WorkerSpec, given: Input, **how: Any) -> Future[Outcome]:
    """Have a worker do it."""
    return runner().submit(spec, given, **how)


def wait(future: Future[Outcome]) -> Any:
    """What the call returns or raises."""
    try:
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


def from_threads(items: asyncio.Queue[T]) -> Callable[[T], None]:
    """What any thread may put into *items* by, a queue of the loop that is running now; after the end of that it does nothing."""
    loop = asyncio.get_running_loop()

    def put(item: T) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(items.put_nowait, item)

    return put


def take_back(future: Future[Outcome]) -> None:
    """End a call for which nobody waits any more."""
    if not future.done():
        runner().cancel(future)
