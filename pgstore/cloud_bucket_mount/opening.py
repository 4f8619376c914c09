"""Opening objects as files: which of the modes of the built-in `open` a bucket has."""

from __future__ import annotations

from pgstore import errors
from pgstore.buckets.tree import Tree
from pgstore.cloud_bucket_mount.base import BucketFiles, file_path_of, needs_directory, path_of
from pgstore.cloud_bucket_mount.open_object import OpenReader, OpenWriter
from pgstore.core.operation import Op
from pgstore.fs.io.file_object import FileAt, Mode, parse_mode
from pgstore.fs.io.opening import opening


class OpeningObjects(BucketFiles):
    """open."""

    @opening
    def open(
        self,
        path: str,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Op[FileAt]:
        """
        Open a file, as the built-in `open` does; `open.aio(…)` gives one whose methods are awaited, also for `async with`.

        The arguments are those of the built-in, but text is UTF-8 unless *encoding* says otherwise. There are the modes "r", "w"
        and "x".

        A file is read as it was when it was opened. One that is written ("w", "x") is put in parts while it is written, in little
        memory, and appears with `close`: all of it, at once, in place of what was there. Leave its `with` block by an exception, or
        forget to close it, and everything is as before. It has one position, its end: `seek` is refused.

        Raises:
            FileNotFoundError: there is no such file ("r").
            FileExistsError: there is one ("x"), also when it is closed: of two that create a file one succeeds.
            IsADirectoryError: *path* is a directory.
            PermissionError: with errno EROFS: it is read-only ("w", "x").
            io.UnsupportedOperation: with errno EOPNOTSUPP: what an object cannot do ("a", and both directions at once).
            StaleFile: when it is read: the object was replaced or deleted.
        """
        parsed = parse_mode(mode, buffering, encoding, errors, newline)
        if parsed.kind == "a" or parsed.updates:
            raise _not_supported(path, mode)
        if parsed.kind == "r":
            return FileAt(OpenReader((yield from self._call(Tree.open, _file_to_read(path)))), parsed, 0)
        new = file_path_of(path)
        self._check_writable(new)
        return FileAt((yield from self._open_new(new, parsed)), parsed, 0)

    def _open_new(self, path: str, mode: Mode) -> Op[OpenWriter]:
        return OpenWriter((yield from self._call(Tree.create, path, exclusive=mode.kind == "x")))


def _file_to_read(path: str) -> str:
    if needs_directory(path):
        raise errors.IsADirectory(f"path {path!r} names a directory; give the path of the file", path)
    return path_of(path)


def _not_supported(path: str, mode: str) -> errors.NotSupported:
    what = "added to" if "a" in mode else "changed in place"
    return errors.NotSupported(
        f"{path!r} cannot be opened with mode {mode!r}: an object of a bucket is not {what}. Read it with 'rb', then write all of "
        "it anew with 'wb'; files of a NetworkFileSystem can be changed",
        path,
    )
