"""File locks that child processes may keep.

flock belongs to the open file, which children inherit: it is free exactly when every process that has it is gone. So
the lock a server was started with tells whether any process of it is left, also after kill -9, across containers that
share the directory, and when its process id has been given to somebody else. A pid file can tell none of this.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from pgstore import errors
from pgstore.core import clock


class FileLock:
    """An exclusive flock on *path*, made if missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def try_acquire(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _open_here.add(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            _close(fd)
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        self.fd = fd
        return True

    def acquire(self, *, seconds_max: float) -> None:
        deadline = clock.monotonic() + seconds_max
        while not self.try_acquire():
            if clock.monotonic() > deadline:
                raise errors.EmbeddedServerError(
                    f"another process has been starting or stopping the server for {seconds_max:.0f} s: "
                    f"see who holds {self.path} (fuser, lsof)"
                )
            time.sleep(0.005)

    def release(self) -> None:
        """Unlock, also where a child has inherited the file."""
        if self.fd >= 0:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            self.hand_over()

    def hand_over(self) -> None:
        """Close the file here: the lock then belongs to the children that inherited it."""
        if self.fd >= 0:
            _close(self.fd)
            self.fd = -1


class Held:
    """`with Held(lock, seconds_max=…)`: acquired inside, released after."""

    def __init__(self, lock: FileLock, *, seconds_max: float) -> None:
        self.lock = lock
        self.seconds_max = seconds_max

    def __enter__(self) -> FileLock:
        self.lock.acquire(seconds_max=self.seconds_max)
        return self.lock

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.lock.release()


# A worker forked by another thread at this moment would keep the lock for as long as it lives: it closes its copies
# at birth.
_open_here: set[int] = set()


def _close(fd: int) -> None:
    _open_here.discard(fd)
    os.close(fd)


def _forget_in_child() -> None:
    for fd in tuple(_open_here):
        _close(fd)


os.register_at_fork(after_in_child=_forget_in_child)
