"""Open directories: what readdir(3), seekdir(3) and rewinddir(3) see.

Names come in pages, in the order of their bytes. What is told to the kernel as the place of a name (its cookie) is a count: 1
behind `.`, 2 behind `..`, and so on. Of the pages that were given only the name before each is remembered, and the last page
itself: a million names are a thousand remembered ones. Who goes on reading gets what comes after the last name in any case, so what
is removed or made meanwhile moves nothing. Who goes back to a place gets the names that are there by now, which POSIX leaves open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

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

Page: TypeAlias = list[tuple[bytes, Attributes]]


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
        self._page: Page = []
        self._read_at = 0  # `Files.changes.now` before the page was read
        self._gone: set[bytes] = set()  # names of it that are not there any more
        # Of the page after it, which is on its way: `_read_at`, and what waits for it.
        self._next: tuple[int, Callable[[], Page]] | None = None

    def read_now(self, cookie: int, size: int, *, plus: bool) -> bytes | None:
        """`read`, if nothing need be got for it; else None."""
        if cookie < _DOTS or not self._lock.acquire(blocking=False):
            return None
        try:
            number, index = divmod(cookie - _DOTS, _NAMES_PER_PAGE)
            if (
                number != self._number
                or index >= len(self._page)
                or (plus and self._files.changes.all_since(self._read_at))
            ):
                return None
            return self._pack(self._page, index, cookie, size, plus=plus)[0]
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
                self._number, self._next = -1, None
            if cookie >= _DOTS:
                return self._read_page(cookie, size, plus=plus)
            dots = [
                (name, Attributes(ino, DIRECTORY, *(0,) * 8))
                for name, ino in ((b".", self._ino), (b"..", self._files.parent(self._ino)))
            ]
            packed, cookie = self._pack(dots, cookie, cookie, size, plus=plus)
            return packed + self._read_page(cookie, size - len(packed), plus=plus) if cookie == _DOTS else packed

    def _read_page(self, cookie: int, size: int, *, plus: bool) -> bytes:
        number, index = divmod(cookie - _DOTS, _NAMES_PER_PAGE)
        if number >= len(self._starts):  # nobody was told of such a place, or the directory has become shorter
            return b""
        if number != self._number:
            self._turn_to(number)
        elif plus and index < len(self._page) and self._files.changes.all_since(self._read_at):
            self._look_again(index)
        return self._pack(self._page, index, cookie, size, plus=plus)[0]

    def _turn_to(self, number: int) -> None:
        following, self._next = self._next, None
        if following is None or number != self._number + 1:
            names = partial(self._files.names, self._ino, self._starts[number], _NAMES_PER_PAGE)
            following = self._files.changes.now, names
        self._read_at, get = following
        self._page = get()
        self._number = number
        self._gone = set()
        if len(self._page) == _NAMES_PER_PAGE:
            last = self._page[-1][0]
            self._starts[number + 1 : number + 2] = [last]
            now = self._files.changes.now
            get_next = self._files.names_later(self._ino, last, _NAMES_PER_PAGE)
            self._next = None if get_next is None else (now, get_next)

    def _look_again(self, index: int) -> None:
        """Any file may have changed since the page was read. That of its names none is lost, or given twice, they stay."""
        now = self._files.changes.now
        after = self._page[index - 1][0] if index else self._starts[self._number]
        found = dict(self._files.names(self._ino, after, len(self._page) - index))
        self._gone = {name for name, _ in self._page[index:] if name not in found}
        self._page[index:] = [(name, found.get(name, before)) for name, before in self._page[index:]]
        self._read_at = now

    def _pack(self, entries: Page, index: int, cookie: int, size: int, *, plus: bool) -> tuple[bytes, int]:
        """The entries from *index* on, which are those at *cookie*, that go into *size* bytes, and the cookie behind them."""
        parts: list[bytes] = []
        head = kernel.DIRENTPLUS.size if plus else kernel.DIRENT.size
        entry_fields = self._replies.entry_fields_for(self._files.caching)
        has_attributes = plus and cookie >= _DOTS
        changes, read_at, gone = self._files.changes, self._read_at, self._gone
        is_old = changes.now != read_at
        if not plus or cookie > _REMEMBERED_MAX:
            self._is_without_attributes()
        for name, attributes in entries[index:] if index else entries:
            length = len(name)
            size -= head + ((length + 7) & ~7)
            if size < 0:
                break
            cookie += 1
            kind = TYPE_OF_KIND[attributes.kind] >> _TYPE_SHIFT
            if plus:
                # What has changed since the page was read it is not told. It asks, if it wants to know.
                is_known = (
                    has_attributes
                    and cookie <= _REMEMBERED_MAX
                    and not (is_old and (changes.since(attributes.ino, read_at) or name in gone))
                )
                known = entry_fields(attributes) if is_known else _UNKNOWN
                parts.append(_direntplus(*known, attributes.ino, cookie, length, kind))
            else:
                parts.append(_dirent(attributes.ino, cookie, length, kind))
            parts.append(name)
            parts.append(_ALIGNMENT[length & 7])
        return b"".join(parts), cookie

    def _is_without_attributes(self) -> None:
        """For the names alone nobody is to be spared another listing, who may want more than these."""
        if self._files.listed is not None:
            self._files.listed.forget([self._ino])


_dirent = kernel.DIRENT.pack
_direntplus = kernel.DIRENTPLUS.pack

# In place of attributes: the kernel asks for them when it needs them.
_UNKNOWN: Final = (0,) * (len(kernel.ENTRY_OUT.fields))
