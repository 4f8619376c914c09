"""Nodes: what a file system does, on inode numbers and names. No paths; `edit` resolves them and comes here.

Each verb reads the tree as its transaction sees it, checks what POSIX has checked, and changes it: new inodes are written at once,
all else goes into the change set. Errors have the errno that POSIX gives for them. What the kernel has checked when it asks (a
name's length, permissions, whether a rename stays on one file system) is not checked again.

Source of the rules: the pages of link, mkdir, mknod, rename, rmdir, unlink in https://pubs.opengroup.org/onlinepubs/9799919799/,
and renameat2(2), setxattr(2) of Linux.
"""

from __future__ import annotations

import errno
import time
from bisect import bisect_right
from collections.abc import Mapping
from heapq import merge
from typing import Any, Final, NamedTuple

from pgstore import errors
from pgstore.core.operation import Op, Query
from pgstore.fs.commit.change_set import How, Removal
from pgstore.fs.commit.held import NewNode
from pgstore.fs.commit.live import LOCK_INODES
from pgstore.fs.model import DIRECTORY, ROOT, SYMLINK, Contents, Entry, Node
from pgstore.fs.paths import Names, join
from pgstore.fs.tree import xattrs
from pgstore.fs.tree.listing import PAGE_NAMES
from pgstore.fs.tree.new_nodes import insert
from pgstore.fs.tree.new_rows import LINK_MODE, reserve_inodes
from pgstore.fs.tree.node_rows import NamedNode, gone
from pgstore.fs.tree.resolve import Tree

# Flags of renameat2(2) and setxattr(2), from linux/fs.h and linux/xattr.h.
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2

EMPTY: Final = Contents(0, None, None)


class Place(NamedTuple):
    """A name in a directory, and what it leads to for who changes it; *path*: of the directory, for messages, if it is known."""

    directory: int
    name: bytes
    node: Node | None
    path: Names = ()

    @property
    def shown(self) -> str:
        return join((*self.path, self.name))

    @property
    def found(self) -> Node:
        """The node, which is known to exist."""
        assert self.node is not None
        return self.node


# ----------------------------------------------------------------------------------------------------------- reading


def node(tree: Tree, ino: int, *, with_contents: bool = False) -> Op[Node]:
    """
    The node *ino*. It may have lost its names, as long as it is kept for who has it open.

    Raises:
        StaleFile: there is none.
    """
    found = yield from tree.rows.node(ino, with_contents=with_contents)
    if found is None:
        raise gone(ino)
    return tree.node_as_changed(found)


def look_up(tree: Tree, directory: int, name: bytes, *, with_contents: bool = False) -> Op[Node | None]:
    """
    What *name* in *directory* leads to, a symbolic link itself; None: nothing.

    Args:
        with_contents: the bytes of a small file, or where those of a large one are, come with it.

    Raises:
        StaleFile: *directory* does not exist any more.
        NotADirectory: it is something else.
    """
    change = tree.changes_under(directory).get(name)
    if change is not None:
        return None if change.entry is None else (yield from node(tree, change.entry.ino, with_contents=with_contents))
    found = yield from tree.rows.named(directory, name, with_contents=with_contents)
    return None if found is None else tree.node_as_changed(found)


def names(tree: Tree, directory: int, after: bytes, count: int) -> Op[list[NamedNode]]:
    """
    The first *count* names of *directory* that come after *after*, in the order of their bytes; fewer only at the end.

    Each comes with all that stat(2) tells.

    Raises:
        StaleFile, NotADirectory: as `look_up`.
    """
    changes, changed = tree.changes_under(directory), tree.changed_names(directory)
    if not changed:
        page = yield from tree.rows.page(directory, after, count)
        return [NamedNode(name, tree.node_as_changed(found)) for name, found in page] if tree.has_changes else page
    result: list[NamedNode] = []
    page_names = max(count, PAGE_NAMES)  # many of them may have been removed
    while True:
        page = yield from tree.rows.page(directory, after, page_names)
        last = page[-1].name if len(page) == page_names else None  # None: the page goes on to the end
        here = {named.name: named.node for named in page}
        end = len(changed) if last is None else bisect_right(changed, last)
        # Lazily: a directory may have a hundred thousand new names.
        new = (changed[at] for at in range(bisect_right(changed, after), end) if changed[at] not in here)
        for name in merge(here, new):
            change = changes.get(name)
            if change is None and name not in here:
                continue  # undone by another thread, meanwhile
            if change is None:
                result.append(NamedNode(name, tree.node_as_changed(here[name])))
            elif change.entry is not None:
                result.append(NamedNode(name, (yield from node(tree, change.entry.ino))))
            if len(result) == count:
                return result
        if last is None:
            return result
        after = last


def parent(tree: Tree, directory: int) -> Op[int]:
    """The directory that *directory* is in; of the root: itself. Errors: as `look_up`."""
    moved = tree.moved_to(directory)
    return (yield from tree.rows.parent(directory)) if moved is None else moved


def place(tree: Tree, directory: int, name: bytes) -> Op[Place]:
    """*name* in *directory*, for a verb. Errors: as `look_up`."""
    return Place(directory, name, (yield from look_up(tree, directory, name)))


def _existing(tree: Tree, directory: int, name: bytes) -> Op[Place]:
    found = yield from place(tree, directory, name)
    if found.node is None:
        raise errors.FileMissing(f"no such file or directory: {found.shown!r}", found.shown)
    return found


# ------------------------------------------------------------------------------------------------------------ making


def make(
    tree: Tree,
    directory: int,
    name: bytes,
    kind: str,
    mode: int,
    *,
    uid: int = 0,
    gid: int = 0,
    device: int | None = None,
    contents: Contents = EMPTY,
) -> Op[Node]:
    """
    Make a file, directory, fifo, socket or device node.

    Args:
        device: of a device node.
        contents: of a file.

    Raises:
        FileExists: there is something of this name.
        StaleFile, NotADirectory: as `look_up`.
    """
    where = yield from place(tree, directory, name)
    return (yield from make_at(tree, where, kind, mode, uid=uid, gid=gid, device=device, contents=contents))


def make_symbolic_link(
    tree: Tree, directory: int, name: bytes, target: bytes, *, uid: int = 0, gid: int = 0
) -> Op[Node]:
    """Make a symbolic link to *target*, which is kept as it is given. Errors: as `make`."""
    where = yield from place(tree, directory, name)
    return (yield from make_at(tree, where, SYMLINK, LINK_MODE, uid=uid, gid=gid, target=target))


def make_at(
    tree: Tree,
    where: Place,
    kind: str,
    mode: int,
    *,
    uid: int = 0,
    gid: int = 0,
    device: int | None = None,
    target: bytes | None = None,
    contents: Contents = EMPTY,
) -> Op[Node]:
    """`make` at a place that was looked up."""
    _check_free(where)
    now_ns = time.time_ns()
    (ino,) = yield from reserve_inodes(tree.session, tree.store_id, 1, at_once=tree.inodes_at_once)
    size_bytes = contents.size_bytes if target is None else len(target)
    made = Node(
        *(ino, kind, 0, mode, size_bytes, now_ns, now_ns, uid, gid, 1, target, None, None, device, None),
        *(contents.inline_data, contents.blob_id),
    )
    new = NewNode(made, where.directory if kind == DIRECTORY else None)
    if not tree.changes.keep(new.node, new.parent):
        yield from insert(tree.store_id, [new], tree.changes)
    if kind == DIRECTORY:
        tree.changes.note_created(ino, exclusive=tree.is_exact)
    tree.changes.make(where.directory, where.name, _entry(made), where.path, exclusive=tree.is_exact, was_free=True)
    return made


def _check_free(where: Place) -> None:
    if where.node is not None:
        raise errors.FileExists(f"{where.shown!r} exists", where.shown)


def _entry(found: Node) -> Entry:
    return Entry(found.ino, found.kind, found.size_bytes, found.mtime_ns)


def link(tree: Tree, ino: int, directory: int, name: bytes) -> Op[Node]:
    """
    Give the file *ino* another name.

    Raises:
        FileExists: there is something of this name.
        FileMissing: the file has lost its last name.
        FileFailed: it is a directory (EPERM).
        StaleFile, NotADirectory: as `look_up`.
    """
    found = yield from node(tree, ino)
    if found.is_directory:
        raise errors.FileFailed(f"inode {ino} is a directory, which has one name only", errno=errno.EPERM)
    if found.link_count < 1:
        raise errors.FileMissing(f"the last name of inode {ino} was removed")
    where = yield from place(tree, directory, name)
    _check_free(where)
    tree.changes.name_again(ino)
    tree.changes.put(directory, name, _entry(found), where.path, exclusive=tree.is_exact, was_free=True)
    tree.changes.count_links(found, +1)
    return found._replace(link_count=found.link_count + 1)


# ---------------------------------------------------------------------------------------------------------- removing


def remove(tree: Tree, directory: int, name: bytes) -> Op[Node]:
    """
    Remove the name of anything but a directory; return what it led to.

    Raises:
        FileMissing: there is nothing of this name.
        IsADirectory: it is a directory.
        StaleFile, NotADirectory: as `look_up`.
    """
    where = yield from _existing(tree, directory, name)
    if where.found.is_directory:
        raise errors.IsADirectory(f"{where.shown!r} is a directory", where.shown)
    remove_at(tree, where, "any", exclusive=tree.is_exact)
    return where.found


def remove_directory(tree: Tree, directory: int, name: bytes) -> Op[Node]:
    """
    Remove an empty directory; return what it was.

    Raises:
        FileMissing: there is nothing of this name.
        NotADirectory: it is no directory.
        DirectoryNotEmpty: something is in it.
        StaleFile: as `look_up`.
    """
    where = yield from _existing(tree, directory, name)
    if not where.found.is_directory:
        raise errors.NotADirectory(f"{where.shown!r} is not a directory", where.shown)
    yield from check_empty(tree, where)
    remove_at(tree, where, "empty", exclusive=tree.is_exact)
    return where.found


def remove_at(tree: Tree, where: Place, how: How, *, exclusive: bool = False) -> None:
    """Remove a name that was looked up, and checked. *exclusive*: it is a conflict if another does so before the commit."""
    found = where.found
    tree.changes.remove(where.directory, where.name, Removal(found.ino, found.kind, how, exclusive), where.path)
    if how != "moved":
        tree.changes.count_links(found, -1)


def check_empty(tree: Tree, where: Place) -> Op[None]:
    try:
        is_empty = not (yield from names(tree, where.found.ino, b"", 1))
    except errors.StaleFile:
        return  # removed meanwhile, which the commit finds out
    if not is_empty:
        raise errors.DirectoryNotEmpty(f"directory {where.shown!r} is not empty", where.shown)


# ---------------------------------------------------------------------------------------------------------- renaming


def rename(
    tree: Tree, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int = 0
) -> Op[tuple[Node, Node | None]]:
    """
    Rename, as renameat2(2). Returns what was renamed, and what was replaced or exchanged with it.

    Args:
        flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE.

    Raises:
        FileMissing: there is nothing to rename, or to exchange with.
        FileExists: there is something of the new name, with RENAME_NOREPLACE.
        IsADirectory, NotADirectory, DirectoryNotEmpty: what is there cannot be replaced.
        FileFailed: a directory would be below itself (EINVAL), or the flags are others (EINVAL).
        StaleFile: as `look_up`.
    """
    if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        raise errors.FileFailed(f"rename with flags {flags:#x}", errno=errno.EINVAL)
    source = yield from _existing(tree, directory, name)
    target = yield from place(tree, to_directory, to_name)
    if source.found.is_directory:
        yield from _check_not_below(tree, source.found.ino, to_directory)
    if flags == RENAME_EXCHANGE:
        if target.node is None:
            raise errors.FileMissing(f"no such file or directory: {target.shown!r}", target.shown)
        if target.node.is_directory:
            yield from _check_not_below(tree, target.node.ino, directory)
        exchange_at(tree, source, target)
    else:
        yield from rename_at(tree, source, target, replace=flags != RENAME_NOREPLACE)
    return source.found, target.node


def rename_at(tree: Tree, source: Place, target: Place, *, replace: bool = True) -> Op[None]:
    """`rename` of one place to another, which were looked up; a directory not below itself."""
    found, there = source.found, target.node
    if there is not None:
        if not replace:
            raise errors.FileExists(f"{target.shown!r} exists; pass replace=True to replace it", target.shown)
        if there.ino == found.ino:
            return  # POSIX: both names stay
        yield from _check_replaceable(tree, found, target)
        remove_at(tree, target, "empty" if there.is_directory else "any")
    remove_at(tree, source, "moved")
    tree.changes.move(
        target.directory,
        target.name,
        _entry(found),
        target.path,
        exclusive=not replace or found.is_directory,
        was_free=there is None,
    )


def _check_replaceable(tree: Tree, found: Node, target: Place) -> Op[None]:
    there = target.found
    if found.is_directory:
        if not there.is_directory:
            raise errors.NotADirectory(
                f"{target.shown!r} is a file and cannot be replaced by a directory", target.shown
            )
        yield from check_empty(tree, target)
    elif there.is_directory:
        raise errors.IsADirectory(f"{target.shown!r} is a directory", target.shown)


def exchange_at(tree: Tree, one: Place, other: Place) -> None:
    """Let two names lead where the other does; a directory not below itself."""
    if one.found.ino == other.found.ino:
        return
    remove_at(tree, one, "moved")
    remove_at(tree, other, "moved")
    for where, found in ((one, other.found), (other, one.found)):
        tree.changes.move(where.directory, where.name, _entry(found), where.path, exclusive=True)


def _check_not_below(tree: Tree, ino: int, directory: int) -> Op[None]:
    """Raise an error if *directory* is the directory *ino* or below it."""
    while directory != ROOT:
        if directory == ino:
            raise errors.FileFailed(f"directory {ino} cannot be moved into itself", errno=errno.EINVAL)
        above = yield from parent(tree, directory)
        if above == directory:
            return
        directory = above


# -------------------------------------------------------------------------------------------------------- attributes


def set_attributes(
    tree: Tree,
    ino: int,
    *,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    atime_ns: int | None = None,
    mtime_ns: int | None = None,
    ctime_ns: int | None = None,
) -> Op[Node]:
    """
    Set attributes of a node, and its ctime: to the present, unless it is given. None: as it was. Returns the node as it is then.

    Raises:
        StaleFile: as `node`.
    """
    given = {
        "mode": mode,
        "uid": uid,
        "gid": gid,
        "set_atime_ns": atime_ns,
        "mtime_ns": mtime_ns,
        "ctime_ns": time.time_ns() if ctime_ns is None else ctime_ns,
    }
    found = yield from node(tree, ino)
    return (yield from _set(tree, found, {name: value for name, value in given.items() if value is not None}))


def _set(tree: Tree, found: Node, new: Mapping[str, Any]) -> Op[Node]:
    try:
        yield from tree.changes.set_attributes(found.ino, found.kind, new, ())
    except errors.FileMissing as exc:
        raise gone(found.ino) from exc
    return found.changed(new)


def set_contents(tree: Tree, ino: int, contents: Contents, *, mtime_ns: int | None = None) -> Op[Node]:
    """
    Give a file of a Volume other contents, whose blob belongs to the session until the commit.

    Its mtime and ctime become *mtime_ns*; None: the present.

    Raises:
        StaleFile: as `node`.
    """
    assert not tree.in_place, "files of a NetworkFileSystem are written in place"
    now_ns = time.time_ns() if mtime_ns is None else mtime_ns
    found = yield from node(tree, ino)
    new = {**contents._asdict(), "chunk_size": None, "stored_bytes": None, "mtime_ns": now_ns, "ctime_ns": now_ns}
    return (yield from _set(tree, found, new))


def read_link(tree: Tree, ino: int) -> Op[bytes]:
    """
    The target of a symbolic link.

    Raises:
        FileFailed: it is something else (EINVAL).
        StaleFile: as `node`.
    """
    found = yield from node(tree, ino)
    if found.kind != SYMLINK:
        raise errors.FileFailed(f"inode {ino} is no symbolic link", errno=errno.EINVAL)
    return found.link_target or b""


def extended_attributes(tree: Tree, ino: int) -> Op[dict[bytes, bytes]]:
    """All extended attributes of a node, by name. Errors: as `node`."""
    found = yield from node(tree, ino)
    return {xattrs.name_of(name): xattrs.value_of(value) for name, value in (found.xattrs or {}).items()}


def set_extended_attribute(tree: Tree, ino: int, name: bytes, value: bytes | None, flags: int = 0) -> Op[None]:
    """
    Set an extended attribute, as setxattr(2); *value* None: remove it.

    Args:
        flags: 0, XATTR_CREATE: there must be none of this name, XATTR_REPLACE: there must be one.

    Raises:
        FileFailed: there is none to remove or replace (ENODATA); the name is too long (ERANGE), or the value (E2BIG); all names
            together would have more than 64 KiB, or all values (ENOSPC).
        FileExists: there is one, with XATTR_CREATE.
        StaleFile: as `node`.
    """
    if not 1 <= len(name) <= xattrs.NAME_BYTES_MAX:
        raise errors.FileFailed(f"the name of an attribute with {len(name)} bytes", errno=errno.ERANGE)
    if value is not None and len(value) > xattrs.BYTES_MAX:
        raise errors.FileFailed(f"an attribute of {len(value)} bytes", errno=errno.E2BIG)
    if tree.in_place:  # who else sets one finishes first, so that there is one or none
        yield Query(LOCK_INODES, tree.store_id, [ino])
    found = yield from node(tree, ino)
    stored, there = xattrs.stored_name(name), dict(found.xattrs or {})
    if stored in there and value is not None and flags & XATTR_CREATE:
        raise errors.FileExists(f"inode {ino} has an attribute {name!r}")
    if stored not in there and (value is None or flags & XATTR_REPLACE):
        raise errors.FileFailed(f"inode {ino} has no attribute {name!r}", errno=errno.ENODATA)
    encoded = None if value is None else xattrs.stored_value(value)
    if encoded is not None:
        there[stored] = encoded
        if max(xattrs.bytes_of(there)) > xattrs.BYTES_MAX:
            raise errors.FileFailed(f"the attributes of inode {ino} would be too many", errno=errno.ENOSPC)
    yield from _set(tree, found, {"xattrs": {stored: encoded}, "ctime_ns": time.time_ns()})
