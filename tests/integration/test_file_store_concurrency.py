"""Volume and NetworkFileSystem with two at work: what merges, what is a conflict that changes nothing, what commits together."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading
import time
from typing import Any

import psycopg
import pytest
import sqlalchemy
import sqlalchemy.orm

from pgstore import ConflictError, Dict, NetworkFileSystem, Queue, Volume, errors
from pgstore.connection import BrokenConnection
from tests.fixtures.trees import assert_sound, content, paths, put


@pytest.fixture(params=[Volume, NetworkFileSystem], ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, client, store_name, database):
    store = kind.from_name(store_name, create_if_missing=True, client=client).hydrate()
    yield store
    assert_sound(database, store)


@pytest.fixture
def elsewhere(kind, client_elsewhere, store, store_name):
    return kind.from_name(store_name, client=client_elsewhere)


@pytest.fixture
def volume(client, store_name, database):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client).hydrate()
    yield volume
    assert_sound(database, volume)


@pytest.fixture
def volume_elsewhere(client_elsewhere, volume, store_name):
    return Volume.from_name(store_name, client=client_elsewhere)


@pytest.fixture
def nfs(client, store_name, database):
    nfs = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()
    yield nfs
    assert_sound(database, nfs)


@pytest.fixture
def nfs_elsewhere(client_elsewhere, nfs, store_name):
    return NetworkFileSystem.from_name(store_name, client=client_elsewhere)


class Boom(Exception):
    pass


def files(store, path="/"):
    return [found for found in paths(store, path) if not found.endswith("/")]


# ---------------------------------------------------------------------------------------------------- what merges


def fill(store):
    put(store, "d/f", b"0")
    put(store, "d/e/g", b"0")
    put(store, "x/y/z", b"0")
    store.mkdir("empty")
    store.symlink("d/f", "link")


# What one does in a transaction, what the other does meanwhile, and what is there in the end.
MERGES: dict[str, tuple[Any, Any, dict[str, bytes | None]]] = {
    "files of one directory": (
        lambda s: put(s, "d/mine", b"1"), lambda s: put(s, "d/theirs", b"2"), {"d/mine": b"1", "d/theirs": b"2"},
    ),
    "the same file": (lambda s: put(s, "d/f", b"1"), lambda s: put(s, "d/f", b"2"), {"d/f": b"1"}),
    "the same new file": (lambda s: put(s, "n", b"1"), lambda s: put(s, "n", b"2"), {"n": b"1"}),
    "a file removed and replaced": (lambda s: put(s, "d/f", b"1"), lambda s: s.remove_file("d/f"), {"d/f": b"1"}),
    "a file replaced and removed": (lambda s: s.remove_file("d/f"), lambda s: put(s, "d/f", b"2"), {"d/f": None}),
    "a file removed by both": (lambda s: s.remove_file("d/f"), lambda s: s.remove_file("d/f"), {"d/f": None}),
    "a tree removed by both": (
        lambda s: s.remove_file("d", recursive=True), lambda s: s.remove_file("d", recursive=True), {"d": None},
    ),
    "directories inside each other": (
        lambda s: s.remove_file("d/e", recursive=True), lambda s: put(s, "d/e/new/x"), {"d/e": None, "d/f": b"0"},
    ),
    "a directory emptied by one and removed by the other": (
        lambda s: s.remove_file("x", recursive=True), lambda s: s.remove_file("x/y/z"), {"x": None},
    ),
    "new in a directory that was moved": (
        lambda s: put(s, "d/e/new", b"1"), lambda s: s.move("d/e", "x/moved"), {"x/moved/new": b"1", "x/moved/g": b"0"},
    ),
    "moved while something came in": (
        lambda s: s.move("d", "x/moved"), lambda s: put(s, "d/e/new", b"2"), {"x/moved/e/new": b"2", "d": None},
    ),
    "a file moved while its directory was": (
        lambda s: s.move("d/e/g", "x/g"), lambda s: s.move("d", "moved"), {"x/g": b"0", "moved/e/g": None, "moved/f": b"0"},
    ),
    "moved over a file that was replaced": (
        lambda s: s.move("d/f", "x/y/z"), lambda s: put(s, "x/y/z", b"2"), {"x/y/z": b"0", "d/f": None},
    ),
    "moved to a name that was taken by a file": (
        lambda s: s.move("d/f", "n"), lambda s: put(s, "n", b"2"), {"n": b"0", "d/f": None},
    ),
    "copied while the source was replaced": (
        lambda s: s.copy_files(["d/f"], "copy"), lambda s: put(s, "d/f", b"2"), {"copy": b"0", "d/f": b"2"},
    ),
    "a link to a file that got another name": (
        lambda s: s.link("d/f", "n"), lambda s: s.link("d/f", "m"), {"n": b"0", "m": b"0", "d/f": b"0"},
    ),
    "a new directory by both": (
        lambda s: (put(s, "n/o/mine", b"1"), put(s, "n/same", b"1"), s.mkdir("n/only/mine", exist_ok=True)),
        lambda s: (put(s, "n/o/theirs", b"2"), put(s, "n/same", b"2"), s.mkdir("n/only/theirs")),
        {"n/o/mine": b"1", "n/o/theirs": b"2", "n/same": b"1"},
    ),
    "a directory with hard links and links by both": (
        lambda s: (put(s, "n/a", b"1"), s.link("n/a", "n/b"), s.link("d/f", "n/f"), s.link("n/a", "o"), s.symlink("a", "n/l")),
        lambda s: (put(s, "n/a", b"2"), s.link("n/a", "n/theirs"), s.link("d/f", "n/g")),
        {"n/a": b"1", "n/b": b"1", "n/theirs": b"2", "n/f": b"0", "n/g": b"0", "o": b"1", "n/l": b"1"},
    ),
    "moved into a directory made by both": (
        lambda s: (put(s, "n/mine"), s.move("d/e", "n/e"), s.move("x/y/z", "n/z")), lambda s: put(s, "n/theirs"),
        {"n/e/g": b"0", "n/z": b"0", "n/mine": b"", "n/theirs": b"", "d/e": None},
    ),
    "attributes and new names": (
        lambda s: (s.chmod("d", 0o700), s.setxattr("d/f", "user.mine", b"1")), lambda s: put(s, "d/new", b"2"), {"d/new": b"2"},
    ),
    "a new tree moved and merged": (
        lambda s: (put(s, "tmp/a/b", b"1"), s.move("tmp/a", "n"), s.rmdir("tmp")), lambda s: put(s, "m", b"2"),
        {"n/b": b"1", "m": b"2", "tmp": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGES)
def test_what_fits_together_is_merged(client, store, elsewhere, case):
    mine, theirs, expected = MERGES[case]
    fill(store)

    with client.transaction():
        mine(store)
        theirs(elsewhere)

    for path, data in expected.items():
        assert elsewhere.exists(path) == (data is not None), path
        if data is not None:
            assert content(elsewhere, path) == data, path


def test_attributes_of_two_add_up(client, store, elsewhere):
    put(store, "f")
    store.setxattr("f", "user.old", b"0")

    if isinstance(store, Volume):
        with client.transaction():
            store.setxattr("f", "user.mine", b"1")
            store.removexattr("f", "user.old")
            store.utime("f", mtime_ns=7)
            elsewhere.setxattr("f", "user.theirs", b"2")
            elsewhere.chmod("f", 0o600)
            assert store.listxattr("f") == ["user.mine", "user.theirs"]
    else:  # whose attributes change at once: others wait
        with client.transaction():
            store.setxattr("f", "user.mine", b"1")
            store.removexattr("f", "user.old")
            store.utime("f", mtime_ns=7)
            assert store.listxattr("f") == ["user.mine"]
        elsewhere.setxattr("f", "user.theirs", b"2")
        elsewhere.chmod("f", 0o600)

    assert {name: elsewhere.getxattr("f", name) for name in elsewhere.listxattr("f")} == {
        "user.mine": b"1", "user.theirs": b"2",
    }  # fmt: skip
    assert (elsewhere.stat("f").mode, elsewhere.stat("f").mtime_ns) == (0o600, 7)


def test_threads_that_set_different_attributes_lose_none(nfs):
    put(nfs, "f")

    run_at_once(lambda number: [nfs.setxattr("f", f"user.{number}.{turn}", b"x") for turn in range(10)], 6)

    assert len(nfs.listxattr("f")) == 60


# ------------------------------------------------------------------------------------------------------- conflicts

CONFLICTS: dict[str, tuple[Any, Any]] = {
    "two renames make a circle": (lambda s: s.move("d", "x/y/d"), lambda s: s.move("x", "d/e/x")),
    "three levels make a circle": (lambda s: s.move("d/e", "x/y/e"), lambda s: s.move("x", "d/e/x")),
    "something came into a directory that was empty": (lambda s: s.rmdir("empty"), lambda s: put(s, "empty/new")),
    "the same with a directory": (lambda s: s.rmdir("empty"), lambda s: s.mkdir("empty/new")),
    "the same with a move": (lambda s: s.rmdir("empty"), lambda s: s.move("d/f", "empty/f")),
    "moved over a directory that is not empty now": (lambda s: s.move("d", "empty"), lambda s: put(s, "empty/new")),
    "in a directory that was removed": (lambda s: put(s, "d/e/new"), lambda s: s.remove_file("d", recursive=True)),
    "in an empty directory that was removed": (lambda s: put(s, "empty/new"), lambda s: s.rmdir("empty")),
    "in a directory that was removed and made again": (
        lambda s: put(s, "empty/new"), lambda s: (s.rmdir("empty"), s.mkdir("empty")),
    ),
    "a directory made in one that was removed": (lambda s: s.mkdir("empty/n/m"), lambda s: s.rmdir("empty")),
    "removed in a directory that was": (lambda s: s.remove_file("d/e/g"), lambda s: s.remove_file("d", recursive=True)),
    "moved into a directory that was removed": (lambda s: s.move("d/f", "x/y/f"), lambda s: s.remove_file("x", recursive=True)),
    "copied into a directory that was removed": (
        lambda s: s.copy_files("d", "x/y/d", True), lambda s: s.remove_file("x", recursive=True),
    ),
    "in a directory that was moved into a removed one": (
        lambda s: (put(s, "d/e/new"), s.remove_file("x", recursive=True)), lambda s: s.move("d", "x/d"),
    ),
    "a file where a directory was made": (lambda s: put(s, "n"), lambda s: put(s, "n/x")),
    "a directory where a file was made": (lambda s: put(s, "n/x"), lambda s: put(s, "n")),
    "the same further down": (lambda s: put(s, "n/m/x"), lambda s: put(s, "n/m")),
    "a file removed that is a directory now": (
        lambda s: s.remove_file("d/f"), lambda s: (s.remove_file("d/f"), s.mkdir("d/f")),
    ),
    "a directory removed that is a file now": (
        lambda s: s.remove_file("d/e", recursive=True), lambda s: (s.remove_file("d/e", recursive=True), put(s, "d/e")),
    ),
    "a file replaced by what is a directory now": (
        lambda s: put(s, "d/f", b"1"), lambda s: (s.remove_file("d/f"), s.mkdir("d/f")),
    ),
    "moved what was removed": (lambda s: s.move("d/f", "n"), lambda s: s.remove_file("d/f")),
    "moved what was replaced": (lambda s: s.move("d/f", "n"), lambda s: put(s, "d/f", b"2")),
    "moved what was moved": (lambda s: s.move("d/f", "n"), lambda s: s.move("d/f", "m")),
    "moved a directory that was moved": (lambda s: s.move("d/e", "n"), lambda s: s.move("d/e", "m")),
    "moved a directory that was removed": (lambda s: s.move("d/e", "n"), lambda s: s.remove_file("d/e", recursive=True)),
    "moved a directory to a name that was taken": (lambda s: s.move("d", "n"), lambda s: s.mkdir("n")),
    "moved a file to where a directory is": (lambda s: s.move("d/f", "n"), lambda s: s.mkdir("n")),
    "moved without replacing to a name that was taken": (
        lambda s: s.move("d/f", "n", replace=False), lambda s: put(s, "n"),
    ),
    "a link to what was removed": (lambda s: s.link("d/f", "n"), lambda s: s.remove_file("d/f")),
    "a link to what was removed with its directory": (
        lambda s: s.link("d/e/g", "n"), lambda s: s.remove_file("d", recursive=True),
    ),
    "a link into a new directory to what was removed": (lambda s: s.link("d/f", "n/m/f"), lambda s: s.remove_file("d/f")),
    "a link to what was replaced": (lambda s: s.link("d/f", "n"), lambda s: put(s, "d/f", b"2")),
    "a link of a name that was taken": (lambda s: s.link("d/f", "n"), lambda s: put(s, "n")),
    "a symbolic link of a name that was taken": (lambda s: s.symlink("d/f", "n"), lambda s: put(s, "n")),
    "a fifo of a name that was taken": (lambda s: s.mknod("n", "fifo"), lambda s: s.mknod("n", "fifo")),
    "a directory of a name that was taken": (lambda s: s.mkdir("n"), lambda s: s.mkdir("n")),
    "a directory in one that both made": (lambda s: s.mkdir("n/m"), lambda s: s.mkdir("n/m")),
    "a symbolic link in a directory that both made": (lambda s: s.symlink("d/f", "n/l"), lambda s: put(s, "n/l")),
    "moved in where both made a directory": (
        lambda s: (put(s, "n/x"), s.move("d/e", "n/e")), lambda s: put(s, "n/e/theirs"),
    ),
    "a directory moved in where both made one of files": (
        lambda s: (put(s, "n/x"), s.move("d/f", "n/f", replace=False)), lambda s: put(s, "n/f"),
    ),
    "an upload without force in a directory that both made": (
        lambda s: batch(s, {"n/m/a": b"1", "n/m/b": b"1"}), lambda s: put(s, "n/m/b", b"2"),
    ),
    "an upload without force of a name that was taken": (lambda s: batch(s, {"d/a": b"1"}), lambda s: put(s, "d/a", b"2")),
}  # fmt: skip


def test_a_new_directory_and_one_changed_elsewhere_do_not_become_one(client, store, elsewhere):
    """
    What the transaction put into another's directory has no name to replace there, when its own of that name comes to it.
    """
    with pytest.raises(ConflictError), client.transaction():
        put(store, "n/x", b"1")
        put(elsewhere, "n/theirs", b"2")
        elsewhere.move("n", "m")
        put(store, "m/x", b"3")
        elsewhere.move("m", "n")

    assert paths(store) == ["n/", "n/theirs"]


def batch(store, data):
    with store.batch_upload() as uploads:
        for path, value in data.items():
            uploads.put_file(io.BytesIO(value), path)


@pytest.mark.parametrize("case", CONFLICTS)
def test_what_does_not_fit_together_is_a_conflict_and_nothing_is_applied(client, store, elsewhere, case):
    mine, theirs = CONFLICTS[case]
    fill(store)
    results = Dict.from_name(f"{store.name}"[:60], create_if_missing=True, client=client)
    after = None

    with pytest.raises(ConflictError, match="nothing was applied"), client.transaction():
        put(store, "also", b"1")
        results["done"] = True
        mine(store)
        theirs(elsewhere)
        after = paths(elsewhere)

    assert paths(store) == paths(elsewhere) == after
    assert "done" not in results


@pytest.mark.parametrize("case", CONFLICTS)
def test_early_writing_finds_the_same_conflicts(client, store, elsewhere, case, monkeypatch):
    """
    What a large transaction writes before its commit is decided by the same rules, then, and before that nothing is locked.
    """
    mine, theirs = CONFLICTS[case]
    fill(store)

    with pytest.raises(ConflictError), client.transaction():
        mine(store)
        theirs(elsewhere)
        after = paths(elsewhere)
        monkeypatch.setattr("pgstore.fs.commit.change_set.CHANGES_MAX", 0)
        put(store, "also", b"1")

    assert paths(store) == after


def test_single_operations_look_again(store, elsewhere, monkeypatch):
    """
    What comes between an operation's look and its commit is no conflict: the operation finds it and says what it says otherwise.
    """
    put(store, "d/f", b"0")
    put(store, "d/g", b"0")
    store.mkdir("e")
    large = bytes(100_000)  # a small one is put in one call (see below)

    for between, operation, error in (
        (lambda: put(elsewhere, "n"), lambda: store.mkdir("n"), FileExistsError),
        (lambda: elsewhere.remove_file("d/g"), lambda: store.link("d/g", "m"), FileNotFoundError),
        (lambda: elsewhere.remove_file("d/f"), lambda: store.move("d/f", "m"), FileNotFoundError),
        (lambda: put(elsewhere, "e/x"), lambda: store.rmdir("e"), errors.DirectoryNotEmpty),
        (lambda: elsewhere.remove_file("e", recursive=True), lambda: put(store, "e/y", large), None),
        (lambda: put(elsewhere, "u/x", b"2"), lambda: put(store, "u", large), IsADirectoryError),
    ):
        with coming_between(monkeypatch, between):
            if error is None:
                operation()
            else:
                with pytest.raises(error):
                    operation()
    assert content(store, "e/y") == large


@contextlib.contextmanager
def coming_between(monkeypatch, action):
    """Run *action* once, before the first commit that follows is prepared."""
    from pgstore.fs.commit.merge import MergingChanges

    done: list[bool] = []
    merged = MergingChanges._merged

    def slow(self):
        if not done:
            done.append(True)
            action()
        return (yield from merged(self))

    with monkeypatch.context() as patch:
        patch.setattr(MergingChanges, "_merged", slow)
        yield
    assert done


def test_an_upload_that_runs_again_is_read_from_where_it_began(store, elsewhere, tmp_path, monkeypatch):
    data = os.urandom(300_000)
    local = tmp_path / "in"
    local.mkdir()
    (local / "f").write_bytes(data)
    file = io.BytesIO(b"head" + data)
    file.seek(4)

    def batched(path):
        with store.batch_upload() as batch:
            batch.put_file(local / "f", path)

    for number, upload in enumerate(
        (
            lambda path: store.put_file(local / "f", path),
            lambda path: store.put_file(file, path),
            lambda path: store.put_directory(local, path.removesuffix("/f")),
            batched,
        )
    ):
        store.mkdir(f"{number}/d")
        with coming_between(monkeypatch, lambda n=number: elsewhere.remove_file(f"{n}", recursive=True)):
            upload(f"{number}/d/f")
        assert content(store, f"{number}/d/f") == data


def test_what_cannot_be_read_again_is_a_conflict(store, elsewhere, monkeypatch):
    class Once(io.RawIOBase):
        left = 100

        def readable(self):
            return True

        def read(self, size=-1):
            now, self.left = min(self.left, size), 0
            return b"x" * now

    store.mkdir("d")
    with coming_between(monkeypatch, lambda: elsewhere.rmdir("d")), pytest.raises(ConflictError):
        store.put_file(Once(), "d/f")
    assert paths(store) == []


# ------------------------------------------------------------------------------------------------------- if_version

IF_VERSION_CONFLICTS: dict[str, Any] = {
    "replaced": lambda v: put(v, "d/e/f", b"2"),
    "removed": lambda v: v.remove_file("d/e/f"),
    "removed and made again": lambda v: (v.remove_file("d/e/f"), put(v, "d/e/f", b"1")),
    "its directory made again by one commit": lambda v: (v.remove_file("d", recursive=True), put(v, "d/e/f", b"2")),
    "its directory replaced by another": lambda v: (put(v, "o/e/f", b"2"), v.move("d", "old"), v.move("o", "d")),
    "its directory moved away and back": lambda v: (v.move("d", "old"), v.move("old", "d")),
    "another name of it": lambda v: v.link("d/e/f", "n"),
    "attributes": lambda v: v.chmod("d/e/f", 0o600),
    "attributes by another name": lambda v: (v.link("d/e/f", "n"), v.setxattr("n", "user.a", b"1")),
}


@pytest.mark.parametrize("case", IF_VERSION_CONFLICTS)
def test_if_version_is_a_promise_until_the_commit(client, volume, volume_elsewhere, case):
    put(volume, "d/e/f", b"1")
    seen = volume.stat("d/e/f").version

    with pytest.raises(ConflictError), client.transaction():
        put(volume, "d/e/f", b"mine", if_version=seen)
        IF_VERSION_CONFLICTS[case](volume_elsewhere)
        after = paths(volume_elsewhere)
        put(volume, "other")

    assert paths(volume) == after


def test_if_version_takes_no_notice_of_what_is_beside(client, volume, volume_elsewhere):
    put(volume, "d/e/f", b"1")
    seen = volume.stat("d/e/f").version

    with client.transaction():
        put(volume, "d/e/f", b"mine", if_version=seen)
        put(volume_elsewhere, "d/e/g", b"2")
        put(volume_elsewhere, "n", b"2")
        volume_elsewhere.chmod("d/e", 0o700)

    assert content(volume, "d/e/f") == b"mine"


@pytest.mark.parametrize("path", ["f", "n/f", "n/m/f"])
def test_if_version_0_lets_one_of_two_through(client, volume, volume_elsewhere, path):
    with pytest.raises(ConflictError), client.transaction():
        put(volume, path, b"1", if_version=0)
        put(volume_elsewhere, path, b"2", if_version=0)

    assert content(volume, path) == b"2"


def test_if_version_and_what_the_transaction_did_itself(client, volume, volume_elsewhere):
    put(volume, "f", b"1")
    seen = volume.stat("f").version

    with client.transaction():
        put(volume, "f", b"2")
        put(volume, "f", b"3", if_version=seen)
        put(volume, "g", b"1")
        with pytest.raises(ConflictError):
            put(volume, "g", b"2", if_version=0)
        volume.remove_file("g")
        put(volume, "g", b"2", if_version=0)
        with pytest.raises(ConflictError, match="was removed"):
            put(volume, "nope", b"2", if_version=seen)
    assert (content(volume, "f"), content(volume, "g")) == (b"3", b"2")

    with pytest.raises(ConflictError), client.transaction():
        put(volume, "f", b"4")
        put(volume, "f", b"5", if_version=volume_elsewhere.stat("f").version)
        put(volume_elsewhere, "f", b"theirs")
    assert content(volume, "f") == b"theirs"


def test_counting_by_if_version_loses_nothing(client, volume, volume_elsewhere):
    """
    Optimistic locking: read, compute, write if nothing has changed, else once more.
    """
    put(volume, "n", b"0")

    def work(number):
        handle = volume if number % 2 else volume_elsewhere
        for _ in range(5):
            while True:
                version = handle.stat("n").version
                value = int(content(handle, "n"))
                try:
                    put(handle, "n", b"%d" % (value + 1), if_version=version)
                    break
                except ConflictError:
                    pass

    run_at_once(work, 4)
    assert content(volume, "n") == b"20"


# ---------------------------------------------------------------------------------------------- what commits together


def test_files_appear_with_dict_and_queue(client, store, elsewhere, client_elsewhere):
    name = store.name[:60]
    results, jobs = Dict.persist(name, client=client), Queue.persist(name, client=client)
    results.hydrate()
    jobs.hydrate()
    theirs = Dict.from_name(name, client=client_elsewhere), Queue.from_name(name, client=client_elsewhere)

    with client.transaction():
        put(store, "out/f", b"1")
        results["f"] = "out/f"
        jobs.put("f")
        store.mkdir("out/d")
        assert (paths(elsewhere), len(theirs[0]), theirs[1].len()) == ([], 0, 0)
    assert (paths(elsewhere), theirs[0]["f"], theirs[1].get()) == (["out/", "out/d/", "out/f"], "out/f", "f")

    with pytest.raises(Boom), client.transaction():
        put(store, "out/g", b"1")
        results["g"] = "out/g"
        raise Boom
    assert (files(elsewhere), list(theirs[0])) == (["out/f"], ["f"])


def test_both_kinds_in_one_transaction(client, store_name, client_elsewhere, database):
    volume = Volume.persist(f"{store_name}-v", client=client).hydrate()
    nfs = NetworkFileSystem.persist(f"{store_name}-n", client=client).hydrate()

    with client.transaction():
        put(volume, "a/b", b"1")
        put(nfs, "a/b", b"1")
        volume.move("a/b", "c")
        nfs.move("a/b", "c")
    with pytest.raises(ConflictError), client.transaction():
        put(volume, "d", b"2")
        nfs.rmdir("a")
        put(NetworkFileSystem.from_name(f"{store_name}-n", client=client_elsewhere), "a/x")

    assert paths(volume) == ["a/", "c"]
    assert paths(nfs) == ["a/", "a/x", "c"]
    assert_sound(database, volume)
    assert_sound(database, nfs)


def test_the_same_in_an_asynchronous_transaction(client, store, elsewhere):
    fill(store)

    async def scenario():
        async with client.transaction():
            await store.move.aio("d", "x/d")
            await store.link.aio("x/d/f", "n")
            await store.chmod.aio("x/d/f", 0o600)
            try:
                async with client.transaction():
                    await store.remove_file.aio("x", recursive=True)
                    assert not await store.exists.aio("x/d/f")
                    raise Boom
            except Boom:
                pass
            async with store.batch_upload() as uploads:
                uploads.put_file(io.BytesIO(b"1"), "new")
            assert (await store.stat.aio("n")).mode == 0o600
        await client.aclose()

    asyncio.run(scenario())
    assert files(elsewhere) == ["link", "n", "new", "x/d/e/g", "x/d/f", "x/y/z"]


def test_savepoints_undo_every_kind_of_change(client, store, elsewhere):
    fill(store)
    store.link("d/f", "hard")
    before = paths(store)
    facts = [store.stat(path, follow_symlinks=False) for path in before]

    with client.transaction():
        for early in (100_000, 0):
            with pytest.raises(Boom), pytest.MonkeyPatch.context() as patch, client.transaction():
                patch.setattr("pgstore.fs.commit.change_set.CHANGES_MAX", early)
                store.chmod("d/f", 0o600)
                store.setxattr("d", "user.x", b"1")
                store.move("d/e", "x/y/e")
                store.link("hard", "n/m")
                store.copy_files(["d"], "copies", recursive=True)
                store.rmdir("empty")
                store.symlink("d", "to_d")
                store.mknod("d/p", "fifo")
                put(store, "d/f", b"1")
                store.remove_file("d", recursive=True)
                put(store, "d", b"a file now")
                with pytest.raises(errors.NotADirectory):
                    put(store, "d/f", b"1")
                raise Boom
            assert paths(store) == before
        put(store, "kept", b"1")

    assert paths(elsewhere) == sorted([*before, "kept"], key=lambda path: path.rstrip("/").split("/"))
    for path, fact in zip(before, facts, strict=True):
        now = elsewhere.stat(path, follow_symlinks=False)
        assert (now.ino, now.mode, now.link_count, now.size) == (fact.ino, fact.mode, fact.link_count, fact.size), path


# -------------------------------------------------------------------------------------------------- joined transactions


@contextlib.contextmanager
def joined_psycopg(client, database):
    with psycopg.connect(database) as connection:
        yield connection, connection.commit, connection.rollback


@contextlib.contextmanager
def joined_sqlalchemy(client, database):
    engine = sqlalchemy.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with sqlalchemy.orm.Session(engine) as session:
            yield session, session.commit, session.rollback
    finally:
        engine.dispose()


JOINED = pytest.mark.parametrize("joined", [joined_psycopg, joined_sqlalchemy], ids=["psycopg", "sqlalchemy"])


@JOINED
def test_in_a_callers_transaction_each_operation_is_written_and_the_caller_decides(
    client, store, elsewhere, database, joined
):
    fill(store)
    before = paths(store)

    def work():
        store.move("d", "x/d")
        put(store, "x/d/new", b"1")
        store.link("x/d/f", "n/m")
        store.chmod("x/d/f", 0o600)
        store.copy_files("x/d", "copy", recursive=True)
        store.rmdir("empty")
        store.remove_file("x/y", recursive=True)
        with pytest.raises(Boom), client.transaction():
            store.remove_file("x", recursive=True)
            put(store, "x", b"a file")
            raise Boom
        with pytest.raises(FileExistsError):
            store.mkdir("x")

    with joined(client, database) as (connection, commit, rollback):
        with client.transaction(connection=connection):
            work()
        assert paths(elsewhere) == before
        rollback()
        assert paths(elsewhere) == before
        assert_sound(database, store)

        with client.transaction(connection=connection):
            work()
        commit()

    assert files(elsewhere) == ["copy/e/g", "copy/f", "copy/new", "link", "n/m", "x/d/e/g", "x/d/f", "x/d/new"]
    assert elsewhere.stat("n/m").link_count == 2
    assert elsewhere.stat("copy/f").mode == 0o600
    assert elsewhere.stat("x/d/f").mode == 0o600


@JOINED
def test_conflicts_in_a_callers_transaction_come_at_the_operation(client, store, elsewhere, database, joined):
    """
    What came between is there when the operation is written, and it alone is undone.
    """
    store.mkdir("d")

    with joined(client, database) as (connection, commit, _):
        with client.transaction(connection=connection):
            with (
                pytest.MonkeyPatch.context() as patch,
                coming_between(patch, lambda: elsewhere.mkdir("d/e")),
                pytest.raises(ConflictError, match="'d/e' was made by another"),
            ):
                store.mkdir("d/e")
            with pytest.raises(FileExistsError):
                store.mkdir("d/e")
            put(store, "d/e/mine", b"1")
        commit()

    assert paths(elsewhere) == ["d/", "d/e/", "d/e/mine"]


def test_others_wait_for_a_joined_volume_and_no_longer(client, volume, volume_elsewhere, database):
    with psycopg.connect(database) as connection:
        with client.transaction(connection=connection):
            put(volume, "mine", b"1")
        thread = threading.Thread(target=lambda: put(volume_elsewhere, "theirs", b"2"))
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        connection.commit()
        thread.join(10)
        assert not thread.is_alive()

    assert paths(volume) == ["mine", "theirs"]


# What is committed while a small file waits for its turn to be put in one call, as d/f over another file and as d/new; then what
# there is in both cases, or the error.
BETWEEN_A_SMALL_PUT: dict[str, Any] = {
    "something elsewhere": (
        lambda v: put(v, "x", b"2"),
        {"d/f": b"mine", "d/g": b"0", "x": b"2"},
        {"d/f": b"1", "d/g": b"0", "d/new": b"mine", "x": b"2"},
    ),
    "the file itself": (
        lambda v: put(v, "d/f", b"2"),
        {"d/f": b"mine", "d/g": b"0"},
        {"d/f": b"2", "d/g": b"0", "d/new": b"mine"},
    ),
    "the new one": (
        lambda v: put(v, "d/new", b"2"),
        {"d/f": b"mine", "d/g": b"0", "d/new": b"2"},
        {"d/f": b"1", "d/g": b"0", "d/new": b"mine"},
    ),
    "its removal": (
        lambda v: v.remove_file("d/f"),
        {"d/f": b"mine", "d/g": b"0"},
        {"d/g": b"0", "d/new": b"mine"},
    ),
    "its move": (
        lambda v: v.move("d/f", "x"),
        {"d/f": b"mine", "d/g": b"0", "x": b"1"},
        {"d/g": b"0", "d/new": b"mine", "x": b"1"},
    ),
    "another name of it": (
        lambda v: v.link("d/f", "x"),
        {"d/f": b"mine", "d/g": b"0", "x": b"1"},
        {"d/f": b"1", "d/g": b"0", "d/new": b"mine", "x": b"1"},
    ),
    "a link in its place": (
        lambda v: (v.remove_file("d/f"), v.symlink("g", "d/f")),
        {"d/f": b"mine", "d/g": b"mine"},
        {"d/f": b"0", "d/g": b"0", "d/new": b"mine"},
    ),
    "a directory in its place": (
        lambda v: (v.remove_file("d/f"), v.mkdir("d/f")),
        IsADirectoryError,
        {"d/g": b"0", "d/new": b"mine"},
    ),
    "removal of the directory": (lambda v: v.remove_file("d", recursive=True), {"d/f": b"mine"}, {"d/new": b"mine"}),
    "move of the directory": (
        lambda v: v.move("d", "x"),
        {"x/f": b"mine", "x/g": b"0"},
        {"x/f": b"1", "x/g": b"0", "x/new": b"mine"},
    ),
    "a file in place of the directory": (
        lambda v: (v.remove_file("d", recursive=True), put(v, "d", b"2")),
        NotADirectoryError,
        NotADirectoryError,
    ),
}


@pytest.mark.parametrize("path", ["d/f", "d/new"])
@pytest.mark.parametrize("case", BETWEEN_A_SMALL_PUT)
def test_a_small_file_is_put_as_if_all_had_come_later(client, volume, volume_elsewhere, database, sql, case, path):
    """
    A commit of one file is one call, which looks, waits for others, and must not go by what it saw before.
    """
    action, over, new = BETWEEN_A_SMALL_PUT[case]
    put(volume, "d/f", b"1")
    put(volume, "d/g", b"0")
    failures: list[BaseException] = []

    def work():
        try:
            put(volume_elsewhere, path, b"mine")
        except OSError as exc:
            failures.append(exc)

    with psycopg.connect(database) as connection:
        with client.transaction(connection=connection):
            action(volume)
        thread = threading.Thread(target=work)
        thread.start()
        wait_for_a_lock(sql)
        connection.commit()
        thread.join(20)

    expected = over if path == "d/f" else new
    if isinstance(expected, dict):
        assert failures == []
        assert {name: content(volume, name) for name in paths(volume) if not name.endswith("/")} == expected
    else:
        assert [type(failure).__mro__.count(expected) for failure in failures] == [1]


AFTER_A_SMALL_PUT: dict[str, Any] = {
    "nothing": lambda v: None,
    "a put": lambda v: put(v, "d/f", b"2"),
    "a removal": lambda v: v.remove_file("d/f"),
    "a move": lambda v: v.move("d/f", "x"),
    "a removal of the directory": lambda v: v.remove_file("d", recursive=True),
    "a move of the directory": lambda v: v.move("d", "e"),
    "another name of it": lambda v: v.link("d/f", "x"),
    "another name of a later put": lambda v: (put(v, "d/f", b"2"), v.link("d/f", "x")),
    "a link in its place": lambda v: (put(v, "x", b"2"), v.remove_file("d/f"), v.symlink("/x", "d/f")),
    "a directory in its place": lambda v: (v.remove_file("d/f"), v.mkdir("d/f")),
}


@pytest.mark.parametrize("after", AFTER_A_SMALL_PUT)
def test_a_small_put_that_is_sent_again_is_not_done_again(volume, volume_elsewhere, sql, monkeypatch, after):
    """
    The answer may have been lost when it was done, and what others have done since must stay.
    """
    from pgstore.connection.blocking import BlockingConnection
    from pgstore.fs.transfer.upload import VOLUME_PUT

    put(volume, "d/f", b"1")
    execute = BlockingConnection.execute
    lost: list[bool] = []

    def lose_the_answer(link, query):
        result = execute(link, query)
        if query.statement is VOLUME_PUT and not lost:
            lost.append(True)
            with monkeypatch.context() as patch:
                patch.setattr(BlockingConnection, "execute", execute)
                AFTER_A_SMALL_PUT[after](volume_elsewhere)
            before.append(({path: volume_elsewhere.stat(path) for path in paths(volume_elsewhere)}, versions()))
            raise BrokenConnection(None, sent=True)
        return result

    def versions():
        return [version.version for version in volume_elsewhere.versions()]

    before: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(BlockingConnection, "execute", lose_the_answer)
        put(volume, "d/f", b"mine")

    assert lost
    assert [({path: volume.stat(path) for path in paths(volume)}, versions())] == before


def test_a_small_put_that_was_sent_again_and_arrives_late_does_nothing(volume, sql):
    """
    A server may read what was sent to it long after the connection broke.
    """
    put(volume, "d/f", b"1")
    call = "SELECT pgstore.volume_put(%s, %s, ARRAY['d']::bytea[], 'f', 420, 1, 1, 'mine', %s)"
    ((ino,),) = sql("SELECT nextval('pgstore.inode_seq')")
    store_id = int(volume.object_id[3:])
    assert sql(call, store_id, ino, True) == [(True,)]
    assert content(volume, "d/f") == b"mine"
    put(volume, "d/f", b"2")

    with pytest.raises(psycopg.errors.UniqueViolation, match="too late"):
        sql(call, store_id, ino, False)

    assert content(volume, "d/f") == b"2"


def test_a_version_is_of_the_time_of_its_commit(client, volume, volume_elsewhere, database, sql):
    """
    Not of when it began to wait for others: collection keeps what was there lately, and goes by it.
    """
    with psycopg.connect(database) as connection:
        with client.transaction(connection=connection):
            put(volume, "first", b"1")
        thread = threading.Thread(target=lambda: put(volume_elsewhere, "second", b"2"))
        thread.start()
        wait_for_a_lock(sql)
        ((committed,),) = sql("SELECT clock_timestamp()")
        connection.commit()
        thread.join(20)

    assert volume.versions()[0].committed_at >= committed


# ------------------------------------------------------------------------------------------- files in use meanwhile (live)


def test_a_tree_goes_whole_while_files_in_it_are_written_and_changed(client, nfs, nfs_elsewhere, sql):
    """
    A row that was changed while its removal waited for it is in another place then; it must be found there.
    """
    for number in range(20):
        put(nfs, f"d/{number % 3}/{number}", b"x")

    with client.transaction():
        for number in range(0, 20, 2):
            nfs.chmod(f"d/{number % 3}/{number}", 0o600)
        thread = threading.Thread(target=lambda: nfs_elsewhere.remove_file("d", recursive=True))
        thread.start()
        wait_for_a_lock(sql)
    thread.join(30)

    assert paths(nfs) == []
    store_id = int(nfs.object_id[3:])
    assert sql("SELECT count(*), sum(link_count) FROM pgstore.inode WHERE store_id = %s AND kind = 'f'", store_id) == [
        (20, 0)
    ]


def wait_for_a_lock(sql):
    deadline = time.monotonic() + 20
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while sql(query) == [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_tree_that_does_not_come_to_rest_is_not_removed(nfs, monkeypatch):
    """
    Each look finds other directories below than the last: nothing may go on as if all of them were locked.
    """
    put(nfs, "a/b/file", b"x")
    monkeypatch.setattr("pgstore.fs.commit.live.LOCK_ROUNDS_MAX", 1)

    with pytest.raises(ConflictError, match="kept moving"):
        nfs.remove_file("a", recursive=True)

    assert content(nfs, "a/b/file") == b"x"


def test_a_link_out_of_a_tree_that_is_being_removed_keeps_the_file_or_fails(nfs, nfs_elsewhere, monkeypatch, sql):
    """
    The link comes after the removal has counted names and before it has written what it found.
    """
    from pgstore.fs.commit.live import LiveChanges

    nfs.mkdir("other")
    put(nfs, "d/f", b"1")
    counted = threading.Event()
    unlink_files = LiveChanges._unlink_files

    def slow(self, trees, linked):
        if trees:
            counted.set()
            wait_for_a_lock(sql)
        yield from unlink_files(self, trees, linked)

    monkeypatch.setattr(LiveChanges, "_unlink_files", slow)
    thread = threading.Thread(target=lambda: nfs_elsewhere.remove_file("d", recursive=True))
    thread.start()
    assert counted.wait(20)
    with pytest.raises(FileNotFoundError):
        nfs.link("d/f", "other/f")
    thread.join(20)

    assert paths(nfs) == ["other/"]


def test_a_copy_of_a_file_that_is_written_is_a_file_of_its_own(nfs, nfs_elsewhere):
    """
    Copies share bytes with files that others write in place at the same time, and give them new ones: both keep what they have.
    """
    data = bytearray(os.urandom(200_000))
    put(nfs, "f", bytes(data))
    stop = threading.Event()
    problems: list[str] = []

    def write():
        with nfs_elsewhere.open("f", "r+b", buffering=0) as file:
            number = 0
            while not stop.is_set():
                number += 1
                file.seek(number * 70_000 % 200_000)
                file.write(number.to_bytes(4, "big"))

    def copy(number):
        for turn in range(15):
            path = f"{number}/{turn}"
            nfs.copy_files("f", path)
            first = content(nfs, path)
            time.sleep(0.01)
            if content(nfs, path) != first:
                problems.append(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        run_at_once(copy, 3)
    finally:
        stop.set()
        writer.join()
    assert problems == []


def run_at_once(work, count):
    """Run work(0), work(1) … in threads; the first error is raised."""
    failures: list[BaseException] = []

    def run(number):
        try:
            work(number)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure
