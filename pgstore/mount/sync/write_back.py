"""Writing back: the steps of a `Difference` are done to the tree of a store, in one transaction.

What is moved waits under a name of its own while other things move: two names may have been swapped. Nobody sees these names,
for they are gone before the commit.

What others have done to the store meanwhile is merged as for any transaction: different files merge, of one file the last writer
wins, and what cannot be merged raises `ConflictError`. No path leads through a symbolic link: where somebody has replaced a
directory by one, it is a conflict.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from pgstore import errors
from pgstore.core.operation import Call, Op
from pgstore.fs.commit.change_set import conflict
from pgstore.fs.content import blobs
from pgstore.fs.content.blobs import BATCH_BYTES, INLINE_BYTES_MAX
from pgstore.fs.model import DIRECTORY, FILE, SYMLINK, Node
from pgstore.fs.paths import Names, join
from pgstore.fs.transfer.local import explained
from pgstore.fs.tree import edit, xattrs
from pgstore.fs.tree.build import Builder, Directory
from pgstore.fs.tree.resolve import Tree
from pgstore.mount.sync.difference import Difference, Path
from pgstore.mount.sync.snapshot import DIGEST_BYTES, Local

FILES_AT_ONCE: Final = 500
Attributes: TypeAlias = Sequence[tuple[bytes, bytes]]


class Written(NamedTuple):
    """A file as it is in the store now, by us."""

    ino: int
    size_bytes: int
    mtime_ns: int
    digest: bytes


class WriteBack:
    """
    One difference, to be written below the directory *base*.

    Args:
        root: the local directory.
        old, new: the snapshots that *steps* leads from and to.
    """

    def __init__(
        self, base: Names, root: str, steps: Difference, old: Mapping[Path, Local], new: Mapping[Path, Local]
    ) -> None:
        self._base = base
        self._root = os.fsencode(root)
        self._steps = steps
        self._old = old
        self._new = new
        self._waiting = b".pgstore-moving-" + secrets.token_hex(8).encode() + b"-"
        self.written: dict[Path, Written] = {}
        self.vanished: list[Path] = []
        """Files that were removed after the snapshot, before they could be read: as if they had not been in it."""
        self._to_set: list[tuple[int, dict[str, Any], Names]] = []  # attributes of inodes that are not sent yet

    def apply(self, tree: Tree) -> Op[None]:
        """Do all steps. May be called again, if it fails."""
        try:
            yield from self._apply(tree)
        except (errors.FileExists, errors.IsADirectory, errors.NotADirectory) as exc:
            raise conflict(f"what was changed here does not fit what another has done: {exc}") from exc

    def _apply(self, tree: Tree) -> Op[None]:
        self.written, self.vanished, self._to_set = {}, [], []
        waiting: dict[Path, Names] = {}
        for path, target in self._steps.away:
            if target is None:
                yield from self._remove(tree, path)
            else:
                waiting[target] = (*self._base, self._waiting + str(len(waiting)).encode())
                yield from self._move(tree, self._names(path), waiting[target], path)
        for path in self._steps.arrived:
            if path in waiting:
                yield from self._clear(tree, path)
                yield from self._move(tree, waiting[path], self._names(path), path)
            else:
                yield from self._make(tree, path)
        yield from self._put_files(tree)
        for path, name in self._steps.links:
            if path in self.vanished:
                continue
            yield from self._clear(tree, name)
            yield from edit.make_link(tree, self._names(path), self._names(name))
        for path in self._steps.attributes:
            yield from self._set_attributes(tree, path)

    def _names(self, path: Path) -> Names:
        return (*self._base, *path.split(b"/"))

    def _remove(self, tree: Tree, path: Path) -> Op[None]:
        walk = yield from tree.walk(self._names(path), follow=False)
        if walk.node is None:
            return  # by another, too
        self._check_way(walk.names, path)
        if walk.found.is_directory and self._old[path].kind != DIRECTORY:
            raise conflict(f"{join((path,))!r} was removed here, and replaced by a directory by another")
        yield from edit.remove(tree, self._names(path), recursive=True)

    def _move(self, tree: Tree, source: Names, target: Names, path: Path) -> Op[None]:
        try:
            yield from edit.move(tree, source, target)
        except (errors.FileMissing, errors.NotADirectory) as exc:
            raise conflict(f"{join((path,))!r} was moved here, and removed by another") from exc

    def _clear(self, tree: Tree, path: Path) -> Op[None]:
        """Remove a file that another has made at *path*."""
        walk = yield from tree.walk(self._names(path), follow=False)
        if walk.node is None:
            return
        self._check_way(walk.names, path)
        if walk.found.is_directory:
            raise conflict(f"{join((path,))!r} is new here, and a directory that another has made")
        yield from edit.remove(tree, self._names(path), recursive=False)

    def _check_way(self, names: Names, path: Path) -> None:
        if names != self._names(path):
            raise conflict(f"a directory on the way to {join((path,))!r} was replaced by a symbolic link by another")

    def _make(self, tree: Tree, path: Path) -> Op[None]:
        """Make what is new at *path*, and no file."""
        local = self._new[path]
        names = self._names(path)
        if local.kind == DIRECTORY:
            yield from edit.make_directory(tree, names, local.mode, exist_ok=True)
        else:
            yield from self._clear(tree, path)
            if local.kind == SYMLINK:
                yield from edit.make_symbolic_link(tree, local.target, names)
            else:
                kind, mode = local.kind, local.mode
                yield from edit.make_node(
                    tree, names, lambda builder, parent, name: builder.special(parent, name, kind, mode)
                )
        if attributes := _owner(local) | _extended((), local.xattrs, path):
            yield from edit.set_attributes(tree, names, lambda _: attributes, follow=False)

    # ---------------------------------------------------------------------------------------------------------- files

    def _put_files(self, tree: Tree) -> Op[None]:
        builder = Builder(tree, inodes_at_once=100)
        for batch in _batches(self._steps.files, self._new):
            yield from builder.reserve(len(batch))
            for above, names in _by_directory(batch):
                parent = yield from builder.directory(self._names(above) if above else self._base)
                paths = [above + b"/" + name if above else name for name in names]
                self._check_way((*parent.path, names[0]), paths[0])
                yield from builder.check_not_directories(parent, names)
                for path in paths:
                    yield from self._put(builder, parent, path)
            yield from builder.send()
            for ino, attributes, place in self._to_set:
                yield from tree.changes.set_attributes(ino, FILE, attributes, place)
            self._to_set = []
            if tree.changes.full:
                yield from tree.changes.flush()
                builder.forget_directories()

    def _put(self, builder: Builder, parent: Directory, path: Path) -> Op[None]:
        tree = builder.tree
        before: Node | None = None
        if path in self._old and not parent.fresh:  # its new inode takes over what a local file does not show
            before = (yield from tree.walk(self._names(path), follow=False)).node
        try:
            source: _Source = yield Call(partial(_Source, os.path.join(self._root, path)))
        except errors.FileMissing:
            self.vanished.append(path)
            return
        try:
            stored = yield from blobs.write(tree.store_id, source.read, source.size_hint, _nothing)
        finally:
            source.close()
        name = path.rpartition(b"/")[2]
        ino = builder.file(parent, name, source.mode, source.mtime_ns, stored)
        self.written[path] = Written(ino, stored.size_bytes, source.mtime_ns, source.digest)
        attributes, old = _owner(self._new[path]), self._old.get(path)
        extended = _extended(() if old is None else old.xattrs, self._new[path].xattrs, path)
        if before is not None and before.kind == FILE:
            if old is not None and _owner(old) == attributes:
                attributes = {"uid": before.uid, "gid": before.gid} if before.uid or before.gid else {}
            if before.xattrs:
                both = {**before.xattrs, **extended.get("xattrs", {})}
                extended = {"xattrs": {name: value for name, value in both.items() if value is not None}}
        attributes |= extended
        if attributes:
            self._to_set.append((ino, attributes, (*parent.path, name)))

    def _set_attributes(self, tree: Tree, path: Path) -> Op[None]:
        old, new = self._old[self._steps.origin(path)], self._new[path]
        changed: dict[str, Any] = {
            name: getattr(new, name) for name in ("mode", "uid", "gid") if getattr(old, name) != getattr(new, name)
        }
        if new.kind == FILE and old.mtime_ns != new.mtime_ns:
            changed["mtime_ns"] = new.mtime_ns
        changed |= _extended(old.xattrs, new.xattrs, path)
        walk = yield from tree.walk(self._names(path), follow=False)
        if walk.node is not None:  # else it was removed by another
            yield from edit.set_attributes(tree, self._names(path), lambda _: changed, follow=False)


class _Source:
    """A local file that is read once, and what tells whether the next commit finds it changed."""

    def __init__(self, path: bytes) -> None:
        self._name, self._path = f"local file {os.fsdecode(path)!r}", path
        with explained(self._name, path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            self._file = open(fd, "rb", buffering=0)  # noqa: SIM115 - closed by close()
            status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            self._file.close()
            raise errors.FileMissing(f"{self._name} was replaced while it was to be read", path)
        self.mode = stat.S_IMODE(status.st_mode)
        self.mtime_ns = status.st_mtime_ns
        self.size_hint = status.st_size
        self.restart()

    def restart(self) -> None:
        self._file.seek(0)
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def read(self, length: int) -> bytes:
        parts: list[bytes] = []
        with explained(self._name, self._path):
            while length and (part := self._file.read(length)):
                parts.append(part)
                length -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._digest.update(data)
        return data

    @property
    def digest(self) -> bytes:
        return self._digest.digest()

    def close(self) -> None:
        self._file.close()


def _owner(local: Local) -> dict[str, Any]:
    """What is to be set of the owner of something new, which is root's."""
    return {"uid": local.uid, "gid": local.gid} if local.uid or local.gid else {}


def _extended(old: Attributes, new: Attributes, path: Path) -> dict[str, Any]:
    """What is to be set of the extended attributes, of which a local file had *old* and has *new*; None removes one."""
    if old == new:
        return {}
    if sum(len(name) + len(value) for name, value in new) > xattrs.BYTES_MAX:
        raise errors.InvalidError(
            f"the extended attributes of {join((path,))!r} have more than {xattrs.BYTES_MAX} bytes together"
        )
    changes: dict[str, str | None] = {xattrs.stored_name(name): None for name, _ in set(old) - set(new)}
    changes |= {xattrs.stored_name(name): xattrs.stored_value(value) for name, value in set(new) - set(old)}
    return {"xattrs": changes}


def _batches(files: Iterable[Path], new: Mapping[Path, Local]) -> Iterable[list[Path]]:
    batch: list[Path] = []
    size = 0
    for path in files:
        batch.append(path)
        size += min(new[path].size_bytes, INLINE_BYTES_MAX)
        if len(batch) >= FILES_AT_ONCE or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _by_directory(batch: list[Path]) -> Iterable[tuple[Path, list[bytes]]]:
    groups: dict[Path, list[bytes]] = {}
    for path in batch:
        above, _, name = path.rpartition(b"/")
        groups.setdefault(above, []).append(name)
    return groups.items()


def _nothing(_: int) -> None:
    """Nobody is shown how far it is."""
