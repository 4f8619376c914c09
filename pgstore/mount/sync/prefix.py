"""A directory with the objects of a bucket below a prefix: filled, written back, brought up to date, emptied.

What was fetched or put is remembered, by its state in the bucket and by what lstat(2) told of it: so the next commit finds what
has changed here, and `reload` what has changed there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, TypeVar

from pgstore import errors
from pgstore.buckets.known import Entry
from pgstore.buckets.parallel import shared
from pgstore.buckets.tree import Tree
from pgstore.core.workers import Task
from pgstore.fs.model import DIRECTORY, FILE
from pgstore.fs.transfer.local import LocalFolder, Slot, Target, explained
from pgstore.mount import recovery
from pgstore.mount.failures import extended
from pgstore.mount.recovery import About
from pgstore.mount.sync.directory import check_nothing_open
from pgstore.mount.sync.snapshot import DIGEST_BYTES, READ_BYTES, TICK_NS, Local, digest_of, scan

_LOG: Final = logging.getLogger("pgstore")
T = TypeVar("T")
R = TypeVar("R")
AT_ONCE_MAX: Final = 16
FILE_MODE: Final = 0o644
_READ_ONLY: Final = ~0o222


class SyncedPrefix:
    """
    A copy of the files of *tree* in the local directory *root*, which is empty at the beginning and at the end.

    Args:
        size_max_bytes: of the objects together, when they are fetched.
    """

    def __init__(self, tree: Tree, root: str, *, size_max_bytes: int) -> None:
        self._tree = tree
        self._root = root
        self._size_max_bytes = size_max_bytes
        self._lock = threading.Lock()
        self._entries: dict[bytes, Entry] = {}  # files, as they are in the bucket as far as is known
        self._local: dict[bytes, Local] = {}  # what they were here then
        self._digests: dict[bytes, bytes] = {}  # of those of which `_local` does not show whether they change
        self._unwritten: list[bytes] = []  # what the last commit should have put
        self._places: set[bytes] = set()  # of other mounts

    @property
    def is_read_only(self) -> bool:
        return self._tree.read_only

    def fill(self) -> None:
        """
        Fetch all objects.

        Raises:
            InvalidError: they are larger together than is allowed.
        """
        with self._lock:
            try:
                self._fetch(self._listed())
            except BaseException:
                recovery.empty(self._root)
                raise

    def leave_out_new(self) -> None:
        """Leave out, and as they are, the directories made here since `fill`: other mounts are there."""
        new = self._scan().keys() - self._local.keys()
        self._places = {path for path in new if not any(other.startswith(path + b"/") for other in new)}

    def _listed(self) -> list[Entry]:
        """All that the bucket has below the prefix; a directory comes before what is in it."""
        self._tree.forget_all()
        found = list(self._tree.entries("", recursive=True))
        size = sum(entry.size_bytes for entry in found)
        if size > self._size_max_bytes:
            raise errors.InvalidError(
                f"{self._tree.shown} has {size:,} bytes, and without FUSE all of them are copied, at most "
                f"{self._size_max_bytes:,}: mount a part by key_prefix=, raise size_max=, or make /dev/fuse usable"
            )
        return found

    def _fetch(self, entries: Iterable[Entry]) -> None:
        """Copy *entries*, in place of what is there."""
        folder = LocalFolder(self._root, None, trusted=True)
        files = []
        for entry in entries:
            path = os.fsencode(entry.path)
            if entry.is_directory:
                folder.make(path)
            else:
                files.append((entry, folder.slot(path)))
        for (entry, _), fetched in _each(files, self._fetch_one):
            if fetched is not None:
                self._entries[os.fsencode(entry.path)] = fetched
        time.sleep(TICK_NS / 1e9)  # so that a change of what is here now shows
        self._local = self._scan()

    def _fetch_one(self, item: tuple[Entry, Slot]) -> Entry | None:
        """Returns what was fetched; None: it was removed meanwhile."""
        entry, slot = item
        while True:
            target = Target(slot, 0o600)
            try:
                size = 0
                for piece in self._tree.reader(entry).pieces():
                    target.write([memoryview(piece)])
                    size += len(piece)
                target.finish(size)
            except errors.StaleFile:
                self._tree.forget(entry.path)
                found = self._tree.stat(entry.path)
                if found is None or found.is_directory:
                    return None
                entry = found
            else:
                break
            finally:
                target.abandon()
        with explained(f"local file {slot.path!r}", slot.path):
            os.chmod(slot.path, FILE_MODE & _READ_ONLY if self.is_read_only else FILE_MODE)
            os.utime(slot.path, ns=(entry.mtime_ns, entry.mtime_ns))
        return entry

    def _scan(self) -> dict[bytes, Local]:
        found = scan(self._root, self._left_out)
        for path in [path for path, local in found.items() if local.kind not in (FILE, DIRECTORY)]:
            self._left_out(path)
            del found[path]
        for place in self._places:
            for path in [path for path in found if path == place or path.startswith(place + b"/")]:
                del found[path]
        return found

    def _left_out(self, path: bytes) -> None:
        if path not in self._local:
            _LOG.warning(
                "%s is neither a file nor a directory, so no bucket can have it: it is left out", os.fsdecode(path)
            )

    # -------------------------------------------------------------------------------------------------------- commit

    def commit(self) -> None:
        """
        Put what has changed here, in place of what others may have put meanwhile, and remove what was removed.

        Raises:
            Exception: the first failure; all else was done.
        """
        with self._lock:
            self._commit()

    def _commit(self) -> None:
        if self.is_read_only:
            return
        new = self._scan()
        changed = [path for path in new if self._is_changed(path, new[path])]
        failures: list[Exception] = []
        self._unwritten = []
        self._local = {path: local for path, local in new.items() if path not in changed}

        def put(path: bytes) -> Entry | None:
            try:
                return self._put(path, new[path])
            except Exception as exc:  # noqa: BLE001 - raised when the others were put
                failures.append(exc)
                self._unwritten.append(path)
                return None

        for path, entry in _each(changed, put):
            if entry is not None:
                self._entries[path] = entry
                self._local[path] = new[path]
        for path in [path for path in self._entries if path not in new or new[path].kind != FILE]:
            try:
                self._remove(path)
            except Exception as exc:  # noqa: BLE001
                failures.append(exc)
        if failures:
            raise failures[0]

    def _is_changed(self, path: bytes, local: Local) -> bool:
        if local.kind != FILE:
            return False
        before = self._local.get(path)
        if before is None or before.kind != FILE or path not in self._entries:
            return True
        if local.is_unchanged(before):
            return False
        seen = (local.identity, local.size_bytes, local.mtime_ns) == (
            before.identity,
            before.size_bytes,
            before.mtime_ns,
        )
        if not seen:
            return True
        if not before.is_fresh:  # chmod and the like, which a bucket does not keep
            return False
        return self._digests.get(path) != digest_of(os.path.join(os.fsencode(self._root), path))

    def _put(self, path: bytes, local: Local) -> Entry | None:
        """Returns what the bucket has now; None: the file is gone."""
        place = os.path.join(os.fsencode(self._root), path)
        name = os.fsdecode(path)
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        try:
            with explained(f"local file {os.fsdecode(place)!r}", place):
                file = open(place, "rb", buffering=0)  # noqa: SIM115 - closed below
        except errors.FileMissing:
            return None
        with file:
            writer = self._tree.create(name)
            try:
                while data := file.read(READ_BYTES):
                    if local.is_fresh:
                        digest.update(data)
                    writer.write(data)
                entry = writer.close()
            finally:
                writer.abort()
        self._digests.pop(path, None)
        if local.is_fresh:
            self._digests[path] = digest.digest()
        return entry

    def _remove(self, path: bytes) -> None:
        """Remove the object that was at *path*, unless others have put another one."""
        known = self._entries[path]
        self._tree.forget(known.path)
        found = self._tree.stat(known.path)
        if found is not None and not found.is_directory:
            if found.tag == known.tag:
                self._tree.remove(known.path)
            else:
                _LOG.warning(
                    "%r was removed below %s, and stays in %s, where others have replaced it",
                    known.path,
                    self._root,
                    self._tree.shown,
                )
        del self._entries[path]

    # -------------------------------------------------------------------------------------------------------- reload

    def reload(self) -> None:
        """
        Write back what has changed here, then fetch what has changed in the bucket.

        Raises:
            InvalidError: this process has files of the directory open, which would stay what they are.
        """
        with self._lock:
            check_nothing_open(self._root)
            self._commit()
            listed = self._listed()
            there = {os.fsencode(entry.path): entry for entry in listed if not entry.is_directory}
            for path in [path for path in self._entries if path not in there]:
                local = os.path.join(os.fsencode(self._root), path)
                with explained(f"local file {os.fsdecode(local)!r}", local):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(local)
                del self._entries[path]
            self._fetch(
                entry
                for entry in listed
                if entry.is_directory or self._entries.get(os.fsencode(entry.path), _NONE).tag != entry.tag
            )

    # ----------------------------------------------------------------------------------------------------------- end

    def close(self, about: Callable[[str], About]) -> None:
        """
        Write back what has changed, and empty the directory.

        Args:
            about: what a recovery directory is to say, given a reason; see there.

        Raises:
            Exception: what the last commit has failed with. What it should have put is in a recovery directory, whose path is in
                the message.
        """
        with self._lock:
            try:
                if self.is_read_only:
                    self._say_what_is_lost()
                self._commit()
            except Exception as exc:
                kept = self._kept(about(str(exc) or type(exc).__name__))
                recovery.empty(self._root)
                if kept is None:
                    raise
                raise extended(exc, f"what was not written is kept in {str(kept.path)!r}") from exc
            recovery.empty(self._root)

    def _say_what_is_lost(self) -> None:
        new = self._scan()
        lost = [path for path in new if self._is_changed(path, new[path])]
        lost += [path for path in self._entries if path not in new]
        if lost:
            _LOG.warning("changes below %s, which is read-only, are not kept: %s …", self._root, os.fsdecode(lost[0]))

    def _kept(self, about: About) -> recovery.Kept | None:
        if not self._unwritten:
            return None
        kept = recovery.keep_files(os.fsencode(self._root), self._unwritten, about)
        _LOG.warning("what was written below %s is kept in %s: %s", self._root, kept.path, about.reason)
        return kept


_NONE: Final = Entry("", True)


def _each(items: Iterable[T], function: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    """Call *function* with each of *items*, several at a time, and give these with the results, in order."""
    under_way: deque[tuple[T, Task[R]]] = deque()
    workers = shared().workers
    try:
        for item in items:
            under_way.append((item, workers.submit(partial(function, item))))
            if len(under_way) >= AT_ONCE_MAX:
                done, task = under_way.popleft()
                yield done, task.result()
        while under_way:
            done, task = under_way.popleft()
            yield done, task.result()
    finally:
        for _, task in under_way:
            if not task.cancel():
                task.wait()
