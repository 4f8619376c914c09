"""Volume and NetworkFileSystem alike: directories, links, moves, copies, attributes, search, uploads that appear together."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import pickle
import random
import stat
import threading
import time
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore import NetworkFileSystem, Volume, errors
from pgstore.fs.transfer.local import Target
from pgstore.fs.tree.resolve import Tree
from pgstore.types import FileEntry, FileEntryType
from tests.fixtures.trees import assert_sound, content, paths, put

MIB = 1024 * 1024


@pytest.fixture(params=[Volume, NetworkFileSystem], ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, client, store_name, database):
    store = kind.from_name(store_name, create_if_missing=True, client=client)
    yield store
    assert_sound(database, store)


def tree(folder, files):
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


# ------------------------------------------------------------------------------------------------ contents as a whole


def test_contents_are_written_and_read_as_a_whole(call, store):
    assert call(store.write_bytes, "a/b.bin", bytearray(b"\0\xff")) == 2
    assert call(store.write_text, "a/c.txt", "né\r\nx") == 5

    assert call(store.read_bytes, "a/b.bin") == b"\0\xff"
    assert call(store.read_bytes, "a/c.txt") == b"n\xc3\xa9\r\nx"
    assert call(store.read_text, "a/c.txt") == "né\nx"
    assert call(store.read_text, "a/c.txt", "ascii", "ignore") == "n\nx"
    call(store.write_text, "a/c.txt", "é", encoding="latin-1")
    assert call(store.read_bytes, "a/c.txt") == b"\xe9"
    with pytest.raises(UnicodeDecodeError):
        call(store.read_text, "a/c.txt")
    with pytest.raises(FileNotFoundError):
        call(store.read_text, "missing")
    with pytest.raises(IsADirectoryError):
        call(store.read_bytes, "a")
    with pytest.raises(pgstore.InvalidError, match="write_text takes str"):
        call(store.write_bytes, "a/b.bin", "text")
    with pytest.raises(pgstore.InvalidError, match="write_bytes takes bytes"):
        call(store.write_text, "a/b.bin", b"bytes")
    assert call(store.read_bytes, "a/b.bin") == b"\0\xff"


def test_what_is_written_as_a_whole_is_part_of_a_transaction(client, store):
    with contextlib.suppress(KeyError), client.transaction():
        store.write_text("a", "undone")
        assert store.read_text("a") == "undone"
        raise KeyError

    assert not store.exists("a")


# ---------------------------------------------------------------------------------------------------- directories


def test_mkdir_makes_those_on_the_way_unless_told_otherwise(call, store):
    call(store.mkdir, "a/b/c", mode=0o700)

    assert paths(store) == ["a/", "a/b/", "a/b/c/"]
    assert (store.stat("a").mode, store.stat("a/b/c").mode) == (0o755, 0o700)
    with pytest.raises(FileNotFoundError, match="'x'"):
        call(store.mkdir, "x/y", parents=False)
    call(store.mkdir, "a/d", parents=False)
    assert store.exists("a/d")
    assert not store.exists("x")


def test_mkdir_over_something(call, store):
    put(store, "d/f")
    store.symlink("d", "to_d")
    store.symlink("nowhere", "broken")

    for path in ("d", "d/f", "/", "to_d"):
        with pytest.raises(FileExistsError):
            call(store.mkdir, path)
    for path in ("d", "/", "to_d"):
        call(store.mkdir, path, exist_ok=True)
    with pytest.raises(FileExistsError):
        call(store.mkdir, "d/f", exist_ok=True)
    with pytest.raises(NotADirectoryError):
        call(store.mkdir, "d/f/x")
    assert paths(store) == ["broken", "d/", "d/f", "to_d"]


def test_rmdir_takes_empty_directories_only(call, store):
    put(store, "d/f")
    store.mkdir("e/empty")
    store.symlink("e", "link")

    for path, error in (
        ("d", errors.DirectoryNotEmpty), ("d/f", NotADirectoryError), ("nope", FileNotFoundError),
        ("link", NotADirectoryError), ("/", errors.InvalidError),
    ):  # fmt: skip
        with pytest.raises(error):
            call(store.rmdir, path)
    call(store.rmdir, "e/empty")
    call(store.rmdir, "e")
    assert paths(store) == ["d/", "d/f", "link"]


NAMES_COME_AND_GO = {
    "put": lambda s: put(s, "d/new"),
    "replace": lambda s: put(s, "d/f", b"2"),
    "mkdir": lambda s: s.mkdir("d/new"),
    "rmdir": lambda s: s.rmdir("d/e"),
    "remove": lambda s: s.remove_file("d/f"),
    "remove tree": lambda s: s.remove_file("d/e", recursive=True),
    "symlink": lambda s: s.symlink("f", "d/new"),
    "link": lambda s: s.link("d/f", "d/new"),
    "link from elsewhere": lambda s: s.link("x", "d/new"),
    "mknod": lambda s: s.mknod("d/new", "fifo"),
    "rename": lambda s: s.move("d/f", "d/new"),
    "move out": lambda s: s.move("d/f", "new"),
    "move in": lambda s: s.move("x", "d/new"),
    "move directory in": lambda s: s.move("y", "d/new"),
    "copy in": lambda s: s.copy_files("x", "d/new"),
    "copy tree in": lambda s: s.copy_files("y", "d/new", recursive=True),
}


@pytest.mark.parametrize("change", NAMES_COME_AND_GO.values(), ids=list(NAMES_COME_AND_GO))
def test_a_directory_has_a_new_time_when_names_come_and_go(store, change):
    """
    What keeps a directory in a cache, as rsync and Python's import system do, asks for nothing else.
    """
    put(store, "d/f", b"1")
    put(store, "x")
    store.mkdir("d/e")
    store.mkdir("y")
    before = store.stat("d")

    change(store)

    after = store.stat("d")
    assert after.mtime_ns > before.mtime_ns
    assert after.ctime_ns > before.ctime_ns
    assert abs(after.mtime_ns - time.time_ns()) < 60e9


def test_a_directory_keeps_its_time_when_files_in_it_change_otherwise(store):
    put(store, "d/f", b"1")
    store.mkdir("d/e")
    before = store.stat("d").mtime_ns

    store.chmod("d/f", 0o600)
    store.setxattr("d/f", "user.x", b"1")
    put(store, "d/e/below")
    list(store.read_file("d/f"))

    assert store.stat("d").mtime_ns == before


# ---------------------------------------------------------------------------------------------------------- links


def test_symbolic_links_lead_where_they_say(call, store):
    put(store, "d/e/f", b"data")
    for target, path in (
        ("d/e", "rel"),
        ("/d/e/f", "abs"),
        ("../e/f", "d/e/up"),
        ("../../../d/e", "d/far"),
        ("x", "broken"),
    ):
        call(store.symlink, target, path)
        assert call(store.readlink, path) == target

    for path in ("rel/f", "abs", "d/e/up", "d/far/f", "rel/up"):
        assert content(store, path) == b"data", path
        assert store.stat(path).path == "d/e/f"
    link = call(store.stat, "abs", follow_symlinks=False)
    assert (link.type, link.size, link.mode, link.path) == (FileEntryType.SYMLINK, 6, 0o777, "abs")
    assert not call(store.exists, "broken")
    with pytest.raises(FileNotFoundError):
        call(store.stat, "broken")
    assert call(store.stat, "broken", follow_symlinks=False).size == 1
    put(store, "rel/new", b"through")
    assert content(store, "d/e/new") == b"through"


def test_writing_to_a_link_that_leads_nowhere_makes_what_it_names(call, store):
    store.symlink("d/target", "link")

    call(store.put_file, io.BytesIO(b"1"), "link")

    assert content(store, "d/target") == b"1"
    assert store.readlink("link") == "d/target"


def test_links_that_lead_round_in_a_circle_end(call, store):
    store.symlink("b", "a")
    store.symlink("a", "b")
    store.symlink("self/x", "self")

    for path in ("a", "b/c", "self", "self/y"):
        assert not call(store.exists, path)
        for operation, args in (
            (store.stat, (path,)), (store.listdir, (path,)), (store.put_file, (io.BytesIO(), path)),
            (store.chmod, (path, 0o600)),
        ):  # fmt: skip
            with pytest.raises(errors.LinkLoop, match="symbolic links"):
                call(operation, *args)
    assert call.iterate(store.glob("*/*")) == []
    call(store.remove_file, "a")
    assert paths(store) == ["b", "self"]


def test_a_chain_of_40_links_is_followed_and_no_longer_one(store):
    put(store, "0", b"end")
    for number in range(1, 42):
        store.symlink(str(number - 1), str(number))

    assert content(store, "40") == b"end"
    with pytest.raises(errors.LinkLoop):
        content(store, "41")


@pytest.mark.parametrize("target", ["", "x" * 4096, "a\0b", 7, None, "\ud800"])
def test_impossible_targets_are_refused(call, store, target):
    with pytest.raises(errors.InvalidError, match="target"):
        call(store.symlink, target, "link")
    assert paths(store) == []


def test_links_do_not_replace(call, store):
    put(store, "f")
    store.mkdir("d")
    store.symlink("nowhere", "l")

    for path in ("f", "d", "l"):
        with pytest.raises(FileExistsError):
            call(store.symlink, "f", path)
        with pytest.raises(FileExistsError):
            call(store.link, "f", path)
        with pytest.raises(FileExistsError):
            call(store.mknod, path, "fifo")
    assert store.stat("f").link_count == 1


def test_readlink_of_what_is_no_link(call, store):
    put(store, "f")
    with pytest.raises(errors.InvalidError, match="no symbolic link"):
        call(store.readlink, "f")
    with pytest.raises(FileNotFoundError):
        call(store.readlink, "nope")


def test_hard_links_are_names_of_one_file(call, store):
    put(store, "a", b"data")

    call(store.link, "a", "d/b")
    call(store.link, "d/b", "c")
    store.chmod("c", 0o640)

    assert len({store.stat(path).ino for path in ("a", "d/b", "c")}) == 1
    assert [store.stat(path).link_count for path in ("a", "d/b", "c")] == [3, 3, 3]
    assert store.stat("a").mode == 0o640
    call(store.remove_file, "a")
    call(store.move, "c", "e")
    assert store.stat("e").link_count == 2
    put(store, "e", b"replaced")
    assert (content(store, "d/b"), store.stat("d/b").link_count) == (b"data", 1)
    with pytest.raises(IsADirectoryError):
        call(store.link, "d", "x")
    with pytest.raises(FileNotFoundError):
        call(store.link, "nope", "x")


def test_a_hard_link_to_a_symbolic_link_is_one(call, store):
    put(store, "f")
    store.symlink("f", "l")

    call(store.link, "l", "m")

    assert store.readlink("m") == "f"
    assert store.stat("l", follow_symlinks=False).link_count == 2


def test_a_tree_with_many_names_of_its_files_goes_as_a_whole(store):
    for number in range(4):
        put(store, f"d/{number}", b"x")
        store.link(f"d/{number}", f"d/e/{number}")
    store.link("d/0", "outside")
    store.link("d/1", "other/1")

    store.remove_file("d", recursive=True)

    assert paths(store) == ["other/", "other/1", "outside"]
    assert store.stat("outside").link_count == store.stat("other/1").link_count == 1


def test_fifos_and_sockets(call, store, tmp_path):
    call(store.mknod, "d/p", "fifo", mode=0o600)
    call(store.mknod, "d/s", "socket")

    assert [(entry.type, entry.size) for entry in store.listdir("d")] == [
        (FileEntryType.FIFO, 0), (FileEntryType.SOCKET, 0),
    ]  # fmt: skip
    assert (store.stat("d/p").mode, store.stat("d/s").mode) == (0o600, 0o644)
    with pytest.raises(errors.InvalidError, match="nothing to read"):
        call.iterate(store.read_file("d/p"))
    with pytest.raises(errors.InvalidError, match="'door' is none of 'fifo', 'socket'"):
        call(store.mknod, "x", "door")
    call(store.get_directory, "d", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    call(store.copy_files, ["d/p"], "q")
    assert store.stat("q").type == FileEntryType.FIFO
    call(store.move, "q", "d/s")
    assert store.stat("d/s").type == FileEntryType.FIFO


# ---------------------------------------------------------------------------------------------------------- moving


def test_move_renames_replaces_and_makes_directories(call, store):
    put(store, "a", b"a")
    put(store, "b", b"b")
    put(store, "d/x/y", b"y")
    ino = store.stat("d/x").ino

    call(store.move, "a", "new/er/a")
    call(store.move, "new/er/a", "b")
    call(store.move, "d/x", "z")

    assert paths(store) == ["b", "d/", "new/", "new/er/", "z/", "z/y"]
    assert content(store, "b") == b"a"
    assert store.stat("z").ino == ino


def test_moving_a_directory_over_an_empty_one(call, store):
    put(store, "a/f")
    store.mkdir("empty")
    put(store, "full/f")

    with pytest.raises(errors.DirectoryNotEmpty):
        call(store.move, "a", "full")
    call(store.move, "a", "empty")

    assert paths(store) == ["empty/", "empty/f", "full/", "full/f"]


def test_what_move_refuses(call, store):
    put(store, "f", b"f")
    put(store, "d/e/g", b"g")
    store.mkdir("empty")
    store.symlink("d/e", "into")

    for path, new, error in (
        ("nope", "x", FileNotFoundError), ("f", "d", IsADirectoryError), ("d", "f", NotADirectoryError),
        ("d", "d/e/x", errors.InvalidError), ("d", "d/d", errors.InvalidError), ("d", "into/x", errors.InvalidError),
        ("/", "x", errors.InvalidError), ("f", "/", FileExistsError), ("f", "f/x", NotADirectoryError),
        ("f", "d/e/g/x", NotADirectoryError), ("d/e/g", "empty", IsADirectoryError), ("d/e", "into", NotADirectoryError),
    ):  # fmt: skip
        before = paths(store)
        with pytest.raises(error):
            call(store.move, path, new)
        assert paths(store) == before
    with pytest.raises(FileExistsError, match="replace=True"):
        call(store.move, "f", "d/e/g", replace=False)
    with pytest.raises(FileExistsError):
        call(store.move, "empty", "d", replace=False)
    call(store.move, "f", "g", replace=False)
    assert content(store, "g") == b"f"


def test_moves_onto_itself_change_nothing(call, store):
    put(store, "f", b"1")
    store.link("f", "g")
    store.mkdir("d")

    for path, new in (("f", "f"), ("f", "g"), ("d", "d"), ("d", "/d/")):
        call(store.move, path, new)

    assert paths(store) == ["d/", "f", "g"]


def test_a_link_is_moved_itself_and_not_what_it_leads_to(call, store):
    put(store, "d/f", b"1")
    store.symlink("d", "l")

    call(store.move, "l", "m")

    assert store.readlink("m") == "d"
    assert paths(store) == ["d/", "d/f", "m"]


# --------------------------------------------------------------------------------------------------------- copying


def test_copies_are_files_of_their_own(call, store):
    data = os.urandom(MIB)
    put(store, "small", b"1")
    put(store, "large", data)
    store.chmod("large", 0o600)
    store.chown("large", 7, 8)
    store.setxattr("large", "user.x", b"value")
    store.utime("large", mtime_ns=5)

    call(store.copy_files, ["small"], "copy of small")
    call(store.copy_files, "large", "d/e/copy of large")
    put(store, "small", b"2")
    put(store, "large", b"2")

    assert content(store, "copy of small") == b"1"
    assert content(store, "d/e/copy of large") == data
    copy = store.stat("d/e/copy of large")
    assert (copy.mode, copy.uid, copy.gid, copy.link_count) == (0o600, 7, 8, 1)
    assert abs(copy.mtime_ns - time.time_ns()) < 60e9
    assert store.getxattr("d/e/copy of large", "user.x") == b"value"


def test_copying_takes_no_room(store, sql):
    put(store, "f", os.urandom(MIB))

    for number in range(5):
        store.copy_files("f", f"copy {number}")

    store_id = int(store.object_id[3:])
    assert sql("SELECT count(DISTINCT id) FROM pgstore.blob WHERE store_id = %s", store_id) == [(1,)]


def test_copying_into_directories_and_over_files(call, store):
    put(store, "a", b"a")
    put(store, "b", b"b")
    put(store, "d/b", b"old")
    store.symlink("a", "to_a")
    store.symlink("d", "to_d")

    call(store.copy_files, ["a", "b", "to_a"], "d")
    call(store.copy_files, ["a"], "b")
    call(store.copy_files, ["a"], "to_d/c")

    assert {path: content(store, path) for path in ("d/a", "d/b", "d/c", "b")} == {
        "d/a": b"a", "d/b": b"b", "d/c": b"a", "b": b"a",
    }  # fmt: skip
    assert paths(store, "d") == ["d/a", "d/b", "d/c"]  # `to_a` was followed, to `a`


def test_copying_trees(call, store):
    put(store, "d/e/f", b"f")
    put(store, "d/g", b"g")
    store.symlink("g", "d/l")
    store.mkdir("d/empty")
    store.link("d/g", "d/h")
    store.chmod("d/e", 0o700)

    with pytest.raises(IsADirectoryError, match="recursive=True"):
        call(store.copy_files, ["d"], "new")
    call(store.copy_files, ["d"], "new", recursive=True)
    call(store.copy_files, ["d/e"], "new", recursive=True)
    call(store.copy_files, ["d/e", "d/empty", "d/g"], "new/empty", True)

    below = ["e/", "e/f", "empty/", "empty/e/", "empty/e/f", "empty/empty/", "empty/g", "g", "h", "l"]
    assert paths(store, "new") == [f"new/{path}" for path in below]
    assert store.readlink("new/l") == "g"
    assert store.stat("new/g").link_count == 1
    assert content(store, "new/empty/e/f") == b"f"


def test_trees_with_names_in_common_copied_into_one(call, store):
    for place, name in (("a", "1"), ("b", "2")):
        put(store, f"{place}/s/t/{name}", name.encode())
        put(store, f"{place}/s/same", name.encode())
    store.mkdir("into")

    call(store.copy_files, ["a/s", "b/s"], "into", recursive=True)

    assert paths(store, "into") == ["into/s/", "into/s/same", "into/s/t/", "into/s/t/1", "into/s/t/2"]
    assert content(store, "into/s/same") == b"2"


def test_what_copying_refuses(call, store):
    put(store, "f", b"f")
    put(store, "d/e/f", b"g")
    put(store, "x/e")
    put(store, "y/e/f/z")
    store.symlink("f", "l")

    for sources, target, error in (
        (["nope"], "x", FileNotFoundError), (["f", "nope"], "x", FileNotFoundError),
        (["f", "l"], "new", NotADirectoryError), (["f"], "f", errors.InvalidError), (["f"], "l", errors.InvalidError),
        (["d"], "d/new", errors.InvalidError), (["d"], "d", errors.InvalidError), (["d"], "f", NotADirectoryError),
        (["d/e"], "x", NotADirectoryError), (["d/e"], "y", IsADirectoryError), ([], "x", errors.InvalidError),
        (["f"], "f/x", NotADirectoryError), (["/"], "x", errors.InvalidError), (7, "x", TypeError), ([7], "x", errors.InvalidError),
    ):  # fmt: skip
        before = paths(store)
        with pytest.raises(error):
            call(store.copy_files, sources, target, recursive=True)
        assert paths(store) == before, (sources, target)


# ------------------------------------------------------------------------------------------------------- attributes


def test_attributes(call, store):
    put(store, "d/f", b"1")
    store.symlink("d/f", "l")
    before = store.stat("d/f")

    call(store.chmod, "l", 0o4751)
    call(store.chown, "d/f", 1000)
    call(store.chown, "d/f", gid=2**31 - 1)
    call(store.utime, "d/f", mtime_ns=-1_234_567_890_123)

    after = call(store.stat, "d/f")
    assert (after.mode, after.uid, after.gid, after.mtime_ns) == (0o4751, 1000, 2**31 - 1, -1_234_567_890_123)
    assert after.mtime == -1235
    assert after.ctime_ns > before.ctime_ns
    assert store.listdir("d")[0].mtime == -1235
    call(store.chmod, "d", 0o500)
    call(store.chmod, "/", 0o711)
    assert (store.stat("d").mode, store.stat("/").mode) == (0o500, 0o711)


def test_attributes_of_nothing_and_impossible_ones(call, store):
    put(store, "f")
    for operation, args in (
        (store.chmod, (0o10000,)), (store.chmod, (-1,)), (store.chmod, ("755",)), (store.chmod, (True,)),
        (store.chown, (2**32 - 1,)), (store.chown, (-2,)), (store.chown, (0, "root")),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidError, match="is not a number of 0 to"):
            call(operation, "f", *args)
    with pytest.raises(errors.InvalidError, match="mtime_ns"):
        call(store.utime, "f", mtime_ns=1.5)
    lookups: list[tuple[Any, tuple]] = [
        (store.chmod, ("x", 0o600)), (store.chown, ("x", 1)), (store.setxattr, ("x", "user.a", b"")),
        (store.removexattr, ("x", "user.a")), (store.getxattr, ("x", "user.a")), (store.listxattr, ("x",)),
    ]  # fmt: skip
    for operation, args in lookups:
        with pytest.raises(FileNotFoundError):
            call(operation, *args)
    with pytest.raises(FileNotFoundError):
        call(store.utime, "x", mtime_ns=1)
    assert store.stat("f").mode == 0o644


def test_a_directory_that_a_transaction_has_emptied_it_can_remove(store, client):
    put(store, "d/f")
    put(store, "d/e/g")

    with client.transaction():
        store.remove_file("d/f")
        store.move("d/e/g", "g")
        store.rmdir("d/e")
        store.rmdir("d")

    assert [entry.path for entry in store.listdir("/")] == ["g"]


def test_extended_attributes(call, store):
    put(store, "f")
    values = {"user.a": b"\0\xff", "user.ünï": b"", "z" * 255: os.urandom(1000), "user.b": bytearray(b"1")}

    for name, value in values.items():
        call(store.setxattr, "f", name, value)
    call(store.setxattr, "f", "user.b", memoryview(b"2"))

    assert call(store.listxattr, "f") == sorted(values)
    assert call(store.getxattr, "f", "user.b") == b"2"
    for name in ("user.a", "user.ünï", "z" * 255):
        assert call(store.getxattr, "f", name) == values[name]
    for name in values:
        call(store.removexattr, "f", name)
    assert call(store.listxattr, "f") == []
    for operation in (store.getxattr, store.removexattr):
        with pytest.raises(KeyError, match="'f' has no extended attribute 'user.a'"):
            call(operation, "f", "user.a")


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "a\0", "\ud800", 7, b"user.x"])
def test_impossible_names_of_attributes(call, store, name):
    put(store, "f")
    with pytest.raises(errors.InvalidError, match="1 to 255 bytes"):
        call(store.setxattr, "f", name, b"")


def test_attributes_are_bytes_and_not_without_end(call, store):
    put(store, "f")
    with pytest.raises(errors.InvalidError, match="must be bytes"):
        call(store.setxattr, "f", "user.x", "text")
    call(store.setxattr, "f", "user.x", bytes(60_000))
    with pytest.raises(errors.InvalidError, match="65536 bytes together"):
        call(store.setxattr, "f", "user.y", bytes(10_000))
    call(store.setxattr, "f", "user.x", bytes(65_000))
    assert store.listxattr("f") == ["user.x"]


# ----------------------------------------------------------------------------------------------------- looking, search


def test_stat_tells_all(call, store):
    put(store, "d/f", b"12345")

    stat = call(store.stat, "/d/f")

    assert (stat.path, stat.type, stat.size, stat.mode) == ("d/f", FileEntryType.FILE, 5, 0o644)
    assert (stat.uid, stat.gid, stat.link_count) == (0, 0, 1)
    assert stat.mtime == store.listdir("d/f")[0].mtime
    root = call(store.stat, "/")
    assert (root.path, root.type, root.ino, root.link_count) == ("", FileEntryType.DIRECTORY, 1, 1)
    with pytest.raises(FileNotFoundError, match="'d/nope'"):
        call(store.stat, "d/nope")
    with pytest.raises(NotADirectoryError, match="'d/f' is not a directory"):
        call(store.stat, "d/f/x")


def test_walk_is_that_of_the_operating_system(call, store, tmp_path):
    put(store, "b/x")
    put(store, "a/z/deep/f")
    put(store, "a/y")
    put(store, "top")
    store.mkdir("a/empty")
    store.symlink("a", "link")
    store.get_directory("/", tmp_path)

    assert call.iterate(store.walk()) == walked_locally(tmp_path)
    assert call.iterate(store.walk("a/z")) == [("a/z", ["deep"], []), ("a/z/deep", [], ["f"])]
    with pytest.raises(NotADirectoryError):
        call.iterate(store.walk("top"))
    with pytest.raises(FileNotFoundError):
        call.iterate(store.walk("nope"))


def walked_locally(path):
    walked = []
    for folder, folders, files in os.walk(path):
        # os.walk counts a link to a folder among the folders, though it does not go there.
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(set(folders) - set(links))
        relative = os.path.relpath(folder, path)
        walked.append(("" if relative == "." else relative, list(folders), sorted(files + links)))
    return walked


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in a transaction that has changed it"])
@pytest.mark.parametrize("names_ahead", [20_000, 10, 0])
def test_a_walk_is_in_order_and_complete_whatever_is_read_ahead(
    client, store, tmp_path, monkeypatch, inside, names_ahead
):
    """
    Directories of more names than one read gives, and more of them than are read at once, in several levels.
    """
    monkeypatch.setattr("pgstore.fs.tree.listing.PAGE_NAMES", 3)
    monkeypatch.setattr("pgstore.fs.tree.search.NAMES_AHEAD_MAX", names_ahead)
    for module in "listing", "search":
        monkeypatch.setattr(f"pgstore.fs.tree.{module}.PAGE_DIRECTORIES", 4)
    rng = random.Random(7)
    with client.transaction():
        for _ in range(120):
            put(
                store, "/".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 5))) + "/file " + rng.choice("xyz")
            )
    before = tmp_path / "before"
    store.get_directory("/", before)
    assert len(walked_locally(before)) > 100
    assert list(store.walk()) == walked_locally(before)

    with client.transaction() if inside else contextlib.nullcontext():
        for path, _, files in list(store.walk())[1::5]:
            for name in files:
                store.remove_file(f"{path}/{name}")
            put(store, f"{path}/made/new")
        walked = list(store.walk())
        store.get_directory("/", tmp_path / "after")
    places = {(path, name) for path, _, files in walked for name in files}
    assert places == {(path, name) for path, _, files in walked_locally(tmp_path / "after") for name in files}
    assert [path for path, _, _ in walked] == sorted((path for path, _, _ in walked), key=lambda path: path.split("/"))


@pytest.mark.parametrize("width", [300, 3000])
def test_a_walk_reads_no_further_ahead_in_a_wider_tree(client, store, sql, monkeypatch, width):
    """
    Else it remembers most of the tree, and looks through what it remembers at every step.
    """
    from pgstore.fs.tree import search
    from pgstore.fs.tree.listing import PAGE_DIRECTORIES

    store.mkdir("top")
    store_id, top = int(store.object_id[3:]), store.stat("top").ino
    sql(
        """
        WITH made AS MATERIALIZED (
             SELECT nextval('pgstore.inode_seq') AS ino, nextval('pgstore.inode_seq') AS child, i
               FROM generate_series(1, %s) AS i
        ), names AS (
             INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
             SELECT %s::bigint, %s, convert_to(i::text, 'UTF8'), ino, 'd'::"char" FROM made
              UNION ALL
             SELECT %s, ino, 'child', child, 'd' FROM made
        )
        INSERT INTO pgstore.inode (store_id, ino, kind, mode, mtime_ns, ctime_ns, parent)
        SELECT %s::bigint, ino, 'd'::"char", 493, 0, 0, %s FROM made
         UNION ALL
        SELECT %s, child, 'd', 493, 0, 0, ino FROM made
        """,
        *(width, store_id, top, store_id, store_id, top, store_id),
    )
    begun: list[int] = []
    looked_ahead = search.TreeWalk._look_ahead

    def look_ahead(self):
        yield from looked_ahead(self)
        begun.append(len(self._begun))

    monkeypatch.setattr(search.TreeWalk, "_look_ahead", look_ahead)

    assert len(list(store.walk("top"))) == 1 + 2 * width
    assert max(begun) <= 3 * PAGE_DIRECTORIES
    assert len(begun) <= 2 + width * 1.1


# ------------------------------------------------------------------------------------------------ whole directories


def held_by(folder):
    """What a local folder holds: bytes, modes, where links lead."""
    return {
        path.relative_to(folder).as_posix(): "folder"
        if path.is_dir() and not path.is_symlink()
        else os.readlink(path)
        if path.is_symlink()
        else (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
    }


@pytest.fixture
def mixed(store):
    """A store with more small files than are read at once, large ones, links and an empty directory; and what it holds."""
    files = {f"d{n % 3}/{n:03}": (bytes([n]) * 60_000, 0o600 + n % 2 * 0o40) for n in range(150)}
    files |= {"d0/empty": (b"", 0o644), "d1/large": (b"large" * 40_000, 0o644), "d1/linked": (b"both", 0o644)}
    with store.batch_upload() as batch:
        for path, (data, mode) in files.items():
            batch.put_file(io.BytesIO(data), path, mode=mode)
    store.link("d1/linked", "d2/linked")
    store.symlink("../d0", "d1/to_d0")
    store.mkdir("nothing/here")
    others = {"d0": "folder", "d1": "folder", "d2": "folder", "nothing": "folder", "nothing/here": "folder"}
    return files | {"d2/linked": (b"both", 0o644), "d1/to_d0": "../d0"} | others


def test_a_directory_arrives_whole(call, store, mixed, tmp_path):
    call(store.get_directory, "/", tmp_path / "there")

    assert held_by(tmp_path / "there") == mixed


def test_a_directory_arrives_whole_where_files_change_after_they_were_listed(call, store, mixed, tmp_path, monkeypatch):
    """
    None of the small files is found under the inode that was listed: each is looked for by its path.
    """

    def nothing(tree, inos):
        return {}
        yield

    monkeypatch.setattr(Tree, "small", nothing)

    call(store.get_directory, "/", tmp_path / "there")

    assert held_by(tmp_path / "there") == mixed


def test_a_directory_arrives_as_the_transaction_has_changed_it(client, store, mixed, tmp_path):
    with client.transaction():
        put(store, "d0/000", b"new")
        store.chmod("d0/003", 0o755)
        store.remove_file("d2", recursive=True)
        store.get_directory("/", tmp_path)

    expected = {path: what for path, what in mixed.items() if path.split("/")[0] != "d2"}
    expected |= {"d0/000": (b"new", 0o644), "d0/003": (mixed["d0/003"][0], 0o755)}
    assert held_by(tmp_path) == expected


GLOBS = [
    "*", "*.py", "a/*", "*/b.py", "**", "**/*.py", "a/**", "a/**/b.py", "**/a/**", "**/a/**/*.py", "?.py", "[ab].py", "[!a]*",
    "a/b/c.py", "nope", "nope/*", ".*", "A*", "**/**", "l/*", "*/c.py", "a", "**/c/d*", "**/.*",
]  # fmt: skip


def test_glob_finds_what_pathlib_does(call, store, tmp_path):
    for path in ("a/b.py", "a/c/c.py", "a/c/d.txt", "a/a/a.py", "top.py", "b.py", ".hid", "a/.hid/x.py"):
        put(store, path)
    store.symlink("a", "l")
    store.get_directory("/", tmp_path)

    for pattern in GLOBS:
        found = [entry.path for entry in call.iterate(store.glob(pattern))]

        assert len(found) == len(set(found)), pattern
        # In pathlib before 3.13 a last `**` gives directories alone.
        like = tmp_path.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
        expected = {str(path.relative_to(tmp_path)) for path in like}
        assert set(found) == expected, pattern


def test_glob_gives_entries(call, store):
    put(store, "d/f.txt", b"123")

    assert call.iterate(store.glob("*/*.txt")) == [
        FileEntry("d/f.txt", FileEntryType.FILE, store.stat("d/f.txt").mtime, 3)
    ]
    with pytest.raises(errors.InvalidError):
        store.glob("../*")


def test_an_entry_in_place_of_its_path_is_told_apart(call, store):
    """
    pathlib's `glob` gives paths, and whoever loops over ours may take entries for such.
    """
    put(store, "d/f.txt", b"123")
    (entry,) = call(store.listdir, "d")

    with pytest.raises(errors.InvalidError, match="FileEntry.*; pass its `path`"):
        call(store.read_bytes, entry)


def test_glob_in_directories_longer_than_a_page(store, tmp_path):
    store.put_directory(tree(tmp_path / "in", {f"{n % 2}/{n:05}.{'ab'[n % 3 == 0]}": b"" for n in range(5000)}), "up")

    assert len(list(store.glob("up/*/*.b"))) == 1667
    assert len(list(store.glob("**/*.a"))) == 3333


# ---------------------------------------------------------------------------------------------------------- paths


PATHS_THAT_CANNOT_BE = ["..", "a/../b", "a\0b", "x" * 256, "é" * 128, "a/" + "x" * 256, "\ud800", 7, None, b"bytes"]


@pytest.mark.parametrize("path", PATHS_THAT_CANNOT_BE)
def test_impossible_paths_are_refused_everywhere(call, store, tmp_path, path):
    put(store, "f")
    calls = [
        (store.mkdir, (path,)), (store.symlink, ("f", path)), (store.link, ("f", path)), (store.link, (path, "g")),
        (store.mknod, (path, "fifo")), (store.move, ("f", path)), (store.move, (path, "g")), (store.copy_files, (["f"], path)),
        (store.copy_files, ([path], "g")), (store.remove_file, (path,)), (store.rmdir, (path,)), (store.chmod, (path, 0)),
        (store.chown, (path, 0)), (store.setxattr, (path, "a", b"")), (store.removexattr, (path, "a")),
        (store.getxattr, (path, "a")), (store.listxattr, (path,)), (store.stat, (path,)), (store.readlink, (path,)),
        (store.exists, (path,)), (store.listdir, (path,)), (store.get_directory, (path, tmp_path / "x")),
        (store.read_file_into_fileobj, (path, io.BytesIO())), (store.put_file, (io.BytesIO(), path)),
    ]  # fmt: skip
    for operation, args in calls:
        with pytest.raises(errors.InvalidError):
            call(operation, *args)
    for iterate in (store.walk, store.glob, store.iterdir, store.read_file):
        with pytest.raises(errors.InvalidError):
            iterate(path)
    batch = store.batch_upload()
    with batch:
        for note in (lambda: batch.put_file(io.BytesIO(), path), lambda: batch.put_directory(tmp_path, path)):
            with pytest.raises(errors.InvalidError):
                note()
    assert paths(store) == ["f"]


def test_the_root_is_what_it_is(call, store, tmp_path):
    calls = [
        (store.symlink, ("f", "/")), (store.link, ("f", "/")), (store.mknod, ("/", "fifo")), (store.rmdir, ("/",)),
        (store.remove_file, ("/", True)), (store.move, ("/", "x")), (store.put_file, (io.BytesIO(), "/")),
        (store.read_file_into_fileobj, ("/", io.BytesIO())), (store.get_file, ("/", tmp_path / "x")), (store.readlink, ("/",)),
    ]  # fmt: skip
    for operation, args in calls:
        with pytest.raises((errors.InvalidError, errors.IsADirectory, errors.FileExists)):
            call(operation, *args)
    call(store.setxattr, "/", "user.x", b"1")
    assert call(store.getxattr, "", "user.x") == b"1"


def test_names_are_any_bytes(call, store, tmp_path):
    names = ["\udcff", "new\nline", "x" * 255, "'", "\\", "-", "…", "\x01", "*", "[a]"]
    for name in names:
        call(store.mkdir, f"dir/{name}")
        call(store.symlink, name, f"links/{name}")
        put(store, f"files/{name}", name.encode(errors="surrogateescape"))
    call(store.get_directory, "/", tmp_path)

    for place in ("dir", "links", "files"):
        assert [entry.path for entry in store.listdir(place)] == [
            f"{place}/{n}" for n in sorted(names, key=os.fsencode)
        ]
        assert {entry.name for entry in (tmp_path / place).iterdir()} == set(names)
    for name in names:
        assert (tmp_path / "files" / name).read_bytes() == name.encode(errors="surrogateescape")
        assert store.readlink(f"links/{name}") == name == os.readlink(tmp_path / "links" / name)


# ------------------------------------------------------------------------------------------------------- downloads


def test_a_directory_comes_down_as_it_is(call, store, tmp_path):
    files = {"a": b"1", "d/b": os.urandom(MIB), "d/e/c": b""}
    store.put_directory(tree(tmp_path / "in", files), "up")
    store.symlink("d/b", "up/link")
    store.symlink("../a", "up/d/above")
    store.mkdir("up/empty/deeper")
    store.chmod("up/a", 0o751)

    call(store.get_directory, "up", tmp_path / "out/put")

    out = tmp_path / "out/put"
    assert {path: (out / path).read_bytes() for path in files} == files
    assert os.readlink(out / "link") == "d/b"
    assert os.readlink(out / "d/above") == "../a"
    assert (out / "empty/deeper").is_dir()
    assert (out / "a").stat().st_mode & 0o777 == 0o751 & ~_umask()
    call(store.get_directory, "up", str(out))  # over what is there
    assert (out / "d/b").read_bytes() == files["d/b"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_links_that_lead_out_are_left_out_unless_trusted(call, store, tmp_path):
    """
    A later program that opens one would read or write anything on this machine. `..` behind another link leads nobody knows where.
    """
    there = {
        "absolute": "/etc/passwd",
        "d/above": "../../x",
        "d/behind": "e/../..",
        "e/up": "..",
        "e/through": "up/../../x",
    }
    for path, target in there.items():
        put(store, f"{path}-file")
        store.symlink(target, path)

    with pytest.raises(errors.UnsafeEntry, match=r"link 'absolute' leads to '/etc/passwd'; trusted=True"):
        call(store.get_directory, "/", tmp_path / "out")
    call(store.get_directory, "/", tmp_path / "trusted", trusted=True)

    files = {f"{path}-file" for path in there}
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")} == {
        *files,
        "d",
        "e",
        "e/up",
    }
    assert {path: os.readlink(tmp_path / "trusted" / path) for path in there} == there


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc", b"../../x", b"nul\0"])
@pytest.mark.parametrize("evil", [["small"], ["large"], ["two"], ["one", "two"]], ids="-".join)
def test_impossible_names_lead_nowhere(call, own_database, kind, tmp_path, name, evil):
    """
    They got in before the schema refused them, or where it was changed. All else comes down, and what was left out is told of.
    """
    client = call.client(own_database)
    store = kind.from_name("s", create_if_missing=True, client=client)
    put(store, "one/two/small", b"planted")
    put(store, "one/two/large", b"planted" * 20_000)
    put(store, "one/proper")
    put(store, "proper", b"x")
    with psycopg.connect(own_database, autocommit=True) as connection:
        rename = "UPDATE pgstore.dirent SET name = %s WHERE name = %s"
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(rename, [name, evil[0].encode()])
        connection.execute("ALTER DOMAIN pgstore.entry_name DROP CONSTRAINT entry_name_check")
        for each in evil:
            connection.execute(rename, [name, each.encode()])
    out = tmp_path / "a/b/c/out"

    with pytest.raises(errors.UnsafeEntry, match="impossible name"):
        call(store.get_directory, "/", out)

    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    proper = ["proper", "one/proper", "one/two/small", "one/two/large"]
    assert written == {f"a/b/c/out/{path}" for path in proper if not set(path.split("/")) & set(evil)}
    for looking in (
        lambda: list(store.iterdir("/", recursive=True)),
        lambda: store.listdir("/", recursive=True),
        lambda: list(store.walk("/")),
        lambda: list(store.glob("**/*")),
    ):
        with pytest.raises(errors.UnsafeEntry):
            looking()
    assert b"".join(store.read_file("proper")) == b"x"


def test_a_folder_that_becomes_a_link_meanwhile_is_not_gone_through(store, tmp_path, monkeypatch):
    """
    Somebody else who may write there swaps it between two files.
    """
    for name in ("a", "b"):
        put(store, f"d/{name}", b"x" * 100_000)
    outside = tmp_path / "outside"
    outside.mkdir()
    out = tmp_path / "out"
    finish = Target.finish

    def swapping(self, size_bytes):
        finish(self, size_bytes)
        if not (out / "d").is_symlink():
            (out / "d").rename(out / "moved")
            (out / "d").symlink_to(outside)

    monkeypatch.setattr(Target, "finish", swapping)

    store.get_directory("/", out)

    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in (out / "moved").iterdir()) == ["a", "b"]


@pytest.mark.parametrize("size", [10, 200_000])
def test_bits_that_give_rights_do_not_come_down_unless_trusted(call, store, tmp_path, size):
    """
    Who may write to a store would plant programs that run with the rights of who fetches them.
    """
    for mode in (0o4755, 0o2755, 0o1777, 0o7755):
        store.put_file(io.BytesIO(b"#" * size), f"bin/{mode:o}", mode=mode)
        (tmp_path / f"{mode:o}").write_bytes(b"there")
        (tmp_path / f"{mode:o}").chmod(mode)

        call(store.get_file, f"bin/{mode:o}", tmp_path / f"new-{mode:o}")
        call(store.get_file, f"bin/{mode:o}", tmp_path / f"{mode:o}")
        call(store.get_file, f"bin/{mode:o}", tmp_path / f"trusted-{mode:o}", trusted=True)

        assert stat.S_IMODE((tmp_path / f"new-{mode:o}").stat().st_mode) == mode & 0o777 & ~_umask()
        assert stat.S_IMODE((tmp_path / f"{mode:o}").stat().st_mode) == mode & 0o777
        assert stat.S_IMODE((tmp_path / f"trusted-{mode:o}").stat().st_mode) == mode & ~_umask()
    call(store.get_directory, "bin", tmp_path / "all")
    call(store.get_directory, "bin", tmp_path / "trusted", trusted=True)
    assert {path.stat().st_mode & 0o7000 for path in (tmp_path / "all").iterdir()} == {0}
    assert {path.stat().st_mode & 0o7000 for path in (tmp_path / "trusted").iterdir()} == {
        0o4000,
        0o2000,
        0o1000,
        0o7000,
    }
    assert store.stat("bin/4755").mode == 0o4755


def test_a_pattern_chooses_what_comes_down(call, store, tmp_path):
    for path in ("a.csv", "a.txt", "d/b.csv", "e/c.txt"):
        put(store, path)

    call(store.get_directory, "/", tmp_path / "out", pattern="*.csv")

    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert found == ["a.csv", "d", "d/b.csv"]


def test_nothing_comes_down_through_a_link(call, store, tmp_path):
    """
    Links made by whoever fills the store, or found in the folder, lead anywhere; files are written below the folder all the same.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").symlink_to(outside / "victim")
    (out / "link").symlink_to(outside / "victim")
    put(store, "file", b"written")
    store.symlink("file", "link")

    call(store.get_directory, "/", out)

    assert (out / "file").read_bytes() == b"written"
    assert not (out / "file").is_symlink()
    assert os.readlink(out / "link") == "file"

    (out / "d").symlink_to(outside)
    put(store, "d/victim", b"written")
    with pytest.raises(NotADirectoryError, match="not a folder"):
        call(store.get_directory, "/", out)
    # The store's own link first, then a directory of that name.
    (out / "d").unlink()
    store.remove_file("d", recursive=True)
    store.symlink(str(outside), "d")
    with pytest.raises(pgstore.errors.UnsafeEntry, match="link 'd' leads to"):
        call(store.get_directory, "/", out)
    assert not (out / "d").is_symlink()
    call(store.get_directory, "/", out, trusted=True)
    store.remove_file("d")
    put(store, "d/victim", b"written")
    with pytest.raises(NotADirectoryError, match="not a folder"):
        call(store.get_directory, "/", out)
    assert (outside / "victim").read_bytes() == b"precious"
    assert [path.name for path in outside.iterdir()] == ["victim"]


def test_downloads_that_cannot_be(call, store, tmp_path):
    put(store, "f")
    put(store, "d/x/y")
    (tmp_path / "file").write_bytes(b"")
    tree(tmp_path / "out", {"x": b"a file"})

    with pytest.raises(FileNotFoundError):
        call(store.get_directory, "nope", tmp_path / "new")
    with pytest.raises(NotADirectoryError, match="use get_file"):
        call(store.get_directory, "f", tmp_path / "new")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        call(store.get_directory, "d", tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        call(store.get_directory, "d", tmp_path / "out")
    with pytest.raises(errors.InvalidError, match="local folder"):
        call(store.get_directory, "d", 7)


def test_reading_into_a_file_object(call, store):
    data = os.urandom(5 * MIB)
    put(store, "f", data)
    told = []

    target = io.BytesIO()
    assert call(store.read_file_into_fileobj, "f", target, lambda **facts: told.append(facts)) == len(data)

    assert target.getvalue() == data
    assert told[0] == {"size": len(data)}
    assert sum(facts["advance"] for facts in told[1:]) == len(data)
    with pytest.raises(FileNotFoundError):
        call(store.read_file_into_fileobj, "nope", target)
    with pytest.raises(IsADirectoryError):
        call(store.read_file_into_fileobj, "/", target)


def test_a_file_object_that_takes_little_at_a_time_gets_everything(call, store):
    """
    As unbuffered files and pipes do, which say how much they took.
    """
    data = os.urandom(300_000)
    put(store, "f", data)

    class Narrow(io.RawIOBase):
        taken = b""

        def writable(self):
            return True

        def write(self, piece):
            part = bytes(piece[:70_001])
            self.taken += part
            return len(part)

    narrow = Narrow()
    assert call(store.read_file_into_fileobj, "f", narrow) == len(data)
    assert narrow.taken == data


# ---------------------------------------------------------------------------------------------------- uploads together


class Boom(Exception):
    pass


def upload(call, store, note, **options):
    """`with store.batch_upload() as batch: note(batch)`, in the form of *call*."""
    if call.form == "blocking":
        with store.batch_upload(**options) as batch:
            note(batch)
        return

    async def uploaded():
        async with store.batch_upload(**options) as batch:
            note(batch)

    call.run(uploaded())


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_batch_appears_as_a_whole(call, store, tmp_path):
    local = tree(tmp_path / "in", {"x": b"x", "d/y": b"y"})
    local.joinpath("x").chmod(0o751)

    def note(batch):
        batch.put_file(local / "x", "one")
        batch.put_file(str(local / "x"), "/deep/er/two", mode=0o600)
        batch.put_file(io.BytesIO(b"object"), "three")
        batch.put_directory(local, "all")
        batch.put_directory(local, "/flat/", recursive=False)
        assert paths(store) == []

    upload(call, store, note)

    assert [path for path in paths(store) if not path.endswith("/")] == [
        "all/d/y", "all/x", "deep/er/two", "flat/x", "one", "three",
    ]  # fmt: skip
    assert content(store, "three") == b"object"
    assert [store.stat(path).mode for path in ("one", "deep/er/two", "three")] == [0o751, 0o600, 0o644]
    if isinstance(store, Volume):
        assert {store.stat(path).version for path in ("one", "flat/x")} == {1}


def test_a_batch_does_not_replace_unless_forced(call, store, tmp_path):
    put(store, "d/f", b"old")
    put(store, "d/e/g", b"old")
    store.symlink("nowhere", "d/link")
    local = tree(tmp_path / "in", {"a": b"1", "f": b"new"})

    for note in (
        lambda batch: batch.put_file(io.BytesIO(b"new"), "d/f"),
        lambda batch: batch.put_directory(local, "d"),
        lambda batch: (batch.put_file(local / "a", "x"), batch.put_file(local / "a", "x")),
        lambda batch: batch.put_directory(tree(tmp_path / "links", {"link": b""}), "d"),
    ):
        with pytest.raises(FileExistsError, match="force=True"):
            upload(call, store, note)
    for note in (
        lambda batch: batch.put_file(io.BytesIO(b"new"), "d/e"),
        lambda batch: batch.put_directory(tree(tmp_path / "dirs", {"e": b""}), "d"),
    ):
        with pytest.raises(IsADirectoryError):
            upload(call, store, note, force=True)
    assert paths(store) == ["d/", "d/e/", "d/e/g", "d/f", "d/link"]
    assert content(store, "d/f") == b"old"

    upload(call, store, lambda batch: batch.put_directory(local, "d"), force=True)
    assert content(store, "d/f") == b"new"


def test_an_exception_in_the_block_or_while_uploading_leaves_nothing(call, store, tmp_path):
    local = tree(tmp_path / "in", {"a": b"1", "large": os.urandom(5 * MIB)})

    def raising(batch):
        batch.put_directory(local, "d")
        raise Boom

    class Breaking(io.BytesIO):
        def read(self, size=-1):
            raise Boom

    def breaking(batch):
        batch.put_directory(local, "d")
        batch.put_file(Breaking(b"x"), "z")

    def vanished(batch):
        batch.put_directory(local, "d")
        batch.put_file(local / "nope", "z")

    for note, error in ((raising, Boom), (breaking, Boom), (vanished, FileNotFoundError)):
        with pytest.raises(error):
            upload(call, store, note)
        assert paths(store) == []


def test_a_batch_is_used_once_and_in_its_block(store):
    batch = store.batch_upload()
    with pytest.raises(errors.InvalidError, match="within the block"):
        batch.put_file(io.BytesIO(), "f")
    with batch:
        batch.put_file(io.BytesIO(), "f")
    with pytest.raises(errors.InvalidError, match="within the block"):
        batch.put_file(io.BytesIO(), "g")
    with pytest.raises(errors.InvalidError, match="used once"), batch:
        pass
    assert paths(store) == ["f"]


def test_a_batch_in_a_transaction_is_a_part_of_it(client, store):
    with pytest.raises(Boom), client.transaction():
        with store.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"1"), "d/f")
        assert content(store, "d/f") == b"1"
        raise Boom
    assert paths(store) == []


def test_put_file_with_a_mode(call, store, tmp_path):
    call(store.put_file, io.BytesIO(b"1"), "f", mode=0o4700)
    assert store.stat("f").mode == 0o4700
    for mode in (-1, 0o10000, "700"):
        with pytest.raises(errors.InvalidError, match="mode"):
            call(store.put_file, io.BytesIO(b"1"), "g", mode=mode)
        with pytest.raises(errors.InvalidError, match="mode"), store.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"1"), "g", mode=mode)
    assert paths(store) == ["f"]


def test_if_version_replaces_only_what_was_seen(call, client, store_name, client_elsewhere):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client).hydrate()
    elsewhere = Volume.from_name(store_name, client=client_elsewhere)
    call(volume.put_file, io.BytesIO(b"1"), "d/f", if_version=0)
    seen = volume.stat("d/f").version

    call(volume.put_file, io.BytesIO(b"2"), "d/f", if_version=seen)
    put(elsewhere, "d/other")
    newer = volume.stat("d/f").version
    call(volume.put_file, io.BytesIO(b"3"), "d/f", if_version=volume.stat("d/f").version)

    assert (seen, newer) == (1, 2)
    for path, if_version in (("d/f", seen), ("d/f", newer), ("d/f", 0), ("nope", 1), ("nope/nope", 1)):
        with pytest.raises(errors.ConflictError, match="nothing was applied"):
            call(volume.put_file, io.BytesIO(b"4"), path, if_version=if_version)
    impossible: tuple[Any, ...] = (-1, "1", 1.0, True, 2**63)
    for if_version in impossible:
        with pytest.raises(errors.InvalidError, match="if_version"):
            call(volume.put_file, io.BytesIO(b"4"), "d/f", if_version=if_version)
    assert content(volume, "d/f") == b"3"


# ------------------------------------------------------------------------------------------------ options, handles


@pytest.mark.parametrize(
    "options",
    [
        {"storage": "files"}, {"storage": 7}, {"chunk_size": 4095}, {"chunk_size": 2**25}, {"chunk_size": "64k"},
        {"storage": "large_object", "chunk_size": 65536},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be(kind, client, store_name, options):
    with pytest.raises(errors.InvalidError):
        kind.from_name(store_name, client=client, **options)
    with pytest.raises(errors.InvalidError):
        kind.ephemeral(client=client, **options)


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep": 10**7}, {"keep": "all"}, {"version": 3}], ids=str)
def test_options_that_cannot_be_of_a_volume(client, store_name, options):
    with pytest.raises(errors.InvalidError):
        Volume.from_name(store_name, client=client, **options)


def test_options_are_fixed_at_creation(call, kind, client, client_elsewhere, store_name, sql):
    other = {"keep": 3} if kind is Volume else {}
    made = kind.from_name(store_name, create_if_missing=True, client=client, chunk_size=8192, **other)
    put(made, "f", bytes(100_000) + b"x")

    same = kind.from_name(store_name, client=client_elsewhere, storage="rows", chunk_size=8192, **other)
    assert call(same.exists, "f")
    assert call(kind.from_name(store_name, client=client_elsewhere).exists, "f")
    wrongs: list[dict[str, Any]] = [
        {"chunk_size": 4096},
        {"storage": "large_object"},
        *([{"keep": 4}] if other else []),
    ]
    for wrong in wrongs:
        (name,) = wrong
        with pytest.raises(errors.InvalidError, match=f"created with {name}=.*leave {name}= out"):
            call(kind.from_name(store_name, client=client_elsewhere, **wrong).exists, "f")
    found = sql("SELECT chunk_size_bytes FROM pgstore.blob WHERE store_id = %s", int(made.object_id[3:]))
    assert found == [(8192,)]


def test_the_defaults_may_be_said(call, kind, store, client_elsewhere):
    store.hydrate()
    chunk_size = 256 * 1024 if kind is Volume else 64 * 1024
    defaults: list[dict[str, Any]] = [
        {"storage": "rows"},
        {"chunk_size": chunk_size},
        *([{"keep": 10}] if kind is Volume else []),
    ]
    for options in defaults:
        assert call(kind.from_name(store.name, client=client_elsewhere, **options).exists, "/")


def test_large_objects_have_a_size_of_their_own(call, kind, client, client_elsewhere, store_name):
    kind.from_name(store_name, create_if_missing=True, client=client, storage="large_object").hydrate()
    with pytest.raises(errors.InvalidError, match="1 MiB"):
        call(kind.from_name(store_name, client=client_elsewhere, chunk_size=65536).exists, "/")


def test_names_are_shared_by_both_kinds(call, kind, store, client_elsewhere):
    """
    A mount names one of them; which, must not depend on whom one asks.
    """
    store.hydrate()
    other, article = (NetworkFileSystem, "a Volume") if kind is Volume else (Volume, "a NetworkFileSystem")

    for create in (False, True):
        with pytest.raises(errors.InvalidError, match=f"is {article}, not a {other._display_name}"):
            call(other.from_name(store.name, create_if_missing=create, client=client_elsewhere).exists, "/")
    with pytest.raises(errors.InvalidError, match=f"is {article}"):
        other.objects.create(store.name, client=client_elsewhere)
    with pytest.raises(errors.InvalidError, match=f"is {article}"):
        other.objects.delete(store.name, client=client_elsewhere)
    assert store.exists("/")


@pytest.fixture
def default_client(database):
    """Unpickled handles are on it."""
    pgstore.configure(url=database)
    yield
    pgstore.configure()


def test_pickled_handles_keep_their_options(kind, store_name, client, default_client):
    store = kind.from_name(store_name, create_if_missing=True, client=client, chunk_size=8192)

    back = pickle.loads(pickle.dumps(store))

    put(back, "f", b"1")
    assert content(store, "f") == b"1"
    assert back._options == {"chunk_size": 8192}


def test_pickled_variants_are_what_they_were(store_name, client, default_client):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client)
    put(volume, "f", b"1")

    read_only = pickle.loads(pickle.dumps(volume.read_only()))
    mounted = pickle.loads(pickle.dumps(volume.with_mount_options(read_only=True, sub_path="/a/b/")))

    assert content(read_only, "f") == b"1"
    with pytest.raises(errors.InvalidError, match="Read-only"):
        put(read_only, "g")
    assert mounted._mount_options == {"read_only": True, "sub_path": "a/b"}


def test_a_read_only_volume_refuses_to_write(call, client, store_name, tmp_path):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client)
    put(volume, "d/f", b"1")
    local = tree(tmp_path / "in", {"x": b""})
    handle = volume.read_only()

    for operation, args in (
        (handle.put_file, (io.BytesIO(), "x")), (handle.put_directory, (local, "x")), (handle.mkdir, ("x",)),
        (handle.symlink, ("f", "x")), (handle.link, ("d/f", "x")), (handle.mknod, ("x", "fifo")), (handle.move, ("d/f", "x")),
        (handle.copy_files, (["d/f"], "x")), (handle.remove_file, ("d/f",)), (handle.rmdir, ("d",)), (handle.chmod, ("d/f", 0)),
        (handle.chown, ("d/f", 0)), (handle.setxattr, ("d/f", "a", b"")), (handle.removexattr, ("d/f", "a")),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidError, match="Read-only Volume can not be written to"):
            call(operation, *args)
    with pytest.raises(errors.InvalidError, match="Read-only"):
        call(handle.utime, "d/f", mtime_ns=0)
    with pytest.raises(errors.InvalidError, match="Read-only"):
        upload(call, handle, lambda batch: batch.put_file(io.BytesIO(), "x"))
    assert content(handle, "d/f") == b"1"
    assert paths(handle) == ["d/", "d/f"]
    with pytest.raises(errors.InvalidError, match="cannot be combined"):
        handle.with_mount_options(read_only=False)
    with pytest.raises(errors.InvalidError, match="cannot be combined"):
        volume.with_mount_options(sub_path="d").read_only()


def test_mount_options_add_up_and_leave_direct_calls_alone(client, store_name):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client)

    once = volume.with_mount_options(sub_path="/d/e")
    twice = once.with_mount_options(read_only=True)
    cleared = twice.with_mount_options(sub_path="/")

    assert once._mount_options == {"sub_path": "d/e"}
    assert twice._mount_options == {"sub_path": "d/e", "read_only": True}
    assert cleared._mount_options == {"sub_path": None, "read_only": True}
    put(twice, "f")
    assert paths(volume) == ["f"]
    impossible: tuple[Any, ...] = ("..", 7, "a\0")
    for sub_path in impossible:
        with pytest.raises(errors.InvalidError):
            volume.with_mount_options(sub_path=sub_path)


def test_renaming_a_volume(call, client, client_elsewhere, store_name):
    volume = Volume.from_name(store_name, create_if_missing=True, client=client)
    put(volume, "f", b"1")
    new = f"{store_name}-new"
    NetworkFileSystem.from_name(f"{store_name}-nfs", create_if_missing=True, client=client).hydrate()

    call(Volume.rename, store_name, new, client=client_elsewhere)
    call(Volume.rename, new, new, client=client_elsewhere)

    assert content(volume, "f") == b"1"
    assert content(Volume.from_name(new, client=client_elsewhere), "f") == b"1"
    with pytest.raises(errors.NotFoundError):
        Volume.from_name(store_name, client=client_elsewhere).listdir("/")
    with pytest.raises(errors.NotFoundError, match=store_name):
        call(Volume.rename, store_name, "x", client=client)
    with pytest.raises(errors.NotFoundError):
        call(Volume.rename, f"{store_name}-nfs", "x", client=client)
    with pytest.raises(errors.AlreadyExistsError, match="nfs"):
        call(Volume.rename, new, f"{store_name}-nfs", client=client)
    with pytest.raises(errors.InvalidError):
        call(Volume.rename, new, "no/name", client=client)


# ------------------------------------------------------------------------------------------------ NetworkFileSystem


@pytest.fixture
def nfs(client, store_name):
    return NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client)


def test_write_file_replaces_at_once_and_rewinds(call, nfs):
    data = os.urandom(5 * MIB)
    file = io.BytesIO(data)
    file.seek(100)
    told = []

    assert call(nfs.write_file, "/d/f", file, lambda **facts: told.append(facts)) == len(data)

    assert content(nfs, "d/f") == data
    assert sum(facts["advance"] for facts in told) == len(data)
    assert call(nfs.write_file, "d/f", io.BytesIO(b"")) == 0
    assert content(nfs, "d/f") == b""
    with pytest.raises(errors.InvalidError, match="names a directory"):
        call(nfs.write_file, "d/", io.BytesIO())
    with pytest.raises(errors.InvalidError, match="binary"):
        call(nfs.write_file, "d/f", io.StringIO("text"))
    with pytest.raises(IsADirectoryError):
        call(nfs.write_file, "d", io.BytesIO())


def test_local_files_and_folders_go_to_their_own_names(call, nfs, tmp_path, monkeypatch):
    local = tree(tmp_path / "folder", {"a.txt": b"1", "d/b": b"2"})
    monkeypatch.chdir(tmp_path)

    call(nfs.add_local_file, local / "a.txt")
    call(nfs.add_local_file, "folder/a.txt", "/else/where")
    call(nfs.add_local_dir, "folder/")
    told = []
    call(nfs.add_local_dir, local, "/x", lambda **facts: told.append(facts["advance"]))

    files = [path for path in paths(nfs) if not path.endswith("/")]
    assert files == ["a.txt", "else/where", "folder/a.txt", "folder/d/b", "x/a.txt", "x/d/b"]
    assert sum(told) == 2
    for operation in (nfs.add_local_file, nfs.add_local_dir):
        with pytest.raises(FileNotFoundError):
            call(operation, tmp_path / "nope")
        with pytest.raises(errors.InvalidError):
            call(operation, 7)


def test_create_deployed_and_delete(call, client, store_name):
    """
    With the client by position, too, as in Modal's signature.
    """
    first = call(NetworkFileSystem.create_deployed, store_name, client=client)
    assert first.startswith("sv-")
    assert call(NetworkFileSystem.create_deployed, store_name, client) == first
    call(NetworkFileSystem.delete, store_name, client)
    with pytest.raises(errors.NotFoundError):
        call(NetworkFileSystem.delete, store_name, client=client)


def test_a_name_that_is_taken_meanwhile_is_not_given_to_a_volume(call, client, client_elsewhere, store_name):
    """
    The other's name is not committed when the renaming begins, so that looking for it first would find nothing.
    """
    Volume.from_name(store_name, create_if_missing=True, client=client).hydrate()
    taken = f"{store_name}-taken"
    renamed: list[BaseException] = []

    def rename():
        try:
            call(Volume.rename, store_name, taken, client=client)
        except BaseException as exc:
            renamed.append(exc)

    with client_elsewhere.transaction() as tx:
        tx.connection.execute(
            "INSERT INTO pgstore.store (environment, kind, name) VALUES (%s, 'nfs', %s)",
            [client_elsewhere.environment, taken],
        )
        thread = threading.Thread(target=rename)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(20)

    assert [type(exc) for exc in renamed] == [errors.AlreadyExistsError]
    assert Volume.from_name(store_name, client=client_elsewhere).listdir("/") == []


@pytest.mark.parametrize("impossible", ["nul\0", "\ud800"])
def test_a_path_that_this_machine_cannot_have_is_refused(call, store, impossible):
    """
    Python raises a bare ValueError.
    """
    put(store, "f")

    for operation, *args in (
        (store.put_file, impossible, "x"),
        (store.put_directory, impossible, "x"),
        (store.get_file, "f", impossible),
        (store.get_directory, "/", impossible),
    ):
        with pytest.raises(errors.InvalidError, match="no path that this machine could have"):
            call(operation, *args)


def test_a_network_file_system_has_no_versions(call, nfs):
    with pytest.raises(errors.InvalidError, match="no versions"):
        call(nfs.put_file, io.BytesIO(), "f", if_version=1)
    put(nfs, "f")
    put(nfs, "f")
    assert nfs.stat("f").version == 0


def test_a_store_that_is_gone_says_so(call, kind, store, client_elsewhere, tmp_path):
    put(store, "d/f")
    kind.objects.delete(store.name, client=client_elsewhere)

    calls = [
        (store.mkdir, ("x",)), (store.symlink, ("f", "x")), (store.link, ("d/f", "x")), (store.mknod, ("x", "fifo")),
        (store.move, ("d/f", "x")), (store.copy_files, (["d/f"], "x")), (store.remove_file, ("d/f",)), (store.rmdir, ("d",)),
        (store.chmod, ("d/f", 0)), (store.chmod, ("/", 0)), (store.setxattr, ("d/f", "a", b"")), (store.stat, ("/",)),
        (store.listxattr, ("/",)), (store.readlink, ("x",)), (store.get_directory, ("/", tmp_path / "x")),
        (store.read_file_into_fileobj, ("d/f", io.BytesIO())), (store.rmdir, ("x/y",)), (store.exists, ("/",)),
    ]  # fmt: skip
    for operation, args in calls:
        with pytest.raises(errors.NotFoundError):
            call(operation, *args)
    for iterator in (store.walk(), store.glob("*"), store.iterdir("/")):
        with pytest.raises(errors.NotFoundError):
            call.iterate(iterator)
    with pytest.raises(errors.NotFoundError):
        upload(call, store, lambda batch: batch.put_file(io.BytesIO(b"1"), "x"))


def test_a_handle_of_a_transaction_works_from_another_thread(client, store):
    store.mkdir("d")
    with client.transaction() as transaction:
        handle = store.using(transaction)

        async def elsewhere():
            await asyncio.to_thread(put, handle, "d/f", b"1")

        asyncio.run(elsewhere())
        assert content(store, "d/f") == b"1"
    assert paths(store) == ["d/", "d/f"]


def test_rows_that_were_not_made_by_us_are_found(store, database, sql):
    """
    What the checks of these tests look for is damage that they see.
    """
    put(store, "d/f")
    put(store, "g")
    store_id = int(store.object_id[3:])
    damages = [
        "UPDATE pgstore.inode SET link_count = 2 WHERE store_id = %s AND kind = 'f'",
        "UPDATE pgstore.inode SET parent = 77 WHERE store_id = %s AND kind = 'd' AND ino > 1",
        "DELETE FROM pgstore.inode WHERE store_id = %s AND kind = 'f'",
        "DELETE FROM pgstore.dirent WHERE store_id = %s AND kind = 'd'",
        "UPDATE pgstore.dirent SET kind = 'l' WHERE store_id = %s AND name = 'g'",
    ]  # fmt: skip
    assert_sound(database, store)
    for damage in damages:
        with psycopg.connect(database) as connection, connection.transaction(force_rollback=True):
            connection.execute(damage, [store_id])
            with pytest.raises(AssertionError):
                assert_sound(connection, store)


# ------------------------------------------------------------------------------------- a slash at the end of a path


@pytest.mark.parametrize("slash", ["/", "//"])
@pytest.mark.parametrize(
    "operation",
    [
        lambda store, call, f, new: call(store.move, "f", new),
        lambda store, call, f, new: call(store.move, f, "g"),
        lambda store, call, f, new: call(store.copy_files, ["f"], new),
        lambda store, call, f, new: call(store.copy_files, [f], "g"),
        lambda store, call, f, new: call(store.put_file, io.BytesIO(), new),
        lambda store, call, f, new: call(store.put_file, io.BytesIO(), f),
        lambda store, call, f, new: call(store.get_file, f, io.BytesIO()),
        lambda store, call, f, new: call(store.stat, f),
        lambda store, call, f, new: call(store.listdir, f),
        lambda store, call, f, new: call(store.chmod, f, 0o600),
        lambda store, call, f, new: call(store.setxattr, f, "name", b"value"),
        lambda store, call, f, new: call(store.remove_file, f),
        lambda store, call, f, new: call(store.remove_file, f, recursive=True),
        lambda store, call, f, new: call(store.link, f, "g"),
        lambda store, call, f, new: call(store.symlink, "f", new),
        lambda store, call, f, new: store.open(f),
        lambda store, call, f, new: store.open(new, "w"),
        lambda store, call, f, new: list(store.read_file(f)),
        lambda store, call, f, new: list(store.walk(f)),
    ],
)
def test_a_slash_at_the_end_is_a_directory_or_an_error(call, store, operation, slash):
    """
    POSIX, Pathname Resolution: such a path leads to a directory that exists, or to nothing.
    """
    put(store, "f", b"1")

    with pytest.raises(errors.Error):
        operation(store, call, f"f{slash}", f"new{slash}")

    assert paths(store) == ["f"]
    assert (store.stat("f").mode, store.listxattr("f")) == (0o644, [])
    assert call(store.exists, f"f{slash}") is False


def test_a_slash_at_the_end_of_a_directory_changes_nothing(call, store, tmp_path):
    put(store, "d/f")
    call(store.mkdir, "new/")
    store.symlink("d", "to_d")

    assert call(store.stat, "d/").type == FileEntryType.DIRECTORY
    assert call(store.stat, "to_d/", follow_symlinks=False).path == "d"
    assert call(store.exists, "to_d/")
    assert [entry.path for entry in call(store.listdir, "d/")] == ["d/f"]
    call(store.move, "d/", "e/")
    call(store.copy_files, ["e/"], "copy/", recursive=True)
    call(store.copy_files, ["e/f"], "new/")
    call(store.put_directory, tree(tmp_path, {"g": b""}), "folder/")
    call(store.rmdir, "copy/") if not store.listdir("copy/") else call(store.remove_file, "copy/", recursive=True)
    assert paths(store) == ["e/", "e/f", "folder/", "folder/g", "new/", "new/f", "to_d"]


def test_a_slash_behind_a_link_does_not_remove_what_it_leads_to(call, store):
    put(store, "d/f")
    store.symlink("d", "to_d")

    for remove in (
        lambda: call(store.remove_file, "to_d/", recursive=True),
        lambda: call(store.rmdir, "to_d/"),
        lambda: call(store.move, "to_d/", "other"),
    ):
        with pytest.raises(NotADirectoryError):
            remove()
    assert paths(store) == ["d/", "d/f", "to_d"]


def test_a_slash_at_the_end_of_a_link_says_the_same(call, store):
    put(store, "f")
    store.symlink("f/", "to_f")
    store.symlink("new/", "to_new")

    assert call(store.exists, "to_f") is False
    with pytest.raises(NotADirectoryError):
        call(store.stat, "to_f")
    with pytest.raises(NotADirectoryError):
        put(store, "to_new")
    assert paths(store) == ["f", "to_f", "to_new"]


def test_a_pattern_that_ends_in_a_slash_matches_directories(call, store):
    put(store, "a/b/f")
    put(store, "f")
    store.symlink("a", "to_a")
    store.symlink("f", "to_f")

    assert sorted(entry.path for entry in store.glob("*/")) == ["a", "to_a"]
    assert sorted(entry.path for entry in store.glob("**/")) == ["a", "a/b", "to_a"]
    assert list(store.glob("f/")) == []


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("number", "last", "operation"),
    [
        ("ENOENT", "none", lambda store, call: call(store.stat, "w/none")),
        ("ENOENT", "none", lambda store, call: call(store.remove_file, "w/none")),
        ("ENOENT", "none", lambda store, call: call(store.move, "w/none", "w/new")),
        ("ENOENT", "none", lambda store, call: call(store.copy_files, ["w/none"], "w/new")),
        ("ENOENT", "none", lambda store, call: call(store.mkdir, "w/none/x", parents=False)),
        ("ENOENT", "none", lambda store, call: store.open("w/none")),
        ("ENOENT", "none", lambda store, call: list(store.read_file("w/none"))),
        ("ENOENT", "no-such-file", lambda store, call: call(store.put_file, "no-such-file", "w/new")),
        ("ENOENT", "no-such-folder", lambda store, call: call(store.put_directory, "no-such-folder", "w/new")),
        ("EEXIST", "d", lambda store, call: call(store.mkdir, "w/d")),
        ("EEXIST", "f", lambda store, call: store.open("w/d/f", "x")),
        ("EISDIR", "d", lambda store, call: store.open("w/d", "rb")),
        ("EISDIR", "d", lambda store, call: call(store.remove_file, "w/d")),
        ("ENOTDIR", "f", lambda store, call: call(store.listdir, "w/d/f/x")),
        ("ENOTDIR", "f", lambda store, call: call(store.put_file, io.BytesIO(), "w/d/f/x")),
        ("ENOTEMPTY", "d", lambda store, call: call(store.rmdir, "w/d")),
        ("ELOOP", "loop", lambda store, call: call(store.stat, "w/loop")),
        ("ENOENT", "no-folder/file", lambda store, call: call(store.get_file, "w/d/f", "no-folder/file")),
        ("ENOSPC", "/dev/full", lambda store, call: call(store.get_file, "w/d/f", "/dev/full")),
    ],
)
def test_an_error_of_a_path_has_errno_and_filename(call, store, number, last, operation):
    """
    How the standard library tells that a directory is not empty, and what it was that is missing.
    """
    put(store, "w/d/f", b"not empty")
    store.symlink("loop", "w/loop")

    with pytest.raises(OSError) as raised:
        operation(store, call)

    assert isinstance(raised.value, errors.Error)
    assert raised.value.errno == getattr(errno, number)
    assert raised.value.strerror == os.strerror(getattr(errno, number))
    assert raised.value.filename.endswith(last)
