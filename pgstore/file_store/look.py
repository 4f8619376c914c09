"""Looking: listings, facts, search."""

from __future__ import annotations

import contextlib

from pgstore import errors
from pgstore.core.operation import Fetch, Op, iterated, operation
from pgstore.file_store.base import FileStoreBase
from pgstore.files.facts import FactsListing
from pgstore.files.find import Globbing, Walking
from pgstore.files.listing import Listing, facts_of, file_entry, file_stat
from pgstore.files.paths import join, split
from pgstore.types import FileEntry, FileStat


class Looking(FileStoreBase):
    """listdir, iterdir, exists, stat, walk, glob, readlink, getxattr, listxattr."""

    @operation
    def listdir(self, path: str, *, recursive: bool = False) -> Op[list[FileEntry]]:
        """
        Return what a directory holds, by name; with *recursive*, all below it. Of a file: its own entry.

        Raises:
            FileNotFoundError: there is nothing at *path*.
        """
        entries: list[FileEntry] = []
        fetch = self._pages(path, recursive)
        while (page := (yield from fetch())) is not None:
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
        return self._pages(path, recursive)

    def _pages(self, path: str, recursive: bool) -> Fetch[FileEntry]:
        names = split(path)
        if names and names[-1] in (b"*", b"**"):
            raise errors.InvalidError(f"path {path!r} ends in a wildcard; leave it out, or pass recursive=True")
        listing: Listing | None = None
        single: list[FileEntry] | None = None

        def fetch() -> Op[list[FileEntry] | None]:
            nonlocal listing, single
            if single is not None:
                return None
            if listing is None:
                tree = yield from self._tree()
                walk = yield from self._reading(tree, tree.need(names))
                if not walk.found.is_directory:
                    single = [file_entry(b"/".join(names), walk.found)]
                    return single
                listing = Listing(tree, [walk.found.ino], names, recursive=recursive)
            return (yield from listing.page())

        return fetch

    @iterated
    def _iterstat(self, path: str, *, recursive: bool = False) -> Fetch[FileStat]:
        """`iterdir` with all that `stat(…, follow_symlinks=False)` knows; their paths begin with *path*."""
        names = split(path)
        listing: FactsListing | None = None
        is_file = False

        def fetch() -> Op[list[FileStat] | None]:
            nonlocal listing, is_file
            if is_file:
                return None
            if listing is None:
                tree = yield from self._tree()
                walk = yield from self._reading(tree, tree.need(names))
                if not walk.found.is_directory:
                    is_file = True
                    walk = yield from self._reading(tree, tree.need(names, follow=False))
                    return [facts_of(b"/".join(names), walk.found, walk.version)]
                listing = FactsListing(tree, walk, names, recursive=recursive)
            return (yield from listing.page())

        return fetch

    @operation
    def exists(self, path: str) -> Op[bool]:
        """Return whether there is something at *path*; a symbolic link that leads nowhere is nothing."""
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
        Return all that is known of what is at *path*.

        Raises:
            FileNotFoundError: there is nothing.
        """
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(split(path), follow=follow_symlinks))
        return file_stat(walk)

    @operation
    def readlink(self, path: str) -> Op[str]:
        """
        Return where a symbolic link leads, as it was given.

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
        names = split(path)
        walking: Walking | None = None

        def fetch() -> Op[list[tuple[str, list[str], list[str]]] | None]:
            nonlocal walking
            if walking is None:
                tree = yield from self._tree()
                walk = yield from self._reading(tree, tree.need(names))
                if not walk.found.is_directory:
                    raise errors.NotADirectory(f"{join(names)!r} is not a directory", join(names))
                walking = Walking(tree, walk.found.ino, names)
            return (yield from walking.page())

        return fetch

    @iterated
    def glob(self, pattern: str) -> Fetch[FileEntry]:
        """
        Iterate over what matches *pattern*, in no order: `data/*.csv`, `**/*.py`.

        `*`, `?` and `[…]` match within a name, case counts, and a name that starts with a dot is like others; `**` as a whole name
        matches any number of directories, also none. A symbolic link is not followed by `**`.
        """
        names = split(pattern)
        globbing: Globbing | None = None

        def fetch() -> Op[list[FileEntry] | None]:
            nonlocal globbing
            if globbing is None:
                tree = yield from self._tree()
                yield from self._check_exists(tree.store_id)
                globbing = Globbing(tree, names)
            return (yield from globbing.page())

        return fetch

    @operation
    def listxattr(self, path: str) -> Op[list[str]]:
        """Return the names of the extended attributes of what is at *path*."""
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(split(path)))
        return sorted(walk.found.xattrs or {})

    @operation
    def getxattr(self, path: str, name: str) -> Op[bytes]:
        """
        Return an extended attribute.

        Raises:
            MissingKeyError: there is none of this name.
        """
        import base64

        names = split(path)
        tree = yield from self._tree()
        walk = yield from self._reading(tree, tree.need(names))
        value = (walk.found.xattrs or {}).get(name)
        if value is None:
            raise errors.MissingKeyError(name, f"{join(names)!r} has no extended attribute {name!r}")
        return base64.b64decode(value)
