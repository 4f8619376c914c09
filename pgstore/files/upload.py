"""Uploads: local files become new inodes, written as they are read, and get their names with the commit.

Files of a folder are taken in batches: read in one go, written by COPY. Directories that an upload makes, and the names in them,
are written at once, for nobody can see them yet; names in directories that existed go into the transaction's change set.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from pgstore import errors
from pgstore.core.operation import Call, Op, Query
from pgstore.core.statement import Statement
from pgstore.files import contents
from pgstore.files.changes import LIVE, Entry
from pgstore.files.contents import Contents, StoreGone
from pgstore.files.local import Folder, Found, Source
from pgstore.files.paths import Names, join
from pgstore.files.progress import Progress
from pgstore.files.rows import RESERVE_INODES, NewRows
from pgstore.files.tree import ROOT, Tree, Walk

DIRECTORIES_AMONG = Statement(
    f"""
    SELECT u.position
      FROM unnest($3) WITH ORDINALITY AS u (name, position)
     CROSS JOIN LATERAL (
           SELECT d.kind
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = $2
              AND d.name = u.name
              AND d.version_to = {LIVE}
            LIMIT 1) e
     WHERE e.kind = 'd'
     ORDER BY u.position
    """,
    "int8 int8 bytea[]",
    reads=True,
)


def put_file(tree: Tree, source: Source, names: Names, progress: Progress) -> Op[None]:
    """Write *source* to the path *names*, over a file that is there, making directories on the way."""
    walk = yield from tree.place(names)
    if walk.node is not None and walk.node.is_directory:
        raise errors.IsADirectory(f"{join(names)!r} is a directory")
    upload = _Upload(tree)
    parent = yield from upload.directory(names[:-1], walk)
    stored = yield from contents.write(tree.store_id, source.read, source.size_hint, progress.bytes)
    yield from upload.reserve(1)
    upload.file(parent, names[-1], source.mode, source.mtime_ns, stored)
    yield from upload.send()
    progress.files(1)


def put_directory(tree: Tree, folder: Folder, names: Names, progress: Progress) -> Op[None]:
    """Write the files of *folder* below the path *names*."""
    upload = _Upload(tree, inodes_at_once=100)
    target = yield from tree.place(names)
    if target.node is not None and not target.node.is_directory:
        raise errors.NotADirectory(f"{join(names)!r} is not a directory")
    while batch := (yield Call(folder.batch)):
        yield from _put_batch(upload, folder, names, batch, progress)
        if tree.changes.full:
            yield from tree.changes.flush()
            upload.forget_directories()  # ours may have become one with another transaction's


def _put_batch(upload: _Upload, folder: Folder, base: Names, batch: list[Found], progress: Progress) -> Op[None]:
    yield from upload.reserve(len(batch))
    for relative, files in _by_directory(batch):
        parent = yield from upload.directory((*base, *relative))
        yield from upload.check_not_directories(parent, [found.name for found in files])
        for found in files:
            data, mode, mtime_ns = found.data, found.mode, found.mtime_ns
            if data is not None:
                stored = Contents(len(data), None, data or None)
                progress.bytes(len(data))
            else:
                source = yield Call(partial(folder.source, found))
                try:
                    stored = yield from contents.write(
                        upload.tree.store_id, source.read, source.size_hint, progress.bytes
                    )
                    mode, mtime_ns = source.mode, source.mtime_ns
                finally:
                    source.close()
            upload.file(parent, found.name, mode, mtime_ns, stored)
    yield from upload.send()
    progress.files(len(batch))


def _by_directory(batch: list[Found]) -> Iterable[tuple[Names, list[Found]]]:
    groups: dict[Names, list[Found]] = {}
    for found in batch:
        groups.setdefault(found.directory, []).append(found)
    return groups.items()


class _Directory:
    """A directory that files are written to. *fresh*: made by this upload, so that nobody sees what is written in it."""

    __slots__ = ("fresh", "ino", "path")

    def __init__(self, ino: int, path: Names, *, fresh: bool) -> None:
        self.ino = ino
        self.path = path
        self.fresh = fresh


class _Upload:
    """What one upload has made so far."""

    def __init__(self, tree: Tree, *, inodes_at_once: int = 1) -> None:
        self.tree = tree
        self._inodes_at_once = inodes_at_once
        self._now_ns = time.time_ns()
        self._rows = NewRows(tree.store_id, self._now_ns)
        self._inos: list[int] = []
        self._promised = 0  # of these
        self._directories: dict[Names, _Directory] = {(): _Directory(ROOT, (), fresh=False)}

    def reserve(self, count: int) -> Op[None]:
        """See to it that *count* more inodes can be made."""
        self._promised += count
        lacking = self._promised - len(self._inos)
        if lacking > 0:
            rows = yield Query(RESERVE_INODES, self.tree.store_id, max(lacking, self._inodes_at_once))
            if not rows:
                raise StoreGone
            self._inos += [row[0] for row in rows]

    def _take(self) -> int:
        self._promised -= 1
        return self._inos.pop()

    def directory(self, path: Names, walk: Walk | None = None) -> Op[_Directory]:
        """The directory *path*, made if it is not there. *walk*: one from the root to there or beyond, if there was one."""
        known = self._directories.get(path)
        if known is not None:
            return known
        start = path[:-1]
        while start not in self._directories:
            start = start[:-1]
        directory = self._directories[start]
        if not directory.fresh:
            if walk is None:
                walk = yield from self.tree.walk(path[len(start) :], start=directory.ino)
            for depth, (ino, kind) in enumerate(walk.reached[1:], len(start) + 1):
                if depth > len(path):
                    break
                if kind != "d":
                    raise errors.NotADirectory(f"{join(path[:depth])!r} is not a directory")
                directory = self._directories[path[:depth]] = _Directory(ino, path[:depth], fresh=False)
        missing = len(path) - len(directory.path)
        yield from self.reserve(missing)
        for depth in range(len(path) - missing + 1, len(path) + 1):
            directory = self._make_directory(directory, path[:depth])
        return directory

    def _make_directory(self, parent: _Directory, path: Names) -> _Directory:
        ino = self._take()
        self._rows.directory(ino, parent.ino)
        self.tree.changes.own(ino)
        self._name(parent, path[-1], Entry(ino, "d", 0, self._now_ns))
        made = self._directories[path] = _Directory(ino, path, fresh=True)
        return made

    def check_not_directories(self, parent: _Directory, names: list[bytes]) -> Op[None]:
        """Raise `IsADirectory` if one of *names*, of files to write, is that of a directory."""
        if parent.fresh:
            return
        changes = self.tree.changes.under(parent.ino)
        for name in names:
            change = changes.get(name)
            if change is not None and change.entry is not None and change.entry.kind == "d":
                raise _is_directory(parent, name)
        unchanged = [name for name in names if name not in changes]
        for (position,) in (yield Query(DIRECTORIES_AMONG, self.tree.store_id, parent.ino, unchanged)):
            raise _is_directory(parent, unchanged[position - 1])

    def file(self, parent: _Directory, name: bytes, mode: int, mtime_ns: int | None, stored: Contents) -> None:
        ino = self._take()
        mtime = self._now_ns if mtime_ns is None else mtime_ns
        self._rows.file(ino, mode, mtime, stored)
        self._name(parent, name, Entry(ino, "f", stored.size_bytes, mtime))

    def _name(self, parent: _Directory, name: bytes, entry: Entry) -> None:
        if parent.fresh:
            self._rows.name(parent.ino, name, entry.ino, entry.kind)
        else:
            self.tree.changes.put(parent.ino, name, entry, parent.path)

    def send(self) -> Op[None]:
        yield from self._rows.send()

    def forget_directories(self) -> None:
        self._directories = {(): _Directory(ROOT, (), fresh=False)}


def _is_directory(parent: _Directory, name: bytes) -> errors.IsADirectory:
    return errors.IsADirectory(f"{join((*parent.path, name))!r} is a directory")
