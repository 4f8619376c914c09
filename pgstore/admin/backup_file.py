"""The file of a backup: compressed by zstd or gzip, or as it is; it has its name only once it is complete and on the disk."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Protocol, cast

from pgstore import errors
from pgstore.admin.backup_script import Readable

STANDARD: Final = "-"
"""As a name of a file: standard input or output."""
COMPRESSIONS: Final = ("zstd", "gzip", "none")

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BLOCK_BYTES: Final = 1 << 20
_STUCK_SECONDS: Final = 1.0  # after which a thread is left where it waits: for a pipe that nobody reads
# Bytes of files come as hexadecimal digits, which the lowest levels bring back to their half. Higher ones take three times as long.
_GZIP_LEVEL: Final = 1
_ZSTD: Final = ("zstd", "-q", "-c", "-3", "-T0")


class Writable(Protocol):
    """What the text of a backup is written to."""

    def write(self, data: bytes, /) -> object: ...


def compression_of(wanted: str | None) -> str:
    """
    The compression to use: *wanted*, else zstd where its program is installed, else gzip.

    Raises:
        InvalidError: there is no such compression.
        ConfigurationError: its program is not installed.
    """
    if wanted is None:
        return "zstd" if shutil.which("zstd") else "gzip"
    if wanted not in COMPRESSIONS:
        raise errors.InvalidError(f"compression {wanted!r} is not known, expected one of {', '.join(COMPRESSIONS)}")
    if wanted == "zstd":
        _zstd()
    return wanted


def _zstd() -> str:
    found = shutil.which("zstd")
    if found is None:
        raise errors.ConfigurationError("the program zstd is not installed: run `apt install zstd`")
    return found


# --- writing ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def written(name: str, compression: str) -> Iterator[Writable]:
    """
    What is written within is in the file *name* afterwards, in place of one that was there; with an error nothing has changed.

    It is written under another name beside it, which only this user can read, and renamed when it is on the disk.

    Raises:
        FileFailed and its like: it cannot be written, as the disk is full.
        InvalidError: *name* is not that of a file; or it is `-`, and standard output is a terminal.
    """
    try:
        if name == STANDARD:
            if sys.stdout.isatty():
                raise errors.InvalidError("a backup is not for a terminal: name a file, or send standard output to one")
            sys.stdout.flush()
            with open(sys.stdout.fileno(), "wb", closefd=False) as out, _compressed(out, compression) as sink:
                yield sink
        else:
            with _renamed(Path(os.path.realpath(name))) as file, _compressed(file, compression) as sink:
                yield sink
    except BrokenPipeError:
        raise  # who read standard output has gone, which is for the command line to say
    except OSError as exc:
        if isinstance(exc, errors.Error):
            raise
        raise errors.of_local(exc, f"the backup {name} cannot be written", name) from exc


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[IO[bytes]]:
    if path.exists() and not path.is_file():
        raise errors.InvalidError(f"{str(path)!r} is no file")
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:200]}.", suffix=".partial")
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _compressed(file: IO[bytes], compression: str) -> Iterator[Writable]:
    if compression == "none":
        yield file
    elif compression == "gzip":
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL) as sink:
            yield cast("Writable", sink)
    else:
        with _zstd_into(file) as pipe:
            yield pipe


@contextlib.contextmanager
def _zstd_into(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """What is written is compressed by the program zstd. This process writes the file, and so knows what is wrong with it."""
    process = subprocess.Popen(
        [_zstd(), *_ZSTD[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    failures: list[OSError] = []
    copier = threading.Thread(target=_copy, args=(process.stdout, file, failures), daemon=True)
    copier.start()
    try:
        broken: BrokenPipeError | None = None
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError as exc:  # zstd has ended, because of what is told below
            broken = exc
        copier.join()
        if failures:
            raise failures[0]
        if process.wait() or broken:
            raise errors.BackupError(f"zstd failed: {_said_by(process)}") from broken
    finally:
        _kill(process)
        copier.join(_STUCK_SECONDS)  # what it reads is at an end
        _close(process)


def _copy(source: IO[bytes], target: IO[bytes], failures: list[OSError]) -> None:
    try:
        # Past the buffer of *target*, whose lock a thread that waits for a reader would keep, and nobody could close it.
        while block := source.read(_BLOCK_BYTES):
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(target.fileno(), rest) :]
    except ValueError:
        pass  # closed at an interrupt
    except OSError as exc:
        failures.append(exc)
        source.close()  # zstd ends by that, and then who writes to it


# --- reading ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(name: str, tell: Callable[[int, int | None], object]) -> Iterator[Readable]:
    """
    The text of the backup *name*, whatever it was compressed with.

    Args:
        tell: called with how many bytes of the file were read, and how many it has (None: that is not known).

    Raises:
        FileMissing and its like: it cannot be read.
        BackupError, from reading: what is compressed is damaged, or cut off.
    """
    shown = "standard input" if name == STANDARD else name
    with _source(name, shown) as file:
        counted = _Counted(file, tell)
        start = file.peek(len(_ZSTD_MAGIC))
        if start.startswith(_ZSTD_MAGIC):
            with _zstd_from(counted) as reader:
                yield _Text(reader, shown)
        elif start.startswith(_GZIP_MAGIC):
            yield _Text(gzip.GzipFile(fileobj=cast("IO[bytes]", counted), mode="rb"), shown)
        else:
            yield _Text(counted, shown)


@contextlib.contextmanager
def _source(name: str, shown: str) -> Iterator[io.BufferedReader]:
    try:
        if name == STANDARD:
            file = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115 - closed below
        else:
            file = open(name, "rb")  # noqa: SIM115
    except OSError as exc:
        raise errors.of_local(exc, f"the backup {shown} cannot be read", name) from exc
    with file:
        yield file


class _Counted:
    """Tells how much was read."""

    def __init__(self, file: IO[bytes], tell: Callable[[int, int | None], object]) -> None:
        self._file = file
        self._tell = tell
        self._read = 0
        status = os.fstat(file.fileno())
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else None

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._read += len(data)
        self._tell(self._read, self._size)
        return data


class _Text:
    """What is read of a backup. Its errors say which file they are of."""

    def __init__(self, reader: Readable, shown: str) -> None:
        self._reader = reader
        self._shown = shown

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
            raise errors.BackupError(f"{self._shown} is damaged, or was cut off: {exc}") from exc
        except OSError as exc:
            raise errors.of_local(exc, f"the backup {self._shown} cannot be read", self._shown) from exc


class _ZstdReader:
    def __init__(self, process: subprocess.Popen[bytes], failures: list[OSError]) -> None:
        self._process = process
        self._failures = failures

    def read(self, size: int, /) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if not data and (self._process.wait() or self._failures):
            if self._failures and not isinstance(self._failures[0], BrokenPipeError):
                raise self._failures[0]
            raise EOFError(_said_by(self._process))
        return data


@contextlib.contextmanager
def _zstd_from(source: Readable) -> Iterator[Readable]:
    process = subprocess.Popen(
        [_zstd(), "-q", "-d", "-c"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    failures: list[OSError] = []
    feeder = threading.Thread(target=_feed, args=(source, process.stdin, failures), daemon=True)
    feeder.start()
    try:
        yield _ZstdReader(process, failures)
    finally:
        _kill(process)
        feeder.join(1)  # it may be waiting for standard input
        _close(process)


def _feed(source: Readable, target: IO[bytes], failures: list[OSError]) -> None:
    try:
        while block := source.read(_BLOCK_BYTES):
            target.write(block)
    except OSError as exc:
        failures.append(exc)
    finally:
        with contextlib.suppress(OSError):
            target.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):
            cast("IO[bytes]", stream).close()


def _said_by(process: subprocess.Popen[bytes]) -> str:
    """The last line that zstd has complained about, without its name."""
    assert process.stderr is not None
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return (
        lines[-1].removeprefix("zstd: ").removeprefix("/*stdin*\\ : ").strip()
        if lines
        else f"exit code {process.returncode}"
    )
