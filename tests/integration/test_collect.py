"""Collection: what goes, what stays, and when; with time set in the rows."""

from __future__ import annotations

import gc
import io
import os
import threading

import psycopg
import pytest

import pgstore
from pgstore import errors
from pgstore.core import clock
from pgstore.core.operation import atomic
from pgstore.core.statement import Statement
from pgstore.fs.retention import collection, pins
from pgstore.fs.retention.collection import Collected, Collection, collect_in_passing, contents
from pgstore.fs.retention.collection import rows as rows_of_versions
from pgstore.fs.tree import transact
from pgstore.store.deletion import delete_rows
from tests.integration.test_cli import Cli

LARGE = 300_000
MIB = 1024 * 1024


@pytest.fixture
def volume(client, store_name):
    return pgstore.Volume.from_name(store_name, create_if_missing=True, client=client, keep=2).hydrate()


@pytest.fixture
def shared(client, store_name):
    return pgstore.NetworkFileSystem.persist(store_name, client=client).hydrate()


@pytest.fixture
def cli(tmp_path):
    cli = Cli(tmp_path)
    yield cli
    cli.close()


def id_of(store):
    return int(store.object_id[3:])


def put(store, path, data):
    store.put_file(io.BytesIO(data), path)


def run(store, grace_seconds=0.0, **options):
    return store._runner.run(Collection(id_of(store), grace_seconds=grace_seconds, **options).run())


def rows(sql, store):
    tables = (
        "volume_version",
        "dirent",
        "inode",
        "blob",
        "extent",
        "chunk",
        "blob_candidate",
        "chunk_candidate",
        "version_pin",
    )
    return {
        table: count
        for table in tables
        if (count := sql(f"SELECT count(*) FROM pgstore.{table} WHERE store_id = %s", id_of(store))[0][0])
    }


def read(store, path):
    return b"".join(store.read_file(path))


def age(sql, store, seconds):
    """Let everything about *store* have happened so much earlier."""
    sql("UPDATE pgstore.volume_version SET committed_at = committed_at - %s * interval '1 second' WHERE store_id = %s",
        seconds, id_of(store))  # fmt: skip
    sql(
        "UPDATE pgstore.blob_candidate SET noted_at = noted_at - %s * interval '1 second' WHERE store_id = %s",
        seconds,
        id_of(store),
    )
    sql(
        "UPDATE pgstore.inode SET ctime_ns = ctime_ns - %s * 1000000000::bigint WHERE store_id = %s",
        seconds,
        id_of(store),
    )


def test_old_versions_go_with_what_only_they_had(volume, sql):
    """
    A file that is replaced every night must not fill the disk.
    """
    for number in range(5):
        put(volume, "f", os.urandom(LARGE))
        put(volume, f"{number}", b"")
    data = read(volume, "f")

    found = run(volume)

    assert found.versions == 8
    assert (found.blobs, found.chunks) == (4, 8)
    assert found.size_bytes == 4 * LARGE
    assert read(volume, "f") == data
    assert rows(sql, volume) == {"volume_version": 2, "dirent": 6, "inode": 8, "blob": 1, "extent": 2, "chunk": 2}
    assert run(volume) == Collected()


def test_contents_that_a_copy_has_stay(volume, sql):
    put(volume, "f", os.urandom(LARGE))
    data = read(volume, "f")
    volume.copy_files(["f"], "copy")
    volume.remove_file("f")
    put(volume, "x", b"")
    put(volume, "y", b"")

    run(volume)
    assert read(volume, "copy") == data

    volume.remove_file("copy")
    put(volume, "z", b"")
    run(volume)
    assert "blob" not in rows(sql, volume)


def test_a_version_stays_for_a_time_of_grace_after_its_end(volume, sql):
    """
    Whoever has begun to read it without a pin may still be at it.
    """
    put(volume, "f", os.urandom(LARGE))
    for number in range(4):
        put(volume, "f", b"%d" % number)
    before = rows(sql, volume)

    assert run(volume, grace_seconds=600) == Collected()
    age(sql, volume, 590)
    assert run(volume, grace_seconds=600) == Collected()
    assert rows(sql, volume) == before
    age(sql, volume, 20)

    assert run(volume, grace_seconds=600).versions == 3


def test_a_pinned_version_stays_as_long_as_its_session_lives(client, client_elsewhere, volume, sql, store_name):
    put(volume, "f", b"1" * LARGE)
    old = pgstore.Volume.from_name(store_name, client=client_elsewhere).at(1)
    assert read(old, "f") == b"1" * LARGE
    for number in range(4):
        put(volume, "f", b"%d" % number)

    run(volume)
    assert read(old, "f") == b"1" * LARGE
    assert [entry.version for entry in volume.versions()] == [5, 4, 3, 2, 1]

    sql(
        "UPDATE pgstore.session SET heartbeat_at = heartbeat_at - interval '11 minutes' WHERE id = %s",
        client_elsewhere.session.id,
    )
    run(volume)

    assert [entry.version for entry in volume.versions()] == [5, 4]
    for look in (
        lambda: read(old, "f"),
        lambda: old.listdir("/"),
        lambda: old.exists("f"),
        lambda: list(old.walk("/")),
    ):
        with pytest.raises(errors.VersionGone, match="version 1 is not kept any more"):
            look()
    with pytest.raises(errors.VersionGone, match="version 1 is not kept any more"):
        read(volume.at(1), "f")
    assert "version_pin" not in rows(sql, volume)


def test_a_session_that_was_taken_for_dead_pins_again(client_elsewhere, volume, sql, store_name):
    """
    A laptop was asleep, and nobody has collected: its pins hold again from the next beat on.
    """
    put(volume, "f", b"1")
    old = pgstore.Volume.from_name(store_name, client=client_elsewhere).at(1)
    assert read(old, "f") == b"1"
    session = client_elsewhere.session
    sql("DELETE FROM pgstore.version_pin WHERE store_id = %s", id_of(volume))
    sql("DELETE FROM pgstore.session WHERE id = %s", session.id)
    before = session.id

    client_elsewhere.run(session.keep())

    assert session.id != before
    assert rows(sql, volume)["version_pin"] == 1
    for number in range(4):
        put(volume, "f", b"%d" % number)
    run(volume)
    assert read(old, "f") == b"1"


def in_batches(iterator):
    """What each look at the server has given."""
    for first in iterator:
        rest = iterator._page
        yield b"".join([first, *rest])


@pytest.mark.parametrize("how", ["read_file", "open"])
def test_who_reads_for_more_than_a_minute_keeps_what_is_read(client, volume, sql, how, monkeypatch):
    """
    Without a handle on the version: a download may take hours.
    """
    data = os.urandom(9_000_000)
    put(volume, "f", data)
    put(volume, "g", b"")
    file = volume.open("f", "rb", buffering=0)
    pieces = iter(lambda: file.read(MIB * 4), b"") if how == "open" else in_batches(volume.read_file("f"))
    got = next(pieces)
    assert "version_pin" not in rows(sql, volume)
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 61)
    got += next(pieces)
    assert rows(sql, volume)["version_pin"] == 1

    for number in range(4):
        put(volume, "f", b"%d" % number)
    run(volume)

    assert got + b"".join(pieces) == data
    del pieces
    file.close()
    gc.collect()
    client.run(client.session.keep())
    assert run(volume).blobs == 1
    assert "version_pin" not in rows(sql, volume)


def test_who_reads_what_was_collected_is_told(volume):
    """
    It was stopped for hours: never zeros in place of bytes.
    """
    put(volume, "f", os.urandom(9_000_000))
    pieces = in_batches(volume.read_file("f"))
    next(pieces)
    for number in range(3):
        put(volume, "f", b"%d" % number)
    run(volume)

    with pytest.raises(errors.StaleFile, match="open it again"):
        next(pieces)


def test_a_pin_goes_with_the_last_handle(client, volume, sql):
    """
    Handles are made and dropped at will; forgotten ones must not keep history for ever.
    """
    put(volume, "f", b"1")
    first, second = volume.at(1), volume.at(1)
    derived = first.read_only()
    assert read(first, "f") == read(second, "f") == b"1"
    assert rows(sql, volume)["version_pin"] == 1

    del first, second
    gc.collect()
    client.run(client.session.keep())
    assert rows(sql, volume)["version_pin"] == 1

    del derived
    gc.collect()
    client.run(client.session.keep())
    assert "version_pin" not in rows(sql, volume)


def test_pins_end_with_the_client(client_elsewhere, volume, sql, store_name):
    put(volume, "f", b"1")
    old = pgstore.Volume.from_name(store_name, client=client_elsewhere).at(1)
    assert read(old, "f") == b"1"

    client_elsewhere.close()
    assert "version_pin" not in rows(sql, volume)

    assert read(old, "f") == b"1"  # the client can be used again, and so can the handle
    assert rows(sql, volume)["version_pin"] == 1


def test_threads_that_pin_one_version_at_once_share_it(client, volume, sql):
    put(volume, "f", b"1")
    kept = pins.version_of(id_of(volume), 1)
    store_pins = pins.pins_of(client.session)
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(30):
            client.run(store_pins.keep(kept))
            held = rows(sql, volume)
            client.run(store_pins.release(kept))
            assert held.get("version_pin") == 1

    problems = []

    def guarded():
        try:
            work()
        except BaseException as exc:
            problems.append(exc)

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert "version_pin" not in rows(sql, volume)


def test_a_pin_that_could_not_be_given_back_is_given_back_later(client, volume, sql, monkeypatch):
    """
    The server was away for a moment: the version would be kept as long as the process lives.
    """
    put(volume, "f", b"1")
    kept = pins.version_of(id_of(volume), 1)
    client.run(pins.pins_of(client.session).keep(kept))

    with monkeypatch.context() as patch:
        patch.setattr(pins, "UNPIN_VERSION", Statement("SELECT 1 / (($1 + $2 + $3) * 0)", "int8 int8 int8"))
        with pytest.raises(errors.Error):
            client.run(pins.pins_of(client.session).release(kept))
    assert rows(sql, volume)["version_pin"] == 1
    client.run(client.session.keep())

    assert "version_pin" not in rows(sql, volume)


def test_a_reader_role_reads_old_versions_without_a_pin(volume, sql, database, store_name, monkeypatch):
    """
    It may write nothing, and so cannot keep them; being refused with every read would only cost time.
    """
    asked = []
    keep = pins.Pins.keep

    def counted(self, kept):
        asked.append(kept)
        return keep(self, kept)

    monkeypatch.setattr(pins.Pins, "keep", counted)
    put(volume, "f", b"1")
    put(volume, "f", b"2")
    role = f"r_{id_of(volume)}"
    sql(f"CREATE ROLE {role} LOGIN IN ROLE pgstore_reader")
    try:
        with pgstore.Client(database.replace("postgres@", f"{role}@")) as reader:
            old = pgstore.Volume.from_name(store_name, client=reader).at(1)
            assert read(old, "f") == read(old, "f") == b"1"
            assert len(asked) == 1
    finally:
        sql(f"DROP ROLE {role}")


# ------------------------------------------------------------------------------------------------- NetworkFileSystem


def test_a_removed_live_file_goes_after_a_time_of_grace(shared, sql):
    put(shared, "f", os.urandom(LARGE))
    shared.remove_file("f")

    assert run(shared, grace_seconds=600) == Collected()
    age(sql, shared, 610)
    found = run(shared, grace_seconds=600)

    assert (found.inodes, found.blobs, found.chunks, found.size_bytes) == (1, 1, 5, LARGE)
    assert rows(sql, shared) == {"inode": 1}


def test_a_removed_live_file_stays_while_a_living_session_holds_it(client, shared, sql):
    put(shared, "f", os.urandom(LARGE))
    ino = shared.stat("f").ino
    kept = pins.inode_of(id_of(shared), ino)
    client.run(pins.pins_of(client.session).keep(kept))
    shared.remove_file("f")

    assert run(shared) == Collected()
    client.run(pins.pins_of(client.session).release(kept))
    assert run(shared).inodes == 1

    with pytest.raises(errors.StaleFile, match="nothing of it is left"):
        client.run(pins.pins_of(client.session).keep(kept))


def test_contents_that_were_left_go_unless_a_copy_has_them(shared, sql):
    put(shared, "f", os.urandom(LARGE))
    data = read(shared, "f")
    shared.copy_files(["f"], "copy")
    with shared.open("f", "r+b") as file:
        file.write(b"changed")
    assert rows(sql, shared)["blob_candidate"] == 1

    run(shared)
    assert read(shared, "copy") == data
    assert read(shared, "f") == b"changed" + data[7:]

    shared.remove_file("copy")
    run(shared)
    assert read(shared, "f") == b"changed" + data[7:]
    assert rows(sql, shared) == {"dirent": 1, "inode": 2, "blob": 1, "extent": 5, "chunk": 5}


def test_chunks_cut_off_go(shared, sql):
    put(shared, "f", os.urandom(LARGE))
    with shared.open("f", "r+b") as file:
        file.truncate(70_000)

    assert run(shared).chunks == 3
    assert rows(sql, shared) == {"dirent": 1, "inode": 2, "blob": 1, "extent": 2, "chunk": 2}


@pytest.mark.parametrize("storage", ["rows", "large_object"])
def test_large_objects_go_with_their_chunks(client, store_name, sql, storage):
    volume = pgstore.Volume.from_name(store_name, create_if_missing=True, client=client, storage=storage, keep=1)
    count = "SELECT count(*) FROM pg_largeobject_metadata"
    before = sql(count)
    put(volume, "f", os.urandom(3_000_000))
    assert (sql(count) == before) == (storage == "rows")
    volume.remove_file("f")

    assert run(volume).chunks == (12 if storage == "rows" else 3)

    assert sql(count) == before


def test_the_command_unlinks_what_a_killed_deletion_left(cli, own_database):
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        volume = pgstore.Volume.from_name("v", create_if_missing=True, client=client, storage="large_object")
        put(volume, "f", os.urandom(2_000_000))
        client.run(atomic(delete_rows(id_of(volume))))
        count = "SELECT count(*) FROM pg_largeobject_metadata"
        assert connection.execute(count).fetchall() == [(2,)]

        assert cli("--url", own_database, "gc") == (0, "nothing deleted\n", "")

        assert connection.execute(count).fetchall() == [(0,)]


@pytest.mark.parametrize("storage", ["rows", "large_object"])
def test_a_member_of_the_writers_collects(own_database, storage):
    """
    Who may write may also delete what others have written; nobody else is there to do it.
    """
    role = f"w_{storage}"
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN IN ROLE pgstore_writer")
    try:
        with pgstore.Client(own_database.replace("postgres@", f"{role}@")) as client:
            for kind in (pgstore.Volume, pgstore.NetworkFileSystem):
                store = kind.from_name(f"s{kind._kind}", create_if_missing=True, client=client, storage=storage)
                put(store, "f", os.urandom(3_000_000))
                store.remove_file("f")
                if kind is pgstore.Volume:
                    for _ in range(10):
                        put(store, "g", b"")
                assert run(store).chunks >= 3
    finally:
        with psycopg.connect(own_database, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}")


# ------------------------------------------------------------------------------------------------- unfinished uploads


def test_an_upload_goes_with_its_session(client_elsewhere, volume, sql, store_name):
    """
    What a killed program had written of a file, without its name.
    """
    theirs = pgstore.Volume.from_name(store_name, client=client_elsewhere)
    file = theirs.open("f", "wb")
    file.write(os.urandom(20_000_000))
    assert rows(sql, volume)["blob"] == 1

    assert run(volume) == Collected()  # their session lives
    sql(
        "UPDATE pgstore.session SET heartbeat_at = heartbeat_at - interval '11 minutes' WHERE id = %s",
        client_elsewhere.session.id,
    )
    found = run(volume)

    assert found.blobs == 1
    assert rows(sql, volume) == {"inode": 1}
    with pytest.raises(errors.Error):
        file.close()
    assert not volume.exists("f")


# ---------------------------------------------------------------------------------------------------- how it goes on


def test_batches_are_bounded_and_nothing_is_forgotten(volume, sql, monkeypatch):
    """
    With as little as possible in a transaction, and stopped after each of them.
    """
    monkeypatch.setattr(rows_of_versions, "ROWS_AT_ONCE", 2)
    for name in ("BLOBS_AT_ONCE", "EXTENTS_AT_ONCE", "CHUNKS_AT_ONCE"):
        monkeypatch.setattr(contents, name, 2)
    for _ in range(5):
        put(volume, "f", os.urandom(2 * LARGE))
    put(volume, "g", b"")
    promised = volume._runner.run(Collection(id_of(volume), grace_seconds=0).dry_run())
    total = Collected()
    rounds = 0

    while True:
        collection = Collection(id_of(volume), grace_seconds=0, transactions_max=1 + rounds)
        found = volume._runner.run(collection.run())
        total = Collected(*(getattr(total, name) + getattr(found, name) for name in vars(total)))
        rounds += 1
        if collection.is_complete:
            break

    assert total == promised
    assert (total.versions, total.blobs, total.chunks) == (4, 4, 12)
    assert rounds > 2


def test_a_store_that_is_gone_has_nothing_to_collect(client, volume):
    store_id = id_of(volume)
    put(volume, "f", b"")
    pgstore.Volume.objects.delete(volume.name, client=client)

    collection = Collection(store_id, grace_seconds=0)

    assert client.run(collection.run()) == Collected()
    assert collection.is_complete
    assert client.run(collection.dry_run()) == Collected()


def test_clients_that_write_collect_in_passing(client, volume, sql, monkeypatch):
    """
    A minute after a commit, on a thread of its own, which ends when there is nothing left to do.
    """
    assert client.scheduler._thread is None
    for _ in range(4):
        put(volume, "f", os.urandom(LARGE))
    age(sql, volume, 700)
    thread = client.scheduler._thread
    assert thread is not None
    client.scheduler.work()
    assert rows(sql, volume)["volume_version"] == 4  # not before a minute has passed

    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 61)
    client.scheduler.work()

    assert rows(sql, volume)["volume_version"] == 2
    assert client.scheduler._left == {}


def test_who_only_restores_collects_in_passing(client, volume, client_elsewhere, sql, store_name, monkeypatch):
    """
    A restore is a commit, which makes older versions superfluous, like any other.
    """
    for _ in range(3):
        put(volume, "f", b"x")
    pgstore.Volume.from_name(store_name, client=client_elsewhere).restore(2)
    age(sql, volume, 700)

    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 61)
    client_elsewhere.scheduler.work()

    assert [entry.version for entry in volume.versions()] == [4, 3]


def test_what_waits_for_the_time_of_grace_is_looked_at_again(client, volume, sql, monkeypatch):
    for _ in range(4):
        put(volume, "f", b"x")
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 61)
    client.scheduler.work()
    assert rows(sql, volume)["volume_version"] == 4
    assert len(client.scheduler._left) == 1

    age(sql, volume, 700)
    monkeypatch.setattr(clock, "monotonic", lambda: now + 61 + transact.COLLECT_AGAIN_SECONDS)
    client.scheduler.work()

    assert rows(sql, volume)["volume_version"] == 2
    assert client.scheduler._left == {}


def test_the_thread_of_chores_ends_with_its_work(client, volume, monkeypatch):
    monkeypatch.setattr(transact, "COLLECT_SECONDS", 0.0)

    put(volume, "f", b"x")

    thread = client.scheduler._thread
    if thread is not None:
        thread.join(10)
        assert not thread.is_alive()
    assert client.scheduler._thread is None
    put(volume, "f", b"x")  # and starts again
    client.close()


def test_a_client_that_is_closed_has_no_thread_left(database, store_name):
    with pgstore.Client(database) as client:
        put(pgstore.Volume.persist(store_name, client=client), "f", b"x")
        thread = client.scheduler._thread
        assert thread is not None
    assert not thread.is_alive()


def test_in_passing_little_is_done_at_a_time(client, volume, sql, monkeypatch):
    monkeypatch.setattr(collection, "TRANSACTIONS_IN_PASSING", 2)
    for _ in range(5):
        put(volume, "f", os.urandom(LARGE))
    age(sql, volume, 700)

    assert not client.run(collect_in_passing(id_of(volume)))
    assert rows(sql, volume)["volume_version"] == 2
    assert rows(sql, volume)["blob"] == 5


# ----------------------------------------------------------------------------------------------------------- command


def test_the_command_shows_what_it_would_do_and_does_it(cli, own_database):
    with pgstore.Client(own_database) as client:
        volume = pgstore.Volume.from_name("models", create_if_missing=True, client=client, keep=1)
        for _ in range(3):
            put(volume, "f", b"x" * LARGE)
        put(pgstore.NetworkFileSystem.persist("cache", client=client), "f", b"x")
        data = read(volume, "f")

        assert cli("--url", own_database, "gc") == (0, "nothing deleted\n", "")
        code, promised, _ = cli("--url", own_database, "gc", "models", "--dry-run", "--grace", "0")
        assert code == 0
        assert promised.startswith("would be deleted:\n")
        assert len(volume.versions()) == 3
        code, done, _ = cli("--url", own_database, "gc", "--grace", "0")

        assert code == 0
        assert done == promised.replace("would be deleted", "deleted")
        assert [word for word in done.split() if word in ("main", "Volume", "models", "585.9")] == [
            "main", "Volume", "models", "585.9"
        ]  # fmt: skip
        assert len(volume.versions()) == 1
        assert read(volume, "f") == data

    assert cli.fails("--url", own_database, "gc", "none") == (
        "error: there is no Volume or NetworkFileSystem 'none' in environment 'main'\n"
    )
    assert cli("--url", own_database, "--env", "staging", "gc")[1] == "nothing deleted\n"
