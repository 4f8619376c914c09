"""Mounts under attack: what others, the server and the system do to them in the middle of things."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import threading
import time

import pytest

import pgstore
from pgstore.admin import mounts as admin
from pgstore.mount import recovery
from pgstore.mount.backends.live import files_of
from pgstore.mount.daemon import caller
from pgstore.mount.options import Options
from pgstore.mount.protocol import Attributes, Owner
from pgstore.mount.with_fuse import spec_of
from tests.fixtures.server import migrate
from tests.fixtures.trees import assert_sound

SOMEBODY = 1234 if os.geteuid() == 0 else os.geteuid()
SECONDS_MAX = 40  # for a program that must not wait for ever


@pytest.fixture(params=["rows", "large_object"])
def volume(request, client, store_name, database):
    volume = pgstore.Volume.from_name(store_name, create_if_missing=True, client=client, storage=request.param)
    yield volume.hydrate()
    assert_sound(database, volume)


@pytest.fixture
def nfs(client, store_name):
    return pgstore.NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def own_state(fuse):
    """The daemon keeps what it cannot commit where this test looks for it."""
    caller.end()
    yield
    caller.end()


def content(volume, path):
    return b"".join(volume.read_file(path))


def kept():
    (found,) = recovery.all_kept()
    return found


def write(path, content):
    with open(path, "w") as file:
        file.write(content)


def program(script):
    """Run Python's *script* in a process of its own; returns how long it took, its exit code and its last complaint."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=SECONDS_MAX
    )
    return time.monotonic() - began, done.returncode, (done.stderr.splitlines() or [""])[-1]


# --------------------------------------------------------------------------------------------- what cannot be committed

KEPT = (
    *(b"d", b"d/deep", b"d/deep/empty", b"d/fifo", b"d/hard", b"d/large", b"d/link", b"d/ours", b"d/script"),
    b"d/\xff\xfe",
)


def write_of_all_kinds(directory):
    (directory / "ours").write_text("kept")
    (directory / "large").write_bytes(b"large" * 1_000_000)
    (directory / "deep" / "empty").mkdir(parents=True)
    (directory / "script").write_text("#!/bin/sh")
    (directory / "script").chmod(0o755)
    os.setxattr(directory / "ours", "user.of", b"ours")
    if os.geteuid() == 0:
        os.chown(directory / "script", SOMEBODY, SOMEBODY)
    (directory / os.fsdecode(b"\xff\xfe")).write_text("no UTF-8")
    os.symlink("nowhere", directory / "link")
    os.link(directory / "ours", directory / "hard")
    os.mkfifo(directory / "fifo")


def names_below(path):
    return sorted(
        os.path.relpath(os.path.join(base, name), os.fsencode(path))
        for base, directories, files in os.walk(os.fsencode(path))
        for name in directories + files
    )


def assert_all_is_kept():
    files = kept().files
    assert names_below(files) == sorted(KEPT)
    assert (files / "d/ours").read_text() == (files / "d/hard").read_text() == "kept"
    assert (files / "d/large").read_bytes() == b"large" * 1_000_000
    assert os.readlink(files / "d/link") == "nowhere"
    assert os.stat(files / "d/script").st_mode & 0o777 == 0o755


def test_all_kinds_of_files_are_kept_after_a_conflict_and_put_back(client, volume, volume_elsewhere, place, own_state):
    write_elsewhere = volume_elsewhere.open("d/file", "w")
    write_elsewhere.close()
    mount = volume.mount(place, mode="fuse", background_commits=None)
    write_of_all_kinds(place / "d")
    volume_elsewhere.remove_file("d", recursive=True)
    with pytest.raises(pgstore.ConflictError, match="kept in"):
        mount.close()

    assert_all_is_kept()
    admin.restore(kept().path.name, client)

    assert recovery.all_kept() == []
    with volume.mount(place, mode="fuse"):
        assert names_below(place) == sorted(KEPT)
        assert stat.S_ISFIFO((place / "d/fifo").stat().st_mode)
        assert os.getxattr(place / "d/ours", "user.of") == b"ours"
        assert (place / "d/script").stat().st_uid == SOMEBODY
        assert (place / "d/large").read_bytes() == b"large" * 1_000_000
        assert os.stat(place / "d/script").st_mode & 0o777 == 0o755


def test_what_was_written_to_a_volume_that_was_deleted_meanwhile_is_kept(client, volume, place, own_state):
    write_elsewhere = volume.open("d/file", "w")
    write_elsewhere.close()
    mount = volume.mount(place, mode="fuse", background_commits=None)
    write_of_all_kinds(place / "d")
    pgstore.Volume.objects.delete(volume.name, client=client)

    with pytest.raises(OSError, match="Stale"):  # of which the mount has not read anything yet
        os.listdir(place)
    with pytest.raises(pgstore.Error, match="deleted.* kept in"):
        mount.close()

    assert_all_is_kept()


def test_what_was_written_is_kept_where_the_server_is_away_at_the_end(own_server, place, own_state):
    """
    Of a file that was changed in part, the server has the rest: what was written of it is kept apart, and not put back over it.
    """
    url = own_server.create_database("mounted")
    migrate(url)
    with pgstore.Client(url) as client:
        volume = pgstore.Volume.from_name("files", create_if_missing=True, client=client)
        for path in ("d/file", "other/file"):
            with volume.open(path, "wb") as file:
                file.write(b"old" * 1_000_000)
        mount = volume.mount(place, mode="fuse", background_commits=None, timeout=2)
        write_of_all_kinds(place / "d")
        with open(place / "other/file", "r+b") as file:
            file.seek(1_000_000)
            file.write(b"changed")

        own_server.kill()
        began = time.monotonic()
        with pytest.raises(pgstore.Error, match="cannot reach.* kept in .*, and what was written of 1 more"):
            mount.close()
        assert time.monotonic() - began < 10, "one question after the other has waited for the server"
        own_server.start()

        assert sorted(set(names_below(kept().files)) - {b"other"}) == sorted(KEPT)
        with open(kept().incomplete / "other/file", "rb") as file:
            file.seek(1_000_000)
            assert file.read(7) == b"changed"
        admin.restore(kept().path.name, client)
        assert volume.stat("d/fifo").type == pgstore.FileEntryType.FIFO
        assert content(volume, "d/large") == b"large" * 1_000_000
        assert content(volume, "other/file") == b"old" * 1_000_000
        assert (kept().incomplete / "other/file").exists()


def inode(files, directory, name):
    found = files.look_up(directory, name)
    assert isinstance(found, Attributes)
    return found.ino


def test_what_a_network_file_system_could_not_be_given_at_the_end_is_kept(own_server, place, own_state):
    """
    The server is waited for once, and not for each file. What was removed is not put back in the place of another.
    """
    url = own_server.create_database("mounted")
    migrate(url)
    with pgstore.Client(url) as client:
        nfs = pgstore.NetworkFileSystem.from_name("files", create_if_missing=True, client=client)
        with nfs.open("d/changed", "wb") as changed:
            changed.write(b"old" * 1_000_000)
        files = files_of(client, spec_of(nfs, client.run(nfs._resolve_id()), (), str(place), Options(timeout=0.5)))
        d = inode(files, files.root, b"d")
        opened = {}
        for name in (b"whole", b"moved", b"replaced", b"removed"):
            _, opened[name] = files.create(d, name, 0o640, os.O_WRONLY, Owner(SOMEBODY, SOMEBODY))
        opened[b"changed"] = files.open(inode(files, d, b"changed"), os.O_WRONLY)
        files.rename(d, b"moved", files.root, b"here", 0)
        files.rename(d, b"whole", d, b"replaced", 0)
        files.remove(d, b"removed")
        files.sync()

        own_server.kill()
        for name, file in opened.items():
            file.write(1_000_000 if name == b"changed" else 0, name * 10_000)
        began = time.monotonic()
        with pytest.raises(pgstore.Error, match=r"cannot reach.* 2 files of it are kept .* written of 3 more"):
            files.end()
        assert time.monotonic() - began < 10, "one file after the other has waited for the server"
        own_server.start()

        assert names_below(kept().files) == [b"d", b"d/replaced", b"here"]
        assert {b"d", b"d/changed"} < set(names_below(kept().incomplete))
        admin.restore(kept().path.name, client)
        assert content(nfs, "d/replaced") == b"whole" * 10_000
        assert content(nfs, "here") == b"moved" * 10_000
        status = nfs.stat("here")
        assert (status.mode, status.uid) == (0o640, SOMEBODY)
        assert content(nfs, "d/changed") == b"old" * 1_000_000
        assert not nfs.exists("d/removed")


# ------------------------------------------------------------------------------------------------------------- waiting


def test_a_write_to_what_an_open_transaction_has_changed_ends_in_words(nfs, place, fuse, client, caplog):
    """
    The transaction may be that of the process that writes: neither would ever go on.
    """
    with nfs.mount(place, mode="fuse", timeout=1):
        (place / "file").write_text("old")
        with client.transaction():
            with nfs.open("file", "w") as file:
                file.write("theirs")

            assert (place / "file").read_text() == "old"
            for way in (
                f"open({str(place / 'file')!r}, 'w').close()",
                f"f = open({str(place / 'file')!r}, 'a'); f.write('more'); f.close()",
                f"f = open({str(place / 'file')!r}, 'r+'); f.write('more'); f.close()",
                f"import os; os.chmod({str(place / 'file')!r}, 0o600)",
            ):
                seconds, code, complaint = program(way)
                assert (code, seconds < 10) == (1, True), way
                assert f"[Errno {errno.EIO}]" in complaint, way
            assert "waiting for a lock that the transaction of somebody else holds" in caplog.text


# ------------------------------------------------------------------------------------------------------------- commits


def test_files_are_as_they_were_written_however_often_it_is_committed_meanwhile(volume, volume_elsewhere, place, fuse):
    """
    What a program opens just when the mount goes on to the version of a commit, or when its last writer lets go of it.
    """
    chance = random.Random(1)
    ended = threading.Event()
    model: dict[str, bytes] = {}

    def commit_often():
        while not ended.wait(0.01):
            volume.commit()

    with volume.mount(place, mode="fuse", background_commits=0.05):
        committing = threading.Thread(target=commit_often)
        committing.start()
        try:
            for _ in range(400):
                name = f"{chance.randrange(6)}"
                before = model.get(name, b"")
                match chance.choice("wwtau"):
                    case "w":
                        model[name] = bytes([chance.randrange(256)]) * chance.choice([0, 10, 5_000, 70_000])
                        (place / name).write_bytes(model[name])
                    case "a":
                        model[name] = before + b"more" * 100
                        with open(place / name, "ab") as file:
                            file.write(b"more" * 100)
                    case "t" if name in model:
                        model[name] = before[:5]
                        os.truncate(place / name, len(model[name]))
                    case "u" if name in model:
                        del model[name]
                        os.unlink(place / name)
                assert {each: (place / each).read_bytes() for each in os.listdir(place)} == model
        finally:
            ended.set()
            committing.join()

    assert {entry.path: content(volume_elsewhere, entry.path) for entry in volume_elsewhere.listdir("/")} == model
