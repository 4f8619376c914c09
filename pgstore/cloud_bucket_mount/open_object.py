"""Open objects: what file objects of a bucket rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.buckets.base import Bytes
from pgstore.buckets.known import Entry
from pgstore.buckets.reading import Reader
from pgstore.buckets.writing import Writer
from pgstore.core.operation import Call, Op
from pgstore.fs.io.open_file import OpenFile

READ_BYTES_MAX: Final = 4 << 20
_AT_ONCE: Final = 8  # pieces of about 1 MiB


class OpenReader(OpenFile):
    """An object that is open for reading, in the state that it had when it was opened."""

    can_read = True
    read_ahead_max = READ_BYTES_MAX
    keeps_seconds = float("inf")

    def __init__(self, reader: Reader) -> None:
        self.path = reader.path
        self._reader = reader

    def read(self, offset: int, length: int) -> Op[list[bytes]]:
        views = yield Call(partial(self._reader.views_at, offset, min(length, READ_BYTES_MAX)))
        return [_bytes_of(view) for view in views]

    def read_rest(self, offset: int, take: Callable[[bytes | memoryview], object]) -> Op[None]:
        pieces = self._reader.pieces(offset)
        try:
            while (yield Call(partial(take_some, pieces, take))):
                pass
        finally:
            pieces.close()

    def size(self) -> Op[int]:
        yield from ()
        return self._reader.size_bytes

    def close(self) -> Op[None]:
        yield Call(self._reader.close)


def _bytes_of(view: memoryview) -> bytes:
    """The piece that came, where all of it is wanted; else a copy of the part."""
    whole = view.obj
    return whole if isinstance(whole, bytes) and len(whole) == len(view) else bytes(view)


def take_some(pieces: Iterator[Bytes], take: Callable[[memoryview], object]) -> bool:
    """Call *take* with the next few pieces. False: there are no more."""
    for _ in range(_AT_ONCE):
        piece = next(pieces, None)
        if piece is None:
            return False
        take(memoryview(piece))
    return True


class OpenWriter(OpenFile):
    """An object that is being written. `close` puts all of it in place; until then, and after an error, all is as before."""

    can_write = True
    can_seek = False
    is_staged = True
    write_buffer = 256 * 1024

    def __init__(self, writer: Writer[Entry]) -> None:
        self.path = writer.path
        self._writer: Writer[Entry] | None = writer

    @property
    def _open_writer(self) -> Writer[Entry]:
        if self._writer is None:
            raise errors.InvalidError(f"file {self.path!r} is closed")
        return self._writer

    def write(self, offset: int, data: bytes | memoryview) -> Op[int]:
        yield Call(partial(self._open_writer.write, data))
        return offset + len(data)

    def truncate(self, size: int) -> Op[None]:
        yield from ()
        if size != self._open_writer.size_bytes:
            raise errors.NotSupported(
                f"file {self.path!r} is written in order: it cannot be cut or extended to {size} bytes", self.path
            )

    def size(self) -> Op[int]:
        yield from ()
        return self._open_writer.size_bytes

    def close(self) -> Op[None]:
        writer, self._writer = self._open_writer, None
        try:
            yield Call(writer.close)
        except GeneratorExit:
            raise
        except BaseException:
            yield Call(writer.abort)
            raise

    def abandon(self) -> Op[None]:
        writer, self._writer = self._writer, None
        if writer is not None:
            yield Call(writer.abort)

    def drop(self, *, in_transaction: bool = False) -> str:
        self._writer = None  # which aborts what it has begun, as nobody else has it
        return "nothing of what was written to it is kept"
