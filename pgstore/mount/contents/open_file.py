"""Open files of a mount: one class for both kinds of store, over the contents that all open files of an inode share."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import Final

from pgstore.fs.content.block_reader import BlockReader
from pgstore.mount.contents.live import LiveContents
from pgstore.mount.contents.under_way import COPY_BYTES, UnderWay, check_size
from pgstore.mount.contents.volume import VolumeContents
from pgstore.mount.protocol import Bytes, OpenFile

_LOG: Final = logging.getLogger("pgstore")
FALLOC_FL_KEEP_SIZE: Final = 1  # linux/falloc.h
FALLOC_FL_PUNCH_HOLE: Final = 2
FALLOC_FL_ZERO_RANGE: Final = 16


class ContentsFile(OpenFile):
    """
    A file that was opened with *flags* of open(2).

    Of it `truncate` is left to do where O_TRUNC asks for it; who opens it does that.
    """

    def __init__(self, contents: UnderWay, flags: int) -> None:
        self.contents = contents
        self.ino = contents.ino
        access = flags & os.O_ACCMODE
        self.can_write = access in (os.O_WRONLY, os.O_RDWR)
        self.can_read = access in (os.O_RDONLY, os.O_RDWR)
        self.is_append = bool(flags & os.O_APPEND)
        self.needs_flush = self.can_write
        self._reader = BlockReader(contents.shared.reading)
        self._heard = contents.failures.heard
        contents.open(write=self.can_write)

    def read(self, offset: int, length: int) -> Sequence[Bytes]:
        return self.contents.read(offset, length, self._reader)

    def read_now(self, offset: int, length: int) -> Sequence[Bytes] | None:
        return self.contents.read_now(offset, length, self._reader)

    def write(self, offset: int, data: Bytes) -> None:
        self._check_writes()
        if self.is_append:
            self.contents.append(data)
        else:
            self.contents.write(offset, data)

    def write_now(self, offset: int, data: Bytes) -> bool:
        self._check_writes()
        if self.is_append:
            return self.contents.append_now(data)
        return self.contents.write_now(offset, data)

    def write_back(self, offset: int, data: Bytes) -> None:
        self._check_writes()
        self.contents.write(offset, data)

    def write_back_now(self, offset: int, data: Bytes) -> bool:
        self._check_writes()
        return self.contents.write_now(offset, data)

    def _check_writes(self) -> None:
        if not self.can_write:
            raise OSError(errno.EBADF, "not open for writing")

    def allocate(self, mode: int, offset: int, length: int) -> None:
        self._check_writes()
        end = offset + length
        check_size(end)
        self.contents.look()
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
            self.contents.zero(offset, end)
        if not mode & (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) and end > self.contents.size_bytes:
            self.contents.truncate(end)

    def seek(self, offset: int, whence: int) -> int:
        return self.contents.seek(offset, whence)

    def copy_to(self, offset: int, target: OpenFile, target_offset: int, length: int) -> int:
        done = 0
        while done < length:
            pieces = self.read(offset + done, min(COPY_BYTES, length - done))
            data = b"".join(pieces)
            if not data:
                break
            target.write(target_offset + done, data)
            done += len(data)
        return done

    def flush(self) -> None:
        if self.can_write:
            self._bring(self.contents.flush)

    def flush_now(self) -> bool:
        return not self.can_write or (self.contents.is_flushed and not self.contents.failures.is_news(self._heard))

    def sync(self) -> None:
        self._bring(self.contents.sync)

    def _bring(self, bring: Callable[[], None]) -> None:
        failures = self.contents.failures
        self._heard, error = failures.since(self._heard)
        if error is not None:
            _say(error)
            raise error
        try:
            bring()
        except OSError as exc:  # which all others who have the file open are to hear of, too
            self._heard = failures.note(exc)
            _say(exc)
            raise

    def release(self) -> None:
        self.contents.close(write=self.can_write)


def _say(exc: OSError) -> None:
    if exc.errno == errno.EIO:  # all that the program is told
        _LOG.error("a program is told of an input/output error: %s", exc)


class VolumeFile(ContentsFile):
    """A file of a Volume."""

    contents: VolumeContents


class LiveFile(ContentsFile):
    """A file of a NetworkFileSystem."""

    contents: LiveContents
