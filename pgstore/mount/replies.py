"""Attributes as the kernel has them: stat(2)'s numbers, and how long they may be believed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final

from pgstore.fs.model import BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK
from pgstore.mount import kernel
from pgstore.mount.protocol import Attributes, Caching

TYPE_OF_KIND: Final = {
    FILE: stat.S_IFREG,
    DIRECTORY: stat.S_IFDIR,
    SYMLINK: stat.S_IFLNK,
    FIFO: stat.S_IFIFO,
    SOCKET: stat.S_IFSOCK,
    CHARACTER_DEVICE: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
}
KIND_OF_TYPE: Final = {number: kind for kind, number in TYPE_OF_KIND.items()}

# Programs take it for the size of their buffers. A request costs more than the memory does: above 4 KiB they make fewer.
BLOCK_BYTES: Final = 65536

_SECOND: Final = 1_000_000_000


class Replies:
    """
    What the kernel is told of inodes.

    What belongs to root belongs to the user who serves: stores are root's from the beginning, and so is what is made without a
    mount. An ordinary user could write to nothing of that, though the database lets them.

    Args:
        root: the inode that is mounted. The kernel's number for it is always 1.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._validity_of: Caching | None = None
        self._validity: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._missing = b""

    def attributes(self, attributes: Attributes, caching: Caching) -> bytes:
        _, valid, _, valid_ns = self._valid_of(attributes, caching)
        return kernel.ATTR_OUT.pack(valid, valid_ns, *self._attr(attributes))

    def entry(self, attributes: Attributes, caching: Caching) -> bytes:
        return kernel.ENTRY_OUT.pack(*self.entry_fields_for(caching)(attributes))

    def missing(self, caching: Caching) -> bytes:
        """Of a name that leads nowhere. Empty: that may not be believed at all."""
        self._valid(caching)
        return self._missing

    def entry_fields_for(self, caching: Caching) -> Callable[[Attributes], tuple[int, ...]]:
        """What makes the fields of an entry, for one after the other of many."""
        valid = self._valid(caching)
        head = (0, *valid)  # numbers of inodes are used once, so there is one generation
        head_of_passed = (0, *_of_passed(valid))
        root, attr = self._root, self._attr

        def fields(attributes: Attributes) -> tuple[int, ...]:
            ino = attributes.ino
            node = kernel.ROOT_ID if ino == root else ino
            return (node, *(head_of_passed if attributes.is_passed else head), *attr(attributes))

        return fields

    def _attr(self, a: Attributes) -> tuple[int, ...]:
        atime, atime_ns = divmod(a.atime_ns, _SECOND)
        mtime, mtime_ns = divmod(a.mtime_ns, _SECOND)
        ctime, ctime_ns = divmod(a.ctime_ns, _SECOND)
        size = a.size_bytes
        stored = a.stored_bytes
        return (
            a.ino,
            size,
            ((size if stored is None or stored > size else stored) + 511) >> 9,
            *(atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns),
            TYPE_OF_KIND[a.kind] | a.mode,
            a.link_count,
            a.uid or self._uid,
            a.gid or self._gid,
            a.device,
            BLOCK_BYTES,
            0,
        )

    def _valid_of(self, attributes: Attributes, caching: Caching) -> tuple[int, int, int, int]:
        valid = self._valid(caching)
        return _of_passed(valid) if attributes.is_passed else valid

    def _valid(self, caching: Caching) -> tuple[int, int, int, int]:
        if caching is not self._validity_of:
            names, names_ns = _seconds(caching.names)
            attributes, attributes_ns = _seconds(caching.attributes)
            self._validity = (names, attributes, names_ns, attributes_ns)
            missing, missing_ns = _seconds(caching.missing)
            none = (0,) * (len(_ATTR_FIELDS))
            self._missing = (
                kernel.ENTRY_OUT.pack(0, 0, missing, 0, missing_ns, 0, *none) if caching.missing > 0 else b""
            )
            self._validity_of = caching
        return self._validity


_ATTR_FIELDS: Final = kernel.ATTR_OUT.fields[3:]


def _seconds(seconds: float) -> tuple[int, int]:
    return divmod(int(seconds * _SECOND), _SECOND)


def _of_passed(valid: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Of a file that the kernel writes itself: its name may be believed, its attributes not."""
    return (valid[0], 0, valid[2], 0)
