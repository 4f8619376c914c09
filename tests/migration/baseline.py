"""`python -m tests.migration.baseline`: write the first revision anew from sql/schema.sql. Not after the first release."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "sql" / "schema.sql"
BASELINE = ROOT / "alembic" / "versions" / "0001_baseline.sql"
_FIRST = "-- ----------------------------------------------------------------------------------------------- types of columns"


def baseline() -> str:
    """What the first revision runs: sql/schema.sql without its beginning, which is there before."""
    head, mark, rest = SCHEMA.read_text(encoding="utf-8").partition(_FIRST)
    assert "CREATE TABLE pgstore.schema_revision" in head
    assert mark
    return mark + rest


if __name__ == "__main__":
    BASELINE.write_text(baseline(), encoding="utf-8")
