"""`pgstore backup` and `pgstore restore`: one file that has everything, restored wholly or not at all."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pgstore import errors, migrate
from pgstore.admin.backup import backup
from pgstore.admin.check import run_checks
from pgstore.admin.restore import restore
from tests.fixtures import inventory
from tests.integration.test_dumps import PSQL, run


@pytest.fixture(scope="module")
def made(filled, tmp_path_factory) -> Path:
    """A backup of `filled`."""
    file = tmp_path_factory.mktemp("backup") / "made"
    backup(filled[0], str(file))
    return file


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_what_is_restored_is_all_that_was_backed_up(filled, empty_database, tmp_path, compression):
    url, expected = filled
    file = str(tmp_path / "backup")

    made = backup(url, file, compression=compression)
    restore(empty_database, file)

    assert (made.large_objects, made.missing) == (10, 0)
    assert inventory.inventory(empty_database) == expected
    inventory.go_on(empty_database)


def test_a_backup_is_restored_without_pgstore(filled, server, empty_database, tmp_path):
    """
    It must be of use where this package is not, or not any more.
    """
    url, expected = filled
    file = tmp_path / "backup"
    backup(url, str(file), compression="none")

    run(server, "psql", *PSQL[:-1], "-f", file, empty_database)
    migrate.upgrade(empty_database)

    assert inventory.inventory(empty_database) == expected
    assert run_checks(empty_database).is_healthy


def test_a_backup_is_restored_into_a_newer_major(filled, server, server18, made):
    if server.bin_dir == server18.bin_dir:
        pytest.skip("the server of the tests is of the newest version already")
    target = server18.create_database()

    restore(target, str(made))

    assert inventory.inventory(target) == filled[1]
    server18.drop_database(target)


def test_a_backup_of_a_newer_major_is_refused(server, server18, tmp_path, empty_database):
    if server.bin_dir == server18.bin_dir:
        pytest.skip("the server of the tests is of the newest version already")
    url = server18.create_database()
    migrate.upgrade(url)
    backup(url, str(tmp_path / "backup"))

    with pytest.raises(errors.BackupError, match="of PostgreSQL 18, and database .* is of"):
        restore(empty_database, str(tmp_path / "backup"))
    server18.drop_database(url)


def test_objects_of_others_keep_their_numbers_and_bytes(filled, empty_database, made):
    """
    The numbers that pgstore's objects had in the backup are taken by others here.
    """
    url, expected = filled
    with psycopg.connect(url) as connection, psycopg.connect(empty_database, autocommit=True) as other:
        oids = [
            oid
            for (oid,) in connection.execute("SELECT large_object FROM pgstore.chunk WHERE large_object IS NOT NULL")
        ]
        for oid in oids:
            other.execute("SELECT lo_from_bytea(%s, 'theirs')", [oid])

        restore(empty_database, str(made))

        theirs = other.execute("SELECT DISTINCT lo_get(oid) FROM pg_largeobject_metadata WHERE oid = ANY (%s)", [oids])
        assert theirs.fetchall() == [(b"theirs",)]
        assert other.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (2 * len(oids),)
    assert inventory.inventory(empty_database) == expected


def test_objects_of_others_are_not_in_the_backup(own_database, empty_database, tmp_path):
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("SELECT lo_from_bytea(0, 'theirs')")
        connection.execute("CREATE TABLE public.theirs (number integer)")

    backup(own_database, str(tmp_path / "backup"))
    restore(empty_database, str(tmp_path / "backup"))

    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)
        assert connection.execute("SELECT to_regclass('public.theirs')").fetchone() == (None,)
