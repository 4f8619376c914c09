"""`map` and its kin: one call for each element, results as they come, inputs read as results are taken.

A reader of its own makes the calls, a thread or a task: whoever makes the elements may wait for what becomes of earlier ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pgstore.app.spec import Outcome
from pgstore.app.waiting import from_threads
from pgstore.errors import InvalidError

AHEAD_MAX: Final = 1000  # elements that were read and whose results were not taken

Arguments: TypeAlias = tuple[Any, ...]
Submit: TypeAlias = Callable[[Arguments], "Future[Outcome]"]
Ended: TypeAlias = "tuple[int, Future[Outcome]] | _AllRead"


@dataclass(frozen=True)
class _AllRead:
    """There are no more elements than *count*, or reading them has failed."""

    count: int
    error: BaseException | None


class _Results:
    """What has ended so far, and in which order it is given on."""

    def __init__(self, *, ordered: bool, return_exceptions: bool) -> None:
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._waiting: dict[int, Any] = {}
        self._given = 0
        self._count: int | None = None

    @property
    def is_complete(self) -> bool:
        return self._given == self._count

    def take(self, ended: Ended) -> Iterator[Any]:
        """The results that can be given on now that *ended* has. Raises its error: also before earlier results."""
        if isinstance(ended, _AllRead):
            if ended.error is not None:
                raise ended.error
            self._count = ended.count
            return
        index, future = ended
        try:
            value = future.result().value()
        except Exception as exc:
            if not self._return_exceptions:
                raise
            value = exc
        self._waiting[index if self._ordered else self._given] = value
        while self._given in self._waiting:
            value = self._waiting.pop(self._given)
            self._given += 1
            yield value


class _Calls:
    """The calls that have not ended. Told to stop, it cancels those that have not begun; the others run to their end."""

    def __init__(self, submit: Submit, tell: Callable[[Ended], object]) -> None:
        self._submit = submit
        self._tell = tell
        self._open: set[Future[Outcome]] = set()
        self._lock = threading.Lock()
        self.is_stopped = False

    def make(self, index: int, arguments: Arguments) -> None:
        future = self._submit(arguments)
        with self._lock:
            self._open.add(future)
            if self.is_stopped:
                future.cancel()
        future.add_done_callback(lambda ended: self._has_ended(index, ended))

    def _has_ended(self, index: int, future: Future[Outcome]) -> None:
        self._open.discard(future)
        if not self.is_stopped:
            self._tell((index, future))

    def stop(self) -> None:
        with self._lock:
            self.is_stopped = True
            still_open = tuple(self._open)
        for future in still_open:
            future.cancel()


def mapped(submit: Submit, elements: Iterable[Arguments], *, ordered: bool, return_exceptions: bool) -> Generator[Any]:
    """Call *submit* for each of *elements*, and yield the results."""
    ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    room = threading.Semaphore(AHEAD_MAX)
    calls = _Calls(submit, ended.put)
    results = _Results(ordered=ordered, return_exceptions=return_exceptions)

    def read() -> None:
        count = 0
        try:
            iterator = iter(elements)
            while room.acquire() and not calls.is_stopped:
                try:
                    arguments = next(iterator)
                except StopIteration:
                    break
                calls.make(count, arguments)
                count += 1
        except BaseException as exc:  # noqa: BLE001 - it is the caller's
            ended.put(_AllRead(count, exc))
        else:
            ended.put(_AllRead(count, None))

    # The context of the caller's: what reads from a transaction is told that it cannot from here, instead of reading outside of it.
    threading.Thread(target=contextvars.copy_context().run, args=(read,), name="pgstore-map", daemon=True).start()
    try:
        while not results.is_complete:
            for value in results.take(ended.get()):
                room.release()
                yield value
    finally:
        calls.stop()
        room.release()  # the reader looks whether it is to stop


async def mapped_async(
    submit: Submit, elements: AsyncIterable[Arguments], *, ordered: bool, return_exceptions: bool
) -> AsyncGenerator[Any]:
    """`mapped` on an event loop."""
    ended: asyncio.Queue[Ended] = asyncio.Queue()
    room = asyncio.Semaphore(AHEAD_MAX)

    calls = _Calls(submit, from_threads(ended))
    results = _Results(ordered=ordered, return_exceptions=return_exceptions)

    async def read() -> None:
        count = 0
        try:
            iterator = aiter(elements)
            while await room.acquire():
                try:
                    arguments = await anext(iterator)
                except StopAsyncIteration:
                    break
                calls.make(count, arguments)
                count += 1
        except Exception as exc:  # noqa: BLE001 - it is the caller's
            ended.put_nowait(_AllRead(count, exc))
        else:
            ended.put_nowait(_AllRead(count, None))

    reader = asyncio.create_task(read())
    try:
        while not results.is_complete:
            for value in results.take(await ended.get()):
                room.release()
                yield value
    finally:
        calls.stop()
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


# --------------------------------------------------------------------------------------------------------------- elements


def zipped(iterables: tuple[Any, ...], what: str) -> Iterator[Arguments]:
    """The arguments of each call."""
    check_iterables(iterables, what, (Iterable,))
    return zip(*iterables, strict=False)


def zipped_async(iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...], what: str) -> AsyncIterator[Arguments]:
    """`zipped`, also of asynchronous iterators."""
    check_iterables(iterables, what, (Iterable, AsyncIterable))
    iterators = [each if isinstance(each, AsyncIterable) else _stepped(each) for each in iterables]
    return _zip_async([aiter(each) for each in iterators])


async def _zip_async(iterators: list[AsyncIterator[Any]]) -> AsyncIterator[Arguments]:
    while True:
        try:
            yield tuple([await anext(each) for each in iterators])
        except StopAsyncIteration:
            return


async def _stepped(elements: Iterable[Any]) -> AsyncIterator[Any]:
    for each in elements:
        yield each
        await asyncio.sleep(0)  # a long list is read between other things


def check_iterables(iterables: tuple[Any, ...], what: str, kinds: tuple[type, ...]) -> None:
    """Raise `InvalidError` unless *what* was given what it can iterate over."""
    if not iterables:
        raise InvalidError(f"{what} takes one iterable for each argument of the function, and was given none")
    for each in iterables:
        if isinstance(each, AsyncIterable) and AsyncIterable not in kinds:
            raise InvalidError(f"{what} cannot iterate over {each!r}, which is asynchronous; use {what}.aio")
        if not isinstance(each, kinds) and not hasattr(each, "__getitem__"):
            raise InvalidError(f"{what} cannot iterate over {each!r}; it takes one iterable for each argument")
