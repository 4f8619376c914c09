"""Differences: what has happened to a directory between two snapshots, as steps that make one tree from the other.

Inodes tell what was renamed. What is in a directory that was renamed is carried along with it, without steps of its own. A file
that was renamed and written to is a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from pgstore.fs.model import DIRECTORY, FILE
from pgstore.mount.sync.snapshot import Local

Path: TypeAlias = bytes  # from the root of the mount


class Difference:
    """
    What leads from the snapshot *old* to *new*: steps, to be done in the order of the attributes.

    Args:
        is_same: called with an old and a new path of a file of which one cannot see whether its bytes are still those; reads it.
    """

    def __init__(
        self, old: Mapping[Path, Local], new: Mapping[Path, Local], is_same: Callable[[Path, Path], bool]
    ) -> None:
        self._old, self._new, self._is_same = old, new, is_same
        self._origins: dict[Path, Path] = {b"": b""}  # by new path the old path of the same thing
        self._consumed: set[Path] = set()  # old paths of what is still there, or is replaced
        self._replaced: list[Path] = []  # new paths of files that were written over
        self._old_paths = _by_inode(old)
        self.away: list[tuple[Path, Path | None]] = []
        """
        Old paths at which nothing is any more, the deepest first, and the new path that it has; None: it was removed. What was
        removed with its directory is left out.
        """
        self.arrived: list[Path] = []
        """New paths of what was moved, or is new and no file; a directory before what is in it."""
        self.files: list[Path] = []
        """New paths of files whose bytes are new."""
        self.links: list[tuple[Path, Path]] = []
        """The path of a file, and a new name that it has, too."""
        self.attributes: list[Path] = []
        """New paths of what is not new and has other permissions, owners, times or extended attributes."""
        self.moved: dict[Path, Path] = {}
        """By new path the old one."""
        self._compare()

    def __bool__(self) -> bool:
        return bool(self.away or self.arrived or self.files or self.links or self.attributes)

    def origin(self, path: Path) -> Path:
        """The old path of what is not new."""
        return self._origins[path]

    def origins(self) -> Iterable[tuple[Path, Path]]:
        """New and old paths of all that is not new."""
        return ((path, origin) for path, origin in self._origins.items() if path)

    def _compare(self) -> None:
        by_inode = _by_inode(self._new)
        for path, local in self._new.items():
            if local.kind == DIRECTORY:
                self._one(path, [path], unchanged=True)
        for (kind, _, _), paths in by_inode.items():
            if kind != DIRECTORY:
                self._one(paths[0], paths, unchanged=self._has_old_bytes(paths[0]))
        self._find_what_is_away()
        for path, origin in self._origins.items():
            if path and _attributes(self._old[origin]) != _attributes(self._new[path]):
                self.attributes.append(path)

    def _one(self, path: Path, paths: list[Path], *, unchanged: bool) -> None:
        """Find the steps for one inode, whose names are *paths*."""
        local = self._new[path]
        before = self._old_paths.get(local.identity, []) if unchanged else []
        kept = [each for each in paths if self._carried(each) in before]
        for each in kept:
            self._stays(each, self._carried(each))
        if kept:
            path = kept[0]
        elif before and before[0] not in self._consumed:
            self._stays(path, before[0])
            self.moved[path] = before[0]
            self.arrived.append(path)
        elif local.kind == FILE:
            self.files.append(path)
            if (replaced := self._old.get(self._carried(path) or b"")) is not None and replaced.kind == FILE:
                self._replaced.append(path)
        else:
            self.arrived.append(path)
        self.links += [(path, each) for each in paths if each != path and each not in kept]

    def _carried(self, path: Path) -> Path | None:
        """The old path of what would be at *path* had only the directories above it been renamed; None: they are new."""
        above, _, name = path.rpartition(b"/")
        origin = self._origins.get(above)
        return None if origin is None else origin + b"/" + name if origin else name

    def _stays(self, path: Path, origin: Path | None) -> None:
        assert origin is not None
        self._origins[path] = origin
        self._consumed.add(origin)

    def _has_old_bytes(self, path: Path) -> bool:
        """Whether the bytes of the file, or the target of the link, are still the same as in the old snapshot."""
        new = self._new[path]
        before = self._old_paths.get(new.identity)
        if before is None:
            return False
        old = self._old[before[0]]
        if new.kind != FILE:
            return old.target == new.target
        if new.is_unchanged(old):
            return True
        return old.size_bytes == new.size_bytes and self._is_same(before[0], path)

    def _find_what_is_away(self) -> None:
        targets = {origin: path for path, origin in self.moved.items()}
        # A file that is replaced need not be removed before, unless what was there has another name now.
        replaced = {self._carried(path) for path in self._replaced} - self._consumed
        removed = {path for path in self._old if path not in self._consumed and path not in replaced}
        for path in sorted(self._old, key=lambda path: path.count(b"/"), reverse=True):
            if path in targets:
                self.away.append((path, targets[path]))
            elif path in removed and path.rpartition(b"/")[0] not in removed:
                self.away.append((path, None))


def _by_inode(snapshot: Mapping[Path, Local]) -> dict[tuple[str, int, int], list[Path]]:
    paths: dict[tuple[str, int, int], list[Path]] = {}
    for path, local in snapshot.items():
        paths.setdefault(local.identity, []).append(path)
    return paths


def _attributes(local: Local) -> tuple[object, ...]:
    return local.mode, local.uid, local.gid, local.xattrs, local.mtime_ns if local.kind == FILE else 0
