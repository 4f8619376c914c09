"""Uploads: local files become objects, small ones several at a time, large ones in parts."""

from __future__ import annotations

from functools import partial
from typing import Final

from pgstore.buckets.keys import join
from pgstore.buckets.known import Entry
from pgstore.buckets.parallel import PART_BYTES, shared
from pgstore.buckets.tree import Tree
from pgstore.buckets.writing import Writer
from pgstore.fs.paths import join as decoded
from pgstore.fs.transfer.local import Folder, FolderFile, Source

FILES_AT_ONCE: Final = 32  # after which a cancelled upload ends
_READ_BYTES: Final = 1 << 20


def copy_part(source: Source, writer: Writer[Entry]) -> int:
    """Go on with about a part of *source*. Returns the number of bytes; 0: there is no more."""
    count = 0
    while count < PART_BYTES and (data := source.read(_READ_BYTES)):
        writer.write(data)
        count += len(data)
    return count


def put_files(tree: Tree, *, path: str, folder: Folder, files: list[FolderFile]) -> list[int]:
    """Put *files* of *folder* below *path*. Returns their sizes. After an error no further one is begun."""
    tasks = [shared().workers.submit(partial(_put_file, tree, path, folder, file)) for file in files]
    try:
        return [task.result() for task in tasks]
    except BaseException:
        for task in tasks:
            if not task.cancel():
                task.wait()
        raise


def _put_file(tree: Tree, path: str, folder: Folder, file: FolderFile) -> int:
    target = join(path, decoded((*file.directory, file.name)))
    writer = tree.create(target)
    try:
        if file.data is not None:
            writer.write(file.data)
        else:
            source = folder.source(file)
            try:
                while copy_part(source, writer):
                    pass
            finally:
                source.close()
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return writer.size_bytes
