"""What commands print: fields, a line each, and tables. Plain text where the output is no terminal."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import typer

_UNITS = ("KiB", "MiB", "GiB", "TiB")
# Beside the controls what reverses the order of writing, so that a line shows other text than it has.
_CONTROLS: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def help_if_alone(context: typer.Context) -> None:
    """Show the help of a group of commands that was called without one, which is no way to call it."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names with their values, aligned."""
    shown = [(name, printable(str(value), keeping="\n\t")) for name, value in pairs if value is not None]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """
    Print *rows* under *columns*; numbers stand on the right. Off the terminal nothing is cut. Control characters are shown as
    escapes, so that a row is a line.
    """
    given: list[Sequence[object]] = [columns, *rows]
    texts = [[f"{cell:,}" if isinstance(cell, int) else printable(str(cell)) for cell in row] for row in given]
    numeric = [any(isinstance(row[index], int) for row in given) for index in range(len(columns))]
    if sys.stdout.isatty():
        _draw(texts, numeric)
    else:
        _write(texts, numeric)


def _draw(rows: list[list[str]], numeric: list[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE, pad_edge=False)
    for name, is_numeric in zip(rows[0], numeric, strict=True):
        drawn.add_column(name, justify="right" if is_numeric else "left", no_wrap=True)
    for row in rows[1:]:
        drawn.add_row(*row)
    # A value may look like markup.
    Console(highlight=False, markup=False, emoji=False).print(drawn)


def _write(rows: list[list[str]], numeric: list[bool]) -> None:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = []
        for text, width, is_numeric in zip(row, widths, numeric, strict=True):
            padding = " " * (width - cell_len(text))
            cells.append(padding + text if is_numeric else text + padding)
        print(f" {'  '.join(cells)}".rstrip())
        if number == 0:
            print(f" {_dash() * (sum(widths) + 2 * len(widths) - 2)}")


def _dash() -> str:
    try:
        "─".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "-"
    return "─"


def records(columns: Sequence[str], rows: Iterable[Sequence[object]], as_json: bool) -> None:
    """Print *rows* as a table, or as JSON objects whose keys are the columns in snake case."""
    if as_json:
        keys = [re.sub(r"[^a-z0-9]+", "_", column.lower()) for column in columns]
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2, default=_json))
    else:
        table(columns, [[_cell(value) for value in row] for row in rows])


def _json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(value: object) -> object:
    """How a table shows *value*: times by the minute, in local time."""
    return "-" if value is None else f"{value.astimezone():%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value


def created(at: datetime, by: str | None) -> str:
    """When and by which role a store was made, in local time."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S} by {by or 'a role that is gone'}"


def size(size_bytes: int) -> str:
    """*size_bytes* for people: `4.2 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} bytes"
    power = min(int(math.log(size_bytes, 1024)), len(_UNITS))
    return f"{size_bytes / 1024**power:.1f} {_UNITS[power - 1]}"


def printable(text: str, *, keeping: str = "") -> str:
    r"""*text* with its control characters as `\n`, `\x1b` …, but for those in *keeping*."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keeping else repr(found[0])[1:-1], text)
