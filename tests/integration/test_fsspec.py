"""fsspec on Volumes and NetworkFileSystems: fsspec's own suite, and what it does not ask."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import io
import os
import pickle
import threading
import tomllib
from datetime import UTC, datetime, timedelta

import fsspec
import fsspec.tests.abstract as abstract
import pandas as pd
import psycopg
import pytest

import pgstore
from pgstore import errors
from pgstore.fsspec import NetworkFileSystemFileSystem, VolumeFileSystem
from tests.migration.conftest import ROOT

CLASSES = {"pgstore": VolumeFileSystem, "pgstorenfs": NetworkFileSystemFileSystem}


@pytest.fixture(autouse=True, scope="module")
def _registered(database):
    """As an installation does by its entry points, which a checkout may have been installed without."""
    for protocol, kind in CLASSES.items():
        fsspec.register_implementation(protocol, kind, clobber=True)
    yield
    fsspec.filesystem("pgstore", database_url=database).client.close()
    for kind in CLASSES.values():
        kind.clear_instance_cache()


@pytest.fixture(params=CLASSES)
def protocol(request):
    return request.param


@pytest.fixture
def fs(protocol, database):
    return fsspec.filesystem(protocol, database_url=database)


@pytest.fixture
def top(fs, store_name):
    """The path of a new store."""
    fs.mkdir(store_name)
    return store_name


# ------------------------------------------------------------------------------------------------------- fsspec's own


class OnVolumes(abstract.AbstractFixtures):
    protocol = "pgstore"

    @pytest.fixture
    def fs(self, database):
        return fsspec.filesystem(self.protocol, database_url=database)

    @pytest.fixture
    def fs_path(self, fs, store_name):
        fs.makedirs(f"{store_name}/folder")
        return f"{store_name}/folder"


class OnNetworkFileSystems(OnVolumes):
    protocol = "pgstorenfs"


class TestCopyOfVolumes(abstract.AbstractCopyTests, OnVolumes):
    pass


class TestGetOfVolumes(abstract.AbstractGetTests, OnVolumes):
    pass


class TestPutOfVolumes(abstract.AbstractPutTests, OnVolumes):
    pass


class TestPipeOfVolumes(abstract.AbstractPipeTests, OnVolumes):
    pass


class TestOpenOfVolumes(abstract.AbstractOpenTests, OnVolumes):
    pass


class TestCopyOfNetworkFileSystems(abstract.AbstractCopyTests, OnNetworkFileSystems):
    pass


class TestGetOfNetworkFileSystems(abstract.AbstractGetTests, OnNetworkFileSystems):
    pass


class TestPutOfNetworkFileSystems(abstract.AbstractPutTests, OnNetworkFileSystems):
    pass


class TestPipeOfNetworkFileSystems(abstract.AbstractPipeTests, OnNetworkFileSystems):
    pass


class TestOpenOfNetworkFileSystems(abstract.AbstractOpenTests, OnNetworkFileSystems):
    pass


# ------------------------------------------------------------------------------------------------------ making itself known


def test_both_protocols_are_entry_points():
    """
    By them fsspec finds the classes without an import.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        name: importlib.metadata.EntryPoint(name, value, "fsspec.specs").load()
        for name, value in project["entry-points"]["fsspec.specs"].items()
    }

    assert declared == {**CLASSES, "pgstore+nfs": NetworkFileSystemFileSystem}


def test_urls_lead_into_stores(fs, top, protocol, database):
    with fsspec.open(f"{protocol}://{top}/a/file.txt", "w", database_url=database) as file:
        file.write("text")

    found, path = fsspec.core.url_to_fs(f"{protocol}:///{top}/a/file.txt", database_url=database)
    assert (type(found), path) == (CLASSES[protocol], f"{top}/a/file.txt")
    assert found.cat(path) == b"text"
    assert found.unstrip_protocol(path) == f"{protocol}://{top}/a/file.txt"


def test_instances_travel_to_other_processes(fs, top):
    """
    Dask and multiprocessing send them by pickle; the URL goes along.
    """
    fs.pipe(f"{top}/file", b"x")

    there = pickle.loads(pickle.dumps(fs))

    assert there.cat(f"{top}/file") == b"x"
    assert there.fsid == fs.fsid


def test_a_client_of_the_callers_can_be_used(client, store_name):
    fs = VolumeFileSystem(client=client, create_if_missing=True, skip_instance_cache=True)

    fs.pipe(f"{store_name}/file", b"x")

    assert b"".join(pgstore.Volume.from_name(store_name, client=client).read_file("file")) == b"x"
    with pytest.raises(errors.InvalidError, match="either database_url= or client="):
        VolumeFileSystem("postgresql://", client=client, skip_instance_cache=True)


def test_an_environment_can_be_chosen(database, store_name):
    here = VolumeFileSystem(database, skip_instance_cache=True)
    there = VolumeFileSystem(database, environment_name="other", skip_instance_cache=True)

    there.mkdir(store_name)

    assert (here.exists(store_name), there.exists(store_name)) == (False, True)
    assert here.fsid != there.fsid
    assert store_name in there.ls("", detail=False)
    assert store_name not in here.ls("", detail=False)


# ------------------------------------------------------------------------------------------------------------ stores


def test_stores_are_the_first_directories(fs, top, protocol):
    assert fs.info(top) == {**fs.info(top), "name": top, "type": "directory", "size": 0}
    assert fs.info(top) in fs.ls(f"{protocol}://")
    assert fs.isdir("")
    with pytest.raises(FileExistsError):
        fs.mkdir(top)
    with pytest.raises(FileExistsError):
        fs.makedirs(top)
    fs.makedirs(top, exist_ok=True)


def test_a_missing_store_is_a_missing_path(fs, store_name):
    """
    And may come to be later.
    """
    assert not fs.exists(store_name)
    assert not fs.exists(f"{store_name}/file")
    assert fs.find(store_name) == []
    for call in (
        fs.info,
        fs.ls,
        fs.cat_file,
        fs.rmdir,
        lambda path: fs.pipe_file(path, b""),
        fs.open,
    ):
        with pytest.raises(FileNotFoundError):
            call(f"{store_name}/file")

    fs.makedirs(f"{store_name}/folder")

    assert fs.isdir(f"{store_name}/folder")


def test_stores_are_not_removed_as_paths_are(fs, top):
    """
    A slip of the hand would take all versions with it.
    """
    fs.pipe(f"{top}/file", b"x")

    for call in (fs.rm, fs.rmdir, fs.rm_file, lambda path: fs.rm(path, recursive=True)):
        with pytest.raises(errors.InvalidError, match="objects.delete"):
            call(top)

    fs.rm(f"{top}/*")
    assert fs.ls(top) == []


def test_the_root_is_no_place_for_files(fs):
    with pytest.raises(IsADirectoryError):
        fs.pipe_file("", b"x")


# ------------------------------------------------------------------------------------------------------------ facts


def test_info_has_the_facts(fs, top, tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(0o600)
    fs.put_file(tmp_path / "file", f"{top}/d/file")

    info = fs.info(f"{top}/d/file")

    local = (tmp_path / "file").stat()
    assert (info["name"], info["type"], info["size"]) == (f"{top}/d/file", "file", 5)
    assert (info["mode"], info["mtime_ns"], info["nlink"], info["islink"]) == (
        local.st_mode,
        local.st_mtime_ns,
        1,
        False,
    )
    modified = fs.modified(f"{top}/d/file")
    assert abs(modified - datetime.fromtimestamp(local.st_mtime, UTC)) <= timedelta(microseconds=1)  # floats
    assert abs(fs.created(f"{top}/d/file") - datetime.now(UTC)) < timedelta(minutes=5)
    assert fs.ls(f"{top}/d/file", detail=False) == [f"{top}/d/file"]


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_listing_tells_what_info_tells(fs, top, in_transaction):
    """
    Who compares the two, as a sync does, takes each difference for a change.
    """
    store, _ = fs._store_of(f"{top}/x")
    for path in ("f", "d/f", "d/e/g"):
        fs.pipe(f"{top}/{path}", b"1")
    store.chmod("d", 0o700)
    store.utime("d/f", mtime_ns=1_700_000_000_123_456_789)
    store.symlink("d", "to_d")
    store.symlink("f", "to_f")
    store.symlink("nowhere", "broken")
    store.mknod("d/fifo", "fifo")

    with fs.client.transaction() if in_transaction else contextlib.nullcontext():
        if in_transaction:
            fs.pipe(f"{top}/d/new", b"2")
            fs.mv(f"{top}/d/e", f"{top}/moved")
            store.chmod("d/f", 0o600)
        found = fs.find(top, detail=True, withdirs=True)
        listed = [info for path in ("", "/d", "/f", "/to_d", "/to_f") for info in fs.ls(top + path)]
        walked = [info for _, dirs, files in fs.walk(top, detail=True) for info in (*dirs.values(), *files.values())]
        for info in (*found.values(), *listed, *walked):
            assert info == fs.info(info["name"])
    assert {info["name"].removeprefix(f"{top}/") for info in found.values()} >= {"f", "d", "d/f", "to_d", "broken"}


def test_a_slash_at_the_end_is_no_file(fs, top):
    fs.pipe(f"{top}/f", b"1")

    for write in (
        lambda: fs.pipe_file(f"{top}/new/", b""),
        lambda: fs.open(f"{top}/new/", "wb"),
        lambda: fs.touch(f"{top}/new/"),
        lambda: fs.rm_file(f"{top}/f/"),
        lambda: fs.cat_file(f"{top}/f/"),
    ):
        with pytest.raises(errors.Error):
            write()
    assert not fs.exists(f"{top}/f/")
    assert fs.find(top) == [f"{top}/f"]
    fs.mkdir(f"{top}/d/")
    assert fs.isdir(f"{top}/d/")
    fs.mv(f"{top}/f", f"{top}/d/")
    assert fs.find(top) == [f"{top}/d/f"]


def test_a_change_changes_the_key(fs, top):
    """
    Caches ask whether their copy is still good.
    """
    fs.pipe(f"{top}/file", b"one")
    before = fs.ukey(f"{top}/file")
    assert fs.ukey(f"{top}/file") == before

    fs.pipe(f"{top}/file", b"two")

    assert fs.ukey(f"{top}/file") != before


def test_links_show_what_they_lead_to(fs, top):
    store, _ = fs._store_of(top)
    fs.pipe(f"{top}/d/file", b"12345")
    store.symlink("d/file", "to file")
    store.symlink("d", "to folder")
    store.symlink("none", "to nothing")

    types = {info["name"].partition("/")[2]: info["type"] for info in fs.ls(top)}

    assert types == {"d": "directory", "to file": "file", "to folder": "directory", "to nothing": "link"}
    assert fs.info(f"{top}/to file")["size"] == 5
    assert fs.info(f"{top}/to file")["islink"]
    assert [fs.islink(f"{top}/{name}") for name in ("to file", "to nothing", "d/file", "none", "d/file/below")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert not fs.islink("")
    assert fs.cat(f"{top}/to folder/file") == b"12345"


@pytest.mark.parametrize(
    ("use", "path"),
    [
        (lambda fs, top: fs.info(f"{top}/none"), "none"),
        (lambda fs, top: fs.open(f"{top}/none"), "none"),
        (lambda fs, top: fs.open(f"{top}/d", "rb"), "d"),
        (lambda fs, top: fs.cat_file(f"{top}/none"), "none"),
        (lambda fs, top: fs.ls(f"{top}/none"), "none"),
        (lambda fs, top: fs.mkdir(f"{top}/d"), "d"),
        (lambda fs, top: fs.makedirs(f"{top}/d"), "d"),
        (lambda fs, top: fs.rmdir(f"{top}/d"), "d"),
        (lambda fs, top: fs.rm_file(f"{top}/none"), "none"),
        (lambda fs, top: fs.mv(f"{top}/none", f"{top}/new"), "none"),
        (lambda fs, top: fs.pipe_file(f"{top}/d", b""), "d"),
        (lambda fs, top: fs.pipe_file(f"{top}/d/file/below", b""), "d/file"),
        (lambda fs, top: fs.get_file(f"{top}/none", "/nonexistent/none"), "none"),
    ],
)
def test_an_error_names_the_path_with_its_store(fs, top, use, path):
    """
    As the caller gave it: `filename` can be passed on to any of these functions.
    """
    fs.pipe(f"{top}/d/file", b"12345")

    with pytest.raises(OSError, match=path) as caught:
        use(fs, top)

    assert caught.value.filename == f"{top}/{path}"
    assert caught.value.strerror == os.strerror(caught.value.errno or 0)


def test_an_error_about_a_local_file_names_that(fs, top, tmp_path):
    fs.pipe(f"{top}/f", b"12345")
    (tmp_path / "d").mkdir()

    with pytest.raises(FileNotFoundError) as caught:
        fs.put_file(str(tmp_path / "none"), f"{top}/f")
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError) as denied:
        fs.get_file(f"{top}/f", str(tmp_path / "d"))
    assert denied.value.filename == str(tmp_path / "d")


def test_find_and_glob_look_once(fs, top, monkeypatch):
    """
    One listing of the whole tree instead of one for each directory.
    """
    for path in ("a/1.csv", "a/b/2.csv", "a/b/c/3.txt", "4.csv"):
        fs.pipe(f"{top}/{path}", b"x")
    calls = []
    listed = fs._entries

    def counted(path, **options):
        calls.append(path)
        return listed(path, **options)

    monkeypatch.setattr(fs, "_entries", counted)

    assert fs.find(top) == [f"{top}/{path}" for path in ("4.csv", "a/1.csv", "a/b/2.csv", "a/b/c/3.txt")]
    assert fs.glob(f"{top}/**/*.csv") == [f"{top}/{path}" for path in ("4.csv", "a/1.csv", "a/b/2.csv")]
    assert fs.du(top) == 4
    assert len(calls) == 3
    assert fs.glob(f"{top}/a/*") == [f"{top}/a/1.csv", f"{top}/a/b"]
    assert fs.find(f"{top}/a", maxdepth=1, withdirs=True) == [f"{top}/a", f"{top}/a/1.csv", f"{top}/a/b"]
    assert fs.find(f"{top}/4.csv") == [f"{top}/4.csv"]


def test_a_server_that_cannot_be_reached_is_no_missing_file(protocol):
    """
    fsspec's own `exists` says False to any error.
    """
    fs = fsspec.filesystem(protocol, database_url="postgresql://127.0.0.1:1/none", skip_instance_cache=True)

    for call in (fs.exists, fs.isdir, fs.isfile, fs.find):
        with pytest.raises(errors.StoreUnavailable):
            call("store/file")


# ------------------------------------------------------------------------------------------------------------ contents


def test_parts_of_files_are_read(fs, top):
    data = bytes(range(256)) * 2000
    fs.pipe(f"{top}/file", data)

    for start, end in [(0, 5), (100, 300_000), (None, 7), (400_000, None), (-10, None), (-10, -3), (600_000, None)]:
        assert fs.cat_file(f"{top}/file", start, end) == data[start:end], (start, end)
    assert fs.cat_ranges([f"{top}/file"] * 2, [0, 5], [3, 9]) == [data[0:3], data[5:9]]
    assert fs.head(f"{top}/file", 3) == data[:3]
    assert fs.tail(f"{top}/file", 3) == data[-3:]
    assert fs.cat([f"{top}/file"]) == {f"{top}/file": data}


def test_files_are_opened_as_python_has_it(fs, top):
    with fs.open(f"{top}/d/file", "w", encoding="utf-8", newline="") as file:
        file.write("ä\r\nö\n")
    with fs.open(f"{top}/d/file", "ab") as file:
        file.write(b"end")

    with fs.open(f"{top}/d/file", "r", encoding="utf-8", newline="") as file:
        assert list(file) == ["ä\r\n", "ö\n", "end"]
    with fs.open(f"{top}/d/file", "rb") as file:
        file.seek(-3, 2)
        assert file.read() == b"end"


@pytest.mark.parametrize("name", ["gz", "bz2", "xz", "zip"])
def test_files_are_packed(fs, top, name):
    """
    What packs does not always close the file below it.
    """
    with fs.open(f"{top}/d/packed.{name}", "wb", compression="infer") as file:
        file.write(b"packed")
    with fs.open(f"{top}/d/text.{name}", "wt", compression="infer") as file:
        file.write("packed")

    with fs.open(f"{top}/d/packed.{name}", "rb", compression="infer") as file:
        assert file.read() == b"packed"
    with fs.open(f"{top}/d/text.{name}", "rt", compression="infer") as file:
        assert file.read() == "packed"
    assert fs.cat(f"{top}/d/packed.{name}") != b"packed"


def forget(files):
    files.clear()
    gc.collect()


@pytest.mark.parametrize("compression", [None, "gzip", "bz2", "xz", "zip"])
@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_write_that_fails_leaves_the_old_file(database, store_name, mode, compression):
    """
    Of a Volume; what is written into a NetworkFileSystem is there at once.
    """
    fs = VolumeFileSystem(database, create_if_missing=True, skip_instance_cache=True)
    fs.pipe(f"{store_name}/file", b"old")

    with pytest.raises(ZeroDivisionError):
        with fs.open(f"{store_name}/file", mode, compression=compression) as file:
            file.write(b"new" if mode == "wb" else "new")
            1 / 0  # noqa: B018 - what fails
    assert file.closed
    forgotten = [fs.open(f"{store_name}/file", mode, compression=compression)]
    forgotten[0].write(b"new" if mode == "wb" else "new")
    with pytest.warns(ResourceWarning, match="nothing of what was written to it is kept"):
        forget(forgotten)

    assert fs.cat(f"{store_name}/file") == b"old"


def test_progress_is_told(fs, top, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    up, down = fsspec.Callback(), fsspec.Callback()

    fs.put_file(tmp_path / "file", f"{top}/file", callback=up)
    fs.get_file(f"{top}/file", tmp_path / "back" / "file", callback=down)

    assert (up.size, up.value) == (down.size, down.value) == (300_000, 300_000)
    assert (tmp_path / "back" / "file").read_bytes() == b"x" * 300_000


def test_touch_makes_empties_and_dates(fs, top):
    fs.touch(f"{top}/file")
    assert fs.size(f"{top}/file") == 0
    fs.pipe(f"{top}/file", b"x")
    before = fs.info(f"{top}/file")["mtime_ns"]

    fs.touch(f"{top}/file", truncate=False)
    assert fs.info(f"{top}/file")["mtime_ns"] > before
    assert fs.cat(f"{top}/file") == b"x"

    fs.touch(f"{top}/file")
    assert fs.size(f"{top}/file") == 0


# ---------------------------------------------------------------------------------------------------- copying, moving


def test_copies_within_a_store_share_their_bytes(fs, top, sql):
    fs.pipe(f"{top}/file", b"x" * 300_000)
    fs.cp(f"{top}/file", f"{top}/deep/er/copy")

    rows = sql(
        """
        SELECT count(*), count(DISTINCT i.blob_id)
          FROM pgstore.inode i
          JOIN pgstore.store s ON s.id = i.store_id
         WHERE s.name = %s AND i.kind = 'f'
        """,
        top,
    )

    assert rows == [(2, 1)]
    assert fs.cat(f"{top}/deep/er/copy") == b"x" * 300_000


def test_copies_go_from_store_to_store(fs, top):
    fs.mkdir(f"{top}-2")
    fs.pipe({f"{top}/d/1": b"1", f"{top}/d/e/2": b"2" * 300_000})

    fs.cp(f"{top}/d", f"{top}-2/copy", recursive=True)
    fs.mv(f"{top}/d/1", f"{top}-2/moved")

    assert fs.find(f"{top}-2") == [f"{top}-2/{path}" for path in ("copy/1", "copy/e/2", "moved")]
    assert fs.cat(f"{top}-2/copy/e/2") == b"2" * 300_000
    assert not fs.exists(f"{top}/d/1")


def test_moving_is_as_with_mv(fs, top):
    """
    To a new name, into a folder that is there, and whole folders.
    """
    fs.pipe({f"{top}/a/1": b"1", f"{top}/b/2": b"2"})

    fs.mv(f"{top}/a/1", f"{top}/a/one")
    fs.mv(f"{top}/a", f"{top}/b", recursive=True)
    fs.mv(f"{top}/b/2", f"{top}/new/")
    fs.rename(f"{top}/b", f"{top}/c")

    assert fs.find(top) == [f"{top}/c/a/one", f"{top}/new/2"]
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{top}/none", f"{top}/x")


def test_files_are_not_copied_over_folders(fs, top):
    fs.pipe({f"{top}/file": b"x", f"{top}/folder/file": b"y"})

    with pytest.raises(IsADirectoryError):
        fs.cp_file(f"{top}/file", f"{top}/folder")


def test_a_folder_is_removed_only_if_asked_to(fs, top):
    fs.pipe(f"{top}/folder/file", b"x")

    with pytest.raises(IsADirectoryError):
        fs.rm(f"{top}/folder")
    with pytest.raises(OSError, match="folder"):
        fs.rmdir(f"{top}/folder")

    fs.rm([f"{top}/folder"], recursive=True)
    assert fs.ls(top) == []
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{top}/folder")


# ---------------------------------------------------------------------------------------------------- transactions


def test_a_transaction_is_one_of_pgstore(client_elsewhere, database, store_name):
    """
    Files, and whatever else the thread does, appear together.
    """
    fs = VolumeFileSystem(database, create_if_missing=True, skip_instance_cache=True)
    elsewhere = VolumeFileSystem(client=client_elsewhere, skip_instance_cache=True)
    done = pgstore.Dict.from_name(store_name, create_if_missing=True, client=fs.client)
    fs.mkdir(store_name)

    with fs.transaction:
        fs.pipe(f"{store_name}/one", b"1")
        with fs.open(f"{store_name}/two", "wb") as file:
            file.write(b"2" * 300_000)
        done["files"] = 2
        assert fs.find(store_name) == [f"{store_name}/one", f"{store_name}/two"]
        assert elsewhere.find(store_name) == []

    assert elsewhere.cat(f"{store_name}/two") == b"2" * 300_000
    assert done["files"] == 2
    fs.pipe(f"{store_name}/three", b"3")
    assert len(elsewhere.find(store_name)) == 3


def test_an_exception_or_a_discard_undoes_a_transaction(fs, top):
    with pytest.raises(ZeroDivisionError), fs.transaction:
        fs.pipe(f"{top}/file", b"x")
        1 / 0  # noqa: B018 - what fails
    fs.start_transaction()
    fs.pipe(f"{top}/file", b"x")
    fs.transaction.complete(commit=False)
    assert fs.ls(top) == []

    fs.start_transaction()
    fs.pipe(f"{top}/file", b"x")
    fs.end_transaction()
    fs.pipe(f"{top}/after", b"x")
    assert fs.find(top) == [f"{top}/after", f"{top}/file"]


def test_a_file_left_open_undoes_a_transaction(fs, top):
    """
    It would be written into whatever comes after.
    """
    with pytest.raises(errors.InvalidError, match="1 files opened for writing"), fs.transaction:
        fs.pipe(f"{top}/file", b"x")
        file = fs.open(f"{top}/other", "wb")

    with pytest.raises(errors.Error):
        file.write(b"x")
        file.close()
    assert fs.ls(top) == []


def test_threads_have_instances_of_their_own(fs, top, protocol, database):
    """
    fsspec caches one a thread; all use one client.
    """
    got = []
    all_there = threading.Barrier(3)  # the number of a thread that has ended may be given to another

    def work():
        all_there.wait(20)
        mine = fsspec.filesystem(protocol, database_url=database)
        mine.pipe(f"{top}/{threading.get_ident()}", b"x")
        got.append(mine)
        all_there.wait(20)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(mine) for mine in got}) == 3
    assert len({id(mine.client) for mine in got}) == 1
    assert len(fs.find(top)) == 3


# ---------------------------------------------------------------------------------------------------- pandas, pyarrow


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_pandas_writes_and_reads(fs, top, protocol, database, kind):
    frame = pd.DataFrame({"n": range(50_000), "text": [f"row {i}" for i in range(50_000)]})
    options = {"database_url": database}

    if kind == "parquet":
        frame.to_parquet(f"{protocol}://{top}/deep/frame.parquet", storage_options=options)
        back = pd.read_parquet(f"{protocol}://{top}/deep/frame.parquet", storage_options=options, columns=["text"])
        assert back.equals(frame[["text"]])
    else:
        frame.to_csv(f"{protocol}://{top}/deep/frame.csv", index=False, storage_options=options)
        back = pd.read_csv(f"{protocol}://{top}/deep/frame.csv", storage_options=options)
        assert back.equals(frame)


def test_pyarrow_writes_and_reads_datasets(fs, top):
    import pyarrow as pa
    from pyarrow import dataset as ds

    table = pa.table({"year": [2024, 2025, 2025], "value": [1, 2, 3]})
    ds.write_dataset(
        table, f"{top}/set", filesystem=fs, format="parquet", partitioning=["year"], partitioning_flavor="hive"
    )

    dataset = ds.dataset(f"{top}/set", filesystem=fs, partitioning="hive")

    assert len(dataset.files) == 2
    assert dataset.to_table(filter=ds.field("year") == 2025)["value"].to_pylist() == [2, 3]


# ---------------------------------------------------------------------------------------- as its other file systems do


def test_a_walk_enters_no_links(fs, top):
    """
    Links that lead upwards would make it endless.
    """
    fs.pipe(f"{top}/d/file", b"1")
    store, _ = fs._store_of(top)
    store.symlink(".", "d/here")
    store.symlink("..", "d/above")
    store.symlink("nowhere", "d/broken")

    walked = list(fs.walk(f"{top}/d"))
    detailed = list(fs.walk(f"{top}/d", detail=True, topdown=False))

    assert [(path, folders, sorted(files)) for path, folders, files in walked] == [
        (f"{top}/d", [], ["above", "broken", "file", "here"])
    ]
    assert detailed[0][2]["file"]["size"] == 1


def test_a_walk_is_that_of_fsspec_in_all_else(fs, top):
    for path in ("a", "d/b", "d/e/c"):
        fs.pipe(f"{top}/{path}", b"1")
    errors_seen: list[Exception] = []

    assert [path for path, _, _ in fs.walk(top)] == [top, f"{top}/d", f"{top}/d/e"]
    assert [path for path, _, _ in fs.walk(top, maxdepth=2)] == [top, f"{top}/d"]
    assert [path for path, _, _ in fs.walk(top, topdown=False)] == [f"{top}/d/e", f"{top}/d", top]
    assert list(fs.walk(f"{top}/none")) == []
    assert list(fs.walk(f"{top}/none", on_error=errors_seen.append)) == []
    with pytest.raises(FileNotFoundError):
        list(fs.walk(f"{top}/none", on_error="raise"))
    assert len(errors_seen) == 1
    for _, folders, _ in fs.walk(top):
        folders.clear()  # as os.walk allows
        break


def test_open_files_have_a_size_and_blocks_are_read(fs, top):
    fs.pipe(f"{top}/lines", b"one\ntwo\nthree\n")

    with fs.open(f"{top}/lines", "rb") as file:
        assert file.size == 14
    assert fs.read_block(f"{top}/lines", 1, 6, delimiter=b"\n") == b"two\n"
    with fs.open(f"{top}/new", "wb") as file:
        file.write(b"12345")
        assert file.size == 5


@pytest.mark.parametrize("name", ["my data", "naïve", "x" * 65, "[ab]"])
def test_where_no_store_can_have_such_a_name_there_is_no_path(fs, name):
    path = f"{name}/x"

    assert (fs.exists(path), fs.isdir(path), fs.isfile(path), fs.exists(name)) == (False,) * 4
    for call in (fs.info, fs.ls, fs.cat_file, lambda path: fs.open(path, "rb"), lambda path: fs.get_file(path, "/x")):
        with pytest.raises(FileNotFoundError):
            call(path)
    with pytest.raises(errors.InvalidError):  # where one would have to be made, why not
        fs.pipe(path, b"")


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it does not know us, which is so
def test_paths_of_universal_pathlib_lead_into_both_kinds(protocol, fs, top, database):
    upath = pytest.importorskip("upath")
    path = upath.UPath(f"{protocol}://{top}", database_url=database) / "d" / "new"
    fs.makedirs(f"{top}/d")

    path.write_text("x")

    assert path.read_text() == "x"
    assert [each.name for each in path.parent.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["..", "."])
def test_get_writes_nothing_outside(own_database, tmp_path, name):
    """
    fsspec makes local paths of what a listing says: names that no path can have are an error in every listing.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        volume = pgstore.Volume.from_name("v", create_if_missing=True, client=client)
        volume.put_file(io.BytesIO(b"planted"), "one/two/planted")
        connection.execute("ALTER DOMAIN pgstore.entry_name DROP CONSTRAINT entry_name_check")
        connection.execute("UPDATE pgstore.dirent SET name = %s WHERE name IN ('one', 'two')", [name.encode()])
    fs = fsspec.filesystem("pgstore", database_url=own_database, skip_instance_cache=True)
    out = tmp_path / "a/b/out"
    out.mkdir(parents=True)

    for looking in (
        lambda: fs.get("v", str(out), recursive=True),
        lambda: fs.find("v"),
        lambda: fs.ls("v"),
        lambda: list(fs.walk("v")),
    ):
        with pytest.raises(pgstore.errors.UnsafeEntry):
            looking()

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    fs.client.close()
