"""`python -m tests.migration.release VERSION`: freeze what release VERSION makes of a database, for later ones to upgrade from.

It writes tests/migration/releases/VERSION.sql, a dump of a database that this code has made and filled (`release_data.write`);
VERSION.json, what this code reads in it (`release_data.read`); and into revisions.sha256 the sums of all revisions, which nobody
may change from then on: they have run. Commit the three with the release. The dump is made by the PostgreSQL that tests run on by
default; an older one may not be able to read it.

Tests restore each dump, migrate it, and compare (test_releases.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from pgstore import migrate
from tests.fixtures.server import Server
from tests.migration import release_data

ROOT = Path(__file__).parents[2]
RELEASES = Path(__file__).parent / "releases"
SUMS = RELEASES / "revisions.sha256"
_OF_PSQL = ("\\restrict", "\\unrestrict")  # which an older psql does not know


def released() -> list[str]:
    """The versions that have a dump."""
    return sorted(path.stem for path in RELEASES.glob("*.sql"))


def revision_sums() -> dict[str, str]:
    """The sum of each file of the revisions, by its path from the top."""
    files = sorted(
        path for path in (ROOT / "alembic" / "versions").iterdir() if path.is_file() and path.suffix in (".py", ".sql")
    )
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def frozen_sums() -> dict[str, str]:
    """What the sums were at the last release; empty before the first."""
    if not SUMS.exists():
        return {}
    lines = SUMS.read_text(encoding="ascii").splitlines()
    return {name: total for total, _, name in (line.partition("  ") for line in lines)}


def dump(server: Server, url: str) -> str:
    """The database of *url* as SQL that whoever restores it owns."""
    command = [str(server.bin_dir / "pg_dump"), "--no-owner", "--no-privileges", "-d", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return "".join(line for line in done.stdout.splitlines(keepends=True) if not line.startswith(_OF_PSQL))


def freeze(version: str) -> None:
    """Write the files of release *version*."""
    if version in released():
        sys.exit(f"{version} has a dump already: a release is made once")
    os.environ["PGSTORE_SECRET_KEY"] = release_data.SECRET_KEY
    with Server() as server:
        url = server.create_database()
        migrate.upgrade(url, roles=None)
        release_data.write(url)
        text, found = dump(server, url), release_data.read(url)
    RELEASES.mkdir(exist_ok=True)
    (RELEASES / f"{version}.sql").write_text(text, encoding="utf-8")
    (RELEASES / f"{version}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sums = [f"{total}  {name}" for name, total in revision_sums().items()]
    SUMS.write_text("\n".join(sums) + "\n", encoding="ascii")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", help="as in pyproject.toml")
    freeze(parser.parse_args().version)
