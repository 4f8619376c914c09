"""sql/checks and `pgstore check`: nothing is found on a healthy database, and each kind of deliberate damage is."""

from __future__ import annotations

import io
import os
import re

import psycopg
import pytest

import pgstore
from pgstore.admin.check import checks_of, run_checks
from pgstore.admin.repair import REPAIRABLE
from pgstore.migrate import sql_directory
from tests.fixtures.processes import free_port
from tests.fixtures.scribe import LIVE, Scribe
from tests.integration.test_cli import Cli
from tests.migration.conftest import url_as

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
    ("file_contents", "device", "UPDATE pgstore.inode SET device = 7 WHERE ino = %(file)s"),
    ("file_contents", "its blob is missing", "DELETE FROM pgstore.blob WHERE id = %(blob)s"),
    ("file_extents", "its chunk is missing", "DELETE FROM pgstore.chunk WHERE id = %(chunk)s"),
    ("file_extents", "beyond the end", "UPDATE pgstore.extent SET position = 1000 WHERE chunk_id = %(chunk)s"),
    ("file_extents", "too large", "UPDATE pgstore.chunk SET data = repeat('x', 2000000)::bytea WHERE id = %(chunk)s"),
    ("file_extents", "its blob is missing",
     "ALTER TABLE pgstore.extent DISABLE TRIGGER ALL; DELETE FROM pgstore.blob WHERE id = %(blob)s"),
    ("file_extents", "not the only one",
     ("UPDATE pgstore.extent SET is_owned = false, chunk_id = (SELECT chunk_id FROM pgstore.extent WHERE blob_id = %(shared_blob)s "
      "AND position = 0) WHERE blob_id = %(shared_blob)s AND position = 1")),
    ("file_extents", "another owns its chunk",
     ("UPDATE pgstore.extent SET chunk_id = (SELECT chunk_id FROM pgstore.extent WHERE blob_id = %(blob)s AND position = 0) "
      "WHERE blob_id = %(blob)s AND position = 1")),
    ("file_extents", "behind the end",
     ("UPDATE pgstore.chunk SET data = data || 'x' WHERE id = (SELECT chunk_id FROM pgstore.extent "
      "WHERE blob_id = %(shared_blob)s ORDER BY position DESC LIMIT 1)")),
    ("file_blobs", "several files have it",
     (f"INSERT INTO pgstore.inode SELECT store_id, 999, 0, {LIVE}, kind, mode, uid, gid, 1, size_bytes, 1, 1, blob_id "
      "FROM pgstore.inode WHERE ino = %(shared)s")),
    ("file_blobs", "chunks of 0 bytes",
     ("ALTER DOMAIN pgstore.positive_number DROP CONSTRAINT positive_number_check; "
      "UPDATE pgstore.blob SET chunk_size_bytes = 0 WHERE id = %(blob)s")),
    *(("file_entry_names", "", ("ALTER DOMAIN pgstore.entry_name DROP CONSTRAINT entry_name_check; "
       f"UPDATE pgstore.dirent SET name = '{name}' WHERE ino = %(file)s"))
      for name in ("", ".", "..", "a/b", "/", "..\\000", "x" * 256)),
    ("file_versions", "versions are missing", "DELETE FROM pgstore.volume_version WHERE version = 2"),
    ("file_versions", "not been made", "INSERT INTO pgstore.version_pin VALUES (%(v)s, 99999, 77)"),
    ("sequences", "session.id", f"INSERT INTO pgstore.session (id, host, pid) VALUES ({99999 << 20}, 'h', 1)"),
    ("sequences", "store.id",
     f"INSERT INTO pgstore.store (id, environment, kind, name) VALUES ({99999 << 20}, 'main', 'dict', 'x')"),
    ("sequences", "dict_entry.revision", "SELECT setval('pgstore.dict_revision_seq', 1, false)"),
    ("sequences", "dict_change.revision",
     "INSERT INTO pgstore.dict_change (store_id, revision, kind, key) VALUES (%(d)s, 99999, 'p', 'x')"),
    ("sequences", "dict_change.id",
     "INSERT INTO pgstore.dict_change (store_id, id, revision, kind, key) VALUES (%(d)s, 99999, 1, 'p', 'x')"),
    ("sequences", "dict_lock.token",
     "INSERT INTO pgstore.dict_lock (store_id, key, token, expires_at) VALUES (%(d)s, 'x', 99999, now())"),
    ("sequences", "queue_item.id", "SELECT setval('pgstore.queue_item_id_seq', 1, false)"),
    ("sequences", "queue_head.low", "INSERT INTO pgstore.queue_head VALUES (%(q)s, '', 99999)"),
    ("sequences", "queue_deferred.id",
     "INSERT INTO pgstore.queue_deferred (store_id, id, kind, payload) VALUES (%(q)s, 99999, 'x', 'x')"),
    ("sequences", "inode.ino", "SELECT setval('pgstore.inode_seq', 2)"),
    ("sequences", "dirent.ino", "INSERT INTO pgstore.dirent VALUES (%(n)s, 1, 'x', 0, 1, 99999, 'f')"),
    ("sequences", "blob.id", "SELECT setval('pgstore.blob_id_seq', 1, false)"),
    ("sequences", "inode.blob_id", "UPDATE pgstore.inode SET blob_id = 99999 WHERE ino = %(shared)s"),
    ("sequences", "chunk.id", "SELECT setval('pgstore.chunk_id_seq', 1)"),
    ("sequences", "extent.chunk_id", "UPDATE pgstore.extent SET chunk_id = 99999 WHERE chunk_id = %(chunk)s"),
    ("queue_watermarks", "", ("INSERT INTO pgstore.queue_head SELECT store_id, partition, id + 1 FROM pgstore.queue_item; "
                         "SELECT nextval('pgstore.queue_item_id_seq')")),
    ("queue_items", "attempts -1", "UPDATE pgstore.queue_item SET attempts = -1"),
    ("queue_items", "64 bytes", "UPDATE pgstore.queue_item SET partition = repeat('x', 65)"),
    ("queue_items", "attempts 0",
     "INSERT INTO pgstore.queue_deferred (store_id, kind, due_at, payload) VALUES (%(q)s, 'l', now(), 'x')"),
    ("queue_items", "due, and dead",
     ("ALTER TABLE pgstore.queue_deferred DROP CONSTRAINT queue_deferred_check; "
      "INSERT INTO pgstore.queue_deferred (store_id, kind, due_at, payload) VALUES (%(q)s, 'x', now(), 'x')")),
    ("queue_items", "kind z",
     ("ALTER TABLE pgstore.queue_deferred DROP CONSTRAINT queue_deferred_kind_check; "
      "INSERT INTO pgstore.queue_deferred (store_id, kind, due_at, payload) VALUES (%(q)s, 'z', now(), 'x')")),
    ("dict_changes", "999999999",
     ("INSERT INTO pgstore.dict_change (store_id, transaction_id, revision, kind, key) "
      "VALUES (%(d)s, '999999999', 1, 'p', 'x')")),
    ("file_leftovers", "nothing refers to it", "INSERT INTO pgstore.blob (store_id, chunk_size_bytes) VALUES (%(v)s, 1)"),
    ("file_leftovers", "nothing refers to it", "INSERT INTO pgstore.chunk (store_id, data) VALUES (%(v)s, 'x')"),
    ("file_leftovers", "its session is dead",
     "INSERT INTO pgstore.blob (store_id, chunk_size_bytes, session_id) VALUES (%(v)s, 1, 99999)"),
    ("file_leftovers", "its session is dead", "INSERT INTO pgstore.version_pin VALUES (%(v)s, 99999, 1)"),
    ("file_leftovers", "its session is dead", "INSERT INTO pgstore.inode_pin VALUES (%(n)s, 99999, 1)"),
    ("large_objects", "missing", "UPDATE pgstore.chunk SET data = NULL, large_object = 1 WHERE id = %(chunk)s"),
    ("large_objects", "not its own",
     "UPDATE pgstore.chunk SET data = NULL, large_object = lo_from_bytea(0, 'theirs') WHERE id = %(chunk)s"),
    ("large_objects", "another chunk has the same", "UPDATE pgstore.chunk SET data = NULL, large_object = 1"),
    ("installation", "installation", "DELETE FROM pgstore.installation"),
    ("installation", "schema_revision", "DELETE FROM pgstore.schema_revision"),
    ("file_names", "leads to no inode",
     "UPDATE pgstore.inode SET ino = %(file)s, version_to = version_to - 1, version_from = 0 WHERE ino = %(linked)s"),
    ("orphans", "dirent", "INSERT INTO pgstore.dirent VALUES (0, 1, 'x', 0, 1, 1, 'f')"),
    ("orphans", "chunk_candidate", "INSERT INTO pgstore.chunk_candidate VALUES (0, 1)"),
]  # fmt: skip
DAMAGED_ELSEWHERE = {"dict_value_codec"}


@pytest.fixture
def damaged(own_database):
    """A database with a bit of everything, its connection without foreign keys, and what is where."""
    with pgstore.Client(own_database) as client:
        volume = pgstore.Volume.persist("v", client=client).hydrate()
        shared = pgstore.NetworkFileSystem.persist("n", client=client).hydrate()
        shared.put_file(io.BytesIO(os.urandom(200_000)), "d/large")
        shared.put_file(io.BytesIO(b"small"), "small")
        entries = pgstore.Dict.persist("d", client=client)
        entries["k"] = 1
        queue = pgstore.Queue.persist("q", client=client)
        queue.put(1)
        stores = {"v": volume, "n": shared, "d": entries, "q": queue}
        ids = {name: int(store.object_id[3:]) for name, store in stores.items()}
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
    report = run_checks(url)
    assert not report.failures
    return {finding.check: finding for finding in report.findings}


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
    assert CHECKS.keys() >= REPAIRABLE


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


def test_a_check_that_cannot_run_is_told_from_damage(damaged, cli):
    """
    Whoever is woken at night by one wants to know which it is. The others run, on the same state of the database.
    """
    url, connection, ids = damaged
    connection.execute("UPDATE pgstore.inode SET link_count = 2 WHERE ino = %s", [ids["file"]])
    connection.execute("ALTER TABLE pgstore.dict_change RENAME TO dict_change_elsewhere")
    try:
        report = run_checks(url)
        code, out, err = cli("--url", url, "check", "--repair")
    finally:
        connection.execute("ALTER TABLE pgstore.dict_change_elsewhere RENAME TO dict_change")

    assert {failure.check for failure in report.failures} == {"dict_changes", "orphans", "sequences"}
    assert [finding.check for finding in report.findings] == ["file_inodes"]
    assert report.checks == list(CHECKS)
    assert not report.is_healthy
    assert code == 1
    assert out.startswith("file_inodes: ")
    assert err.startswith("error: the checks dict_changes, orphans, sequences could not run: ")


@pytest.fixture
def unreadable(damaged):
    """The URL of a role that may read all tables but one."""
    url, connection, _ = damaged
    connection.execute("CREATE ROLE checks_reader LOGIN IN ROLE pgstore_reader")
    connection.execute("REVOKE SELECT ON pgstore.dict_change FROM pgstore_reader")
    yield url_as(url, "checks_reader")
    connection.execute("GRANT SELECT ON pgstore.dict_change TO pgstore_reader")
    connection.execute("DROP ROLE checks_reader")


def test_the_exit_code_of_a_role_without_rights_is_that_of_not_checked(unreadable, damaged, cli):
    """
    Unless what it may look at is damaged: that is damage, whatever else there may be.
    """
    _, connection, ids = damaged

    code, out, err = cli("--url", unreadable, "check")
    assert (code, out) == (3, "")
    assert re.fullmatch("error: the checks dict_changes, .* could not run: .*dict_change.*\n", err)

    connection.execute("UPDATE pgstore.inode SET link_count = 2 WHERE ino = %s", [ids["file"]])
    code, out, again = cli("--url", unreadable, "check")
    assert (code, again) == (1, err)
    assert out.startswith("file_inodes: ")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--url", "postgresql://me@127.0.0.1:{port}/app", "check"], 3, "is it running"),
        (["--url", "{missing}", "check"], 3, "createdb"),
        (["--url", "{empty}", "check"], 3, "pgstore migrate"),
        (["--url", "nonsense", "check"], 3, "URL"),
        (["--url", "", "check"], 2, "--url is empty"),
        (["--url", "{empty}", "check", "--mend"], 2, "--mend"),
    ],
    ids=["no server", "no database", "no schema", "no URL", "an empty URL", "no such option"],
)
def test_the_exit_code_tells_what_kept_it_from_looking(cli, server, empty_database, arguments, code, word):
    """
    Nobody is to be woken for a damage that nobody has looked for.
    """
    places = {"port": free_port(), "missing": server.url("missing"), "empty": empty_database}

    assert word in cli.fails(*[argument.format(**places) for argument in arguments], code=code)


def test_the_exit_code_of_an_embedded_server_that_cannot_start_is_that_of_not_checked(cli, tmp_path):
    (tmp_path / "server").write_text("no directory")

    cli.fails("check", code=3)


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

    assert (code, out.splitlines()[-1]) == (0, f"{len(CHECKS)} checks found nothing")
    assert "repaired: Volume main/v: 1 blobs and chunks deleted that nothing refers to" in out
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
    for table in ("inode", "dirent", "volume_version"):
        connection.execute(f"DELETE FROM pgstore.{table} WHERE store_id = %s", [int(volume.object_id[3:])])
    assert "orphans" in found(url)

    assert repaired(cli, url)

    assert connection.execute(count).fetchall() == [(0,)]


def repaired(cli, url):
    """Whether a repair leaves nothing; gives what it said."""
    code, out, err = cli("--url", url, "check", "--repair")
    assert (code, err) == (0, ""), out
    *said, last = out.splitlines()
    assert last == f"{len(CHECKS)} checks found nothing"
    assert found(url) == {}
    return said


def kept(cli, url):
    """What a repair that leaves something said that it kept."""
    code, out, err = cli("--url", url, "check", "--repair")
    assert (code, err) == (1, ""), out
    return [line for line in out.splitlines() if line.startswith("kept: ")]


def contents(store, path):
    return b"".join(store.read_file(path))


# ------------------------------------------------------------------------------------------------------- sequences


def test_sequences_that_were_left_behind_are_set_far_ahead(damaged, cli):
    """
    A server took over that was fed by logical replication. What was seen of revisions and tokens must not come again, though the
    tables do not have it any more.
    """
    url, connection, _ = damaged
    with pgstore.Client(url) as client:
        entries = pgstore.Dict.from_name("d", client=client)
        for number in range(50):
            entries["gone"] = number
        entry = entries.get_entry("gone")
        assert entry is not None
        del entries["gone"]
        with entries.lock("x") as lock:
            token = lock.token
    names = [
        name for (name,) in connection.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = 'pgstore'")
    ]
    for name in names:
        connection.execute(f"ALTER SEQUENCE pgstore.{name} RESTART")
    assert "sequences" in found(url)

    (said,) = repaired(cli, url)

    assert said.startswith(f"repaired: all stores: {len(names)} sequences set 1,000,000 beyond")
    with pgstore.Client(url) as client:
        volume = pgstore.Volume.persist("v", client=client)
        volume.put_file(io.BytesIO(os.urandom(300_000)), "new")
        pgstore.Queue.persist("q", client=client).put(2)
        entries = pgstore.Dict.from_name("d", client=client)
        entries["gone"] = "again"
        again = entries.get_entry("gone")
        assert again is not None
        assert again.revision > entry.revision
        with entries.lock("x") as lock:
            assert lock.token > token
        pgstore.Dict.persist("another", client=client)["a"] = 1
        assert pgstore.Queue.persist("q", client=client).get_many(5) == [1, 2]
    assert found(url) == {}


def test_a_repair_that_may_not_says_what_right_it_takes(damaged, cli, server):
    url, connection, _ = damaged
    connection.execute("SELECT setval('pgstore.chunk_id_seq', 1)")
    connection.execute("CREATE ROLE checks_writer LOGIN IN ROLE pgstore_writer")
    try:
        code, _, err = cli("--url", url_as(url, "checks_writer"), "check", "--repair")
    finally:
        connection.execute("DROP ROLE checks_writer")

    assert code != 0
    assert "pgstore_owner" in err
    assert "sequences" in found(url)


def test_changes_of_transactions_to_come_are_deleted(damaged, cli):
    """
    A dump was restored into another cluster, where numbers of transactions begin anew.
    """
    url, connection, ids = damaged
    connection.execute(
        "INSERT INTO pgstore.dict_change (store_id, transaction_id, revision, kind, key) VALUES (%(d)s, '9999999999', 1, 'p', 'x')",
        ids,
    )

    assert repaired(cli, url) == [
        "repaired: all Dicts: 1 changes of transactions to come deleted from pgstore.dict_change"
    ]


# ----------------------------------------------------------------------------------- what a file lacks, and its copies


@pytest.fixture(params=["Volume-rows", "NetworkFileSystem-large_object"])
def robbed(request, own_database):
    """A file system, its database without foreign keys, and the size of a chunk."""
    kind, storage = request.param.split("-")
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        store = getattr(pgstore, kind).from_name("s", create_if_missing=True, client=client, storage=storage).hydrate()
        ((chunk,),) = connection.execute("SELECT chunk_size_bytes FROM pgstore.file_system").fetchall()
        connection.execute("SET session_replication_role = replica")
        yield store, connection, chunk, own_database


def put(store, path, size):
    data = os.urandom(size)
    store.put_file(io.BytesIO(data), path)
    return data


@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_chunks_go_back_to_the_file_that_lacks_them(robbed, cli, lost):
    """
    Rows of pgstore.extent are missing. The chunks are the only copy of what they led to; other files tell nothing.
    """
    store, connection, chunk, url = robbed
    put(store, "before", 2 * chunk + 5)
    data = put(store, "file", 2 * chunk + 7)
    put(store, "after", 2 * chunk + 9)
    blob = "(SELECT blob_id FROM pgstore.inode JOIN pgstore.dirent USING (store_id, ino) WHERE name = 'file')"
    connection.execute(f"DELETE FROM pgstore.extent WHERE blob_id = {blob} AND position = ANY (%s)", [list(lost)])
    assert contents(store, "file") != data
    assert "file_leftovers" in found(url)

    said = repaired(cli, url)

    assert [line.rpartition(": ")[2] for line in said] == [f"{len(lost)} chunks put back where a file lacked them"]
    assert contents(store, "file") == data


def test_a_chunk_that_several_files_may_lack_is_kept(robbed, cli):
    """
    There is no telling whose it is. It is told of, and nothing is changed.
    """
    store, connection, chunk, url = robbed
    for name in ("file", "other"):
        put(store, name, chunk + 5)
    before = connection.execute("SELECT * FROM pgstore.chunk ORDER BY id").fetchall()
    connection.execute("DELETE FROM pgstore.extent WHERE position = 1")

    said = kept(cli, url)
    assert kept(cli, url) == said

    assert len(said) == 2
    assert "it may be what blob" in said[0]
    assert connection.execute("SELECT * FROM pgstore.chunk ORDER BY id").fetchall() == before


def test_the_hole_of_another_file_takes_no_chunk(robbed, cli):
    """
    Ranges of zeros have no chunk, and are no loss.
    """
    store, connection, chunk, url = robbed
    sparse = os.urandom(chunk) + bytes(chunk) + os.urandom(5)
    store.put_file(io.BytesIO(sparse), "sparse")
    data = put(store, "file", 2 * chunk + 5)
    blob = "(SELECT blob_id FROM pgstore.inode JOIN pgstore.dirent USING (store_id, ino) WHERE name = 'file')"
    connection.execute(f"DELETE FROM pgstore.extent WHERE blob_id = {blob} AND position = 1")

    repaired(cli, url)

    assert contents(store, "file") == data
    assert contents(store, "sparse") == sparse


def test_the_hole_at_the_end_of_a_file_takes_no_chunks_of_one_whose_blob_is_gone(robbed, cli):
    """
    They would fit there, and were made after the file's others; but they may as well be what the other file has lost.
    """
    store, connection, chunk, url = robbed
    sparse = os.urandom(chunk) + bytes(2 * chunk)
    store.put_file(io.BytesIO(sparse), "sparse")
    put(store, "file", 2 * chunk)
    blob = "(SELECT blob_id FROM pgstore.inode JOIN pgstore.dirent USING (store_id, ino) WHERE name = 'file')"
    connection.execute(f"DELETE FROM pgstore.extent WHERE blob_id = {blob}")
    connection.execute(f"DELETE FROM pgstore.blob WHERE id = {blob}")

    said = kept(cli, url)
    assert kept(cli, url) == said

    assert len(said) == 2
    assert contents(store, "sparse") == sparse
    assert connection.execute("SELECT count(*) FROM pgstore.chunk").fetchone() == (3,)


def test_a_blob_that_ends_before_its_file_is_kept(robbed, cli):
    """
    The file ends with a hole. It has lost its blob, of which the size does not tell any more.
    """
    store, connection, chunk, url = robbed
    store.put_file(io.BytesIO(os.urandom(chunk) + bytes(3 * chunk)), "file")
    connection.execute("UPDATE pgstore.inode SET blob_id = NULL WHERE kind = 'f'")
    assert {"file_contents", "file_leftovers"} <= set(found(url))

    (said,) = kept(cli, url)

    assert "files of this store have lost contents, which it may be" in said
    assert connection.execute("SELECT count(*) FROM pgstore.chunk").fetchone() == (1,)


def test_a_blob_goes_back_to_the_file_that_lacks_it(robbed, cli):
    """
    The file leads to a blob that is not there; the one that is there has exactly its size.
    """
    store, connection, chunk, url = robbed
    data = put(store, "file", chunk + 5)
    other = put(store, "other", chunk + 6)
    ino = "(SELECT ino FROM pgstore.dirent WHERE name = 'file')"
    connection.execute(f"UPDATE pgstore.inode SET blob_id = 2 + blob_id WHERE ino = {ino}")
    assert {"file_contents", "file_leftovers"} <= set(found(url))

    said = repaired(cli, url)

    assert any("1 files given their contents back" in line for line in said)
    assert contents(store, "file") == data
    assert contents(store, "other") == other


def test_a_blob_goes_back_to_the_file_that_has_another_ones(robbed, cli):
    """
    Of the two files that have one blob now, its size is that of one, and the other's is that of a blob which is loose.
    """
    store, connection, chunk, url = robbed
    data = put(store, "file", chunk + 5)
    other = put(store, "other", chunk + 70)
    ino = "(SELECT ino FROM pgstore.dirent WHERE name = '{}')"
    connection.execute(
        f"UPDATE pgstore.inode SET blob_id = (SELECT blob_id FROM pgstore.inode WHERE ino = {ino.format('other')}) "
        f"WHERE ino = {ino.format('file')}"
    )
    assert contents(store, "file") != data

    repaired(cli, url)

    assert contents(store, "file") == data
    assert contents(store, "other") == other


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE pgstore.inode SET blob_id = (SELECT max(blob_id) FROM pgstore.inode) WHERE ino = %(file)s",
        "DELETE FROM pgstore.inode WHERE ino = %(file)s",
        "UPDATE pgstore.inode SET blob_id = NULL, size_bytes = size_bytes + 1 WHERE ino = %(file)s",
        "UPDATE pgstore.inode SET blob_id = NULL, inline_data = 'x' WHERE ino = %(file)s",
    ],
    ids=["another's blob", "no inode", "no blob, and another size", "inline contents"],
)
def test_a_blob_that_a_file_may_lack_is_kept(robbed, cli, damage):
    """
    As long as the names or the files show a loss that it may explain, however often the repair is run.
    """
    store, connection, chunk, url = robbed
    put(store, "file", chunk + 5)
    put(store, "other", chunk + 5)
    ((file,),) = connection.execute("SELECT ino FROM pgstore.dirent WHERE name = 'file'").fetchall()
    tables = ("blob", "extent", "chunk")
    before = [connection.execute(f"SELECT * FROM pgstore.{table} ORDER BY 1, 2").fetchall() for table in tables]
    connection.execute(damage, {"file": file})
    assert "file_leftovers" in found(url)

    said = kept(cli, url)
    assert kept(cli, url) == said

    assert any("it may be the contents of" in line for line in said)
    assert [connection.execute(f"SELECT * FROM pgstore.{table} ORDER BY 1, 2").fetchall() for table in tables] == before


def test_a_blob_of_a_version_that_is_gone_is_kept(own_database, cli):
    """
    The newest row of the inode is gone; an older one is there, and leads elsewhere.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        store = pgstore.Volume.from_name("s", create_if_missing=True, client=client)
        put(store, "file", 300_000)
        with store.open("file", "ab") as file:
            file.write(b"x" * 300_000)
        ((blob,),) = connection.execute("SELECT max(blob_id) FROM pgstore.inode").fetchall()
        connection.execute("DELETE FROM pgstore.inode WHERE blob_id = %s", [blob])

        (said,) = kept(cli, own_database)

        assert f"blob {blob}: it may be the contents of a file whose inode is gone" in said
        assert connection.execute("SELECT FROM pgstore.blob WHERE id = %s", [blob]).fetchall() == [()]


@pytest.mark.parametrize("storage", ["rows", "large_object"])
def test_files_of_one_blob_become_copies(own_database, cli, storage):
    """
    A copy has lost its mark. Writing into one file changed the other until now.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        store = pgstore.NetworkFileSystem.from_name("s", create_if_missing=True, client=client, storage=storage)
        data = put(store, "one", 200_000)
        store.copy_files(["one"], "two")
        connection.execute("UPDATE pgstore.blob SET is_shared = false")
        assert set(found(own_database)) == {"file_blobs"}

        said = repaired(cli, own_database)

        assert said == ["repaired: NetworkFileSystem main/s: 1 blobs of several files marked as shared"]
        with store.open("two", "r+b") as file:
            file.write(b"CHANGED")
        assert contents(store, "one") == data
        assert contents(store, "two") == b"CHANGED" + data[7:]


def test_files_of_one_chunk_become_copies(robbed, cli):
    """
    An extent leads to the chunk of another, whose own is gone.
    """
    store, connection, chunk, url = robbed
    data = put(store, "one", chunk + 5)
    put(store, "two", chunk + 5)
    ids = connection.execute("SELECT chunk_id FROM pgstore.extent WHERE position = 0 ORDER BY blob_id").fetchall()
    connection.execute("UPDATE pgstore.extent SET chunk_id = %s WHERE chunk_id = %s", [ids[0][0], ids[1][0]])
    connection.execute("SELECT pgstore.chunk_delete(store_id, id) FROM pgstore.chunk WHERE id = %s", ids[1])
    assert set(found(url)) == {"file_extents"}

    assert repaired(cli, url)[0].endswith("extents marked as not the only ones of their chunk")

    if isinstance(store, pgstore.NetworkFileSystem):
        with store.open("two", "r+b") as file:
            file.write(b"CHANGED")
    assert contents(store, "one") == data


def test_a_chunk_that_another_has_taken_the_place_of_is_kept(robbed, cli):
    """
    An extent leads to the chunk of another; its own is there, and may be either's.
    """
    store, connection, chunk, url = robbed
    put(store, "one", chunk + 5)
    put(store, "two", chunk + 5)
    ids = connection.execute("SELECT chunk_id FROM pgstore.extent WHERE position = 0 ORDER BY blob_id").fetchall()
    connection.execute("UPDATE pgstore.extent SET chunk_id = %s WHERE chunk_id = %s", [ids[0][0], ids[1][0]])

    assert len(kept(cli, url)) == len(kept(cli, url)) == 1

    assert connection.execute("SELECT count(*) FROM pgstore.chunk").fetchone() == (4,)


def test_impossible_names_are_given_others(damaged, cli):
    """
    The files are there again, and can be given the names they should have.
    """
    url, connection, ids = damaged
    with pgstore.Client(url) as client:
        shared = pgstore.NetworkFileSystem.from_name("n", client=client)
        connection.execute("ALTER DOMAIN pgstore.entry_name DROP CONSTRAINT entry_name_check")
        connection.execute("UPDATE pgstore.dirent SET name = '..' WHERE store_id = %(n)s AND name = 'd'", ids)
        connection.execute("UPDATE pgstore.dirent SET name = 'a/b' WHERE store_id = %(n)s AND name = 'small'", ids)
        assert set(found(url)) == {"file_entry_names"}

        repaired(cli, url)

        paths = [entry.path for entry in shared.listdir("/", recursive=True)]
        assert len(paths) == 3
        assert paths[0].startswith("impossible-name-2e2e-")
        (small,) = [path for path in paths if path.startswith("impossible-name-612f62-")]
        assert contents(shared, small) == b"small"


# ----------------------------------------------------------------------------------------------- stores without a row


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize("kind", ["Dict", "Queue", "Volume", "NetworkFileSystem"])
def test_a_store_whose_row_is_lost_is_kept(own_database, cli, kind, at_once):
    """
    What is left of it is the only copy. It is told how to make the row again; all is there then.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        store = getattr(pgstore, kind).from_name("s", create_if_missing=True, client=client)
        if at_once and kind == "Dict":
            store.update({0: 0, 1: 1})
        elif at_once and kind == "Queue":
            store.put_many([0, 1])
        for number in range(2):
            if at_once and kind in ("Dict", "Queue"):
                break
            if kind == "Dict":
                store[number] = number
            elif kind == "Queue":
                store.put(number)
            else:
                put(store, str(number), 100_000)
        connection.execute("DELETE FROM pgstore.store")

        (said,) = kept(cli, own_database)
        assert kept(cli, own_database) == [said]

        for statement in said[said.index("INSERT") :].replace("…", "'again'").split("; "):
            connection.execute(statement)
        assert found(own_database) == {}
        store = getattr(pgstore, kind).from_name("again", client=client)
        if kind == "Dict":
            assert dict(store.items()) == {0: 0, 1: 1}
        elif kind == "Queue":
            assert store.get_many(5) == [0, 1]
        else:
            assert len(store.listdir("/")) == 2
