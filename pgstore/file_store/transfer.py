"""Transfers: uploads, downloads, reading."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.core.operation import Call, Fetch, Op, StaleHandle, iterated, operation
from pgstore.file_store.base import MODE_MAX, FileStoreBase, check_number, paged
from pgstore.fs.model import StoreGone
from pgstore.fs.paths import Names, join, split, split_file
from pgstore.fs.transfer import download, upload
from pgstore.fs.transfer.local import Folder, LocalFolder, Source
from pgstore.fs.transfer.progress import Progress
from pgstore.fs.transfer.whole import WholeFiles


class Transferring(FileStoreBase, WholeFiles):
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
        Upload a local file, in place of a file that is there; directories on the way are made.

        The file gets the permissions and the modification time of the local one (of a file object: 0o644, and the present). What
        was read is what is stored, also if the local file changes meanwhile. Other names of a file that is replaced keep its
        contents.

        Args:
            local_file: a path, or a file open for reading bytes, which is read from where it stands to its end.
            progress: show a bar, on a terminal (standard error) or in a notebook.
            mode: permission bits to give the file.
            if_version: in a Volume, write only if what is there has not changed since this version (`stat().version`); 0: only if
                there is nothing.

        Raises:
            FileNotFoundError: there is no such local file.
            PermissionError: it may not be read (`FileUnreadable`), or the role may not write (`AccessDenied`).
            IsADirectoryError: *local_file*, or what is at *remote_path*, is a directory.
            NotADirectoryError: a part of *remote_path* that must be a directory is a file.
            ConflictError: the file changed after *if_version*; or another transaction made a directory of this name, or removed
                the one the file was put into.
        """
        names = split_file(remote_path)
        if_version = self._checked_if_version(if_version)
        if mode is not None:
            mode = check_number(mode, "mode", 0, MODE_MAX)
        source: Source = yield Call(partial(Source.open, local_file))
        shown = Progress(progress, join(names))
        shown.total(source.size_hint)
        try:
            yield from self._put(source, names, shown, mode=mode, if_version=if_version)
        finally:
            shown.close()
            source.close()

    def _put(self, source: Source, names: Names, shown: Progress, **conditions: Any) -> Op[int]:
        if source.is_small and self._read_only_reason is None and conditions.get("if_version") is None:
            store_id = yield from self._resolve_id()
            if not (yield from in_transaction()):
                session, mode = self._runner.session, conditions.get("mode")
                in_place = self._changes_class.in_place
                try:
                    size = yield from upload.put_small_file(
                        session, store_id, source, names, shown, mode, in_place=in_place
                    )
                except StoreGone:
                    try:
                        yield from self._is_gone(store_id)
                    except StaleHandle:
                        yield Call(source.restart)
                        size = None
                if size is not None:
                    self._collect_later(store_id)
                    return size

        def again() -> None:
            source.restart()
            shown.restart()

        return (
            yield from self._change(
                partial(upload.put_file, source=source, names=names, progress=shown, **conditions),
                repeatable=source.can_restart,
                single=True,
                again=again,
            )
        )

    def _checked_if_version(self, if_version: int | None) -> int | None:
        if if_version is not None:
            raise errors.InvalidError(f"a {self._display_name} has no versions; leave if_version= out")
        return None

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

        Regular files and links to them; links to folders and empty folders are left out. What is in the store and not in the
        folder stays; files of the same path are replaced.

        Args:
            pattern: upload only files whose name, or path below *local_path*, matches it: `*.csv`, `2024/*` (see `fnmatch`; `*`
                also matches slashes).
            progress: show a bar, on a terminal (standard error) or in a notebook.

        Raises:
            FileNotFoundError: there is no such local folder, or a file vanished meanwhile.
            NotADirectoryError: *local_path* is a file, or a part of the path of a file in the store is one.
            IsADirectoryError: a directory in the store has the path of a local file.
            PermissionError: something may not be read (`FileUnreadable`), or the role may not write (`AccessDenied`).
            ConflictError: see `put_file`.
        """
        names = split(remote_path)
        folder: Folder = yield Call(partial(Folder, local_path, pattern))
        shown = Progress(progress, join(names) or "/")
        try:
            yield from self._put_all(folder, names, shown)
        finally:
            shown.close()

    def _put_all(self, folder: Folder, names: Names, shown: Progress) -> Op[None]:
        def again() -> None:
            folder.restart()
            shown.restart()

        yield from self._change(lambda tree: upload.put_directory(tree, folder, names, shown), again=again)

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
        a file object the bytes are written as they come. The file gets the permissions that it has in the store (and the umask
        allows), but not its setuid, setgid and sticky bits, owner and extended attributes: whoever may write to the store could
        else plant a program that runs with your rights.

        Args:
            trusted: you trust all who write to the store: set these three bits, too.

        Raises:
            FileNotFoundError: there is no such file, or no folder for *local_file*.
            IsADirectoryError: either is a directory.
            PermissionError: *local_file* may not be written.
        """
        tree = yield from self._tree()
        shown = Progress(progress, str(remote_path))
        try:
            yield from self._reading(
                tree, download.get_file(tree, split(remote_path), local_file, shown, trusted=trusted)
            )
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

        Each file appears when it is complete; those that were there before an error stay. Symbolic links become links; no file is
        written through one. A link that leads out of *local_path* (an absolute target, or `..` too often or behind a name), and
        what has a name that no file can have, is left out; when all else is there, `UnsafeEntry` says so. Bits and permissions:
        as `get_file`.

        Args:
            pattern: as in `put_directory`.
            trusted: as in `get_file`; links are made wherever they lead.

        Raises:
            UnsafeEntry: something was left out, because it would have led out of *local_path*.
            FileNotFoundError: there is no such directory.
            NotADirectoryError: *remote_path*, or what must become a local folder, is a file.
            PermissionError: something local may not be written.
        """
        names = split(remote_path)
        folder: LocalFolder = yield Call(partial(LocalFolder, local_path, pattern, trusted=trusted))
        shown = Progress(progress, join(names) or "/")
        try:
            tree = yield from self._tree()
            yield from self._reading(tree, download.get_directory(tree, names, folder, shown))
        finally:
            shown.close()

    # -------------------------------------------------------------------------------------------------------- reading

    @iterated
    def read_file(self, path: str) -> Fetch[bytes]:
        """
        Iterate over the bytes of a file, in pieces of at most a few MiB, for `for` and `async for`.

        Of a Volume the file is read as it was when iterating began, also if it is replaced meanwhile.

        Raises:
            FileNotFoundError: there is no such file.
            IsADirectoryError: it is a directory.
        """
        return paged(partial(self._reader, split(path)))

    def _reader(self, names: Names) -> Op[download.Reader]:
        tree = yield from self._tree()
        return download.Reader(tree, (yield from self._reading(tree, tree.need_file(names))))

    def _read_whole(self, path: str) -> Op[bytes]:
        whole = io.BytesIO()
        tree = yield from self._tree()
        yield from self._reading(tree, download.get_file(tree, split(path), whole, Progress()))
        return whole.getvalue()

    def _write_whole(self, path: str, data: bytes | bytearray | memoryview) -> Op[None]:
        source: Source = yield Call(partial(Source.open, io.BytesIO(bytes(data))))
        try:
            yield from self._put(source, split_file(path), Progress())
        finally:
            source.close()

    @operation
    def read_file_into_fileobj(
        self, path: str, fileobj: BinaryIO, progress_cb: Callable[..., Any] | None = None
    ) -> Op[int]:
        """
        Write the bytes of a file into *fileobj*, and return how many they were.

        Args:
            progress_cb: called as `progress_cb(advance=n)` for each n bytes written, after `progress_cb(size=total)`.
        """
        tree = yield from self._tree()
        told = Progress(tell=progress_cb)
        return (yield from self._reading(tree, download.get_file(tree, split(path), fileobj, told)))
