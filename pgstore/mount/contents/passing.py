"""Contents under way that can be passed through: see `passed`, which says how it is found out what was written."""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from pgstore.fs.content.block_reader import Source
from pgstore.mount.contents.passed import FILLED_BYTES_MAX, FREE_BYTES_MIN, Passed, Passes, data_of, is_alone
from pgstore.mount.contents.ranges import Ranges, ranges_of
from pgstore.mount.contents.shared import Shared
from pgstore.mount.contents.under_way import UPLOAD_BYTES, UnderWay, check_size
from pgstore.mount.protocol import Bytes

# The kernel tells of the end of an open file a moment before it is done with what was passed through.
_LOOKS: Final = 5
_LOOK_SECONDS: Final = 0.002


class Passing(UnderWay):
    """
    Contents of which the kernel may read and write the staged file itself: from `pass_through` to `end_passing`.

    In between all of the file is there. `catch_up` notes what was written, as if it had been written through us.
    """

    def __init__(self, shared: Shared, ino: int, size_bytes: int, mtime_ns: int) -> None:
        super().__init__(shared, ino, size_bytes, mtime_ns)
        self._passed: Passed | None = None

    @abc.abstractmethod
    def _note_passing_ended(self) -> None:
        """Nothing is passed through any more. With the lock."""

    @property
    def is_passed(self) -> bool:
        return self._passed is not None

    @property
    def is_open_for_writing(self) -> bool:
        # What is passed through, and not open any more, is mapped.
        return super().is_open_for_writing or (self._passed is not None and not self.open_files)

    def pass_through(self, kernel: Passes, *, may_begin: bool) -> int:
        """
        Let the kernel read and write the staged file, if all of the file is there or can be at once, and nobody has it open who
        asks us. To be called for each that is opened, before the kernel has it.

        Args:
            may_begin: whether it is opened for writing, and is worth it.

        Returns:
            The kernel's number for it; 0: it asks us.
        """
        with self._lock:
            if self._passed is not None:
                return self._passed.number
            if not may_begin or self.open_files > 1 or self.size_bytes > FILLED_BYTES_MAX:
                return 0
            if self.shared.stage.bytes_on_disk_free < FREE_BYTES_MIN:
                return 0
            try:
                return self._begin_passing(kernel)
            except OSError:
                self._staged.unfix()
                return 0

    def _begin_passing(self, kernel: Passes) -> int:
        staged, size = self._staged, self.size_bytes
        gaps = staged.held.gaps(0, size)
        below = [part for gap in gaps for left in self._newer.gaps(*gap) for part in self._below(*left)]
        if any(isinstance(what, Source) for _, _, what in below):
            return 0
        fd = staged.fix()
        os.ftruncate(fd, size)
        staged.fill(gaps, [(start, what) for start, _, what in below if not isinstance(what, Source)])
        os.utime(fd, ns=(self.mtime_ns, self.mtime_ns))
        is_exact = os.fstat(fd).st_mtime_ns == self.mtime_ns  # else what is written may leave it as it is
        number = kernel.pass_through(fd) if is_exact and is_alone(fd) else 0
        if number:
            self._passed = Passed(kernel, fd, number, self.mtime_ns)
        else:
            staged.unfix()
        return number

    def look(self) -> None:
        if self._passed is not None:
            with self._lock:
                self._look()

    def _look(self) -> None:
        if self._passed is not None:
            self.size_bytes, self.mtime_ns = self._passed.look(self.mtime_ns)

    def stored_bytes(self, below: int) -> int:
        with self._lock:
            if self._passed is not None:
                return self._passed.stored_bytes
        return super().stored_bytes(below)

    def set_mtime(self, mtime_ns: int) -> None:
        """Something has set the time of modification."""
        with self._lock:
            self._look()
            self.mtime_ns = mtime_ns
            if self._passed is not None:
                self._passed.set_mtime(mtime_ns)

    def catch_up(self) -> None:
        """Note what was written past us, up to now."""
        passed = self._passed
        if passed is not None:
            with passed.turn:
                self._catch_up(passed)

    def catch_up_with_growth(self) -> None:
        """Note how far the file has grown, so that the most of it is uploaded before it is closed."""
        passed = self._passed
        if passed is None:
            return
        with passed.turn:
            with self._lock:
                if self._passed is not passed:
                    return
                self._look()
                start, end = passed.noted_end, self.size_bytes // UPLOAD_BYTES * UPLOAD_BYTES
                if start >= end:
                    return
                fd = os.dup(passed.fd)
            try:
                data = data_of(fd, end, start)
            finally:
                os.close(fd)
            with self._lock:
                passed.noted_end = end
                for begin, stop in self._staged.held:
                    data.add(begin, stop)
                self._note_changes(passed, data, ranges_of([(start, end)]))

    def _catch_up(self, passed: Passed) -> None:
        with self._lock:
            if self._passed is not passed:
                return
            self._look()
            if not passed.is_touched:
                return
            passed.begin()
            size = self.size_bytes
            fd = os.dup(passed.fd)
        try:
            check_size(size)
            data, changed = data_of(fd, size), passed.changed(fd, size)
        finally:
            os.close(fd)
        with self._lock:
            passed.noted_end = min(size, self.size_bytes)
            self._note_changes(passed, data, passed.less_sent(changed))

    def _note_changes(self, passed: Passed, data: Ranges, changed: Ranges) -> None:
        size = self.size_bytes
        data.remove(size, max(size, data.end))  # cut meanwhile
        self._staged.hold(data)
        for start, end in data:
            passed.holes.remove(start, end)
        for start, end in passed.holes:
            changed.remove(start, end)
        for start, end in changed:
            end = min(end, size)
            self._newer.add(start, end)
            for begin, stop in data.gaps(start, end):
                self._note_zeroed(begin, stop)
                passed.holes.add(begin, stop)
            for begin, stop in data.within(start, end):
                self._note_written(begin, stop)

    def end_passing(self, *, open_files: int = 0, looks: int = _LOOKS) -> bool:
        """
        Note what was written past us, and let nothing more be, if nobody has it mapped, and at most *open_files* have it open,
        which the kernel has closed. Returns whether nothing is passed through now.
        """
        passed = self._passed
        if passed is None:
            return True
        for look in range(looks):
            if look:
                time.sleep(_LOOK_SECONDS)
            with self._lock:  # so that nobody opens it meanwhile
                if self.open_files > open_files:
                    return False
                if self._passed is not passed:
                    return True
                if passed.is_alone:
                    break
        else:
            return False
        with passed.turn:
            self._catch_up(passed)
            with self._lock:
                if self._passed is passed:
                    if self.open_files > open_files:
                        return False
                    self._stop_passing()
        return True

    def _stop_passing(self) -> None:
        assert self._passed is not None
        self._passed.end()
        self._passed = None
        self._staged.unfix()
        for start, end in self._newer.gaps(0, self._staged.held.end):
            self._staged.discard(start, end)
        self._note_passing_ended()

    def _abandon_passing(self) -> None:
        """End it, whoever has the file mapped, since nobody wants to know what is written. With the lock."""
        if self._passed is not None:
            self._passed.end()
            self._passed = None

    # ------------------------------------------------------------------------------------- what others ask in between

    def _layers(self, start: int, end: int) -> list[tuple[int, int, Source | bytes]]:
        if self._passed is not None and start < end:
            return [(start, end, self._staged.read_all(start, end))]
        return super()._layers(start, end)

    def _read(
        self, offset: int, length: int, fetch: Callable[[Source, int, int], Sequence[Bytes] | None]
    ) -> Sequence[Bytes] | None:
        self.look()
        return super()._read(offset, length, fetch)

    def seek(self, offset: int, whence: int) -> int:
        with self._lock:
            if self._passed is not None:
                return os.lseek(self._passed.fd, offset, whence)
        return super().seek(offset, whence)

    def _write_now(self, offset: int, end: int, data: Bytes) -> bool:
        passed = self._passed
        if passed is None:
            return super()._write_now(offset, end, data)
        self._look()
        is_done = super()._write_now(offset, end, data)
        passed.touch(offset, end, self.mtime_ns)
        return is_done

    def _cut(self, size: int) -> None:
        passed = self._passed
        if passed is None:
            super()._cut(size)
            return
        self._look()
        self._staged.cut(size)
        before = self.size_bytes
        super()._cut(size)
        passed.touch(min(size, before), max(size, before), self.mtime_ns)
        passed.noted_end = min(passed.noted_end, size)

    def zero(self, start: int, end: int) -> None:
        self.look()
        super().zero(start, end)
        with self._lock:
            if self._passed is not None:
                self._passed.touch(start, end, self.mtime_ns)
