"""`ls`: what a directory of a Volume, a NetworkFileSystem or a bucket holds, a page at a time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import pgstore
from pgstore.cli import output
from pgstore.cli.paths import has_wildcard, shown
from pgstore.types import FileEntry, FileEntryType

_PAGE_ENTRIES: Final = 1000
_TYPES: Final = {
    FileEntryType.DIRECTORY: "dir",
    FileEntryType.SYMLINK: "link",
    FileEntryType.CHARACTER_DEVICE: "char",
    FileEntryType.BLOCK_DEVICE: "block",
}


def ls(files: Any, path: str, *, recursive: bool, as_json: bool, null: bool) -> None:
    """
    Print the entries of the directory at *path*, or what it matches: a table on a terminal, else a path a line.

    Args:
        null: each path as it is, its bytes and a NUL.
    """
    if as_json and null:
        raise pgstore.InvalidError("--json and --null exclude each other")
    entries = iter(_entries(files, path, recursive))
    page = [*islice(entries, _PAGE_ENTRIES)]  # before anything is printed, which an error would leave unfinished
    pages = _pages(page, entries)
    if as_json:
        _as_json(pages)
    elif null:
        for page in pages:
            sys.stdout.buffer.write(b"".join(os.fsencode(entry.path) + b"\0" for entry in page))
        sys.stdout.buffer.flush()
    elif sys.stdout.isatty():
        _as_tables(pages)
    else:
        for page in pages:
            _lines(page)


def _entries(files: Any, path: str, recursive: bool) -> Iterable[FileEntry]:
    if has_wildcard(path) and not files.exists(path):
        return files.glob(path)  # type: ignore[no-any-return]
    return files.iterdir(path, recursive=recursive)  # type: ignore[no-any-return]


def _pages(page: list[FileEntry], rest: Iterator[FileEntry]) -> Iterator[list[FileEntry]]:
    while page:
        yield page
        page = [*islice(rest, _PAGE_ENTRIES)]


def _as_json(pages: Iterator[list[FileEntry]]) -> None:
    """As an array of objects. A path that is not UTF-8 has its other bytes as lone surrogates, as Python's `os.fsdecode` has."""
    separator = "[\n"
    for page in pages:
        print(separator + ",\n".join(json.dumps(_record(entry)) for entry in page), end="")
        separator = ",\n"
    print("[]" if separator == "[\n" else "\n]")


def _record(entry: FileEntry) -> dict[str, object]:
    return {
        "filename": entry.path,
        "type": _type(entry),
        "created_modified": datetime.fromtimestamp(entry.mtime, UTC).isoformat(),
        "size": entry.size,
    }


def _lines(page: list[FileEntry]) -> None:
    sys.stdout.write(_printable("".join(f"{shown(entry.path)}\n" for entry in page)))


def line(text: str) -> None:
    """Print a line at once."""
    print(_printable(text), flush=True)


def _printable(text: str) -> str:
    """*text*, in which what the encoding of the output lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _as_tables(pages: Iterator[list[FileEntry]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    is_first = True
    for page in pages:
        table = Table(box=box.SIMPLE, pad_edge=False, show_header=is_first)
        table.add_column("Filename", overflow="fold")  # a name that was cut is of no use
        table.add_column("Type", no_wrap=True)
        table.add_column("Created/Modified", no_wrap=True)
        table.add_column("Size", no_wrap=True, justify="right")
        for entry in page:
            texts = shown(entry.path), _type(entry), _modified(entry), output.size(entry.size)
            table.add_row(*map(Text, texts))  # in which `[red]` is no markup
        console.print(table)
        is_first = False


def _type(entry: FileEntry) -> str:
    return _TYPES.get(entry.type, entry.type.name.lower())


def _modified(entry: FileEntry) -> str:
    # A directory of a bucket has no time.
    return f"{datetime.fromtimestamp(entry.mtime, UTC).astimezone():%Y-%m-%d %H:%M}" if entry.mtime else "-"
