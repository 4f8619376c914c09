"""`put`, `get` and `cat` of Volumes, NetworkFileSystems and buckets, whose methods are the same."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import pgstore
from pgstore import errors
from pgstore.cli.paths import STANDARD, has_wildcard, local_target, plain_beginning, remote_name, remote_target
from pgstore.fs.paths import join, split
from pgstore.fs.transfer.local import explained as explained_local
from pgstore.types import FileEntry, FileEntryType

# What messages advise in Python, and what does it here.
_ADVICE: Final = (
    ("pass force=True to replace it", "--force replaces it"),
    ("pass recursive=True to remove it with all below it", "-r removes it with all below it"),
    ("pass recursive=True to copy it with all below it", "-r copies it with all below it"),
    ("pass recursive=True to copy it", "-r copies it"),
    ("pass recursive=True", "give -r"),
    ("; pass allow_existing=True to accept that", ""),
    ("pass parents=True", "-p makes those on the way"),
    (
        "anonymous=True cannot be combined with secret= or requester_pays=True",
        "--anonymous and --secret exclude each other",
    ),
    ("give secret=, or", "give --secret, or"),
    ("trusted=True makes links as they are", "--trusted makes links as they are"),
)


@contextlib.contextmanager
def advised() -> Iterator[None]:
    """Have errors advise what a command line can do; one about a reader that has gone is a `BrokenPipeError` again."""
    try:
        yield
    except errors.Error as exc:
        if isinstance(exc, errors.FileFailed) and exc.errno == errno.EPIPE:
            raise BrokenPipeError(errno.EPIPE, str(exc)) from exc
        text = str(exc)
        for python, shell in _ADVICE:
            text = text.replace(python, shell)
        if text == str(exc):
            raise
        wrong = isinstance(exc, (errors.InvalidError, errors.FileExists))
        raise (pgstore.InvalidError if wrong else pgstore.Error)(text) from exc


class Standard:
    """Standard input or output, in bytes, by the name that errors are to show."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


# --------------------------------------------------------------------------------------------------------------- put


def put(files: Any, local: str, remote: str, *, force: bool, is_bucket: bool = False) -> None:
    """
    Upload the file or directory *local*, or standard input, to *remote*.

    Args:
        force: replace files that are there. Else one of them is an `InvalidError`, and nothing is uploaded.
    """
    upload = _to_bucket if is_bucket else _to_store
    with advised():
        if local == STANDARD:
            if not remote_name(remote) or remote.endswith("/"):
                raise pgstore.InvalidError(
                    f"{remote!r} names a directory; give the path of the file that standard input becomes"
                )
            upload(files, Standard(sys.stdin.buffer, "standard input"), remote, force, False)
            return
        target = remote_target(remote, local)
        with explained_local(f"local file {local!r}", local):
            kind = stat.S_IFMT(os.stat(local).st_mode)
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            upload(files, local, target, force, kind == stat.S_IFDIR)
            return
        with explained_local(f"local file {local!r}", local), open(local, "rb", buffering=0) as pipe:
            upload(files, Standard(pipe, f"local file {local!r}"), target, force, False)


def _to_store(files: Any, local: Any, remote: str, force: bool, is_directory: bool) -> None:
    with files.batch_upload(force=force, progress=True) as batch:
        (batch.put_directory if is_directory else batch.put_file)(local, remote)


def _to_bucket(bucket: Any, local: Any, remote: str, force: bool, is_directory: bool) -> None:
    if not is_directory:
        try:
            bucket.put_file(local, remote, progress=True, if_version=None if force else 0)
        except errors.FileExists as exc:
            raise pgstore.InvalidError(f"{exc}; --force replaces it") from exc
        return
    if not force and (there := _first_below(bucket, remote)) is not None:
        raise pgstore.InvalidError(
            f"there is {there.path!r} already; --force adds to it, and replaces what has the same path"
        )
    bucket.put_directory(local, remote, progress=True)


def _first_below(bucket: Any, remote: str) -> FileEntry | None:
    with contextlib.suppress(errors.FileMissing):
        return next(iter(bucket.iterdir(remote)), None)
    return None


# --------------------------------------------------------------------------------------------------------------- get


def get(files: Any, remote: str, local: str, *, force: bool, trusted: bool = False) -> None:
    """
    Download *remote*, a file, a directory or a pattern, to *local*, or to standard output.

    Args:
        force: replace local files. Else one of them is an `InvalidError`, and nothing is downloaded.
        trusted: see `Volume.get_directory`.
    """
    with advised():
        if local == STANDARD:
            cat(files, [remote])
            return
        wanted = _wanted(files, remote, local)
        if not force:
            for path, target, is_directory in wanted:
                _check_free(files, path, target, is_directory)
        for path, target, is_directory in wanted:
            if is_directory:
                files.get_directory(path, target, progress=True, trusted=trusted)
                continue
            folder = os.path.dirname(target)
            if folder and (local.endswith("/") or folder != os.path.dirname(local)):
                with explained_local(f"local folder {folder!r}", folder):
                    os.makedirs(folder, exist_ok=True)
            files.get_file(path, target, progress=True, trusted=trusted)


def cat(files: Any, remotes: list[str]) -> None:
    """Write files to standard output, one after the other."""
    out = Standard(sys.stdout.buffer, "standard output")
    with advised():
        for remote in remotes:
            for path in [path for path, _, _ in _matches(files, remote, "")] or [remote]:
                files.get_file(path, out)
        with explained_local("standard output"):
            sys.stdout.buffer.flush()


def _wanted(files: Any, remote: str, local: str) -> list[tuple[str, str, bool]]:
    """What is to be fetched: its path, where to, and whether it is a directory."""
    if matches := _matches(files, remote, local):
        return matches
    found = files.stat(remote)
    return [(remote, local_target(local, remote_name(remote)), found.type is FileEntryType.DIRECTORY)]


def _matches(files: Any, pattern: str, local: str) -> list[tuple[str, str, bool]]:
    """What *pattern* matches, without what is in a directory that it matches, too. None: it is no pattern."""
    if not has_wildcard(pattern) or files.exists(pattern):
        return []
    start = len(plain_beginning(pattern))
    matches: list[tuple[str, str, bool]] = []
    inside = None
    for entry in sorted(files.glob(pattern), key=lambda entry: entry.path.split("/")):
        if inside is not None and entry.path.startswith(inside):
            continue
        kind = files.stat(entry.path).type if entry.type is FileEntryType.SYMLINK else entry.type
        is_directory = kind is FileEntryType.DIRECTORY
        inside = f"{entry.path}/" if is_directory else None
        matches.append((entry.path, os.path.join(local, entry.path[start:].lstrip("/")), is_directory))
    if not matches:
        raise errors.FileMissing(f"nothing matches {pattern!r}", pattern)
    return matches


def _check_free(files: Any, path: str, target: str, is_directory: bool) -> None:
    """Raise an error if fetching would replace something."""
    taken = None
    if not is_directory or not os.path.isdir(target):
        taken = target if os.path.lexists(target) else None
    else:
        base = join(split(path))
        start = len(base) + 1 if base else 0
        for entry in files.iterdir(path, recursive=True):
            there = os.path.join(target, entry.path[start:])
            if entry.type is not FileEntryType.DIRECTORY and os.path.lexists(there):
                taken = there
                break
    if taken is not None:
        raise pgstore.InvalidError(f"local file {taken!r} exists; --force replaces it")
