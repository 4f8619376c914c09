"""A bucket, mounted: `Files` on a `Tree`, as programs expect of a file system where a bucket can be one, and refused where not.

The semantics are those of mountpoint-s3, which people know from Modal: objects are read in any order, written from beginning to
end, and seen by others when they are closed. What it refuses though programs need it is done here: files are renamed, by a copy,
and chmod, chown and utimes are accepted and forgotten.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.buckets.known import Entry
from pgstore.buckets.location import Location
from pgstore.buckets.opening import open_bucket
from pgstore.buckets.tree import Tree
from pgstore.core import clock
from pgstore.fs.model import DIRECTORY, FILE, ROOT
from pgstore.mount.backends.bucket_files import NewObject, ReadObject, Telling
from pgstore.mount.backends.bucket_inodes import Inode, Inodes, name_in
from pgstore.mount.changes import RecentChanges
from pgstore.mount.daemon.backends import BucketSpec
from pgstore.mount.protocol import (
    MISSING,
    AttributeChange,
    Attributes,
    Caching,
    Files,
    Missing,
    OpenFile,
    Owner,
    Statistics,
)

THREADS_MAX: Final = 32  # most wait for the bucket
# For which the kernel answers by itself, and for which an object that the bucket has told of is opened without asking again.
SEEN_SECONDS: Final = 1.0
COMES_BACK_SECONDS: Final = 2.0  # a kernel that was told to look a name up anew, to open what it finds
LISTINGS_MAX: Final = 64  # under way at a time; of others the next page is found by beginning anew
BLOCK_BYTES: Final = 4096
_BLOCKS: Final = 1 << 40  # 4 PiB: how much a bucket can hold nobody knows
_INODES: Final = 1 << 40
_RENAME_NOREPLACE: Final = 1


def files_of(spec: BucketSpec) -> BucketFiles:
    """
    Raises:
        AccessDenied, NotFoundError, StoreUnavailable, ConfigurationError: what keeps the bucket from being read.
    """
    bucket = open_bucket(Location(**spec.location), spec.values)
    tree = Tree(bucket, spec.sub_path, spec.read_only, spec.ttl)
    for path in spec.mount_points:
        tree.show_directory(path)
    for _ in bucket.list(tree.prefix, page_keys=1):  # what is wrong is said to who mounts, and not to a program later
        break
    return BucketFiles(tree)


class BucketFiles(Files):
    threads_max = THREADS_MAX

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.read_only = tree.read_only
        self.root = ROOT
        self.changes = RecentChanges()
        self._inodes = Inodes()
        seconds = min(SEEN_SECONDS, tree.ttl)
        self._caching = Caching(seconds, seconds, seconds)
        self._lock = threading.Lock()
        self._writing: dict[int, NewObject] = {}
        self._expected: dict[int, float] = {}  # what somebody is about to write, and until when
        # A listing that goes on, by its directory and the name that was given last.
        self._listings: OrderedDict[tuple[int, bytes], Iterator[tuple[bytes, Attributes]]] = OrderedDict()

    @property
    def caching(self) -> Caching:
        return self._caching

    def commit(self) -> None:
        """What is closed is there."""

    def reload(self) -> None:
        """Ask for everything anew."""
        self._tree.forget_all()

    def sync(self) -> None:
        pass

    def statistics(self) -> Statistics:
        return Statistics(BLOCK_BYTES, _BLOCKS, _BLOCKS, _INODES, _INODES)

    # -------------------------------------------------------------------------------------------- names and attributes

    def attributes_now(self, ino: int) -> Attributes | None:
        inode = self._inodes.of_any_state(ino)
        written = self._writing.get(ino)
        return self._inodes.attributes(inode, None if written is None else written.size_bytes)

    def attributes(self, ino: int) -> Attributes:
        found = self.attributes_now(ino)
        assert found is not None
        return found

    def look_up_now(self, directory: int, name: bytes) -> Attributes | Missing | None:
        path = self._inodes.path_in(directory, name)
        if (written := self._written(path)) is not None:
            return self.attributes(written.ino)
        is_known, entry = self._tree.known(path)
        if not is_known:
            return None
        return MISSING if entry is None else self.attributes(self._inodes.of(entry).ino)

    def _written(self, path: str) -> Inode | None:
        """What is being written at *path*, or is about to be, unless whoever wanted to has not come back."""
        found = self._inodes.written(path)
        if found is not None and clock.monotonic() > self._expected.get(found.ino, float("inf")):
            self._expected.pop(found.ino, None)
            self._inodes.end_writing(found, None)
            return None
        return found

    def look_up(self, directory: int, name: bytes) -> Attributes | Missing:
        path = self._inodes.path_in(directory, name)
        with Telling(f"looking for {path!r}"):
            entry = self._tree.stat(path)
        if entry is None:
            written = self._inodes.written(path)
            if written is None:
                self._inodes.drop(path)
            return MISSING if written is None else self.attributes(written.ino)
        return self.attributes(self._inodes.of(entry, is_seen=True).ino)

    def parent(self, directory: int) -> int:
        return self._inodes.parent(directory)

    def names(self, directory: int, after: bytes, count: int) -> list[tuple[bytes, Attributes]]:
        path = self._inodes.get(directory).path
        with self._lock:
            listing = self._listings.pop((directory, after), None)
        with Telling(f"listing {path!r}"):
            if listing is None:
                listing = self._listing(path)
                if after:
                    listing = _behind(listing, after)
            page = list(itertools.islice(listing, count))
        if len(page) == count:
            with self._lock:
                self._listings[directory, page[-1][0]] = listing
                if len(self._listings) > LISTINGS_MAX:
                    self._listings.popitem(last=False)
        return page

    def _listing(self, path: str) -> Iterator[tuple[bytes, Attributes]]:
        written = {inode.path: inode for inode in self._inodes.written_in(path)}
        for entry in self._tree.entries(path):
            written.pop(entry.path, None)
            inode = self._inodes.of(entry)
            yield name_in(inode), self.attributes(inode.ino)
        for inode in written.values():  # what is new, and not there yet
            if inode.is_written:
                yield name_in(inode), self.attributes(inode.ino)

    def set_attributes(self, ino: int, change: AttributeChange) -> Attributes:
        """Accepted, as programs that copy files expect; a bucket keeps none of it."""
        return self.attributes(ino)

    def truncate(self, ino: int, size: int, file: OpenFile | None) -> Attributes:
        inode = self._inodes.get(ino)
        written = file if isinstance(file, NewObject) else self._writing.get(ino)
        if written is not None:
            written.truncate(size)
        elif size == 0 and not inode.is_directory:
            opened = self.open(ino, os.O_WRONLY | os.O_TRUNC)
            assert isinstance(opened, NewObject)
            opened.flush()
        elif size != inode.entry.size_bytes:
            raise OSError(errno.EPERM, "an object is replaced as a whole")
        return self.attributes(ino)

    def extended_attributes(self, ino: int) -> dict[bytes, bytes]:
        return {}

    def set_extended_attribute(self, ino: int, name: bytes, value: bytes | None, flags: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "objects have no extended attributes here")

    # --------------------------------------------------------------------------------------------------------- making

    def make(self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int = 0) -> Attributes:
        path = self._inodes.path_in(directory, name)
        with Telling(f"making {path!r}"):
            if kind == DIRECTORY:
                entry = self._tree.make_directory(path)
            elif kind == FILE:
                entry = self._tree.create(path, exclusive=True).close()
            else:
                raise OSError(errno.EPERM, "a bucket has files and directories alone")
        return self.attributes(self._inodes.of(entry, is_seen=True).ino)

    def make_symbolic_link(self, directory: int, name: bytes, target: bytes, owner: Owner) -> Attributes:
        raise OSError(errno.EPERM, "a bucket has no symbolic links")

    def read_link(self, ino: int) -> bytes:
        raise OSError(errno.EINVAL, "a bucket has no symbolic links")

    def link(self, ino: int, directory: int, name: bytes) -> Attributes:
        raise OSError(errno.EPERM, "an object has one name")

    def remove(self, directory: int, name: bytes) -> None:
        path = self._inodes.path_in(directory, name)
        written = self._inodes.written(path)
        if written is not None:
            if (file := self._writing.get(written.ino)) is not None:
                file.removed()
            self._inodes.drop_inode(written)
        with Telling(f"removing {path!r}"):
            try:
                self._tree.remove(path)
            except errors.FileMissing:
                if written is None:
                    raise
        self._inodes.drop(path)

    def remove_directory(self, directory: int, name: bytes) -> None:
        path = self._inodes.path_in(directory, name)
        if self._inodes.written_in(path):
            raise OSError(errno.ENOTEMPTY, "something in it is being written")
        with Telling(f"removing {path!r}"):
            self._tree.remove_directory(path)
        self._inodes.drop(path)

    def rename(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> None:
        if flags & ~_RENAME_NOREPLACE:
            raise OSError(errno.EINVAL, "objects cannot be exchanged")
        source, target = self._inodes.path_in(directory, name), self._inodes.path_in(to_directory, to_name)
        if self._inodes.written(source) is not None or self._inodes.written(target) is not None:
            raise OSError(errno.EBUSY, "it is being written")
        with Telling(f"renaming {source!r} to {target!r}"):
            found = self._inodes.of(self._tree.need(source))
            entry = self._tree.rename(source, target, exclusive=bool(flags & _RENAME_NOREPLACE))
        self._inodes.moved(found, entry)

    # ------------------------------------------------------------------------------------------------------- contents

    def open_now(self, ino: int, flags: int) -> OpenFile | None:
        inode = self._inodes.get(ino)
        if flags & (os.O_ACCMODE | os.O_TRUNC) or inode.is_directory or inode.is_written or not self._is_fresh(inode):
            return None
        return self._reading(inode)

    def _is_fresh(self, inode: Inode) -> bool:
        return clock.monotonic() < inode.seen_at + SEEN_SECONDS

    def _reading(self, inode: Inode) -> ReadObject:
        self._inodes.open(inode)
        return ReadObject(self, inode, self._tree.reader(inode.entry))

    def open(self, ino: int, flags: int) -> OpenFile:
        inode = self._inodes.get(ino)
        if inode.is_directory:
            raise OSError(errno.EISDIR, "a directory")
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            return self._open_to_write(inode, flags)
        if inode.is_written:
            raise OSError(errno.EBUSY, "it is being written")
        if not self._is_fresh(inode):
            self._check_state(inode)
        return self._reading(inode)

    def _check_state(self, inode: Inode) -> None:
        """
        Raises:
            OSError: ESTALE: it is not that object any more. Then the kernel looks the name up anew, and opens what it finds.
        """
        with Telling(f"opening {inode.path!r}"):
            info = self._tree.bucket.head(self._tree.key_of(inode.path))
        if info is None or info.tag != inode.entry.tag:
            self.is_stale(inode)
            raise OSError(errno.ESTALE, "there is another object of this name")
        inode.seen_at = clock.monotonic()

    def _open_to_write(self, inode: Inode, flags: int) -> NewObject:
        self._check_writable()
        truncates = bool(flags & os.O_TRUNC)
        if inode.is_written:
            with self._lock:
                is_expected = self._expected.pop(inode.ino, None) is not None
            if not is_expected:
                raise OSError(errno.EBUSY, "it is being written")
            return self._write(inode, exclusive=False, is_new=truncates)
        if inode.entry.size_bytes and not truncates:
            raise OSError(errno.EPERM, "an object is replaced as a whole, by O_TRUNC")
        # The kernel empties what it opens, which others may be reading. So it is to look the name up anew, and open what it finds.
        self._inodes.drop_inode(inode)
        made = self._inodes.begin_writing(inode.path)
        self._expected[made.ino] = clock.monotonic() + COMES_BACK_SECONDS
        raise OSError(errno.ESTALE, "look it up anew")

    def create(self, directory: int, name: bytes, mode: int, flags: int, owner: Owner) -> tuple[Attributes, OpenFile]:
        self._check_writable()
        path = self._inodes.path_in(directory, name)
        inode = self._inodes.begin_writing(path)
        file = self._write(inode, exclusive=bool(flags & os.O_EXCL), is_new=True)
        return self.attributes(inode.ino), file

    def _check_writable(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "read-only")

    def _write(self, inode: Inode, *, exclusive: bool, is_new: bool) -> NewObject:
        begin = partial(self._tree.create, inode.path, exclusive=exclusive)
        try:
            with Telling(f"writing {inode.path!r}"):
                file = NewObject(self, inode, begin, is_new=is_new, writer=begin())
        except BaseException:
            self._inodes.end_writing(inode, None)
            raise
        self._writing[inode.ino] = file
        return file

    # ------------------------------------------------------------------------------------------- see `bucket_files.Owner`

    def closed(self, inode: Inode) -> None:
        self._inodes.close(inode)

    def is_stale(self, inode: Inode) -> None:
        self._tree.forget(inode.path)
        self._inodes.drop_inode(inode)

    def put(self, inode: Inode, entry: Entry | None) -> None:
        self._writing.pop(inode.ino, None)
        self._inodes.end_writing(inode, entry)


def _behind(listing: Iterator[tuple[bytes, Attributes]], name: bytes) -> Iterator[tuple[bytes, Attributes]]:
    """What comes behind *name*; if that is gone, what has a greater name."""
    passed = []
    for each in listing:
        if each[0] == name:
            return listing
        passed.append(each)
    return iter([each for each in passed if each[0] > name])
