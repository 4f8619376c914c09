"""Inodes of a mounted bucket: one for each state of an object.

An object that was replaced is another inode, so whatever the kernel still has of the old one, pages or sizes, is never taken for
the new. Who has the old one open goes on with its state, or is told that it is gone.

Numbers are counted, and forgotten again where there are too many: then the kernel, which is told that they are stale, looks the
name up anew.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections import OrderedDict
from typing import Final

from pgstore.buckets.keys import join, name_of, parent_of
from pgstore.buckets.known import Entry
from pgstore.core import clock
from pgstore.fs.model import DIRECTORY, DIRECTORY_MODE, FILE, ROOT
from pgstore.mount.protocol import Attributes

FILES_MAX: Final = 200_000
FILE_MODE: Final = 0o644


class Inode:
    """A file or directory. All but `ino` and `made_ns` is under the lock of its table."""

    __slots__ = ("entry", "ino", "is_stale", "is_written", "made_ns", "path", "readers", "seen_at")

    def __init__(self, ino: int, path: str, entry: Entry) -> None:
        self.ino = ino
        self.path = path
        self.entry = entry
        self.made_ns = time.time_ns()
        self.readers = 0
        """How many have it open for reading."""
        self.is_written = False
        """It is not an object yet, but what somebody is writing; or is about to."""
        self.is_stale = False
        """There is no such object any more."""
        self.seen_at = float("-inf")
        """When the bucket itself said that there is such an object, by the monotonic clock."""

    @property
    def is_directory(self) -> bool:
        return self.entry.is_directory


class Inodes:
    def __init__(self, files_max: int = FILES_MAX) -> None:
        self._lock = threading.Lock()
        self._files_max = files_max
        self._numbers = itertools.count(ROOT + 1)
        self._now = time.time_ns()
        root = Inode(ROOT, "", Entry("", True))
        self._directories: dict[int, Inode] = {ROOT: root}
        self._files: OrderedDict[int, Inode] = OrderedDict()
        self._current: dict[str, Inode] = {"": root}  # by path
        self._written: dict[int, Inode] = {}  # those that are, and are not stale

    def get(self, ino: int) -> Inode:
        """
        Raises:
            OSError: ESTALE: there is no such object any more, or its number was forgotten.
        """
        found = self._directories.get(ino) or self._files.get(ino)
        if found is None or found.is_stale:
            raise OSError(errno.ESTALE, "no such object any more")
        return found

    def of_any_state(self, ino: int) -> Inode:
        """`get`, also of what is not there any more."""
        found = self._files.get(ino)
        return self.get(ino) if found is None else found

    def path_in(self, directory: int, name: bytes) -> str:
        return join(self.get(directory).path, os.fsdecode(name))

    def parent(self, ino: int) -> int:
        return self.of(Entry(parent_of(self.get(ino).path), True)).ino

    def of(self, entry: Entry, *, is_seen: bool = False) -> Inode:
        """
        The inode of what is at the path of *entry*: while that is being written, of what is written.

        Args:
            is_seen: the bucket has said it just now.
        """
        with self._lock:
            found = self._current.get(entry.path)
            if found is not None and found.is_written and not entry.is_directory:
                return found
            if found is None or found.is_directory != entry.is_directory or found.entry.tag != entry.tag:
                found = self._new(entry)
            if is_seen:
                found.seen_at = clock.monotonic()
            return found

    def written(self, path: str) -> Inode | None:
        """What is being written at *path*; None: nothing is."""
        found = self._current.get(path)
        return found if found is not None and found.is_written else None

    def written_in(self, directory: str) -> list[Inode]:
        """All that is being written in *directory*."""
        with self._lock:
            return [inode for inode in self._written.values() if parent_of(inode.path) == directory]

    def begin_writing(self, path: str) -> Inode:
        """
        A new inode for what is to be written at *path*.

        Raises:
            OSError: EBUSY: somebody else is writing it.
        """
        with self._lock:
            found = self._current.get(path)
            if found is not None and found.is_written:
                raise OSError(errno.EBUSY, "it is being written")
            made = self._new(Entry(path, False, mtime_ns=time.time_ns()))
            made.is_written = True
            self._written[made.ino] = made
            return made

    def end_writing(self, inode: Inode, entry: Entry | None) -> None:
        """What was written is there as *entry*; None: nothing became of it."""
        with self._lock:
            inode.is_written = False
            self._written.pop(inode.ino, None)
            if entry is None:
                self._drop(inode)
            else:
                inode.entry = entry
                inode.seen_at = clock.monotonic()

    def moved(self, inode: Inode, entry: Entry) -> None:
        """The object has another name, that of *entry*, and the same bytes."""
        with self._lock:
            before = self._current.get(entry.path)
            if before is not None and before is not inode:
                self._drop(before)
            if self._current.get(inode.path) is inode:
                del self._current[inode.path]
            inode.path, inode.entry = entry.path, entry
            inode.seen_at = clock.monotonic()
            self._current[entry.path] = inode

    def drop(self, path: str) -> None:
        """There is nothing at *path* any more, or something else."""
        with self._lock:
            if (found := self._current.get(path)) is not None:
                self._drop(found)

    def drop_inode(self, inode: Inode) -> None:
        """There is no such object any more."""
        with self._lock:
            self._drop(inode)

    def open(self, inode: Inode) -> None:
        with self._lock:
            inode.readers += 1

    def close(self, inode: Inode) -> None:
        with self._lock:
            inode.readers -= 1
            if inode.is_stale and not inode.readers:
                self._files.pop(inode.ino, None)

    def _new(self, entry: Entry) -> Inode:
        before = self._current.get(entry.path)
        if before is not None:
            self._drop(before)
        made = Inode(next(self._numbers), entry.path, entry)
        if entry.is_directory:
            self._directories[made.ino] = made
        else:
            self._files[made.ino] = made
            self._make_room()
        self._current[entry.path] = made
        return made

    def _drop(self, inode: Inode) -> None:
        inode.is_stale = True
        self._written.pop(inode.ino, None)
        if self._current.get(inode.path) is inode:
            del self._current[inode.path]
        if inode.is_directory:
            self._directories.pop(inode.ino, None)
        elif not inode.readers:
            self._files.pop(inode.ino, None)

    def _make_room(self) -> None:
        for _ in range(len(self._files)):
            if len(self._files) <= self._files_max:
                return
            ino, oldest = next(iter(self._files.items()))
            if oldest.readers or oldest.is_written:
                self._files.move_to_end(ino)
            else:
                self._drop(oldest)

    def attributes(self, inode: Inode, size_bytes: int | None = None) -> Attributes:
        """
        Args:
            size_bytes: of what is being written: how much was.
        """
        entry = inode.entry
        moment = entry.mtime_ns or self._now
        if entry.is_directory:
            return Attributes(inode.ino, DIRECTORY, DIRECTORY_MODE, 0, 0, 0, 1, moment, moment, moment)
        size = entry.size_bytes if size_bytes is None else size_bytes
        return Attributes(inode.ino, FILE, FILE_MODE, 0, 0, size, 1, moment, moment, moment)


def name_in(inode: Inode) -> bytes:
    return os.fsencode(name_of(inode.path))
