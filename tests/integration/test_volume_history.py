"""Old versions of a Volume: listed, read, restored."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

import pgstore
from pgstore import errors
from pgstore.types import VolumeVersion


@pytest.fixture
def volume(client, store_name):
    return pgstore.Volume.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def elsewhere(client_elsewhere, volume, store_name):
    return pgstore.Volume.from_name(store_name, client=client_elsewhere)


def put(volume, path, data, **options):
    volume.put_file(io.BytesIO(data), path, **options)


def tree(call, volume):
    """Paths with contents; None of directories."""
    entries = call.iterate(volume.iterdir("/", recursive=True))
    return {
        entry.path: b"".join(call.iterate(volume.read_file(entry.path)))
        if entry.type == pgstore.FileEntryType.FILE
        else None
        for entry in entries
    }


def test_every_commit_is_a_version(call, client, volume):
    assert call(volume.versions) == []
    for number in range(3):
        put(volume, f"{number}", b"")
    with client.transaction():
        put(volume, "a", b"")
        put(volume, "b", b"")

    versions = call(volume.versions)

    assert [entry.version for entry in versions] == [4, 3, 2, 1]
    assert all(abs(entry.committed_at - datetime.now(UTC)) < timedelta(minutes=1) for entry in versions)
    assert isinstance(versions[0], VolumeVersion)
    assert call(volume.versions, limit=2) == versions[:2]
    assert call(volume.versions, limit=2, before=3) == versions[2:]
    assert volume.stat("a").version == 4


def test_a_version_is_read_as_it_was(call, volume):
    large = os.urandom(400_000)
    put(volume, "d/f", b"1")
    put(volume, "large", large)
    volume.move("d", "e")
    put(volume, "e/f", b"2")
    volume.remove_file("large")

    assert tree(call, volume.at(0)) == {}
    assert tree(call, volume.at(1)) == {"d": None, "d/f": b"1"}
    assert tree(call, volume.at(2)) == {"d": None, "d/f": b"1", "large": large}
    assert tree(call, volume.at(3)) == {"e": None, "e/f": b"1", "large": large}
    assert tree(call, volume.at(5)) == tree(call, volume) == {"e": None, "e/f": b"2"}
    assert [entry.path for entry in call.iterate(volume.at(1).glob("*/f"))] == ["d/f"]
    assert call(volume.at(1).exists, "d/f")
    assert not call(volume.at(1).exists, "e/f")


class Two:
    """As `numpy.int64(2)`."""

    def __index__(self):
        return 2


def test_versions_may_be_numbers_of_other_kinds(call, volume):
    """
    They come from tables of numpy or pandas as often as from us.
    """
    for text in (b"1", b"2", b"3"):
        call(volume.put_file, io.BytesIO(text), "f")

    assert [made.version for made in call(volume.versions, limit=Two())] == [3, 2]
    assert [made.version for made in call(volume.versions, before=Two())] == [1]
    assert b"".join(volume.at(Two()).read_file("f")) == b"2"
    with pytest.raises(errors.ConflictError):
        call(volume.put_file, io.BytesIO(b"4"), "f", if_version=Two())


def test_a_version_is_read_inside_a_transaction_that_changes_the_volume(client, volume):
    put(volume, "f", b"1")
    put(volume, "f", b"2")

    with client.transaction():
        put(volume, "f", b"3")
        assert b"".join(volume.at(1).read_file("f")) == b"1"


def test_a_version_cannot_be_written_to(call, volume):
    put(volume, "f", b"1")
    old = volume.at(1)

    for operation, *args in (
        (old.put_file, io.BytesIO(b"2"), "f"), (old.remove_file, "f"), (old.restore, 1), (old.mkdir, "d"),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidError, match=r"Version 1 of a Volume can not be written to; restore\(1\)"):
            call(operation, *args)


def test_a_pickled_handle_reads_its_version_and_keeps_it(client, volume, database, sql):
    """
    As a job is sent to another process: what it is to read must not be collected under it.
    """
    put(volume, "f", b"1")
    put(volume, "f", b"2")
    pgstore.configure(url=database)
    try:
        old = pickle.loads(pickle.dumps(volume.at(1)))

        assert b"".join(old.read_file("f")) == b"1"
        with pytest.raises(errors.InvalidError, match="Version 1 of a Volume can not be written to"):
            old.remove_file("f")
        assert sql("SELECT version FROM pgstore.version_pin WHERE store_id = %s", int(volume.object_id[3:])) == [(1,)]
        with pytest.raises(errors.InvalidError, match="there is no version 3; the newest is 2"):
            pickle.loads(pickle.dumps(volume.at(3))).exists("f")
    finally:
        pgstore.configure()


def test_what_is_no_version_is_said_to_be_none(call, volume):
    put(volume, "f", b"1")

    for number in (2, 100):
        for operation, *args in ((volume.at(number).listdir, "/"), (volume.restore, number)):
            with pytest.raises(errors.InvalidError, match=f"there is no version {number}; the newest is 1"):
                call(operation, *args)
    for wrong in (-1, True, "1", 1.5):
        with pytest.raises(errors.InvalidError, match="is not a number of 0 to"):
            volume.at(wrong)
        with pytest.raises(errors.InvalidError, match="is not a number of 0 to"):
            call(volume.restore, wrong)


def test_a_missing_volume_is_not_found(call, client, volume):
    gone = pgstore.Volume.from_name("none", client=client)
    for operation, *args in ((gone.versions,), (gone.restore, 0), (gone.at(0).listdir, "/")):
        with pytest.raises(pgstore.NotFoundError):
            call(operation, *args)
    pgstore.Volume.objects.delete(volume.name, client=client)
    for operation, *args in ((volume.versions,), (volume.restore, 0), (volume.at(0).listdir, "/")):
        with pytest.raises(pgstore.NotFoundError):
            call(operation, *args)


def test_restore_makes_a_version_like_an_old_one(call, volume):
    put(volume, "d/f", b"1")
    volume.chmod("d/f", 0o600)
    volume.link("d/f", "linked")
    before = volume.stat("d/f")
    was = tree(call, volume)
    volume.chmod("d/f", 0o644)
    volume.remove_file("linked")
    volume.move("d", "elsewhere")
    put(volume, "elsewhere/f", os.urandom(400_000))
    since = tree(call, volume)

    assert call(volume.restore, 3) == 8

    assert tree(call, volume) == was
    after = volume.stat("d/f")
    assert (after.mode, after.link_count, after.ino, after.mtime_ns) == (0o600, 2, before.ino, before.mtime_ns)
    assert after.ctime_ns > before.ctime_ns
    assert volume.stat("linked").ino == after.ino
    assert tree(call, volume.at(7)) == since
    assert call(volume.restore, 7) == 9
    assert tree(call, volume) == since


def test_restore_is_a_part_of_its_transaction(client, volume, elsewhere):
    """
    With changes after it, all become one version; and nothing is left of it if it is rolled back.
    """
    put(volume, "f", b"1")
    put(volume, "f", b"2")
    failure = RuntimeError()

    with pytest.raises(RuntimeError), client.transaction():
        assert volume.restore(1) == 3
        assert b"".join(volume.read_file("f")) == b"1"
        raise failure
    assert b"".join(volume.read_file("f")) == b"2"

    with client.transaction():
        with pytest.raises(RuntimeError), client.transaction():
            volume.restore(0)
            raise failure
        assert volume.restore(1) == 3
        volume.move("f", "g")
        put(volume, "new", b"3")
        volume.remove_file("g")
        assert b"".join(elsewhere.read_file("f")) == b"2"

    assert [entry.version for entry in volume.versions()] == [3, 2, 1]
    assert [entry.path for entry in elsewhere.listdir("/")] == ["new"]
    assert [entry.path for entry in elsewhere.at(1).listdir("/")] == ["f"]


def test_restore_does_not_undo_changes_of_its_transaction_by_accident(client, volume):
    put(volume, "f", b"1")

    with client.transaction():
        put(volume, "g", b"2")
        with pytest.raises(errors.InvalidError, match="the transaction has changed the Volume already"):
            volume.restore(0)

    assert [entry.path for entry in volume.listdir("/")] == ["f", "g"]


def test_who_commits_beside_a_restore_comes_before_or_after_it(client, volume, elsewhere):
    put(volume, "d/f", b"1")
    put(volume, "d/g", b"2")
    put(elsewhere, "x", b"3")

    volume.restore(1)
    put(elsewhere, "y", b"4")

    assert [entry.path for entry in volume.listdir("/", recursive=True)] == ["d", "d/f", "y"]


def test_a_directory_that_a_restore_removes_is_a_conflict_for_who_changes_it(client, volume, elsewhere):
    put(volume, "f", b"1")
    put(volume, "d/g", b"2")

    with pytest.raises(pgstore.ConflictError, match="'d' was removed by another transaction"), client.transaction():
        put(volume, "d/h", b"3")
        elsewhere.restore(1)

    assert [entry.path for entry in volume.listdir("/", recursive=True)] == ["f"]


# ------------------------------------------------------------------------------------------------ in a transaction


@contextlib.contextmanager
def transaction(client, database, how):
    """A transaction of the client's own, or one of the caller's that it joins."""
    if how == "own":
        with client.transaction():
            yield
        return
    with psycopg.connect(database) as connection, client.transaction(connection):
        yield


@pytest.mark.parametrize("how", ["own", "joined"])
@pytest.mark.parametrize("when", ["before", "after", "alone"])
def test_the_version_that_a_commit_will_make_is_told(client, database, volume, how, when):
    """
    For a row of the caller's, which names the files that were written with it.
    """
    put(volume, "f", b"1")

    with transaction(client, database, how):
        told = [volume.next_version()] if when == "before" else []
        if when != "alone":
            put(volume, "f", b"2")
        told += [volume.next_version(), volume.next_version()]

    assert set(told) == {2}
    assert [entry.version for entry in volume.versions()] == [2, 1]
    assert b"".join(volume.at(2).read_file("f")) == (b"1" if when == "alone" else b"2")
    assert volume.stat("f").version == (1 if when == "alone" else 2)
    put(volume, "f", b"3")
    assert [entry.version for entry in volume.versions()] == [3, 2, 1]


@pytest.mark.parametrize("call", ["aio"], indirect=True)
def test_the_version_that_a_commit_will_make_is_told_on_an_event_loop(call, client, volume):
    async def work():
        async with client.transaction():
            await volume.put_file.aio(io.BytesIO(b"1"), "f")
            return await volume.next_version.aio()

    assert call.run(work()) == 1
    assert volume.stat("f").version == 1


@pytest.mark.parametrize("ends", ["commits", "is rolled back"])
def test_no_two_transactions_that_commit_are_told_one_version(client, client_elsewhere, volume, elsewhere, ends):
    """
    The second is told when the first has ended, and is told its number if that was never made.
    """
    volume.hydrate()

    def second():
        with client_elsewhere.transaction():
            put(elsewhere, "second", b"2")
            return elsewhere.next_version()

    with ThreadPoolExecutor(1) as others:
        with contextlib.suppress(ZeroDivisionError), client.transaction():
            first = volume.next_version()
            told = others.submit(second)
            with pytest.raises(TimeoutError):
                told.result(0.5)
            if ends != "commits":
                raise ZeroDivisionError
        assert (first, told.result(30)) == ((1, 2) if ends == "commits" else (1, 1))

    newest = 2 if ends == "commits" else 1
    assert [entry.version for entry in volume.versions()] == list(range(newest, 0, -1))
    assert volume.stat("second").version == newest


@pytest.mark.parametrize("how", ["own", "joined"])
def test_a_version_that_was_told_goes_with_its_savepoint(client, database, volume, how):
    with transaction(client, database, how):
        with pytest.raises(ZeroDivisionError), client.transaction():
            assert volume.next_version() == 1
            raise ZeroDivisionError
        assert volume.versions() == []
    assert volume.versions() == []

    with transaction(client, database, how):
        with pytest.raises(ZeroDivisionError), client.transaction():
            volume.next_version()
            raise ZeroDivisionError
        put(volume, "f", b"1")
        assert volume.next_version() == 1
    assert volume.stat("f").version == 1


def test_only_who_may_write_in_a_transaction_is_told_the_next_version(call, client, volume):
    volume.hydrate()
    with pytest.raises(errors.InvalidError, match="inside one"):
        call(volume.next_version)

    with client.transaction():
        for handle in (volume.read_only(), volume.at(0)):
            with pytest.raises(errors.InvalidError, match="can not be written to"):
                handle.next_version()
    pgstore.Volume.objects.delete(volume.name, client=client)
    with client.transaction(), pytest.raises(pgstore.NotFoundError):
        volume.next_version()


@pytest.mark.parametrize("path", ["f", "d/f", "new/f", "attributes", "moved"])
def test_what_a_transaction_has_changed_has_no_version_before_that_is_known(client, volume, path):
    """
    A number of before would not be true, and whoever goes by it (`if_version`) would be told of a change that is his own.
    """
    for name in ("f", "d/f", "attributes", "before"):
        put(volume, name, b"1")

    with client.transaction():
        for name in ("f", "d/f", "new/f"):
            put(volume, name, b"2")
        volume.chmod("attributes", 0o600)
        volume.move("before", "moved")
        assert volume.stat("d").version == 2
        assert volume.stat(path).version is None
        assert {stat.path: stat.version for stat in volume._iterstat("/", recursive=True)}[path] is None
        put(volume, path, b"3", if_version=volume.stat(path).version)

        with pytest.raises(pgstore.ConflictError, match="if_version=0 asks for nothing there"):
            put(volume, path, b"3", if_version=0)
        assert volume.next_version() == 5
        assert volume.stat(path).version == 5
        assert {stat.path: stat.version for stat in volume._iterstat("/", recursive=True)}[path] == 5
        put(volume, path, b"4", if_version=5)

    assert volume.stat(path).version == 5
    assert b"".join(volume.read_file(path)) == b"4"


def test_what_is_written_into_a_joined_transaction_has_its_version_at_once(client, database, volume):
    put(volume, "f", b"1")

    with transaction(client, database, "joined"):
        put(volume, "f", b"2")
        assert volume.stat("f").version == 2
        assert [entry.version for entry in volume.versions()] == [2, 1]
    assert volume.stat("f").version == 2


def test_keep_says_how_many_versions_stay(client, store_name):
    from pgstore.fs.retention.collection import Collection

    volume = pgstore.Volume.from_name(store_name, create_if_missing=True, client=client, keep=3)
    for number in range(6):
        put(volume, "f", b"%d" % number)
    client.run(Collection(int(volume.object_id[3:]), grace_seconds=0).run())

    assert [entry.version for entry in volume.versions()] == [6, 5, 4]
    with pytest.raises(errors.VersionGone, match=r"version 3 is not kept any more; versions\(\) lists those that are"):
        volume.restore(3)
    with pytest.raises(errors.VersionGone):
        volume.at(3).exists("f")
    with pytest.raises(errors.VersionGone):
        volume.at(0).exists("f")
    volume.restore(4)
    assert b"".join(volume.read_file("f")) == b"3"


def test_a_handle_on_a_version_says_so(volume):
    assert repr(volume.at(3)) == f"{volume!r}.at(3)"
