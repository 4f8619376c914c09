"""A mounted Volume: its version, its commits, and what becomes of what was written when something ends or goes away."""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest

import pgstore
from pgstore.mount import recovery
from pgstore.mount.daemon import backends, caller
from tests.fixtures.server import migrate
from tests.fixtures.trees import assert_sound
from tests.fixtures.unpassed import UNPASSED
from tests.mount.conftest import daemon_pid


@pytest.fixture(params=["rows", "large_object"])
def volume(request, client, store_name, database, monkeypatch):
    if request.param == "large_object":  # in what the bytes are stored makes no difference to how they are staged
        monkeypatch.setitem(backends.FACTORIES, "volume", UNPASSED)
    volume = pgstore.Volume.from_name(store_name, create_if_missing=True, client=client, storage=request.param)
    yield volume.hydrate()
    assert_sound(database, volume)


@pytest.fixture
def mount(volume, place, fuse):
    with contextlib.closing(volume.mount(place, mode="fuse", background_commits=None)) as mount:
        yield mount


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.01)


@contextlib.contextmanager
def fails(number):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


def content(volume, path):
    return b"".join(volume.read_file(path))


def paths(volume):
    return sorted(entry.path for entry in volume.listdir("/", recursive=True))


# ------------------------------------------------------------------------------------------------------------- commits


def test_what_is_written_is_seen_there_at_once_and_elsewhere_after_the_commit(volume_elsewhere, mount, place):
    (place / "d").mkdir()
    (place / "d" / "small").write_bytes(b"small")
    (place / "d" / "large").write_bytes(b"large" * 100_000)

    assert (place / "d" / "large").read_bytes() == b"large" * 100_000
    assert paths(volume_elsewhere) == []
    mount.commit()

    assert paths(volume_elsewhere) == ["d", "d/large", "d/small"]
    assert content(volume_elsewhere, "d/large") == b"large" * 100_000
    assert len(volume_elsewhere.versions()) == 1


def test_a_commit_brings_the_times_of_directories_in_which_names_came_and_went(volume_elsewhere, mount, place):
    """
    Else they would be older again, once the Volume is mounted anew.
    """
    (place / "d").mkdir()
    mount.commit()
    before = (place / "d").stat().st_mtime_ns

    (place / "d" / "temporary").touch()
    (place / "d" / "temporary").unlink()
    (place / "other").touch()
    mount.commit()

    assert before < (place / "d").stat().st_mtime_ns == volume_elsewhere.stat("d").mtime_ns


def test_neither_fsync_nor_closing_a_file_commits_it(volume_elsewhere, mount, place):
    for name, size in (("small", 10), ("large", 500_000)):
        with open(place / name, "wb") as file:
            file.write(bytes(size))
            os.fsync(file.fileno())

    assert paths(volume_elsewhere) == []


def test_what_others_commit_is_seen_after_reload(volume_elsewhere, mount, place):
    with volume_elsewhere.open("theirs", "w") as file:
        file.write("theirs")
    assert not (place / "theirs").exists()

    mount.reload()

    assert (place / "theirs").read_text() == "theirs"


def test_a_directory_is_listed_as_others_have_committed_it_after_reload(volume_elsewhere, mount, place):
    (place / "d").mkdir()
    mount.commit()
    for number in range(3):
        with volume_elsewhere.batch_upload() as batch:
            batch.put_file(io.BytesIO(b""), f"d/other {number}")
        assert len(os.listdir(place / "d")) == number

        mount.reload()

        assert sorted(os.listdir(place / "d")) == [f"other {each}" for each in range(number + 1)]


def test_reload_loses_nothing_that_was_written(volume_elsewhere, mount, place):
    (place / "ours").write_text("ours")
    with volume_elsewhere.open("theirs", "w") as file:
        file.write("theirs")

    mount.reload()

    assert sorted(os.listdir(place)) == ["ours", "theirs"]
    assert content(volume_elsewhere, "ours") == b"ours"


def test_a_file_that_others_replace_is_as_they_made_it_after_reload(volume_elsewhere, mount, place):
    (place / "file").write_bytes(b"old" * 100_000)
    mount.commit()
    assert (place / "file").read_bytes() == b"old" * 100_000

    with volume_elsewhere.open("file", "wb") as file:
        file.write(b"new")
    mount.reload()

    assert (place / "file").read_bytes() == b"new"
    assert os.stat(place / "file").st_size == 3


def test_commits_in_the_background_leave_out_what_is_open(volume, volume_elsewhere, place, fuse):
    with volume.mount(place, mode="fuse", background_commits=0.2):
        with open(place / "open", "w") as file:
            file.write("half")
            file.flush()
            (place / "closed").write_text("closed")
            empty = os.open(place / "empty", os.O_CREAT | os.O_WRONLY)
            until(lambda: "closed" in paths(volume_elsewhere))
            assert paths(volume_elsewhere) == ["closed"]
            os.close(empty)

        until(lambda: "open" in paths(volume_elsewhere))


def test_a_file_is_changed_in_place_and_committed_again(volume_elsewhere, mount, place):
    expected = bytearray(os.urandom(1_000_000))
    (place / "file").write_bytes(expected)
    mount.commit()

    with open(place / "file", "r+b") as file:
        for offset in (0, 300_000, 999_990):
            file.seek(offset)
            file.write(b"changed!!!")
            expected[offset : offset + 10] = b"changed!!!"
    mount.commit()

    assert content(volume_elsewhere, "file") == bytes(expected)
    assert (place / "file").read_bytes() == bytes(expected)


def test_a_commit_while_a_file_is_being_written_has_what_was_written_before(volume_elsewhere, mount, place):
    with open(place / "log", "wb", buffering=0) as file:
        file.write(b"a" * 100_000)
        mount.commit()
        file.write(b"b" * 100_000)

    assert content(volume_elsewhere, "log") == b"a" * 100_000
    mount.commit()
    assert content(volume_elsewhere, "log") == b"a" * 100_000 + b"b" * 100_000


def test_leaving_the_block_by_an_exception_commits(volume, volume_elsewhere, place, fuse):
    with pytest.raises(ZeroDivisionError), volume.mount(place, mode="fuse"):
        (place / "checkpoint").write_text("kept")
        raise ZeroDivisionError

    assert content(volume_elsewhere, "checkpoint") == b"kept"
    assert os.listdir(place) == []


def test_two_mounts_of_a_volume_merge_what_they_write(volume, volume_elsewhere, place, tmp_path, fuse):
    other = tmp_path / "other"
    other.mkdir()
    with volume.mount(place, mode="fuse"), volume_elsewhere.mount(other, mode="fuse"):
        for where, name in ((place, "ours"), (other, "theirs")):
            (where / "both").mkdir()
            (where / "both" / name).write_text(name)

    assert paths(volume) == ["both", "both/ours", "both/theirs"]


def test_of_two_mounts_that_make_one_file_the_last_to_commit_wins(volume_elsewhere, mount, place, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with volume_elsewhere.mount(other, mode="fuse", background_commits=None):
        for where, text in ((place, b"first"), (other, b"last")):
            with open(where / "file", "xb") as file:
                file.write(text)
        mount.commit()

    assert content(volume_elsewhere, "file") == b"last"


def test_what_was_made_and_removed_before_the_commit_leaves_nothing(volume_elsewhere, mount, place, sql):
    (place / "d").mkdir()
    (place / "d" / "file").write_bytes(b"x" * 200_000)
    (place / "d" / "other").write_text("x")
    os.unlink(place / "d" / "file")
    os.unlink(place / "d" / "other")
    os.rmdir(place / "d")

    mount.commit()

    assert paths(volume_elsewhere) == []
    assert volume_elsewhere.versions() == []


def test_an_unlinked_file_is_used_until_it_is_closed(mount, place):
    with open(place / "file", "w+b") as file:
        file.write(b"x" * 200_000)
        os.unlink(place / "file")
        file.seek(0)

        assert file.read() == b"x" * 200_000
        assert os.fstat(file.fileno()).st_nlink == 0


# --------------------------------------------------------------------------------------------------------- bad input


def test_an_old_version_is_mounted_to_be_read(volume, place, fuse):
    for text in ("first", "second"):
        with volume.open("file", "w") as file:
            file.write(text)

    with volume.at(1).mount(place, mode="fuse"):
        assert (place / "file").read_text() == "first"
        with fails(errno.EROFS):
            (place / "file").write_text("other")


def test_a_version_that_is_not_kept_is_not_mounted(volume, place, fuse):
    with pytest.raises(pgstore.errors.VersionGone, match="^version 9999 is not kept"):
        volume.at(9999).mount(place)


def test_a_role_that_may_only_read_mounts_to_read(own_database, place, fuse):
    with pgstore.Client(own_database) as client:
        volume = pgstore.Volume.from_name("files", create_if_missing=True, client=client)
        with volume.open("file", "w") as file:
            file.write("content")
    with psycopg.connect(own_database, autocommit=True) as connection:
        role = f"reader_{os.getpid()}"
        connection.execute(f"CREATE ROLE {role} LOGIN IN ROLE pgstore_reader")
        try:
            url = psycopg.conninfo.make_conninfo(own_database, user=role)
            with pgstore.Client(url, auto_migrate=False) as client:
                with pgstore.Volume.from_name("files", client=client).mount(place, mode="fuse"):
                    assert (place / "file").read_text() == "content"
                    with fails(errno.EROFS):
                        (place / "new").write_text("")
        finally:
            connection.execute(f"DROP ROLE {role}")


# ------------------------------------------------------------------------------------------------- what ends or goes away


def test_a_killed_daemon_leaves_what_was_committed_and_nothing_else(volume, volume_elsewhere, place, fuse):
    mount = volume.mount(place, mode="fuse", background_commits=None)
    (place / "committed").write_bytes(b"c" * 300_000)
    mount.commit()
    (place / "lost").write_bytes(b"l" * 10_000_000)
    os.kill(daemon_pid(), signal.SIGKILL)

    with contextlib.suppress(pgstore.Error):
        mount.close()

    assert paths(volume_elsewhere) == ["committed"]
    with volume.mount(place, mode="fuse"):
        assert os.listdir(place) == ["committed"]


def test_what_the_last_commit_could_not_merge_is_kept(volume, volume_elsewhere, place, fuse):
    caller.end()  # the next daemon keeps it where this test says
    with volume_elsewhere.open("d/file", "w") as file:
        file.write("old")
    mount = volume.mount(place, mode="fuse", background_commits=None)
    (place / "d" / "ours").write_text("kept")
    volume_elsewhere.remove_file("d", recursive=True)

    with pytest.raises(pgstore.ConflictError, match="kept in"):
        mount.close()

    (kept,) = [each for each in recovery.all_kept() if each.about.name == volume.name]
    assert (kept.files / "d" / "ours").read_text() == "kept"
    assert os.listdir(place) == []


def test_a_mount_outlives_a_restart_of_the_server(own_server, place, fuse):
    url = own_server.create_database("mounted")
    migrate(url)
    with pgstore.Client(url) as client:
        volume = pgstore.Volume.from_name("files", create_if_missing=True, client=client)
        with volume.mount(place, mode="fuse", background_commits=None) as path:
            with open(f"{path}/large", "wb") as file:
                file.write(b"1" * 10_000_000)
                own_server.restart()
                file.write(b"2" * 10_000_000)
            own_server.kill()
            own_server.start()

        assert content(volume, "large") == b"1" * 10_000_000 + b"2" * 10_000_000


def test_a_crash_between_upload_and_commit_leaves_no_holes(own_server, place, fuse):
    """
    Uploads don't wait for the disk. The blob is there after the crash, and what was uploaded last is not.
    """
    url = own_server.create_database("mounted")
    migrate(url)

    def ask(statement):
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return None if row is None else row[0]

    ask("ALTER SYSTEM SET wal_writer_delay = '10s'")
    ask("SELECT pg_reload_conf()")
    with pgstore.Client(url) as client:
        volume = pgstore.Volume.from_name("files", create_if_missing=True, client=client)
        with volume.mount(place, mode="fuse", background_commits=None) as path:
            with open(f"{path}/large", "wb", buffering=0) as file:
                file.write(b"1" * 10_000_000)
                until(lambda: ask("SELECT count(*) FROM pgstore.extent"))
                ask("CREATE TABLE public.flushed ()")
                file.write(b"2" * 2_000_000)
            until(
                lambda: (
                    ask("SELECT count(*) * max(c.chunk_size_bytes) FROM pgstore.extent, pgstore.blob c") >= 12_000_000
                )
            )
            before = ask("SELECT count(*) FROM pgstore.extent")
            own_server.kill()
            own_server.start()
            after = ask("SELECT count(*) FROM pgstore.extent")

        assert 0 < after < before, "nothing was lost, so that nothing is shown"
        assert content(volume, "large") == b"1" * 10_000_000 + b"2" * 2_000_000


# --------------------------------------------------------------------------------------------------------- transactions


def test_a_commit_in_a_transaction_is_part_of_it(volume, volume_elsewhere, mount, place, client, store_name):
    """
    Files that a program wrote, and an entry of a Dict, are one commit.
    """
    entries = pgstore.Dict.from_name(f"{store_name}-d"[-64:], create_if_missing=True, client=client)
    (place / "small").write_bytes(b"small")
    (place / "large").write_bytes(b"large" * 100_000)

    with client.transaction():
        entries["size"] = 5
        mount.commit()
        assert paths(volume_elsewhere) == []
        assert paths(volume) == ["large", "small"]

    assert paths(volume_elsewhere) == ["large", "small"]
    assert content(volume_elsewhere, "large") == b"large" * 100_000
    (place / "more").write_text("more")
    mount.commit()
    assert paths(volume_elsewhere) == ["large", "more", "small"]


@pytest.mark.parametrize("savepoint", [False, True])
def test_a_commit_in_a_transaction_that_is_rolled_back_can_be_made_again(
    volume_elsewhere, mount, place, client, savepoint
):
    (place / "file").write_bytes(b"x" * 200_000)

    with pytest.raises(ZeroDivisionError) if not savepoint else contextlib.nullcontext(), client.transaction():
        with contextlib.suppress(ZeroDivisionError) if savepoint else contextlib.nullcontext(), client.transaction():
            mount.commit()
            raise ZeroDivisionError

    assert paths(volume_elsewhere) == []
    assert (place / "file").read_bytes() == b"x" * 200_000
    mount.commit()
    assert content(volume_elsewhere, "file") == b"x" * 200_000


def test_a_mount_is_used_and_ended_in_the_transaction_that_commits_it(volume, volume_elsewhere, place, client, fuse):
    with client.transaction():
        with volume.mount(place, mode="fuse"):
            (place / "file").write_text("content")
            volume.commit()
            assert (place / "file").read_text() == "content"
        assert paths(volume_elsewhere) == []

    assert content(volume_elsewhere, "file") == b"content"


def test_a_file_that_is_closed_after_a_transaction_has_committed_it_is_waited_for_by_nobody(
    volume, volume_elsewhere, place, client, fuse
):
    with client.transaction():
        with volume.mount(place, mode="fuse"):
            with open(place / "file", "w") as file:
                file.write("content")
                file.flush()
                volume.commit()
            (place / "file").read_text()
        assert paths(volume_elsewhere) == []

    assert content(volume_elsewhere, "file") == b"content"


def test_what_a_transaction_has_not_committed_is_not_waited_for(mount, place, client):
    with client.transaction():
        (place / "file").write_text("content")
        mount.commit()
        (place / "file").write_text("other")

        began = time.monotonic()
        with pytest.raises(pgstore.OutcomeUnknown, match="has not ended"):
            mount.commit()
        assert time.monotonic() - began < 5


def _change(place):
    (place / "small").write_text("2")
    (place / "old").write_text("3")
    (place / "large").write_bytes(b"2" * 200_000)
    (place / "other").write_text("2")
    os.replace(place / "other", place / "replaced")
    (place / "removed").unlink()
    (place / "directory").mkdir()
    (place / "directory/new").write_text("2")


@pytest.mark.parametrize("outcome", ["committed", "rolled back", "others commit"])
@pytest.mark.parametrize("when", ["in the transaction", "after it"])
def test_what_is_written_after_a_commit_in_a_transaction_is_in_the_next_one(
    volume_elsewhere, mount, place, client, outcome, when
):
    """
    Of files, too, that were handed over to the transaction just before.
    """
    (place / "old").write_text("1")
    mount.commit()
    with contextlib.suppress(ZeroDivisionError), client.transaction():
        for name in ("old", "small", "large", "replaced", "removed"):
            (place / name).write_text("1")
        mount.commit()
        if when == "in the transaction":
            _change(place)
        if outcome == "rolled back":
            raise ZeroDivisionError
    if when == "after it":
        _change(place)
    if outcome == "others commit":
        volume_elsewhere.put_file(io.BytesIO(b""), "/theirs")

    mount.commit()

    found = [entry.path for entry in volume_elsewhere.listdir("/", recursive=True) if entry.type.name == "FILE"]
    assert {path: content(volume_elsewhere, path)[:9] for path in found if path != "theirs"} == {
        "small": b"2",
        "old": b"3",
        "large": b"2" * 9,
        "replaced": b"2",
        "directory/new": b"2",
    }
    mount.reload()
    assert (place / "old").read_text() == "3"


KILLED = """
import os, sys, time, pgstore
url, name, place = sys.argv[1:]
client = pgstore.Client(url)
volume = pgstore.Volume.from_name(name, client=client)
mount = volume.mount(place, mode="fuse", background_commits=None)
with client.transaction():
    open(place + "/file", "w").write("written")
    mount.commit()
    print("handed over", flush=True)
    time.sleep(60)
"""


def test_what_was_handed_over_to_a_transaction_of_a_process_that_is_killed_is_committed_by_the_daemon(
    volume, database, place, fuse
):
    """
    The transaction is rolled back; what programs wrote is committed at the end, as after any other end.
    """
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED, database, volume.name, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    with program.stdout:
        assert program.stdout.readline() == "handed over\n"
    with psycopg.connect(database) as connection:  # as if the server noticed a little later
        number = int(volume.object_id.removeprefix("vo-"))
        lock = "SELECT FROM pgstore.file_system WHERE store_id = %s FOR UPDATE"
        locking = threading.Thread(target=connection.execute, args=(lock, [number]))
        locking.start()
        time.sleep(0.3)
        program.kill()
        locking.join()
        time.sleep(0.5)

    program.wait()
    until(lambda: paths(volume) == ["file"])
    assert content(volume, "file") == b"written"


# ------------------------------------------------------------------------------------------------------------- memory


def test_a_daemon_reads_into_memory_that_it_has(volume, place, fuse):
    """
    Each page that it had to be given anew would have to be cleared first, which takes as long as receiving what goes there.
    """
    size = 16 * 1024 * 1024
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(os.urandom(size)), "file")

    def read_cold():
        """How many pages the daemon is given meanwhile; in its cache is less than the file."""
        with open(place / "file", "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            before = faults(daemon_pid())
            while file.read(1024 * 1024):
                pass
            return faults(daemon_pid()) - before

    with volume.mount(place, mode="fuse", read_only=True, cache_size=8 * 1024 * 1024):
        read_cold()
        again = min(read_cold() for _ in range(2))

    assert again < size // mmap.PAGESIZE // 2


def faults(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[7])
