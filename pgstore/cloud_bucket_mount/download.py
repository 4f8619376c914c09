"""Downloads: objects become local files, small ones several at a time, large ones as they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final

from pgstore.buckets.known import Entry
from pgstore.buckets.parallel import shared
from pgstore.buckets.reading import Pieces, Reader
from pgstore.buckets.tree import Tree
from pgstore.core.operation import Call, Op
from pgstore.fs.transfer.local import LocalFolder, Target
from pgstore.fs.transfer.progress import Progress

FILE_MODE: Final = 0o644
FILES_AT_ONCE: Final = 64
SMALL_BYTES_MAX: Final = 1 << 20
_AT_ONCE: Final = 8  # pieces of about 1 MiB


def to_local(reader: Reader, make_target: Callable[[], Target], progress: Progress) -> Op[None]:
    """Write what *reader* reads to a local file, which is complete afterwards or, after an error, as before."""
    progress.total(reader.size_bytes)
    target: Target = yield Call(make_target)
    pieces = reader.pieces()
    try:
        while count := (yield Call(partial(_write_some, pieces, target))):
            progress.bytes(count)
        yield Call(partial(target.finish, reader.size_bytes))
        progress.files(1)
    except BaseException:
        target.abandon()
        raise
    finally:
        pieces.close()


def _write_some(pieces: Pieces, target: Target) -> int:
    count = 0
    for piece in islice(pieces, _AT_ONCE):
        target.write([memoryview(piece)])
        count += len(piece)
    return count


def some_bytes(pieces: Pieces, count: int) -> list[bytes] | None:
    """The next pieces, None at the end."""
    return [bytes(piece) for piece in islice(pieces, count)] or None


def is_large(entry: Entry) -> bool:
    return not entry.is_directory and entry.size_bytes > SMALL_BYTES_MAX


def below(path: str, entry: Entry) -> bytes:
    """The path of *entry* from the directory at *path*."""
    return os.fsencode(entry.path[len(path) + 1 if path else 0 :])


def small_files(tree: Tree, *, path: str, entries: Sequence[Entry], folder: LocalFolder, progress: Progress) -> None:
    """Write those of *entries* that are small files to *folder*; the directories, too, unless a pattern chooses files."""
    wanted = [
        entry for entry in entries if not (entry.is_directory or is_large(entry)) and folder.wanted(below(path, entry))
    ]
    tasks = [shared().workers.submit(partial(_contents, tree, entry)) for entry in wanted]
    try:
        for entry in entries:
            if entry.is_directory and folder.everything:
                folder.make(below(path, entry))
        for entry, task in zip(wanted, tasks, strict=True):
            data = task.result()
            folder.write(below(path, entry), FILE_MODE, data)
            progress.bytes(len(data))
            progress.files(1)
    finally:
        for task in tasks:
            task.cancel()


def _contents(tree: Tree, entry: Entry) -> bytes:
    reader = tree.open(entry.path)
    return b"".join(reader.pieces())
