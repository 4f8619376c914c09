"""Transfers: uploads, downloads, reading."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from pgstore import errors
from pgstore.buckets.reading import Pieces, Reader
from pgstore.buckets.tree import Tree
from pgstore.cloud_bucket_mount import download, upload
from pgstore.cloud_bucket_mount.base import BucketFiles, file_path_of, path_of
from pgstore.cloud_bucket_mount.listing import need
from pgstore.core.checks import check_int
from pgstore.core.operation import Call, Fetch, Op, iterated, operation
from pgstore.fs.transfer.local import Folder, LocalFolder, Source, Target
from pgstore.fs.transfer.progress import Progress
from pgstore.fs.transfer.whole import WholeFiles

_AT_ONCE: Final = (
    2  # pieces of about 1 MiB that `read_file` fetches in one go; memory of more is cold when it is used again
)
_MODE_MAX: Final = 0o7777


class TransferringObjects(BucketFiles, WholeFiles):
    """put_file, put_directory, get_file, get_directory, read_file, read_file_into_fileobj; and whole files in memory."""

    # ------------------------------------------------------------------------------------------------------ uploading

    @operation
    def put_file(
        self,
        local_file: str | Path | BinaryIO,
        remote_path: str,
        *,
        progress: bool | None = None,
        mode: int | None = None,
        if_version: int | None = None,
    ) -> Op[None]:
        """
        Upload a local file, in place of a file that is there. It appears when all of it has arrived.

        Args:
            local_file: a path, or a file open for reading bytes, which is read from where it stands to its end.
            progress: show a bar, on a terminal (standard error) or in a notebook.
            mode: forgotten: objects have no permissions.
            if_version: 0: only if there is nothing. Objects have no other versions.

        Raises:
            FileNotFoundError: there is no such local file.
            PermissionError: it may not be read (`FileUnreadable`); or, with errno EROFS, nothing may be written.
            IsADirectoryError: *local_file*, or what is at *remote_path*, is a directory.
            FileExistsError: *if_version* is 0, and there is something.
        """
        path = file_path_of(remote_path)
        if mode is not None:
            check_int(mode, "mode", 0, _MODE_MAX, also="None")
        if if_version not in (None, 0):
            raise errors.InvalidError(
                f"if_version is {if_version!r}: objects of a bucket have no versions but 0, for none"
            )
        self._check_writable(path)
        yield from self._put(local_file, path, Progress(progress, path), exclusive=if_version == 0)

    def _put(
        self, local_file: str | Path | BinaryIO, path: str, shown: Progress, *, exclusive: bool = False
    ) -> Op[None]:
        source: Source = yield Call(partial(Source.open, local_file))
        shown.total(source.size_hint)
        try:
            writer = yield from self._call(Tree.create, path, exclusive=exclusive)
            try:
                while count := (yield Call(partial(upload.copy_part, source, writer))):
                    shown.bytes(count)
                yield Call(writer.close)
            except GeneratorExit:
                raise  # nobody carries anything out any more; the writer gives up when it is garbage
            except BaseException:
                yield Call(writer.abort)
                raise
            shown.files(1)
        finally:
            shown.close()
            source.close()

    def _write_whole(self, path: str, data: bytes | bytearray | memoryview) -> Op[None]:
        names = file_path_of(path)
        self._check_writable(names)
        yield from self._put(io.BytesIO(bytes(data)), names, Progress())

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
        Upload the files of a local folder and of all folders in it, several at a time.

        Regular files and links to them; links to folders and empty folders are left out. What is in the bucket and not in the
        folder stays; files of the same path are replaced. Each appears when all of it has arrived; after an error, or when it is
        cancelled, those that had appeared stay.

        Args:
            pattern: upload only files whose name, or path below *local_path*, matches it: `*.csv`, `2024/*` (see `fnmatch`; `*`
                also matches slashes).
            progress: show a bar, on a terminal (standard error) or in a notebook.

        Raises:
            FileNotFoundError: there is no such local folder, or a file vanished meanwhile.
            NotADirectoryError: *local_path* is a file.
            IsADirectoryError: a directory in the bucket has the path of a local file.
            PermissionError: something may not be read (`FileUnreadable`); or, with errno EROFS, nothing may be written.
        """
        path = path_of(remote_path)
        self._check_writable(path)
        folder: Folder = yield Call(partial(Folder, local_path, pattern))
        shown = Progress(progress, path or "/")
        try:
            while batch := (yield Call(folder.batch)):
                files = iter(batch)
                while some := [*islice(files, upload.FILES_AT_ONCE)]:
                    for count in (yield from self._call(upload.put_files, path=path, folder=folder, files=some)):
                        shown.bytes(count)
                        shown.files(1)
        finally:
            shown.close()

    # ---------------------------------------------------------------------------------------------------- downloading

    @operation
    def get_file(
        self,
        remote_path: str,
        local_file: str | Path | BinaryIO,
        *,
        progress: bool | None = None,
        trusted: bool = False,
    ) -> Op[None]:
        """
        Download a file.

        A local file appears under its name when it is complete; an existing one is replaced then and keeps its permissions. Into
        a file object the bytes are written as they come.

        Args:
            progress: show a bar, on a terminal (standard error) or in a notebook.
            trusted: as of a Volume; objects have no permissions that could be dangerous.

        Raises:
            FileNotFoundError: there is no such file, or no folder for *local_file*.
            IsADirectoryError: either is a directory.
            PermissionError: *local_file* may not be written.
            StaleFile: the object was replaced meanwhile; nothing was downloaded.
        """
        shown = Progress(progress, str(remote_path))
        try:
            reader = yield from self._open_reader(remote_path)
            yield from download.to_local(reader, partial(Target, local_file, download.FILE_MODE), shown)
        finally:
            shown.close()

    @operation
    def get_directory(
        self,
        remote_path: str,
        local_path: str | Path,
        *,
        pattern: str | None = None,
        progress: bool | None = None,
        trusted: bool = False,
    ) -> Op[None]:
        """
        Download the files of a directory and of all directories in it, below a local folder, which is made.

        Small ones are fetched several at a time. Each file appears when it is complete; those that were there before an error stay.

        Args:
            pattern: as in `put_directory`.
            progress: show a bar, on a terminal (standard error) or in a notebook.
            trusted: as of a Volume; objects have no permissions that could be dangerous.

        Raises:
            FileNotFoundError: there is no such directory.
            NotADirectoryError: *remote_path*, or what must become a local folder, is a file.
            PermissionError: something local may not be written.
            StaleFile: an object was replaced while it was read.
        """
        path = path_of(remote_path)
        folder: LocalFolder = yield Call(partial(LocalFolder, local_path, pattern, trusted=trusted))
        shown = Progress(progress, path or "/")
        try:
            listing = yield from self._call(Tree.entries, path, recursive=True)
            while some := (yield Call(lambda: [*islice(listing, download.FILES_AT_ONCE)])):
                yield from self._call(download.small_files, path=path, entries=some, folder=folder, progress=shown)
                for entry in some:
                    if download.is_large(entry) and folder.wanted(download.below(path, entry)):
                        reader = yield from self._call(Tree.open, entry.path)
                        target = partial(folder.target, download.below(path, entry), download.FILE_MODE)
                        yield from download.to_local(reader, target, shown)
        finally:
            shown.close()

    # -------------------------------------------------------------------------------------------------------- reading

    @iterated
    def read_file(self, path: str) -> Fetch[bytes]:
        """
        Iterate over the bytes of a file, in pieces of at most a few MiB, for `for` and `async for`.

        Of one state of the object: that which it has when iterating begins.

        Raises:
            FileNotFoundError: there is no such file.
            IsADirectoryError: it is a directory.
            StaleFile: the object was replaced meanwhile.
        """
        path_of(path)
        pieces: Pieces | None = None

        def fetch() -> Op[list[bytes] | None]:
            nonlocal pieces
            if pieces is None:
                pieces = (yield from self._open_reader(path)).pieces()
            return (yield Call(partial(download.some_bytes, pieces, _AT_ONCE)))  # type: ignore[no-any-return]

        return fetch

    def _read_whole(self, path: str) -> Op[bytes]:
        whole = io.BytesIO()
        reader = yield from self._open_reader(path)
        yield from download.to_local(reader, partial(Target, whole, download.FILE_MODE), Progress())
        return whole.getvalue()

    @operation
    def read_file_into_fileobj(
        self, path: str, fileobj: BinaryIO, progress_cb: Callable[..., Any] | None = None
    ) -> Op[int]:
        """
        Write the bytes of a file into *fileobj*, and return how many they were.

        Args:
            progress_cb: called as `progress_cb(advance=n)` for each n bytes written, after `progress_cb(size=total)`.
        """
        reader = yield from self._open_reader(path)
        yield from download.to_local(reader, partial(Target, fileobj, download.FILE_MODE), Progress(tell=progress_cb))
        return reader.size_bytes

    def _open_reader(self, path: str) -> Op[Reader]:
        def open_reader(tree: Tree) -> Reader:
            names = path_of(path)
            if names != str(path).strip("/"):  # may end in a slash
                need(tree, path)
            return tree.open(names)

        return (yield from self._call(open_reader))
