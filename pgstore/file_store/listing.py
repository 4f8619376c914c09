"""Listings, attributes and search: all that reads a tree, but not the bytes of files."""

from __future__ import annotations

import contextlib
from functools import partial

from pgstore import errors
from pgstore.core.operation import Fetch, Op, iterated, operation
from pgstore.file_store.base import FileStoreBase, Pages, paged
from pgstore.fs.paths import Names, join, split
from pgstore.fs.tree import xattrs
from pgstore.fs.tree.listing import Listing, OnePage, file_entry, file_stat, stat_of
from pgstore.fs.tree.search import Glob, TreeWalk
from pgstore.fs.tree.stats import StatListing
from pgstore.types import FileEntry, FileStat


class ListingFiles(FileStoreBase):
    """listdir, iterdir, exists, stat, walk, glob, readlink, getxattr, listxattr."""

    @operation
    def listdir(self, path: str, *, recursive: bool = False) -> Op[list[FileEntry]]:
        """
        Return what a directory holds, by name; with *recursive*, all below it. Of a file: its own entry.

        Raises:
            FileNotFoundError: there is nothing at *path*.
        """
        listing = yield from self._listing(_listed(path), recursive=recursive)
        entries: list[FileEntry] = []
        while (page := (yield from listing.page())) is not None:
            entries += page
        if recursive:
            entries.sort(key=lambda entry: entry.path.split("/"))
        return entries

    @iterated
    def iterdir(self, path: str, *, recursive: bool = False) -> Fetch[FileEntry]:
        """
        Iterate over what `listdir` returns, for `for` and `async for`, a page at a time.

        With *recursive* a directory comes before what is in it, and otherwise in no order. Changes made meanwhile may be missed.
        """
        return paged(partial(self._listing, _listed(path), recursive=recursive))

    def _listing(self, names: Names, *, recursive: bool) -> Op[Pages[FileEntry]]:
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(names))
        if not walk.found.is_directory:
            return OnePage([file_entry(b"/".join(names), walk.found)])
        return Listing(tree, [walk.found.ino], names, recursive=recursive)

    @iterated
    def _iterstat(self, path: str, *, recursive: bool = False) -> Fetch[FileStat]:
        """`iterdir` with all that `stat(…, follow_symlinks=False)` returns. The paths begin with *path*."""
        return paged(partial(self._stat_listing, split(path), recursive=recursive))

    def _stat_listing(self, names: Names, *, recursive: bool) -> Op[Pages[FileStat]]:
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(names))
        if not walk.found.is_directory:
            walk = yield from self._reading(tree, tree.need(names, follow=False))
            return OnePage([stat_of(b"/".join(names), walk.found, tree.shown_version(walk.version))])
        return StatListing(tree, walk, names, recursive=recursive)

    @operation
    def exists(self, path: str) -> Op[bool]:
        """Return whether something is at *path*. A symbolic link that leads nowhere does not count."""
        names = split(path)
        tree = yield from self._tree()
        with contextlib.suppress(errors.LinkLoop):
            walk = yield from tree.walk(names)
            if walk.node is not None and (walk.node.is_directory or not walk.needs_directory):
                return True
        yield from self._check_exists(tree.store_id)
        return False

    @operation
    def stat(self, path: str, *, follow_symlinks: bool = True) -> Op[FileStat]:
        """
        Return all attributes of what is at *path*.

        Raises:
            FileNotFoundError: there is nothing.
        """
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(split(path), follow=follow_symlinks))
        return file_stat(tree, walk)

    @operation
    def readlink(self, path: str) -> Op[str]:
        """
        Return the target of a symbolic link, as it was given.

        Raises:
            InvalidError: it is no symbolic link.
        """
        names = split(path)
        tree = yield from self._tree()
        node = (yield from self._reading(tree, tree.need(names, follow=False))).found
        if node.link_target is None:
            raise errors.InvalidError(f"{join(names)!r} is no symbolic link")
        return join((node.link_target,))

    @iterated
    def walk(self, path: str = "/") -> Fetch[tuple[str, list[str], list[str]]]:
        """
        Iterate over a directory and all below it, as `os.walk` does: (path, names of directories, names of all else).

        A directory comes before what is in it; names are sorted. Symbolic links are not followed, and count as files. Some
        directories are read ahead of their turn, so changes made meanwhile may be missed.
        """
        return paged(partial(self._tree_walk, split(path)))

    def _tree_walk(self, names: Names) -> Op[TreeWalk]:
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(names))
        if not walk.found.is_directory:
            raise errors.NotADirectory(f"{join(names)!r} is not a directory", join(names))
        return TreeWalk(tree, walk.found.ino, names)

    @iterated
    def glob(self, pattern: str) -> Fetch[FileEntry]:
        """
        Iterate over what matches *pattern*, in no order: `data/*.csv`, `**/*.py`.

        `*`, `?` and `[…]` match within a name, case counts, and a name that starts with a dot is like others; `**` as a whole name
        matches any number of directories, also none. A symbolic link is not followed by `**`.
        """
        return paged(partial(self._glob, split(pattern)))

    def _glob(self, pattern: Names) -> Op[Glob]:
        tree = yield from self._tree()
        yield from self._check_exists(tree.store_id)
        return Glob(tree, pattern)

    @operation
    def listxattr(self, path: str) -> Op[list[str]]:
        """Return the names of the extended attributes of what is at *path*."""
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(split(path)))
        return sorted(xattrs.shown_name(name) for name in walk.found.xattrs or {})

    @operation
    def getxattr(self, path: str, name: str) -> Op[bytes]:
        """
        Return an extended attribute.

        Raises:
            MissingKeyError: there is none of this name.
        """
        names = split(path)
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(names))
        value = (walk.found.xattrs or {}).get(xattrs.asked_name(name) or "")
        if value is None:
            raise errors.MissingKeyError(name, f"{join(names)!r} has no extended attribute {name!r}")
        return xattrs.value_of(value)


def _listed(path: str) -> Names:
    names = split(path)
    if names and names[-1] in (b"*", b"**"):
        raise errors.InvalidError(f"path {path!r} ends in a wildcard; leave it out, or pass recursive=True")
    return names
