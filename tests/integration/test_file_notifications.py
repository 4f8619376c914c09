"""What other clients are told of files that change: once for each commit, all of it, and only if somebody listens."""

from __future__ import annotations

import os

import psycopg
import pytest

import pgstore
from pgstore.core.operation import operation
from pgstore.fs.notifications import (
    ANYTHING,
    INODES_MAX,
    SILENCE,
    FileChange,
    FileChanges,
    new_token,
    origin,
    own_origin,
)
from pgstore.mount.backends.audience import Audience


class Listening:
    """`FileChanges` in both forms."""

    def __init__(self, store):
        self._runner, self._bound = store._runner, store._bound
        self.changes = FileChanges(int(store.object_id[3:]))

    @operation
    def begin(self):
        yield from self.changes.begin()

    @operation
    def next(self, timeout=30.0):
        return (yield from self.changes.next(timeout))


@pytest.fixture
def volume(client, store_name):
    return pgstore.Volume.persist(store_name, client=client).hydrate()


@pytest.fixture
def files(client, store_name):
    return pgstore.NetworkFileSystem.persist(f"{store_name}.n", client=client).hydrate()


def listen(call, store, client_elsewhere):
    """Another client listens; to be closed."""
    there = type(store).from_name(store.name, client=client_elsewhere).hydrate()
    listening = Listening(there)
    call(listening.begin)
    return listening


def write(store, path, data=b"x"):
    with store.open(path, "wb") as file:
        file.write(data)


def inode(store, path):
    return store.stat(path).ino


def test_each_commit_to_a_volume_tells_its_version_once(call, volume, client, client_elsewhere):
    """
    A transaction of several changes makes one version.
    """
    before = volume.stat("/").version
    listening = listen(call, volume, client_elsewhere)

    write(volume, "a")
    with client.transaction():
        write(volume, "b")
        volume.mkdir("c/d")
        volume.remove_file("a")
    volume.restore(before + 1)

    told = [call(listening.next) for _ in range(3)]
    assert told == [FileChange(before + number, None) for number in (1, 2, 3)]
    assert call(listening.next, 0.05) is None
    listening.changes.close()


def test_a_commit_to_a_network_file_system_tells_the_inodes_that_it_changed(call, files, client_elsewhere):
    write(files, "d/a")
    write(files, "d/b")
    directory, a = inode(files, "d"), inode(files, "d/a")
    listening = listen(call, files, client_elsewhere)

    files.chmod("d/a", 0o600)
    with files.open("d/a", "r+b") as file:
        file.write(b"in place")
    with files.open("d/a", "r+b") as file:
        file.truncate(2)
    files.remove_file("d/b")
    files.move("d/a", "e")

    told = [call(listening.next) for _ in range(5)]
    assert [change.inodes for change in told[:3]] == [{a}] * 3
    assert {change.version for change in told} == {None}
    assert directory in told[3].inodes
    assert told[4].inodes >= {directory, inode(files, "/")}
    listening.changes.close()


def test_a_commit_to_a_network_file_system_tells_the_names_that_it_changed(call, files, client, client_elsewhere):
    """
    Kernels that mount it forget these, and no others.
    """
    write(files, "d/a")
    write(files, "d/b")
    root, directory = 1, inode(files, "d")
    listening = listen(call, files, client_elsewhere)

    files.mkdir("ü, 1@/n")
    files.move("d/a", "ü, 1@/%")
    files.chmod("d/b", 0o600)
    with client.transaction():
        files.link("d/b", "d/c")
        write(files, os.fsdecode(b"d/\xff"))
        files.remove_file("d", recursive=True)
        with pytest.raises(LookupError), client.transaction():
            files.symlink("x", "undone")
            raise LookupError

    told = [call(listening.next) for _ in range(4)]
    there = inode(files, "ü, 1@")
    assert told[0].names == {(root, "ü, 1@".encode())}
    assert told[1].names == {(directory, b"a"), (there, b"%")}
    assert told[2].names == frozenset()
    assert told[3].names == {(root, b"d")}
    listening.changes.close()


def test_names_that_do_not_fit_are_not_told(call, files, client, client_elsewhere):
    """
    Then it may be any in the directories that are told, which still are.
    """
    listening = listen(call, files, client_elsewhere)

    with client.transaction():
        for number in range(30):
            files.mkdir(f"{number}" + "ü" * 100)

    told = call(listening.next)
    assert (told.inodes, told.names) == ({1}, None)
    listening.changes.close()


def test_who_listens_knows_its_own_changes(call, volume, files, client_elsewhere):
    """
    By an origin: of each process, or of each of several in one.
    """
    for store in (volume, files):
        listening = listen(call, store, client_elsewhere)

        store.mkdir("a")
        with origin("mine"):
            store.mkdir("b")

        told = [call(listening.next) for _ in range(2)]
        assert [change.origin for change in told] == [own_origin(), "mine"]
        listening.changes.close()


def test_what_is_rolled_back_is_not_told(call, volume, files, client, client_elsewhere):
    for store in (volume, files):
        listening = listen(call, store, client_elsewhere)
        with pytest.raises(LookupError), client.transaction():
            write(store, "a")
            raise LookupError
        store.chmod("/", 0o700)

        assert call(listening.next) in (FileChange(1, None), FileChange(None, frozenset({1}), frozenset()))
        assert call(listening.next, 0.05) is None
        listening.changes.close()


def test_of_very_many_inodes_it_is_told_that_it_may_be_any(call, files, client, client_elsewhere):
    """
    A notification has at most 8,000 bytes.
    """
    for number in range(INODES_MAX + 1):
        files.mkdir(f"d{number}")
    listening = listen(call, files, client_elsewhere)

    with client.transaction():
        for number in range(INODES_MAX + 1):
            write(files, f"d{number}/a")

    assert call(listening.next) == ANYTHING
    listening.changes.close()


def test_who_leaves_too_much_unread_is_told_that_it_may_be_anything(call, files, client_elsewhere, monkeypatch):
    monkeypatch.setattr("pgstore.client.tickets.NEWS_MAX", 3)
    monkeypatch.setattr(FileChanges, "_say_so", lambda _: ())  # it would hear itself, sooner or later
    write(files, "a")
    listening = listen(call, files, client_elsewhere)
    for ino in range(5):
        listening.changes._ticket.hear(f"i{ino}")

    assert [call(listening.next), call(listening.next)] == [ANYTHING, FileChange(None, frozenset({4}))]
    listening.changes.close()


def test_who_loses_its_connection_is_told_that_it_may_be_anything(call, own_database):
    """
    What was told while nobody listened is not heard.
    """
    with pgstore.Client(own_database) as client:
        files = pgstore.NetworkFileSystem.persist("files", client=client).hydrate()
        listening = listen(call, files, call.client(own_database))
        with psycopg.connect(own_database, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )

        assert call(listening.next) == ANYTHING
        files.chmod("/", 0o700)
        assert call(listening.next).inodes == {1}
        listening.changes.close()


def test_nobody_is_told_where_nobody_listens(files, volume, database):
    """
    A notification makes all commits of the database wait for each other.
    """
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("LISTEN pgstore")
        write(files, "a")
        write(volume, "a")
        files.chmod("a", 0o600)
        connection.execute("SELECT pg_notify('pgstore', 'last')")
        (store, other) = (store.object_id[3:] for store in (files, volume))

        heard = []
        for note in connection.notifies(timeout=30):
            if note.payload == "last":
                break
            heard.append(note.payload)
        assert not [payload for payload in heard if payload.startswith((f"* {store}/", f"* {other}/"))]


def test_nobody_is_told_where_nobody_listens_and_who_comes_hears_of_all_that_follows(files, client, client_elsewhere):
    """
    A mount is told of its own changes else, and all that it does costs half as much again.
    """
    own = new_token()

    def run(op):
        with origin(own):
            return client.run(op)

    def write_through_mount(path):
        is_silent = audience.begin()
        try:
            with origin(SILENCE if is_silent else own):
                write(files, path)
        finally:
            if is_silent:
                audience.end()

    changes = FileChanges(int(files.object_id[3:]), heeds_newcomers=True)
    audience = Audience(run)
    run(changes.begin())
    theirs = None
    try:
        audience.look(changes)
        with origin(SILENCE):  # as from now on: its own hello, which comes then, is none of somebody else
            assert client.run(changes.next(0.3)) is None
        assert changes.newcomers == 0
        write_through_mount("silently")
        assert run(changes.next(0.3)) is None

        theirs = FileChanges(int(files.object_id[3:]))
        client_elsewhere.run(theirs.begin())
        assert run(changes.next(30.0)) is None
        assert changes.newcomers == 1
        audience.comes(changes)
        assert client_elsewhere.run(theirs.next(30.0)) == ANYTHING
        write_through_mount("aloud")

        assert client_elsewhere.run(theirs.next(30.0)).names == {(1, b"aloud")}
    finally:
        changes.close()
        if theirs is not None:
            theirs.close()
