"""Tables that fit a terminal: columns are left out and rows are cut before anything is folded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.cells import cell_len, set_cell_size

_LEAST_ROWS: Final = 2
_LEAST_CELLS: Final = 12  # of the column that is cut


@dataclass(frozen=True)
class Line:
    """A line of the screen."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a section; those of a higher *rank* are left out first where there is no room."""

    title: str
    rank: int = 0
    is_text: bool = False


@dataclass
class Section:
    """A table about one kind of things."""

    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str | None = None
    """A line below it, also where it has no rows."""
    wide: int = 0
    """The column that is cut where there is no room."""


def rooms(sections: list[Section], height: int) -> list[int]:
    """How many rows each section may show: first two each, then what is left to the first that want more."""
    left = height - sum(bool(each.rows) + bool(each.note) for each in sections)
    rooms = [0] * len(sections)
    for most in (_LEAST_ROWS, 8, sys.maxsize):
        for number, section in enumerate(sections):
            more = min(left, min(most, len(section.rows)) - rooms[number])
            if more > 0:
                rooms[number] += more
                left -= more
    return rooms


def drawn(section: Section, room: int, width: int | None) -> list[Line]:
    notes = [Line(section.note, "dim")] if section.note else []
    if not section.rows or not room:
        return notes
    rows = [[_printable(cell) for cell in row] for row in section.rows[:room]]
    used = list(range(len(section.columns)))
    widths = [max(cell_len(cells[n]) for cells in [[c.title for c in section.columns], *rows]) for n in used]
    wide = section.wide
    if width is not None:
        while len(used) > 1 and sum(widths[n] for n in used if n != wide) + _LEAST_CELLS + 2 * (len(used) - 1) > width:
            ranks = [section.columns[n].rank for n in used]
            if max(ranks) == 0:
                break
            used.remove(max(used, key=lambda n: section.columns[n].rank))
        rest = width - sum(widths[n] for n in used if n != wide) - 2 * (len(used) - 1)
        widths[wide] = max(min(widths[wide], rest), min(_LEAST_CELLS, width))
    titles = [column.title for column in section.columns]
    title = Line(_row(section, titles, used, widths), "reverse")
    return [title, *(Line(_row(section, row, used, widths)) for row in rows), *notes]


def _row(section: Section, cells: Sequence[str], used: Iterable[int], widths: Sequence[int]) -> str:
    shown = []
    for number in used:
        cell = cut(cells[number], widths[number])
        blank = " " * (widths[number] - cell_len(cell))
        on_left = section.columns[number].is_text
        shown.append(cell + blank if on_left else blank + cell)
    return "  ".join(shown).rstrip()


def cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)) + "…"[: max(width, 0)]


def _printable(text: str) -> str:
    """What a terminal would take for a command is somebody else's text: a statement, the name of a host."""
    return "".join(each if each.isprintable() else "·" for each in text)
