"""Downloads: the bytes of a file, to a local file or to the caller, a few MiB at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.core.operation import Call, Op
from pgstore.fs.content.blobs import (
    BATCH_BYTES,
    COPY_BYTES,
    INLINE_BYTES_MAX,
    LARGE_FILE_BYTES,
    Piece,
    PieceView,
    copy_blob,
    copy_file,
    filled,
    read_blob,
    read_file,
)
from pgstore.fs.content.in_order import InOrder
from pgstore.fs.model import DIRECTORY, FILE, SYMLINK, Entry, Node
from pgstore.fs.paths import Names, join
from pgstore.fs.retention.file_pin import FilePin
from pgstore.fs.transfer.local import LocalFile, LocalFolder, Target
from pgstore.fs.transfer.progress import Progress
from pgstore.fs.tree.listing import Listing
from pgstore.fs.tree.resolve import Small, Tree


class Reader:
    """
    Reads one file from its beginning to its end.

    A file of a Volume is read as it was when the reader was made. A file of a NetworkFileSystem is read as it is at each step, up
    to the end that it has by then.
    """

    def __init__(self, tree: Tree, node: Node) -> None:
        self._store_id = tree.store_id
        self._in_place = tree.in_place
        self._node = node
        self._pin = FilePin(tree.session, tree.store_id, node.ino, None if tree.in_place else node.version)
        self.size_bytes = node.size_bytes  # as it was last read
        self.at = 0
        self._buffer = bytearray()
        self._session = tree.session
        self._ahead: InOrder[Any] | None = None

    def page(self) -> Op[list[bytes] | None]:
        """The next pieces, at most `BATCH_BYTES` together; None at the end."""
        start = self.at
        if start >= self.size_bytes:
            return None
        yield from self._pin.ensure()
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

    def page_present(self) -> Op[list[PieceView] | None]:
        """
        The next `COPY_BYTES` at most of the file, without holes, as (offset, bytes); None at the end.

        The bytes may be used until the next call. Of a large file the next ones are being read meanwhile, over several connections.
        """
        start = self.at
        if start >= self.size_bytes:
            return None
        end = min(start + COPY_BYTES, self.size_bytes)
        pieces: list[PieceView]
        if self.size_bytes <= BATCH_BYTES:
            pieces, at = [], start
            for piece in (yield from self.page()) or ():
                pieces.append((at, piece))
                at += len(piece)
            return pieces
        yield from self._pin.ensure()
        if self.size_bytes - start > LARGE_FILE_BYTES and not start and not (yield from in_transaction()):
            self._ahead = InOrder(self._session.client, self._read, start, self.size_bytes)
        if self._ahead is not None and (ahead := (yield Call(self._ahead.next))) is not None:
            end, found = ahead
            if self._in_place:
                self.size_bytes, found = found
            self._advance(end)
            return found  # type: ignore[no-any-return]
        buffer = self._buffer = self._buffer or bytearray(min(COPY_BYTES, self.size_bytes))
        if self._in_place:
            end = min(end, start + len(buffer))  # the file may have grown since the buffer was made
            self.size_bytes, pieces = yield from copy_file(self._store_id, self._node.ino, start, end, buffer)
        else:
            assert self._node.blob_id is not None
            pieces = yield from copy_blob(self._store_id, self._node.blob_id, start, end, buffer)
        self._advance(end)
        return pieces

    def _read(self, start: int, end: int) -> Op[Any]:
        if self._in_place:
            return read_file(self._store_id, self._node.ino, start, end)
        assert self._node.blob_id is not None
        return read_blob(self._store_id, self._node.blob_id, start, end)

    def close(self) -> None:
        """Read no more."""
        if self._ahead is not None:
            self._ahead.close()

    def _advance(self, end: int) -> None:
        self.at = min(end, max(self.at, self.size_bytes))


def get_file(tree: Tree, names: Names, local: LocalFile, progress: Progress, *, trusted: bool = False) -> Op[int]:
    """
    Write the file at *names* to *local*, which is complete afterwards or, after an error, as before. Returns the number of bytes.
    """
    node = yield from tree.need_file(names)
    progress.total(node.size_bytes)
    return (yield from _download(tree, node, partial(Target, local, node.mode, trusted=trusted), progress))


def _download(tree: Tree, node: Node, make_target: Callable[[], Target], progress: Progress) -> Op[int]:
    reader = Reader(tree, node)
    target: Target = yield Call(make_target)
    try:
        at = 0
        while (present := (yield from reader.page_present())) is not None:
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
    finally:
        reader.close()
    return at


def get_directory(tree: Tree, names: Names, folder: LocalFolder, progress: Progress) -> Op[None]:
    """
    Write all files and links below the directory *names* into *folder*, and the directories too, unless a pattern chooses files.

    What would lead out of *folder* is left out, and an error says so when all else is written.
    """
    walk = yield from tree.need(names)
    if not walk.found.is_directory:
        raise errors.NotADirectory(f"{join(names)!r} is not a directory; use get_file", join(names))
    listing = Listing(tree, [walk.found.ino], recursive=True, left_out=folder.left_out)
    batch = _Batch(tree, names, folder, progress)
    while (page := (yield from listing.entries())) is not None:
        for path, entry in page:
            if entry.kind == DIRECTORY:
                if folder.everything:
                    batch.add(path, entry)
            elif entry.kind in (FILE, SYMLINK) and folder.wanted(path):
                if entry.size_bytes > INLINE_BYTES_MAX or tree.has_changes:
                    yield from _download_below(tree, names, path, folder, progress)
                else:
                    batch.add(path, entry)
                    if batch.is_full:
                        yield from batch.write()
        yield from batch.write()
    folder.finish()


class _Batch:
    """Directories, links and small files, read by one query and written in one `Call`."""

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
        inos = [entry.ino for _, entry in entries if entry.kind != DIRECTORY]
        found = (yield from self._tree.small(inos)) if inos else {}
        for path in (yield Call(partial(self._write, entries, found))):
            yield from _download_below(self._tree, self._names, path, self._folder, self._progress)

    def _write(self, entries: list[tuple[bytes, Entry]], found: dict[int, Small]) -> list[bytes]:
        """Write what was *found*. Returns the paths of the other files, which have changed since they were listed."""
        changed = []
        for path, entry in entries:
            if entry.kind == DIRECTORY:
                self._folder.make(path)
            elif (small := found.get(entry.ino)) is None:
                changed.append(path)
            elif small.link_target is not None:
                self._folder.link(path, small.link_target)
            else:
                self._folder.write(path, small.mode, small.data)
                self._progress.bytes(len(small.data))
                self._progress.files(1)
        return changed


def _download_below(tree: Tree, names: Names, path: bytes, folder: LocalFolder, progress: Progress) -> Op[None]:
    node = (yield from tree.need((*names, *path.split(b"/")), with_contents=True, follow=False)).found
    if node.link_target is not None:
        yield Call(partial(folder.link, path, node.link_target))
    else:
        yield from _download(tree, node, partial(folder.target, path, node.mode), progress)
