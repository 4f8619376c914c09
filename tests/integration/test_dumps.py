"""pg_dump and pg_restore by hand: a dump restored elsewhere is all that the database had, and goes on being used."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from pgstore import migrate
from pgstore.admin.check import run_checks
from tests.fixtures import inventory
from tests.fixtures.foreign import take_numbers
from tests.fixtures.server import Server

PSQL = ["-X", "-q", "-o", os.devnull, "-v", "ON_ERROR_STOP=1", "-1"]


def run(server: Server, program: str, *arguments: str | Path) -> None:
    done = subprocess.run([server.bin_dir / program, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def move(dumping: Server, restoring: Server, source: str, target: str, folder: Path, way: str) -> None:
    """Dump *source* in one of the ways that people do, and restore it into *target*."""
    dump = folder / "dump"
    options = way.split()
    run(dumping, "pg_dump", *options, "-f", dump, "-d", source)
    if "-Fc" in options or "-Fd" in options:
        options = [option for option in options if option.startswith(("-j", "--no-"))]
        run(restoring, "pg_restore", "--exit-on-error", *options, "-d", target, dump)
    else:
        run(restoring, "psql", *PSQL, "-f", dump, target)


def test_something_is_in_every_table(filled):
    """
    Else the comparisons of this module compare nothing.
    """
    _, found = filled

    assert {name for name, rows in found["sql"].items() if not rows} == inventory.EMPTY


@pytest.mark.parametrize("way", ["", "-Fc", "-Fd -j2"])
def test_a_dump_of_the_database_has_all_of_it(server, filled, empty_database, tmp_path, way):
    url, expected = filled

    move(server, server, url, empty_database, tmp_path, way)

    assert inventory.rows_of(empty_database) == expected["sql"]
    assert run_checks(empty_database).is_healthy


def test_a_dump_of_the_schema_has_all_but_large_objects(server, filled_rows, empty_database, tmp_path):
    url, expected = filled_rows

    move(server, server, url, empty_database, tmp_path, "-n pgstore --no-owner --no-privileges")
    migrate.upgrade(empty_database)

    assert inventory.inventory(empty_database, large_objects=False) == expected
    inventory.go_on(empty_database)


def test_a_dump_restored_into_a_newer_major_has_all_of_it(server, server18, filled, tmp_path):
    """
    The way of an upgrade: the newer programs dump, as PostgreSQL's manual says. Roles are not in the dump, and the changes of Dicts
    in it have numbers of transactions that mean nothing there.
    """
    if server.bin_dir == server18.bin_dir:
        pytest.skip("the server of the tests is of the newest version already")
    url, expected = filled
    target = server18.create_database()

    move(server18, server18, url, target, tmp_path, "-Fc --no-owner --no-privileges")
    migrate.upgrade(target)

    assert inventory.inventory(target) == expected
    assert inventory.repair_all(target) <= {"dict_changes"}
    inventory.go_on(target)
    server18.drop_database(target)


def test_a_dump_of_the_schema_restored_beside_others_objects_leaves_those_alone(
    server, filled, empty_database, tmp_path
):
    """
    Chunks then point at nothing, or at objects of others; they are reported, and never read or written.
    """
    url, _ = filled
    with psycopg.connect(url) as connection, psycopg.connect(empty_database, autocommit=True) as other:
        oids = take_numbers(connection, other)

        move(server, server, url, empty_database, tmp_path, "-n pgstore --no-owner --no-privileges")

        found = {finding.check: len(finding.rows) for finding in run_checks(empty_database).findings}
        assert found == {"large_objects": len(oids)}
        assert other.execute("SELECT DISTINCT lo_get(oid) FROM pg_largeobject_metadata").fetchall() == [(b"theirs",)]
