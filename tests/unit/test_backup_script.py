"""The script of a backup: whatever blocks it is read in, its parts are the same; what is no whole backup is refused."""

from __future__ import annotations

import io

import pytest

from pgstore import errors
from pgstore.admin.backup_script import BEGIN, END, TABLES_COMPLETE, Header, Rows, Script, Statements

HEADER = Header("0001", 15, "app \n'", "2026-01-02T03:04:05Z", "0.1.0")
WHOLE = (
    HEADER.text()
    + BEGIN
    + b"\\restrict abc\nSET a = 1;\nCREATE TABLE t ();\n\nCOPY pgstore.t (a, b) FROM stdin;\n"
    + b"1\tCOMMIT;\nCOMMIT;\n-- pgstore backup: complete\n\\N\t\\\\.\n\\.\n"
    + b"COPY pgstore.empty (a) FROM stdin;\n\\.\n\nSELECT 1;\n\\unrestrict abc\n"
    + TABLES_COMPLETE
    + b"COPY o (a) FROM stdin;\n"
    + b"\\\\x"
    + b"0123456789" * 10
    + b"\n\\.\n"
    + END
)
PARTS = [
    "SET a = 1;\nCREATE TABLE t ();\n\n",
    ("COPY pgstore.t (a, b) FROM stdin;\n", b"1\tCOMMIT;\nCOMMIT;\n-- pgstore backup: complete\n\\N\t\\\\.\n"),
    ("COPY pgstore.empty (a) FROM stdin;\n", b""),
    "\nSELECT 1;\n",
    None,
    ("COPY o (a) FROM stdin;\n", b"\\\\x" + b"0123456789" * 10 + b"\n"),
]


class Blocks:
    """Gives *size* bytes at a time, whatever is asked for."""

    def __init__(self, data: bytes, size: int) -> None:
        self._file = io.BytesIO(data)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._size))


def parts_of(data: bytes, size: int = 1 << 20) -> list[object]:
    script = Script(Blocks(data, size), "FILE")
    assert script.header() == HEADER
    found: list[object] = []
    for part in script.parts():
        match part:
            case Statements(text):
                found.append(text)
            case Rows(statement, blocks):
                found.append((statement, b"".join(blocks)))
            case _:
                found.append(None)
    return found


@pytest.mark.parametrize("size", [*range(1, 12), 97, 1 << 20])
def test_the_parts_are_the_same_whatever_blocks_are_read(size):
    assert parts_of(WHOLE, size) == PARTS


def test_what_is_cut_off_anywhere_is_no_backup():
    """
    Also within its last line: no part of it is restored.
    """
    for length in range(len(WHOLE)):
        with pytest.raises(errors.BackupError, match="FILE"):
            parts_of(WHOLE[:length])


def test_what_follows_the_end_is_told():
    with pytest.raises(errors.BackupError, match="something follows its end"):
        parts_of(WHOLE + b"\n")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"root:x:0:0\n", "no backup of pgstore"),
        (b"\x00" * 100_000, "no backup of pgstore"),
        (b"PGDMP\x01\x0e", "pg_restore"),
        (b"--\n-- PostgreSQL database dump\n--\n", "psql"),
        (b"-- pgstore backup 2\n{}\n", "format 2, this pgstore reads 1"),
        (b"-- pgstore backup 1\n-- {}\n", "does not say what it is of"),
        (b"-- pgstore backup 1\n-- nonsense\n", "does not say what it is of"),
        (HEADER.text() + b"DROP SCHEMA pgstore;\n", "does not begin as a backup does"),
    ],
)
def test_another_file_is_told_from_a_backup(data, told):
    with pytest.raises(errors.BackupError, match=f"FILE .*{told}"):
        Script(Blocks(data, 1 << 20), "FILE").header()
