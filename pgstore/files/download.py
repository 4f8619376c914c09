"""Downloads: the bytes of a file, to a local file or to the caller, a few MiB at a time."""

from __future__ import annotations

from functools import partial

from pgstore import errors
from pgstore.core.operation import Call, Op
from pgstore.files.contents import BATCH_BYTES, filled, read_chunks
from pgstore.files.local import LocalFile, LocalFolder, Target
from pgstore.files.paths import Names, join
from pgstore.files.progress import Progress
from pgstore.files.tree import Listing, Node, Tree


def open_file(tree: Tree, names: Names) -> Op[Node]:
    """The file at *names*, with what reading it needs."""
    node = (yield from tree.need(names, opening=True)).found
    if node.is_directory:
        raise errors.IsADirectory(f"{join(names) or '/'!r} is a directory")
    if node.kind != "f":
        raise errors.InvalidError(f"{join(names)!r} is a fifo or socket, which holds nothing to read")
    return node


class Reader:
    """The bytes of one file in order. It stays with the state of the file that it was opened on."""

    def __init__(self, store_id: int, node: Node) -> None:
        self._store_id = store_id
        self._node = node
        self._at = 0

    def next(self) -> Op[list[bytes] | None]:
        """The next pieces, at most `BATCH_BYTES` together; None at the end."""
        node, start = self._node, self._at
        if start >= node.size_bytes:
            return None
        if node.blob_id is None or node.chunk_size is None:
            self._at = node.size_bytes
            return [node.inline_data or b""]
        end, pieces = yield from self._chunks(node.blob_id, node.chunk_size)
        self._at = end
        return filled(pieces, start, end)

    def next_present(self) -> Op[list[tuple[int, bytes]] | None]:
        """The next pieces that are not holes, as (offset, bytes); None at the end."""
        node = self._node
        if self._at >= node.size_bytes:
            return None
        if node.blob_id is None or node.chunk_size is None:
            self._at = node.size_bytes
            return [(0, node.inline_data or b"")]
        self._at, pieces = yield from self._chunks(node.blob_id, node.chunk_size)
        return pieces

    def _chunks(self, blob_id: int, chunk_size: int) -> Op[tuple[int, list[tuple[int, bytes]]]]:
        length = max(1, BATCH_BYTES // chunk_size) * chunk_size
        end = min(self._at + length, self._node.size_bytes)
        return end, (yield from read_chunks(self._store_id, blob_id, chunk_size, self._at, end))


def get_file(tree: Tree, names: Names, local: LocalFile, progress: Progress) -> Op[None]:
    """Write the file at *names* to *local*. A local file is there whole or, after an error, as it was."""
    node = yield from open_file(tree, names)
    progress.total(node.size_bytes)
    yield from _download(tree, node, local, progress)


def _download(tree: Tree, node: Node, local: LocalFile, progress: Progress) -> Op[None]:
    reader = Reader(tree.store_id, node)
    target: Target = yield Call(partial(Target, local, node.mode))
    try:
        if target.can_skip:
            while (present := (yield from reader.next_present())) is not None:
                yield Call(partial(_write_at, target, present))
        else:
            while (pieces := (yield from reader.next())) is not None:
                yield Call(partial(target.write, pieces))
        yield Call(partial(target.finish, node.size_bytes))
        progress.bytes(node.size_bytes)
        progress.files(1)
    except BaseException:
        target.abandon()
        raise


def get_directory(tree: Tree, names: Names, folder: LocalFolder, progress: Progress) -> Op[None]:
    """Write all files and links below the directory *names* into *folder*, and its directories if all is wanted."""
    walk = yield from tree.need(names)
    if not walk.found.is_directory:
        raise errors.NotADirectory(f"{join(names)!r} is not a directory; use get_file")
    listing = Listing(tree, walk.found.ino, (), recursive=True)
    while (page := (yield from listing.entries())) is not None:
        for path, entry in page:
            if entry.kind == "d":
                if folder.everything:
                    yield Call(partial(folder.make, path))
            elif entry.kind in "fl" and folder.wanted(path):
                found = yield from tree.need((*names, *path.split(b"/")), opening=True, follow=False)
                if found.found.link_target is not None:
                    yield Call(partial(folder.link, path, found.found.link_target))
                else:
                    place = yield Call(partial(folder.place, path))
                    yield from _download(tree, found.found, place, progress)


def _write_at(target: Target, pieces: list[tuple[int, bytes]]) -> None:
    for offset, data in pieces:
        target.write_at(offset, data)
