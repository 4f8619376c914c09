"""What a crash of the server may take of a file that is written in place, and how it is written again.

What was uploaded stays in the stage until it is on the server's disk (`unsafe`, `disk`). What a crash has taken is uploaded once
more: by who waits for it, and by the mount in the background.
"""

from __future__ import annotations

import abc
import errno
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from pgstore.core.operation import Op
from pgstore.fs.content import in_place
from pgstore.mount.contents.ranges import Range, Ranges, ranges_of
from pgstore.mount.contents.shared import Shared
from pgstore.mount.contents.under_way import UnderWay
from pgstore.mount.contents.unsafe import Unsafe

T = TypeVar("T")


class CrashSafe(UnderWay):
    """Contents that know what of them is on the server's disk."""

    def __init__(self, shared: Shared, ino: int, size_bytes: int, mtime_ns: int) -> None:
        super().__init__(shared, ino, size_bytes, mtime_ns)
        self._dirty_bytes = 0  # at least so many are in _dirty
        self._durable_parts: list[Range] = []  # what is written, or was last, by a statement that waits for the disk
        self._unsafe = Unsafe(shared.disk)
        self._losses = 0  # grows when some of it turns out to be lost, and is to be uploaded again
        self._losses_made_good = 0
        self._cut_again: int | None = None  # a truncation that was lost, with all that was written behind that size
        self._mtime_set: int | None = None  # by a program, since it has written last
        # Held while the size is changed in the database. Reentrant: who does may have to do so again what a crash has taken.
        self._truncations = threading.RLock()
        # Held while bytes are appended, after `_truncations`. Nothing else is sent meanwhile, nor while these may be lost.
        self._appending = threading.Lock()

    @abc.abstractmethod
    def _truncate(self, size: int) -> None:
        """Have the database cut the file, with `_truncations`."""

    @abc.abstractmethod
    def _append_lost(self) -> Op[None]:
        """Append once more what a crash of the server has taken. With `_appending`."""

    @property
    def has_lost_end(self) -> bool:
        """Whether a crash has taken what was appended, or a truncation: what the database has of the file is to be read later."""
        return self._has_lost_cut or self._unsafe.has_lost_end

    @property
    def is_safe(self) -> bool:
        """Whether all that was written is on the server's disk, as far as is known."""
        return not (self._dirty or self._uploading or self._unsafe or self._cut_again is not None)

    @property
    def has_lost(self) -> bool:
        """Whether something is to be written again that a crash of the server may have taken."""
        return self._losses != self._losses_made_good

    def set_mtime(self, mtime_ns: int) -> None:
        """A program has set the time of the last change, which writing again what a crash takes is to leave as it is."""
        with self._lock:
            self._mtime_set = None if self.is_safe else mtime_ns

    def sync(self) -> None:
        while True:
            losses = self.bring_back(durably=True)
            mark = self.shared.disk.mark()
            if self._is_safe_before(mark, losses):
                return
            self.shared.disk.flush()
            if self._is_safe_before(mark, losses):
                return

    def _is_safe_before(self, mark: int, losses: int) -> bool:
        """Whether what was uploaded before *mark* was taken is on the disk, and nothing was lost since there were *losses*."""
        with self._lock:
            self._settle()
            return losses == self._losses and not self._unsafe.has_before(mark)

    def settle(self) -> None:
        """Give back what is on the server's disk, and find out what is lost."""
        with self._lock:
            self._settle()

    def bring_back(self, *, durably: bool = False) -> int:
        """
        Upload what was not uploaded, or is lost. Returns how often something was lost before.

        Args:
            durably: if that is little, by a statement that waits for the disk.
        """
        with self._lock:
            self._settle()
            self._has_failed = False
            losses = self._losses
            has_lost_appended = self._unsafe.has_lost_appended
        self._bring_back_cut()
        if has_lost_appended:
            with self._appending:
                self._persist(self._append_lost)
        if durably and (parts := self._claim_little()):
            self._durable_parts = parts
            self._upload(parts, Ranges())
        else:
            self.upload()
        mtime_ns = self._mtime_set
        if mtime_ns is not None and losses != self._losses_made_good:
            self._persist(lambda: in_place.set_mtime(self.shared.store_id, self.ino, mtime_ns))
        self._losses_made_good = losses
        return losses

    def _settle(self) -> None:
        """Forget what is on the disk; have uploaded again what is lost. With the lock."""
        if not self._unsafe:
            return
        if self._cut_again is None:
            for start, end in self._unsafe.forget_safe():
                self._give_back(start, end)
        lost, cut = self._unsafe.take_lost()
        if cut is not None:
            self._cut_again = cut if self._cut_again is None else min(cut, self._cut_again)
        if lost or cut is not None or self._unsafe.has_lost_appended:
            self._losses += 1
        for start, end in lost:
            self._make_dirty(start, end)

    def _make_dirty(self, start: int, end: int) -> None:
        end = min(end, self.size_bytes) if self._cut_again is not None else end
        if start < end:
            self._dirty_bytes += self._dirty.add(start, end)
            self._newer.add(start, end)
            self.size_bytes = max(self.size_bytes, end)

    @property
    def _has_lost_cut(self) -> bool:
        return self._cut_again is not None

    def _bring_back_cut(self) -> None:
        """Cut the file again, if that is lost; all that was written behind is to be uploaded afterwards."""
        if not self._has_lost_cut:
            return
        with self._truncations:
            with self._lock:
                losses, size, wanted = self._losses, self._cut_again, self.size_bytes
            if size is None:  # another thread has done it
                return
            size = min(size, wanted)  # it may have been cut further since it was known to be lost
            self._truncate(size)
            if wanted > size:
                self._truncate(wanted)
            with self._lock:
                if losses == self._losses:
                    self._cut_again = None
                for start, end in (*self._unsafe.written, *self._uploading):
                    self._make_dirty(max(start, size), end)

    def _claim_little(self) -> list[Range]:
        """All that is dirty, if it is little and nothing is being uploaded; empty: it is not."""
        with self._lock:
            if self._uploading or not self._dirty or self._cut_again is not None:
                return []
            parts = list(self._dirty)
            if len(parts) > 1 or parts[0][0] // in_place.CALL_BYTES != (parts[0][1] - 1) // in_place.CALL_BYTES:
                goal = ranges_of(parts)
                parts = self._claim(goal)
                if parts != list(goal):
                    return []
            for part in parts:
                self._dirty.remove(*part)
                self._uploading.add(*part)
            self._has_failed = False
            return parts

    def _read_anew(self, *but: Iterable[Range]) -> None:
        """Read of the database, *but* for these ranges, what was written here. With the lock."""
        read = ranges_of(self._newer)
        for needed in but:
            for start, end in needed:
                read.remove(start, end)
        for start, end in read:
            self._newer.remove(start, end)
            self._give_back(start, end)

    def _give_back(self, start: int, end: int) -> None:
        """Give back what the stage has of a range, where nobody needs it any more. With the lock."""
        if self._newer.covers(start, end):
            return
        free = ranges_of([(start, end)])
        for needed in (self._newer, self._dirty, self._uploading, self._unsafe.written):
            for begin, stop in needed:
                free.remove(begin, stop)
        for each in free:
            self._staged.discard(*each)

    def _persist(self, make: Callable[[], Op[T]]) -> T:
        return self._found_again(lambda: self.shared.within_timeout(make))

    def _found_again(self, do: Callable[[], T]) -> T:
        """The result of *do*; where a crash has taken the file, once more after its name was made anew, after each crash."""
        while True:
            before = self.shared.names_brought_back
            try:
                return do()
            except OSError as exc:
                if exc.errno != errno.ESTALE:
                    raise
                self.shared.bring_back_names()
                if self.shared.names_brought_back == before:
                    raise
