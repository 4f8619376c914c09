"""Downloads: the bytes of a file, to a local file or to the caller, a few MiB at a time."""

from __future__ import annotations

from functools import partial

from pgstore import errors
from pgstore.core.operation import Call, Op
from pgstore.files.contents import BATCH_BYTES, COPY_BYTES, Piece, copy_blob, filled, read_blob
from pgstore.files.local import LocalFile, Target
from pgstore.files.paths import Names, join
from pgstore.files.tree import Node, Tree


def open_file(tree: Tree, names: Names) -> Op[Node]:
    """The file at *names*, with what reading it needs."""
    walk = yield from tree.need(names, opening=True)
    node = walk.node
    assert node is not None
    if node.is_directory:
        raise errors.IsADirectory(f"{join(names) or '/'!r} is a directory")
    return node


class Reader:
    """The bytes of one file in order. It stays with the state of the file that it was opened on."""

    def __init__(self, store_id: int, node: Node) -> None:
        self._store_id = store_id
        self._node = node
        self.at = 0

    def next(self) -> Op[list[bytes] | None]:
        """The next pieces, at most `BATCH_BYTES` together; None at the end."""
        start = self.at
        present = yield from self.next_present(BATCH_BYTES)
        return None if present is None else filled(present, start, self.at)

    def next_present(self, bytes_max: int = COPY_BYTES) -> Op[list[Piece] | None]:
        """The next pieces that are not holes, as (offset, bytes), of at most *bytes_max* of the file; None at the end."""
        node, start = self._node, self.at
        if start >= node.size_bytes:
            return None
        if node.blob_id is None:
            self.at = node.size_bytes
            return [(0, node.inline_data or b"")]
        end = min(start + bytes_max, node.size_bytes)
        read = read_blob if end - start <= BATCH_BYTES else copy_blob
        pieces = yield from read(self._store_id, node.blob_id, start, end)
        self.at = end
        return pieces


def get_file(tree: Tree, names: Names, local: LocalFile) -> Op[None]:
    """Write the file at *names* to *local*. A local file is there whole or, after an error, as it was."""
    node = yield from open_file(tree, names)
    reader = Reader(tree.store_id, node)
    target: Target = yield Call(partial(Target, local, node.mode))
    try:
        at = 0
        while (present := (yield from reader.next_present())) is not None:
            if target.can_skip:
                yield Call(partial(_write_at, target, present))
            else:
                yield Call(partial(target.write, filled(present, at, reader.at)))
                at = reader.at
        yield Call(partial(target.finish, node.size_bytes))
    except BaseException:
        target.abandon()
        raise


def _write_at(target: Target, pieces: list[Piece]) -> None:
    for offset, data in pieces:
        target.write_at(offset, data)
