"""Work that is done to its end, however often the program is interrupted meanwhile.

Ctrl-C reaches the main thread, cancelling a task, and the end of an event loop all of its tasks. So what must not be left half
done, such as putting back what an interrupted call had taken, runs on a thread of its own. Whoever wants it waits; an interrupt
while waiting is raised when the work is over. The interpreter does not end before such a thread does.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

from pgstore.core.clock import monotonic
from pgstore.core.steps import is_interrupt
from pgstore.core.threads import start

WAIT_SECONDS: Final = 60.0  # that an interrupted caller waits; the work goes on after that


class _Work:
    """A function that is called once, whoever calls how often."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._claim = threading.Lock()
        self._failure: BaseException | None = None
        self._result: Any = None
        self.over = threading.Event()
        self.tell: Callable[[], None] | None = None

    def do(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._result = self._function()
        except BaseException as exc:
            self._failure = exc
        finally:
            self.over.set()
            if self.tell is not None:
                self.tell()

    def begin(self) -> None:
        """Do it on a thread. To be called again if it was interrupted: a second thread finds nothing to do."""
        if self._claim.locked():
            return
        try:
            start(threading.Thread(target=self.do, name="pgstore-certainly", daemon=False))
        except RuntimeError:  # the interpreter is about to exit, or out of threads
            self.do()

    def outcome(self, interrupt: BaseException | None) -> Any:
        failure = interrupt or self._failure
        if failure is not None:
            self._failure = None
            raise failure
        return self._result


def certainly(function: Callable[[], Any]) -> Any:
    """What *function* returns or raises; an interrupt while it runs comes after it."""
    work = _Work(function)
    interrupt: BaseException | None = None
    give_up = float("inf")
    while not work.over.is_set() and monotonic() < give_up:
        try:
            work.begin()
            work.over.wait(None if interrupt is None else give_up - monotonic())
        except BaseException as exc:
            if not is_interrupt(exc):
                raise
            interrupt, give_up = exc, monotonic() + WAIT_SECONDS
    return work.outcome(interrupt)


async def certainly_async(function: Callable[[], Any]) -> Any:
    """`certainly`, letting the event loop go on."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(over.set)

    work = _Work(function)
    work.tell = tell
    interrupt: BaseException | None = None
    give_up = float("inf")
    while not over.is_set() and monotonic() < give_up:
        try:
            work.begin()
            async with asyncio.timeout(None if interrupt is None else give_up - monotonic()):
                await over.wait()
        except asyncio.CancelledError as exc:
            interrupt, give_up = exc, monotonic() + WAIT_SECONDS
        except TimeoutError:
            break
    return work.outcome(interrupt)
