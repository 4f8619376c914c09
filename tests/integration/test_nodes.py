"""Verbs on inode numbers and names, as a mount uses them: what POSIX says of each, on both kinds of file systems, without paths."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
from functools import partial

import pytest

from pgstore import NetworkFileSystem, Volume, errors
from pgstore.connection import BlockingConnection
from pgstore.fs.model import (
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    OWNER_MAX,
    ROOT,
    SOCKET,
    SYMLINK,
    Contents,
)
from pgstore.fs.notifications import FileChange, FileChanges
from pgstore.fs.tree.nodes import RENAME_EXCHANGE, RENAME_NOREPLACE, XATTR_CREATE, XATTR_REPLACE
from tests.fixtures.nodes import LiveNodeFiles, NodeFiles
from tests.fixtures.trees import assert_sound


@pytest.fixture(params=["Volume", "NetworkFileSystem", "one call"])
def made_of(request):
    """The kind of file system, and how its verbs are called."""
    return {
        "Volume": (Volume, NodeFiles),
        "NetworkFileSystem": (NetworkFileSystem, NodeFiles),
        "one call": (NetworkFileSystem, LiveNodeFiles),
    }[request.param]


@pytest.fixture
def store(made_of, client, store_name, database):
    store = made_of[0].from_name(store_name, create_if_missing=True, client=client).hydrate()
    yield store
    assert_sound(database, store)


@pytest.fixture
def files(made_of, store, client, run_of):
    return made_of[1](store, run_of(client))


@pytest.fixture
def theirs(store, files, client_elsewhere):
    return files.elsewhere(client_elsewhere)


@contextlib.contextmanager
def fails(number):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value
    assert isinstance(caught.value, errors.Error)


# ----------------------------------------------------------------------------------------------------------- reading


def test_the_root_is_a_directory_in_itself(files):
    root = files.node(ROOT)

    assert (root.kind, root.ino) == (DIRECTORY, ROOT)
    assert files.parent(ROOT) == ROOT
    assert files.listed() == []


def test_a_name_leads_to_what_was_made(files):
    made = files.make(ROOT, b"f", FILE, 0o640, uid=7, gid=8)

    found = files.look_up(ROOT, b"f")

    assert found._replace(version=0) == made._replace(chunk_size=None)
    assert (found.mode, found.uid, found.gid, found.link_count, found.size_bytes) == (0o640, 7, 8, 1, 0)
    assert files.node(made.ino).ino == made.ino
    assert files.look_up(ROOT, b"g") is None


def test_small_contents_come_with_the_look_up(store, files):
    """
    Opening a small file then needs no round trip of its own.
    """
    with store.open("small", "wb") as file:
        file.write(b"x" * 65_536)
    with store.open("large", "wb") as file:
        file.write(b"x" * 65_537)

    small = files.look_up(ROOT, b"small", with_contents=True)
    large = files.look_up(ROOT, b"large", with_contents=True)

    assert small.contents == Contents(65_536, None, b"x" * 65_536)
    assert (large.size_bytes, large.inline_data) == (65_537, None)
    assert large.blob_id
    assert large.chunk_size
    assert files.look_up(ROOT, b"small").inline_data is None


def test_what_is_gone_is_stale(files):
    ino = files.directory(b"d")
    files.remove_directory(ROOT, b"d")

    for verb, args in (
        *(("node", (ino,)), ("look_up", (ino, b"x")), ("names", (ino, b"", 1)), ("parent", (ino,))),
        *(("make", (ino, b"x", FILE, 0o644)), ("link", (ino, ROOT, b"x")), ("remove", (ino, b"x"))),
        *(("rename", (ino, b"x", ROOT, b"y")), ("set_attributes", (ino,)), ("read_link", (ino,))),
        *(("extended_attributes", (ino,)), ("set_extended_attribute", (ino, b"x", b""))),
    ):
        with fails(errno.ESTALE):
            getattr(files, verb)(*args)


def test_a_file_has_no_names_in_it(files):
    ino = files.file(b"f")

    for verb, args in (
        *(("look_up", (ino, b"x")), ("names", (ino, b"", 1)), ("parent", (ino,))),
        *(("make", (ino, b"x", FILE, 0o644)), ("remove", (ino, b"x")), ("remove_directory", (ROOT, b"f"))),
    ):
        with fails(errno.ENOTDIR):
            getattr(files, verb)(*args)


def test_names_come_sorted_and_a_page_at_a_time(files):
    """
    With all that stat(2) tells: listing a directory asks for nothing more.
    """
    names = sorted([b"\xff", b"a", b"b", b"B", "ü".encode(), b"a" * 255, b"."[:0] + b"..."])
    for name in reversed(names):
        files.file(name, uid=3)

    assert files.listed() == names
    page = files.names(ROOT, names[1], 3)
    assert [named.name for named in page] == names[2:5]
    assert [named.node.uid for named in page] == [3, 3, 3]
    assert files.names(ROOT, names[-1], 3) == []


# ------------------------------------------------------------------------------------------------------------ making


@pytest.mark.parametrize("kind", [FILE, DIRECTORY, FIFO, SOCKET, CHARACTER_DEVICE, BLOCK_DEVICE])
def test_every_kind_can_be_made(files, kind):
    device = os.makedev(4095, 1048575) if kind in (CHARACTER_DEVICE, BLOCK_DEVICE) else None

    files.make(ROOT, b"n", kind, 0o7777, uid=OWNER_MAX, gid=OWNER_MAX - 1, device=device)

    found = files.look_up(ROOT, b"n")
    assert (found.kind, found.mode, found.uid, found.gid) == (kind, 0o7777, OWNER_MAX, OWNER_MAX - 1)
    assert found.device == device
    assert found.link_count == 1


def test_a_symbolic_link_keeps_its_target(files):
    target = b"../" + b"\xff" * 4000

    ino = files.make_symbolic_link(ROOT, b"l", target, uid=1, gid=2).ino

    found = files.node(ino)
    assert (found.kind, found.mode, found.size_bytes, found.uid) == (SYMLINK, 0o777, len(target), 1)
    assert files.read_link(ino) == target
    with fails(errno.EINVAL):
        files.read_link(files.file(b"f"))


@pytest.mark.parametrize("kind", [FILE, DIRECTORY, FIFO])
def test_nothing_is_made_over_something(files, kind):
    files.directory(b"d")
    files.file(b"f")

    for name in (b"d", b"f"):
        with fails(errno.EEXIST):
            files.make(ROOT, name, kind, 0o644)
        with fails(errno.EEXIST):
            files.make_symbolic_link(ROOT, name, b"x")
        with fails(errno.EEXIST):
            files.link(files.look_up(ROOT, b"f").ino, ROOT, name)


def test_making_changes_the_times_of_the_directory(files):
    directory = files.directory(b"d")
    files.set_attributes(directory, mtime_ns=1)

    files.file(b"f", directory)

    assert files.node(directory).mtime_ns > 1


def test_a_file_with_two_names_goes_with_the_last(files):
    ino = files.file(b"f")
    directory = files.directory(b"d")

    assert files.link(ino, directory, b"g").link_count == 2

    assert files.node(ino).link_count == 2
    assert files.look_up(directory, b"g").ino == ino
    files.remove(ROOT, b"f")
    assert files.node(ino).link_count == 1
    with fails(errno.EPERM):
        files.link(directory, ROOT, b"x")


def test_a_file_that_has_lost_its_names_gets_none_again(files):
    ino = files.file(b"f")
    files.remove(ROOT, b"f")

    with fails(errno.ENOENT if files.is_live else errno.ESTALE):
        files.link(ino, ROOT, b"g")


# ---------------------------------------------------------------------------------------------------------- removing


def test_removing(files):
    directory = files.directory(b"d")
    files.file(b"f", directory)

    with fails(errno.ENOENT):
        files.remove(ROOT, b"x")
    with fails(errno.ENOENT):
        files.remove_directory(ROOT, b"x")
    with fails(errno.EISDIR):
        files.remove(ROOT, b"d")
    with fails(errno.ENOTEMPTY):
        files.remove_directory(ROOT, b"d")
    files.remove(directory, b"f")
    files.remove_directory(ROOT, b"d")

    assert files.listed() == []


def test_a_removed_file_of_a_network_file_system_is_there_for_who_has_it_open(files, store):
    ino = files.file(b"f")
    files.remove(ROOT, b"f")

    if files.is_live:
        assert files.node(ino).link_count == 0
        assert files.set_attributes(ino, mode=0o600).mode == 0o600
    else:
        with fails(errno.ESTALE):
            files.node(ino)


# ---------------------------------------------------------------------------------------------------------- renaming


def test_rename_over_a_file(files):
    one, other = files.file(b"a"), files.file(b"b")

    renamed, replaced = files.rename(ROOT, b"a", ROOT, b"b")

    assert (renamed.ino, replaced.ino) == (one, other)
    assert files.listed() == [b"b"]
    assert files.look_up(ROOT, b"b").ino == one


def test_rename_into_another_directory(files):
    one, other = files.directory(b"d"), files.directory(b"e")
    inside = files.directory(b"x", one)

    files.rename(one, b"x", other, b"y")

    assert files.look_up(other, b"y").ino == inside
    assert files.parent(inside) == other
    assert files.listed(one) == []


def test_rename_without_replacing(files):
    files.file(b"a")
    files.file(b"b")

    with fails(errno.EEXIST):
        files.rename(ROOT, b"a", ROOT, b"b", RENAME_NOREPLACE)
    with fails(errno.EEXIST):
        files.rename(ROOT, b"a", ROOT, b"a", RENAME_NOREPLACE)
    files.rename(ROOT, b"a", ROOT, b"c", RENAME_NOREPLACE)

    assert files.listed() == [b"b", b"c"]


def test_rename_exchanges_a_file_and_a_directory(files):
    directory = files.directory(b"d")
    ino = files.file(b"f", directory)
    other = files.directory(b"e")

    files.rename(directory, b"f", ROOT, b"e", RENAME_EXCHANGE)

    assert files.look_up(directory, b"f").ino == other
    assert files.look_up(ROOT, b"e").ino == ino
    assert files.parent(other) == directory
    with fails(errno.ENOENT):
        files.rename(ROOT, b"e", ROOT, b"x", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        files.rename(ROOT, b"d", directory, b"f", RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        files.rename(ROOT, b"e", ROOT, b"d", RENAME_EXCHANGE | RENAME_NOREPLACE)


def test_rename_of_directories(files):
    full, empty = files.directory(b"full"), files.directory(b"empty")
    files.file(b"f", full)
    files.directory(b"d", empty)
    files.file(b"file")

    with fails(errno.ENOTEMPTY):
        files.rename(ROOT, b"empty", ROOT, b"full")
    with fails(errno.ENOTDIR):
        files.rename(ROOT, b"full", ROOT, b"file")
    with fails(errno.EISDIR):
        files.rename(ROOT, b"file", ROOT, b"full")
    with fails(errno.ENOENT):
        files.rename(ROOT, b"x", ROOT, b"y")
    files.remove_directory(empty, b"d")
    files.rename(ROOT, b"full", ROOT, b"empty")

    assert files.listed() == [b"empty", b"file"]
    assert files.listed(full) == [b"f"]
    assert files.look_up(ROOT, b"empty").ino == full


def test_a_directory_does_not_come_below_itself(files):
    one = files.directory(b"a")
    two = files.directory(b"b", one)
    three = files.directory(b"c", two)

    for below in (one, two, three):
        with fails(errno.EINVAL):
            files.rename(ROOT, b"a", below, b"x")
    assert files.parent(three) == two


def test_rename_to_another_name_of_the_same_file_does_nothing(files):
    """
    POSIX: both names stay.
    """
    ino = files.file(b"a")
    files.link(ino, ROOT, b"b")

    files.rename(ROOT, b"a", ROOT, b"b")
    files.rename(ROOT, b"a", ROOT, b"a")
    files.rename(ROOT, b"a", ROOT, b"b", RENAME_EXCHANGE)

    assert files.listed() == [b"a", b"b"]
    assert files.node(ino).link_count == 2


# -------------------------------------------------------------------------------------------------------- attributes


@pytest.mark.parametrize("kind", [FILE, DIRECTORY, FIFO])
def test_attributes(files, kind):
    ino = files.make(ROOT, b"n", kind, 0o644).ino
    before = files.node(ino)
    assert before.atime_ns == before.mtime_ns

    files.set_attributes(ino, mode=0o4711, uid=OWNER_MAX, gid=0, mtime_ns=-1)
    assert files.node(ino).atime_ns == -1
    files.set_attributes(ino, atime_ns=5)
    files.set_attributes(ino, ctime_ns=9)

    after = files.node(ino)
    assert (after.mode, after.uid, after.gid) == (0o4711, OWNER_MAX, 0)
    assert (after.atime_ns, after.mtime_ns, after.ctime_ns) == (5, -1, 9)
    files.set_attributes(ino, mode=0o600)
    assert files.node(ino).ctime_ns > 9


def test_a_number_that_means_as_it_was_is_no_owner(files, sql):
    """
    POSIX' (uid_t) -1.
    """
    ino = files.file(b"f")

    with pytest.raises(errors.Error):
        files.set_attributes(ino, uid=OWNER_MAX + 1)

    assert files.node(ino).uid == 0


NAMES = [b"user.a", b"user.\xff\xfe", "user.ü".encode(), b"\\x00", b"x" * 255, b"trusted.\\x"]


def test_extended_attributes_have_any_bytes(files):
    ino = files.file(b"f")
    values = {name: os.urandom(at * 100) for at, name in enumerate(NAMES)}

    for name, value in values.items():
        files.set_extended_attribute(ino, name, value)

    assert files.extended_attributes(ino) == values
    for name in NAMES[1:]:
        files.set_extended_attribute(ino, name, None)
    assert files.extended_attributes(ino) == {NAMES[0]: b""}


def test_extended_attributes_must_or_must_not_be_there(files):
    ino = files.directory(b"d")

    with fails(errno.ENODATA):
        files.set_extended_attribute(ino, b"user.a", b"1", XATTR_REPLACE)
    with fails(errno.ENODATA):
        files.set_extended_attribute(ino, b"user.a", None)
    files.set_extended_attribute(ino, b"user.a", b"1", XATTR_CREATE)
    with fails(errno.EEXIST):
        files.set_extended_attribute(ino, b"user.a", b"2", XATTR_CREATE)
    files.set_extended_attribute(ino, b"user.a", b"3", XATTR_REPLACE)

    assert files.extended_attributes(ino) == {b"user.a": b"3"}


def test_extended_attributes_are_bounded(files):
    ino = files.file(b"f")

    with fails(errno.ERANGE):
        files.set_extended_attribute(ino, b"x" * 256, b"")
    with fails(errno.E2BIG):
        files.set_extended_attribute(ino, b"user.a", bytes(65_537))
    files.set_extended_attribute(ino, b"user.a", bytes(65_536))
    with fails(errno.ENOSPC):
        files.set_extended_attribute(ino, b"user.b", b"1")
    files.set_extended_attribute(ino, b"user.b", b"")

    assert {name: len(value) for name, value in files.extended_attributes(ino).items()} == {
        b"user.a": 65_536,
        b"user.b": 0,
    }


def test_what_paths_and_nodes_say_is_the_same(files, store):
    """
    Names of attributes that are not UTF-8 are shown with surrogates, as those of files are.
    """
    ino = files.make(ROOT, b"n", CHARACTER_DEVICE, 0o600, device=os.makedev(1, 3)).ino
    files.set_attributes(ino, atime_ns=7, uid=2**31)
    files.set_extended_attribute(ino, b"user.\xff", b"1")
    store.setxattr("n", "\\x", b"2")

    stat = store.stat("n")

    assert (stat.ino, stat.device, stat.atime_ns, stat.uid) == (ino, os.makedev(1, 3), 7, 2**31)
    assert stat.type.name == "CHARACTER_DEVICE"
    assert store.listxattr("n") == ["\\x", "user.\udcff"]
    assert store.getxattr("n", "user.\udcff") == b"1"
    assert files.extended_attributes(ino) == {b"\\x": b"2", b"user.\xff": b"1"}
    store.copy_files(["n"], "copy")
    assert store.stat("copy").device == os.makedev(1, 3)


# ------------------------------------------------------------------------------------------------------ in transactions


def test_a_transaction_sees_what_it_has_done(files, store, client, call):
    """
    The verbs lay its changes over what they read, and a savepoint undoes them.
    """
    if call.form != "blocking":
        pytest.skip("one form will do: the transaction is that of the test")
    files.file(b"old")
    directory = files.directory(b"d")

    with client.transaction():
        for number in range(5):
            files.file(b"%d" % number)
        files.remove(ROOT, b"2")
        files.remove(ROOT, b"old")
        inside = files.directory(b"new", directory)
        files.file(b"x", inside)
        with fails(errno.ENOTEMPTY):
            files.remove_directory(directory, b"new")
        files.rename(ROOT, b"d", ROOT, b"e")
        with contextlib.suppress(ZeroDivisionError), client.transaction():
            files.remove(ROOT, b"0")
            1 / 0  # noqa: B018

        assert files.listed() == [b"0", b"1", b"3", b"4", b"e"]
        assert [named.name for named in files.names(ROOT, b"0", 2)] == [b"1", b"3"]
        assert files.look_up(inside, b"x").kind == FILE
        assert files.parent(directory) == ROOT

    assert files.listed() == [b"0", b"1", b"3", b"4", b"e"]
    assert files.listed(inside) == [b"x"]


# ------------------------------------------------------------------------------------------------------------- races


def race(*turns):
    """Run all at once; return what each raised or returned."""
    barrier = threading.Barrier(len(turns))
    results: list[object] = [None] * len(turns)

    def run(at, turn):
        barrier.wait()
        try:
            results[at] = turn()
        except errors.Error as exc:
            results[at] = exc

    threads = [threading.Thread(target=run, args=each) for each in enumerate(turns)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def here(made_of, store, client):
    return made_of[1](store)


@pytest.fixture
def there(here, client_elsewhere):
    return here.elsewhere(client_elsewhere)


@pytest.mark.parametrize("kind", [FILE, DIRECTORY, FIFO])
def test_of_two_who_make_a_name_one_does(here, there, kind):
    """
    O_EXCL holds across clients.
    """
    for turn in range(10):
        results = race(*(partial(files.make, ROOT, b"%d" % turn, kind, 0o644) for files in (here, there)))

        lost = [result for result in results if isinstance(result, Exception)]
        assert len(lost) == 1
        assert isinstance(lost[0], FileExistsError)


@pytest.mark.parametrize("verb", ["remove", "remove_directory"])
def test_of_two_who_remove_a_name_one_does(here, there, verb):
    for turn in range(10):
        name = b"%d" % turn
        here.make(ROOT, name, FILE if verb == "remove" else DIRECTORY, 0o755)

        results = race(*(partial(getattr(files, verb), ROOT, name) for files in (here, there)))

        lost = [result for result in results if isinstance(result, Exception)]
        assert len(lost) == 1
        assert isinstance(lost[0], FileNotFoundError)


def test_of_a_rename_and_a_removal_at_once_one_happens(here, there):
    for turn in range(10):
        name, to = b"%d" % turn, b"to%d" % turn
        here.file(name)

        results = race(partial(here.rename, ROOT, name, ROOT, to), partial(there.remove, ROOT, name))

        lost = [result for result in results if isinstance(result, Exception)]
        assert len(lost) == 1
        assert isinstance(lost[0], FileNotFoundError)
        assert (to in here.listed()) == (lost[0] is results[1])


def test_nothing_comes_into_a_directory_that_is_removed(here, there):
    for turn in range(10):
        name = b"%d" % turn
        directory = here.directory(name)

        made, removed = race(partial(here.file, b"f", directory), partial(there.remove_directory, ROOT, name))

        assert isinstance(made, int) == isinstance(removed, errors.DirectoryNotEmpty)
        assert isinstance(made, (int, errors.StaleFile))


def test_a_file_gets_no_name_while_it_loses_its_last(here, there):
    for turn in range(10):
        name = b"%d" % turn
        ino = here.file(name)

        linked, removed = race(partial(here.link, ino, ROOT, b"l" + name), partial(there.remove, ROOT, name))

        assert not isinstance(removed, Exception)
        if isinstance(linked, Exception):
            assert isinstance(linked, (FileNotFoundError, errors.StaleFile))
        else:
            assert here.node(ino).link_count == 1


def test_two_directories_do_not_come_below_each_other(here, there):
    for turn in range(5):
        one_name, other_name = b"a%d" % turn, b"b%d" % turn
        one, other = here.directory(one_name), here.directory(other_name)

        results = race(
            partial(here.rename, ROOT, one_name, other, b"x"), partial(there.rename, ROOT, other_name, one, b"x")
        )

        assert sum(isinstance(result, Exception) for result in results) == 1


def test_of_two_who_create_an_attribute_one_does(here, there):
    ino = here.file(b"f")
    for turn in range(10):
        name = b"user.%d" % turn

        results = race(
            *(partial(files.set_extended_attribute, ino, name, b"1", XATTR_CREATE) for files in (here, there))
        )

        if here.is_live:
            assert sum(isinstance(result, FileExistsError) for result in results) == 1
    assert len(here.extended_attributes(ino)) == 10


# ---------------------------------------------------------------------------------------------------------- in one call


@pytest.fixture
def nfs(client, store_name, database):
    nfs = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()
    yield nfs
    assert_sound(database, nfs)


@pytest.fixture
def asked(nfs, monkeypatch):
    """What the server is asked, from the second call on: the first draws numbers of inodes."""
    nfs.put_file(io.BytesIO(b""), "first")
    requests: list[object] = []
    for name in ("execute", "execute_many", "begin_with", "commit_with"):
        original = getattr(BlockingConnection, name)

        def counting(self, request, *args, original=original, **kwargs):
            requests.append(request)
            return original(self, request, *args, **kwargs)

        monkeypatch.setattr(BlockingConnection, name, counting)
    return requests


def test_each_verb_is_one_round_trip(nfs, asked):
    files = LiveNodeFiles(nfs)
    file = files.file(b"f")
    asked.clear()

    for verb in (
        lambda: files.file(b"small", data=b"x" * 65_536),
        lambda: files.directory(b"d"),
        lambda: files.make_symbolic_link(ROOT, b"l", b"target"),
        lambda: files._run(files.live.rename(ROOT, b"f", ROOT, b"g")),
        lambda: files.set_attributes(file, mode=0o600),
        lambda: files.remove(ROOT, b"g"),
        lambda: files.remove_directory(ROOT, b"d"),
        lambda: nfs.put_file(io.BytesIO(b"1"), "put"),
        lambda: nfs.put_file(io.BytesIO(b"2"), "put"),
    ):
        verb()
        assert len(asked) == 1
        asked.clear()

    assert nfs.listdir("/")[-1].path == "small"
    assert b"".join(nfs.read_file("put")) == b"2"
    assert b"".join(nfs.read_file("small")) == b"x" * 65_536


def test_a_small_put_replaces_one_name_of_a_file(nfs):
    """
    The other names keep its contents, as on any file system, and who has it open reads on.
    """
    nfs.put_file(io.BytesIO(b"1"), "d/f")
    nfs.link("d/f", "g")
    with nfs.open("d/f", "rb") as file:
        nfs.put_file(io.BytesIO(b"2"), "d/f")
        assert file.read() == b"1"

    assert [b"".join(nfs.read_file(path)) for path in ("d/f", "g")] == [b"2", b"1"]
    assert (nfs.stat("g").link_count, nfs.stat("d/f").link_count) == (1, 1)
    nfs.put_file(io.BytesIO(b"3"), "new/directory/f")
    with pytest.raises(IsADirectoryError):
        nfs.put_file(io.BytesIO(b"4"), "new/directory")
    nfs.symlink("d/f", "l")
    nfs.put_file(io.BytesIO(b"5"), "l")
    assert b"".join(nfs.read_file("d/f")) == b"5"


def test_a_verb_that_need_not_be_durable_is_seen_at_once(nfs, client_elsewhere):
    """
    Its commit waits for no disk; `fs.content.in_place.sync` does, for all before it.
    """
    files = LiveNodeFiles(nfs, durable=False)

    ino = files.file(b"f")
    files.set_attributes(ino, mode=0o600)
    files.rename(ROOT, b"f", ROOT, b"g")

    assert NetworkFileSystem.from_name(nfs.name, client=client_elsewhere).stat("g").mode == 0o600


def test_in_a_transaction_the_verbs_are_part_of_it(nfs, client, client_elsewhere):
    files, theirs = LiveNodeFiles(nfs), NetworkFileSystem.from_name(nfs.name, client=client_elsewhere)

    with contextlib.suppress(ZeroDivisionError), client.transaction():
        ino = files.file(b"f", data=b"1")
        files.link(ino, ROOT, b"g")
        files.rename(ROOT, b"f", ROOT, b"h")
        files.remove(ROOT, b"g")
        files.directory(b"d")
        files.remove_directory(ROOT, b"d")
        files.set_attributes(ino, uid=5)
        assert files.listed() == [b"h"]
        assert theirs.listdir("/") == []
        1 / 0  # noqa: B018

    assert files.listed() == []


def test_what_verbs_change_is_told(nfs, client_elsewhere):
    listener = FileChanges(int(nfs.object_id[3:]))
    client_elsewhere.run(listener.begin())
    files = LiveNodeFiles(nfs)
    told = lambda: client_elsewhere.run(listener.next(30.0))  # noqa: E731

    directory = files.directory(b"d")
    assert told() == FileChange(None, frozenset({ROOT}), frozenset({(ROOT, b"d")}))
    ino = files.file(b"a,b/"[:3], directory)
    assert told() == FileChange(None, frozenset({directory}), frozenset({(directory, b"a,b")}))
    files.link(ino, ROOT, b"g")
    assert told() == FileChange(None, frozenset({ROOT, ino}), frozenset({(ROOT, b"g")}))
    files.rename(directory, b"a,b", ROOT, b"h")
    assert told() == FileChange(None, frozenset({ROOT, directory, ino}), frozenset({(directory, b"a,b"), (ROOT, b"h")}))
    files.set_attributes(ino, mode=0o600)
    assert told() == FileChange(None, frozenset({ino}), frozenset())
    files.remove(ROOT, b"h")
    assert told() == FileChange(None, frozenset({ROOT, ino}), frozenset({(ROOT, b"h")}))
    with pytest.raises(FileNotFoundError):
        files.remove(ROOT, b"h")
    nfs.put_file(io.BytesIO(b"1"), "g")
    assert told() == FileChange(None, frozenset({ROOT, ino}), frozenset({(ROOT, b"g")}))
    files.remove_directory(ROOT, b"d")
    assert told() == FileChange(None, frozenset({ROOT, directory}), frozenset({(ROOT, b"d")}))
    listener.close()


def test_a_small_put_to_a_volume_tells_its_version(client, client_elsewhere, store_name):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client).hydrate()
    listener = FileChanges(int(volume.object_id[3:]))
    client_elsewhere.run(listener.begin())

    volume.put_file(io.BytesIO(b"1"), "f")

    assert client_elsewhere.run(listener.next(30.0)) == FileChange(1, None)
    listener.close()
