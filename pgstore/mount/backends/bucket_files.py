"""Open files of a mounted bucket: an object that is read, and one that is written."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pgstore import errors
from pgstore.buckets.known import Entry
from pgstore.buckets.reading import Reader
from pgstore.buckets.writing import Writer
from pgstore.core import meanwhile
from pgstore.mount.backends import descriptors
from pgstore.mount.backends.bucket_inodes import Inode, name_in
from pgstore.mount.contents.failures import os_error
from pgstore.mount.failures import message_of
from pgstore.mount.protocol import Bytes, OpenFile

_LOG: Final = logging.getLogger("pgstore")


class Telling:
    """Errors of a bucket in the block become what programs are told; the log has what they are not."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        meanwhile.let_go()

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if not isinstance(exc, errors.Error):
            return
        told = os_error(exc)
        if told.errno in _UNEXPLAINED:
            _LOG.error("a program is told of %s (%s): %s", errno.errorcode[told.errno or 0], self._what, exc)
        raise told from exc


# Where the number alone does not say what to do about it.
_UNEXPLAINED: Final = (errno.EIO, errno.EACCES, errno.ETIMEDOUT, errno.EFBIG, errno.EILSEQ)


class Owner(Protocol):
    """What an open file tells of itself to those that it is one of."""

    def closed(self, inode: Inode) -> None:
        """One who has read is done."""

    def is_stale(self, inode: Inode) -> None:
        """The bucket has another object by now, or none."""

    def put(self, inode: Inode, entry: Entry | None) -> None:
        """What was written is an object now; None: it never will be."""


class ReadObject(OpenFile):
    """An object that is read, in the state that its inode stands for: pages of it are right for ever."""

    keep_cache = True
    needs_flush = False

    def __init__(self, owner: Owner, inode: Inode, reader: Reader) -> None:
        self.ino = inode.ino
        self._owner = owner
        self._inode = inode
        self._reader = reader

    def read(self, offset: int, length: int) -> Sequence[Bytes]:
        try:
            with Telling(f"reading {self._inode.path!r}"):
                return self._reader.views_at(offset, length)
        except OSError as exc:
            if exc.errno == errno.ESTALE:
                self._owner.is_stale(self._inode)
            raise

    def seek(self, offset: int, whence: int) -> int:
        return _seek(offset, whence, self._reader.size_bytes)

    def sync(self) -> None:
        pass

    def release(self) -> None:
        self._reader.close()
        self._owner.closed(self._inode)


class NewObject(OpenFile):
    """
    An object that is being written: from its beginning to its end, as mountpoint-s3 has it. Nobody can read it meanwhile.

    It is put when the process that has opened it closes its last descriptor, and never if that was killed. Child processes that
    were given copies put nothing with their own closes; while they write, or nothing is written yet, they are waited for. What
    nobody has put, because the copies were others', is put at the very end, and nobody hears of errors.

    Args:
        begin: begins anew.
        is_new: there is no such object yet, so it is made also if nothing is written.
    """

    notes_writers = True
    is_direct = True  # so that the kernel has no pages of what may never become an object

    def __init__(
        self, owner: Owner, inode: Inode, begin: Callable[[], Writer[Entry]], *, is_new: bool, writer: Writer[Entry]
    ) -> None:
        self.ino = inode.ino
        self._owner = owner
        self._inode = inode
        self._begin = begin
        self._is_new = is_new
        self._writer = writer
        self._lock = threading.Lock()
        self._opener = 0  # its process
        self._own_threads: set[int] = set()  # of that
        self._is_written_by_others = False
        self._failure: OSError | None = None
        self._is_done = False
        self._is_removed = False
        self._is_given_up = False

    @property
    def size_bytes(self) -> int:
        return self._writer.size_bytes

    def opened_by(self, pid: int) -> None:
        self._opener = descriptors.process_of(pid)

    def written_by(self, pid: int) -> None:
        if pid not in self._own_threads and not self._is_written_by_others:
            if descriptors.process_of(pid) == self._opener:
                self._own_threads.add(pid)
            else:
                self._is_written_by_others = True

    # -------------------------------------------------------------------------------------------------------- writing

    def read(self, offset: int, length: int) -> Sequence[Bytes]:
        raise OSError(errno.EBUSY, "it is being written")

    def write(self, offset: int, data: Bytes) -> None:
        with self._lock:
            self._check_open()
            if offset != self._writer.size_bytes:
                self._fail(OSError(errno.EINVAL, "objects are written from beginning to end"))
            try:
                with Telling(f"writing {self._inode.path!r}"):
                    self._writer.write(data)
            except OSError as exc:
                self._fail(exc)

    def write_back(self, offset: int, data: Bytes) -> None:
        with self._lock:
            self._fail(OSError(errno.EINVAL, "objects are not written through maps"))

    def truncate(self, size: int) -> None:
        """ftruncate(2): to what it is, or to nothing, so that writing begins anew."""
        with self._lock:
            self._check_open()
            if size == self._writer.size_bytes:
                self._is_new |= size == 0
                return
            if size:
                self._fail(OSError(errno.EINVAL, "objects are written from beginning to end"))
            self._writer.abort()
            with Telling(f"writing {self._inode.path!r}"):
                self._writer = self._begin()
            self._is_new = True

    def seek(self, offset: int, whence: int) -> int:
        return _seek(offset, whence, self._writer.size_bytes)

    def _check_open(self) -> None:
        if self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror)
        if self._is_done:
            raise OSError(errno.EPERM, "it was put already, and cannot be changed any more")

    def _fail(self, failure: OSError) -> None:
        """Nothing becomes of it. Raises."""
        if self._failure is None:
            self._failure = failure
            self._end(None)
        raise OSError(failure.errno, failure.strerror) from failure.__cause__

    # -------------------------------------------------------------------------------------------------------- closing

    def flush_by(self, pid: int) -> None:
        with self._lock:
            if self._failure is not None:
                raise OSError(self._failure.errno, self._failure.strerror)
            if self._is_done or descriptors.process_of(pid) != self._opener:
                return
            if descriptors.is_killed(pid):
                self._is_given_up = True
            elif self._is_last_close():
                self._put()

    def _is_last_close(self) -> bool:
        """Whether nobody writes any more, now that the process that has opened it closes a descriptor."""
        file = self._opener, self.ino, name_in(self._inode)
        copies = descriptors.has_open(*file)
        is_empty = not self._writer.size_bytes
        if copies is None:  # shells close a copy before anything is written
            return not is_empty
        return not copies and not ((is_empty or self._is_written_by_others) and descriptors.children_have_open(*file))

    def flush(self) -> None:
        with self._lock:
            self._put()

    def sync(self) -> None:
        """fsync(2): it is put now, and can be written to no more."""
        with self._lock:
            self._check_open()
            self._put()

    def release(self) -> None:
        with self._lock:
            if self._is_done or self._failure is not None:
                return
            if self._is_given_up:
                self._give_up("the program that wrote it was killed")
                return
            try:
                self._put()
            except OSError as exc:
                _LOG.error("%r was not put, which nobody was told: %s", self._inode.path, message_of(exc))

    def abandon(self) -> None:
        with self._lock:
            if not self._is_done and self._failure is None:
                self._give_up("it was unmounted meanwhile")

    def removed(self) -> None:
        """The name that it was to have is not wanted any more: nothing becomes of it, which is no error."""
        with self._lock:
            self._is_removed = True

    def _put(self) -> None:
        if self._is_done or self._failure is not None:
            return
        if self._is_removed or not (self._is_new or self._writer.size_bytes):
            self._end(None)
            return
        try:
            with Telling(f"putting {self._inode.path!r}"):
                entry = self._writer.close()
        except OSError as exc:
            self._fail(exc)
        else:
            self._end(entry)

    def _give_up(self, why: str) -> None:
        _LOG.warning("%r was not put, since %s", self._inode.path, why)
        self._end(None)

    def _end(self, entry: Entry | None) -> None:
        self._is_done = True
        if entry is None:
            self._writer.abort()
        self._owner.put(self._inode, entry)


def _seek(offset: int, whence: int, size: int) -> int:
    """lseek(2) in a file without holes."""
    if offset >= size:
        raise OSError(errno.ENXIO, "behind the end")
    return offset if whence == os.SEEK_DATA else size
