"""Listings, attributes and search: all that asks for keys, but not for the bytes of objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from pgstore import errors
from pgstore.buckets.keys import name_of
from pgstore.buckets.known import Entry
from pgstore.buckets.tree import Tree
from pgstore.cloud_bucket_mount.base import BucketFiles, needs_directory, path_of
from pgstore.cloud_bucket_mount.search import glob, walk
from pgstore.core.operation import Fetch, Op, iterated, operation
from pgstore.types import FileEntry, FileEntryType, FileStat

T = TypeVar("T")
PAGE_ENTRIES: Final = 1000
FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755


class ListingObjects(BucketFiles):
    """listdir, iterdir, exists, stat, walk, glob."""

    @operation
    def listdir(self, path: str, *, recursive: bool = False) -> Op[list[FileEntry]]:
        """
        Return what a directory holds, by name; with *recursive*, all below it. Of a file: its own entry.

        Of a directory, `mtime` is 0 unless an object marks it. Keys that are no paths are left out, and one warning, `KeysLeftOut`,
        says how many.

        Raises:
            FileNotFoundError: there is nothing at *path*.
        """
        _check_listed(path)
        entries = yield from self._call(lambda tree: [file_entry(entry) for entry in _entries(tree, path, recursive)])
        entries.sort(key=(lambda entry: entry.path.split("/")) if recursive else lambda entry: entry.path)
        return entries

    @iterated
    def iterdir(self, path: str, *, recursive: bool = False) -> Fetch[FileEntry]:
        """
        Iterate over what `listdir` returns, for `for` and `async for`, as the provider gives it, in little memory.

        With *recursive* a directory comes before what is in it, and otherwise in no order. Changes made meanwhile may be missed.
        """
        _check_listed(path)
        return self._pages(lambda tree: map(file_entry, _entries(tree, path, recursive)))

    @operation
    def exists(self, path: str) -> Op[bool]:
        """Return whether something is at *path*."""
        must_be_directory = needs_directory(path)
        found = yield from self._call(Tree.stat, path_of(path))
        return found is not None and (found.is_directory or not must_be_directory)

    @operation
    def stat(self, path: str, *, follow_symlinks: bool = True) -> Op[FileStat]:
        """
        Return the attributes of what is at *path*: size and time of its object, and what no bucket has as any file of this process.

        Args:
            follow_symlinks: as of a Volume; there are none.

        Raises:
            FileNotFoundError: there is nothing.
        """
        return file_stat((yield from self._call(need, path)))

    @iterated
    def walk(self, path: str = "/") -> Fetch[tuple[str, list[str], list[str]]]:
        """
        Iterate over a directory and all below it, as `os.walk` does: (path, names of directories, names of files).

        A directory comes before what is in it; names are sorted. Some directories are listed ahead of their turn, so changes made
        meanwhile may be missed.
        """
        names = path_of(path)
        return self._pages(partial(walk, path=names), at_once=1)

    @iterated
    def glob(self, pattern: str) -> Fetch[FileEntry]:
        """
        Iterate over what matches *pattern*, in no order: `data/*.csv`, `**/*.py`.

        `*`, `?` and `[…]` match within a name, case counts, and a name that starts with a dot is like others; `**` as a whole name
        matches any number of directories, also none. Only keys are asked for that begin as the pattern does.
        """
        names, directories_only = path_of(pattern), needs_directory(pattern)

        def found(tree: Tree) -> Iterator[FileEntry]:
            return map(file_entry, glob(tree, names, directories_only=directories_only))

        return self._pages(found)

    def _pages(self, begin: Callable[[Tree], Iterator[T]], at_once: int = PAGE_ENTRIES) -> Fetch[T]:
        """The values of what *begin* returns, so many at a time. It is called with the first ones."""
        source: Iterator[T] | None = None

        def take(tree: Tree) -> list[T] | None:
            nonlocal source
            if source is None:
                source = begin(tree)
            return list(islice(source, at_once)) or None

        return lambda: self._call(take)


def _check_listed(path: str) -> None:
    if name_of(path_of(path)) in ("*", "**"):
        raise errors.InvalidError(f"path {path!r} ends in a wildcard; leave it out, or pass recursive=True")


def need(tree: Tree, path: str) -> Entry:
    """What is at *path*. Raises `FileMissing`, and `NotADirectory` where a slash at its end says that it must be one."""
    found = tree.need(path_of(path))
    if needs_directory(path) and not found.is_directory:
        raise errors.NotADirectory(f"{found.path!r} in {tree.shown} is not a directory", found.path)
    return found


def _entries(tree: Tree, path: str, recursive: bool) -> Iterator[Entry]:
    try:
        yield from tree.entries(path_of(path), recursive=recursive)
    except errors.NotADirectory:
        yield need(tree, path)


def file_entry(entry: Entry) -> FileEntry:
    kind = FileEntryType.DIRECTORY if entry.is_directory else FileEntryType.FILE
    return FileEntry(entry.path, kind, entry.mtime_ns // 1_000_000_000, entry.size_bytes)


def file_stat(entry: Entry) -> FileStat:
    return FileStat(
        path=entry.path,
        type=FileEntryType.DIRECTORY if entry.is_directory else FileEntryType.FILE,
        size=entry.size_bytes,
        mode=DIRECTORY_MODE if entry.is_directory else FILE_MODE,
        uid=os.getuid(),
        gid=os.getgid(),
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.mtime_ns,
        link_count=1,
        ino=0,
        version=0,
        atime_ns=entry.mtime_ns,
        device=0,
    )
