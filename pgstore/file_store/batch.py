"""Batch uploads: many files and folders that appear together."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pgstore import errors
from pgstore.core.operation import Call, Op
from pgstore.file_store.base import MODE_MAX, FileStoreBase, check_number
from pgstore.fs.paths import join, split, split_file
from pgstore.fs.transfer import upload
from pgstore.fs.transfer.local import Folder, Source
from pgstore.fs.transfer.progress import Progress
from pgstore.fs.tree.resolve import Tree


class BatchUpload:
    """
    What `batch_upload()` gives: files are noted here, and uploaded together at the end of the block.

    An exception in the block, or while uploading, leaves everything as it was.
    """

    def __init__(self, store: FileStoreBase, force: bool, progress: bool | None) -> None:
        self._store = store
        self._force = force
        self._progress = progress
        self._uploads: list[Callable[[Tree], Op[None]]] = []
        self._entered = False
        self._done = False
        self._repeatable = True  # all can be read again

    def put_file(self, local_file: str | Path | BinaryIO, remote_path: str, mode: int | None = None) -> None:
        """
        Note a file to upload; see `Volume.put_file`. It is read at the end of the block.

        Args:
            mode: permission bits; None: those of the local file, 0o644 for a file object.
        """
        names = split_file(remote_path)
        if mode is not None:
            mode = check_number(mode, "mode", 0, MODE_MAX)
        self._repeatable &= isinstance(local_file, (str, os.PathLike))

        def put(tree: Tree) -> Op[None]:
            source: Source = yield Call(partial(Source.open, local_file))
            shown = Progress(self._progress, join(names))
            shown.total(source.size_hint)
            try:
                yield from upload.put_file(tree, source, names, shown, mode=mode, force=self._force)
            finally:
                shown.close()
                source.close()

        self._note(put)

    def put_directory(self, local_path: str | Path, remote_path: str, recursive: bool = True) -> None:
        """
        Note the files of a folder to upload; see `Volume.put_directory`.

        Args:
            recursive: also those of folders in it.
        """
        names = split(remote_path)

        def put(tree: Tree) -> Op[None]:
            folder: Folder = yield Call(partial(Folder, local_path, None, recursive=recursive))
            shown = Progress(self._progress, join(names) or "/")
            try:
                yield from upload.put_directory(tree, folder, names, shown, force=self._force)
            finally:
                shown.close()

        self._note(put)

    def _note(self, put: Callable[[Tree], Op[None]]) -> None:
        if not self._entered or self._done:
            raise errors.InvalidError("use a batch within the block of `with volume.batch_upload() as batch`")
        self._uploads.append(put)

    def _all(self, tree: Tree) -> Op[None]:
        for put in self._uploads:
            yield from put(tree)

    def _upload(self) -> Op[None]:
        if self._uploads:
            yield from self._store._change(self._all, repeatable=self._repeatable)

    def _enter(self) -> BatchUpload:
        if self._entered:
            raise errors.InvalidError("a batch is used once; call batch_upload() again")
        self._entered = True
        return self

    def __enter__(self) -> BatchUpload:
        return self._enter()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done = True
        if exc is None:
            self._store._runner.run(self._upload(), self._store._bound)

    async def __aenter__(self) -> BatchUpload:
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done = True
        if exc is None:
            await self._store._runner.run_async(self._upload(), self._store._bound)


class Batching(FileStoreBase):
    """batch_upload."""

    def batch_upload(self, force: bool = False, *, progress: bool | None = None) -> BatchUpload:
        """
        Upload many files that appear together: `with volume.batch_upload() as batch: batch.put_file("a", "/a")`.

        Also for `async with`. Nothing is read before the end of the block.

        Args:
            force: replace files that exist; else one of them raises `FileExistsError` (`ConflictError` where another transaction
                is just making it), and nothing is uploaded. A directory is never replaced by a file.
            progress: show a progress bar for each call.
        """
        return BatchUpload(self, force, progress)
