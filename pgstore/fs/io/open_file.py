"""Open files: what file objects rest on, for each kind of file.

The methods are operations on byte ranges; positions, buffers and text are the file object's. It reads through `ReadAhead`, which
fetches growing pieces of what is read in order, and otherwise exactly what is asked for.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.client.session import Session
from pgstore.client.undo import on_rollback
from pgstore.core import clock
from pgstore.core.operation import Call, Op
from pgstore.fs.content import in_place
from pgstore.fs.content.blobs import (
    BATCH_BYTES,
    COPY_BYTES,
    LARGE_FILE_BYTES,
    Bytes,
    Piece,
    copy_blob,
    copy_file,
    filled,
    read_blob,
)
from pgstore.fs.content.in_order import InOrder
from pgstore.fs.content.staged import Staged
from pgstore.fs.model import Contents
from pgstore.fs.retention.file_pin import FilePin

T = TypeVar("T")
READ_AHEAD_MIN: Final = 64 * 1024
LIVE_SECONDS: Final = 1.0  # how long what was read ahead of a file that others write may be used


class OpenFile(ABC):
    """An open file. Its user does not read one that is not open for reading, nor write one that is not open for writing."""

    path: str
    can_read = False
    can_write = False
    can_seek = True  # else all is written in order
    is_append = False  # every write goes to the end
    is_staged = False  # what is written becomes the file with `close`, all or nothing
    read_ahead_max = 0  # bytes
    keeps_seconds = 0.0  # how long what was read may be used
    write_buffer = 0  # bytes that a file object collects before it writes

    def read(self, offset: int, length: int) -> Op[list[bytes]]:
        """Bytes from *offset* on: at most *length*, perhaps fewer, none only at the end."""
        raise AssertionError("not open for reading")

    def read_rest(self, offset: int, take: Callable[[Bytes], object]) -> Op[None]:
        """Call *take* with each piece from *offset* to the end."""
        raise AssertionError("not open for reading")

    def write(self, offset: int, data: bytes | memoryview) -> Op[int]:
        """Write *data*. Returns where it ends."""
        raise AssertionError("not open for writing")

    def truncate(self, size: int) -> Op[None]:
        raise AssertionError("not open for writing")

    @abstractmethod
    def size(self) -> Op[int]:
        """How many bytes it has now."""

    def sync(self) -> Op[None]:
        """Return when what was written, and others can read, is on the disk."""
        yield from ()

    def close(self) -> Op[None]:
        """Close the file, keeping what was written."""
        yield from ()

    def abandon(self) -> Op[None]:
        """Close the file after an error in the block that writes it."""
        yield from ()

    def drop(self, *, in_transaction: bool = False) -> str:
        """
        Close the file when its file object is garbage. May run in a finaliser, so no I/O. Returns a warning, "" if nothing is lost.

        Args:
            in_transaction: the file belongs to a transaction, in which nothing can be written later.
        """
        return ""

    def changing(self, op: Op[T], undo: Callable[[], None]) -> Op[T]:
        """Run *op*, which changes the file, and have *undo* called if it is rolled back. Staged contents find out by themselves."""
        if not self.is_staged:
            yield from on_rollback(undo, of=self)
        return (yield from op)

    def write_later(self, pieces: list[tuple[int, bytes]]) -> None:
        """Write in the background what a file object had in its buffers when it became garbage."""
        raise AssertionError("nothing of it is kept")


class OpenFixedFile(OpenFile):
    """A file of a Volume, open for reading. It stays as it was when it was opened."""

    can_read = True
    read_ahead_max = BATCH_BYTES
    keeps_seconds = float("inf")

    def __init__(self, path: str, store_id: int, contents: Contents, pin: FilePin, session: Session) -> None:
        self.path = path
        self._pin = pin
        self._store_id = store_id
        self._contents = contents
        self._session = session
        self._end = 0  # of the last read
        self._ahead: InOrder[list[Piece]] | None = None

    def read(self, offset: int, length: int) -> Op[list[bytes]]:
        size, blob_id, inline = self._contents
        end = min(offset + min(length, BATCH_BYTES), size)
        if offset >= end:
            return []
        if blob_id is None:
            return [(inline or b"")[offset:end]]
        yield from self._pin.ensure()
        # As many as `ReadAhead` comes to after a while.
        if size > LARGE_FILE_BYTES and length >= BATCH_BYTES and offset == self._end:
            ahead = yield from self._read_ahead(blob_id, offset)
            if ahead is not None:
                self._end, pieces = ahead
                return filled(pieces, offset, self._end)
        self._end = end
        self._drop_ahead()
        return filled((yield from read_blob(self._store_id, blob_id, offset, end)), offset, end)

    def _read_ahead(self, blob_id: int, offset: int) -> Op[tuple[int, list[Piece]] | None]:
        """The piece of a large file at *offset*, and where it ends, while the next ones are being read; None: in a transaction."""
        if self._ahead is None or self._ahead.at != offset:
            self._drop_ahead()
            if (yield from in_transaction()):
                return None
            read = partial(read_blob, self._store_id, blob_id)
            self._ahead = InOrder(self._session.client, read, offset, self._contents.size_bytes)
        return (yield Call(self._ahead.next))  # type: ignore[no-any-return]

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def read_rest(self, offset: int, take: Callable[[Bytes], object]) -> Op[None]:
        size, blob_id, inline = self._contents
        if blob_id is None:
            take((inline or b"")[offset:])
            return
        if size - offset <= BATCH_BYTES:
            for piece in (yield from self.read(offset, max(0, size - offset))):
                take(piece)
            return
        if size - offset > LARGE_FILE_BYTES:
            yield from self._pin.ensure()
            while (ahead := (yield from self._read_ahead(blob_id, offset))) is not None:
                for piece in filled(ahead[1], offset, ahead[0]):
                    take(piece)
                offset = ahead[0]
                yield from self._pin.ensure()
        buffer = bytearray(min(COPY_BYTES, size - offset))
        while offset < size:
            end = min(offset + len(buffer), size)
            yield from self._pin.ensure()
            for view in filled((yield from copy_blob(self._store_id, blob_id, offset, end, buffer)), offset, end):
                take(view)
            offset = end

    def size(self) -> Op[int]:
        yield from ()
        return self._contents.size_bytes

    def close(self) -> Op[None]:
        yield from ()
        self._drop_ahead()
        self._pin.release()

    def drop(self, *, in_transaction: bool = False) -> str:
        self._drop_ahead()
        return super().drop(in_transaction=in_transaction)


class OpenStagedFile(OpenFile):
    """A file of a Volume, open for writing. `close` puts all of it in place; until then, and after an error, all is as before."""

    can_write = True
    is_staged = True
    write_buffer = 256 * 1024

    def __init__(
        self, path: str, staged: Staged, session: Session, commit: Callable[[Staged], Op[None]], *, append: bool
    ) -> None:
        """
        Args:
            commit: makes the file of what was staged, in a transaction.
        """
        self.path = path
        self.is_append = append
        self._staged = staged
        self._session = session
        self._history = session.history
        self._commit = commit

    def _check_history(self) -> None:
        if self._session.history is not self._history:
            raise errors.StaleFile(
                f"file {self.path!r} was opened before the database was replaced, by a restore or another server; write it again",
                self.path,
            )

    def write(self, offset: int, data: bytes | memoryview) -> Op[int]:
        self._check_history()
        if self.is_append:
            offset = self._staged.size
        yield from self._staged.write(offset, data)
        return offset + len(data)

    def truncate(self, size: int) -> Op[None]:
        self._check_history()
        yield from self._staged.truncate(size)

    def size(self) -> Op[int]:
        yield from ()
        return self._staged.size

    def close(self) -> Op[None]:
        try:
            self._check_history()
            yield from self._staged.finish()
            yield from self._commit(self._staged)
            # If the commit is rolled back, the contents have no file, and nobody else abandons them.
            yield from on_rollback(self.drop)
        except GeneratorExit:
            raise
        except BaseException:
            self.drop()
            raise

    def abandon(self) -> Op[None]:
        try:
            yield from self._staged.abandon()
        except (errors.TransactionFailed, errors.InvalidError):
            return  # the transaction has failed, and what was staged in it goes with it
        except GeneratorExit:
            raise
        except BaseException:
            self.drop()
            raise

    def drop(self, *, in_transaction: bool = False) -> str:
        abandoning = self._staged.abandoning()
        if abandoning is not None:
            self._session.later(abandoning)
        return "nothing of what was written to it is kept"


class OpenInPlaceFile(OpenFile):
    """A file of a NetworkFileSystem. All see at once what anybody writes, and it stays as long as it is open."""

    read_ahead_max = BATCH_BYTES
    keeps_seconds = LIVE_SECONDS
    write_buffer = in_place.CALL_BYTES

    def __init__(
        self,
        path: str,
        store_id: int,
        ino: int,
        session: Session,
        pin: FilePin,
        *,
        read: bool,
        write: bool,
        append: bool,
    ) -> None:
        self.path = path
        self.can_read = read
        self.can_write = write
        self.is_append = append
        self._store_id = store_id
        self._ino = ino
        self._wrote = False
        self._written_to: int | None = None  # the server of the first write that may not be on its disk
        self._session = session
        self._pin = pin

    def read(self, offset: int, length: int) -> Op[list[bytes]]:
        yield from self._pin.ensure()
        _, pieces = yield from in_place.read_at(self._store_id, self._ino, offset, min(length, BATCH_BYTES))
        return pieces

    def read_rest(self, offset: int, take: Callable[[Bytes], object]) -> Op[None]:
        yield from self._pin.ensure()
        # Most files are small: one statement, which sees one state. The rest of a large file is read by COPY.
        size, pieces = yield from in_place.read_at(self._store_id, self._ino, offset, BATCH_BYTES)
        for piece in pieces:
            take(piece)
        offset += BATCH_BYTES
        buffer = bytearray(COPY_BYTES) if offset < size else bytearray()
        while offset < size:
            end = min(offset + COPY_BYTES, size)
            yield from self._pin.ensure()
            size, present = yield from copy_file(self._store_id, self._ino, offset, end, buffer)
            end = max(offset, min(end, size))
            for view in filled(present, offset, end):
                take(view)
            offset = end

    def write(self, offset: int, data: bytes | memoryview) -> Op[int]:
        yield from self._pin.ensure()
        if not data:
            return offset
        durable = self._begin_to_write()
        if self.is_append:
            return (yield from in_place.append(self._store_id, self._ino, data, durable=durable))
        yield from in_place.write_at(self._store_id, self._ino, offset, data, durable=durable)
        return offset + len(data)

    def truncate(self, size: int) -> Op[None]:
        yield from self._pin.ensure()
        yield from in_place.truncate(self._store_id, self._ino, size, durable=self._begin_to_write())

    def _begin_to_write(self) -> bool:
        """Note what `sync` has to know. Returns whether the write has to wait for the disk: a crash would go unnoticed."""
        self._wrote = True
        server = self._session.server
        if self._written_to is None:
            self._written_to = server
        return server is None

    def size(self) -> Op[int]:
        yield from self._pin.ensure()
        size, _ = yield from in_place.read_at(self._store_id, self._ino, 0, 1)
        return size

    def sync(self) -> Op[None]:
        yield from in_place.sync(self._store_id)
        written_to, self._written_to = self._written_to, None
        if written_to not in (None, self._session.server):
            raise errors.OutcomeUnknown(
                f"the server crashed or was replaced after {self.path!r} had been written to, and before that was on its disk: "
                "what was written since the last fsync may be lost; write it again"
            )

    def close(self) -> Op[None]:
        try:
            if self._wrote:
                yield from self.sync()
        finally:
            self._pin.release()

    def abandon(self) -> Op[None]:
        yield from self.close()  # what was written in place stays, as on any file system

    def drop(self, *, in_transaction: bool = False) -> str:
        if self.can_write and not in_transaction:
            return "what it had not written yet is written later"
        self._pin.release()
        return "what it had not written yet is lost" if self.can_write else ""

    def write_later(self, pieces: list[tuple[int, bytes]]) -> None:
        def write() -> Op[None]:
            try:
                while pieces:
                    yield from self.write(*pieces[0])
                    del pieces[0]
                yield from self.close()
            except (errors.StoreUnavailable, errors.TransactionFailed):
                raise  # the session tries again
            except (errors.NotFoundError, errors.StaleFile):
                return  # the file is gone
            except errors.Error as exc:
                # The session must not try this again: other work waits behind it.
                self._pin.release()
                lost = f"file {self.path!r} was not closed, and what it had not written is lost: {exc}"
                warnings.warn(lost, ResourceWarning, stacklevel=1)

        self._session.later(write)


class ReadAhead:
    """What was last read of a file: a window that moves on and grows while the file is read in order."""

    def __init__(self, open_file: OpenFile, *, enabled: bool) -> None:
        self._open_file = open_file
        self._enabled = enabled
        self._length = READ_AHEAD_MIN // 2  # bytes of the last window
        self.drop()

    def drop(self, next_offset: int = 0) -> None:
        """Forget what was read. *next_offset*: reading there counts as reading in order."""
        self._pieces: list[bytes] = []
        self._starts: list[int] = []
        self._end = next_offset
        self._until = 0.0

    def copy(self, offset: int, buffer: memoryview, *, fetched: bool = False) -> int:
        """
        Copy what the window has at *offset* into *buffer*. Returns the number of bytes, perhaps 0.

        Of a file that others write it copies all that *buffer* takes or nothing: two parts could be of two states of the file.

        Args:
            fetched: the window was fetched for this call.
        """
        if not fetched and (
            not self._starts
            or offset >= self._end
            or clock.monotonic() > self._until
            or (len(buffer) > self._end - offset and self._open_file.keeps_seconds < float("inf"))
        ):
            return 0
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return 0
        done = 0
        while done < len(buffer) and index < len(self._pieces):
            start = offset + done - self._starts[index]
            piece = memoryview(self._pieces[index])[start : start + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)
            index += 1
        return done

    def fetch(self, offset: int, length: int) -> Op[None]:
        """Read a window that begins at *offset*, of about *length* bytes; of at least one, unless that is the end of the file."""
        if self._enabled and offset == self._end:
            self._length = min(max(2 * self._length, length), self._open_file.read_ahead_max)
            length = max(length, self._length)
        else:
            self._length = READ_AHEAD_MIN // 2
        self.drop(offset)
        if self._open_file.keeps_seconds < float("inf"):
            yield from on_rollback(self.drop, of=self)  # what it shows may be rolled back
        until = clock.monotonic() + self._open_file.keeps_seconds
        for piece in (yield from self._open_file.read(offset, length)):
            self._starts.append(self._end)
            self._pieces.append(piece)
            self._end += len(piece)
        self._until = until if self._enabled else 0.0
