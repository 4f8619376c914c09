"""A staged file that is passed through: what programs read and write of it goes past us, at the speed of the disk it is on.

The kernel does so for whoever has opened the file since. What they have written must then be found out: of what was sent to the
database there are digests, and what has another one now was written since. All else counts as written. A file that nobody has
touched is known by its time of modification: but only at first, since a map that is written to sets it once for each page, and not
again.

Maps outlive the open file that they were made with, and nobody tells us of their end. A lease is refused while there is one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import threading
import time
from typing import Final, Protocol

from pgstore.mount.contents.ranges import Ranges

FILLED_BYTES_MAX: Final = 64 * 1024 * 1024  # of a file that is passed through though it is not empty
# A program may write more than there is room for, while of what it writes through us the stage gives back what was uploaded.
FREE_BYTES_MIN: Final = 8 * 1024 * 1024 * 1024
_DIGEST_BYTES: Final = 16


class Passes(Protocol):
    """The kernel (`protocol.Kernel`), as far as it is needed here."""

    def pass_through(self, fd: int) -> int: ...

    def end_pass_through(self, number: int) -> None: ...


class Passed:
    """
    Args:
        fd: the staged file, which stays the stage's.
        number: what the kernel calls it.
    """

    def __init__(self, kernel: Passes, fd: int, number: int, mtime_ns: int) -> None:
        self._kernel = kernel
        self.fd = fd
        self.number = number
        # Of whoever looks for what was written, or ends this; taken before that of the contents.
        self.turn = threading.Lock()
        self.is_touched = False
        """Whether it may have been written to."""
        self.noted_end = 0
        """Up to here it was noted what was written, at least once."""
        self._mtime_ns = mtime_ns
        self._known_ns = time.time_ns()  # what was written is newer; the clock of the file system is late by a tick
        self._sent: dict[int, bytes] = {}  # digests of pieces by their positions
        self._piece_bytes = 0
        self._inline: bytes | None = None  # all that it had; then there are no digests
        self._sent_since = Ranges()  # the latest look began
        self.holes = Ranges()
        """Where it was noted that there is nothing."""
        self.forgotten = 0
        """Grows when digests are forgotten. What was read before is not to be noted with `sent` then."""

    def end(self) -> None:
        self._kernel.end_pass_through(self.number)

    def look(self, mtime_ns: int) -> tuple[int, int]:
        """The size, and the time of modification, which was *mtime_ns*."""
        found = os.fstat(self.fd)
        if found.st_mtime_ns != self._mtime_ns:
            self.is_touched = True
            self._mtime_ns = found.st_mtime_ns
            mtime_ns = max(found.st_mtime_ns, self._known_ns)
        return found.st_size, mtime_ns

    @property
    def stored_bytes(self) -> int:
        """How many bytes the disk has of it, without holes."""
        return os.fstat(self.fd).st_blocks * 512

    def set_mtime(self, mtime_ns: int) -> None:
        os.utime(self.fd, ns=(mtime_ns, mtime_ns))
        self._mtime_ns = mtime_ns
        self._known_ns = time.time_ns()

    def touch(self, start: int, end: int, now_ns: int) -> None:
        """This range was just changed by us."""
        self.is_touched = True
        self._mtime_ns = os.fstat(self.fd).st_mtime_ns
        self._known_ns = now_ns
        self.forget(start, end)

    @property
    def is_alone(self) -> bool:
        return is_alone(self.fd)

    # --------------------------------------------------------------------------------------------- what was written

    def sent(self, start: int, piece_bytes: int, data: memoryview) -> None:
        """Pieces from *start* on were *data* when it was read to be sent."""
        if piece_bytes != self._piece_bytes:
            self._sent.clear()
            self._piece_bytes = piece_bytes
        self._inline = None
        self._sent_since.add(start, start + len(data))
        for at in range(0, len(data), piece_bytes):
            self._sent[(start + at) // piece_bytes] = _digest(data[at : at + piece_bytes])

    def sent_inline(self, data: bytes) -> None:
        """All of it was *data*."""
        self.forgotten += 1  # what was read before, to be sent in pieces, is not what the database has
        self._sent.clear()
        self._inline = data
        self._sent_since.add(0, len(data))

    def forget(self, start: int, end: int) -> None:
        """This range was changed in another way."""
        self.forgotten += 1
        self._inline = None
        self.holes.remove(start, end)
        if self._sent:
            first, last = start // self._piece_bytes, -(-end // self._piece_bytes)
            for position in [position for position in self._sent if first <= position < last]:
                del self._sent[position]

    def begin(self) -> None:
        """Begin to look for what was written."""
        self._sent_since = Ranges()

    def less_sent(self, changed: Ranges) -> Ranges:
        """*changed* without what was read to be sent since `begin`."""
        for part in self._sent_since:
            changed.remove(*part)
        return changed

    def changed(self, fd: int, size: int) -> Ranges:
        """Where what it has is not known to be what was sent."""
        result = Ranges()
        if self._inline is not None:
            if len(self._inline) != size or os.pread(fd, size, 0) != self._inline:
                result.add(0, size)
            return result
        result.add(0, size)
        piece = self._piece_bytes
        for position, digest in tuple(self._sent.items()):
            start, end = position * piece, min(size, (position + 1) * piece)
            if start < end and _digest(os.pread(fd, end - start, start)) == digest:
                result.remove(start, end)
        return result


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, usedforsecurity=False).digest()


# fcntl(2). Python has these on Linux alone.
_F_SETSIG: Final = 10
_F_SETLEASE: Final = 1024


def is_alone(fd: int) -> bool:
    """Whether nobody else has the file open or mapped: only then there can be a lease for writing (fcntl(2))."""
    try:
        # Whoever opens it during the lease has a signal sent: one that is ignored, and not SIGIO, which ends the process.
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, _F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    fcntl.fcntl(fd, _F_SETLEASE, fcntl.F_UNLCK)
    return True


def data_of(fd: int, size: int, at: int = 0) -> Ranges:
    """Where a file has bytes, and no hole, from *at* to *size*."""
    result = Ranges()
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # there is nothing behind; or the file was cut since
                break
            raise
        result.add(start, min(at, size))
    return result
