"""What a mount of a Volume has changed: held beside transactions, seen by itself alone, committed as one version, or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle

import pytest

import pgstore
from pgstore import Volume, errors
from pgstore.connection import BlockingConnection
from pgstore.fs.model import CHARACTER_DEVICE, ROOT, SYMLINK, Contents
from pgstore.fs.retention.collection import Collection
from pgstore.fs.tree import handover
from pgstore.fs.tree.nodes import RENAME_EXCHANGE
from tests.fixtures import trees
from tests.fixtures.nodes import HeldFiles
from tests.fixtures.trees import assert_sound, content, put

LARGE = os.urandom(300_000)


@pytest.fixture(params=["rows", "large_object"])
def volume(request, client, store_name, database):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client, storage=request.param).hydrate()
    yield volume
    assert_sound(database, volume)


@pytest.fixture
def held(volume):
    held = HeldFiles(volume)
    yield held
    held.do(held.held.end())


@pytest.fixture
def volume_elsewhere(volume, client_elsewhere):
    return Volume.from_name(volume.name, client=client_elsewhere)


@pytest.fixture
def held_elsewhere(held, volume_elsewhere):
    theirs = HeldFiles(volume_elsewhere)
    yield theirs
    theirs.do(theirs.held.end())


def paths(volume):
    return sorted(trees.paths(volume))


def requests(monkeypatch):
    """A list that grows with each request to the server."""
    asked = []

    def counted(execute):
        def count(self, request):
            asked.append(request)
            return execute(self, request)

        return count

    for method in ("execute", "execute_many"):
        monkeypatch.setattr(BlockingConnection, method, counted(getattr(BlockingConnection, method)))
    return asked


@contextlib.contextmanager
def fails(number):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


def blobs_of_sessions(sql, held):
    ((count,),) = sql(
        "SELECT count(*) FROM pgstore.blob WHERE store_id = %s AND session_id IS NOT NULL", held.system.store_id
    )
    return count


def inodes(sql, held):
    ((count,),) = sql("SELECT count(*) FROM pgstore.inode WHERE store_id = %s", held.system.store_id)
    return count


# ------------------------------------------------------------------------------------------------- seen by itself alone


def test_what_is_held_is_seen_by_itself_alone(held, volume, held_elsewhere, sql):
    """
    And nothing of it is in the database, but contents of larger files.
    """
    before = inodes(sql, held)

    directory = held.directory(b"d")
    small, large = held.file(b"small", directory), held.file(b"large")
    held.write(small, b"small")
    held.write(large, LARGE)
    held.make_symbolic_link(directory, b"l", b"target")

    assert held.tree() == {b"d": {b"small": b"small", b"l": SYMLINK}, b"large": LARGE}
    assert volume.listdir("/") == []
    assert held_elsewhere.tree() == {}
    assert (inodes(sql, held), blobs_of_sessions(sql, held)) == (before, 1)


def test_a_commit_makes_one_version_of_all(held, volume, held_elsewhere, sql):
    directory = held.directory(b"d", uid=5)
    small, large = held.file(b"small", directory), held.file(b"large")
    held.write(small, b"small")
    held.write(large, LARGE)
    held.set_attributes(small, mode=0o600, uid=7, atime_ns=3)
    held.set_extended_attribute(small, b"user.\xff", b"\0")
    held.make(ROOT, b"null", CHARACTER_DEVICE, 0o666, device=os.makedev(1, 3))
    before = {ino: held.node(ino) for ino in (directory, small, large)}
    mtime_ns = held.node(ROOT).mtime_ns

    version = held.commit()

    assert [each.version for each in volume.versions()] == [version] == [1]
    assert paths(volume) == ["d/", "d/small", "large", "null"]
    assert (content(volume, "large"), content(volume, "d/small")) == (LARGE, b"small")
    assert volume.stat("/").mtime_ns == mtime_ns
    assert (held.held.version, held.held.changes.new, held.held.changes.any) == (1, {}, False)
    for ino, node in before.items():
        after = held.node(ino)
        assert after._replace(version=0, inline_data=None, blob_id=None, stored_bytes=None) == node._replace(
            version=0, inline_data=None, blob_id=None
        )
    assert held.extended_attributes(small) == {b"user.\xff": b"\0"}
    assert held.node(held.look_up(ROOT, b"null").ino).device == os.makedev(1, 3)
    assert blobs_of_sessions(sql, held) == 0
    assert held.commit() is None
    assert held_elsewhere.tree() == {}
    held_elsewhere.reload()
    assert held_elsewhere.tree() == held.tree()


def test_a_file_that_was_there_gets_other_contents(held, volume, sql):
    """
    It stays the same inode, and older versions keep what they had.
    """
    for name in ("f", "g"):
        put(volume, name, LARGE)
    held.reload()
    f, g = (held.look_up(ROOT, name).ino for name in (b"f", b"g"))

    held.write(f, b"new")
    held.write(g, LARGE + b"new")
    held.set_attributes(g, mode=0o700)

    assert (held.read(f), held.read(g), held.node(g).size_bytes) == (b"new", LARGE + b"new", 300_003)
    held.commit()
    assert (content(volume, "f"), content(volume, "g")) == (b"new", LARGE + b"new")
    assert (held.read(f), held.read(g)) == (b"new", LARGE + b"new")
    assert (volume.stat("f").ino, volume.stat("g").mode) == (f, 0o700)
    assert content(volume.at(2), "f") == LARGE


def test_the_same_file_is_written_and_committed_many_times(held, volume):
    ino = held.file(b"f")
    for turn in range(6):
        held.write(ino, bytes([turn]) * (1 if turn % 2 else 100_000))
        held.commit()

    assert content(volume, "f") == b"\5"
    assert [content(volume.at(version), "f")[:1] for version in range(1, 7)] == [bytes([turn]) for turn in range(6)]


def test_what_was_made_and_removed_leaves_nothing(held, volume, sql):
    before = inodes(sql, held)
    directory = held.directory(b"d")
    ino = held.file(b"f", directory)
    held.write(ino, LARGE)
    held.write(ino, LARGE[1:])

    held.remove(directory, b"f")
    held.remove_directory(ROOT, b"d")
    assert held.node(ino).link_count == 0
    assert held.read(ino) == LARGE[1:]
    for each in (ino, directory):
        held.held.changes.release(each)
    held.commit()

    assert (volume.versions(), held.held.changes.new, inodes(sql, held)) == ([], {}, before)
    with fails(errno.ESTALE):
        held.node(ino)
    volume._runner.run(volume._runner.session.keep())
    assert blobs_of_sessions(sql, held) == 0  # what was abandoned waits for collection


def test_a_removed_file_is_there_for_who_has_it_open(held, volume):
    """
    Also after the commit that removes it.
    """
    put(volume, "f", b"1")
    held.reload()
    ino = held.look_up(ROOT, b"f", with_contents=True).ino

    held.remove(ROOT, b"f")
    assert (held.node(ino).link_count, held.read(ino)) == (0, b"1")
    held.commit()

    assert (held.node(ino).link_count, held.set_attributes(ino, mode=0o600).mode) == (0, 0o600)
    held.held.changes.release(ino)
    with fails(errno.ESTALE):
        held.node(ino)
    assert held.commit() is None


def test_names_links_and_times_are_as_on_any_file_system(held, volume):
    put(volume, "d/f", b"1")
    held.reload()
    directory = held.look_up(ROOT, b"d").ino
    ino = held.look_up(directory, b"f").ino
    was = held.node(directory)

    held.link(ino, ROOT, b"g")
    assert [held.node(ino).link_count, held.look_up(ROOT, b"g").link_count] == [2, 2]
    held.rename(directory, b"f", ROOT, b"h")
    held.remove(ROOT, b"g")

    assert held.node(ino).link_count == 1
    assert held.node(ino).ctime_ns > was.ctime_ns
    assert held.node(directory).mtime_ns > was.mtime_ns
    assert held.listed(directory) == []
    held.commit()
    assert (paths(volume), volume.stat("h").link_count) == (["d/", "h"], 1)


def test_a_file_that_is_replaced_again_and_again_in_a_new_directory_is_committed(held, volume):
    """
    As editors save: what was there before the last time was never in the version, and is not to be removed from it.
    """
    directory = held.directory(b"d")
    for data in (b"first", b"second", b"third"):
        held.write(held.file(b"temporary", directory), data)
        held.rename(directory, b"temporary", directory, b"f")
    held.commit()
    assert (paths(volume), content(volume, "d/f")) == (["d/", "d/f"], b"third")


def test_exchange_and_moves_of_new_and_old_directories(held, volume):
    volume.mkdir("old/sub")
    held.reload()
    old = held.look_up(ROOT, b"old").ino
    new = held.directory(b"new")
    inside = held.directory(b"inside", new)

    held.rename(ROOT, b"old", inside, b"moved")
    assert (held.parent(old), held.parent(inside)) == (inside, new)
    with fails(errno.EINVAL):
        held.rename(ROOT, b"new", old, b"x")
    held.rename(new, b"inside", ROOT, b"top")
    held.rename(ROOT, b"new", ROOT, b"top", RENAME_EXCHANGE)

    assert held.tree() == {b"new": {b"moved": {b"sub": {}}}, b"top": {}}
    held.commit()
    assert paths(volume) == ["new/", "new/moved/", "new/moved/sub/", "top/"]
    assert held.parent(old) == inside


def test_pages_show_what_is_held(held, volume):
    for number in range(0, 40, 2):
        put(volume, f"{number:02}", b"")
    held.reload()
    for number in range(1, 40, 2):
        held.file(b"%02d" % number)
    for number in range(0, 40, 3):
        held.remove(ROOT, b"%02d" % number)

    found, after = [], b""
    while page := held.names(ROOT, after, 7):
        found += [named.name for named in page]
        after = found[-1]

    assert found == [b"%02d" % number for number in range(40) if number % 3]


def test_a_directory_of_many_names_is_read_a_page_at_a_time(held, volume, monkeypatch):
    monkeypatch.setattr("pgstore.fs.tree.held.LOOK_UP_NAMES_MAX", 5)
    monkeypatch.setattr("pgstore.fs.tree.held.LISTED_NAMES_MAX", 8)
    monkeypatch.setattr("pgstore.fs.tree.held.CACHED_NAMES_MAX", 10)
    for directory, count in (("a", 4), ("b", 7), ("c", 12)):
        for number in range(count):
            put(volume, f"{directory}/{number:02}", b"")
    held.reload()

    ino = 0
    for _ in range(2):
        for name, count in ((b"a", 4), (b"b", 7), (b"c", 12)):
            ino = held.look_up(ROOT, name).ino
            assert held.look_up(ino, b"03") is not None
            assert held.look_up(ino, b"x") is None
            assert held.listed(ino) == [b"%02d" % number for number in range(count)]
    held.remove(ino, b"03")
    assert len(held.listed(ino)) == 11


def test_a_hundred_creates_ask_the_server_once_or_twice(held, volume, monkeypatch):
    """
    No round trip for each: numbers are reserved in bulk, and the version does not change.
    """
    held.look_up(ROOT, b"x")
    asked = requests(monkeypatch)

    directory = held.directory(b"d")
    for number in range(100):
        held.file(b"%d" % number, directory)
        held.file(b"%d" % number)

    assert 0 < len(asked) <= 2


# ------------------------------------------------------------------------------------------------------------- merging


def test_files_of_two_mounts_merge(held, held_elsewhere, volume):
    """
    Who commits later still reads the version that it began with, with all its own changes, until it reloads.
    """
    for files, name in ((held, b"a"), (held_elsewhere, b"b")):
        directory = files.directory(b"d")
        files.write(files.file(name, directory), name)
    held.commit()
    held_elsewhere.commit()

    assert held_elsewhere.held.changes.is_diverged
    assert held_elsewhere.tree() == {b"d": {b"b": b"b"}}
    files_of_d = held_elsewhere.look_up(ROOT, b"d").ino
    held_elsewhere.write(held_elsewhere.file(b"later", files_of_d), b"later")  # a directory that has been merged
    held_elsewhere.commit()
    assert held_elsewhere.reload() == 3
    assert held_elsewhere.tree() == {b"d": {b"a": b"a", b"b": b"b", b"later": b"later"}}
    assert not held_elsewhere.held.changes.is_diverged
    assert held.tree() == {b"d": {b"a": b"a"}}
    assert paths(volume) == ["d/", "d/a", "d/b", "d/later"]


def test_of_one_new_file_the_last_to_commit_wins(held, held_elsewhere, volume):
    for files in (held, held_elsewhere):
        files.write(files.file(b"f"), b"mine" if files is held else b"theirs")

    held_elsewhere.commit()
    held.commit()

    assert content(volume, "f") == b"mine"


def test_changes_that_are_not_committed_outlive_a_reload(held, volume):
    put(volume, "f", b"1")
    held.reload()
    held.write(held.look_up(ROOT, b"f").ino, b"mine")
    held.write(held.file(b"g"), b"new")
    put(volume, "h", b"theirs")

    held.reload()

    assert held.tree() == {b"f": b"mine", b"g": b"new", b"h": b"theirs"}
    held.commit()
    assert (content(volume, "f"), content(volume, "g")) == (b"mine", b"new")


def test_a_conflict_changes_nothing_and_can_be_given_up_or_tried_again(held, volume):
    volume.mkdir("d")
    held.reload()
    directory = held.look_up(ROOT, b"d").ino
    held.write(held.file(b"f", directory), LARGE)
    volume.rmdir("d")

    for _ in range(2):
        with pytest.raises(pgstore.ConflictError):
            held.commit()
        assert held.tree() == {b"d": {b"f": LARGE}}
    held.rename(directory, b"f", ROOT, b"rescued")
    held.commit()
    held.reload()

    assert held.tree() == {b"rescued": LARGE}
    assert content(volume, "rescued") == LARGE


# ------------------------------------------------------------------------------------------------------- leaving parts out


def test_files_that_are_open_keep_their_old_state_in_the_version(held, volume):
    put(volume, "old", b"1")
    put(volume, "replaced", b"1")
    held.reload()
    old = held.look_up(ROOT, b"old").ino
    held.write(old, b"half")
    held.set_attributes(old, mode=0o700)
    new = held.file(b"new")
    held.write(new, b"half")
    over = held.file(b"tmp")
    held.write(over, b"half")
    held.rename(ROOT, b"tmp", ROOT, b"replaced")
    held.write(held.file(b"whole"), b"whole")

    held.commit(without={old, new, over})

    assert {path: content(volume, path) for path in paths(volume)} == {
        "old": b"1", "replaced": b"1", "whole": b"whole",
    }  # fmt: skip
    assert volume.stat("old").mode != 0o700
    assert held.tree() == {b"old": b"half", b"new": b"half", b"replaced": b"half", b"whole": b"whole"}
    assert held.held.version == 3
    held.write(new, b"whole now")
    held.commit()
    assert {path: content(volume, path) for path in paths(volume)} == {
        "new": b"whole now", "old": b"half", "replaced": b"half", "whole": b"whole",
    }  # fmt: skip
    assert volume.stat("old").mode == 0o700


def test_what_was_exchanged_with_an_open_file_is_not_in_two_places(held, volume):
    volume.mkdir("d/sub")
    volume.mkdir("e")
    held.reload()
    new = held.file(b"new")

    held.rename(ROOT, b"new", ROOT, b"d", RENAME_EXCHANGE)
    held.rename(ROOT, b"d", ROOT, b"e", RENAME_EXCHANGE)
    held.commit(without={new})

    assert paths(volume) == ["d/", "d/sub/", "e/"]
    assert held.tree() == {b"new": {b"sub": {}}, b"d": {}, b"e": b""}
    held.commit()
    assert paths(volume) == ["d/", "e", "new/", "new/sub/"]


def test_contents_that_are_elsewhere_are_loaded_by_the_commit(held, volume):
    """
    The bytes of small files need not be in memory until then.
    """
    put(volume, "old", b"")
    held.reload()
    old, new = held.look_up(ROOT, b"old").ino, held.file(b"new")
    for ino in (old, new):
        held.set_contents(ino, Contents(3, None, None))

    held.commit(load={old: b"old", new: b"new"}.get)

    assert (content(volume, "old"), content(volume, "new")) == (b"old", b"new")


# ----------------------------------------------------------------------------------------------------------- failures


def test_what_a_dead_session_has_written_early_is_collected(held, volume, sql):
    held.write(held.file(b"f"), LARGE)
    assert blobs_of_sessions(sql, held) == 1

    sql("UPDATE pgstore.session SET heartbeat_at = '-infinity' WHERE id = %s", held.held.changes.session_id)
    volume._runner.run(Collection(held.system.store_id, grace_seconds=0.0).run())

    assert sql("SELECT count(*) FROM pgstore.blob WHERE store_id = %s", held.system.store_id) == [(0,)]
    with pytest.raises(errors.StaleFile):
        held.commit()


def test_the_version_that_is_read_is_kept(client, store_name, database):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client, keep=1).hydrate()
    put(volume, "f", b"1")
    held = HeldFiles(volume)
    for turn in range(4):
        put(volume, "f", b"%d" % turn)
    client.run(Collection(held.system.store_id, grace_seconds=0.0).run())

    assert held.tree() == {b"f": b"1"}
    held.reload()
    assert held.tree() == {b"f": b"3"}
    held.do(held.held.end())


# ------------------------------------------------------------------------------------------------------- handing over


def test_the_changes_join_a_transaction_of_another_process(held, volume, volume_elsewhere, client_elsewhere, sql):
    """
    The daemon hands them over as bytes; they are committed with all else that the transaction does, or not.
    """
    held.write(held.file(b"f"), LARGE)
    held.write(held.file(b"g", held.directory(b"d")), b"g")
    theirs = HeldFiles(volume_elsewhere)
    part = held.held.changes.part()
    sent = pickle.dumps(part)

    with pytest.raises(LookupError), client_elsewhere.transaction():
        client_elsewhere.run(theirs.system.change(lambda tree: handover.write(tree, pickle.loads(sent))))
        raise LookupError
    assert volume.listdir("/") == []
    with client_elsewhere.transaction():
        put(volume_elsewhere, "d/by the api", b"1")
        written = client_elsewhere.run(theirs.system.change(lambda tree: handover.write(tree, pickle.loads(sent))))
    held.do(held.held.settle(part, pickle.loads(pickle.dumps(written))))
    held.file(b"later", held.look_up(ROOT, b"d").ino)
    held.commit()

    assert content(volume, "f") == LARGE
    assert paths(volume) == ["d/", "d/by the api", "d/g", "d/later", "f"]
    assert held.commit() is None
    held.reload()
    assert held.tree() == {b"d": {b"by the api": b"1", b"g": b"g", b"later": b""}, b"f": LARGE}
    theirs.do(theirs.held.end())


# ------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.slow
def test_ten_thousands_of_new_files_can_be_committed(held, volume):
    directory = held.directory(b"d")
    for number in range(15_000):
        held.file(b"%d" % number, directory)
        held.file(b"%d" % number)

    held.commit()

    assert len(volume.listdir("/", recursive=True)) == 30_001


def test_what_was_looked_up_in_a_large_directory_is_known(held, volume, monkeypatch):
    """
    A kernel looks up what it then renames or removes.
    """
    monkeypatch.setattr("pgstore.fs.tree.held.LOOK_UP_NAMES_MAX", 2)
    for number in range(5):
        put(volume, f"{number}", b"")
    held.reload()

    for name in (b"0", b"x"):
        held.look_up(ROOT, name)
    held.rename(ROOT, b"0", ROOT, b"x")
    held.file(b"0")
    held.commit()

    assert held.listed() == [b"0", b"1", b"2", b"3", b"4", b"x"]
    assert held.look_up(ROOT, b"0").ino != held.look_up(ROOT, b"x").ino


def test_files_read_one_after_the_other_come_many_at_a_time(held, volume, monkeypatch):
    """
    Contents of small files are read ahead in the order of names; those of large ones are not.
    """
    with volume.batch_upload() as batch:
        for number in range(300):
            batch.put_file(io.BytesIO(b"%d" % number), f"d/{number:03}")
        batch.put_file(io.BytesIO(LARGE), "d/100 large")
        batch.put_file(io.BytesIO(b""), "d/101 empty")
    held.reload()
    directory = held.look_up(ROOT, b"d").ino
    inos = {name: node.ino for name, node in held.names(directory, b"", 1000)}
    asked = requests(monkeypatch)
    read = {name: held.node(ino, with_contents=True).inline_data for name, ino in sorted(inos.items())}
    monkeypatch.undo()

    assert {b"%03d" % number: b"%d" % number for number in range(300)} == {
        name: data for name, data in read.items() if data is not None
    }
    assert 0 < len(asked) < 20
    assert held.read(inos[b"100 large"]) == LARGE


def test_a_file_that_was_committed_here_is_read_once_until_others_change_it(held, held_elsewhere, volume, monkeypatch):
    """
    The kernel opens what it knows the name of by its inode alone, and after a commit no directory is listed.
    """
    directory = held.directory(b"d")
    ino = held.file(b"file", directory)
    held.write(ino, b"text")
    held.commit()
    asked = requests(monkeypatch)

    read = [held.node(ino, with_contents=True).inline_data for _ in range(5)]

    assert read == [b"text"] * 5
    assert len(asked) == 1
    held.write(ino, b"again")
    held.commit()
    assert held.node(ino, with_contents=True).inline_data == b"again"
    put(volume, "d/file", b"of another")
    held.reload()
    assert (
        held.node(held.look_up(held.look_up(ROOT, b"d").ino, b"file").ino, with_contents=True).inline_data
        == b"of another"
    )
    held_elsewhere.reload()
    there = held_elsewhere.look_up(held_elsewhere.look_up(ROOT, b"d").ino, b"file")
    held_elsewhere.set_attributes(there.ino, mode=0o600)
    held_elsewhere.commit()
    held.reload()
    assert held.node(there.ino, with_contents=True).mode == 0o600


def test_what_was_read_ahead_is_that_of_the_version(held, held_elsewhere, volume):
    for number in range(20):
        put(volume, f"{number:02}", b"old")
    held.reload()
    held_elsewhere.reload()
    inos = {name: node.ino for name, node in held.names(ROOT, b"", 1000)}
    for ino in [*inos.values()][:10]:
        assert held.read(ino) == b"old"

    held.write(inos[b"11"], b"ours")
    held.remove(ROOT, b"12")
    assert held.read(inos[b"11"]) == b"ours"
    held.commit()
    held_elsewhere.write(held_elsewhere.look_up(ROOT, b"13").ino, b"theirs")
    held_elsewhere.commit()
    seen_before = held.read(inos[b"13"])
    held.reload()

    assert (seen_before, held.read(inos[b"13"]), held.read(inos[b"11"])) == (b"old", b"theirs", b"ours")
    assert {name: data for name, data in held.tree().items() if data != b"old"} == {b"11": b"ours", b"13": b"theirs"}
    assert b"12" not in held.tree()
