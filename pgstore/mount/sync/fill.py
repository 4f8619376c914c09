"""Filling: files of a store are copied into a local directory, with permissions, owners (by root), times and attributes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.core.operation import Call, Op
from pgstore.fs.content.blobs import BATCH_BYTES, INLINE_BYTES_MAX, filled
from pgstore.fs.model import DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Node
from pgstore.fs.paths import Names
from pgstore.fs.transfer.download import Reader
from pgstore.fs.transfer.local import LocalFolder, explained
from pgstore.fs.tree import xattrs
from pgstore.fs.tree.resolve import Small, Tree, Walk
from pgstore.fs.tree.stats import StatListing
from pgstore.mount import local_xattrs
from pgstore.mount.sync.difference import Path
from pgstore.mount.sync.snapshot import DIGEST_BYTES

NODES_AT_ONCE: Final = 1000
# Not the setuid and setgid bits: whoever may write to the store could else plant a program that runs with the reader's rights.
MODE_MASK: Final = 0o1777


def nodes_below(tree: Tree, walk: Walk) -> Op[dict[Path, Node]]:
    """All that is below the directory *walk*, by path from there; a directory comes before what is in it."""
    listing = StatListing(tree, walk, (), recursive=True)
    found: dict[Path, Node] = {}
    while (page := (yield from listing.nodes())) is not None:
        found.update((path, node) for path, node, _ in page)
    return found


class Filler:
    """
    Copies things of a *tree* from below its directory *base* to below the local directory *root*.

    Args:
        read_only: leave out the right to write.
    """

    def __init__(self, tree: Tree, base: Names, root: str, *, read_only: bool) -> None:
        self._tree = tree
        self._base = base
        self._folder = LocalFolder(root, None, trusted=True)
        self._root = os.fsencode(root)
        self._mask = MODE_MASK & ~0o222 if read_only else MODE_MASK
        self._may_chown = os.geteuid() == 0
        self._first_paths: dict[int, Path] = {}  # of files that have several names, which was made first
        self.digests: dict[Path, bytes] = {}
        """Those of the files that were copied."""
        self.gone: list[Path] = []
        """What was removed before it could be copied, in a store that has no versions."""

    def copy(self, nodes: dict[Path, Node]) -> Op[None]:
        """Copy *nodes*, in place of files that are there."""
        batch: list[tuple[Path, Node]] = []
        size = 0
        for path, node in nodes.items():
            if node.kind == FILE and node.size_bytes > INLINE_BYTES_MAX and not self._is_link(path, node):
                yield from self._copy_batch(batch)
                batch, size = [], 0
                yield from self._copy_large(path, node)
                continue
            batch.append((path, node))
            size += node.size_bytes
            if len(batch) >= NODES_AT_ONCE or size >= BATCH_BYTES:
                yield from self._copy_batch(batch)
                batch, size = [], 0
        yield from self._copy_batch(batch)
        # Last, and those below first: making names in a directory changes its time, and needs the right to write in it.
        directories = [(path, node) for path, node in nodes.items() if node.kind == DIRECTORY]
        yield Call(partial(self.set_all, reversed(directories)))

    def _is_link(self, path: Path, node: Node) -> bool:
        """Whether another name of the file was copied before."""
        return node.link_count > 1 and self._first_paths.setdefault(node.ino, path) != path

    def _copy_batch(self, batch: list[tuple[Path, Node]]) -> Op[None]:
        if not batch:
            return
        inos = [node.ino for path, node in batch if node.kind in (FILE, SYMLINK)]
        found = (yield from self._tree.small(inos)) if inos else {}
        for path in (yield Call(partial(self._make_all, batch, found))):
            node = dict(batch)[path]  # has grown, or was removed, since it was listed
            yield from self._copy_large(path, node)

    def _make_all(self, batch: list[tuple[Path, Node]], found: dict[int, Small]) -> list[Path]:
        """Make what was *found*; returns the paths of the other files."""
        others = []
        for path, node in batch:
            small = found.get(node.ino)
            if node.kind == DIRECTORY:
                self._folder.make(path)
                continue
            if self._is_link(path, node):
                if self._make_link(self._first_paths[node.ino], path):
                    continue
                others.append(path)
            elif small is None and node.kind in (FILE, SYMLINK):
                others.append(path)
            elif small is not None and small.link_target is not None:
                self._folder.link(path, small.link_target)
            elif small is not None:
                self._folder.write(path, 0o600, small.data)
                self.digests[path] = hashlib.blake2b(small.data, digest_size=DIGEST_BYTES).digest()
                self._set(path, node)
            elif node.kind in (FIFO, SOCKET):
                self._make_special(path, node)
        return others

    def _make_link(self, first: Path, path: Path) -> bool:
        if first not in self.digests:
            return False  # it was removed before it could be copied
        local = self._local(path)
        with explained(f"local file {os.fsdecode(local)!r}", local):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(local)
            os.link(self._local(first), local)
        self.digests[path] = self.digests[first]
        return True

    def _make_special(self, path: Path, node: Node) -> None:
        local = self._local(path)
        kind = {FIFO: 0o010000, SOCKET: 0o140000}[node.kind]
        with explained(f"local file {os.fsdecode(local)!r}", local):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(local)
            os.mknod(local, kind | 0o600)
        self._set(path, node)

    def _copy_large(self, path: Path, listed: Node) -> Op[None]:
        names = (*self._base, *path.split(b"/"))
        try:
            node = (yield from self._tree.need(names, with_contents=True, follow=False)).found
        except errors.FileMissing:
            self.gone.append(path)
            return
        if node.link_target is not None:
            yield Call(partial(self._folder.link, path, node.link_target))
            return
        reader = Reader(self._tree, node)
        target = yield Call(partial(self._folder.target, path, 0o600))
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        try:
            at = 0
            while (present := (yield from reader.page_present())) is not None:
                pieces = filled(present, at, reader.at)
                yield Call(partial(_write_page, target.write_at, present, digest.update, pieces))
                at = reader.at
            yield Call(partial(target.finish, at))
        except BaseException:
            target.abandon()
            raise
        self.digests[path] = digest.digest()
        yield Call(partial(self._set, path, node))

    # ----------------------------------------------------------------------------------------------------- attributes

    def _local(self, path: Path) -> bytes:
        return os.path.join(self._root, path)

    def set_all(self, nodes: Iterable[tuple[Path, Node]]) -> None:
        """Set permissions, owners, times and extended attributes of what is there."""
        for path, node in nodes:
            self._set(path, node)

    def _set(self, path: Path, node: Node) -> None:
        if node.kind == SYMLINK:
            return
        local = self._local(path)
        with explained(f"local file {os.fsdecode(local)!r}", local):
            if self._may_chown:
                os.chown(local, node.uid, node.gid, follow_symlinks=False)
            if node.kind in (FILE, DIRECTORY):
                stored = node.xattrs or {}
                local_xattrs.write(local, {xattrs.name_of(name): xattrs.value_of(stored[name]) for name in stored})
            os.chmod(local, node.mode & self._mask)
            os.utime(local, ns=(node.mtime_ns, node.mtime_ns))


def _write_page(
    write_at: Callable[[list[tuple[int, bytes | memoryview]]], None],
    present: list[tuple[int, bytes | memoryview]],
    update: Callable[[bytes | memoryview], object],
    pieces: list[bytes | memoryview],
) -> None:
    write_at(present)
    for piece in pieces:
        update(piece)


def check_size(nodes: dict[Path, Node], size_max_bytes: int, what: str) -> None:
    """Raise `InvalidError` if the files among *nodes* are larger together than *size_max_bytes*."""
    sizes = {node.ino: node.size_bytes for node in nodes.values() if node.kind == FILE}
    size = sum(sizes.values())
    if size > size_max_bytes:
        raise errors.InvalidError(
            f"{what} has {size:,} bytes, and without FUSE all of them are copied, at most {size_max_bytes:,}: mount a part by "
            "sub_path=, raise size_max=, or make /dev/fuse usable"
        )
