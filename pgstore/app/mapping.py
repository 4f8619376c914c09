"""`map` and its kin: one call for each element, results as they come, inputs read as results are taken.

A reader of its own makes the calls, a thread or a task: whoever makes the elements may wait for what becomes of earlier ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeAlias

from pgstore.app.pickles import Outcome
from pgstore.app.waiting import NEXT, Steps, Tell, stream, stream_async
from pgstore.errors import InvalidError

AHEAD_MAX: Final = 1000  # elements that were read and whose results were not taken

Arguments: TypeAlias = tuple[Any, ...]
Submit: TypeAlias = Callable[[Arguments], "Future[Outcome]"]


def mapped(submit: Submit, elements: Iterable[Arguments], *, ordered: bool, return_exceptions: bool) -> Generator[Any]:
    """Call *submit* for each of *elements*, and yield the results."""

    def start(tell: Tell) -> Steps:
        room = threading.Semaphore(AHEAD_MAX - 1)
        calls = _Calls(submit, tell, room.release)

        def read() -> None:
            with calls.reading():
                for arguments in elements:
                    calls.make(arguments)
                    room.acquire()
                    if calls.is_stopped:
                        break

        # In the context of the caller: what reads from a transaction is told that it cannot, instead of reading outside of it.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(read,), name="pgstore-map", daemon=True).start()
        return calls.results(room.release, ordered, return_exceptions)

    return stream(start)


def mapped_async(
    submit: Submit, elements: AsyncIterable[Arguments], *, ordered: bool, return_exceptions: bool
) -> AsyncGenerator[Any]:
    """`mapped` on an event loop."""

    def start(tell: Tell) -> Steps:
        room = asyncio.Semaphore(AHEAD_MAX - 1)
        calls = _Calls(submit, tell, room.release)

        async def read() -> None:
            with calls.reading():
                async for arguments in elements:
                    calls.make(arguments)
                    await room.acquire()

        reader = asyncio.create_task(read())
        return calls.results(reader.cancel, ordered, return_exceptions)

    return stream_async(start)


class _Calls:
    """
    The calls of a map, numbered from 0 in the order of the elements.

    Told to stop, it cancels those that have not begun; the others run to their end.

    Args:
        tell: of the end of each call: its number and its future; and of that of the elements: how many they are, and their error.
        taken: called when a result is given on.
    """

    def __init__(self, submit: Submit, tell: Tell, taken: Callable[[], None]) -> None:
        self._submit = submit
        self._tell = tell
        self._taken = taken
        self._made = 0
        self._open: set[Future[Outcome]] = set()
        self._lock = threading.Lock()
        self.is_stopped = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """While the elements are read. An error of theirs is the caller's."""
        try:
            yield
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001
            self._tell((self._made, exc))
        else:
            self._tell((self._made, None))

    def make(self, arguments: Arguments) -> None:
        index, future = self._made, self._submit(arguments)
        self._made += 1
        with self._lock:
            self._open.add(future)
            if self.is_stopped:
                future.cancel()
        future.add_done_callback(lambda ended: self._has_ended(index, ended))

    def _has_ended(self, index: int, future: Future[Outcome]) -> None:
        self._open.discard(future)
        if not self.is_stopped:
            self._tell((index, future))

    def results(self, end_reading: Callable[[], object], ordered: bool, return_exceptions: bool) -> Steps:
        """The results, in order or as calls end. An exception is raised as soon as it is known, also before earlier results."""
        waiting: dict[int, Any] = {}
        given, count = 0, None
        try:
            while given != count:
                number, ended = yield NEXT
                if ended is None:
                    count = number
                    continue
                if isinstance(ended, BaseException):
                    raise ended
                try:
                    value = ended.result().value()
                except Exception as exc:
                    if not return_exceptions:
                        raise
                    value = exc
                waiting[number if ordered else given] = value
                while given in waiting:
                    self._taken()
                    given += 1
                    yield waiting.pop(given - 1)
        finally:
            self._stop()
            end_reading()

    def _stop(self) -> None:
        with self._lock:
            self.is_stopped = True
            still_open = tuple(self._open)
        for future in still_open:
            future.cancel()


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
