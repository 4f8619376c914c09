"""Mounts without FUSE, on both kinds of file systems and both ways of storing bytes."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

import pgstore
from pgstore import NetworkFileSystem, Volume, errors
from pgstore.mount import recovery

MIB = 1024 * 1024
NOBODY = 65534


@pytest.fixture(autouse=True)
def _directories_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture(params=["rows", "large_object"])
def storage(request):
    return request.param


@pytest.fixture(params=[Volume, NetworkFileSystem], ids=["volume", "nfs"])
def store(request, client, store_name, storage):
    return request.param.from_name(store_name, create_if_missing=True, client=client, storage=storage)


@pytest.fixture
def volume(client, store_name):
    return Volume.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def elsewhere(store, client_elsewhere, store_name):
    store.hydrate()
    return type(store).from_name(store_name, client=client_elsewhere)


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "mounted"
    path.mkdir()
    return path


def put(store, path, data=b"", **options):
    store.put_file(io.BytesIO(data), path, **options)


def content(store, path):
    return b"".join(store.read_file(path))


def tree(store):
    """All that there is, by path: bytes, the target of a link, or None for a directory."""
    found = {}
    for entry in store.iterdir("/", recursive=True):
        if entry.type == pgstore.FileEntryType.FILE:
            found[entry.path] = content(store, entry.path)
        elif entry.type == pgstore.FileEntryType.SYMLINK:
            found[entry.path] = store.readlink(entry.path)
        else:
            found[entry.path] = None
    return found


def test_files_of_a_store_are_in_the_directory_as_they_are_in_the_store(store, place):
    large = os.urandom(3 * MIB + 17)
    put(store, "/a/small", b"small", mode=0o640)
    put(store, "/a/large", large)
    store.utime("/a/small", mtime_ns=1_000_000_007)
    store.mkdir("/empty", mode=0o711)
    store.symlink("a/small", "/link")
    store.link("/a/small", "/again")
    store.mknod("/fifo", "fifo")

    with store.mount(place, mode="sync") as path:
        assert path == str(place)
        assert (place / "a/small").read_bytes() == b"small"
        assert (place / "a/large").read_bytes() == large
        status = (place / "a/small").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink) == (0o640, 1_000_000_007, 2)
        assert stat.S_IMODE((place / "empty").stat().st_mode) == 0o711
        assert os.readlink(place / "link") == "a/small"
        assert stat.S_ISFIFO((place / "fifo").stat().st_mode)

    assert os.listdir(place) == []


def test_what_was_changed_is_in_the_store_afterwards(store, place):
    large = os.urandom(2 * MIB)
    for path in ("/kept", "/changed", "/removed", "/d/moved", "/d/e/carried", "/gone/deep/file"):
        put(store, path, path.encode())

    with store.mount(place, mode="sync"):
        (place / "changed").write_bytes(b"new")
        (place / "removed").unlink()
        (place / "large").write_bytes(large)
        (place / "d").rename(place / "renamed")
        (place / "renamed/moved").rename(place / "out")
        (place / "gone/deep/file").unlink()
        (place / "gone/deep").rmdir()
        (place / "gone").rmdir()
        (place / "link").symlink_to("kept")
        os.link(place / "large", place / "hard")
        (place / "new/below").mkdir(parents=True)
        (place / "new/below/file").write_bytes(b"")
        (place / "kept").chmod(0o755)

    assert tree(store) == {
        "kept": b"/kept",
        "changed": b"new",
        "large": large,
        "hard": large,
        "renamed": None,
        "renamed/e": None,
        "renamed/e/carried": b"/d/e/carried",
        "out": b"/d/moved",
        "link": "kept",
        "new": None,
        "new/below": None,
        "new/below/file": b"",
    }
    assert store.stat("kept").mode == 0o755
    assert store.stat("hard").ino == store.stat("large").ino


def test_names_that_were_swapped_are_swapped_in_the_store(store, place):
    put(store, "/a", b"was a")
    put(store, "/b", b"was b")
    put(store, "/x/file", b"x")
    put(store, "/y/file", b"y")
    before = store.stat("a").ino

    with store.mount(place, mode="sync"):
        for one, other in (("a", "b"), ("x", "y")):
            (place / one).rename(place / "between")
            (place / other).rename(place / one)
            (place / "between").rename(place / other)

    assert tree(store) == {"a": b"was b", "b": b"was a", "x": None, "x/file": b"y", "y": None, "y/file": b"x"}
    assert store.stat("b").ino == before


def test_all_that_a_commit_brings_is_one_version(volume, place):
    put(volume, "/a", b"a")

    with volume.mount(place, mode="sync") as _:
        for number in range(50):
            (place / f"file{number}").write_bytes(b"x" * number)
        volume.commit()
        assert len(volume.versions()) == 2
        (place / "a").unlink()
    assert len(volume.versions()) == 3
    assert len(volume.listdir("/")) == 50


def test_nothing_is_committed_where_nothing_has_changed(volume, place):
    put(volume, "/a", b"a")

    with volume.mount(place, mode="sync"):
        assert (place / "a").read_bytes() == b"a"
        volume.commit()

    assert len(volume.versions()) == 1


def test_changes_are_kept_after_an_exception(store, place):
    with pytest.raises(ZeroDivisionError), store.mount(place, mode="sync"):
        (place / "checkpoint").write_bytes(b"weights")
        raise ZeroDivisionError

    assert content(store, "checkpoint") == b"weights"
    assert os.listdir(place) == []


def test_a_change_that_leaves_size_and_time_alone_is_found(store, place):
    put(store, "/a", b"one")

    with store.mount(place, mode="sync"):
        before = (place / "a").stat()
        (place / "a").write_bytes(b"two")
        os.utime(place / "a", ns=(before.st_atime_ns, before.st_mtime_ns))

    assert content(store, "a") == b"two"


def test_a_change_right_after_a_commit_is_found(volume, place):
    """
    The clock of a file system may not have ticked between the two.
    """
    with volume.mount(place, mode="sync"):
        for number in range(20):
            (place / "a").write_bytes(b"%02d" % number)
            volume.commit()
            assert content(volume, "a") == b"%02d" % number


def test_changing_permissions_does_not_undo_what_another_has_written(store, elsewhere, place):
    put(store, "/script", b"old")

    with store.mount(place, mode="sync"):
        put(elsewhere, "/script", b"new")
        (place / "script").chmod(0o700)

    assert content(store, "script") == b"new"
    assert store.stat("script").mode == 0o700


def test_a_file_that_is_written_over_keeps_its_extended_attributes(store, place):
    put(store, "/a", b"one")
    store.setxattr("/a", "user.origin", b"here")
    store.chown("/a", 7, 8)

    with store.mount(place, mode="sync"):
        (place / "a").write_bytes(b"two!")

    assert content(store, "a") == b"two!"
    assert store.getxattr("/a", "user.origin") == b"here"
    assert (store.stat("a").uid, store.stat("a").gid) == (7, 8)


def test_extended_attributes_are_copied_and_written_back(store, place):
    """
    Those of users. Others, of which the local file system may have its own, are left as they are.
    """
    put(store, "/d/file", b"old")
    for path, name in (("d", "user.of-directory"), ("d/file", "user.old"), ("d/file", "trusted.theirs")):
        store.setxattr(path, name, b"there")

    with store.mount(place, mode="sync"):
        if not has_extended_attributes(place):
            pytest.skip("the local file system has no extended attributes")
        assert os.getxattr(place / "d", "user.of-directory") == os.getxattr(place / "d/file", "user.old") == b"there"
        os.removexattr(place / "d/file", "user.old")
        os.setxattr(place / "d/file", "user.new", b"here")
        (place / "made").mkdir()
        (place / "made/file").write_bytes(b"new")
        os.setxattr(place / "made", "user.of-directory", b"here")
        os.setxattr(place / "made/file", "user.\u00e4", b"\0\xff")
    with store.mount(place, mode="sync"):
        (place / "d/file").write_bytes(b"written over")
        os.rename(place / "made", place / "moved")

    assert store.listxattr("d/file") == ["trusted.theirs", "user.new"]
    assert store.getxattr("d", "user.of-directory") == b"there"
    assert store.getxattr("moved", "user.of-directory") == b"here"
    assert store.getxattr("moved/file", "user.\u00e4") == b"\0\xff"


def has_extended_attributes(path):
    try:
        os.setxattr(path, "user.probe", b"")
    except OSError:
        return False
    os.removexattr(path, "user.probe")
    return True


def test_reload_shows_what_others_have_done(store, elsewhere, place):
    put(store, "/changed", b"old")
    put(store, "/removed", b"x")
    put(store, "/d/kept", b"kept")
    put(store, "/file", b"becomes a directory")

    mount = store.mount(place, mode="sync")
    (place / "mine").write_bytes(b"mine")
    kept = (place / "d/kept").stat().st_ino
    put(elsewhere, "/changed", b"newer")
    elsewhere.remove_file("/removed")
    put(elsewhere, "/d/new", b"new")
    elsewhere.remove_file("/file")
    put(elsewhere, "/file/below", b"below")
    elsewhere.chmod("/d/kept", 0o600)
    mount.reload()

    assert (place / "changed").read_bytes() == b"newer"
    assert sorted(os.listdir(place)) == ["changed", "d", "file", "mine"]
    assert (place / "d/new").read_bytes() == b"new"
    assert (place / "file/below").read_bytes() == b"below"
    assert stat.S_IMODE((place / "d/kept").stat().st_mode) == 0o600
    assert (place / "d/kept").stat().st_ino == kept
    assert content(elsewhere, "mine") == b"mine"
    before = tree(store)
    mount.close()
    assert tree(store) == before


def test_reload_is_refused_while_a_file_is_open(store, place):
    put(store, "/a", b"a")

    mount = store.mount(place, mode="sync")
    with open(place / "a", "rb"), pytest.raises(errors.InvalidError, match="open files preventing"):
        mount.reload()
    mount.reload()
    mount.close()


def test_writers_of_different_files_do_not_undo_each_others_work(store, elsewhere, place, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    put(store, "/both/file", b"")

    with store.mount(place, mode="sync"), elsewhere.mount(other, mode="sync"):
        (place / "both/one").write_bytes(b"1")
        (other / "both/two").write_bytes(b"2")
        (place / "new").mkdir()
        (other / "new").mkdir()
        (place / "new/one").write_bytes(b"1")
        (other / "new/two").write_bytes(b"2")

    assert tree(store) == {
        "both": None, "both/file": b"", "both/one": b"1", "both/two": b"2", "new": None, "new/one": b"1", "new/two": b"2",
    }  # fmt: skip


def test_what_cannot_be_merged_is_kept_in_a_recovery_directory(store, elsewhere, place):
    put(store, "/there", b"")

    mount = store.mount(place, mode="sync")
    (place / "name").mkdir()
    (place / "name/file").write_bytes(b"precious")
    put(elsewhere, "/name", b"a file")
    with pytest.raises(errors.ConflictError):
        mount.commit()
    assert (place / "name/file").read_bytes() == b"precious"
    with pytest.raises(errors.ConflictError, match="kept in '(.*)'"):
        mount.close()

    (kept,) = recovery.all_kept()
    assert (kept.files / "name/file").read_bytes() == b"precious"
    assert (kept.about.name, kept.about.mounted_at) == (store.name, str(place))
    assert os.listdir(place) == []
    assert content(store, "name") == b"a file"


def test_a_directory_that_another_has_replaced_by_a_link_is_not_written_through(store, elsewhere, place):
    put(store, "/part/d/file", b"")
    put(store, "/secret/file", b"secret")

    mount = store.mount(place, mode="sync", sub_path="/part")
    (place / "d/file").write_bytes(b"mine")
    elsewhere.remove_file("/part/d", recursive=True)
    elsewhere.symlink("/secret", "/part/d")
    with pytest.raises(errors.ConflictError):
        mount.close()

    assert content(store, "/secret/file") == b"secret"


def test_a_part_of_a_store_can_be_mounted(store, place):
    put(store, "/above", b"")
    put(store, "/part/file", b"in it")

    with store.mount(place, mode="sync", sub_path="part"):
        assert os.listdir(place) == ["file"]
        (place / "new").write_bytes(b"new")
    with store.mount(place, mode="sync", sub_path="/not/there/yet"):
        (place / "first").write_bytes(b"")

    assert content(store, "/part/new") == b"new"
    assert store.exists("/not/there/yet/first")


def test_a_read_only_mount_changes_nothing(store, place, caplog):
    put(store, "/a", b"a")

    with store.mount(place, mode="sync", read_only=True):
        assert stat.S_IMODE((place / "a").stat().st_mode) & 0o222 == 0
        (place / "a").chmod(0o600)
        (place / "a").write_bytes(b"b")

    assert content(store, "a") == b"a"
    assert "not kept" in caplog.text
    assert os.listdir(place) == []


def test_an_old_version_can_be_mounted_and_not_written_to(volume, place):
    put(volume, "/a", b"one")
    put(volume, "/a", b"two")

    with volume.at(1).mount(place, mode="sync"):
        assert (place / "a").read_bytes() == b"one"

    with pytest.raises(errors.InvalidError, match="read_only"):
        volume.at(1).mount(place, read_only=False)


def test_the_options_of_a_handle_count(volume, place):
    put(volume, "/part/a", b"a")

    with volume.with_mount_options(sub_path="part", read_only=True).mount(place, mode="sync"):
        assert os.listdir(place) == ["a"]
        assert stat.S_IMODE((place / "a").stat().st_mode) & 0o222 == 0
    with volume.read_only().mount(place, mode="sync"):
        assert os.listdir(place) == ["part"]


def test_more_bytes_than_allowed_are_refused_before_any_is_copied(store, place):
    put(store, "/a", b"x" * 1000)

    with pytest.raises(errors.InvalidError, match=r"1,000 bytes.*at most 999"):
        store.mount(place, mode="sync", size_max=999)

    assert os.listdir(place) == []
    with store.mount(place, mode="sync", size_max=1000):
        assert os.listdir(place) == ["a"]


def test_a_commit_in_a_transaction_is_part_of_it(volume, client, place):
    put(volume, "/a", b"a")

    with volume.mount(place, mode="sync"):
        (place / "a").write_bytes(b"b")
        with pytest.raises(ZeroDivisionError), client.transaction():
            volume.commit()
            assert content(volume, "a") == b"b"
            raise ZeroDivisionError
        assert content(volume, "a") == b"a"

    assert content(volume, "a") == b"b"


def test_it_can_be_used_in_an_event_loop(store, place):
    async def use():
        async with await store.mount.aio(place, mode="sync"):
            (place / "a").write_bytes(b"a")
        mount = await store.mount.aio(place, mode="sync")
        (place / "b").write_bytes(b"b")
        await mount.commit.aio()
        assert await store.exists.aio("b")
        await mount.reload.aio()
        async with mount:
            pass
        await store._runner.aclose()

    asyncio.run(use())

    assert tree(store) == {"a": b"a", "b": b"b"}


SCRIPT = """
import os, signal, sys, time
import pgstore
store = getattr(pgstore, sys.argv[3]).from_name(sys.argv[2], client=pgstore.Client(sys.argv[1]))
place = sys.argv[4]
"""


@pytest.fixture
def run(database, store, store_name, place):
    """Starts a program that has `store` and `place`."""
    started = []

    def start(script):
        store.hydrate()
        arguments = [database, store_name, type(store).__name__, str(place)]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT + textwrap.dedent(script), *arguments],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def test_a_program_that_ends_without_unmounting_has_everything_written_back(run, store, place):
    process = run("""
        store.mount(place, mode="sync")
        open(place + "/a", "w").write("a")
    """)

    assert process.wait(60) == 0
    assert content(store, "a") == b"a"
    assert os.listdir(place) == []


def test_a_commit_that_is_killed_brings_all_or_nothing(run, store, place):
    process = run("""
        mount = store.mount(place, mode="sync")
        for generation in range(1000):
            for number in range(40):
                with open(f"{place}/{number}", "w") as file:
                    file.write(str(generation) * (1 if number else 300_000))
            mount.commit()
            if generation == 2:
                print("going", flush=True)
    """)
    assert process.stdout.readline() == "going\n"
    time.sleep(0.05)
    process.kill()
    process.wait()

    (kept,) = {content(store, str(number)) for number in range(1, 40)}
    assert content(store, "0") == kept * 300_000
    with store.mount(place, mode="sync"):
        assert (place / "7").read_bytes() == kept
    assert (recovery.all_kept()[0].files / "7").exists()


@pytest.fixture
def reachable():
    """A directory that every user reaches, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="pgstore-mount-", dir="/tmp") as name:
        path = Path(name)
        for each in (path, path / "mounted", path / "runtime"):
            each.mkdir(exist_ok=True)
            os.chown(each, NOBODY, NOBODY)
        yield path


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_mounts_too(run, store, reachable):
    """
    Who cannot give files to others sees them as their own, and does not change to whom they belong.
    """
    put(store, "/of_root", b"old", mode=0o600)
    process = run(f"""
        store.hydrate()
        import pgstore.mount.mounting
        place = {str(reachable / "mounted")!r}
        os.environ["XDG_RUNTIME_DIR"] = os.environ["XDG_STATE_HOME"] = {str(reachable / "runtime")!r}
        os.setgroups([])
        os.setgid({NOBODY})
        os.setuid({NOBODY})
        with store.mount(place, mode="sync"):
            assert os.stat(place + "/of_root").st_uid == {NOBODY}
            open(place + "/of_root", "w").write("new")
            open(place + "/mine", "w").write("mine")
            os.mkdir(place + "/d")
            open(place + "/d/inside", "w").write("inside")
            os.chmod(place + "/d", 0o500)
        mount = store.mount(place, mode="sync", read_only=True)
        try:
            open(place + "/d/new", "w")
        except PermissionError:
            print("mounted", flush=True)
        sys.stdin.readline()
        mount.reload()
        print(sorted(os.listdir(place + "/d")), open(place + "/of_root").read(), flush=True)
        mount.close()
    """)
    assert process.stdout.readline() == "mounted\n"
    assert content(store, "of_root") == b"new"
    assert (store.stat("of_root").uid, store.stat("of_root").mode) == (0, 0o600)
    put(store, "/of_root", b"newest", mode=0o600)
    store.remove_file("/d/inside")
    put(store, "/d/another")
    process.stdin.write("go\n")
    process.stdin.flush()

    assert process.stdout.readline() == "['another'] newest\n"
    assert process.wait(60) == 0
    assert (store.stat("mine").uid, store.stat("d").uid) == (NOBODY, NOBODY)
    assert os.listdir(reachable / "mounted") == []
