"""A random reader, writer, truncater and mapper of one file against a model of it, in the manner of fsx."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

from tests.mount.checks.tools import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

PAGE = mmap.PAGESIZE


def exercise(path: Path, *others: Path, seed: int, operations: int, size_max: int = 300_000) -> None:
    """
    Do *operations* random ones on the file *path*; fail where it differs from what they should have made of it.

    Args:
        others: paths of the same file, as in another mount. Then each operation opens one of them, and closes it at its end.
    """
    Exerciser([path, *others], random.Random(seed), size_max).run(operations)


class Exerciser:
    def __init__(self, paths: list[Path], choose: random.Random, size_max: int) -> None:
        self._paths = paths
        self._path = paths[0]
        self._choose = choose
        self._size_max = size_max
        self._model = bytearray()
        self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        self._done: list[str] = []

    def run(self, operations: int) -> None:
        verbs = (
            *(self._read, self._read, self._write, self._write, self._map_read, self._map_write, self._truncate),
            *(self._punch, self._zero, self._allocate, self._copy, self._reopen, self._sync, self._append, self._drop),
        )
        try:
            for _ in range(operations):
                verb = self._choose.choice(verbs)
                if len(self._paths) > 1:
                    self._path = self._choose.choice(self._paths)
                    self._reopen()
                self._done.append(verb.__name__)
                try:
                    verb()
                    assert os.fstat(self._fd).st_size == len(self._model), "size"
                except Exception as exc:
                    exc.add_note(f"operation {len(self._done)}, after {self._done[-8:]}")
                    raise
            self._same(os.pread(self._fd, len(self._model) + 1, 0), 0, len(self._model))
        finally:
            os.close(self._fd)

    def _read(self) -> None:
        offset, length = self._range(len(self._model) + 1000)
        self._same(os.pread(self._fd, length, offset), offset, length)

    def _write(self) -> None:
        offset, length = self._range(self._size_max)
        data = self._choose.randbytes(length)
        assert os.pwrite(self._fd, data, offset) == length
        self._put(offset, data)

    def _append(self) -> None:
        if len(self._model) < self._size_max:
            data = self._choose.randbytes(self._choose.randint(1, 5000))
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            os.write(fd, data)
            os.close(fd)
            self._model += data

    def _map_read(self) -> None:
        if self._model:
            with mmap.mmap(self._fd, len(self._model), prot=mmap.PROT_READ) as mapped:
                offset, length = self._range(len(self._model))
                self._same(mapped[offset : offset + length], offset, length)
                size = len(self._model)
                if size % PAGE:
                    self._zeros_behind_the_end(size)

    def _zeros_behind_the_end(self, size: int) -> None:
        rest = PAGE - size % PAGE
        with mmap.mmap(self._fd, 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[size - size % PAGE :] == self._model[size - size % PAGE :]
        assert rest > 0

    def _map_write(self) -> None:
        if self._model:
            with mmap.mmap(self._fd, len(self._model)) as mapped:
                offset, length = self._range(len(self._model))
                data = self._choose.randbytes(min(length, len(self._model) - offset))
                mapped[offset : offset + len(data)] = data
                if self._choose.random() < 0.5:
                    mapped.flush()
            self._put(offset, data)

    def _truncate(self) -> None:
        size = self._choose.randint(0, self._size_max)
        if self._choose.random() < 0.5:
            os.ftruncate(self._fd, size)
        else:
            os.truncate(self._path, size)
        del self._model[size:]
        self._model += bytes(size - len(self._model))

    def _punch(self) -> None:
        offset, length = self._range(self._size_max)
        if length:
            fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            end = min(offset + length, len(self._model))
            if offset < end:
                self._model[offset:end] = bytes(end - offset)

    def _zero(self) -> None:
        offset, length = self._range(self._size_max)
        if length:
            fallocate(self._fd, ZERO_RANGE, offset, length)
            self._put(offset, bytes(length))

    def _allocate(self) -> None:
        offset, length = self._range(self._size_max)
        if length:
            fallocate(self._fd, 0, offset, length)
            self._model += bytes(max(0, offset + length - len(self._model)))

    def _copy(self) -> None:
        offset, length = self._range(len(self._model) + 1)
        target = self._choose.randint(0, self._size_max)
        length = min(length, len(self._model) - offset)
        if length > 0 and (target + length <= offset or offset + length <= target):
            copied = os.copy_file_range(self._fd, self._fd, length, offset, target)
            assert 0 < copied <= length
            self._put(target, bytes(self._model[offset : offset + copied]))

    def _reopen(self) -> None:
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)

    def _sync(self) -> None:
        os.fsync(self._fd)

    def _drop(self) -> None:
        """Read anew from the server what comes next."""
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _range(self, end: int) -> tuple[int, int]:
        offset = self._choose.randint(0, max(end - 1, 0))
        longest = min(end - offset, self._choose.choice((10, 5000, 70_000, 200_000)))
        return offset, self._choose.randint(0, max(longest, 0))

    def _put(self, offset: int, data: bytes) -> None:
        if data:
            self._model += bytes(max(0, offset - len(self._model)))
            self._model[offset : offset + len(data)] = data

    def _same(self, found: bytes, offset: int, length: int) -> None:
        expected = bytes(self._model[offset : offset + length])
        if found != expected:
            at = next(
                (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
                min(len(found), len(expected)),
            )
            raise AssertionError(
                f"byte {offset + at}: {found[at : at + 8]!r} instead of {expected[at : at + 8]!r}; "
                f"{len(found)} bytes instead of {len(expected)} at {offset}"
            )
