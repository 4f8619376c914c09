"""A tree of files and directories over the keys of a bucket.

Below the tree's prefix the path of a file is the rest of its key. A directory is there while a key begins with its path and a
slash: putting the first object into it makes it, and with the last one it is gone. Two kinds of directories are there for other
reasons. An object whose key ends in a slash, as consoles of providers make them, marks one; and one that was made in this `Tree`
is known to it alone, until an object is put into it.

Where a key and a directory have one name, the directory is shown. Keys that are no paths (`keys`) are left out and counted.
"""

from __future__ import annotations

import errno
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.buckets.base import Bucket, ObjectInfo
from pgstore.buckets.keys import ancestors, check_new, is_key, is_path, parent_of
from pgstore.buckets.known import Entry, Known, Question
from pgstore.buckets.listing import LeftOut, listed, listed_all
from pgstore.buckets.reading import Reader
from pgstore.buckets.writing import Writer

_LOG: Final = logging.getLogger("pgstore")
LOOK_KEYS: Final = 2


def log_left_out(message: str) -> None:
    _LOG.warning("%s", message)


class Tree:
    """
    Paths are from the root, with a slash between two names and none at either end; that of the root is empty. Called by several
    threads at once.

    Args:
        prefix: what all keys of the tree begin with; it is taken to end with a slash.
        read_only: changes fail with `ReadOnlyFiles`, before any request.
        ttl: for how many seconds what was seen may be answered again; 0: every answer is the bucket's.
        keep_directories: a directory stays, in this tree, when the last object in it was removed through it, as programs expect
            that remove what is in a directory and then the directory.
        tell: called with a sentence about keys that are left out of a listing, once for each directory and number of them.
    """

    def __init__(
        self,
        bucket: Bucket,
        prefix: str = "",
        read_only: bool = True,
        ttl: float = 0.0,
        *,
        keep_directories: bool = True,
        tell: Callable[[str], object] = log_left_out,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        self.read_only = read_only
        self._known = Known(ttl)
        self._keep_directories = keep_directories
        self._tell = tell
        self._told: dict[str, int] = {}  # of directories with keys that are left out: how many were
        self._lock = threading.Lock()
        self._local: dict[
            str, int
        ] = {}  # directories that are known here alone, with their parents, and when they were made

    @property
    def ttl(self) -> float:
        """For how many seconds what was seen may be answered again."""
        return self._known.ttl

    @property
    def shown(self) -> str:
        """What messages call it."""
        return f"{self.bucket.shown}/{self.prefix}" if self.prefix else self.bucket.shown

    def key_of(self, path: str) -> str:
        return self.prefix + path

    def _below(self, path: str) -> str:
        """What the keys of all that is in the directory begin with."""
        return f"{self.prefix}{path}/" if path else self.prefix

    # ------------------------------------------------------------------------------------------------------- looking

    def known(self, path: str) -> tuple[bool, Entry | None]:
        """Whether `stat` need ask nobody, and what it returns then."""
        if not path:
            return True, Entry("", True)
        if not is_path(path) or not is_key(self.key_of(path)):
            return True, None
        local = self._local.get(path)
        if local is not None:
            return True, Entry(path, True, mtime_ns=local)
        return self._known.entry(path)

    def forget(self, path: str) -> None:
        """Others have changed *path*: it is to be asked for anew."""
        self._known.forget(path)

    def forget_all(self) -> None:
        """Ask for everything anew, but for directories that are known here alone."""
        self._known.forget_all()

    def stat(self, path: str) -> Entry | None:
        """What is at *path*; None: nothing."""
        is_known, entry = self.known(path)
        if is_known:
            return entry
        with self._known.asking(parent_of(path)) as question:
            try:
                entry = self._listed(path)
            except errors.AccessDenied:  # of credentials that may read objects, and not list them
                info = self.bucket.head(self.key_of(path))
                if info is None:
                    raise
                entry = _file(path, info)
            self._known.keep(question, path, entry)
        return entry

    def _listed(self, path: str) -> Entry | None:
        """
        What the bucket has at *path*. One listing mostly says both: whether there is such a key, and whether others go on below it.

        Only keys as `a-1` and `a.txt` come between `a` and what is below `a/`; where there are some, it takes another request.
        """
        key, below = self.key_of(path), self._below(path)
        found: Entry | None = None
        before = 0
        for page in self.bucket.list(key, page_keys=LOOK_KEYS):
            for info in page.objects:
                if info.key >= below:
                    return _marked(path, info, below) if info.key.startswith(below) else found
                if info.key == key:
                    found = _file(path, info)
                before += 1
                if before == LOOK_KEYS:
                    first = self._first_below(path)
                    return found if first is None else _marked(path, first, below)
        return found

    def _first_below(self, path: str) -> ObjectInfo | None:
        """The first object below *path*, or the one that marks the directory; None: there is no such directory."""
        for page in self.bucket.list(self._below(path), page_keys=1):
            for info in page.objects:
                return info
        return None

    def need(self, path: str) -> Entry:
        """`stat`, of what is there. Raises `FileMissing`."""
        found = self.stat(path)
        if found is None:
            raise self._missing(path)
        return found

    def _missing(self, path: str) -> errors.FileMissing:
        return errors.FileMissing(f"no such file or directory in {self.shown}: {path!r}", path)

    def _is_directory(self, path: str) -> errors.IsADirectory:
        return errors.IsADirectory(f"{path or '/'!r} in {self.shown} is a directory", path)

    def entries(self, path: str, *, recursive: bool = False, beginning: str = "") -> Iterator[Entry]:
        """
        What the directory at *path* holds, or with *recursive* all below it, a directory before what is in it.

        The order is that of the paths as keys, those of all entries with a slash behind them; directories that only this tree knows
        come last. Without *recursive* it may be the answer to an earlier call, see *ttl*.

        Args:
            beginning: only what is in the directory under a name that begins so. The others are not asked for.

        Raises:
            FileMissing: there is no such directory; NotADirectory: it is a file.
        """
        if not recursive:
            known = self._known.listing(path)
            if known is not None:
                known = [entry for entry in known if entry.name.startswith(beginning)]
                yield from known
                yield from self._local_entries(path, {entry.path for entry in known}, beginning=beginning)
                return
        if recursive or beginning or not self._known.ttl:
            yield from self._ask_entries(path, recursive, beginning)
            return
        with self._known.asking(path) as question:
            asked = self._ask_entries(path, recursive, question=question)
            found = list(itertools.islice(asked, self._known.entries_max + 1))
        yield from found
        yield from asked  # what is too much to be known is not kept in memory either

    def _ask_entries(
        self, path: str, recursive: bool, beginning: str = "", question: Question | None = None
    ) -> Iterator[Entry]:
        if path and not (is_path(path) and is_key(self.key_of(path))):
            raise self._missing(path)
        left_out = LeftOut()
        listing = listed_all if recursive else listed
        is_there = not path or path in self._local or bool(beginning)
        seen: set[str] = set()  # what may be known here alone, too
        kept: list[Entry] = []
        for entry in listing(self.bucket, self.prefix, self._below(path), left_out, beginning):
            if entry.is_directory and entry.path in self._local:
                seen.add(entry.path)
            if question is not None and len(kept) <= self._known.entries_max:
                kept.append(entry)
            is_there = True
            yield entry
        if not is_there and not left_out.is_there:
            found = self.stat(path)
            if found is None:
                raise self._missing(path)
            if not found.is_directory:
                raise errors.NotADirectory(f"{path!r} in {self.shown} is not a directory", path)
        if question is not None:
            self._known.keep_listing(question, path, kept)
        if not beginning:
            self._tell_left_out(path, left_out)
        yield from self._local_entries(path, seen, recursive=recursive, beginning=beginning)

    def _local_entries(
        self, path: str, seen: set[str], *, recursive: bool = False, beginning: str = ""
    ) -> Iterator[Entry]:
        if not self._local:
            return
        with self._lock:
            local = sorted(self._local.items())
        below = f"{path}/{beginning}" if path else beginning
        for directory, mtime_ns in local:
            is_below = recursive or parent_of(directory) == path
            if is_below and directory.startswith(below) and directory not in seen:
                yield Entry(directory, True, mtime_ns=mtime_ns)

    def _tell_left_out(self, path: str, left_out: LeftOut) -> None:
        if self._told.get(path, 0) == left_out.count:
            return
        self._told[path] = left_out.count
        if left_out.count:
            what = "key that is no path is" if left_out.count == 1 else "keys that are no paths are"
            where = f"{path!r} of {self.shown}" if path else self.shown
            self._tell(f"{left_out.count} {what} left out of the listing of {where}, as {left_out.example!r}")

    # ------------------------------------------------------------------------------------------------------- contents

    def open(self, path: str) -> Reader:
        """
        Open a file for reading, in its present state.

        One request finds it. So an object is also found where a directory of its name hides it from listings.

        Raises:
            FileMissing: there is nothing; IsADirectory: there is a directory.
        """
        info = self.bucket.head(self.key_of(path)) if is_path(path) and is_key(self.key_of(path)) else None
        if info is None:
            found = self.stat(path)
            if found is None or not found.is_directory:
                raise self._missing(path)
            raise self._is_directory(path)
        return Reader(self.bucket, info, path)

    def create(self, path: str, *, exclusive: bool = False) -> Writer[Entry]:
        """
        Begin a file, which is there when `close` of what is returned has returned, in place of one that was there.

        Directories on the way need not be there.

        Args:
            exclusive: there must be none, neither now nor at the end.

        Raises:
            IsADirectory: there is a directory; FileExists: *exclusive*, and there is a file.
        """
        self.check_writable(path)
        self._check_target(path, exclusive)
        return Writer(self.bucket, self.key_of(path), path, partial(self._created, path), if_missing=exclusive)

    def _check_target(self, path: str, exclusive: bool) -> None:
        """Raise the error that says why no file can be put at *path*."""
        if not path:
            raise self._is_directory(path)
        check_new(self.key_of(path), path)
        is_known, found = self._known.entry(path)
        if exclusive or is_known or path in self._local:
            found = self.stat(path)
        elif self._first_below(path) is not None:
            found = Entry(path, True)
        if found is not None and found.is_directory:
            raise self._is_directory(path)
        if found is not None and exclusive:
            raise self._exists(path)

    def _exists(self, path: str) -> errors.FileExists:
        return errors.FileExists(f"{path or '/'!r} in {self.shown} exists already", path)

    def _created(self, path: str, info: ObjectInfo) -> Entry:
        entry = _file(path, info)
        with self._lock:
            for directory in ancestors(path):
                self._local.pop(directory, None)
        self._known.changed(path, entry)
        return entry

    def check_writable(self, path: str) -> None:
        """Raise `ReadOnlyFiles` if nothing may be changed."""
        if self.read_only:
            raise errors.ReadOnlyFiles(
                f"{path!r} cannot be changed: {self.shown} is read-only; pass read_only=False to write to it", path
            )

    def reader(self, entry: Entry) -> Reader:
        """Open a file for reading, in the state in which *entry* has it. Nothing is asked of anybody yet."""
        info = ObjectInfo(self.key_of(entry.path), entry.size_bytes, entry.tag, entry.mtime_ns)
        return Reader(self.bucket, info, entry.path)

    # ------------------------------------------------------------------------------------------------------- changing

    def make_directory(self, path: str) -> Entry:
        """
        Make a directory, in this tree alone, until an object is put into it.

        Raises:
            FileExists: something is there.
            FileMissing: there is no directory for it to be in; NotADirectory: that is a file.
        """
        self.check_writable(path)
        if not path or self.stat(path) is not None:
            raise self._exists(path)
        check_new(f"{self.key_of(path)}/", path)
        parent = self.need(parent_of(path))
        if not parent.is_directory:
            raise errors.NotADirectory(f"{parent.path!r} in {self.shown} is not a directory", parent.path)
        self._add_local(path)
        return self.need(path)

    def show_directory(self, path: str) -> None:
        """Have a directory at *path*, known here alone, also where nothing can be changed."""
        self._add_local(path)

    def _add_local(self, path: str) -> None:
        now = time.time_ns()
        with self._lock:
            for directory in (path, *ancestors(path)):
                self._local.setdefault(directory, now)

    def remove_directory(self, path: str) -> None:
        """
        Remove an empty directory.

        Raises:
            DirectoryNotEmpty: it is not; also where it has only keys that are no paths.
            FileMissing: there is none; NotADirectory: it is a file.
        """
        self.check_writable(path)
        if not path:
            raise errors.FileFailed("the root cannot be removed", path, errno=errno.EBUSY)
        below = self._below(path)
        with self._lock:
            is_local = path in self._local
            if any(directory.startswith(f"{path}/") for directory in self._local):
                raise self._not_empty(path)
        page = next(iter(self.bucket.list(below, page_keys=2)), None)
        keys = [] if page is None else [info.key for info in page.objects]
        if any(key != below for key in keys):
            raise self._not_empty(path)
        if keys:
            self.bucket.delete(keys)
        elif not is_local:
            found = self.stat(path)
            if found is None or found.is_directory:
                raise self._missing(path)
            raise errors.NotADirectory(f"{path!r} in {self.shown} is not a directory", path)
        with self._lock:
            self._local.pop(path, None)
        self._removed(path)

    def _not_empty(self, path: str) -> errors.DirectoryNotEmpty:
        return errors.DirectoryNotEmpty(f"directory {path!r} in {self.shown} is not empty", path)

    def remove(self, path: str) -> None:
        """
        Remove a file.

        Raises:
            FileMissing: there is none; IsADirectory: it is a directory.
        """
        self.check_writable(path)
        if self.need(path).is_directory:
            raise self._is_directory(path)
        self.bucket.delete([self.key_of(path)])
        self._removed(path, was_file=True)

    def remove_all(self, path: str) -> None:
        """Remove a directory with all in it, also keys that are no paths; or a file."""
        self.check_writable(path)
        if not self.need(path).is_directory:
            self.remove(path)
            return
        for page in self.bucket.list(self._below(path)):
            self.bucket.delete([info.key for info in page.objects])
        with self._lock:
            for directory in [*self._local]:
                if not path or directory == path or directory.startswith(f"{path}/"):
                    del self._local[directory]
        self._known.forget_all()
        if path:
            self._removed(path)

    def _removed(self, path: str, *, was_file: bool = False) -> None:
        if self._keep_directories and parent_of(path):
            self._add_local(parent_of(path))
        self._known.changed(path, None, was_file=was_file)

    def rename(self, source: str, target: str, *, exclusive: bool = False) -> Entry:
        """
        Have a file copied by the provider, and then removed under its old name. In between it has both.

        Args:
            exclusive: there must be nothing at *target*; else a file there is replaced.

        Raises:
            FileMissing: there is nothing at *source*; FileExists: *exclusive*.
            IsADirectory: *target* is a directory.
            FileFailed: with EXDEV: *source* is a directory. Programs copy what cannot be renamed.
        """
        self.check_writable(source)
        if self.need(source).is_directory:
            raise errors.FileFailed(
                f"{source or '/'!r} in {self.shown} is a directory, and a bucket renames only objects: copy what is in it",
                source,
                errno=errno.EXDEV,
            )
        if source == target and not exclusive:
            return self.need(source)
        entry = self.copy(source, target, exclusive=exclusive)
        self.bucket.delete([self.key_of(source)])
        self._removed(source, was_file=True)
        return entry

    def copy(self, source: str, target: str, *, exclusive: bool = False) -> Entry:
        """
        Have a file copied by the provider; nothing of it comes here.

        Raises:
            FileMissing: there is nothing at *source*; FileExists: *exclusive*, and there is a file at *target*.
            IsADirectory: either is a directory.
        """
        self.check_writable(target)
        self._check_target(target, exclusive)
        try:
            info = self.bucket.copy(self.key_of(source), self.key_of(target), if_missing=exclusive)
        except errors.FileMissing:
            if self.need(source).is_directory:
                raise self._is_directory(source) from None
            raise
        return self._created(target, info)


def _marked(path: str, first: ObjectInfo, below: str) -> Entry:
    """The directory whose *first* object this is, if it is not the one that marks it."""
    return Entry(path, True, mtime_ns=first.mtime_ns if first.key == below else 0)


def _file(path: str, info: ObjectInfo) -> Entry:
    return Entry(path, False, info.size_bytes, info.mtime_ns, info.tag)
