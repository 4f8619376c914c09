"""File objects for programs with an event loop: what `open.aio` gives.

Python has no such files. These have the methods of its blocking ones, each to be awaited; open files, reading ahead and the rules
of the modes are shared with `file_object`.
"""

from __future__ import annotations

import codecs
import io
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pgstore import errors
from pgstore.core.operation import Op, Runner
from pgstore.fs.io.file_object import FileAt, Mode, checked_size, seek
from pgstore.fs.io.open_file import OpenFile, ReadAhead

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
else:  # for who asks for the hints at run time
    ReadableBuffer = bytes | bytearray | memoryview

T = TypeVar("T")
S = TypeVar("S", str, bytes)
_CHUNK = 64 * 1024  # bytes that are searched for the end of a line


class AsyncFile(ABC, Generic[S]):
    """
    An open file; `async with` closes it, `async for` gives its lines.

    One task at a time. Its position, as of any file, is where the next `read` or `write` begins.
    """

    def __init__(
        self,
        open_file: OpenFile,
        runner: Runner,
        bound: Any,
        mode: Mode,
        position: int,
        *,
        buffered: bool,
        write_buffer: int,
    ) -> None:
        self.name = open_file.path
        self.mode = mode.raw
        self._open_file = open_file
        self._runner = runner
        self._bound = bound
        self._position = position
        self._ahead = ReadAhead(open_file, enabled=buffered)
        self._pending = bytearray()  # to be written at _position - len(_pending)
        self._pending_max = write_buffer if buffered else 0
        self._closed = False
        self._is_broken = False

    async def _run(self, op: Op[T]) -> T:
        return await self._runner.run_async(op, self._bound)

    @property
    def closed(self) -> bool:
        return self._closed

    def readable(self) -> bool:
        return self._open_file.can_read

    def writable(self) -> bool:
        return self._open_file.can_write

    def seekable(self) -> bool:
        return self._open_file.can_seek

    # ------------------------------------------------------------------------------------------------------ bytes

    def _check_open(self) -> None:
        if self._closed:
            raise errors.InvalidError(f"I/O operation on closed file {self.name!r}")

    def _check_reads(self) -> None:
        self._check_open()
        if not self._open_file.can_read:
            raise io.UnsupportedOperation(f"file {self.name!r} is not open for reading")

    def _check_writes(self) -> None:
        self._check_open()
        if not self._open_file.can_write:
            raise io.UnsupportedOperation(f"file {self.name!r} is not open for writing")
        self._check_whole()

    def _check_whole(self) -> None:
        if self._is_broken:
            raise errors.InvalidError(
                f"an earlier write to {self.name!r} failed, and nothing of it is kept; write it anew"
            )

    async def _read_some(self, length: int) -> bytes:
        """At least one byte and at most *length*, unless the file ends here."""
        buffer = memoryview(bytearray(length))
        count = self._ahead.copy(self._position, buffer)
        if not count and length:
            await self._run(self._ahead.fetch(self._position, length))
            count = self._ahead.copy(self._position, buffer, fetched=True)
        self._position += count
        return bytes(buffer[:count])

    async def _read_bytes(self, length: int) -> bytes:
        await self._write_pending()
        if length < 0:
            data = io.BytesIO()
            await self._run(self._open_file.read_rest(self._position, data.write))
            self._position += data.tell()
            return data.getvalue()
        parts: list[bytes] = []
        while length and (part := await self._read_some(length)):
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_line(self, length: int) -> bytes:
        await self._write_pending()
        parts: list[bytes] = []
        while length and (part := await self._read_some(_CHUNK if length < 0 else min(_CHUNK, length))):
            end = part.find(b"\n") + 1
            if end:
                self._position -= len(part) - end
                parts.append(part[:end])
                break
            parts.append(part)
            length -= len(part) if length > 0 else 0
        return b"".join(parts)

    async def _write_bytes(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        self._ahead.drop()
        if len(view) >= self._pending_max:
            await self._write_pending()
            await self._write_now(view)
        else:
            self._pending += view
            self._position += len(view)
            if len(self._pending) >= self._pending_max:
                await self._write_pending()
        return len(view)

    async def _write_pending(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            self._position -= len(pending)
            try:
                await self._write_now(memoryview(pending))
            except BaseException:
                self._position += len(pending)
                # A copy, for a traceback may hold the view, and a bytearray that is viewed cannot grow.
                self._pending = bytearray(pending)
                raise

    async def _write_now(self, view: memoryview) -> None:
        self._is_broken = self._open_file.is_staged  # until it has succeeded
        self._position = await self._change(self._open_file.write(self._position, view))
        self._is_broken = False

    async def _change(self, op: Op[T]) -> T:
        return await self._run(self._open_file.changing(op, partial(self._go_back, self._position)))

    def _go_back(self, position: int) -> None:
        """The transaction that wrote from *position* on was rolled back: go back there, and drop what is buffered."""
        self._position = position
        self._pending = bytearray()
        self._ahead.drop()

    # -------------------------------------------------------------------------------------------- bytes and text

    async def flush(self) -> None:
        """Write what is buffered: of a NetworkFileSystem's file, all that was written can then be read by others."""
        self._check_open()
        await self._write_pending()

    async def fsync(self) -> None:
        """Return when all that was written is on the server's disk."""
        await self.flush()
        await self._run(self._open_file.sync())

    async def truncate(self, size: int | None = None) -> int:
        """Cut the file to *size* bytes, None: to the position; or let it grow to so many by a hole. Returns the size."""
        self._check_writes()
        await self._write_pending()
        target = checked_size(self._position if size is None else size)
        self._ahead.drop()
        await self._change(self._open_file.truncate(target))
        return target

    async def _seek(self, offset: int, whence: int) -> int:
        self._check_open()
        await self._write_pending()
        self._position = await self._run(seek(self._open_file, self._position, offset, whence))
        return self._position

    async def close(self) -> None:
        """Close the file; of a file of a Volume that was written, this is the commit. Closing it again does nothing."""
        if self._closed:
            return
        try:
            self._check_whole()
            await self._write_pending()
            await self._run(self._open_file.close())
        finally:
            self._closed = True
            if self._is_broken:
                self._open_file.drop()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not self._open_file.is_staged:
            await self.close()
        elif not self._closed:
            self._closed = True
            if kind is GeneratorExit:  # the event loop is gone: nothing can be awaited any more
                self._open_file.drop()
            else:
                await self._run(self._open_file.abandon())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> S:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    @abstractmethod
    async def read(self, size: int | None = -1) -> S:
        """Return the next *size* bytes or characters, fewer only at the end; None or -1: all that are left."""

    @abstractmethod
    async def readline(self, size: int | None = -1) -> S:
        """Return the next line with its end, at most *size* bytes or characters of it; an empty one at the end."""

    @abstractmethod
    async def write(self, data: Any) -> int:
        """Write *data*. Returns the number of bytes or characters."""

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write all of *lines*, which end as they are given."""
        for line in lines:
            await self.write(line)

    async def readlines(self) -> list[S]:
        """Return the lines from here to the end."""
        return [line async for line in self]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name!r} mode={self.mode!r}>"

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        self._closed = True
        lost = self._open_file.drop(in_transaction=self._bound is not None)
        if self._pending and not self._open_file.is_staged and self._bound is None:
            self._open_file.write_later([(self._position - len(self._pending), bytes(self._pending))])
        if lost:
            warnings.warn(f"file {self.name!r} was not closed; {lost}", ResourceWarning, stacklevel=2)


class AsyncBinaryFile(AsyncFile[bytes]):
    """A file of bytes."""

    async def read(self, size: int | None = -1) -> bytes:
        """Return the next *size* bytes, fewer only at the end; None or -1: all that are left."""
        self._check_reads()
        return await self._read_bytes(-1 if size is None else size)

    async def readinto(self, buffer: Any) -> int:
        """Read into *buffer*, as much as it takes or there is. Returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = await self.read(len(view))
        view[: len(data)] = data
        return len(data)

    async def readline(self, size: int | None = -1) -> bytes:
        """Return the next line with its end, at most *size* bytes of it; b"" at the end."""
        self._check_reads()
        return await self._read_line(-1 if size is None else size)

    async def write(self, data: ReadableBuffer) -> int:
        """Write *data*. Returns the number of bytes."""
        self._check_writes()
        return await self._write_bytes(data)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to *offset*, from the start (0), the current position (1) or the end (2). Returns the position."""
        return await self._seek(offset, whence)

    async def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._position


class AsyncTextFile(AsyncFile[str]):
    """A file of text. Its position is known in bytes only: it can be set to the start and to the end."""

    def __init__(
        self,
        *args: Any,
        encoding: str,
        errors: str | None,
        newline: str | None,
        line_buffering: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mode = self.mode.replace("b", "")
        self.encoding = encoding
        self.errors = errors or "strict"
        self._newline = newline
        self._line_buffering = line_buffering
        self._encoder = codecs.getincrementalencoder(encoding)(self.errors)
        if self._position:
            self._encoder.setstate(0)  # not at the start: no byte order mark
        self._start_decoding()

    def _start_decoding(self) -> None:
        decoder: Any = codecs.getincrementaldecoder(self.encoding)(self.errors)
        if self._newline in (None, ""):
            decoder = io.IncrementalNewlineDecoder(decoder, translate=self._newline is None)
        self._decoder = decoder
        self._text = ""  # decoded, and not returned yet
        self._at_end = False

    def _go_back(self, position: int) -> None:
        super()._go_back(position)
        self._start_decoding()

    async def _decode_more(self) -> bool:
        """Decode more of the file. False: it has ended."""
        if self._at_end:
            return False
        data = await self._read_some(_CHUNK)
        self._at_end = not data
        self._text += self._decoder.decode(data, final=not data)
        return True

    async def read(self, size: int | None = -1) -> str:
        """Return the next *size* characters, fewer only at the end; None or -1: all that are left."""
        self._check_reads()
        await self._write_pending()
        if size is None or size < 0:
            data = await self._read_bytes(-1)
            everything: str = self._text + self._decoder.decode(data, final=True)
            self._start_decoding()
            return everything
        while len(self._text) < size and await self._decode_more():
            pass
        text, self._text = self._text[:size], self._text[size:]
        self._at_end = self._at_end and bool(self._text)  # others may append to the file
        return text

    async def readline(self, size: int | None = -1) -> str:
        """Return the next line with its end, at most *size* characters of it; "" at the end."""
        self._check_reads()
        await self._write_pending()
        searched = 0
        while not (end := self._line_end(searched)):
            searched = max(0, len(self._text) - 1)
            if not await self._decode_more():
                end = len(self._text)
                break
        if size is not None and size >= 0:
            end = min(end, size)
        line, self._text = self._text[:end], self._text[end:]
        self._at_end = self._at_end and bool(self._text)
        return line

    def _line_end(self, start: int) -> int:
        """Where the first line of the decoded text ends; 0: not within it."""
        if self._newline in (None, "\n"):
            return self._text.find("\n", start) + 1
        if self._newline == "":
            ends = [at for at in (self._text.find("\n", start), self._text.find("\r", start)) if at >= 0]
            if not ends:
                return 0
            end = min(ends) + 1
            return end + (self._text[end - 1 : end + 1] == "\r\n")
        at = self._text.find(self._newline or "", max(0, start - 1))
        return 0 if at < 0 else at + len(self._newline or "")

    async def write(self, data: str) -> int:
        """Write *data*. Returns the number of characters."""
        self._check_writes()
        if not isinstance(data, str):
            raise TypeError(f"write() argument must be str, not {type(data).__name__}")
        if self._text:
            raise io.UnsupportedOperation(
                "text was read ahead, so nobody knows where to write; seek to the start or the end first"
            )
        ended = "\n" in data
        newline = os.linesep if self._newline is None else self._newline
        if newline not in ("", "\n"):
            lines = data.replace("\n", newline)
        else:
            lines = data
        await self._write_bytes(self._encoder.encode(lines))
        if self._line_buffering and ended:
            await self.flush()
        return len(data)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to the start (0, 0) or the end (0, 2)."""
        if offset or whence not in (os.SEEK_SET, os.SEEK_END):
            raise io.UnsupportedOperation(
                "in text, seek to the start (0, 0) or the end (0, 2) only; open the file as bytes"
            )
        position = await self._seek(offset, whence)
        self._start_decoding()
        self._encoder.reset()
        if position:
            self._encoder.setstate(0)
        return position

    async def tell(self) -> int:
        """Refused: see the class."""
        raise io.UnsupportedOperation("the position in a text is not known in characters; open the file as bytes")


def async_file_object(file: FileAt, runner: Runner, bound: Any) -> Any:
    open_file, mode, position = file
    buffering = mode.buffering
    buffer = buffering if buffering > 1 else open_file.write_buffer
    if not mode.is_text:
        return AsyncBinaryFile(open_file, runner, bound, mode, position, buffered=buffering != 0, write_buffer=buffer)
    return AsyncTextFile(
        open_file,
        runner,
        bound,
        mode,
        position,
        buffered=True,
        write_buffer=buffer,
        encoding=mode.encoding or "utf-8",
        errors=mode.errors,
        newline=mode.newline,
        line_buffering=buffering == 1,
    )
