"""Appending to a file that others append to at the same time: where bytes go is known when the server has written them.

So a repetition must know whether the first attempt was done, and nothing else of the file may be unsafe together with what was
appended: a crash would leave open which of both was there first.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Hashable
from typing import Final

from pgstore import errors
from pgstore.client.history import only_server
from pgstore.core import meanwhile
from pgstore.core.operation import Op
from pgstore.fs.content import in_place
from pgstore.fs.retention.file_pin import FilePin
from pgstore.mount.contents.crash_safe import CrashSafe
from pgstore.mount.contents.disk import Commit
from pgstore.mount.contents.ranges import Range
from pgstore.mount.contents.shared import Shared
from pgstore.mount.contents.unsafe import Appended
from pgstore.mount.protocol import Bytes

_STATES: Final = itertools.count()
APPENDED_BYTES_MAX: Final = 4 * 1024 * 1024  # of one file, in memory until the disk has them


class Appendable(CrashSafe):
    """Contents that bytes are appended to."""

    def __init__(self, shared: Shared, ino: int, size_bytes: int, mtime_ns: int) -> None:
        super().__init__(shared, ino, size_bytes, mtime_ns)
        self._pin = FilePin(shared.session, shared.store_id, ino, None)
        self._state: Hashable = self._new_state()  # of the bytes in the database, as far as is known
        self._servers: dict[Range, int | None] = {}  # before it was sent, by the first part of what is being sent

    @staticmethod
    def _new_state() -> Hashable:
        return next(_STATES)

    def append(self, data: Bytes) -> None:
        """
        Write *data* at the end that the file has by then, whoever else appends.

        Raises:
            OSError: EIO: the connection broke, and it is unknown whether it was written; it is not repeated.
        """
        self.upload()
        written = bytes(data)
        while not self._append_alone(written):
            self.sync()
        with self._lock:
            is_much = self._unsafe.appended_bytes > APPENDED_BYTES_MAX
        if is_much:
            self.sync()

    def _append_alone(self, data: bytes) -> bool:
        """Append *data*; False: not while something else is lost."""
        is_unknown = False
        commit: Commit | None = None
        before = self._base_end  # where it would go if nobody else appended

        def attempt() -> Op[int]:
            nonlocal is_unknown, commit
            yield from self._pin.ensure()
            server = self.shared.disk.server
            yield from self._append_lost()
            if is_unknown:
                size = yield from self._size_if_appended(before, data)
                if size is not None:  # it is there, though not on the disk for that
                    commit = None if server is None else self.shared.disk.committed(server)
                    return size
            is_unknown = True  # from here on
            try:
                with only_server(server):  # any other may have lost what was appended before
                    size = yield from in_place.append(self.shared.store_id, self.ino, data, durable=server is None)
            except errors.OutcomeUnknown:
                raise
            except errors.Error:
                is_unknown = False
                raise
            commit = None if server is None else self.shared.disk.committed(server)
            return size

        with self._truncations, self._appending:
            if not self._secure_placed():
                return False
            size = self._persist(attempt)
            self.shared.uploaded(self.ino)
            with self._lock:
                self._mtime_set = None
                if commit is not None:
                    self._unsafe.appended.append(Appended(commit, size - len(data), data))
                self._state = self._new_state()
                self._base_end = self.size_bytes = max(size, self._newer.end)
        return True

    def _secure_placed(self) -> bool:
        """Return when nothing but what was appended may be lost; False: something is. With `_truncations` and `_appending`."""
        with self._changed:
            while self._servers:
                meanwhile.let_go()
                self._changed.wait()
            if not (self._unsafe.has_placed or self.has_lost):
                return True
        self.shared.disk.flush()
        with self._lock:
            self._settle()
            return not (self._unsafe.has_placed or self.has_lost)

    def _secure_appended(self) -> None:
        """Return when nothing that was appended may be lost."""
        with self._appending:
            self._secure_appended_only()

    def _secure_appended_only(self) -> None:
        """`_secure_appended`, with `_appending`."""
        while self._unsafe.appended:
            with self._lock:
                self._settle()
                has_lost = self._unsafe.has_lost_appended
            if has_lost:
                self._persist(self._append_lost)
            elif self._unsafe.appended:
                self.shared.disk.flush()

    def _size_if_appended(self, before: int, data: bytes) -> Op[int | None]:
        """After an attempt to append *data*, whose answer was lost: the size of the file if it was done; None: it was not."""
        size, pieces = yield from in_place.read_at(self.shared.store_id, self.ino, before, len(data))
        if size <= before:
            return None
        if size == before + len(data) and b"".join(pieces) == data:
            return size
        raise OSError(errno.EIO, "the connection broke, and it is unknown whether bytes were appended")

    def append_now(self, data: Bytes) -> bool:
        return False

    def _append_lost(self) -> Op[None]:
        """Append once more what a crash of the server has taken. With `_appending`."""
        with self._lock:
            lost = [each for each in self._unsafe.appended if self.shared.disk.is_lost(each.commit)]
        for each in lost:
            server = self.shared.disk.server
            with only_server(server):
                _, pieces = yield from in_place.read_at(self.shared.store_id, self.ino, each.offset, len(each.data))
                if b"".join(pieces) != each.data:  # by now others may have appended there
                    end = yield from in_place.append(self.shared.store_id, self.ino, each.data, durable=server is None)
                    self.shared.uploaded(self.ino)
                    each.offset = end - len(each.data)
                    with self._lock:
                        self._state = self._new_state()
                        self._base_end = max(self._base_end, end)
                        self.size_bytes = max(self.size_bytes, end)
            each.commit = self.shared.disk.committed(server)
