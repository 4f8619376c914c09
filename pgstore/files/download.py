"""Downloads: the bytes of a file, to a local file or to the caller, a few MiB at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pgstore import errors
from pgstore.core.operation import Call, Op
from pgstore.files.changes import Entry
from pgstore.files.contents import (
    BATCH_BYTES,
    COPY_BYTES,
    INLINE_BYTES_MAX,
    Piece,
    PieceView,
    copy_blob,
    copy_file,
    filled,
    read_blob,
    read_file,
)
from pgstore.files.keeping import Keeping
from pgstore.files.listing import Listing
from pgstore.files.local import LocalFile, LocalFolder, Target
from pgstore.files.paths import Names, join
from pgstore.files.progress import Progress
from pgstore.files.tree import Node, Small, Tree


def open_file(tree: Tree, names: Names) -> Op[Node]:
    """The file at *names*, with what reading it needs."""
    node = (yield from tree.need(names, opening=True)).found
    if node.is_directory:
        raise errors.IsADirectory(f"{join(names) or '/'!r} is a directory", join(names) or "/")
    if node.kind != "f":
        raise errors.InvalidError(f"{join(names)!r} is a fifo or socket, which holds nothing to read")
    return node


class Reader:
    """
    The bytes of one file in order.

    Of a Volume it stays with the state of the file that it was opened on. A file of a NetworkFileSystem is read as it is with each
    look, to the end that it has by then.
    """

    def __init__(self, tree: Tree, node: Node) -> None:
        self._store_id = tree.store_id
        self._in_place = tree.in_place
        self._node = node
        self._keeping = Keeping(tree.session, tree.store_id, node.ino, None if tree.in_place else node.version)
        self.size_bytes = node.size_bytes  # as it was last seen
        self.at = 0
        self._buffer = bytearray()

    def next(self) -> Op[list[bytes] | None]:
        """The next pieces, at most `BATCH_BYTES` together; None at the end."""
        start = self.at
        if start >= self.size_bytes:
            return None
        yield from self._keeping.keep()
        end = min(start + BATCH_BYTES, self.size_bytes)
        pieces: list[Piece]
        if self._in_place:
            self.size_bytes, pieces = yield from read_file(self._store_id, self._node.ino, start, end)
        elif self._node.blob_id is None:
            pieces = [(0, self._node.inline_data or b"")]
        else:
            pieces = yield from read_blob(self._store_id, self._node.blob_id, start, end)
        self._advance(end)
        return filled(pieces, start, self.at)

    def next_present(self) -> Op[list[PieceView] | None]:
        """
        The next pieces that are not holes, as (offset, bytes), of at most `COPY_BYTES` of the file; None at the end.

        They are good until the next call.
        """
        start = self.at
        if start >= self.size_bytes:
            return None
        end = min(start + COPY_BYTES, self.size_bytes)
        pieces: list[PieceView]
        if self.size_bytes <= BATCH_BYTES:
            pieces, at = [], start
            for piece in (yield from self.next()) or ():
                pieces.append((at, piece))
                at += len(piece)
            return pieces
        yield from self._keeping.keep()
        buffer = self._buffer = self._buffer or bytearray(min(COPY_BYTES, self.size_bytes))
        if self._in_place:
            end = min(end, start + len(buffer))  # the file may have grown
            self.size_bytes, pieces = yield from copy_file(self._store_id, self._node.ino, start, end, buffer)
        else:
            assert self._node.blob_id is not None
            pieces = yield from copy_blob(self._store_id, self._node.blob_id, start, end, buffer)
        self._advance(end)
        return pieces

    def _advance(self, end: int) -> None:
        self.at = min(end, max(self.at, self.size_bytes))


def get_file(tree: Tree, names: Names, local: LocalFile, progress: Progress, *, trusted: bool = False) -> Op[int]:
    """
    Write the file at *names* to *local*. A local file is there whole or, after an error, as it was.

    Returns the number of bytes.
    """
    node = yield from open_file(tree, names)
    progress.total(node.size_bytes)
    return (yield from _download(tree, node, partial(Target, local, node.mode, trusted=trusted), progress))


def _download(tree: Tree, node: Node, opening: Callable[[], Target], progress: Progress) -> Op[int]:
    reader = Reader(tree, node)
    target: Target = yield Call(opening)
    try:
        at = 0
        while (present := (yield from reader.next_present())) is not None:
            if target.can_skip:
                yield Call(partial(target.write_at, present))
            else:
                yield Call(partial(target.write, filled(present, at, reader.at)))
            progress.bytes(reader.at - at)
            at = reader.at
        yield Call(partial(target.finish, at))
        progress.files(1)
    except BaseException:
        target.abandon()
        raise
    return at


def get_directory(tree: Tree, names: Names, folder: LocalFolder, progress: Progress) -> Op[None]:
    """
    Write all files and links below the directory *names* into *folder*, and its directories if all is wanted.

    What would lead out of it is left out, and told of when all else is there.
    """
    walk = yield from tree.need(names)
    if not walk.found.is_directory:
        raise errors.NotADirectory(f"{join(names)!r} is not a directory; use get_file", join(names))
    listing = Listing(tree, [walk.found.ino], recursive=True, left_out=folder.left_out)
    batch = _Batch(tree, names, folder, progress)
    while (page := (yield from listing.entries())) is not None:
        for path, entry in page:
            if entry.kind == "d":
                if folder.everything:
                    batch.add(path, entry)
            elif entry.kind in "fl" and folder.wanted(path):
                if entry.size_bytes > INLINE_BYTES_MAX or tree.has_changes:
                    yield from _download_below(tree, names, path, folder, progress)
                else:
                    batch.add(path, entry)
                    if batch.is_full:
                        yield from batch.write()
        yield from batch.write()
    folder.finish()


class _Batch:
    """Directories, links and small files, which are read by one query and written by one call."""

    def __init__(self, tree: Tree, names: Names, folder: LocalFolder, progress: Progress) -> None:
        self._tree = tree
        self._names = names
        self._folder = folder
        self._progress = progress
        self._entries: list[tuple[bytes, Entry]] = []
        self._size_bytes = 0

    def add(self, path: bytes, entry: Entry) -> None:
        self._entries.append((path, entry))
        self._size_bytes += entry.size_bytes

    @property
    def is_full(self) -> bool:
        return self._size_bytes >= BATCH_BYTES

    def write(self) -> Op[None]:
        """Write what was added, and forget it."""
        entries, self._entries, self._size_bytes = self._entries, [], 0
        if not entries:
            return
        inos = [entry.ino for _, entry in entries if entry.kind != "d"]
        found = (yield from self._tree.small(inos)) if inos else {}
        for path in (yield Call(partial(self._write, entries, found))):
            yield from _download_below(self._tree, self._names, path, self._folder, self._progress)

    def _write(self, entries: list[tuple[bytes, Entry]], found: dict[int, Small]) -> list[bytes]:
        """Returns the paths of files that were not *found*: they have changed since they were listed."""
        left = []
        for path, entry in entries:
            if entry.kind == "d":
                self._folder.make(path)
            elif (small := found.get(entry.ino)) is None:
                left.append(path)
            elif small.link_target is not None:
                self._folder.link(path, small.link_target)
            else:
                self._folder.write(path, small.mode, small.data)
                self._progress.bytes(len(small.data))
                self._progress.files(1)
        return left


def _download_below(tree: Tree, names: Names, path: bytes, folder: LocalFolder, progress: Progress) -> Op[None]:
    node = (yield from tree.need((*names, *path.split(b"/")), opening=True, follow=False)).found
    if node.link_target is not None:
        yield Call(partial(folder.link, path, node.link_target))
    else:
        yield from _download(tree, node, partial(folder.target, path, node.mode), progress)
