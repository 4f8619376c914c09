"""What commands print: fields, a line each, and tables. Plain text where the output is no terminal."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import typer

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def help_if_alone(context: typer.Context) -> None:
    """Show the help of a group of commands that was called without one, which is no way to call it."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names with their values, aligned."""
    shown = [(name, str(value)) for name, value in pairs if value is not None]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print *rows* under *columns*; numbers stand on the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    # Off the terminal nothing is cut to a width that nobody has.
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(drawn)


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


def size(size_bytes: int) -> str:
    """*size_bytes* for people: `4.2 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} bytes"
    power = min(int(math.log(size_bytes, 1024)), len(_UNITS))
    return f"{size_bytes / 1024**power:.1f} {_UNITS[power - 1]}"
