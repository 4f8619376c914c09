"""Files opened on Volume and NetworkFileSystem, in both forms: what Python's own do, and what is theirs alone."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import inspect
import io
import os
import pickle
import shutil
import warnings
import zipfile
from functools import partial

import pytest

from pgstore import NetworkFileSystem, Volume, errors
from pgstore.file_store import open as open_module
from pgstore.fs.io.new_file import check_writable
from pgstore.fs.io.open_file import OpenInPlaceFile

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(params=["volume", "nfs"])
def kind(request):
    return request.param


@pytest.fixture(params=["rows", "large_object"])
def storage(request):
    return request.param


def make(kind, client, name, storage="rows"):
    cls = Volume if kind == "volume" else NetworkFileSystem
    chunk_size = 8 * KIB if storage == "rows" else None
    return cls.from_name(name, create_if_missing=True, client=client, storage=storage, chunk_size=chunk_size)


@pytest.fixture
def store(kind, storage, client, store_name):
    """A store of small chunks."""
    return make(kind, client, store_name, storage).hydrate()


@pytest.fixture
def volume(storage, client, store_name):
    return make("volume", client, store_name, storage).hydrate()


@pytest.fixture
def nfs(storage, client, store_name):
    return make("nfs", client, store_name, storage).hydrate()


class Opener:
    """Opens files in one form. The asynchronous ones are used through `Awaited`, as if they were blocking."""

    def __init__(self, call):
        self.call = call

    def __call__(self, store, *args, **kwargs):
        if self.call.form == "blocking":
            return store.open(*args, **kwargs)
        return Awaited(self.call, self.call.run(_awaited(store.open.aio(*args, **kwargs))))


async def _awaited(opening):
    return await opening


class Awaited:
    def __init__(self, call, file):
        self._call = call
        self._file = file

    def __getattr__(self, name):
        value = getattr(self._file, name)
        if name in ("closed", "name", "mode", "readable", "writable", "seekable"):
            return value
        return lambda *args, **kwargs: self._call.run(_awaited(value(*args, **kwargs)))

    def __iter__(self):
        return iter(self.readlines())

    def __enter__(self):
        self._call.run(self._file.__aenter__())
        return self

    def __exit__(self, *exc):
        self._call.run(self._file.__aexit__(*exc))


@pytest.fixture
def opened(call):
    """Opens a file in the form of `call`."""
    return Opener(call)


def content(store, path):
    return b"".join(store.read_file(path))


def put(store, path, data):
    store.put_file(io.BytesIO(data), path)


# ------------------------------------------------------------------------------------------------ as any file in Python


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 300 * KIB + 17, 5 * MIB])
def test_what_is_written_is_read(opened, store, size):
    data = os.urandom(size)

    with opened(store, "a/b", "wb") as file:
        for start in range(0, size, 50_001):
            file.write(data[start : start + 50_001])
        assert file.tell() == size

    assert content(store, "a/b") == data
    with opened(store, "a/b", "rb") as file:
        assert file.read() == data
        assert file.read() == b""
    with opened(store, "a/b", "rb") as file:
        parts = []
        while part := file.read(70_000):
            parts.append(part)
        assert b"".join(parts) == data


def test_text_is_decoded_and_lines_end_as_asked(opened, store):
    text = "häh?\n" * 30_000 + "last\r\none"

    with opened(store, "text", "w", encoding="utf-16", newline="") as file:
        assert file.write(text) == len(text)

    assert content(store, "text") == text.encode("utf-16")
    with opened(store, "text", encoding="utf-16", newline="") as file:
        assert file.read(3) == "häh"
        assert file.readline() == "?\n"
        assert file.read() == text[5:]
    with opened(store, "text", encoding="utf-16") as file:
        assert list(file) == ["häh?\n"] * 30_000 + ["last\n", "one"]
    with opened(store, "text", encoding="ascii") as file, pytest.raises(UnicodeDecodeError):
        file.read()
    with opened(store, "text", encoding="utf-16", newline="\r\n") as file:
        assert [len(line) for line in file] == [5 * 30_000 + 6, 3]


def test_newlines_are_written_as_asked(opened, store):
    for newline, stored in [(None, b"a\nb\n"), ("\r\n", b"a\r\nb\r\n"), ("", b"a\nb\n")]:
        with opened(store, "text", "w", newline=newline) as file:
            file.writelines(["a\n", "b\n"])
        assert content(store, "text") == stored


def test_utf_8_is_the_default_whatever_the_locale(opened, store, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")

    with opened(store, "text", "w") as file:
        file.write("häh")

    assert content(store, "text") == "häh".encode()


def test_lines_of_bytes_come_one_by_one(opened, store):
    lines = [b"x" * length + b"\n" for length in (0, 1, 8191, 8192, 100_000)] + [b"no end"]
    put(store, "lines", b"".join(lines))

    with opened(store, "lines", "rb") as file:
        assert file.readline() == lines[0]
        assert file.readline(1) == b"x"
        assert file.readline() == b"\n"
        assert list(file) == lines[2:]


def test_positions_are_set_and_told(opened, store):
    data = os.urandom(300 * KIB)
    put(store, "data", data)

    with opened(store, "data", "rb") as file:
        assert file.seek(100_000) == 100_000
        assert file.read(10) == data[100_000:100_010]
        assert file.seek(-5, os.SEEK_CUR) == 100_005
        assert file.read(10) == data[100_005:100_015]
        assert file.seek(-7, os.SEEK_END) == len(data) - 7
        assert file.read() == data[-7:]
        assert file.seek(10**9) == 10**9
        assert file.read() == b""
        for wrong in [(-1, 0), (-1, 0), (0, 7)]:
            with pytest.raises((ValueError, OSError)):
                file.seek(*wrong)
        buffer = bytearray(50)
        file.seek(200 * KIB)
        assert file.readinto(buffer) == 50
        assert buffer == data[200 * KIB :][:50]
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")


def test_append_adds_to_what_is_there(opened, store):
    expected = b""
    for size in (0, 10, 64 * KIB, 5 * KIB, 200 * KIB, 8 * KIB, 1):
        data = os.urandom(size)
        with opened(store, "log", "ab") as file:
            assert file.tell() == len(expected)
            file.write(data)
            expected += data
            assert file.tell() == len(expected)
        assert content(store, "log") == expected


def test_exclusive_creation_finds_a_file_that_is_there(opened, store):
    with opened(store, "new", "x") as file:
        file.write("1")

    with pytest.raises(FileExistsError):
        opened(store, "new", "x")
    assert content(store, "new") == b"1"


def test_writing_replaces_what_was_there(opened, store):
    put(store, "file", os.urandom(300 * KIB))

    with opened(store, "file", "wb") as file:
        file.write(b"short")

    assert content(store, "file") == b"short"


def test_new_contents_can_be_written_in_any_order(opened, store):
    """
    As programs do that put a header in front when they know what follows.
    """
    expected = bytearray(500 * KIB)

    with opened(store, "file", "wb") as file:
        for offset, size in [
            (0, 100),
            (200 * KIB, 100 * KIB),
            (8 * KIB - 5, 10),
            (499 * KIB, KIB),
            (50, 100 * KIB),
            (0, 4),
        ]:
            data = os.urandom(size)
            file.seek(offset)
            file.write(data)
            expected[offset : offset + size] = data
        file.seek(0, os.SEEK_END)
        assert file.tell() == len(expected)

    assert content(store, "file") == expected


def test_holes_are_left_where_nothing_was_written(opened, store, sql):
    with opened(store, "file", "wb") as file:
        file.write(b"a")
        file.seek(3 * 10**9)
        file.write(b"z")

    with opened(store, "file", "rb") as file:
        assert file.read(10) == b"a" + bytes(9)
        file.seek(3 * 10**9 - 100_000)
        assert file.read() == bytes(100_000) + b"z"
    stored = sql("SELECT count(*) FROM pgstore.extent WHERE store_id = %s", int(store.object_id[3:]))
    assert stored[0][0] <= 2


def test_truncation_cuts_and_grows(opened, store):
    for size in (0, 10, 8 * KIB, 8 * KIB + 1, 100 * KIB, 300 * KIB, 400 * KIB):
        data = os.urandom(300 * KIB)
        with opened(store, "file", "wb") as file:
            file.write(data)
            assert file.truncate(size) == size
            assert file.tell() == len(data)
            file.seek(0, os.SEEK_END)
            assert file.tell() == size
            file.write(b"end")
        assert content(store, "file") == data[:size] + bytes(max(0, size - len(data))) + b"end"


def test_chunks_may_be_larger_than_what_is_stored_at_a_time(opened, client, store_name, kind):
    """
    Then a hole ends in the chunk that it begins in, and what is left of a chunk that was cut is much.
    """
    cls = Volume if kind == "volume" else NetworkFileSystem
    store = cls.from_name(store_name, create_if_missing=True, client=client, chunk_size=16 * MIB)

    with opened(store, "hole", "wb") as file:
        file.write(b"a")
        file.seek(5 * MIB)
        file.write(b"b")
        file.seek(20 * MIB)
        file.write(b"c")
    with opened(store, "cut", "wb") as file:
        file.write(b"x" * 20 * MIB)
        file.truncate(6 * MIB)
        file.seek(0, os.SEEK_END)
        file.write(b"end")

    hole = bytearray(20 * MIB + 1)
    hole[0:1], hole[5 * MIB : 5 * MIB + 1], hole[20 * MIB :] = b"a", b"b", b"c"
    assert content(store, "hole") == hole
    assert content(store, "cut") == b"x" * 6 * MIB + b"end"


def test_a_closed_file_refuses_and_can_be_closed_again(opened, store):
    put(store, "file", b"x")
    for mode in ("rb", "wb", "r", "w"):
        file = opened(store, "file", mode)
        file.close()
        file.close()
        assert file.closed
        for use in (
            file.read,
            lambda file=file: file.write(b"" if "b" in file.mode else ""),
            file.flush,
            lambda file=file: file.seek(0),
        ):
            with pytest.raises(ValueError):
                use()
        with pytest.raises(ValueError), file:
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "q"}, "mode 'q' is not one of"),
        ({"mode": "rw"}, "mode 'rw' is not one of"),
        ({"mode": "rbt"}, "is not one of"),
        ({"mode": "bb"}, "is not one of"),
        ({"mode": ""}, "is not one of"),
        ({"mode": None}, "must be a str"),
        ({"mode": "rb", "encoding": "utf-8"}, "is for text"),
        ({"mode": "rb", "newline": ""}, "is for text"),
        ({"buffering": 0}, "is for bytes"),
        ({"buffering": "x"}, "must be an int"),
        ({"newline": "x"}, "is none of"),
    ],
)
def test_arguments_that_can_never_work_are_refused_before_anything_is_asked(call, client, arguments, message):
    never_asked = Volume.from_name("never-asked", client=client)
    with pytest.raises(errors.InvalidError, match=message):
        Opener(call)(never_asked, "file", **arguments)


def test_what_cannot_be_opened_says_why(opened, store):
    put(store, "dir/file", b"x")

    with pytest.raises(FileNotFoundError, match="'missing'"):
        opened(store, "missing")
    with pytest.raises(IsADirectoryError, match="'dir'"):
        opened(store, "dir")
    with pytest.raises(IsADirectoryError, match="'dir'"):
        opened(store, "dir", "w")
    with pytest.raises(NotADirectoryError, match="'dir/file'"):
        opened(store, "dir/file/below", "w")
    with pytest.raises(errors.InvalidError, match="directory"):
        opened(store, "/", "w")


def test_other_libraries_take_the_files(client, store_name, kind):
    store = make(kind, client, store_name)
    data = os.urandom(300 * KIB)

    with store.open("a.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("random", data)
        archive.writestr("zeros", bytes(MIB), zipfile.ZIP_DEFLATED)
    with store.open("a.zip", "rb") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("random") == data
        assert archive.testzip() is None
    with store.open("pickle", "wb") as file:
        pickle.dump([data] * 3, file)
    with store.open("pickle", "rb") as file:
        assert pickle.load(file) == [data] * 3
    with store.open("pickle", "rb") as source, store.open("copy", "wb") as target:
        shutil.copyfileobj(source, target)
    assert content(store, "copy") == content(store, "pickle")


# ------------------------------------------------------------------------------------------------------- of a Volume


def test_a_file_of_a_volume_is_read_as_it_was_when_it_was_opened(opened, volume):
    before = os.urandom(300 * KIB)
    put(volume, "file", before)

    with opened(volume, "file", "rb") as file:
        assert file.read(1000) == before[:1000]
        put(volume, "file", b"new")
        assert file.read() == before[1000:]
        volume.remove_file("file")
        file.seek(5)
        assert file.read(1000) == before[5:1005]


def test_a_file_of_a_volume_appears_when_it_is_closed(opened, volume):
    put(volume, "file", b"old")

    with opened(volume, "file", "wb") as file:
        file.write(os.urandom(9 * MIB))
        file.flush()
        assert content(volume, "file") == b"old"
        assert not volume.exists("other")

    assert volume.stat("file").size == 9 * MIB


def test_an_exception_leaves_everything_as_it_was(opened, volume, sql):
    put(volume, "file", b"old")

    for mode, data in [
        ("wb", b"x" * 9 * MIB),
        ("wb", b"short"),
        ("w", "text"),
        ("ab", b"more"),
        ("ab", b"x" * 9 * MIB),
    ]:
        with pytest.raises(KeyError), opened(volume, "file", mode) as file:
            file.write(data)
            raise KeyError
        assert file.closed
        assert content(volume, "file") == b"old"
    store_id = int(volume.object_id[3:])
    unfinished = "SELECT count(*) FROM pgstore.blob WHERE store_id = %s AND session_id IS NOT NULL"
    assert sql(unfinished, store_id) == [(0,)]
    left = "SELECT count(*) FROM pgstore.blob_candidate WHERE store_id = %s"
    assert sql(left, store_id) == [(2,)]


def test_a_forgotten_file_of_a_volume_leaves_everything_as_it_was(opened, volume, client, sql):
    put(volume, "file", b"old")

    for mode, data in [("wb", b"x" * 9 * MIB), ("w", "short")]:
        file = opened(volume, "file", mode)
        file.write(data)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del file
            gc.collect()
        (warning,) = [each for each in warned if each.category is ResourceWarning]
        assert "'file' was not closed; nothing of what was written to it is kept" in str(warning.message)

    assert content(volume, "file") == b"old"
    client.run(client.session.keep())
    unfinished = "SELECT count(*) FROM pgstore.blob WHERE store_id = %s AND session_id IS NOT NULL"
    assert sql(unfinished, int(volume.object_id[3:])) == [(0,)]


def test_what_was_staged_is_given_up_later_if_the_server_is_out_of_reach(
    call, proxy, database, store_name, sql, monkeypatch
):
    monkeypatch.setattr("pgstore.client.executor.RECONNECT_SECONDS", 0.0)
    opened, client = Opener(call), call.client(proxy.url(database))
    volume = make("volume", client, store_name)

    with pytest.raises(errors.StoreUnavailable):
        with opened(volume, "file", "wb") as file:
            file.write(b"x" * 9 * MIB)
            proxy.refuse()
            proxy.cut()
            raise KeyError

    assert file.closed
    proxy.accept()
    unfinished = "SELECT count(*) FROM pgstore.blob WHERE store_id = %s AND session_id IS NOT NULL"
    assert sql(unfinished, int(volume.object_id[3:])) == [(1,)]
    client.run(client.session.keep())
    assert sql(unfinished, int(volume.object_id[3:])) == [(0,)]


@pytest.mark.parametrize("mode", ["r+", "w+b", "a+", "x+", "rb+"])
def test_a_file_of_a_volume_is_not_changed_in_place(opened, volume, mode):
    put(volume, "file", b"old")

    with pytest.raises(errors.InvalidError, match=r"contents never change\. Read it with 'rb', then write"):
        opened(volume, "file", mode)


def test_append_copies_no_whole_chunks(opened, volume, sql):
    put(volume, "file", os.urandom(20 * MIB))
    chunks = "SELECT count(*) FROM pgstore.chunk WHERE store_id = %s"
    store_id = int(volume.object_id[3:])
    before = sql(chunks, store_id)[0][0]

    with opened(volume, "file", "ab") as file:
        file.write(b"more")

    assert sql(chunks, store_id)[0][0] == before + 1
    assert content(volume, "file")[-4:] == b"more"


def test_the_later_close_wins(opened, volume):
    first = opened(volume, "file", "wb")
    second = opened(volume, "file", "wb")
    second.write(b"second")
    second.close()
    first.write(b"first")
    first.close()

    assert content(volume, "file") == b"first"


def test_exclusive_creation_is_checked_again_at_the_end(opened, volume):
    file = opened(volume, "file", "xb")
    file.write(b"mine")
    put(volume, "file", b"theirs")

    with pytest.raises(FileExistsError):
        file.close()

    assert content(volume, "file") == b"theirs"
    assert file.closed


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_file_that_is_written_anew_keeps_its_mode_its_owner_and_its_attributes(opened, volume, mode):
    volume.put_file(io.BytesIO(b"#!"), "program", mode=0o755)
    volume.chown("program", 1000, 100)
    volume.setxattr("program", "user.origin", b"here")

    with opened(volume, "program", mode) as file:
        file.write("/bin/sh")

    stat = volume.stat("program")
    assert (stat.mode, stat.uid, stat.gid) == (0o755, 1000, 100)
    assert volume.getxattr("program", "user.origin") == b"here"


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_file_that_is_removed_while_it_is_opened_to_append_is_begun_anew(opened, volume, monkeypatch):
    put(volume, "file", b"old")
    check = check_writable

    def remove_first(walk, names, *, exclusive):
        monkeypatch.setattr(open_module, "check_writable", check)
        volume.remove_file("file")
        check(walk, names, exclusive=exclusive)

    monkeypatch.setattr(open_module, "check_writable", remove_first)
    with opened(volume, "file", "ab") as file:
        file.write(b"new")

    assert content(volume, "file") == b"new"


def test_a_read_only_handle_opens_for_reading_only(opened, client, volume):
    put(volume, "file", b"x")
    handle = volume.read_only()

    with opened(handle, "file") as file:
        assert file.read() == "x"
    with pytest.raises(errors.InvalidError, match="Read-only"):
        opened(handle, "file", "w")


def test_collected_contents_are_an_error_and_never_zeros(opened, volume, sql):
    """
    What a reader finds whose version is not kept any more.
    """
    put(volume, "file", os.urandom(300 * KIB))
    put(volume, "large", os.urandom(9 * MIB))

    for name in ("file", "large"):
        for size in (10, -1):
            file = opened(volume, name, "rb", buffering=0)
            sql("UPDATE pgstore.inode SET blob_id = NULL WHERE store_id = %s", int(volume.object_id[3:]))
            sql("DELETE FROM pgstore.blob WHERE store_id = %s", int(volume.object_id[3:]))
            with pytest.raises(errors.StaleFile, match="open it again"):
                file.read(size)
            with contextlib.suppress(errors.StaleFile):
                file.close()
            put(volume, "file", os.urandom(300 * KIB))
            put(volume, "large", os.urandom(9 * MIB))


def test_what_was_written_too_long_ago_is_an_error(opened, volume, sql):
    """
    A process that was stopped for hours, while others swept what dead sessions had left.
    """
    file = opened(volume, "file", "wb")
    file.write(os.urandom(9 * MIB))
    sql("DELETE FROM pgstore.blob WHERE store_id = %s", int(volume.object_id[3:]))

    with pytest.raises((errors.StaleFile, errors.StatementFailed)):
        file.close()

    assert not volume.exists("file")


# ------------------------------------------------------------------------------------------------- in transactions


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_a_file_belongs_to_the_transaction_it_was_opened_in(client, store, size):
    data = os.urandom(size)

    with pytest.raises(KeyError), client.transaction():
        with store.open("file", "wb") as file:
            file.write(data)
        assert content(store, "file") == data
        raise KeyError
    assert not store.exists("file")

    with client.transaction():
        with store.open("file", "wb") as file:
            file.write(data)
    assert content(store, "file") == data


def test_a_file_of_an_ended_transaction_cannot_be_used(client, volume):
    with client.transaction():
        file = volume.open("file", "wb")
        file.write(b"x" * MIB)

    with pytest.raises(errors.InvalidError, match="not open"):
        file.close()

    assert not volume.exists("file")
    assert file.closed


def test_a_file_opened_before_a_transaction_survives_its_end(client, volume):
    """
    What was stored during the transaction must not go when it is rolled back.
    """
    data = os.urandom(20 * MIB)
    file = volume.open("file", "wb")

    file.write(data[: 5 * MIB])
    with pytest.raises(KeyError), client.transaction():
        file.write(data[5 * MIB : 15 * MIB])
        raise KeyError
    file.write(data[15 * MIB :])
    file.close()

    assert content(volume, "file") == data


def test_closing_in_a_transaction_makes_the_file_a_part_of_it(client, volume):
    file = volume.open("file", "wb")
    file.write(b"x" * 9 * MIB)

    with pytest.raises(KeyError), client.transaction():
        file.close()
        assert volume.exists("file")
        raise KeyError

    assert not volume.exists("file")


def test_asynchronous_transactions_too(call, client, store):
    if call.form == "blocking":
        pytest.skip("of the other form only")

    async def both():
        try:
            async with client.transaction():
                async with store.open.aio("file", "wb") as file:
                    await file.write(b"x" * 9 * MIB)
                async with store.open.aio("file", "rb") as file:
                    assert await file.read() == b"x" * 9 * MIB
                raise KeyError
        except KeyError:
            pass
        assert not await store.exists.aio("file")
        async with client.transaction():
            async with store.open.aio("file", "wb") as file:
                await file.write(b"y" * 9 * MIB)
        assert await store.exists.aio("file")

    call.run(both())


# ------------------------------------------------------------------------------------------- of a NetworkFileSystem


def test_writes_are_seen_when_they_are_flushed(opened, nfs):
    with opened(nfs, "file", "wb") as file:
        assert content(nfs, "file") == b""
        file.write(b"seen")
        file.flush()
        assert content(nfs, "file") == b"seen"
        file.write(b" later")
    assert content(nfs, "file") == b"seen later"


def test_a_write_that_failed_is_made_again_with_the_next_flush(opened, nfs, monkeypatch):
    write = OpenInPlaceFile.write

    def failing(file, offset, data):
        monkeypatch.setattr(OpenInPlaceFile, "write", write)
        raise errors.StoreUnavailable("gone for a moment")
        yield

    with opened(nfs, "file", "wb") as file:
        file.write(b"kept")
        monkeypatch.setattr(OpenInPlaceFile, "write", failing)
        with pytest.raises(errors.StoreUnavailable):
            file.flush()
        assert file.tell() == 4
        file.write(b" and more")

    assert content(nfs, "file") == b"kept and more"


def test_an_exception_leaves_what_was_written(opened, nfs):
    with pytest.raises(KeyError), opened(nfs, "file", "wb") as file:
        file.write(b"kept")
        raise KeyError

    assert content(nfs, "file") == b"kept"


def test_a_forgotten_file_without_a_buffer_says_so(opened, volume):
    """
    It stands alone, without a layer that would tell it.
    """
    put(volume, "file", b"old")
    file = opened(volume, "file", "wb", 0)
    file.write(b"new")

    with pytest.warns(ResourceWarning, match="was not closed; nothing of what was written to it is kept"):
        del file

    assert content(volume, "file") == b"old"


def test_a_forgotten_file_is_written_later(opened, nfs, client):
    file = opened(nfs, "file", "w")
    file.write("late")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del file
        gc.collect()
    assert [each.category for each in warned] == [ResourceWarning]

    client.run(client.session.keep())

    assert content(nfs, "file") == b"late"


def test_a_forgotten_file_that_cannot_be_written_keeps_nobody_waiting(opened, nfs, client):
    """
    What is left for later is done in order, and then the session says that it is alive.
    """
    for name, offset in [("too large", 1 << 44), ("file", 0)]:
        file = opened(nfs, name, "wb")
        file.seek(offset)
        file.write(b"late")
        with pytest.warns(ResourceWarning, match="was not closed"):
            del file

    with pytest.warns(ResourceWarning, match="'too large' was not closed, and what it had not written is lost"):
        client.run(client.session.keep())

    assert content(nfs, "file") == b"late"


def test_a_forgotten_file_of_a_transaction_is_not_written_after_it(client, nfs):
    """
    And the warning does not promise it.
    """
    with client.transaction():
        file = nfs.open("file", "w")
        file.write("late")
        with pytest.warns(ResourceWarning, match="what it had not written yet is lost"):
            del file
    client.run(client.session.keep())

    assert content(nfs, "file") == b""


def test_files_are_read_and_written_in_place(opened, nfs):
    data = bytearray(os.urandom(300 * KIB))
    put(nfs, "file", data)

    with opened(nfs, "file", "r+b") as file:
        assert file.read(10) == data[:10]
        file.write(b"here")
        data[10:14] = b"here"
        file.seek(100_000)
        file.write(b"there" * 10_000)
        data[100_000:150_000] = b"there" * 10_000
        assert file.read(10) == data[150_000:150_010]
        file.seek(0)
        assert file.read() == data
        file.truncate(70_000)
        file.seek(0)
        assert file.read() == data[:70_000]

    with opened(nfs, "file", "a+b") as file:
        file.seek(0)
        assert file.read(4) == data[:4]
        file.write(b"end")
        file.flush()
        assert content(nfs, "file") == data[:70_000] + b"end"
    with opened(nfs, "file", "w+b") as file:
        assert file.read() == b""
        file.write(b"new")
        file.seek(0)
        assert file.read() == b"new"


def test_text_is_read_and_written_in_place(nfs):
    with nfs.open("file", "w+") as file:
        file.write("häh\nwas\n")
        file.seek(0)
        assert file.readline() == "häh\n"
        place = file.tell()
        assert file.readline() == "was\n"
        file.seek(place)
        file.write("ja!\n")
    assert content(nfs, "file") == "häh\nja!\n".encode()


def test_an_open_file_stays_when_its_name_goes_or_becomes_another_s(opened, nfs):
    for take_away in (lambda: nfs.remove_file("file"), lambda: put(nfs, "file", b"another")):
        put(nfs, "file", b"x" * 300 * KIB)
        with opened(nfs, "file", "r+b") as file:
            take_away()
            assert file.read(5) == b"xxxxx"
            file.seek(0)
            file.write(b"still")
            file.flush()
            file.seek(0)
            assert file.read(6) == b"stillx"
        if nfs.exists("file"):
            assert content(nfs, "file") == b"another"


def test_a_file_that_is_open_for_long_is_held(opened, nfs, client, sql, monkeypatch):
    monkeypatch.setattr("pgstore.fs.retention.file_pin.PIN_AFTER_SECONDS", 0.0)
    put(nfs, "file", b"x")
    held = "SELECT count(*) FROM pgstore.inode_pin WHERE store_id = %s"
    store_id = int(nfs.object_id[3:])

    first = opened(nfs, "file", "rb", buffering=0)
    second = opened(nfs, "file", "rb", buffering=0)
    assert first.read(1) == second.read(1) == b"x"
    assert sql(held, store_id) == [(1,)]
    first.close()
    client.run(client.session.keep())
    assert sql(held, store_id) == [(1,)]
    second.close()
    client.run(client.session.keep())
    assert sql(held, store_id) == [(0,)]


def test_what_others_write_is_seen_where_nothing_is_read_ahead(opened, nfs):
    put(nfs, "file", b"a" * 300 * KIB)

    with opened(nfs, "file", "rb", buffering=0) as file, opened(nfs, "file", "r+b", buffering=0) as writer:
        assert file.read(5) == b"aaaaa"
        writer.write(b"b" * 10)
        assert file.read(10) == b"bbbbbaaaaa"
        file.seek(0, os.SEEK_END)
        assert file.read(1) == b""
        writer.seek(0, os.SEEK_END)
        writer.write(b"more")
        assert file.read(10) == b"more"


def test_appends_of_many_do_not_overwrite_each_other(opened, nfs):
    files = [opened(nfs, "log", "ab", buffering=0) for _ in range(3)]
    for number in range(30):
        for name, file in zip((b"a", b"b", b"c"), files, strict=True):
            file.write(name * 1000 * (number % 5 + 1) + b"\n")
    for file in files:
        file.close()

    lines = content(nfs, "log").splitlines()
    assert len(lines) == 90
    assert all(len(set(line)) == 1 for line in lines)


def test_closing_waits_for_the_disk_and_writing_does_not(nfs, client):
    """
    The commits of writes are asynchronous, that of close is not.
    """
    seen = []
    executor = client._blocking
    original = executor.query_now

    def query_now(query):
        seen.append(query.statement.sql.split(b"(")[0].split()[-1])
        return original(query)

    file = nfs.open("file", "wb", buffering=0)
    executor.query_now = query_now
    try:
        file.write(b"x")
        file.fsync()
        file.close()
    finally:
        del executor.query_now

    assert seen == [b"pgstore.file_write", b"SHARE", b"SHARE"]


def test_files_of_a_store_that_was_deleted_say_so(opened, store, kind, client):
    put(store, "file", os.urandom(300 * KIB))
    reader = opened(store, "file", "rb")
    writer = opened(store, "file2", "wb")
    type(store).objects.delete(store.name, client=client)

    with pytest.raises(errors.Error):
        reader.read()
    with pytest.raises(errors.Error):
        writer.write(b"x" * 9 * MIB)
        writer.flush()
    with pytest.raises(errors.Error):
        writer.close()


def test_a_handle_bound_to_a_transaction_opens_in_it(client, store):
    with client.transaction() as transaction:
        handle = store.using(transaction)
        with handle.open("file", "w") as file:
            file.write("x")
        assert handle.exists("file")
    assert content(store, "file") == b"x"


def test_open_is_a_method_like_others(store):
    assert "as the built-in `open` does" in (store.open.__doc__ or "")
    assert list(inspect.signature(store.open).parameters)[1:] == list(inspect.signature(open).parameters)[1:6]


@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_position_before_the_start_is_refused_as_by_built_in_files(opened, store, buffering):
    """
    `zipfile.is_zipfile` and others seek back from the end, and catch an OSError where the file is too short.
    """
    store.put_file(io.BytesIO(b"ten bytes."), "short")

    with opened(store, "short", "rb", buffering=buffering) as file:
        for offset, whence in ((-1024, 2), (-20, 1), (-1, 0)):
            with pytest.raises(OSError, match="before the start") as raised:
                file.seek(offset, whence)
            assert isinstance(raised.value, ValueError)
            assert raised.value.errno == errno.EINVAL
        assert file.read() == b"ten bytes."
        with pytest.raises(TypeError):
            file.seek(1.5)


class Three:
    """A number as numpy's are."""

    def __index__(self):
        return 3


# Uses of an open file, each of a file of its own. What is left out differs on purpose: fileno(), and which of two mistakes is told.
USES = {
    "read": lambda f: f.read(),
    "read some": lambda f: (f.read(3), f.read(0), f.read(-1), f.tell()),
    "read None": lambda f: f.read(None),
    "read by index": lambda f: f.read(Three()),
    "read a float": lambda f: f.read(1.5),
    "read a str": lambda f: f.read("1"),
    "readline": lambda f: (f.readline(), f.readline(2), f.readline(-1)),
    "readlines": lambda f: (f.readlines(3), f.readlines()),
    "lines": list,
    "next": lambda f: (next(f), f.read(1)),
    "readall": lambda f: f.readall() if f.readable() else f.read(),
    "readinto": lambda f: (buffer := bytearray(5), f.readinto(buffer), bytes(buffer)),
    "readinto nothing": lambda f: f.readinto(bytearray()),
    "readinto bytes": lambda f: f.readinto(b"abc") if f.readable() else None,
    "write": lambda f: (f.write(b"XY"), f.tell(), f.write(bytearray(b"z")), f.write(b"")),
    "write text": lambda f: (f.write("XY\n"), f.write("\u00e4")) if hasattr(f, "encoding") else None,
    "write wrong": lambda f: f.write(["a"]) if f.writable() else None,
    "writelines": lambda f: f.writelines([b"a", b"b"]),
    "writelines of one": lambda f: f.writelines(b"ab") if f.writable() else None,
    "seek": lambda f: (f.seek(2), f.tell(), f.seek(0, 2), f.seek(Three()), f.tell()),
    "seek before": lambda f: f.seek(-1),
    "seek before the end": lambda f: f.seek(-100, 2),
    "seek back": lambda f: f.seek(-1, 1),
    "seek from nowhere": lambda f: f.seek(0, 5),
    "seek None": lambda f: f.seek(None),
    "seek a float": lambda f: f.seek(1.0),
    "seek too far": lambda f: f.seek(2**70),
    "seek behind": lambda f: (f.seek(100), f.read()),
    "truncate": lambda f: (f.truncate(3), f.tell(), f.seek(0, 2)),
    "truncate here": lambda f: (f.seek(4), f.truncate()),
    "grow": lambda f: (f.truncate(100), f.seek(0, 2)),
    "truncate below": lambda f: f.truncate(-1),
    "truncate a str": lambda f: f.truncate("3"),
    "flush": lambda f: f.flush(),
    "isatty": lambda f: f.isatty(),
    "abilities": lambda f: (f.readable(), f.writable(), f.seekable(), f.closed),
    "close": lambda f: (f.close(), f.close(), f.closed),
    "copy": copy.copy,
    "pickle": pickle.dumps,
    "compare": lambda f: f < f,
}
BEFORE = {
    "fresh": lambda f: None,
    "read from": lambda f: f.read(2) if f.readable() else None,
    "written to": lambda f: f.write("q" if hasattr(f, "encoding") else b"q") if f.writable() else None,
    "closed": lambda f: f.close(),
}
FORMS = [
    *(
        (kind, mode, buffering)
        for kind in ("volume", "nfs")
        for mode in ("rb", "wb", "ab", "xb")
        for buffering in (-1, 0)
    ),
    *(("nfs", mode, buffering) for mode in ("r+b", "w+b", "a+b") for buffering in (-1, 0)),
    *((kind, mode, -1) for kind in ("volume", "nfs") for mode in ("r", "w")),
    ("nfs", "r+", -1),
]
ONLY_FRESH = {
    "write wrong",
    "write text",
    "writelines of one",
    "readinto bytes",
    "abilities",
}  # else two mistakes at once


def _outcome(use, file):
    try:
        return use(file)
    except Exception as exc:
        return exc


def _is_as(theirs, ours):
    """Whether what is *ours* does for *theirs*: the same value, or an error that is also of the class of Python's own."""
    return isinstance(ours, type(theirs)) if isinstance(theirs, Exception) else ours == theirs


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(("kind", "mode", "buffering"), FORMS)
def test_a_file_does_what_a_built_in_one_does(client, store_name, kind, tmp_path, mode, buffering, before):
    """
    Libraries were written for those: what is returned, what is raised, and what is in the file in the end.
    """
    is_text = "b" not in mode
    store = make(kind, client, store_name)
    local, options = tmp_path / "f", {"encoding": "utf-8", "newline": ""} if is_text else {}

    for name, use in USES.items():
        if before != "fresh" and name in ONLY_FRESH:
            continue
        local.unlink(missing_ok=True)
        if store.exists("f"):
            store.remove_file("f")
        if "x" not in mode:
            local.write_bytes(b"line one\nline two\r\nthird \xc3\xa4\n")
            put(store, "f", local.read_bytes())
        outcomes = []
        for opening in (partial(open, local), partial(store.open, "f")):
            with opening(mode, buffering, **options) as file:
                BEFORE[before](file)
                outcomes.append(_outcome(use, file))

        theirs, ours = outcomes
        assert _is_as(theirs, ours), (name, theirs, ours)
        assert content(store, "f") == local.read_bytes(), name


def test_libraries_that_look_for_the_end_of_a_short_file_find_it(store):
    store.put_file(io.BytesIO(b"ten bytes."), "short")

    with store.open("short", "rb") as file:
        assert zipfile.is_zipfile(file) is False
    with store.open("short", "rb") as file, pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(file)


def test_what_a_layer_was_taken_off_is_written_all_the_same(store):
    """
    The layer is collected while the file is in use; that is not its end.
    """
    text = store.open("f", "w")
    text.write("one ")
    binary = text.detach()
    del text
    gc.collect()
    binary.write(b"two")
    raw = binary.detach()
    with pytest.raises(ValueError, match="detached"):
        binary.fsync()
    del binary
    raw.write(b" three")
    raw.close()

    assert b"".join(store.read_file("f")) == b"one two three"
