"""`python -m tests.migration.baseline`: write the first revision anew from sql/schema.sql. Refused once it was released."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.migration import release

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


def main() -> None:
    name = BASELINE.relative_to(ROOT).as_posix()
    if name in release.frozen_sums():
        sys.exit(
            f"{name} was released: a change of the schema is a new revision, which sql/schema.sql describes as well"
        )
    BASELINE.write_text(baseline(), encoding="utf-8")


if __name__ == "__main__":
    main()
