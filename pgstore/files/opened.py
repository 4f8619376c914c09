"""Open files: what a file object asks for, whatever kind of file it is on.

All methods are operations on byte ranges; positions, buffers and text are the file object's business. `ReadAhead` stands between
the two for reading: what is read in order is fetched in growing pieces, anything else exactly as it is asked for.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client.session import Session
from pgstore.client.undo import on_rollback
from pgstore.core.clock import monotonic
from pgstore.core.operation import Op
from pgstore.files import in_place
from pgstore.files.contents import (
    BATCH_BYTES,
    COPY_BYTES,
    Bytes,
    Contents,
    copy_blob,
    copy_file,
    filled,
    read_blob,
)
from pgstore.files.keeping import Keeping
from pgstore.files.staged import Staged

T = TypeVar("T")
READ_AHEAD_MIN: Final = 64 * 1024
LIVE_SECONDS: Final = 1.0  # what was read ahead of a file that others write is used for so long


class Opened(ABC):
    """An open file. What it is not open for is not asked of it."""

    path: str
    can_read = False
    can_write = False
    is_append = False  # every write goes to the end
    is_staged = False  # what is written is kept with `close`, all or nothing
    read_ahead_max = 0
    keeps_seconds = 0.0  # how long what was read may be used
    write_buffer = 0  # how much to write at once

    def read(self, offset: int, length: int) -> Op[list[bytes]]:
        """The next bytes from *offset*, at most *length* and perhaps fewer; none at the end only."""
        raise AssertionError("not open for reading")

    def read_rest(self, offset: int, take: Callable[[Bytes], object]) -> Op[None]:
        """Give all from *offset* to the end to *take*, piece by piece."""
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
        """Return when what was written, and is seen by others, is on the disk."""
        yield from ()

    def close(self) -> Op[None]:
        """End it, and keep what was written."""
        yield from ()

    def abandon(self) -> Op[None]:
        """End it after an error of the caller's."""
        yield from ()

    def drop(self, *, in_transaction: bool = False) -> str:
        """
        Called when nobody has it any more, also from a finaliser: no I/O. Returns what to warn about, if anything is lost.

        *in_transaction*: it belongs to one, in which nothing is written later.
        """
        return ""

    def changing(self, op: Op[T], undo: Callable[[], None]) -> Op[T]:
        """Run *op*, which changes the file, and have *undo* called if that is rolled back; new contents know by themselves."""
        if not self.is_staged:
            yield from on_rollback(undo, of=self)
        return (yield from op)

    def write_later(self, pieces: list[tuple[int, bytes]]) -> None:
        """Write what a dropped file object still had in its buffers, when there is time."""
        raise AssertionError("nothing of it is kept")


class OpenedContents(Opened):
    """A file of a Volume, open for reading: it stays as it was when it was opened."""

    can_read = True
    read_ahead_max = BATCH_BYTES
    keeps_seconds = float("inf")

    def __init__(self, path: str, store_id: int, contents: Contents, keeping: Keeping) -> None:
        self.path = path
        self._keeping = keeping
        self._store_id = store_id
        self._contents = contents

    def read(self, offset: int, length: int) -> Op[list[bytes]]:
        size, blob_id, inline = self._contents
        end = min(offset + min(length, BATCH_BYTES), size)
        if offset >= end:
            return []
        if blob_id is None:
            return [(inline or b"")[offset:end]]
        yield from self._keeping.keep()
        return filled((yield from read_blob(self._store_id, blob_id, offset, end)), offset, end)

    def read_rest(self, offset: int, take: Callable[[Bytes], object]) -> Op[None]:
        size, blob_id, inline = self._contents
        if blob_id is None:
            take((inline or b"")[offset:])
            return
        if size - offset <= BATCH_BYTES:
            for piece in (yield from self.read(offset, max(0, size - offset))):
                take(piece)
            return
        buffer = bytearray(min(COPY_BYTES, size - offset))
        while offset < size:
            end = min(offset + len(buffer), size)
            yield from self._keeping.keep()
            for view in filled((yield from copy_blob(self._store_id, blob_id, offset, end, buffer)), offset, end):
                take(view)
            offset = end

    def size(self) -> Op[int]:
        yield from ()
        return self._contents.size_bytes

    def close(self) -> Op[None]:
        yield from ()
        self._keeping.release()


class OpenedStaged(Opened):
    """A file of a Volume, open for writing: with `close` it is there, all of it; until then, and after an error, as it was."""

    can_write = True
    is_staged = True
    write_buffer = 256 * 1024

    def __init__(
        self, path: str, staged: Staged, session: Session, commit: Callable[[Staged], Op[None]], *, append: bool
    ) -> None:
        """
        Args:
            commit: makes a file of what was staged, in a transaction.
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
            # The contents then have no file, and it is closed: nobody else would give them up.
            yield from on_rollback(self.drop)
        except GeneratorExit:
            raise
        except BaseException:
            self.drop()
            raise

    def abandon(self) -> Op[None]:
        try:
            yield from self._staged.leave()
        except (errors.TransactionFailed, errors.InvalidError):
            return  # in a transaction that has failed nothing can be done, and nothing needs to be
        except GeneratorExit:
            raise
        except BaseException:
            self.drop()
            raise

    def drop(self, *, in_transaction: bool = False) -> str:
        leaving = self._staged.leaving()
        if leaving is not None:
            self._session.later(leaving)
        return "nothing of what was written to it is kept"


class OpenedInPlace(Opened):
    """A file of a NetworkFileSystem: what anybody writes is there for all who read, and stays when its name goes."""

    read_ahead_max = BATCH_BYTES
    keeps_seconds = LIVE_SECONDS
    write_buffer = in_place.CALL_BYTES

    def __init__(
        self,
        path: str,
        store_id: int,
        ino: int,
        session: Session,
        keeping: Keeping,
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
        self._session = session
        self._keeping = keeping

    def read(self, offset: int, length: int) -> Op[list[bytes]]:
        yield from self._keeping.keep()
        _, pieces = yield from in_place.read_at(self._store_id, self._ino, offset, min(length, BATCH_BYTES))
        return pieces

    def read_rest(self, offset: int, take: Callable[[Bytes], object]) -> Op[None]:
        yield from self._keeping.keep()
        # Most files are small: one look, of one state. The rest of a large one as quickly as it goes.
        size, pieces = yield from in_place.read_at(self._store_id, self._ino, offset, BATCH_BYTES)
        for piece in pieces:
            take(piece)
        offset += BATCH_BYTES
        buffer = bytearray(COPY_BYTES) if offset < size else bytearray()
        while offset < size:
            end = min(offset + COPY_BYTES, size)
            yield from self._keeping.keep()
            size, present = yield from copy_file(self._store_id, self._ino, offset, end, buffer)
            end = max(offset, min(end, size))
            for view in filled(present, offset, end):
                take(view)
            offset = end

    def write(self, offset: int, data: bytes | memoryview) -> Op[int]:
        yield from self._keeping.keep()
        if not data:
            return offset
        self._wrote = True
        if self.is_append:
            return (yield from in_place.append(self._store_id, self._ino, data))
        yield from in_place.write_at(self._store_id, self._ino, offset, data)
        return offset + len(data)

    def truncate(self, size: int) -> Op[None]:
        yield from self._keeping.keep()
        self._wrote = True
        yield from in_place.truncate(self._store_id, self._ino, size)

    def size(self) -> Op[int]:
        yield from self._keeping.keep()
        size, _ = yield from in_place.read_at(self._store_id, self._ino, 0, 1)
        return size

    def sync(self) -> Op[None]:
        yield from in_place.sync(self._store_id)

    def close(self) -> Op[None]:
        try:
            if self._wrote:
                yield from in_place.sync(self._store_id)
        finally:
            self._keeping.release()

    def abandon(self) -> Op[None]:
        yield from self.close()  # what was written was written, as on any file system

    def drop(self, *, in_transaction: bool = False) -> str:
        if self.can_write and not in_transaction:
            return "what it had not written yet is written later"
        self._keeping.release()
        return "what it had not written yet is lost" if self.can_write else ""

    def write_later(self, pieces: list[tuple[int, bytes]]) -> None:
        def write() -> Op[None]:
            try:
                while pieces:
                    yield from self.write(*pieces[0])
                    del pieces[0]
                yield from self.close()
            except (errors.StoreUnavailable, errors.TransactionFailed):
                raise  # to be tried again
            except (errors.NotFoundError, errors.StaleFile):
                return  # nobody will miss it
            except errors.Error as exc:
                # Not to be tried again: what others left to be done later waits behind it.
                self._keeping.release()
                lost = f"file {self.path!r} was not closed, and what it had not written is lost: {exc}"
                warnings.warn(lost, ResourceWarning, stacklevel=1)

        self._session.later(write)


class ReadAhead:
    """A window on an open file, which moves and grows with whoever reads in order."""

    def __init__(self, opened: Opened, *, enabled: bool) -> None:
        self._opened = opened
        self._enabled = enabled
        self._length = READ_AHEAD_MIN // 2  # of the last window
        self.drop()

    def drop(self, next_offset: int = 0) -> None:
        """Forget what was read. *next_offset*: where reading on would count as reading in order."""
        self._pieces: list[bytes] = []
        self._starts: list[int] = []
        self._end = next_offset
        self._until = 0.0

    def copy(self, offset: int, buffer: memoryview, *, fetched: bool = False) -> int:
        """
        Copy what the window has at *offset* into *buffer*; perhaps nothing. Returns the number of bytes.

        Of a file that others write, only what fills *buffer*: two halves of it might be of two states. *fetched*: they are not,
        it was fetched for this.
        """
        if not fetched and (
            not self._starts
            or offset >= self._end
            or monotonic() > self._until
            or (len(buffer) > self._end - offset and self._opened.keeps_seconds < float("inf"))
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
        """Have the window begin at *offset*, with at least one byte unless that is the end; with *length* if that is not much."""
        if self._enabled and offset == self._end:
            self._length = min(max(2 * self._length, length), self._opened.read_ahead_max)
            length = max(length, self._length)
        else:
            self._length = READ_AHEAD_MIN // 2
        self.drop(offset)
        if self._opened.keeps_seconds < float("inf"):
            yield from on_rollback(self.drop, of=self)  # what it shows may be undone
        until = monotonic() + self._opened.keeps_seconds
        for piece in (yield from self._opened.read(offset, length)):
            self._starts.append(self._end)
            self._pieces.append(piece)
            self._end += len(piece)
        self._until = until if self._enabled else 0.0
