"""Small files read ahead: who opens one after the other of a directory finds the contents of the next ones here.

One directory at a time, in the order of names, in which programs that read all of a directory mostly go. Who opens files here and
there has each fetched by itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pgstore.fs.content.blobs import INLINE_BYTES_MAX
from pgstore.fs.model import FILE, Node

FILES_MAX: Final = 128  # in one statement
BYTES_MAX: Final = 1024 * 1024  # the same
KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
_KEPT_MAX: Final = 4_096


class SmallFiles:
    """
    Nodes with their contents, by inode.

    Args:
        node: what is known of an inode without its contents, if it is.
    """

    def __init__(self, node: Callable[[int], Node | None]) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Node] = OrderedDict()
        self._bytes = 0
        self._order: Sequence[int] = ()  # the inodes of the directory in which files were opened last
        self._places: dict[int, int] = {}  # where in it they are
        self._last = 0  # where the last one was that was opened
        self._count = 1  # how many to read at a time

    def get(self, ino: int) -> Node | None:
        with self._lock:
            found = self._kept.get(ino)
            if found is not None:
                self._kept.move_to_end(ino)
                self._last = self._places.get(ino, self._last)
            return found

    def to_read(self, ino: int, directory: Callable[[int], Iterable[int] | None]) -> list[int]:
        """
        Which inodes to read the contents of where those of *ino* are asked for, *ino* first.

        Args:
            directory: all inodes of the one that it is in, in the order of their names, if that is known.
        """
        with self._lock:
            place = self._places.get(ino)
            if place is None:
                order = directory(ino)
                self._order = () if order is None else tuple(order)
                self._places = {each: at for at, each in enumerate(self._order)}
                self._last, self._count = self._places.get(ino, 0), 1
                return [ino]
            if place != self._last:  # else it is asked again what was not read: an operation may be tried twice
                is_in_order = 0 < place - self._last <= FILES_MAX
                self._count = min(4 * self._count, FILES_MAX) if is_in_order else 1
                self._last = place
            wanted, size = [ino], 0
            for each in self._order[place + 1 : place + self._count]:
                node = self._node(each)
                if node is not None and node.kind == FILE and 0 < node.size_bytes <= INLINE_BYTES_MAX:
                    size += node.size_bytes
                    if size > BYTES_MAX:
                        break
                    if each not in self._kept:
                        wanted.append(each)
            return wanted

    def keep(self, found: Iterable[Node]) -> None:
        with self._lock:
            for node in found:
                if node.kind == FILE and node.blob_id is None and node.ino not in self._kept:
                    self._kept[node.ino] = node
                    self._bytes += len(node.inline_data or b"")
            while self._kept and (self._bytes > KEPT_BYTES_MAX or len(self._kept) > _KEPT_MAX):
                _, old = self._kept.popitem(last=False)
                self._bytes -= len(old.inline_data or b"")

    def forget(self, inodes: Iterable[int] | None = None) -> None:
        """Forget these; None: all."""
        with self._lock:
            self._order, self._places = (), {}
            for ino in tuple(self._kept) if inodes is None else inodes:
                old = self._kept.pop(ino, None)
                if old is not None:
                    self._bytes -= len(old.inline_data or b"")
