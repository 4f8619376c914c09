"""A bounded cache of blocks of files: in memory, and on the disk behind it where that is asked for.

A block is a mebibyte of a file, at an offset that is a multiple of it; the last one of a file is shorter. It is known by its
source, which names a state of the file's bytes that does not change, and its number. So nothing in here is ever wrong.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, TypeAlias

BLOCK_BYTES: Final = 1024 * 1024
CACHE_BYTES_MAX: Final = 64 * 1024 * 1024

Key: TypeAlias = tuple[Hashable, int]  # source, number of the block
Block: TypeAlias = tuple[bytes, ...]  # as it came from the server: joining it would take as long as fetching it


def length(block: Block) -> int:
    return sum(map(len, block))


class BlockCache:
    """
    The blocks that were used last.

    Args:
        folder: where more blocks are kept, in a file without a name, which ends with the process; None: nowhere.
        disk_bytes_max: how many bytes of them.
    """

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX, *, folder: str | None = None, disk_bytes_max: int = 0) -> None:
        self.bytes_max = bytes_max
        self._blocks: OrderedDict[Key, Block] = OrderedDict()
        self.bytes = 0
        self._lock = threading.Lock()
        slots = disk_bytes_max // BLOCK_BYTES
        self._disk = _Disk(folder, slots) if folder is not None and slots else None

    @property
    def disk_bytes(self) -> int:
        return 0 if self._disk is None else self._disk.bytes

    def get(self, key: Key, *, wait: bool = True) -> Block | None:
        """The block, if it is there; without *wait*: in memory."""
        with self._lock:
            block = self._blocks.get(key)
            if block is not None:
                self._blocks.move_to_end(key)
                return block
            block = self._disk.take(key) if wait and self._disk is not None else None
        if block is not None:
            self.put(key, block)
        return block

    def has(self, key: Key) -> bool:
        return key in self._blocks or (self._disk is not None and key in self._disk)

    def put(self, key: Key, block: Block) -> None:
        with self._lock:
            before = self._blocks.pop(key, None)
            self.bytes += length(block) - (0 if before is None else length(before))
            self._blocks[key] = block
            while self.bytes > self.bytes_max and len(self._blocks) > 1:
                old, data = self._blocks.popitem(last=False)
                self.bytes -= length(data)
                if self._disk is not None:
                    self._disk.put(old, data)

    def close(self) -> None:
        with self._lock:
            self._blocks.clear()
            self.bytes = 0
            if self._disk is not None:
                self._disk.close()
                self._disk = None


class _Disk:
    """A file of slots, each of which has a block. With the lock of the cache."""

    def __init__(self, folder: str, slots: int) -> None:
        fd, path = tempfile.mkstemp(prefix="pgstore-cache-", dir=folder)
        os.unlink(path)  # nobody else ever trusts what is in it
        self._fd = fd
        self._free = list(range(slots - 1, -1, -1))
        self._places: OrderedDict[Key, tuple[int, int]] = OrderedDict()  # slot and length, the least used first
        self.bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def put(self, key: Key, block: Block) -> None:
        self._forget(key)
        if not self._free:
            self._forget(next(iter(self._places)))
        slot = self._free.pop()
        size = length(block)
        try:
            written = os.pwritev(self._fd, block, slot * BLOCK_BYTES)
        except OSError:  # a full disk: it is a cache
            written = -1
        if written < size:
            self._free.append(slot)
            return
        self._places[key] = slot, size
        self.bytes += size

    def take(self, key: Key) -> Block | None:
        place = self._places.get(key)
        if place is None:
            return None
        slot, size = place
        block = os.pread(self._fd, size, slot * BLOCK_BYTES)
        self._forget(key)
        return (block,) if len(block) == size else None

    def _forget(self, key: Key) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            self._free.append(place[0])
            self.bytes -= place[1]

    def close(self) -> None:
        os.close(self._fd)
