"""The stage: what programs have written through a mount, on the local disk, until the database has it.

Small files are in memory, others in files without a name, so that a process that is killed leaves nothing behind. All files of a
stage together are bounded: who writes more waits until uploads have made room.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Final

from pgstore.core import clock
from pgstore.mount.contents.ranges import Range, Ranges
from pgstore.mount.protocol import Bytes

STAGE_BYTES_MAX: Final = 4 * 1024 * 1024 * 1024
MEMORY_BYTES_MAX: Final = 32 * 1024 * 1024  # of all small files together
OPEN_MAX: Final = 256  # files on the disk, above which it is crowded
SMALL_BYTES_MAX: Final = 64 * 1024  # a larger file is on the disk
WAIT_SECONDS: Final = 60.0  # for room
_LOOK_AGAIN_SECONDS: Final = 0.2
_WITHOUT_NAME: Final = getattr(os, "O_TMPFILE", os.O_DIRECTORY)  # the latter fails, and another way is taken


class Stage:
    """
    Room for what was written.

    Args:
        folder: in which files are made. None: a private one in the folder for temporary files, removed with `close`.
        bytes_max: of all files together.
        make_room: is called when there is no more room, and has what is staged uploaded. Not with a lock.
    """

    def __init__(
        self,
        folder: str | None = None,
        *,
        bytes_max: int = STAGE_BYTES_MAX,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._bytes_max = bytes_max
        self._memory_bytes_max = memory_bytes_max
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition(threading.Lock())
        self.bytes = 0  # in use
        self._memory_bytes = 0  # of these, in memory
        self._open = 0  # files on the disk
        self.make_room: Callable[[], None] | None = None
        self._ours = folder is None
        self.folder = folder if folder is not None else tempfile.mkdtemp(prefix="pgstore-stage-")

    def close(self) -> None:
        if self._ours:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)

    def file(self) -> StagedFile:
        return StagedFile(self)

    @property
    def bytes_free(self) -> int:
        """How many bytes more there is room for, as far as the disk has room for them as well."""
        return max(0, min(self._bytes_max - self.bytes, self.bytes_on_disk_free))

    @property
    def bytes_on_disk_free(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def take_now(self, count: int) -> bool:
        """Take room for *count* bytes if there is so much."""
        with self._changed:
            if self.bytes + count > self._bytes_max and self.bytes:
                return False
            self.bytes += count
            return True

    def wait_for_room(self) -> None:
        """
        Have something uploaded, and wait until something was given back.

        Raises:
            OSError: ENOSPC: nothing was, for a minute.
        """
        until = clock.monotonic() + self._wait_seconds
        before = self.bytes
        while clock.monotonic() < until:
            if self.make_room is not None:
                self.make_room()
            with self._changed:
                if self.bytes < before or self._changed.wait(_LOOK_AGAIN_SECONDS):
                    return
        raise OSError(errno.ENOSPC, f"the stage in {self.folder} is full, and nothing of it could be uploaded")

    def give_back(self, count: int) -> None:
        if count:
            with self._changed:
                self.bytes -= count
                self._changed.notify_all()

    def take(self, count: int) -> None:
        """Take room for *count* bytes that are there already."""
        with self._changed:
            self.bytes += count

    @property
    def is_crowded(self) -> bool:
        """Whether there are so many files that those that are closed should soon give back what they have."""
        return self._open > OPEN_MAX or self._memory_bytes > self._memory_bytes_max * 3 // 4

    def take_memory(self, count: int) -> bool:
        with self._changed:
            if self._memory_bytes + count > self._memory_bytes_max:
                return False
            self._memory_bytes += count
            return True

    def give_back_memory(self, count: int) -> None:
        with self._changed:
            self._memory_bytes -= count

    def open(self) -> int:
        """A new file without a name. It is given back by `close_file`."""
        fd = self._open_file()
        with self._changed:
            self._open += 1
        return fd

    def close_file(self, fd: int) -> None:
        os.close(fd)
        with self._changed:
            self._open -= 1

    def _open_file(self) -> int:
        try:
            return os.open(self.folder, os.O_RDWR | os.O_CLOEXEC | _WITHOUT_NAME, 0o600)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT) or not os.path.isdir(self.folder):
                raise
        fd, path = tempfile.mkstemp(dir=self.folder)
        os.unlink(path)
        return fd


class StagedFile:
    """
    What is staged of one file, each byte at its offset; nothing is read that was not written.

    Not for several threads at once: whoever has it has a lock.
    """

    __slots__ = ("_fd", "_is_fixed", "_memory", "_stage", "held")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._fd = -1
        self._memory: bytearray | None = None
        self._is_fixed = False
        self.held = Ranges()  # what takes room

    def write_now(self, offset: int, data: Bytes) -> bool:
        """
        Write *data*. Returns False, with nothing done, if there is no room; what else is staged may make some.

        Raises:
            OSError: ENOSPC: the disk is full, and not of what is staged.
        """
        end = offset + len(data)
        held = self.held
        missing = len(data) if offset >= held.end else sum(stop - start for start, stop in held.gaps(offset, end))
        if self._is_fixed:
            missing = 0
        if missing and not self._stage.take_now(missing):
            return False
        try:
            if self._fd < 0 and self._fits_memory(end):
                assert self._memory is not None
                self._memory[offset:end] = data
            else:
                self._write_fd(offset, data)
        except OSError as exc:
            self._stage.give_back(missing)
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._stage.bytes:
                raise
            return False
        held.add(offset, end)
        return True

    def _fits_memory(self, end: int) -> bool:
        if end > SMALL_BYTES_MAX:
            return False
        there = 0 if self._memory is None else len(self._memory)
        if end > there:
            more = min(SMALL_BYTES_MAX, max(end, 2 * there)) - there
            if not self._stage.take_memory(more):
                return False
            if self._memory is None:
                self._memory = bytearray(more)
            else:
                self._memory += bytes(more)
        return True

    def _write_fd(self, offset: int, data: Bytes) -> None:
        if self._fd < 0:
            self._spill()
        written = os.pwrite(self._fd, data, offset)
        if written < len(data):
            view = memoryview(data)
            while written < len(data):
                written += os.pwrite(self._fd, view[written:], offset + written)

    def _spill(self) -> None:
        """Go from memory to the disk."""
        fd = self._stage.open()
        try:
            if self._memory is not None:
                view = memoryview(bytes(self._memory))
                for start, end in self.held:
                    while start < end:
                        start += os.pwrite(fd, view[start:end], start)
        except BaseException:
            self._stage.close_file(fd)
            raise
        self._fd = fd
        self._forget_memory()

    def _forget_memory(self) -> None:
        if self._memory is not None:
            self._stage.give_back_memory(len(self._memory))
            self._memory = None

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [*start*, *end*), zeros where nothing is held."""
        if self._fd < 0:
            data = b"" if self._memory is None else bytes(self._memory[start:end])
        elif self.held.covers(start, end):
            return self._read_fd(start, end)
        else:
            # The file may have there what was given back without a hole, or what a write has left that failed.
            parts, at = [], start
            for begin, stop in self.held.within(start, end):
                parts += [bytes(begin - at), self._read_fd(begin, stop)]
                at = stop
            data = b"".join(parts)
        return data + bytes(end - start - len(data)) if len(data) < end - start else data

    def _read_fd(self, start: int, end: int) -> bytes:
        data = os.pread(self._fd, end - start, start)
        while len(data) < end - start:
            more = os.pread(self._fd, end - start - len(data), start + len(data))
            if not more:
                raise OSError(errno.EIO, "the stage has lost what was written to it")
            data += more
        return data

    def discard(self, start: int, end: int) -> None:
        """Give back what [*start*, *end*) takes; it reads as zeros then."""
        gone = self.held.remove(start, end)
        if self._is_fixed:
            self._clear(start, min(end, os.fstat(self._fd).st_size))
            return
        if not gone:
            return
        if self._memory is not None:
            stop = min(end, len(self._memory))
            if start < stop:
                self._memory[start:stop] = bytes(stop - start)
        if not self.held:
            self._empty()
        elif self._fd >= 0:
            _punch(self._fd, start, end - start)
        self._stage.give_back(gone)

    # Others may read and write the file, too (`mount.contents.passed`). What it takes then does not count: nothing of it can be
    # given back, and others would wait for that in vain.

    def fix(self) -> int:
        """Stay in one file until `unfix`, whatever is discarded. Returns its descriptor."""
        if self._fd < 0:
            self._spill()
        if not self._is_fixed:
            self._is_fixed = True
            self._stage.give_back(self.held.total)
        return self._fd

    def fill(self, gaps: list[Range], parts: list[tuple[int, bytes]]) -> None:
        """Let *gaps* of the fixed file, which are not held, have *parts* at their offsets, and be holes else."""
        for start, end in gaps:
            self._clear(start, end)
        for offset, data in parts:
            self._write_fd(offset, data)

    def cut(self, size: int) -> None:
        """Give the fixed file a size."""
        os.ftruncate(self._fd, size)
        self.held.remove(size, max(size, self.held.end))

    def hold(self, ranges: Ranges) -> None:
        """Others have written, and these *ranges* are what is there now."""
        self.held = ranges

    def unfix(self) -> None:
        if self._is_fixed:
            self._is_fixed = False
            self._stage.take(self.held.total)
            if not self.held:
                self._empty()

    def read_all(self, start: int, end: int) -> bytes:
        """The bytes of the fixed file, held or not."""
        return self._read_fd(start, end)

    def _clear(self, start: int, end: int) -> None:
        if start < end and not _punch(self._fd, start, end - start):
            for at in range(start, end, SMALL_BYTES_MAX):
                self._write_fd(at, bytes(min(SMALL_BYTES_MAX, end - at)))

    def _empty(self) -> None:
        self._forget_memory()
        if self._fd >= 0:
            self._stage.close_file(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Give back everything."""
        gone = 0 if self._is_fixed else self.held.total
        self._is_fixed = False
        self.held.clear()
        self._empty()
        self._stage.give_back(gone)


# fallocate(2), which Python does not have.
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    libc = ctypes.CDLL(None)
    function = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return function


def _punch(fd: int, offset: int, length: int) -> bool:
    """Free the blocks of a range. Returns False where the file system cannot do it: then they are freed with the file."""
    fallocate = _fallocate()
    return fallocate is not None and fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0
