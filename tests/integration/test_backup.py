"""`pgstore backup` and `pgstore restore`: one file that has everything, restored wholly or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from pgstore import errors, migrate
from pgstore.admin.backup import backup
from pgstore.admin.backup_file import written
from pgstore.admin.check import run_checks
from pgstore.admin.programs import find_program
from pgstore.admin.restore import restore
from tests.faults.conftest import until
from tests.fixtures import inventory
from tests.fixtures.foreign import take_numbers
from tests.integration.test_dumps import PSQL, run
from tests.migration.conftest import Cluster, url_as

HAS_ZSTD = shutil.which("zstd") is not None
COMPRESSIONS = [
    pytest.param("zstd", marks=pytest.mark.skipif(not HAS_ZSTD, reason="the program zstd is not installed")),
    "gzip",
    "none",
]


@pytest.fixture(scope="module")
def made(filled, tmp_path_factory) -> Path:
    """A backup of `filled`."""
    file = tmp_path_factory.mktemp("backup") / "made"
    backup(filled[0], str(file))
    return file


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_is_restored_is_all_that_was_backed_up(filled, empty_database, tmp_path, compression):
    url, expected = filled
    file = str(tmp_path / "backup")

    made = backup(url, file, compression=compression)
    restore(empty_database, file)

    assert (made.large_objects, made.missing) == (inventory.objects(expected), 0)
    assert inventory.rows_of(empty_database) == inventory.restored(expected)["sql"]


def test_what_is_restored_is_used_on(filled, empty_database, made):
    restore(empty_database, str(made))

    assert inventory.inventory(empty_database) == inventory.restored(filled[1])
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

    assert inventory.rows_of(empty_database) == inventory.restored(expected)["sql"]
    assert run_checks(empty_database).is_healthy


def test_a_backup_is_restored_into_a_newer_major(filled, server, server18, made):
    if server.bin_dir == server18.bin_dir:
        pytest.skip("the server of the tests is of the newest version already")
    target = server18.create_database()

    restore(target, str(made))

    assert inventory.rows_of(target) == inventory.restored(filled[1])["sql"]
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
        oids = take_numbers(connection, other)

        restore(empty_database, str(made))

        theirs = other.execute("SELECT DISTINCT lo_get(oid) FROM pg_largeobject_metadata WHERE oid = ANY (%s)", [oids])
        assert theirs.fetchall() == [(b"theirs",)]
        assert other.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (2 * len(oids),)
    assert inventory.rows_of(empty_database) == inventory.restored(expected)["sql"]


def test_objects_of_others_are_not_in_the_backup(own_database, empty_database, tmp_path):
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("SELECT lo_from_bytea(0, 'theirs')")
        connection.execute("CREATE TABLE public.theirs (number integer)")

    backup(own_database, str(tmp_path / "backup"))
    restore(empty_database, str(tmp_path / "backup"))

    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)
        assert connection.execute("SELECT to_regclass('public.theirs')").fetchone() == (None,)


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(server):
    cluster = Cluster(server)
    yield cluster
    cluster.close()


def test_a_writer_backs_up_and_a_reader_is_told_what_to_grant(cluster, filled, tmp_path):
    """
    Readers may not have the secrets, without which a backup is not one.
    """
    url, expected = filled
    writer, reader, stranger = (cluster.login() for _ in range(3))
    cluster.grant("pgstore_writer", writer)
    cluster.grant("pgstore_reader", reader)

    assert backup(url_as(url, writer), str(tmp_path / "backup")).large_objects == inventory.objects(expected)

    for login, reason in ((reader, "may not read pgstore.secret;"), (stranger, "may not use the pgstore schema")):
        with pytest.raises(errors.AccessDenied, match=f'{reason}.*GRANT pgstore_writer TO "{login}"'):
            backup(url_as(url, login), str(tmp_path / "refused"))
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def test_what_is_restored_belongs_to_whom_a_migration_gives_it(cluster, filled, made, tmp_path):
    """
    Large objects too, which are read with the rights of the functions' owner.
    """
    roles, url = cluster.roles(), cluster.database()
    writer = cluster.login()

    restore(url, str(made), roles=roles)
    cluster.grant(roles.writer, writer)

    owners = cluster.execute(
        url,
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'pgstore'::regnamespace UNION "
        "SELECT DISTINCT pg_get_userbyid(lomowner) FROM pg_largeobject_metadata UNION "
        "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'pgstore'::regnamespace",
    )
    assert owners == [(roles.owner,)]
    empty = cluster.database()
    migrate.upgrade(empty, roles=roles)
    assert rights(cluster.dump(url, "-n", "pgstore")) == rights(cluster.dump(empty, "-n", "pgstore"))
    assert inventory.rows_of(url_as(url, writer)) == inventory.restored(filled[1])["sql"]


def rights(dump):
    """Who owns what, and who may do what with it."""
    return [line for line in dump.splitlines() if line.startswith(("ALTER", "GRANT", "REVOKE"))]


def test_a_login_that_may_create_schemas_restores(cluster, filled, made):
    """
    It need be no superuser, as on hosted servers nobody is.
    """
    url, login = cluster.database(), cluster.login()

    with pytest.raises(errors.AccessDenied, match="GRANT CREATE ON DATABASE"):
        restore(url_as(url, login), str(made), roles=None)
    assert cluster.execute(url, "SELECT to_regnamespace('pgstore')") == [(None,)]
    cluster.execute(url, f'GRANT CREATE ON DATABASE "{url.rpartition("/")[2]}" TO "{login}"')
    restore(url_as(url, login), str(made), roles=None)

    assert inventory.rows_of(url_as(url, login)) == inventory.restored(filled[1])["sql"]


def test_an_empty_schema_that_an_administrator_has_made_is_filled(cluster, made):
    url, login = cluster.database(), cluster.login()
    cluster.execute(url, f'CREATE SCHEMA pgstore AUTHORIZATION "{login}"')

    restore(url_as(url, login), str(made), roles=None)

    assert run_checks(url_as(url, login)).is_healthy


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_nothing_is_restored_of_a_file_that_is_cut_off_or_damaged(filled, made, empty_database, tmp_path, compression):
    """
    Most of it was sent to the server when that is noticed.
    """
    whole = tmp_path / "whole"
    backup(filled[0], str(whole), compression=compression)
    data = whole.read_bytes()
    broken = tmp_path / "broken"
    middle = len(data) * 3 // 4
    damaged = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]

    for left in (data[:-1], data[:middle] if compression == "none" else damaged):  # which has no sums
        broken.write_bytes(left)
        with pytest.raises(errors.BackupError, match=f"{broken} (?:is damaged|was cut off)"):
            restore(empty_database, str(broken))

    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regnamespace('pgstore')").fetchone() == (None,)
        assert connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_full_disk_leaves_the_backup_that_was_there(filled, tmp_path, compression):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mounted, check=False, capture_output=True).returncode != 0:
        pytest.skip("a disk can only be mounted by root")
    try:
        (disk / "backup").write_text("yesterday's")

        with pytest.raises(errors.FileFailed, match="no space left on device") as caught:
            backup(filled[0], str(disk / "backup"), compression=compression)

        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in disk.iterdir()] == ["backup"]
        assert (disk / "backup").read_text() == "yesterday's"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_backup_that_is_interrupted_leaves_the_one_that_was_there(own_database, tmp_path, number):
    """
    pg_dump, which waits for a lock here, and zstd end with it.
    """
    file = tmp_path / "backup"
    file.write_text("yesterday's")
    command = [sys.executable, "-c", "from pgstore.cli import main; main()", "--url", own_database, "backup", str(file)]
    with psycopg.connect(own_database) as connection:
        connection.execute("LOCK TABLE pgstore.extent")
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pgstore.extent'::regclass"
        until(lambda: connection.execute(waits).fetchone() == (1,))
        assert len(list(tmp_path.iterdir())) == 2
        children = _children(process.pid)
        assert len(children) == 1 + HAS_ZSTD

        process.send_signal(number)
        _, said = process.communicate(timeout=30)

    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[number]
    assert said == b""
    assert file.read_text() == "yesterday's"
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == [file]
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_what_says_where_large_objects_are_is_not_rewritten_meanwhile(own_database, tmp_path):
    """
    They are read last; of a table that was rewritten after the snapshot no row would be seen, and none would be missed.
    """
    attempts: list[int] = []

    def rewrite(done, total):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("LOCK TABLE pgstore.chunk IN ACCESS EXCLUSIVE MODE NOWAIT")
        other.rollback()
        attempts.append(done)

    with psycopg.connect(own_database) as other:
        backup(own_database, str(tmp_path / "backup"), tell=rewrite)

    assert len(attempts) > 5


def test_an_interrupt_does_not_wait_for_who_reads_the_backup(monkeypatch):
    """
    As of a connection that stands still, at the other end of a pipe. The thread that writes there says nothing, either: pytest
    makes an error of one that fails.
    """
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        before = threading.active_count()
        handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt), written("-", "zstd") as file:
                while True:
                    file.write(os.urandom(1 << 20))
        finally:
            signal.signal(signal.SIGALRM, handler)

        os.set_blocking(read, False)
        while threading.active_count() > before:
            reader.read()


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_is_written_is_for_its_owner_alone(own_database, tmp_path):
    """
    It has all values and files.
    """
    backup(own_database, str(tmp_path / "backup"))

    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600


# --- in the place of what is there ------------------------------------------------------------------------------------


def test_what_is_there_is_replaced_only_if_that_is_asked_for(filled, own_database, made):
    _, expected = filled
    inventory_before = inventory.rows_of(own_database)

    with pytest.raises(errors.SchemaError, match="has a schema pgstore already"):
        restore(own_database, str(made))
    assert inventory.rows_of(own_database) == inventory_before
    restore(own_database, str(made), replace=True)
    restore(own_database, str(made), replace=True)

    assert inventory.rows_of(own_database) == inventory.restored(expected)["sql"]
    with psycopg.connect(own_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (
            inventory.objects(expected),
        )


def test_nothing_is_replaced_by_a_file_that_is_cut_off(own_database, made, tmp_path):
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("INSERT INTO pgstore.dict_json_name VALUES ('main', 'there')")
    broken = tmp_path / "broken"
    broken.write_bytes(made.read_bytes()[:-100])

    with pytest.raises(errors.BackupError):
        restore(own_database, str(broken), replace=True)

    assert len(inventory.rows_of(own_database)["dict_json_name"]) == 1


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE VIEW public.mine AS SELECT * FROM pgstore.dict_items", "view (?:public.)?mine"),
        ("CREATE TABLE public.mine (name pgstore.entry_name)", "table (?:public.)?mine"),
        (
            """
            CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
            CREATE TRIGGER mine AFTER INSERT ON pgstore.store FOR EACH ROW EXECUTE FUNCTION public.f()
            """,
            "trigger mine",
        ),
        ("CREATE PUBLICATION mine FOR TABLES IN SCHEMA pgstore", "publication mine"),
        ("CREATE PUBLICATION mine FOR TABLE pgstore.store", "publication mine"),
    ],
    ids=["view", "column", "trigger", "publication of the schema", "publication of a table"],
)
def test_what_others_have_built_on_it_is_not_dropped(own_database, made, statement, name):
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute(statement)

        with pytest.raises(errors.SchemaError, match=f"others have made on top of the schema pgstore: .*{name}"):
            restore(own_database, str(made), replace=True)

        assert connection.execute("SELECT count(*) FROM pgstore.schema_revision").fetchone() == (1,)


# --- programs and servers ---------------------------------------------------------------------------------------------


def test_a_password_is_on_no_command_line(server, filled, tmp_path, monkeypatch):
    """
    Everybody on a machine sees those.
    """
    calls = tmp_path / "calls"
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "pg_dump"
    real = server.bin_dir / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr("pgstore.admin.programs.candidates", lambda: [("PGSTORE_PGBIN", folder)])
    url = filled[0].replace("postgres@", "postgres:s3cret@")

    backup(url, str(tmp_path / "backup"))

    said = calls.read_text()
    assert "--snapshot" in said
    assert "s3cret" not in said


def test_a_secret_that_a_program_takes_from_its_command_line_alone_is_refused(own_database, tmp_path):
    with pytest.raises(errors.ConfigurationError, match="sets sslpassword, which programs"):
        backup(f"{own_database}?sslpassword=s3cret", str(tmp_path / "backup"))

    assert list(tmp_path.iterdir()) == []


def test_programs_older_than_the_server_are_not_used(tmp_path, monkeypatch):
    for name, version in (("old", "13.9"), ("fits", "16.2"), ("newer", "18.1")):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "pg_dump"
        program.write_text(f'#!/bin/sh\necho "pg_dump (PostgreSQL) {version}"\n')
        program.chmod(0o755)
    monkeypatch.setattr(
        "pgstore.admin.programs.candidates", lambda: [("system", tmp_path / name) for name in ("newer", "old", "fits")]
    )

    assert find_program("pg_dump", 15).version == "16.2"
    assert find_program("pg_dump", 17).version == "18.1"
    with pytest.raises(errors.ConfigurationError, match=r"found: 18\.1 in .*apt install postgresql-client-19"):
        find_program("pg_dump", 19)
    with pytest.raises(errors.ConfigurationError, match="none was found"):
        find_program("psql", 15)


def test_a_pooler_is_refused(pgbouncer, own_database, tmp_path):
    """
    What pg_dump sets would stay set on a connection that others are given.
    """
    with pytest.raises(errors.ConfigurationError, match="a pooler answers"):
        backup(pgbouncer.url(own_database), str(tmp_path / "backup"))

    assert list(tmp_path.iterdir()) == []


def test_a_newer_revision_is_refused(filled, empty_database, tmp_path):
    plain = tmp_path / "plain"
    backup(filled[0], str(plain), compression="none")
    newer = tmp_path / "newer"
    newer.write_bytes(plain.read_bytes().replace(b'"schema_revision": "0001"', b'"schema_revision": "9999"', 1))

    with pytest.raises(errors.SchemaTooNew, match="of revision 9999, the newest this pgstore knows is"):
        restore(empty_database, str(newer))


def test_a_damaged_database_is_backed_up_as_it_is(own_database, empty_database, tmp_path, monkeypatch):
    """
    The rest must not be lost with what is lost already.
    """
    monkeypatch.setenv("PGSTORE_SECRET_KEY", inventory.SECRET_KEY)
    inventory.fill(own_database)
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute("SELECT lo_unlink(min(large_object)) FROM pgstore.chunk")

    made = backup(own_database, str(tmp_path / "backup"))
    restore(empty_database, str(tmp_path / "backup"))

    assert (made.large_objects, made.missing) == (inventory.objects({"sql": inventory.rows_of(empty_database)}) - 1, 1)
    assert [(finding.check, len(finding.rows)) for finding in run_checks(empty_database).findings] == [
        ("large_objects", 1)
    ]


def test_a_database_without_a_schema_has_nothing_to_back_up(empty_database, tmp_path):
    with pytest.raises(errors.SchemaMissing, match="nothing to back up"):
        backup(empty_database, str(tmp_path / "backup"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing/backup", "no such file or directory"),
        ("", "is no file"),
    ],
)
def test_a_file_that_cannot_be_written_is_told(own_database, tmp_path, name, told):
    with pytest.raises(errors.Error, match=told):
        backup(own_database, str(tmp_path / name))


def test_an_unknown_compression_is_told(tmp_path):
    with pytest.raises(errors.InvalidError, match="'lz5' is not known, expected one of zstd, gzip, none"):
        backup("postgresql://nowhere.invalid/", str(tmp_path / "backup"), compression="lz5")


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_backup_goes_through_standard_output_into_another_database(filled, empty_database):
    command = f"{sys.executable} -c 'from pgstore.cli import main; main()'"
    pipe = f"{command} --url {filled[0]} backup - | {command} --url {empty_database} restore -"

    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "restored what database" in done.stdout
    assert done.stdout.endswith("checks found nothing\n")
    assert inventory.rows_of(empty_database) == inventory.restored(filled[1])["sql"]


def test_to_replace_takes_a_yes(own_database, made):
    command = [
        sys.executable,
        "-c",
        "from pgstore.cli import main; main()",
        "--url",
        own_database,
        "restore",
        str(made),
    ]

    done = subprocess.run(
        [*command, "--replace"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "give --yes" in done.stderr
