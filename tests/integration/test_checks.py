"""sql/checks and `pgstore check`: nothing is found on a healthy database, and each kind of deliberate damage is."""

from __future__ import annotations

import io
import os
import re

import psycopg
import pytest

import pgstore
from pgstore.cli.check import REPAIRS, checks_of, run_checks
from pgstore.migrate import sql_directory
from tests.fixtures.scribe import LIVE, Scribe
from tests.integration.test_cli import Cli

CHECKS = checks_of(sql_directory())

# What is broken, the check that has to find it, and a word of what it says. %(v)s is the Volume, %(n)s the NetworkFileSystem.
DAMAGE = [
    ("file_names", "leads to no inode", "DELETE FROM pgstore.inode WHERE ino = %(file)s"),
    ("file_names", "leads to no inode", "UPDATE pgstore.dirent SET ino = 999999 WHERE ino = %(file)s"),
    ("file_names", "leads to no inode", "UPDATE pgstore.dirent SET kind = 'l' WHERE ino = %(file)s"),
    ("file_names", "leads to no inode", "UPDATE pgstore.inode SET version_from = version_from + 1 WHERE ino = %(changed)s"),
    ("file_names", "stands in no directory", "DELETE FROM pgstore.inode WHERE ino = %(directory)s"),
    ("file_names", "is there twice", "UPDATE pgstore.dirent SET version_from = 1 WHERE ino = %(replacement)s"),
    ("file_inodes", "no name", "DELETE FROM pgstore.dirent WHERE ino = %(file)s"),
    ("file_inodes", "no name", "DELETE FROM pgstore.dirent WHERE ino = %(removed)s"),
    ("file_inodes", "link_count 2 with 1 names", "UPDATE pgstore.inode SET link_count = 2 WHERE ino = %(file)s"),
    ("file_inodes", "link_count 1 with 2 names",
     f"UPDATE pgstore.inode SET link_count = 1 WHERE ino = %(linked)s AND version_to = {LIVE}"),
    ("file_inodes", "the directory is elsewhere", "UPDATE pgstore.inode SET parent = 1 WHERE ino = %(inner)s"),
    ("file_inodes", "the root",
     f"UPDATE pgstore.inode SET parent = 2 WHERE store_id = %(v)s AND ino = 1 AND version_to = {LIVE}"),
    ("file_inodes", "several names",
     ("INSERT INTO pgstore.dirent SELECT store_id, 1, 'again', version_from, version_to, ino, kind FROM "
      "pgstore.dirent WHERE ino = %(directory)s")),
    ("file_inodes", "there twice", "UPDATE pgstore.inode SET version_from = 0 WHERE ino = %(changed)s"),
    ("file_inodes", "link_count 0", "UPDATE pgstore.inode SET link_count = 0 WHERE ino = %(file)s"),
    ("file_inodes", "no name", "DELETE FROM pgstore.dirent WHERE ino = %(shared)s"),
    ("file_trees", "no way leads to it", "UPDATE pgstore.dirent SET parent = %(inner)s WHERE ino = %(directory)s"),
    ("file_trees", "no root", "DELETE FROM pgstore.inode WHERE store_id = %(n)s AND ino = 1"),
    ("file_trees", "no file system", "DELETE FROM pgstore.file_system WHERE store_id = %(v)s"),
    ("file_versions", "not the last", "UPDATE pgstore.file_system SET head = head + 1 WHERE store_id = %(v)s"),
    ("file_versions", "not the last", "UPDATE pgstore.file_system SET head = head - 1 WHERE store_id = %(v)s"),
    ("file_versions", "not been made", "UPDATE pgstore.dirent SET version_from = 1000 WHERE ino = %(file)s"),
    ("file_versions", "with versions", "UPDATE pgstore.inode SET version_to = 7 WHERE ino = %(shared)s"),
    ("file_contents", "contents in two places", None),  # a CHECK of the table
    ("file_contents", "inline contents of another size", "UPDATE pgstore.inode SET size_bytes = 7 WHERE ino = %(file)s"),
    ("file_contents", "is no file", "UPDATE pgstore.inode SET inline_data = 'x' WHERE ino = %(directory)s"),
    ("file_contents", "target", "UPDATE pgstore.inode SET link_target = 'x' WHERE ino = %(file)s"),
    ("file_contents", "its blob is missing", "DELETE FROM pgstore.blob WHERE id = %(blob)s"),
    ("file_extents", "its chunk is missing", "DELETE FROM pgstore.chunk WHERE id = %(chunk)s"),
    ("file_extents", "beyond the end", "UPDATE pgstore.extent SET position = 1000 WHERE chunk_id = %(chunk)s"),
    ("file_extents", "too large", "UPDATE pgstore.chunk SET data = repeat('x', 2000000)::bytea WHERE id = %(chunk)s"),
    ("file_extents", "its blob is missing",
     "ALTER TABLE pgstore.extent DISABLE TRIGGER ALL; DELETE FROM pgstore.blob WHERE id = %(blob)s"),
    ("file_extents", "not the only one",
     ("UPDATE pgstore.extent SET chunk_id = (SELECT chunk_id FROM pgstore.extent WHERE blob_id = %(shared_blob)s "
      "AND position = 0) WHERE blob_id = %(shared_blob)s AND position = 1")),
    ("file_sequence", "inode", "SELECT setval('pgstore.inode_seq', 2)"),
    ("file_sequence", "blob", "SELECT setval('pgstore.blob_id_seq', 1, false)"),
    ("file_sequence", "chunk", "SELECT setval('pgstore.chunk_id_seq', 1)"),
    ("file_leftovers", "nothing refers to it", "INSERT INTO pgstore.blob (store_id, chunk_size_bytes) VALUES (%(v)s, 1)"),
    ("file_leftovers", "nothing refers to it", "INSERT INTO pgstore.chunk (store_id, data) VALUES (%(v)s, 'x')"),
    ("file_leftovers", "its session is dead",
     "INSERT INTO pgstore.blob (store_id, chunk_size_bytes, session_id) VALUES (%(v)s, 1, 99999)"),
    ("file_leftovers", "its session is dead", "INSERT INTO pgstore.version_pin VALUES (%(v)s, 99999, 1)"),
    ("file_leftovers", "its session is dead", "INSERT INTO pgstore.inode_hold VALUES (%(n)s, 99999, 1)"),
    ("large_objects", "missing", "UPDATE pgstore.chunk SET data = NULL, large_object = 1 WHERE id = %(chunk)s"),
    ("large_objects", "not its own",
     "UPDATE pgstore.chunk SET data = NULL, large_object = lo_from_bytea(0, 'theirs') WHERE id = %(chunk)s"),
    ("large_objects", "another chunk has the same", "UPDATE pgstore.chunk SET data = NULL, large_object = 1"),
    ("orphans", "dirent", "INSERT INTO pgstore.dirent VALUES (0, 1, 'x', 0, 1, 1, 'f')"),
    ("orphans", "chunk_left", "INSERT INTO pgstore.chunk_left VALUES (0, 1)"),
]  # fmt: skip
DAMAGED_ELSEWHERE = {"dict_value_codec", "queue_sequence"}


@pytest.fixture
def damaged(own_database):
    """A database with a bit of everything, its connection without foreign keys, and what is where."""
    with pgstore.Client(own_database) as client:
        volume = pgstore.Volume.persist("v", client=client).hydrate()
        shared = pgstore.NetworkFileSystem.persist("n", client=client).hydrate()
        shared.put_file(io.BytesIO(os.urandom(200_000)), "d/large")
        shared.put_file(io.BytesIO(b"small"), "small")
        pgstore.Dict.persist("d", client=client)["k"] = 1
        pgstore.Queue.persist("q", client=client).put(1)
    ids = {"v": int(volume.object_id[3:]), "n": int(shared.object_id[3:])}
    with psycopg.connect(own_database, autocommit=True) as connection:
        scribe = Scribe(connection, ids["v"])
        with scribe.commit():
            ids["directory"] = scribe.directory("d")
            ids["inner"] = scribe.directory("d/inner")
            ids["file"] = scribe.file("d/file", b"data")
            ids["changed"] = scribe.file("d/inner/changed", b"data" * 100)
            ids["linked"] = scribe.file("linked", b"data")
            ids["removed"] = scribe.file("removed", b"data")
            scribe.file("replaced", b"old")
        with scribe.commit():
            scribe.chmod("d/inner/changed", 0o600)
            scribe.link("linked", "d/link")
            scribe.copy("d/inner/changed", "copy")
            scribe.chmod("removed", 0o600)
            scribe.remove("replaced")
        with scribe.commit():
            scribe.move("d/inner", "moved")
            scribe.move("moved", "d/inner")
            scribe.remove("removed")
            ids["replacement"] = scribe.file("replaced", b"new")
        ((ids["blob"], ids["chunk"]),) = connection.execute(
            "SELECT e.blob_id, e.chunk_id FROM pgstore.extent e JOIN pgstore.inode i USING (store_id, blob_id) "
            "WHERE i.ino = %s AND e.position = 0 LIMIT 1",
            [ids["changed"]],
        ).fetchall()
        ((ids["shared"], ids["shared_blob"]),) = connection.execute(
            "SELECT ino, blob_id FROM pgstore.inode WHERE store_id = %s AND blob_id IS NOT NULL", [ids["n"]]
        ).fetchall()
        connection.execute("SET session_replication_role = replica")  # triggers, and with them foreign keys, are off
        yield own_database, connection, ids


@pytest.fixture
def cli(tmp_path):
    cli = Cli(tmp_path)
    yield cli
    cli.close()


def found(url):
    return {finding.check: finding for finding in run_checks(url, CHECKS)}


def test_nothing_is_found_on_a_healthy_database(damaged):
    """
    With old versions, links, moves, copies, and names and inodes that begin with version 0.
    """
    url, _, _ = damaged

    assert found(url) == {}


@pytest.mark.parametrize(
    ("check", "word", "statement"), DAMAGE, ids=lambda value: None if value is None else value[:40]
)
def test_damage_is_found(damaged, check, word, statement):
    """
    A check that finds nothing is worth nothing.
    """
    url, connection, ids = damaged
    if statement is None:
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(f"UPDATE pgstore.inode SET inline_data = 'x' WHERE blob_id = {ids['blob']}")
        return
    for part in statement.split("; "):
        assert connection.execute(part, ids).rowcount != 0, "nothing was damaged"

    findings = found(url)

    assert check in findings
    assert any(word in str(row) for row in findings[check].rows), findings[check]


def test_every_check_has_its_damage():
    """
    As the test before takes for granted.
    """
    assert {check for check, _, _ in DAMAGE} | DAMAGED_ELSEWHERE == CHECKS.keys()
    assert REPAIRS.keys() <= CHECKS.keys()


def test_orphans_are_looked_for_in_every_table(damaged):
    """
    A table that came later would be forgotten. Foreign keys see to file_system and extent; large_object_left is of deleted stores.
    """
    _, connection, _ = damaged
    tables = connection.execute(
        "SELECT table_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) "
        "WHERE table_schema = 'pgstore' AND column_name = 'store_id' AND table_type = 'BASE TABLE'"
    ).fetchall()

    looked_at = re.findall(r"FROM pgstore\.(\w+) \w+\n WHERE NOT EXISTS", CHECKS["orphans"])

    assert {name for (name,) in tables} - {"file_system", "extent", "large_object_left"} == set(looked_at)


def test_the_command_reports_and_fails(damaged, cli):
    url, connection, ids = damaged

    code, out, err = cli("--url", url, "check")
    assert (code, out, err) == (0, f"{len(CHECKS)} checks found nothing\n", "")

    connection.execute("UPDATE pgstore.inode SET link_count = 2 WHERE ino = %s", [ids["file"]])
    code, out, err = cli("--url", url, "check", "--repair")
    assert (code, err) == (1, "")
    assert out.startswith("file_inodes: Inodes that are there twice")
    assert "link_count 2 with 1 names" in out


def test_leftovers_are_repaired_and_nothing_else_is_touched(damaged, cli):
    url, connection, ids = damaged
    before = connection.execute("SELECT * FROM pgstore.inode ORDER BY 1, 2, 4").fetchall()
    for statement in (
        (
            "WITH b AS (INSERT INTO pgstore.blob (store_id, chunk_size_bytes) VALUES (%(v)s, 10) RETURNING *), "
            "c AS (INSERT INTO pgstore.chunk (store_id, data) VALUES (%(v)s, 'x') RETURNING *) "
            "INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id) SELECT b.store_id, b.id, 0, c.id FROM b, c"
        ),
        "INSERT INTO pgstore.chunk (store_id, data) VALUES (%(n)s, 'x')",
        "INSERT INTO pgstore.blob (store_id, chunk_size_bytes, session_id) VALUES (%(v)s, 1, 99999)",
        "INSERT INTO pgstore.version_pin VALUES (%(v)s, 99999, 1)",
        "INSERT INTO pgstore.dirent VALUES (0, 1, 'x', 0, 1, 1, 'f')",
        "INSERT INTO pgstore.queue_item (store_id, partition, payload) VALUES (0, '', 'x')",
    ):
        connection.execute(statement, ids)
    counts = connection.execute(
        "SELECT (SELECT count(*) FROM pgstore.blob), (SELECT count(*) FROM pgstore.chunk)"
    ).fetchone()
    assert set(found(url)) == {"orphans", "file_leftovers"}

    code, out, _ = cli("--url", url, "check", "--repair")

    assert (code, out) == (0, f"{len(CHECKS)} checks found nothing\n")
    assert before == connection.execute("SELECT * FROM pgstore.inode ORDER BY 1, 2, 4").fetchall()
    assert counts is not None
    assert connection.execute(
        "SELECT (SELECT count(*) FROM pgstore.blob), (SELECT count(*) FROM pgstore.chunk)"
    ).fetchone() == (counts[0] - 2, counts[1] - 2)


def test_large_objects_of_orphans_go_with_them(damaged, cli):
    """
    An upload raced with the deletion of its Volume. Nothing else knows of the objects once the rows are gone.
    """
    url, connection, _ = damaged
    with pgstore.Client(url) as client:
        volume = pgstore.Volume.from_name("l", create_if_missing=True, client=client, storage="large_object")
        volume.put_file(io.BytesIO(os.urandom(2_000_000)), "f")
    count = "SELECT count(*) FROM pg_largeobject_metadata"
    assert connection.execute(count).fetchall() == [(2,)]
    connection.execute("DELETE FROM pgstore.store WHERE name = 'l'")
    assert "orphans" in found(url)

    assert cli("--url", url, "check", "--repair")[:2] == (0, f"{len(CHECKS)} checks found nothing\n")

    assert connection.execute(count).fetchall() == [(0,)]


def test_sequences_that_were_left_behind_are_set_right(damaged, cli):
    """
    A server took over that was fed by logical replication.
    """
    url, connection, _ = damaged
    for sequence in ("inode_seq", "blob_id_seq", "chunk_id_seq", "queue_item_id_seq"):
        connection.execute(f"SELECT setval('pgstore.{sequence}', 1, false)")
    assert set(found(url)) == {"file_sequence", "queue_sequence"}

    assert cli("--url", url, "check", "--repair")[:2] == (0, f"{len(CHECKS)} checks found nothing\n")

    with pgstore.Client(url) as client:
        volume = pgstore.Volume.persist("v", client=client)
        volume.put_file(io.BytesIO(os.urandom(300_000)), "new")
        pgstore.Queue.persist("q", client=client).put(2)
    assert found(url) == {}
