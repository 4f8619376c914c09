"""Files of this machine: reading, walking and writing them, with pgstore's errors.

All of it blocks, so operations run it inside a `Call`.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

from pgstore import errors
from pgstore.fs.content.blobs import BATCH_BYTES, INLINE_BYTES_MAX
from pgstore.fs.paths import Names, unsafe

LocalFile: TypeAlias = str | Path | BinaryIO
BATCH_FILES: Final = 500
FILE_OBJECT_MODE: Final = 0o644
_BUFFERS_MAX: Final = 256  # of one system call; IOV_MAX of Linux is 1024


@contextlib.contextmanager
def explained(what: str, path: str | bytes | int | None = None) -> Iterator[None]:
    """Turn an OSError into the error of pgstore's that says the same; *what* names the file, which has the path *path*."""
    try:
        yield
    except OSError as exc:
        if isinstance(exc, errors.Error):
            raise
        raise errors.of_local(exc, what, path) from exc


def checked_path(given: str | os.PathLike[str]) -> str:
    """*given* as a str, if it can be the path of anything on this machine."""
    path = os.fspath(given)
    try:
        is_possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise errors.InvalidError(f"{path!r} is no path that this machine could have")
    return path


class Source:
    """A file to upload, opened for reading."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        mode: int,
        mtime_ns: int | None,
        size_hint: int | None,
        *,
        ours: bool,
        start: int | None,
    ) -> None:
        self._file = file
        self._name = name
        self.mode = mode
        self.mtime_ns = mtime_ns
        self.size_hint = size_hint
        self._ours = ours
        self._start = start  # where reading began; None: it cannot be read again

    @classmethod
    def open(cls, local: LocalFile) -> Source:
        if not isinstance(local, (str, os.PathLike)):
            return cls._of_object(local)
        path = checked_path(local)
        name = f"local file {path!r}"
        with explained(name, path):
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
            status = os.fstat(file.fileno())
            start = 0 if stat.S_ISREG(status.st_mode) else None
            return cls(file, name, status.st_mode & 0o777, status.st_mtime_ns, status.st_size, ours=True, start=start)

    @classmethod
    def _of_object(cls, file: Any) -> Source:
        if not callable(getattr(file, "read", None)):
            raise errors.InvalidError(f"expected a path or a binary file to read, not {type(file).__name__}")
        hint = start = None
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            here = file.tell()
            hint = file.seek(0, os.SEEK_END) - here
            file.seek(here)
            start = here
        return cls(file, f"{file!r}", FILE_OBJECT_MODE, None, hint, ours=False, start=start)

    @property
    def can_restart(self) -> bool:
        return self._start is not None

    @property
    def is_small(self) -> bool:
        """Whether it will probably be stored in its row, and can be read again if it will not."""
        return self.can_restart and self.size_hint is not None and self.size_hint <= INLINE_BYTES_MAX

    def restart(self) -> None:
        """Go back to where reading began."""
        with explained(self._name):
            self._file.seek(self._start or 0)

    def read(self, length: int) -> bytes:
        parts: list[bytes] = []
        with explained(self._name):
            while length and (part := self._file.read(length)):
                if not isinstance(part, (bytes, bytearray, memoryview)):
                    raise errors.InvalidError(
                        f"{self._name} gives {type(part).__name__}, not bytes: open it in binary mode"
                    )
                parts.append(bytes(part))
                length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._ours:
            self._file.close()


class FolderFile(NamedTuple):
    """A file of a folder that is uploaded."""

    directory: tuple[bytes, ...]  # its path from the folder
    name: bytes
    mode: int
    mtime_ns: int
    data: bytes | None  # None: it is large, and not read yet


class Folder:
    """
    A local folder to upload: its regular files, in a fixed order, read in batches.

    Links to files count as files. Links to folders, which may lead round in circles, are left out, and so are sockets and the like.
    """

    def __init__(self, path: str | Path, pattern: str | None, *, recursive: bool = True) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise errors.InvalidError(f"expected the path of a local folder, not {type(path).__name__}")
        self._root = checked_path(path)
        self._pattern = pattern
        self._recursive = recursive
        self.restart()
        with explained(f"local folder {self._root!r}", self._root):
            if not stat.S_ISDIR(os.stat(self._root).st_mode):
                raise errors.NotADirectory(f"local path {self._root!r} is not a folder; use put_file", self._root)

    def restart(self) -> None:
        """Begin with the first file again."""
        self._files = self._walk()

    def source(self, file: FolderFile) -> Source:
        return Source.open(self._path(file.directory, file.name))

    def batch(self) -> list[FolderFile]:
        """The next files: at most `BATCH_FILES`, of which about `BATCH_BYTES` are read; none at the end."""
        batch: list[FolderFile] = []
        size = 0
        for directory, name in self._files:
            file = self._read(directory, name)
            batch.append(file)
            size += len(file.data or b"")
            if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                break
        return batch

    def _read(self, directory: tuple[bytes, ...], name: bytes) -> FolderFile:
        path = self._path(directory, name)
        with explained(f"local file {path!r}", path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                data = None if status.st_size > INLINE_BYTES_MAX else _read_small(fd, status.st_size)
            finally:
                os.close(fd)
        return FolderFile(directory, name, status.st_mode & 0o777, status.st_mtime_ns, data)

    def _path(self, directory: tuple[bytes, ...], name: bytes) -> str:
        return os.path.join(self._root, *map(os.fsdecode, directory), os.fsdecode(name))

    def _walk(self) -> Iterator[tuple[tuple[bytes, ...], bytes]]:
        todo: list[tuple[bytes, ...]] = [()]
        while todo:
            directory = todo.pop()
            files, folders = self._scan(directory)
            for name in sorted(files):
                yield directory, name
            if self._recursive:
                todo += [(*directory, name) for name in sorted(folders, reverse=True)]

    def _scan(self, directory: tuple[bytes, ...]) -> tuple[list[bytes], list[bytes]]:
        path = os.path.join(self._root, *map(os.fsdecode, directory))
        files: list[bytes] = []
        folders: list[bytes] = []
        with explained(f"local folder {path!r}", path), os.scandir(path) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif _is_file(entry) and self._wanted(directory, name):
                    files.append(name)
        return files, folders

    def _wanted(self, directory: tuple[bytes, ...], name: bytes) -> bool:
        return is_wanted("/".join(map(os.fsdecode, (*directory, name))), self._pattern)


def is_wanted(path: str, pattern: str | None) -> bool:
    """Whether *path*, or its last name, matches *pattern*; None matches all."""
    if pattern is None:
        return True
    return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern) or fnmatch.fnmatchcase(path, pattern)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # a link to itself leads nowhere, as one to something missing
            return False
        raise


def _read_small(fd: int, expected: int) -> bytes | None:
    """All of a file, or None if it is too large after all."""
    data = os.read(fd, INLINE_BYTES_MAX + 1)
    while (
        len(data) != expected
        and len(data) <= INLINE_BYTES_MAX
        and (more := os.read(fd, INLINE_BYTES_MAX + 1 - len(data)))
    ):
        data += more
    return data if len(data) <= INLINE_BYTES_MAX else None


class Target:
    """
    The local file that a download writes.

    A regular file appears under its name with `finish`, complete; until then, and after `abandon`, all is as before.

    A call that was cancelled may still be at work in its thread: the file is closed when that is done, for its number may be given
    to another file at once. What was opened for a call that was cancelled meanwhile is abandoned when it is garbage.
    """

    def __init__(self, local: LocalFile | Slot, mode: int, *, trusted: bool = False) -> None:
        """*trusted*: the file gets all bits of *mode*, also setuid, setgid and sticky."""
        self._file: Any = None
        self._temporary: str | None = None
        self._is_abandoned = False
        self._at_work = threading.Lock()
        self._folder: OpenFolder | None = None  # kept open; None: *local* is a path
        self._at: dict[str, Any] = {}
        self._mask = 0o7777 if trusted else 0o777
        self._ours = isinstance(local, (str, os.PathLike, Slot))
        self._shown: str | bytes | None  # the path that errors show
        if not self._ours:
            if not callable(getattr(local, "write", None)):
                raise errors.InvalidError(f"expected a path or a binary file to write, not {type(local).__name__}")
            self._file = local
            self._name = f"{local!r}"
            self._shown = None
            return
        if isinstance(local, Slot):
            self._name = f"local file {local.path!r}"
            self._shown = local.path
            self._folder = local.folder
            self._at = {"dir_fd": local.folder.fd}
            self._path = local.name
        else:
            path = checked_path(local)  # type: ignore[arg-type]
            self._name = f"local file {path!r}"
            self._shown = path
            self._path = os.path.realpath(path)
        try:
            with explained(self._name, self._shown):
                self._open(mode & self._mask)
        except BaseException:
            self.abandon()
            raise

    def _open(self, mode: int) -> None:
        present = self._present()
        if present is not None and stat.S_ISDIR(present):
            raise errors.IsADirectory(f"{self._name} is a directory; give the path of the file to write", self._shown)
        if present is not None and not os.access(self._path, os.W_OK, **self._at):
            # Replacing the file would need rights on its folder alone.
            raise errors.FileUnreadable(
                f"{self._name} may not be written; remove it first, or give another path", self._shown
            )
        if present is not None and not stat.S_ISREG(present):
            # A device or pipe, which must not be replaced.
            fd = os.open(self._path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, **self._at)
            self._file = open(fd, "wb", buffering=0)  # noqa: SIM115 - closed by finish() or abandon()
            return
        folder, base = os.path.split(self._path)
        begins = os.fsdecode(os.fsencode(base)[:100])  # bytes, of which a name can have 255
        temporary = os.path.join(folder, f".{begins}.{secrets.token_hex(4)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._temporary = temporary  # before it is there: an interrupt comes when it likes
        try:
            fd = os.open(temporary, flags, mode if present is None else 0o600, **self._at)
        except OSError:
            self._temporary = None
            raise
        self._file = open(fd, "wb", buffering=0)  # noqa: SIM115 - closed by finish() or abandon()
        if present is not None:
            os.fchmod(fd, stat.S_IMODE(present) & self._mask)

    def _present(self) -> int | None:
        """Type and mode of what is there. None: nothing, or a link, which is replaced and not followed."""
        try:
            present = os.stat(self._path, follow_symlinks=False, **self._at).st_mode
        except FileNotFoundError:
            return None
        return None if stat.S_ISLNK(present) else present

    @property
    def can_skip(self) -> bool:
        """Whether holes need not be written."""
        return self._temporary is not None

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        try:
            with self._at_work, explained(self._name, self._shown):
                yield
        finally:
            if self._is_abandoned:
                self.abandon()

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        with self._working():
            for piece in pieces:
                written = self._write(piece)
                while written is not None and written < len(piece):
                    piece = piece[written:]
                    written = self._write(piece)

    def _write(self, piece: bytes | memoryview) -> int | None:
        try:
            return self._file.write(piece)  # type: ignore[no-any-return]
        except TypeError as exc:
            raise errors.InvalidError(f"{self._name} takes no bytes: open it in binary mode") from exc

    def write_at(self, pieces: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Write pieces, each at its offset, in order; only if `can_skip`."""
        run: list[bytes | memoryview] = []
        start = end = 0
        for offset, data in pieces:
            if offset != end or len(run) == _BUFFERS_MAX:
                self._write_run(start, run)
                start, run = offset, []
            run.append(data)
            end = offset + len(data)
        self._write_run(start, run)

    def _write_run(self, offset: int, run: list[bytes | memoryview]) -> None:
        with self._working():
            while run:
                written = os.pwritev(self._file.fileno(), run, offset)
                offset += written
                while run and written >= len(run[0]):
                    written -= len(run.pop(0))
                if written:
                    run[0] = memoryview(run[0])[written:]

    def finish(self, size_bytes: int) -> None:
        if not self._ours:
            return
        with self._working():
            if self._temporary is not None:
                self._file.truncate(size_bytes)
            self._file.close()
            if self._temporary is not None:
                at = self._at.get("dir_fd")
                where = {} if at is None else {"src_dir_fd": at, "dst_dir_fd": at}
                os.replace(self._temporary, self._path, **where)
                self._temporary = None

    def abandon(self) -> None:
        if not self._ours:
            return
        self._is_abandoned = True
        if not self._at_work.acquire(blocking=False):
            return  # who has it abandons it
        try:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary, **self._at)
                self._temporary = None
        finally:
            self._at_work.release()

    def __del__(self) -> None:
        if self.__dict__.get("_temporary") is not None:
            self.abandon()


class OpenFolder:
    """
    A local folder, opened. Garbage collection closes it: a call that was cancelled may still be using it in its thread.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Slot(NamedTuple):
    """A name in a local folder, which stays the same folder if its path leads elsewhere meanwhile."""

    folder: OpenFolder
    name: str
    path: str  # for messages


class LocalFolder:
    """
    A local folder that files are downloaded into.

    Nothing is written outside of it, whatever names and links the store has. Each folder is opened from the one above, and links
    are not followed, so nobody can replace a folder by a link meanwhile. Impossible names, and links that lead out of the folder,
    are left out, and `finish` says so.
    """

    def __init__(self, path: str | Path, pattern: str | None, *, trusted: bool = False) -> None:
        """*trusted*: files get all bits of their modes (see `Target`), and links are made wherever they lead."""
        if not isinstance(path, (str, os.PathLike)):
            raise errors.InvalidError(f"expected the path of a local folder, not {type(path).__name__}")
        self._root = os.path.realpath(checked_path(path))
        self._pattern = pattern
        self._trusted = trusted
        self._latest: tuple[bytes, OpenFolder] | None = None  # path and folder of the last file
        self._refused: list[str] = []
        self._refused_count = 0
        with explained(f"local folder {os.fspath(path)!r}", os.fspath(path)):
            os.makedirs(self._root, exist_ok=True)
            self._top = OpenFolder(os.open(self._root, _FOLDER))

    @property
    def everything(self) -> bool:
        """Whether no pattern says what is wanted."""
        return self._pattern is None

    def wanted(self, path: bytes) -> bool:
        return is_wanted(os.fsdecode(path), self._pattern)

    def left_out(self, names: Names) -> None:
        """Note an impossible name, the last one of a path."""
        self._refuse(unsafe(names))

    def finish(self) -> None:
        """Raise `UnsafeEntry` if something was left out."""
        if self._refused_count:
            more = self._refused_count - len(self._refused)
            told = "; ".join(self._refused) + (f"; and {more} more" if more else "")
            raise errors.UnsafeEntry(f"what would lead out of local folder {self._root!r} was left out: {told}")

    def _refuse(self, reason: str) -> None:
        self._refused_count += 1
        if len(self._refused) < _REFUSED_SHOWN_MAX:
            self._refused.append(reason)

    def make(self, path: bytes) -> None:
        """Make the folder *path* below this one, with those on the way."""
        self._enter(path)

    def _enter(self, path: bytes) -> OpenFolder:
        if self._latest is not None and self._latest[0] == path:
            return self._latest[1]
        folder, here = self._top, self._root
        for name in os.fsdecode(path).split("/") if path else ():
            here = os.path.join(here, name)
            with explained(f"local folder {here!r}", here):
                folder = _step(folder, name, here)
        self._latest = path, folder
        return folder

    def slot(self, path: bytes) -> Slot:
        """The folder and name that *path* means."""
        folder, _, name = path.rpartition(b"/")
        return Slot(self._enter(folder), os.fsdecode(name), os.path.join(self._root, os.fsdecode(path)))

    def target(self, path: bytes, mode: int) -> Target:
        """A `Target` for the file *path*."""
        return Target(self.slot(path), mode, trusted=self._trusted)

    def write(self, path: bytes, mode: int, data: bytes) -> None:
        """Write all of the file *path*."""
        target = self.target(path, mode)
        try:
            target.write([data])
            target.finish(len(data))
        except BaseException:
            target.abandon()
            raise

    def link(self, path: bytes, target: bytes) -> None:
        """Make a symbolic link, in place of a file that is there, unless it leads out of the folder."""
        if not (self._trusted or _stays_inside(path.count(b"/"), target)):
            self._refuse(
                f"link {os.fsdecode(path)!r} leads to {os.fsdecode(target)!r}; trusted=True makes links as they are"
            )
            return
        slot = self.slot(path)
        with explained(f"local link {slot.path!r}", slot.path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(slot.name, dir_fd=slot.folder.fd)
            os.symlink(os.fsdecode(target), slot.name, dir_fd=slot.folder.fd)


# O_PATH: the folder is only passed through, for which one need not be allowed to read it.
_FOLDER: Final = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_REFUSED_SHOWN_MAX: Final = 5


def _step(folder: OpenFolder, name: str, path: str) -> OpenFolder:
    """The folder *name* in *folder*, which is made if nothing is there."""
    for _ in range(2):
        try:
            return OpenFolder(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder.fd))
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder.fd)
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK):  # a link is one of these, by system
                raise errors.NotADirectory(f"local path {path!r} is not a folder", path) from None
            raise
    raise errors.FileMissing(f"local folder {path!r} was removed while it was written to", path)


def _stays_inside(depth: int, target: bytes) -> bool:
    """
    Whether a link that is *depth* folders below the folder leads to something in the folder.

    `..` is allowed only at the beginning, where it goes up through real folders. Behind a name, which may be that of another link,
    nobody knows where it leads.
    """
    names = [name for name in target.split(b"/") if name not in (b"", b".")]
    up = next((at for at, name in enumerate(names) if name != b".."), len(names))
    return not target.startswith(b"/") and up <= depth and b".." not in names[up:]
