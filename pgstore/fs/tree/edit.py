"""Edits of a tree: making directories and links, removing, moving, copying, changing attributes.

Each edit resolves its paths, checks that it is possible in the tree as the transaction sees it, and writes, by `nodes` where no
directories are made: new inodes at once, names into the transaction's change set. The commit checks again what others have changed
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pgstore import errors
from pgstore.core.operation import Op
from pgstore.fs.commit.change_set import conflict
from pgstore.fs.model import DIRECTORY, DIRECTORY_MODE, Entry, Node
from pgstore.fs.paths import DirectoryNames, Names, join
from pgstore.fs.tree import nodes
from pgstore.fs.tree.build import Builder, Directory, is_directory
from pgstore.fs.tree.listing import Listing
from pgstore.fs.tree.nodes import Place
from pgstore.fs.tree.resolve import Tree, Walk, check_file, check_kind

TARGET_BYTES_MAX: Final = 4095  # of a symbolic link; PATH_MAX of Linux


def make_directory(
    tree: Tree, names: Names, mode: int = DIRECTORY_MODE, *, parents: bool = True, exist_ok: bool = False
) -> Op[None]:
    walk = yield from tree.target(names)
    if walk.node is not None:
        if exist_ok and walk.node.is_directory:
            return
        raise errors.FileExists(f"{join(names) or '/'!r} exists", join(names) or "/")
    if not parents and len(walk.reached) < len(walk.names):
        missing = join(walk.names[: len(walk.reached)])
        raise errors.FileMissing(f"no such directory: {missing!r}; pass parents=True", missing)
    builder = Builder(tree)
    parent = yield from builder.directory(walk.names[:-1], walk)
    yield from builder.reserve(1)
    builder.make_directory(parent, walk.names[-1], mode, exclusive=not exist_ok)
    yield from builder.send()


def make_node(tree: Tree, names: Names, make: Callable[[Builder, Directory, bytes], None]) -> Op[None]:
    """Have *make* called with the directory and the last name of *names*, at which nothing may be."""
    walk = yield from tree.target(names, follow=False)
    _check_free(walk)
    builder = Builder(tree)
    parent = yield from builder.directory(walk.names[:-1], walk)
    yield from builder.reserve(1)
    make(builder, parent, walk.names[-1])
    yield from builder.send()


def make_symbolic_link(tree: Tree, target: bytes, names: Names) -> Op[None]:
    if not 1 <= len(target) <= TARGET_BYTES_MAX or b"\0" in target:
        raise errors.InvalidError(
            f"the target of a link must have 1 to {TARGET_BYTES_MAX} bytes without NUL: {target!r}"
        )
    yield from make_node(tree, names, lambda builder, parent, name: builder.symbolic_link(parent, name, target))


def make_link(tree: Tree, names: Names, new: Names) -> Op[None]:
    """Give a file another name. A symbolic link is not followed, but gets the name itself."""
    source = yield from tree.need(names, follow=False)
    if source.found.is_directory:
        raise is_directory(names)
    walk = yield from tree.target(new, follow=False)
    _check_free(walk)
    builder = Builder(tree)
    parent = yield from builder.directory(walk.names[:-1], walk)
    yield from builder.send()
    tree.changes.link(source.parent, source.names[-1], source.found.ino, source.names[:-1])
    tree.changes.put(parent.ino, walk.names[-1], source.entry, parent.path, exclusive=True, was_free=True)


def _check_free(walk: Walk) -> None:
    if walk.node is not None or not walk.names:
        raise errors.FileExists(f"{join(walk.names) or '/'!r} exists", join(walk.names) or "/")


# ---------------------------------------------------------------------------------------------------------- removing


def remove(tree: Tree, names: Names, *, recursive: bool) -> Op[None]:
    """Remove a file or link, or with *recursive* a directory with all below it."""
    walk = yield from _removable(tree, names)
    if walk.found.is_directory:
        if not recursive:
            raise errors.IsADirectory(
                f"{join(names)!r} is a directory; pass recursive=True to remove it with all below it", join(names)
            )
        yield from tree.changes.forget_below(walk.found.ino)
    nodes.remove_at(tree, _place(walk), "any")


def remove_directory(tree: Tree, names: Names) -> Op[None]:
    """Remove an empty directory."""
    where = _place((yield from _removable(tree, names)))
    if not where.found.is_directory:
        raise errors.NotADirectory(f"{join(names)!r} is not a directory", join(names))
    yield from nodes.check_empty(tree, where)
    nodes.remove_at(tree, where, "empty")


def _place(walk: Walk) -> Place:
    """The place of something that exists."""
    return Place(walk.parent, walk.names[-1], walk.found, walk.names[:-1])


def _removable(tree: Tree, names: Names) -> Op[Walk]:
    if not names:
        raise errors.InvalidError("the root cannot be removed or moved; name what is in it")
    # A symbolic link is not followed, also where a slash says that it should be: what it leads to would be removed.
    walk = yield from tree.need(tuple(names), follow=False)
    if isinstance(names, DirectoryNames):
        check_kind(walk._replace(needs_directory=True))
    return walk


# ------------------------------------------------------------------------------------------------------------ moving


def move(tree: Tree, names: Names, new: Names, *, replace: bool = True) -> Op[None]:
    """
    Rename, as rename(2) does: over a file that is there, or an empty directory.

    Source of the rules: https://pubs.opengroup.org/onlinepubs/9799919799/functions/rename.html
    """
    source = yield from _removable(tree, names)
    target = yield from tree.target(tuple(new), follow=False)
    if isinstance(new, DirectoryNames):
        target = target._replace(needs_directory=True)
        check_kind(target)
    node, there = source.found, target.node
    if not node.is_directory:
        check_file(target)
    if there is not None and there.ino == node.ino:
        return
    if not target.names:
        raise errors.FileExists("the root exists", "/")
    if node.is_directory and any(ino == node.ino for ino, _ in target.reached[: len(target.names)]):
        raise errors.InvalidError(f"directory {join(names)!r} cannot be moved into itself: {join(new)!r}")
    if there is not None:
        yield from nodes.rename_at(tree, _place(source), _place(target), replace=replace)
        return
    builder = Builder(tree)
    parent = yield from builder.directory(target.names[:-1], target)
    yield from builder.send()
    free = Place(parent.ino, target.names[-1], None, parent.path)
    yield from nodes.rename_at(tree, _place(source), free, replace=replace)


# ----------------------------------------------------------------------------------------------------------- copying


def copy(tree: Tree, sources: list[Names], target: Names, *, recursive: bool) -> Op[None]:
    """
    Copy files as cp(1) does: into *target* if that is a directory, else one file to this name. Copies share their bytes.

    Attributes are copied, times are not.
    """
    there = yield from tree.target(target)
    into = there.node is not None and there.node.is_directory
    if not into and len(sources) != 1:
        raise errors.NotADirectory(
            f"{join(target)!r} is not a directory, so only one file can be copied there", join(target)
        )
    builder = Builder(tree, inodes_at_once=100)
    for names in sources:
        source = yield from tree.need(names)
        if not source.found.is_directory:
            walk = there
            if into:
                walk = yield from tree.target((*target, source.names[-1]))
            yield from _copy_file(builder, source, walk)
        elif not recursive:
            raise errors.IsADirectory(f"{join(names)!r} is a directory; pass recursive=True to copy it", join(names))
        else:
            if there.node is not None and not into:
                raise errors.NotADirectory(
                    f"{join(target)!r} is a file and cannot be replaced by a directory", join(target)
                )
            new = (*target, *source.names[-1:]) if into else target
            builder.forget_directories()  # names in what it made for one source may come again in another
            yield from _copy_tree(builder, source, new)
    yield from builder.send()


def _copy_file(builder: Builder, source: Walk, target: Walk) -> Op[None]:
    there = target.node
    check_file(target)
    if there is not None:
        if there.is_directory:
            raise is_directory(target.names)
        if there.ino == source.found.ino:
            raise errors.InvalidError(f"{join(source.names)!r} and {join(target.names)!r} are the same file")
    parent = yield from builder.directory(target.names[:-1], target)
    yield from builder.reserve(1)
    builder.copy(parent, target.names[-1], source.entry, was_free=there is None)


def _copy_tree(builder: Builder, source: Walk, new: Names) -> Op[None]:
    tree = builder.tree
    target = yield from tree.target(new)
    if any(ino == source.found.ino for ino, _ in target.reached):
        raise errors.InvalidError(f"directory {join(source.names)!r} cannot be copied into itself: {join(new)!r}")
    yield from builder.directory(target.names, target)
    listing = Listing(tree, [source.found.ino], recursive=True)
    while (page := (yield from listing.entries())) is not None:
        if not builder.made.isdisjoint(entry.ino for _, entry in page):  # or this would go on for ever
            raise conflict(
                f"{join(target.names)!r} was moved into {join(source.names)!r} while that was being copied there"
            )
        yield from builder.reserve(sum(entry.kind != DIRECTORY for _, entry in page))
        for above, entries in _by_directory(page):
            parent = yield from builder.directory((*target.names, *above))
            files = {name: entry for name, entry in entries if entry.kind != DIRECTORY}
            yield from builder.directories(parent, [name for name, entry in entries if entry.kind == DIRECTORY])
            yield from builder.check_not_directories(parent, list(files))
            for name, entry in files.items():
                builder.copy(parent, name, entry)
        yield from builder.send()
        if tree.changes.full:
            yield from tree.changes.flush()
            builder.forget_directories()


def _by_directory(page: Iterable[tuple[bytes, Entry]]) -> Iterable[tuple[Names, list[tuple[bytes, Entry]]]]:
    groups: dict[Names, list[tuple[bytes, Entry]]] = {}
    for path, entry in page:
        *above, name = path.split(b"/")
        groups.setdefault(tuple(above), []).append((name, entry))
    return groups.items()


# -------------------------------------------------------------------------------------------------------- attributes


def set_attributes(
    tree: Tree, names: Names, attributes: Callable[[Node], Mapping[str, Any]], *, follow: bool
) -> Op[None]:
    """Change columns of an inode. *attributes*: called with the inode, returns the new values."""
    walk = yield from tree.need(names, follow=follow)
    node = walk.found
    yield from tree.changes.set_attributes(node.ino, node.kind, attributes(node), walk.names)
