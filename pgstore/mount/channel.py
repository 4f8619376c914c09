"""The channel to the kernel: requests are read from it, replies and notifications are written to it.

A channel is a descriptor of /dev/fuse that was given to mount(2), by whomever. Its reads and writes are whole messages, so threads
may read and write at the same time. It has one queue for all of them: clones (FUSE_DEV_IOC_CLONE) have queues of their own, which
helps several processes that serve one mount, and not several threads of Python's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Final

from pgstore.core import clock
from pgstore.mount import kernel
from pgstore.mount.protocol import Bytes

BODY: Final = kernel.IN_HEADER.size  # where in a request that starts which depends on its opcode

# The kernel refuses to read into a buffer that has no room for the longest request.
_BUFFER_BYTES: Final = kernel.DATA_BYTES_MAX + kernel.PAGE

_BUFFERS_MAX: Final = 1023  # of Linux, which takes 1024 (writev(2)), the header among them

AWAKE_SECONDS: Final = 50e-6  # for which the next request is looked for, as `connection.spin_wait` does for answers
SLEEPS_MAX: Final = 256  # without looking, after that was in vain again and again

_header = kernel.OUT_HEADER.pack
_HEADER_BYTES: Final = kernel.OUT_HEADER.size


class Request:
    """A request, in a buffer that is used again for the next one: what is kept of it must be copied."""

    __slots__ = ("buffer", "buffers", "gid", "length", "node", "opcode", "pid", "uid", "unique", "view")

    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER_BYTES)  # the system gives it memory as far as it is written to
        self.buffers = [self.buffer]
        self.view = memoryview(self.buffer)
        self.length = 0
        self.opcode = 0
        self.unique = 0
        self.node = 0
        self.uid = 0
        self.gid = 0
        self.pid = 0

    def parse(self, length: int) -> None:
        """Take the header of the request that lies in the buffer."""
        (
            self.length,
            self.opcode,
            self.unique,
            self.node,
            self.uid,
            self.gid,
            self.pid,
        ) = kernel.IN_HEADER.unpack_from(self.buffer)
        if self.length != length:
            raise OSError(errno.EPROTO, f"a request of {length} bytes says that it has {self.length}")

    def rest(self, offset: int) -> bytes:
        """Copy what lies behind *offset*, but for the NUL at the end."""
        return bytes(self.view[offset : self.length - 1])

    def names(self, offset: int) -> list[bytes]:
        """Copy the two names that lie behind *offset*."""
        return self.rest(offset).split(b"\0")


class Channel:
    """
    Args:
        device: the descriptor, which stays the caller's to close.
    """

    def __init__(self, device: int) -> None:
        self.device = device
        os.set_blocking(device, True)
        poller = select.poll()
        poller.register(device, select.POLLIN)
        self._poll = poller.poll
        self._sleeps = 0  # how often to sleep after having looked in vain
        self._sleeps_left = 0

    def read(self, request: Request, before_sleep: Callable[[], object] | None = None) -> bool:
        """
        Wait for a request, and read it. Returns False when nothing is mounted any more.

        Args:
            before_sleep: called if there is none yet.
        """
        if not self._wait_awake() and before_sleep is not None:
            before_sleep()
        while True:
            try:
                length = os.readv(self.device, request.buffers)
            except OSError as exc:
                if exc.errno in _AGAIN:
                    continue
                if exc.errno in _ENDED:
                    return False
                raise
            if length:
                request.parse(length)
            return length > 0

    def _wait_awake(self) -> bool:
        """
        Look for a request as long as that pays: a program that was answered mostly asks for the next thing at once.

        Returns whether there is one, as far as is known.

        Falling asleep and being woken takes longer. Where nothing comes so soon it is not tried the next times.
        """
        if self._sleeps_left:
            self._sleeps_left -= 1
            return False
        poll = self._poll
        until = clock.monotonic() + AWAKE_SECONDS
        while not poll(0):
            if clock.monotonic() > until:
                self._sleeps_left = self._sleeps
                self._sleeps = min(2 * self._sleeps + 1, SLEEPS_MAX)
                return False
        self._sleeps //= 2
        return True

    def reply(self, unique: int, parts: bytes | Sequence[Bytes] = ()) -> bool:
        """
        Answer the request *unique* with *parts*. Returns False when nobody waits for it any more.
        """
        if isinstance(parts, bytes):
            return self._send(_header(_HEADER_BYTES + len(parts), 0, unique) + parts)
        if len(parts) > _BUFFERS_MAX:
            parts = (b"".join(parts),)
        length = _HEADER_BYTES + sum(map(len, parts))
        return self._send(_header(length, 0, unique), *parts)

    def reply_error(self, unique: int, number: int) -> bool:
        """Answer that it failed, by its errno."""
        return self._send(_header(_HEADER_BYTES, -number, unique))

    def notify(self, code: int, *parts: Bytes) -> None:
        """
        Tell the kernel something unasked.

        It may wait for replies to requests that are under way: a thread that serves must never call this.
        """
        try:
            os.writev(self.device, [_header(_HEADER_BYTES + sum(map(len, parts)), code, 0), *parts])
        except OSError as exc:
            if exc.errno not in _UNKNOWN and exc.errno not in _ENDED:
                raise

    def open_backing(self, fd: int) -> int:
        """
        Register the open file *fd*, for `FOPEN_PASSTHROUGH`. Returns its number, which is not 0.

        Raises:
            OSError: the kernel refuses, as from whoever lacks CAP_SYS_ADMIN.
        """
        number: int = fcntl.ioctl(self.device, kernel.DEV_IOC_BACKING_OPEN, bytearray(kernel.BACKING_MAP.pack(fd, 0)))
        return number

    def close_backing(self, number: int) -> None:
        """Forget it. What is open with it stays so."""
        with contextlib.suppress(OSError):  # unmounted
            number_as_bytes = number.to_bytes(kernel.BACKING_ID_BYTES, sys.byteorder)
            fcntl.ioctl(self.device, kernel.DEV_IOC_BACKING_CLOSE, number_as_bytes)

    def _send(self, *parts: Bytes) -> bool:
        try:
            os.writev(self.device, parts)
        except OSError as exc:
            if exc.errno == errno.ENOENT or exc.errno in _ENDED:
                return False
            raise
        return True


# What a read may fail with although requests can follow: the one that was to be read was taken back.
_AGAIN: Final = (errno.ENOENT, errno.EAGAIN, errno.EINTR)
# Unmounted; or the connection was aborted (`umount -f`).
_ENDED: Final = (errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN)
# What was to be forgotten is not known, or not in memory.
_UNKNOWN: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY)
