"""Workers: a few threads that do what others would else wait for one after the other, such as several reads at a time.

A task is done by a worker, or by whoever wants its result before a worker has begun with it. So a task never waits for a free
worker in vain, and one whose caller is a worker itself does not either.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from pgstore.core.threads import Signal, start

T = TypeVar("T")
_IDLE_SECONDS: Final = 5.0


class Task(Generic[T]):
    """A call that is to be made once."""

    __slots__ = ("_begun", "_done", "_error", "_function", "_result")

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._begun = threading.Lock()  # taken by whoever makes the call, and not given back
        self._done = Signal()
        self._result: Any = None
        self._error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def run(self) -> bool:
        """Make the call, unless somebody does or has. Returns whether it was made."""
        if not self._begun.acquire(blocking=False):
            return False
        function, self._function = self._function, None
        assert function is not None
        try:
            self._result = function()
        except BaseException as exc:
            self._error = exc
        finally:
            self._done.set()
        return True

    def cancel(self) -> bool:
        """Have the call not made. Returns False if somebody makes it or has."""
        if not self._begun.acquire(blocking=False):
            return False
        self._function = None
        self._done.set()
        return True

    def wait(self) -> None:
        """Wait until the call was made or cancelled."""
        self._done.wait()

    def result(self) -> T:
        """What the call returns or raises. It is made here if nobody has begun with it."""
        self.run()
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[no-any-return]


class Workers:
    """At most *threads_max* threads, which end when there is nothing to do."""

    def __init__(self, threads_max: int, name: str) -> None:
        self.threads_max = threads_max
        self._name = name
        self._tasks: deque[Task[Any]] = deque()
        self._news = threading.Condition(threading.Lock())
        self._threads = 0
        self._idle = 0

    def submit(self, function: Callable[[], T]) -> Task[T]:
        """Have *function* called by a worker."""
        task = Task(function)
        with self._news:
            self._tasks.append(task)
            if self._idle >= len(self._tasks):
                self._news.notify()
                return task
            if self._threads >= self.threads_max:
                return task
            self._threads += 1
        try:
            start(threading.Thread(target=self._work, name=self._name, daemon=True))
        except RuntimeError:  # whoever wants the result does it
            with self._news:
                self._threads -= 1
        return task

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task.run()
            del task  # what it holds is not to wait for the next one

    def _next(self) -> Task[Any] | None:
        with self._news:
            self._idle += 1
            try:
                while not self._tasks:
                    if not self._news.wait(_IDLE_SECONDS) and not self._tasks:
                        self._threads -= 1
                        return None
                return self._tasks.popleft()
            finally:
                self._idle -= 1
