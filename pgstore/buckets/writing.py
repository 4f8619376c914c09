"""Writing an object: what is written is kept until it makes a part, and the parts are put while more is written.

An object of one part is put in one request. Nobody sees anything before `Writer.close` returns, and after an error, or an `abort`,
nothing is there but what was before.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

from pgstore import errors
from pgstore.buckets.base import Bucket, Bytes, Limits, ObjectInfo, Upload
from pgstore.buckets.parallel import PART_BYTES, Shared, shared
from pgstore.core.threads import is_ending
from pgstore.core.workers import Task

_LOG: Final = logging.getLogger("pgstore")
T = TypeVar("T")
Part: TypeAlias = tuple[Task[None], int]
"""One that is under way, and what it has taken of the budget."""

PARTS_UNDER_WAY_MAX: Final = 10
_STEPS: Final = 10  # in which parts grow


def part_bytes(limits: Limits, number: int, least: int = PART_BYTES) -> int:
    """
    The size of the part *number*, from 1: twice as large after each tenth of the parts that an object can have.

    So small objects take little memory, and the largest that the provider has still fit. Where all parts have to be equal they are.
    """
    if limits.equal_parts:
        return max(least, limits.part_bytes_min)
    doubled = min((number - 1) * _STEPS // limits.parts_max, _STEPS - 1)
    return min(max(least, limits.part_bytes_min) << doubled, limits.part_bytes_max)


class Writer(Generic[T]):
    """
    An object that is being written, from its beginning to its end, by one thread at a time.

    Args:
        if_missing: `close` fails with `FileExists` where there is such an object.
        done: makes what `close` returns.
        first_part_bytes: the size of the parts of a small object.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        path: str,
        done: Callable[[ObjectInfo], T],
        *,
        if_missing: bool = False,
        first_part_bytes: int = PART_BYTES,
    ) -> None:
        self.path = path
        self._bucket = bucket
        self._key = key
        self._done = done
        self._if_missing = if_missing
        self._first_part_bytes = first_part_bytes
        self._shared = shared()
        self._lock = threading.RLock()
        self._size_bytes = 0
        self._part = bytearray()
        self._part_bytes = part_bytes(bucket.limits, 1, first_part_bytes)
        self._number = 1  # of the part that is being filled
        self._upload: Upload | None = None  # from the second part on
        self._tasks: deque[Part] = deque()
        self._failure: BaseException | None = None
        self._is_closed = False

    @property
    def size_bytes(self) -> int:
        """How much was written so far."""
        return self._size_bytes

    def write(self, data: Bytes) -> None:
        """
        Go on with *data*, which is copied.

        Raises:
            FileTooLarge: no object of this provider can be that large.
        """
        view = memoryview(data).cast("B")
        with self._lock:
            self._check_open()
            if self._size_bytes + len(view) > self._bucket.limits.object_bytes_max:
                raise errors.FileTooLarge(
                    f"object {self._key!r} would be larger than {self._bucket.limits.object_bytes_max} bytes, "
                    f"the largest that {self._bucket.shown} can have",
                    self.path,
                )
            with _Failing(self):
                self._size_bytes += len(view)
                while len(view):
                    if len(self._part) == self._part_bytes:
                        self._put_part()
                    room = self._part_bytes - len(self._part)
                    self._part += view[:room]
                    view = view[room:]

    def _put_part(self) -> None:
        """Have the part that is full put, and begin the next one."""
        if self._upload is None:
            self._upload = self._bucket.begin_upload(self._key, if_missing=self._if_missing)
        part, self._part = self._part, bytearray()
        taken = len(part) if self._tasks else 0
        while taken and not self._shared.budget.take(taken):
            self._wait_for_one()
            taken = len(part) if self._tasks else 0
        put = partial(self._upload.put_part, self._number, part)
        self._tasks.append((self._shared.workers.submit(put), taken))
        while len(self._tasks) >= PARTS_UNDER_WAY_MAX:
            self._wait_for_one()
        self._number += 1
        self._part_bytes = part_bytes(self._bucket.limits, self._number, self._first_part_bytes)

    def _wait_for_one(self) -> None:
        task, taken = self._tasks[0]
        try:
            task.result()
        finally:
            if task.is_done:
                self._tasks.popleft()
                self._shared.budget.give(taken)

    def close(self) -> T:
        """
        Make the object of what was written; when this returns, everybody sees it.

        Raises:
            FileExists: *if_missing*, and there is such an object.
        """
        with self._lock:
            self._check_open()
            with _Failing(self):
                if self._upload is None:
                    info = self._bucket.put(self._key, self._part, if_missing=self._if_missing)
                else:
                    if self._part:
                        self._put_part()
                    while self._tasks:
                        self._wait_for_one()
                    info = self._upload.complete()
            self._is_closed = True
            self._part = bytearray()
        return self._done(info)

    def abort(self) -> None:
        """Have nothing made of what was written. Does nothing after `close` or another `abort`."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._drop()

    def _fail(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
            self._drop()

    def _drop(self) -> None:
        self._part = bytearray()
        upload, self._upload = self._upload, None
        tasks, self._tasks = self._tasks, deque()
        if upload is not None:
            _drop_upload(upload, tasks, self._shared, f"{self._key!r} of {self._bucket.shown}")

    def _check_open(self) -> None:
        if self._is_closed:
            raise errors.InvalidError(f"file {self.path!r} is closed")
        if self._failure is not None:
            raise errors.FileFailed(
                f"an earlier write to {self.path!r} failed, and nothing of it is kept; write it anew", self.path
            ) from self._failure

    def __del__(self) -> None:
        # Left without a close. Finalisers may run at any moment, also where this thread has a lock: they take none.
        if not getattr(self, "_is_closed", True) and self._upload is not None and not is_ending():
            self._is_closed = True
            with contextlib.suppress(RuntimeError):  # out of threads
                what = f"{self._key!r} of {self._bucket.shown}"
                _thread.start_new_thread(_drop_upload, (self._upload, self._tasks, self._shared, what))


def _drop_upload(upload: Upload, parts: Sequence[Part], shared: Shared, what: str) -> None:
    for task, taken in parts:
        task.cancel()
        shared.budget.give(taken)
    for task, _ in parts:
        task.wait()  # a part that arrived after the abort would stay, and cost
    try:
        upload.abort()
    except errors.Error as exc:
        _LOG.warning("an upload to %s was given up, and its parts could not be dropped: %s", what, exc)


class _Failing:
    """An error in the block, or an interrupt, is the end of the writer."""

    def __init__(self, writer: Writer[T]) -> None:
        self._fail = writer._fail

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        if failure is not None:
            self._fail(failure)
