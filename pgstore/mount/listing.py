"""Open directories: what readdir(3), seekdir(3) and rewinddir(3) see.

Names come in pages, in the order of their bytes. What is told to the kernel as the place of a name (its cookie) is a count: 1
behind `.`, 2 behind `..`, and so on. Of the pages that were given only the name before each is remembered, and the last page
itself: a million names are a thousand remembered ones. Who goes on reading gets what comes after the last name in any case, so what
is removed or made meanwhile moves nothing. Who goes back to a place gets the names that are there by now, which POSIX leaves open.
"""

from __future__ import annotations

import threading
from typing import Final

from pgstore.fs.model import DIRECTORY
from pgstore.mount import kernel
from pgstore.mount.protocol import Attributes, Files
from pgstore.mount.replies import TYPE_OF_KIND, Replies

_NAMES_PER_PAGE: Final = 1000

# The kernel remembers each name that it is given attributes of, until it needs the memory. Of directories above this size
# it is given names alone, from here on.
_REMEMBERED_MAX: Final = 100_000

_DOTS: Final = 2  # `.` and `..`, which `Files` does not name

_TYPE_SHIFT: Final = 12  # from the type in a mode to that in a directory entry: DTTOIF(3)

_ALIGNMENT: Final = [bytes(-length % 8) for length in range(8)]


class Listing:
    """
    What opendir(3) has returned.

    Args:
        attributes: those of the directory.
    """

    def __init__(self, files: Files, attributes: Attributes, replies: Replies) -> None:
        self.attributes = attributes
        self._files = files
        self._ino = attributes.ino
        self._replies = replies
        self._lock = threading.Lock()  # copies of the descriptor may be read at once
        self._starts = [b""]  # by page: the name that comes before it
        self._number = -1
        self._page: list[tuple[bytes, Attributes]] = []

    def read_now(self, cookie: int, size: int, *, plus: bool) -> bytes | None:
        """`read`, if no page need be got for it; else None."""
        if cookie < _DOTS or not self._lock.acquire(blocking=False):
            return None
        try:
            number, index = divmod(cookie - _DOTS, _NAMES_PER_PAGE)
            if number != self._number or index >= len(self._page):
                return None
            return self._pack(self._page, cookie, size, plus=plus)[0]
        finally:
            self._lock.release()

    def read(self, cookie: int, size: int, *, plus: bool) -> bytes:
        """
        What comes at *cookie*, as many entries as go into *size* bytes; empty: there is no more.

        Args:
            plus: with attributes (READDIRPLUS).
        """
        with self._lock:
            if cookie == 0:  # rewinddir(3): what is there by now
                self._number = -1
            if cookie >= _DOTS:
                page = self._page_of(cookie)
                return self._pack(page, cookie, size, plus=plus)[0] if page else b""
            dots = [
                (name, Attributes(ino, DIRECTORY, *(0,) * 8))
                for name, ino in ((b".", self._ino), (b"..", self._files.parent(self._ino)))
            ]
            packed, cookie = self._pack(dots, cookie, size, plus=plus, skipped=-_DOTS)
            if cookie == _DOTS and (page := self._page_of(cookie)):
                packed += self._pack(page, cookie, size - len(packed), plus=plus)[0]
            return packed

    def _page_of(self, cookie: int) -> list[tuple[bytes, Attributes]]:
        number, index = divmod(cookie - _DOTS, _NAMES_PER_PAGE)
        if number != self._number:
            if number >= len(self._starts):  # nobody was told of such a place, or the directory has become shorter
                return []
            self._page = self._files.names(self._ino, self._starts[number], _NAMES_PER_PAGE)
            self._number = number
            if len(self._page) == _NAMES_PER_PAGE:
                self._starts[number + 1 : number + 2] = [self._page[-1][0]]
        return self._page if index < len(self._page) else []

    def _pack(
        self, entries: list[tuple[bytes, Attributes]], cookie: int, size: int, *, plus: bool, skipped: int = 0
    ) -> tuple[bytes, int]:
        """The entries from *cookie* on that go into *size* bytes, and the cookie behind them."""
        caching = self._files.caching
        parts: list[bytes] = []
        head = kernel.DIRENTPLUS.size if plus else kernel.DIRENT.size
        index = (cookie - _DOTS - skipped) % _NAMES_PER_PAGE
        for name, attributes in entries[index:]:
            length = len(name)
            size -= head + ((length + 7) & ~7)
            if size < 0:
                break
            cookie += 1
            kind = TYPE_OF_KIND[attributes.kind] >> _TYPE_SHIFT
            if plus:
                known = (
                    self._replies.entry_fields(attributes, caching)
                    if skipped == 0 and cookie <= _REMEMBERED_MAX
                    else _UNKNOWN
                )
                parts.append(kernel.DIRENTPLUS.pack(*known, attributes.ino, cookie, length, kind))
            else:
                parts.append(kernel.DIRENT.pack(attributes.ino, cookie, length, kind))
            parts.append(name)
            parts.append(_ALIGNMENT[length & 7])
        return b"".join(parts), cookie


# In place of attributes: the kernel asks for them when it needs them.
_UNKNOWN: Final = (0,) * (len(kernel.ENTRY_OUT.fields))
