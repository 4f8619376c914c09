"""Bars that show how far a long piece of work has come: on a terminal, and in a cell of a notebook.

They go to standard error, so that what a program prints can be piped on; where that is no terminal, nothing is shown. A bar never
breaks the work: what fails in showing it ends the showing.
"""

from __future__ import annotations

import contextlib
import html
import sys
import threading
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self, cast

from pgstore.core import clock

_REDRAW_SECONDS: Final = 0.1
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


class Bar:
    """
    A bar of a piece of work, to be closed or used in a `with` block.

    Args:
        what: the text before it.
        total: the length of the work in *unit*; None: it is not known yet.
        unit: "bytes", or what is counted: "rows".
    """

    def __init__(self, what: str, total: int | None = None, *, unit: str = "bytes") -> None:
        # The path of a file, which may be anybody's, does nothing to the terminal.
        self.what = "".join(each if each.isprintable() else repr(each)[1:-1] for each in what)
        self.unit = unit
        self.total = total
        self.done = 0
        self.note = ""
        self._view: _View | None = None
        self._show(self._begin)

    def _begin(self) -> None:
        self._view = _view_of(self)

    def advance(self, count: int) -> None:
        """So much more is done."""
        self.done += count
        self._changed()

    def set_total(self, total: int | None) -> None:
        self.total = total
        self._changed()

    def set_note(self, note: str) -> None:
        """The text behind the bar, such as "3 files"."""
        self.note = note
        self._changed()

    def close(self) -> None:
        """Draw it for the last time."""
        view, self._view = self._view, None
        if view is not None:
            self._show(lambda: view.end(self))

    def _changed(self) -> None:
        view = self._view
        if view is not None:
            self._show(lambda: view.draw(self))

    def _show(self, action: Any) -> None:
        try:
            action()
        except Exception:  # of a stream that is closed, or of what stands in its place
            view, self._view = self._view, None
            if view is not None:
                with contextlib.suppress(Exception):
                    view.end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _View(Protocol):
    """Where bars are drawn."""

    def draw(self, bar: Bar) -> None: ...

    def end(self, bar: Bar) -> None: ...


def _view_of(bar: Bar) -> _View | None:
    """Where *bar* is to be drawn; None: nowhere."""
    if (shell := _notebook()) is not None:
        return _Cell(shell, bar)
    return _Terminal.joined_by(bar)


def _notebook() -> Any:
    """The shell of a notebook's kernel, if this program runs in one."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


# ---------------------------------------------------------------------------------------------------------- a terminal


class _Stream:
    """A terminal that may be closed at any time. Rich would end the program where it is, or fail in a thread of its own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", "utf-8")

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._stream.fileno())


class _Terminal:
    """The bars of all work that is under way, one below the other: a terminal has one last line."""

    _lock = threading.RLock()
    _current: _Terminal | None = None

    def __init__(self, console: Any) -> None:
        from rich import progress

        what, counts, note = (
            progress.TextColumn(f"{{task.{field}}}", markup=False)
            for field in ("description", "fields[counted]", "fields[note]")
        )
        self._progress = progress.Progress(
            *(what, progress.BarColumn(), counts, note, progress.TimeRemainingColumn()),
            console=console,
            # What is printed meanwhile has to go above the bars, unless it goes elsewhere.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._tasks: dict[Bar, Any] = {}

    @classmethod
    def joined_by(cls, bar: Bar) -> _Terminal | None:
        if sys.stderr is None or not sys.stderr.isatty():
            return None
        from rich.console import Console  # late: most programs never show one

        with cls._lock:
            terminal = cls._current
            if terminal is None:
                console = Console(file=cast("IO[str]", _Stream(sys.stderr)))
                if not console.is_terminal or console.is_dumb_terminal:
                    return None
                terminal = cls(console)
                terminal._progress.start()
                cls._current = terminal
            task = terminal._progress.add_task(bar.what, total=bar.total, counted=counted(bar), note="")
            terminal._tasks[bar] = task
            return terminal

    def draw(self, bar: Bar) -> None:
        self._progress.update(
            self._tasks[bar], completed=bar.done, total=bar.total, counted=counted(bar), note=bar.note
        )

    def end(self, bar: Bar) -> None:
        with self._lock:
            try:
                if bar.total is None:  # nothing to wait for any more
                    bar.total = bar.done
                self.draw(bar)
            finally:
                del self._tasks[bar]
                if not self._tasks:
                    type(self)._current = None
                    self._progress.stop()


# ---------------------------------------------------------------------------------------------------------- a notebook


class _Cell:
    """The output of a cell, which is replaced as the work goes on. Needs no widgets: not every front end has them."""

    def __init__(self, shell: Any, bar: Bar) -> None:
        from IPython.display import display

        self._drawn_at = clock.monotonic()
        self._lock = threading.Lock()
        self._handle = display(_rendered(bar), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def draw(self, bar: Bar, *, at_once: bool = False) -> None:
        with self._lock:
            now = clock.monotonic()
            if at_once or now - self._drawn_at >= _REDRAW_SECONDS:
                self._drawn_at = now
                self._handle.update(_rendered(bar), raw=True)

    def end(self, bar: Bar) -> None:
        if bar.total is None:
            bar.total = bar.done
        self.draw(bar, at_once=True)


def _rendered(bar: Bar) -> dict[str, str]:
    text = f"{counted(bar)} {bar.note}".strip()
    place = "" if bar.total is None else f' max="{max(bar.total, 1)}" value="{bar.done if bar.total else 1}"'
    return {
        "text/plain": f"{bar.what}: {text}",
        "text/html": f"{html.escape(bar.what)} <progress{place}></progress> {html.escape(text)}",
    }


# ------------------------------------------------------------------------------------------------------------ numbers


def counted(bar: Bar) -> str:
    """How much of how much is done: `1.5/3.0 MiB`, `10/20 rows`."""
    if bar.unit != "bytes":
        return f"{bar.done:,}{'' if bar.total is None else f'/{bar.total:,}'} {bar.unit}"
    largest = max(bar.done, bar.total or 0)
    power = 0
    while power < len(_UNITS) and largest >= 1024 ** (power + 1):
        power += 1
    numbers = [bar.done] if bar.total is None else [bar.done, bar.total]
    shown = [f"{number / 1024**power:.1f}" if power else str(number) for number in numbers]
    return f"{'/'.join(shown)} {_UNITS[power - 1] if power else 'bytes'}"
