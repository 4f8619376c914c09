"""Volume: a file system in the database, shared by every client, each change of which is one commit.

The engine is in `pgstore.files`; here are its paths, forms and errors. A direct call is a commit of its own. In a transaction,
changes are seen by the transaction alone until it commits, and then become one version of the Volume.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

from pgstore import errors
from pgstore.core.operation import BeforeCommit, Call, Fetch, Op, Query, atomic, iterated, operation
from pgstore.files import download, upload
from pgstore.files.changes import ChangeSet
from pgstore.files.contents import StoreGone
from pgstore.files.local import Folder, Source
from pgstore.files.paths import Names, join, split, split_file
from pgstore.files.progress import Progress
from pgstore.files.tree import CREATE_FILE_SYSTEM, CREATE_ROOT, Listing, Tree, file_entry
from pgstore.handle import Store
from pgstore.types import FileEntry, FileEntryType, VolumeInfo

__all__ = ["FileEntry", "FileEntryType", "Volume"]  # the types as well, as in Modal's module

T = TypeVar("T")


class Volume(Store):
    """
    A persistent file system of any size.

    Paths start at the root; a leading slash may be left out. Writers of different files never undo each other's work, also when
    both make the same directory; of two that write one file, the later commit wins.

    >>> volume = Volume.from_name("models", create_if_missing=True)
    >>> volume.put_file("weights.bin", "/v1/weights.bin")
    >>> [entry.path for entry in volume.listdir("v1")]
    ['v1/weights.bin']
    """

    _kind: ClassVar = "volume"
    _noun: ClassVar = "Volume"
    _id_prefix: ClassVar = "vo"
    _name_space: ClassVar = "volume"

    def _created(self, store_id: int) -> Op[None]:
        yield Query(CREATE_FILE_SYSTEM, store_id)
        yield Query(CREATE_ROOT, store_id)

    @operation
    def info(self) -> Op[VolumeInfo]:
        """Return the facts about this Volume that do not change."""
        facts = yield from self._described()
        return VolumeInfo(self._name, facts.created_at, facts.created_by)

    # ------------------------------------------------------------------------------------------------------ uploading

    @operation
    def put_file(
        self, local_file: str | Path | BinaryIO, remote_path: str, *, progress: bool | None = None
    ) -> Op[None]:
        """
        Upload a local file, in place of a file that is there; directories on the way are made.

        The file gets the local one's permissions and time of modification (an open file's: 0o644 and now). What is read is what is
        stored, also of a file that changes its size meanwhile.

        Args:
            local_file: a path, or a file open for reading bytes, which is read from where it stands to its end.
            progress: show a progress bar.

        Raises:
            FileNotFoundError: there is no such local file.
            PermissionError: it may not be read (`FileUnreadable`), or the role may not write (`AccessDenied`).
            IsADirectoryError: *local_file*, or what is at *remote_path*, is a directory.
            NotADirectoryError: a part of *remote_path* that must be a directory is a file.
            ConflictError: another transaction made a directory of this name, or removed the one the file was put into.
        """
        names = split_file(remote_path)
        source: Source = yield Call(partial(Source.open, local_file))
        shown = Progress(progress, join(names))
        shown.total(source.size_hint)
        try:
            yield from self._change(lambda tree: upload.put_file(tree, source, names, shown))
        finally:
            shown.close()
            source.close()

    @operation
    def put_directory(
        self,
        local_path: str | Path,
        remote_path: str,
        *,
        pattern: str | None = None,
        progress: bool | None = None,
    ) -> Op[None]:
        """
        Upload the files of a local folder and of all folders in it; all of them or, after an error, none.

        Regular files and links to them; links to folders and empty folders are left out. What is in the Volume and not in the
        folder stays; files of the same path are replaced.

        Args:
            pattern: upload only files whose name, or path below *local_path*, matches it: `*.csv`, `2024/*` (see `fnmatch`; `*`
                also matches slashes).
            progress: show a progress bar.

        Raises:
            FileNotFoundError: there is no such local folder, or a file vanished meanwhile.
            NotADirectoryError: *local_path* is a file, or a part of the path of a file in the Volume is one.
            IsADirectoryError: a directory in the Volume has the path of a local file.
            PermissionError: something may not be read (`FileUnreadable`), or the role may not write (`AccessDenied`).
            ConflictError: see `put_file`.
        """
        names = split(remote_path)
        folder: Folder = yield Call(partial(Folder, local_path, pattern))
        shown = Progress(progress, join(names) or "/")
        try:
            yield from self._change(lambda tree: upload.put_directory(tree, folder, names, shown))
        finally:
            shown.close()

    # ---------------------------------------------------------------------------------------------------- downloading

    @operation
    def get_file(self, remote_path: str, local_file: str | Path | BinaryIO) -> Op[None]:
        """
        Download a file.

        A local file appears under its name when it is complete; an existing one is replaced then and keeps its permissions. Into
        a file object the bytes are written as they come.

        Raises:
            FileNotFoundError: there is no such file, or no folder for *local_file*.
            IsADirectoryError: either is a directory.
            PermissionError: *local_file* may not be written.
        """
        tree = yield from self._tree()
        yield from self._reading(tree, download.get_file(tree, split(remote_path), local_file))

    @iterated
    def read_file(self, path: str) -> Fetch[bytes]:
        """
        Iterate over the bytes of a file, in pieces of at most a few MiB, for `for` and `async for`.

        The file is read as it was when iterating began, also if it is replaced meanwhile.

        Raises:
            FileNotFoundError: there is no such file.
            IsADirectoryError: it is a directory.
        """
        names = split(path)
        reader: download.Reader | None = None

        def fetch() -> Op[list[bytes] | None]:
            nonlocal reader
            if reader is None:
                tree = yield from self._tree()
                node = yield from self._reading(tree, download.open_file(tree, names))
                reader = download.Reader(tree.store_id, node)
            return (yield from reader.next())

        return fetch

    # -------------------------------------------------------------------------------------------------------- looking

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
                node = (yield from self._reading(tree, tree.need(names))).node
                assert node is not None
                if not node.is_directory:
                    single = [file_entry(b"/".join(names), node)]
                    return single
                listing = Listing(tree, node.ino, names, recursive=recursive)
            return (yield from listing.page())

        return fetch

    @operation
    def exists(self, path: str) -> Op[bool]:
        """Return whether there is a file or directory at *path*."""
        names = split(path)
        tree = yield from self._tree()
        if (yield from tree.walk(names)).node is not None:
            return True
        yield from self._check_exists(tree.store_id)
        return False

    # -------------------------------------------------------------------------------------------------------- removing

    @operation
    def remove_file(self, path: str, recursive: bool = False) -> Op[None]:
        """
        Remove a file or, with *recursive*, a directory with all below it.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            IsADirectoryError: it is a directory, and *recursive* is false.
        """
        names = split(path)
        if not names:
            raise errors.InvalidError("the root of a Volume cannot be removed; remove what is in it")
        yield from self._change(lambda tree: _remove(tree, names, recursive))

    # ------------------------------------------------------------------------------------------------- for Modal's sake

    @operation
    def reload(self) -> Op[None]:
        """Do nothing: direct calls always see the newest committed state. For programs written for mounted Volumes."""
        yield from self._locate()

    @operation
    def commit(self) -> Op[None]:
        """Do nothing: each direct call is committed when it returns, those in a transaction with it. See `reload`."""
        yield from self._locate()

    # ------------------------------------------------------------------------------------------------------ transactions

    def _tree(self) -> Op[Tree]:
        """The tree to read, as the current transaction sees it."""
        store_id = yield from self._locate()
        enrolment = yield from self._enrol(store_id)
        return Tree(store_id, None if enrolment is None else enrolment.participant)

    def _enrol(self, store_id: int) -> Op[Any]:
        return (yield BeforeCommit((ChangeSet, store_id), partial(ChangeSet, store_id, self._missing)))

    def _reading(self, tree: Tree, body: Op[T]) -> Op[T]:
        """Run *body*; where it misses something, find out whether it is the whole Volume."""
        try:
            return (yield from body)
        except errors.FileMissing:
            yield from self._check_exists(tree.store_id)
            raise

    def _change(self, body: Callable[[Tree], Op[None]]) -> Op[None]:
        """Run *body* in a transaction of its own, or as a part of the current one that happens or does not."""
        store_id = yield from self._locate()

        def change() -> Op[None]:
            enrolment = yield from self._enrol(store_id)
            changes: ChangeSet = enrolment.participant
            yield from self._reading(Tree(store_id, changes), body(Tree(store_id, changes)))
            if enrolment.immediate or changes.full:
                yield from changes.flush()

        try:
            yield from atomic(change())
        except StoreGone:
            raise self._missing() from None


def _remove(tree: Tree, names: Names, recursive: bool) -> Op[None]:
    walk = yield from tree.need(names)
    assert walk.node is not None
    if walk.node.is_directory:
        if not recursive:
            raise errors.IsADirectory(
                f"{join(names)!r} is a directory; pass recursive=True to remove it with all below it"
            )
        yield from tree.changes.forget_below(walk.node.ino)
    tree.changes.remove(walk.parent, names[-1], walk.node.kind, names[:-1])
