"""The progress of uploads and downloads: a bar, a callback, or nothing."""

from __future__ import annotations

from collections.abc import Callable

from pgstore.core.progress import Bar


class Progress:
    """
    Counts files and bytes.

    Args:
        shown: show a bar, where there is a terminal or a notebook to show it.
        what: the text before the bar.
        tell: called with `size=` bytes when that is known, and with `advance=` for further bytes, as Modal's `progress_cb`.
    """

    def __init__(self, shown: bool | None = None, what: str = "", tell: Callable[..., object] | None = None) -> None:
        self._bar = Bar(what) if shown else None
        self._tell = tell
        self._files = 0
        self._bytes = 0
        self._told = 0  # how many of them were told; after a restart more than were counted

    def total(self, size_bytes: int | None) -> None:
        if self._tell is not None:
            self._tell(size=size_bytes)
        if self._bar is not None:
            self._bar.set_total(size_bytes)

    def bytes(self, count: int) -> None:
        self._bytes += count
        new = self._bytes - self._told
        if new <= 0 and count:
            return
        self._told += new
        if self._tell is not None and new:
            self._tell(advance=new)
        if self._bar is not None:
            self._bar.advance(new)

    def files(self, count: int) -> None:
        self._files += count
        if self._bar is not None:
            self._bar.set_note("1 file" if self._files == 1 else f"{self._files:,} files")

    def restart(self) -> None:
        """The transfer begins again. What was told is not told again."""
        self._files = self._bytes = 0

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
