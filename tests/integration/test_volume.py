"""Volume, both forms: what goes in comes out, paths, errors, and what a transaction sees of its own changes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest

import pgstore
from pgstore import Volume, errors
from pgstore.types import FileEntryType

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def volume(client, store_name):
    return Volume.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def elsewhere(client_elsewhere, volume, store_name):
    volume.hydrate()
    return Volume.from_name(store_name, client=client_elsewhere)


def put(volume, path, data=b""):
    volume.put_file(io.BytesIO(data), path)


def content(volume, path):
    return b"".join(volume.read_file(path))


def paths(volume, path="/"):
    return [entry.path for entry in volume.listdir(path, recursive=True) if entry.type == FileEntryType.FILE]


def tree(folder, files):
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


# ------------------------------------------------------------------------------------------------------- contents


SIZES = [
    0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1,
    9 * MIB + 17,
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_bytes_come_back_from_paths_and_file_objects(call, volume, tmp_path, size):
    """
    Sizes around every boundary: none, in the row, one chunk, a batch of chunks.
    """
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)

    call(volume.put_file, source, "from_path")
    call(volume.put_file, io.BytesIO(data), "from_object")

    for name in ("from_path", "from_object"):
        assert b"".join(call.iterate(volume.read_file(name))) == data
        call(volume.get_file, name, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == data
        target = io.BytesIO()
        call(volume.get_file, name, target)
        assert target.getvalue() == data
        (entry,) = call(volume.listdir, name)
        assert (entry.path, entry.type, entry.size) == (name, FileEntryType.FILE, size)


def test_a_file_above_64_mib_has_larger_chunks(volume, database, tmp_path):
    source = tmp_path / "source"
    with source.open("wb") as file:
        for _ in range(65):
            file.write(os.urandom(MIB))
        file.write(b"end")

    volume.put_file(source, "large")

    volume.get_file("large", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert chunk_sizes(database, volume) == [MIB]


def chunk_sizes(database, volume):
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT chunk_size_bytes FROM pgstore.blob WHERE store_id = %s", [int(volume.object_id[3:])]
        )
        return [row[0] for row in rows]


@pytest.mark.parametrize(
    "data",
    [
        bytes(5 * MIB),
        bytes(5 * MIB) + b"x",
        b"x" + bytes(9 * MIB),
        bytes(300 * KIB) + b"y" * 300 * KIB + bytes(10 * MIB) + b"z" + bytes(100),
        b"x" * 256 * KIB + bytes(256 * KIB),
    ],
    ids=["only", "before", "after", "between", "last chunk"],
)
def test_holes_read_as_zeros_and_take_no_room(call, volume, database, tmp_path, data):
    call(volume.put_file, io.BytesIO(data), "holes")

    assert b"".join(call.iterate(volume.read_file("holes"))) == data
    call(volume.get_file, "holes", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data
    with psycopg.connect(database) as connection:
        ((stored,),) = connection.execute(
            "SELECT coalesce(sum(octet_length(data)), 0) FROM pgstore.chunk WHERE store_id = %s",
            [int(volume.object_id[3:])],
        ).fetchall()
    assert stored <= 4 * 256 * KIB


def test_pieces_of_a_read_are_at_most_a_few_mib(volume):
    put(volume, "f", os.urandom(9 * MIB))

    assert max(map(len, volume.read_file("f"))) <= 4 * MIB


def test_a_file_object_is_read_from_where_it_stands(call, volume):
    file = io.BytesIO(b"head body")
    file.seek(5)

    call(volume.put_file, file, "f")

    assert content(volume, "f") == b"body"
    assert not file.closed


def test_short_reads_are_not_the_end(volume):
    class Dripping(io.RawIOBase):
        def __init__(self, data):
            self._data = data

        def readable(self):
            return True

        def read(self, size=-1):
            part, self._data = self._data[: min(size, 1000)], self._data[min(size, 1000) :]
            return part

    data = os.urandom(300 * KIB)
    volume.put_file(Dripping(data), "f")

    assert content(volume, "f") == data


def test_a_text_file_is_refused(call, volume):
    with pytest.raises(errors.InvalidError, match="binary mode"):
        call(volume.put_file, io.StringIO("text"), "f")
    assert not volume.exists("f")


@pytest.mark.parametrize("promised", [10, 100 * KIB, 6 * MIB])
@pytest.mark.parametrize("given", [0, 10, 100 * KIB, 9 * MIB])
def test_a_file_whose_size_changes_is_stored_as_read(volume, promised, given):
    class Changing(io.BytesIO):
        def seek(self, offset, whence=0):
            return promised if whence == os.SEEK_END else super().seek(offset, whence)

    data = os.urandom(given)
    volume.put_file(Changing(data), "f")

    assert content(volume, "f") == data
    assert volume.listdir("f")[0].size == given


def test_a_read_stays_with_the_file_it_began(call, volume, elsewhere):
    data = os.urandom(9 * MIB)
    put(volume, "f", data)

    pieces = volume.read_file("f")
    first = call.iterate(_Once(pieces))
    put(elsewhere, "f", b"new")
    rest = call.iterate(pieces)

    assert b"".join(first + rest) == data
    assert content(volume, "f") == b"new"


class _Once:
    """The first value of an iterator, in either form."""

    def __init__(self, iterator):
        self._iterator = iterator
        self._done = False

    def __iter__(self):
        return self

    def __aiter__(self):
        return self

    def __next__(self):
        if self._done:
            raise StopIteration
        self._done = True
        return next(self._iterator)

    async def __anext__(self):
        if self._done:
            raise StopAsyncIteration
        self._done = True
        return await anext(self._iterator)


# ---------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("path", ["a/b", "/a/b", "//a///b", "./a/./b", "a/b/.", "/./a/b"])
def test_ways_to_write_a_path_lead_to_one_file(call, volume, path):
    put(volume, "a/b", b"x")

    assert call(volume.exists, path)
    assert b"".join(call.iterate(volume.read_file(path))) == b"x"
    assert [entry.path for entry in call(volume.listdir, path)] == ["a/b"]


@pytest.mark.parametrize("path", ["..", "a/../b", "a\0b", "x" * 256, "é" * 128, "a/" + "x" * 256, "\ud800", 7, None])
def test_impossible_paths_are_refused(call, volume, path, tmp_path):
    for operation, args in (
        (volume.exists, (path,)), (volume.listdir, (path,)), (volume.remove_file, (path,)),
        (volume.get_file, (path, tmp_path / "x")), (volume.put_file, (io.BytesIO(b""), path)),
        (volume.put_directory, (tmp_path, path)),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidError):
            call(operation, *args)
    with pytest.raises(errors.InvalidError):
        volume.read_file(path)


@pytest.mark.parametrize("path", ["", "/", ".", "a/", "a/b/"])
def test_a_file_needs_a_name(call, volume, path):
    with pytest.raises(errors.InvalidError, match="names a directory"):
        call(volume.put_file, io.BytesIO(b""), path)


NAMES = [
    "with space", " ", "  leading", "new\nline", "tab\t", "emoji 🎉", "ünïcödé", "e\u0301", "\udcff\udcfe", "%41", "\\", "'; --",
    "*x",
    "x" * 255, "é" * 127, ".hidden", "...", "-rf", "\x01", "~",
]  # fmt: skip


def test_names_are_bytes_and_come_back_as_they_were(call, volume, tmp_path):
    """
    Names are no text: nothing is normalised, and bytes that are no UTF-8 come back as `os.fsdecode` gives them.
    """
    folder = tree(tmp_path / "in", {f"d/{name}": name.encode(errors="surrogateescape") for name in NAMES})

    call(volume.put_directory, folder, "all")
    for name in NAMES:
        call(volume.put_file, folder / "d" / name, f"single/{name}")

    for place in ("all/d", "single"):
        entries = call(volume.listdir, place)
        assert [entry.path for entry in entries] == [f"{place}/{name}" for name in sorted(NAMES, key=os.fsencode)]
        for name in NAMES:
            data = b"".join(call.iterate(volume.read_file(f"{place}/{name}")))
            assert data == name.encode(errors="surrogateescape")


# -------------------------------------------------------------------------------------------------- files, uploads


def test_permissions_and_time_are_those_of_the_local_file(volume, database, tmp_path):
    source = tmp_path / "f"
    source.write_bytes(b"x")
    source.chmod(0o4751)
    os.utime(source, ns=(1, 1_234_567_890_123_456_789))

    volume.put_file(source, "f")
    volume.put_directory(tmp_path, "d")
    put(volume, "object", b"")

    assert volume.listdir("f")[0].mtime == 1_234_567_890
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT mode, mtime_ns FROM pgstore.inode WHERE store_id = %s AND kind = 'f' ORDER BY ino",
            [int(volume.object_id[3:])],
        ).fetchall()
    assert sorted(rows)[1:] == [(0o751, 1_234_567_890_123_456_789)] * 2
    assert sorted(rows)[0][0] == 0o644


def test_a_file_is_replaced_whole(call, volume):
    for data in (b"first", os.urandom(300 * KIB), b"", b"last"):
        call(volume.put_file, io.BytesIO(data), "d/f")
        assert content(volume, "d/f") == data
    assert paths(volume) == ["d/f"]


def test_missing_and_misplaced_files(call, volume, tmp_path):
    put(volume, "d/f", b"x")
    local = tree(tmp_path, {"file": b"x", "folder/x": b""})

    with pytest.raises(FileNotFoundError, match="nope"):
        call.iterate(volume.read_file("nope"))
    with pytest.raises(errors.FileMissing):
        call(volume.get_file, "d/nope", tmp_path / "target")
    with pytest.raises(errors.FileMissing):
        call(volume.listdir, "nope")
    with pytest.raises(errors.FileMissing):
        call(volume.remove_file, "nope")
    with pytest.raises(errors.FileMissing, match="missing"):
        call(volume.put_file, local / "missing", "x")
    with pytest.raises(errors.FileMissing, match="missing"):
        call(volume.put_directory, local / "missing", "x")
    with pytest.raises(IsADirectoryError):
        call.iterate(volume.read_file("d"))
    with pytest.raises(errors.IsADirectory):
        call(volume.get_file, "d", tmp_path / "target")
    with pytest.raises(errors.IsADirectory):
        call(volume.put_file, local / "file", "d")
    with pytest.raises(errors.IsADirectory):
        call(volume.put_file, local / "folder", "x")
    with pytest.raises(NotADirectoryError):
        call(volume.put_file, local / "file", "d/f/x")
    with pytest.raises(errors.NotADirectory):
        call(volume.put_directory, local / "folder", "d/f")
    with pytest.raises(errors.NotADirectory):
        call(volume.put_directory, local / "folder", "d/f/deep")
    with pytest.raises(errors.NotADirectory):
        call(volume.put_directory, local / "file", "x")
    with pytest.raises(errors.NotADirectory):
        call(volume.listdir, "d/f/x")
    assert not call(volume.exists, "d/f/x")
    assert paths(volume) == ["d/f"]
    assert not (tmp_path / "target").exists()


def test_a_folder_is_uploaded_without_what_is_no_file(call, volume, tmp_path):
    folder = tree(tmp_path / "in", {"a": b"a", "d/b": b"b", "d/e/c": os.urandom(MIB)})
    (folder / "empty" / "deeper").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "a")
    (folder / "d" / "round").symlink_to(folder)
    (folder / "broken").symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    os.mkfifo(folder / "fifo")

    call(volume.put_directory, folder, "up")
    call(volume.put_directory, str(folder), "/")

    files = ["a", "d/b", "d/e/c", "link"]
    assert paths(volume) == sorted([*files, *(f"up/{name}" for name in files)], key=lambda path: path.split("/"))
    assert not volume.exists("up/empty")
    assert content(volume, "up/link") == b"a"
    assert content(volume, "d/e/c") == (folder / "d/e/c").read_bytes()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["a.csv", "d/b.csv", "d/e/c.csv"]),
        ("d/*.csv", ["d/b.csv", "d/e/c.csv"]),
        ("b.*", ["d/b.csv"]),
        ("[ab].csv", ["a.csv", "d/b.csv"]),
        ("*.CSV", []),
        ("nothing", []),
        (None, ["a.csv", "a.txt", "d/b.csv", "d/e/c.csv"]),
    ],
)
def test_a_pattern_chooses_by_name_or_path(call, volume, tmp_path, pattern, expected):
    folder = tree(tmp_path / "in", {"a.csv": b"", "a.txt": b"", "d/b.csv": b"", "d/e/c.csv": b""})

    call(volume.put_directory, folder, "/", pattern=pattern)

    assert paths(volume) == expected


def test_an_upload_over_files_replaces_them_and_keeps_others(call, volume, tmp_path):
    put(volume, "d/old", b"old")
    put(volume, "d/x", b"before")

    call(volume.put_directory, tree(tmp_path / "in", {"x": b"after", "new/y": b"y"}), "d")

    assert paths(volume) == ["d/new/y", "d/old", "d/x"]
    assert content(volume, "d/x") == b"after"


@pytest.mark.parametrize("obstacle", ["b", "b/c/d"])
def test_a_folder_that_does_not_fit_changes_nothing(call, volume, tmp_path, obstacle):
    """
    A file where a directory stands, or the other way round, is found before anything is seen.
    """
    put(volume, f"t/{obstacle}/file" if obstacle == "b" else "t/b", b"there")
    before = paths(volume)
    folder = tree(tmp_path / "in", {"a": b"a", "b" if obstacle == "b" else "b/c/d": b"b", "z": b"z"})

    with pytest.raises((errors.IsADirectory, errors.NotADirectory)):
        call(volume.put_directory, folder, "t")

    assert paths(volume) == before


def test_an_unreadable_folder_or_file_fails_the_whole_upload(call, volume, tmp_path, monkeypatch):
    folder = tree(tmp_path / "in", {"a": b"a", "locked/b": b"b", "z": b"z"})
    real_scandir, real_open = os.scandir, os.open
    if os.geteuid() == 0:  # to whom everything is readable

        def scandir(path):
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", path)
            return real_scandir(path)

        monkeypatch.setattr(os, "scandir", scandir)
    else:
        (folder / "locked").chmod(0)

    with pytest.raises(PermissionError, match="locked"):
        call(volume.put_directory, folder, "up")
    assert paths(volume) == []

    if os.geteuid() == 0:
        monkeypatch.setattr(os, "scandir", real_scandir)

        def open_(path, *args, **kwargs):
            if str(path).endswith("/z"):
                raise PermissionError(13, "Permission denied", path)
            return real_open(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", open_)
    else:
        (folder / "locked").chmod(0o755)
        (folder / "z").chmod(0)
    with pytest.raises(errors.FileUnreadable, match="/z"):
        call(volume.put_directory, folder, "up")
    assert paths(volume) == []


def test_many_files_go_up_in_batches(volume, tmp_path):
    files = {f"d{number % 7}/f{number}": os.urandom(number % 90) for number in range(1600)}
    folder = tree(tmp_path / "in", files)

    volume.put_directory(folder, "up")

    assert {path.removeprefix("up/") for path in paths(volume)} == set(files)
    for path in list(files)[::97]:
        assert content(volume, f"up/{path}") == files[path]


def history(volume):
    """What each version had, apart from the times and the numbers of inodes."""
    return [facts_at(volume.at(version.version)) for version in volume.versions()]


def facts_at(then):
    facts = {}
    for entry in then.listdir("/", recursive=True):
        stat = then.stat(entry.path)
        data = content(then, entry.path) if stat.type == FileEntryType.FILE else None
        owner, attributes = (stat.uid, stat.gid), then.listxattr(entry.path)
        facts[entry.path] = (stat.type, stat.size, stat.mode, owner, stat.link_count, stat.version, attributes, data)
    return facts


@pytest.mark.parametrize("size", [0, 4 * KIB, 64 * KIB])
def test_a_small_file_put_in_one_call_is_as_one_put_by_a_transaction(call, client, size):
    """
    Two ways write one thing: a function of the database knows what the merge of a transaction's changes comes to.
    """
    data = os.urandom(size)

    with Volume.ephemeral(client) as one, Volume.ephemeral(client) as other:
        for volume in one, other:
            volume.mkdir("a", mode=0o700)
            volume.chown("a", 5, 6)
            volume.setxattr("a", "user.x", b"y")
            for number in range(3):
                for path in ("top", "a/file"):
                    file = io.BytesIO(data[: size - number])
                    if volume is one:
                        call(volume.put_file, file, path, mode=0o640 + number)
                    else:
                        with client.transaction():
                            volume.put_file(file, path, mode=0o640 + number)

        assert len(one.versions()) == 9
        assert history(one) == history(other)


def test_progress_is_shown_where_asked_for(volume, tmp_path, capsys, monkeypatch):
    folder = tree(tmp_path / "in", {"a": b"a" * 1000, "b": b"b"})
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    volume.put_file(folder / "a", "quiet")
    assert capsys.readouterr() == ("", "")
    volume.put_file(folder / "a", "shown.txt", progress=True)
    volume.put_directory(folder, "shown_too", progress=True)

    printed, shown = capsys.readouterr()
    assert printed == ""
    assert "shown.txt" in shown
    assert "2 files" in shown


# ------------------------------------------------------------------------------------------------------- downloads


def test_a_download_replaces_a_file_at_once_and_keeps_its_permissions(call, volume, tmp_path):
    put(volume, "f", b"new")
    target = tmp_path / "f"
    target.write_bytes(b"old")
    target.chmod(0o600)

    call(volume.get_file, "f", str(target))

    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_download_leaves_what_was_there(call, volume, tmp_path, monkeypatch):
    put(volume, "f", os.urandom(9 * MIB))
    target = tmp_path / "f"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", _refuse)

    with pytest.raises(errors.Error, match="no space left"):
        call(volume.get_file, "f", target)

    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def _refuse(*args):
    raise OSError(28, "No space left on device")


def test_a_download_goes_where_links_and_devices_lead(call, volume, tmp_path):
    put(volume, "f", b"data")
    (tmp_path / "link").symlink_to(tmp_path / "real")

    call(volume.get_file, "f", tmp_path / "link")
    call(volume.get_file, "f", "/dev/null")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"data"
    assert not Path("/dev/null").is_file()


def test_downloads_to_impossible_places(call, volume, tmp_path):
    put(volume, "f", b"data")
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(IsADirectoryError):
        call(volume.get_file, "f", tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        call(volume.get_file, "f", tmp_path / "missing" / "f")
    with pytest.raises(NotADirectoryError):
        call(volume.get_file, "f", tmp_path / "file" / "f")
    with pytest.raises(errors.InvalidError):
        call(volume.get_file, "f", 7)
    with pytest.raises(errors.InvalidError, match="binary mode"):
        call(volume.get_file, "f", io.StringIO())


def test_a_write_protected_file_is_not_replaced(call, volume, tmp_path, monkeypatch):
    """
    Replacing it would need no right on the file, only on its folder; who protected it expects to be asked.
    """
    put(volume, "f", b"new")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything

    with pytest.raises(errors.FileUnreadable, match="may not be written"):
        call(volume.get_file, "f", target)

    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


# ------------------------------------------------------------------------------------------------------- listings


def test_listings(call, volume):
    for path in ("b", "a/x", "a/y/z", "c/deep/er"):
        put(volume, path, b"123")

    flat = call(volume.listdir, "/")
    assert [(entry.path, entry.type.name, entry.size) for entry in flat] == [
        ("a", "DIRECTORY", 0), ("b", "FILE", 3), ("c", "DIRECTORY", 0),
    ]  # fmt: skip
    assert [entry.path for entry in call(volume.listdir, "a")] == ["a/x", "a/y"]
    everything = ["a", "a/x", "a/y", "a/y/z", "b", "c", "c/deep", "c/deep/er"]
    assert [entry.path for entry in call(volume.listdir, "", recursive=True)] == everything
    assert [entry.path for entry in call.iterate(volume.iterdir("/a"))] == ["a/x", "a/y"]
    assert sorted(entry.path for entry in call.iterate(volume.iterdir("/", recursive=True))) == everything
    assert [entry.path for entry in call.iterate(volume.iterdir("b"))] == ["b"]
    with pytest.raises(errors.InvalidError):
        call(volume.listdir, "a/*")


def test_an_empty_volume_lists_nothing(call, volume):
    assert call(volume.listdir, "/") == []
    assert call(volume.listdir, "/", recursive=True) == []
    assert call(volume.exists, "/")


def test_listings_longer_than_a_page_are_complete(call, volume, tmp_path):
    files = {f"{number % 3}/{number:05}": b"" for number in range(4000)} | {f"{d}/x/y": b"" for d in range(50)}
    volume.put_directory(tree(tmp_path / "in", files), "up")

    assert paths(volume) == sorted((f"up/{path}" for path in files), key=lambda path: path.split("/"))
    assert len(call.iterate(volume.iterdir("up/0"))) == 1335
    found = [entry.path for entry in call.iterate(volume.iterdir("up", recursive=True))]
    assert len(found) == len(set(found)) == 4000 + 50 * 3
    seen: set[str] = set()
    for path in found:
        assert os.path.dirname(path) in seen | {"up"}
        seen.add(path)


# ------------------------------------------------------------------------------------------------------- removing


def test_removing(call, volume):
    for path in ("a/x", "a/y/z", "b"):
        put(volume, path, b"1")

    with pytest.raises(IsADirectoryError, match="recursive"):
        call(volume.remove_file, "a")
    with pytest.raises(errors.InvalidError, match="root"):
        call(volume.remove_file, "/", recursive=True)
    call(volume.remove_file, "b")
    assert paths(volume) == ["a/x", "a/y/z"]
    call(volume.remove_file, "a/y", True)
    assert paths(volume) == ["a/x"]
    call(volume.remove_file, "a", recursive=True)
    assert volume.listdir("/") == []
    put(volume, "a", b"a file now")
    assert content(volume, "a") == b"a file now"


def test_what_was_replaced_or_removed_stays_in_its_versions(volume, database):
    put(volume, "d/f", b"one")
    put(volume, "d/f", b"two")
    volume.remove_file("d", recursive=True)

    with psycopg.connect(database) as connection:
        store_id = int(volume.object_id[3:])
        head = connection.execute("SELECT head FROM pgstore.file_system WHERE store_id = %s", [store_id]).fetchone()
        found = [
            connection.execute(
                """
                SELECT i.inline_data FROM pgstore.dirent d JOIN pgstore.inode i USING (store_id, ino)
                 WHERE d.store_id = %s AND d.name = 'f' AND d.version_from <= %s AND d.version_to > %s
                   AND i.version_from <= %s AND i.version_to > %s
                """,
                [store_id, *[version] * 4],
            ).fetchall()
            for version in (1, 2, 3)
        ]
    assert head == (3,)
    assert found == [[(b"one",)], [(b"two",)], []]


# ---------------------------------------------------------------------------------------------------- the store


def test_a_volume_that_is_gone_says_so(call, volume, elsewhere, tmp_path):
    folder = tree(tmp_path / "in", {"a": b"a"})
    volume.hydrate()
    elsewhere.hydrate()
    Volume.objects.delete(volume.name, client=elsewhere._runner)

    for operation, args in (
        (volume.listdir, ("/",)), (volume.listdir, ("x",)), (volume.exists, ("x",)), (volume.remove_file, ("x",)),
        (volume.get_file, ("x", tmp_path / "y")), (volume.put_file, (io.BytesIO(b"x"), "x")),
        (volume.put_file, (io.BytesIO(bytes(MIB)), "x")), (volume.put_directory, (folder, "x")),
        (volume.versions, ()), (volume.restore, (0,)), (volume.at(0).listdir, ("/",)), (volume.reload, ()), (volume.commit, ()),
    ):  # fmt: skip
        with pytest.raises(pgstore.NotFoundError):
            call(operation, *args)
    with pytest.raises(pgstore.NotFoundError):
        call.iterate(volume.read_file("x"))


def test_info_reload_commit(call, volume):
    info = call(volume.info)
    assert info.name == volume.name
    call(volume.reload)
    call(volume.commit)
    assert volume.object_id.startswith("vo-")


def test_an_ephemeral_volume_goes_with_all_its_rows(call, client, database):
    with Volume.ephemeral(client=client) as volume:
        put(volume, "d/large", os.urandom(MIB))
        put(volume, "d/small", b"x")
        volume.remove_file("d/large")
        store_id = int(volume.object_id[3:])

    with psycopg.connect(database) as connection:
        for table in ("store", "file_system", "volume_version", "inode", "dirent", "blob", "extent", "chunk"):
            column = "id" if table == "store" else "store_id"
            query = f"SELECT count(*) FROM pgstore.{table} WHERE {column} = %s"
            assert connection.execute(query, [store_id]).fetchone() == (0,), table


# ------------------------------------------------------------------------------------------------------ transactions


class Boom(Exception):
    pass


def test_a_transaction_sees_its_own_changes_and_nobody_else_does(client, volume, elsewhere, tmp_path):
    put(volume, "d/old", b"old")
    put(volume, "d/gone", b"gone")
    put(volume, "e/x", b"x")
    folder = tree(tmp_path / "in", {"a": b"a", "sub/b": b"b"})

    with client.transaction():
        put(volume, "d/old", b"newer")
        put(volume, "d/new/deep", b"deep")
        volume.remove_file("d/gone")
        volume.remove_file("e", recursive=True)
        volume.put_directory(folder, "up")
        volume.put_directory(folder, "d")
        put(volume, "up/sub/b", b"again")

        expected = ["d/a", "d/new/deep", "d/old", "d/sub/b", "up/a", "up/sub/b"]
        assert paths(volume) == expected
        assert [entry.path for entry in volume.listdir("d")] == ["d/a", "d/new", "d/old", "d/sub"]
        assert sorted(e.path for e in volume.iterdir("/", recursive=True) if e.type == FileEntryType.FILE) == expected
        assert content(volume, "d/old") == b"newer"
        assert content(volume, "up/sub/b") == b"again"
        assert not volume.exists("d/gone")
        assert not volume.exists("e/x")
        with pytest.raises(FileNotFoundError):
            content(volume, "d/gone")
        volume.get_file("d/new/deep", tmp_path / "deep")
        assert (tmp_path / "deep").read_bytes() == b"deep"
        assert paths(elsewhere) == ["d/gone", "d/old", "e/x"]

    assert paths(elsewhere) == expected
    assert content(elsewhere, "up/sub/b") == b"again"
    assert content(elsewhere, "d/old") == b"newer"


def test_the_same_in_an_asynchronous_transaction(client, volume, store_name):
    import asyncio

    async def scenario():
        async with client.transaction():
            await volume.put_file.aio(io.BytesIO(b"1"), "a/b")
            await volume.put_file.aio(io.BytesIO(os.urandom(MIB)), "a/c")
            await volume.remove_file.aio("a/c")
            assert [entry.path async for entry in volume.iterdir("a")] == ["a/b"]
            try:
                async with client.transaction():
                    await volume.put_file.aio(io.BytesIO(b"2"), "a/b")
                    assert [piece async for piece in volume.read_file("a/b")] == [b"2"]
                    raise Boom
            except Boom:
                pass
            assert [piece async for piece in volume.read_file("a/b")] == [b"1"]
        await client.aclose()

    volume.hydrate()
    asyncio.run(scenario())
    assert paths(volume) == ["a/b"]


def test_a_rolled_back_transaction_leaves_nothing(client, volume, tmp_path, database):
    put(volume, "d/old", b"old")
    folder = tree(tmp_path / "in", {"a": b"a", "sub/b": os.urandom(MIB)})
    before = row_counts(database, volume)

    with pytest.raises(Boom), client.transaction():
        volume.put_directory(folder, "up")
        volume.put_directory(folder, "d")
        volume.remove_file("d/old")
        raise Boom

    assert paths(volume) == ["d/old"]
    assert row_counts(database, volume) == before


def row_counts(database, volume):
    with psycopg.connect(database) as connection:
        return {
            table: connection.execute(
                f"SELECT count(*) FROM pgstore.{table} WHERE store_id = %s", [int(volume.object_id[3:])]
            ).fetchone()
            for table in ("inode", "dirent", "blob", "extent", "chunk", "volume_version")
        }


def test_a_savepoint_undoes_its_changes_alone(client, volume, tmp_path):
    folder = tree(tmp_path / "in", {"a": b"a", "sub/b": b"b"})
    put(volume, "kept/x", b"x")

    with client.transaction():
        put(volume, "one/f", b"1")
        with pytest.raises(Boom), client.transaction():
            put(volume, "one/f", b"2")
            put(volume, "one/g", b"2")
            volume.remove_file("kept", recursive=True)
            volume.put_directory(folder, "two")
            volume.remove_file("one", recursive=True)
            assert paths(volume) == ["two/a", "two/sub/b"]
            raise Boom
        assert paths(volume) == ["kept/x", "one/f"]
        assert content(volume, "one/f") == b"1"
        with client.transaction():
            put(volume, "one/h", b"3")
            volume.remove_file("kept/x")
        put(volume, "two/own", b"4")

    assert paths(volume) == ["one/f", "one/h", "two/own"]
    assert [entry.path for entry in volume.listdir("kept")] == []


def test_a_failed_operation_undoes_itself_and_the_transaction_goes_on(client, volume, tmp_path):
    folder = tree(tmp_path / "in", {"a": b"a", "b/c": b"c"})
    put(volume, "t/b", b"a file")

    with client.transaction():
        put(volume, "before", b"1")
        with pytest.raises(errors.NotADirectory):
            volume.put_directory(folder, "t")
        put(volume, "after", b"2")
        assert not volume.exists("t/a")

    assert paths(volume) == ["after", "before", "t/b"]


def test_a_directory_replaced_by_a_file_and_a_file_by_a_directory(client, volume):
    """
    Within a transaction what was removed makes room for something of another kind.
    """
    put(volume, "d/f", b"1")
    put(volume, "f", b"1")

    with client.transaction():
        volume.remove_file("d", recursive=True)
        put(volume, "d", b"now a file")
        volume.remove_file("f")
        put(volume, "f/now/a/directory", b"2")
    assert paths(volume) == ["d", "f/now/a/directory"]

    with client.transaction():
        put(volume, "x/y", b"1")
        volume.remove_file("x", recursive=True)
        put(volume, "x", b"2")
        volume.remove_file("x")
        put(volume, "x/z", b"3")
    assert paths(volume) == ["d", "f/now/a/directory", "x/z"]


def test_changes_inside_a_directory_removed_later_go_with_it(client, volume, database):
    put(volume, "a/b/c", b"1")

    with client.transaction():
        put(volume, "a/b/d/e", b"2")
        put(volume, "a/f", b"3")
        put(volume, "a/b/d/g", b"4")
        volume.remove_file("a", recursive=True)
        assert paths(volume) == []
        put(volume, "a/new", b"5")

    assert paths(volume) == ["a/new"]
    assert_whole(database, volume)


def test_one_transaction_is_one_version(client, volume, database):
    with client.transaction():
        put(volume, "a", b"1")
        put(volume, "b/c", b"2")
        put(volume, "a", b"3")

    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT version FROM pgstore.volume_version WHERE store_id = %s", [int(volume.object_id[3:])]
        ).fetchall()
    assert rows == [(1,)]


def test_many_changes_are_written_early_and_still_commit_together(client, volume, elsewhere, tmp_path, monkeypatch):
    """
    The change set is bounded: above its limit it is written before the commit, and can still be undone.
    """
    monkeypatch.setattr("pgstore.fs.commit.change_set.CHANGES_MAX", 300)
    put(volume, "x/there", b"")
    folder = tree(tmp_path / "in", {f"{number:04}": b"1" for number in range(1400)} | {"s/t/u": b"2"})

    with client.transaction():
        put(volume, "x/0001", b"before")
        with pytest.raises(Boom), client.transaction():
            volume.put_directory(folder, "x")
            assert len(paths(volume)) == 1402
            volume.remove_file("x/s", recursive=True)
            volume.put_directory(folder, "x")
            assert len(paths(volume)) == 1402
            raise Boom
        assert paths(volume) == ["x/0001", "x/there"]
        volume.put_directory(folder, "x")
        volume.remove_file("x/0000")
        put(volume, "x/s/t/v", b"3")
        assert paths(elsewhere) == ["x/there"]

    expected = [f"x/{number:04}" for number in range(1, 1400)] + ["x/s/t/u", "x/s/t/v", "x/there"]
    assert paths(elsewhere) == expected
    assert content(elsewhere, "x/0001") == b"1"
    assert_whole(elsewhere._runner.settings.url, elsewhere)


def test_a_joined_transaction_is_the_callers(client, volume, elsewhere, database):
    """
    The caller commits, so changes are written at the end of each operation; a rollback of the caller's undoes them.
    """
    put(volume, "d/old", b"old")
    with psycopg.connect(database) as connection:
        with client.transaction(connection=connection):
            put(volume, "d/new", b"1")
            put(volume, "e/f", b"2")
            put(volume, "e/f", b"3")
            put(volume, "e/g", b"4")
            volume.remove_file("d/old")
            assert paths(volume) == ["d/new", "e/f", "e/g"]
        connection.execute("SELECT 1")
        assert paths(elsewhere) == ["d/old"]
        connection.rollback()
        assert paths(elsewhere) == ["d/old"]

        with client.transaction(connection=connection):
            put(volume, "e/f", b"5")
            with pytest.raises(Boom), client.transaction():
                put(volume, "e/f", b"6")
                volume.remove_file("d", recursive=True)
                raise Boom
            put(volume, "e/g", b"7")
            volume.remove_file("e/g")
        with client.transaction(connection=connection):
            put(volume, "e/f", content(volume, "e/f") + b"!")
        connection.commit()

    assert paths(elsewhere) == ["d/old", "e/f"]
    assert content(elsewhere, "e/f") == b"5!"
    assert_whole(database, volume)


def assert_whole(database, volume):
    """Live names and live inodes belong together: each inode but the root has one name, in a directory that is live."""
    live = "version_to = 9223372036854775807"
    with psycopg.connect(database) as connection:
        for query in (
            f"""
            SELECT d.* FROM pgstore.dirent d
             WHERE d.store_id = %s AND d.{live}
               AND (NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = d.store_id AND i.ino = d.ino AND i.{live}
                                   AND i.kind = d.kind)
                 OR NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = d.store_id AND i.ino = d.parent AND i.{live}
                                   AND i.kind = 'd'))
            """,
            f"""
            SELECT i.ino, i.kind FROM pgstore.inode i
             WHERE i.store_id = %s AND i.{live} AND i.ino <> 1
               AND 1 <> (SELECT count(*) FROM pgstore.dirent d
                          WHERE d.store_id = i.store_id AND d.ino = i.ino AND d.{live})
            """,
        ):
            assert connection.execute(query, [int(volume.object_id[3:])]).fetchall() == []


# -------------------------------------------------------------------------------------------------- rights, memory


def test_a_reader_is_refused_before_anything_is_written(client, volume, own_database, tmp_path):
    url = own_database
    writer = pgstore.Client(url)
    mine = Volume.from_name("v", create_if_missing=True, client=writer)
    put(mine, "d/f", b"data")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS volume_reader")
        connection.execute("CREATE ROLE volume_reader LOGIN IN ROLE pgstore_reader")
    reader = pgstore.Client(url.replace("postgres@", "volume_reader@"))
    theirs = Volume.from_name("v", client=reader)
    folder = tree(tmp_path / "in", {"a": b"a"})
    try:
        assert content(theirs, "d/f") == b"data"
        for operation, args in (
            (theirs.put_file, (io.BytesIO(b"x"), "x")), (theirs.put_directory, (folder, "x")),
            (theirs.remove_file, ("d/f",)), (theirs.put_file, (io.BytesIO(os.urandom(MIB)), "x")),
        ):  # fmt: skip
            with pytest.raises(errors.AccessDenied):
                operation(*args)
        assert paths(theirs) == ["d/f"]
    finally:
        reader.close()
        writer.close()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP ROLE volume_reader")


MEASURE = r"""
    import re, sys
    import pgstore
    volume = pgstore.Volume.from_name(sys.argv[2], create_if_missing=True, client=pgstore.Client(sys.argv[1]))
    volume.put_file(sys.argv[3], "f")
    volume.get_file("f", sys.argv[3] + ".back")
    total = sum(len(piece) for piece in volume.read_file("f"))
    # Not getrusage: its ru_maxrss starts at that of the process that forked this one.
    print(total, re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_a_large_file_takes_little_memory(database, store_name, tmp_path):
    """
    300 MiB, sparse and not, through a process that must stay far below.
    """
    source = tmp_path / "large"
    with source.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(MIB))
        file.truncate(300 * MIB)

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), database, store_name, str(source)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    total, peak_kib = map(int, done.stdout.split())
    assert total == 300 * MIB
    assert peak_kib < 150 * KIB
    with source.open("rb") as one, Path(f"{source}.back").open("rb") as two:
        while block := one.read(MIB):
            assert block == two.read(MIB)
