"""File objects: what `open` of a Volume or NetworkFileSystem returns to programs without an event loop.

They are Python's own: `RawFile` reads and writes the bytes, and the buffers and the text layer of `io` stand on it, so that what
works with files works with these. The layers here add `fsync`; and if the block that writes a file of a Volume is left by an
exception, or the file object becomes garbage without being closed, nothing of what it wrote is kept.
"""

from __future__ import annotations

import io
import os
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from pgstore import errors
from pgstore.core.operation import Op, Runner
from pgstore.core.threads import is_ending
from pgstore.fs.io.open_file import OpenFile, ReadAhead

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
else:  # for who asks for the hints at run time
    ReadableBuffer = bytes | bytearray | memoryview
    WriteableBuffer = bytearray | memoryview

T = TypeVar("T")
RANDOM_BUFFER: Final = 64 * 1024  # bytes, of files that are read and written: a chunk of a NetworkFileSystem


class Mode(NamedTuple):
    """What the arguments of `open` after the path say; the *mode* itself taken apart."""

    kind: str  # r, w, x or a
    updates: bool
    is_text: bool
    buffering: int
    encoding: str | None
    errors: str | None
    newline: str | None

    @property
    def reads(self) -> bool:
        return self.kind == "r" or self.updates

    @property
    def writes(self) -> bool:
        return self.kind != "r" or self.updates

    @property
    def raw(self) -> str:
        """The mode that a raw file shows."""
        return self.kind + "b" + ("+" if self.updates else "")


class FileAt(NamedTuple):
    """The result of an `open`: the file, its mode, and the position to begin at, in bytes."""

    open_file: OpenFile
    mode: Mode
    position: int


def parse_mode(mode: object, buffering: int, encoding: str | None, errors_: str | None, newline: str | None) -> Mode:
    """What *mode* means; raises `InvalidError` where the built-in `open` raises `ValueError`."""
    if isinstance(buffering, bool) or not isinstance(buffering, int):
        raise errors.InvalidError(f"buffering must be an int, not {buffering!r}")
    if not isinstance(mode, str):
        raise errors.InvalidError(f"mode must be a str such as 'r' or 'wb', not {type(mode).__name__}: {mode!r}")
    letters = set(mode)
    kinds = letters & set("rwxa")
    if letters - set("rwxabt+") or len(letters) < len(mode) or len(kinds) != 1 or {"b", "t"} <= letters:
        raise errors.InvalidError(
            f"mode {mode!r} is not one of 'r', 'w', 'x' and 'a', with 'b' for bytes or 't' for text, and '+' for both directions"
        )
    parsed = Mode(kinds.pop(), "+" in letters, "b" not in letters, buffering, encoding, errors_, newline)
    if not parsed.is_text:
        for name, value in (("encoding", encoding), ("errors", errors_), ("newline", newline)):
            if value is not None:
                raise errors.InvalidError(f"{name}={value!r} is for text; mode {mode!r} is binary")
    elif buffering == 0:
        raise errors.InvalidError(f"buffering=0 is for bytes; mode {mode!r} is text")
    if newline not in (None, "", "\n", "\r", "\r\n"):
        raise errors.InvalidError(f"newline {newline!r} is none of None, '', '\\n', '\\r' and '\\r\\n'")
    return parsed


class RawFile(io.RawIOBase):
    """The bytes of an open file, unbuffered."""

    def __init__(
        self, open_file: OpenFile, runner: Runner, bound: Any, mode: str, position: int, *, read_ahead: bool
    ) -> None:
        self.name = open_file.path
        self.mode = mode
        self._open_file = open_file
        self._runner = runner
        self._bound = bound
        self._position = position
        self._ahead = ReadAhead(open_file, enabled=read_ahead)
        self._is_abandoned = False  # what is written from now on is dropped
        self._is_broken = False  # a write failed, and it is unknown how much of it was stored
        self._late: list[tuple[int, bytes]] | None = None  # what the layers write when the file object is garbage
        self._begin_layers_anew: list[Callable[[], None]] = []

    def _run(self, op: Op[T]) -> T:
        return self._runner.run(op, self._bound)

    def _check_open(self) -> None:
        if self.closed:
            raise errors.InvalidError(f"I/O operation on closed file {self.name!r}")

    def readable(self) -> bool:
        self._check_open()
        return self._open_file.can_read

    def writable(self) -> bool:
        self._check_open()
        return self._open_file.can_write

    def seekable(self) -> bool:
        self._check_open()
        return self._open_file.can_seek

    @property
    def size(self) -> int:
        """The present size in bytes, without what is buffered. fsspec asks files for it."""
        self._check_open()
        return self._run(self._open_file.size())

    # --------------------------------------------------------------------------------------------------- reading

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._check_reads()
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError(f"readinto takes bytes that can be written to, not {type(buffer).__name__}")
        if not len(view):
            return 0
        count = self._ahead.copy(self._position, view)
        if not count:
            self._run(self._ahead.fetch(self._position, len(view)))
            count = self._ahead.copy(self._position, view, fetched=True)
        self._position += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)  # io's own takes no None, as built-in files do
        assert data is not None, "readinto always gives a number"
        return data

    def readall(self) -> bytes:
        self._check_reads()
        data = io.BytesIO()
        self._run(self._open_file.read_rest(self._position, data.write))
        self._position += data.tell()
        return data.getvalue()  # which copies nothing

    def _check_reads(self) -> None:
        self._check_open()
        if not self._open_file.can_read:
            raise io.UnsupportedOperation(f"file {self.name!r} is not open for reading")

    # --------------------------------------------------------------------------------------------------- writing

    def write(self, data: ReadableBuffer) -> int:
        self._check_writes()
        view = memoryview(data).cast("B")
        if self._late is not None:
            self._late.append((self._position, bytes(view)))
            self._position += len(view)
        elif not self._is_abandoned:
            self._ahead.drop()
            # After a failed write the buffer above writes the same bytes again when it is closed. Staged contents are then lost.
            self._check_whole()
            self._is_broken = self._open_file.is_staged
            self._position = self._change(self._open_file.write(self._position, view))
            self._is_broken = False
        return len(view)

    def _change(self, op: Op[T]) -> T:
        return self._run(self._open_file.changing(op, partial(self._go_back, self._position)))

    def _go_back(self, position: int) -> None:
        """The transaction that wrote from *position* on was rolled back: go back there, and drop what the layers have buffered."""
        if not self.closed:
            self._position = position
            self._ahead.drop()
            for begin in self._begin_layers_anew:
                begin()

    def add_layer(self, layer: Layer, *args: Any, **kwargs: Any) -> None:
        """Note a *layer* above this file, and the arguments it was made with, so that its buffers can be dropped."""
        # A weak reference: file objects that are garbage are to be closed at once.
        self._begin_layers_anew.append(partial(_begin_anew, weakref.ref(layer), args, kwargs))

    def _check_whole(self) -> None:
        if self._is_broken:
            raise errors.InvalidError(
                f"an earlier write to {self.name!r} failed, and nothing of it is kept; write it anew"
            )

    def truncate(self, size: int | None = None) -> int:
        self._check_writes()
        target = checked_size(self._position if size is None else size)
        self._ahead.drop()
        self._change(self._open_file.truncate(target))
        return target

    def _check_writes(self) -> None:
        self._check_open()
        if not self._open_file.can_write:
            raise io.UnsupportedOperation(f"file {self.name!r} is not open for writing")

    def fsync(self) -> None:
        """Return when all that was written is on the server's disk."""
        self._check_open()
        self._run(self._open_file.sync())

    # -------------------------------------------------------------------------------------------------- position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        self._position = self._run(seek(self._open_file, self._position, offset, whence))
        return self._position

    def tell(self) -> int:
        self._check_open()
        return self._position

    # ------------------------------------------------------------------------------------------------------- end

    def __reduce__(self) -> str:
        raise TypeError(f"cannot pickle or copy the open file {self.name!r}")

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._is_broken and not self._is_abandoned:
                self.abandon()
                self._check_whole()
            elif self._late is not None:
                self._open_file.write_later(self._late)
            elif not self._is_abandoned:
                self._run(self._open_file.close())
        finally:
            super().close()

    def abandon(self) -> None:
        """Keep nothing of staged contents, for the block that wrote them failed. What was written in place stays."""
        if self._open_file.is_staged and not self._is_abandoned and not self.closed:
            self._is_abandoned = True
            self._run(self._open_file.abandon())

    def finalise(self) -> None:
        """Give up a file object that became garbage without being closed. It may run at any moment, so it sends nothing."""
        if self._is_abandoned or self.closed:
            return
        if is_ending():  # nothing can be written any more: a `close` that is still to come has to say so
            return
        lost = self._open_file.drop(in_transaction=self._bound is not None)
        if self._open_file.is_staged or not self._open_file.can_write or self._bound is not None:
            self._is_abandoned = True
        else:
            self._late = []
        if lost:
            warnings.warn(f"file {self.name!r} was not closed; {lost}", ResourceWarning, stacklevel=3)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_block(self, self, kind)

    def __del__(self) -> None:
        finalise(self, getattr(self, "_open_file", None) and self)


def seek(open_file: OpenFile, position: int, offset: int, whence: int) -> Op[int]:
    """The new position of a file that is at *position*; the other arguments are those of `io.IOBase.seek`."""
    offset = index(offset)
    if not open_file.can_seek:
        raise errors.NotSupported(
            f"file {open_file.path!r} is written in order: it has no other position", open_file.path
        )
    if whence == os.SEEK_CUR:
        offset += position
    elif whence == os.SEEK_END:
        offset += yield from open_file.size()
    elif whence != os.SEEK_SET:
        raise errors.PositionInvalid(f"whence {whence!r} is none of 0 (start), 1 (current position) and 2 (end)")
    if offset < 0:
        raise errors.PositionInvalid(f"position {offset} is before the start of the file", open_file.path)
    if offset >> 63:
        raise errors.NumberOverflow(f"position {offset} is beyond what any file can have")
    return offset


def checked_size(size: int) -> int:
    """*size* as an int, if a file can be truncated to it."""
    size = index(size)
    if size < 0:
        raise errors.PositionInvalid(f"a file cannot be truncated to {size} bytes")
    return size


class Layer(io.IOBase):
    """How a layer of `io` above a `RawFile` ends. Among the bases of a class it comes before that of `io`."""

    _raw: RawFile | None  # None: it was detached

    def detach(self) -> Any:
        """Take this layer off what it stands on, which goes on without it, and return that."""
        below = super().detach()  # type: ignore[misc]
        self._raw = None
        return below

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_block(self, self._raw, kind)

    def __del__(self) -> None:
        finalise(self, getattr(self, "_raw", None))

    @property
    def size(self) -> int:
        """The present size in bytes, with what is buffered."""
        if self.writable():
            self.flush()
        assert self._raw is not None  # `io` has refused what is detached
        return self._raw.size


class WritingLayer(Layer):
    def fsync(self) -> None:
        """Return when all that was written is on the server's disk."""
        self.flush()
        assert self._raw is not None
        self._raw.fsync()


class BinaryReader(Layer, io.BufferedReader):
    """A file open for reading bytes."""


class BinaryWriter(WritingLayer, io.BufferedWriter):
    """A file open for writing bytes."""


class BinaryRandom(WritingLayer, io.BufferedRandom):
    """A file open for reading and writing bytes."""


class TextFile(WritingLayer, io.TextIOWrapper):
    """A file open for text."""


L = TypeVar("L", bound=Layer)


def on(raw: RawFile, layer: L) -> L:
    layer._raw = raw
    return layer


def layered(raw: RawFile, below: Any, kind: type[L], *args: Any, **kwargs: Any) -> L:
    """A layer of this kind on *below*, which is *raw* or a layer above it."""
    make: Callable[..., L] = kind
    layer = on(raw, make(below, *args, **kwargs))
    raw.add_layer(layer, *args, **kwargs)
    return layer


def _begin_anew(layer: weakref.ref[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Have *layer* drop what it has buffered, and ask for the position again."""
    there = layer()
    if there is not None and there._raw is not None:
        there.__init__(there.buffer if isinstance(there, io.TextIOWrapper) else there.raw, *args, **kwargs)


def exit_block(file: io.IOBase, raw: RawFile | None, kind: type[BaseException] | None) -> None:
    """The end of a `with` block."""
    try:
        if kind is not None and raw is not None:
            raw.abandon()
    finally:
        file.close()


def finalise(file: io.IOBase, raw: RawFile | None) -> None:
    """The end of a file object that became garbage. (`io` would close it, and so keep half of what was to be written.)"""
    if raw is not None:
        raw.finalise()
        if not is_ending():
            file.close()


def file_object(file: FileAt, runner: Runner, bound: Any) -> Any:
    """The file object that the built-in `open` would make."""
    open_file, mode, position = file
    buffering = mode.buffering
    raw = RawFile(open_file, runner, bound, mode.raw, position, read_ahead=buffering != 0)
    if buffering == 0:
        return raw
    if mode.updates:
        binary: Any = layered(raw, raw, BinaryRandom, buffering if buffering > 1 else RANDOM_BUFFER)
    elif mode.writes:
        binary = layered(raw, raw, BinaryWriter, buffering if buffering > 1 else open_file.write_buffer)
    else:
        binary = layered(raw, raw, BinaryReader, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
    if not mode.is_text:
        return binary
    text = layered(raw, binary, TextFile, mode.encoding or "utf-8", mode.errors, mode.newline, buffering == 1)
    text.mode = mode.kind + ("+" if mode.updates else "")  # type: ignore[misc]
    return text
