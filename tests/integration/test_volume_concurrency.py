"""Volume with several writers: who waits for whom, what is merged, what is a conflict, what a crash leaves."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psycopg
import pytest

from pgstore import ConflictError, Volume
from tests.integration.test_volume import MIB, assert_whole, content, paths, put, tree


@pytest.fixture
def volume(client, store_name):
    return Volume.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def elsewhere(client_elsewhere, volume, store_name):
    return Volume.from_name(store_name, client=client_elsewhere)


@pytest.fixture(autouse=True)
def _whole(database, volume):
    yield
    assert_whole(database, volume)


def test_open_transactions_do_not_make_others_wait(client, volume, client_elsewhere, elsewhere):
    """
    A transaction that has put files holds no lock until it commits: others put and commit meanwhile.
    """
    put(volume, "d/there", b"0")

    with client.transaction():
        put(volume, "d/mine", b"1")
        put(volume, "mine/large", os.urandom(MIB))
        volume.remove_file("d/there")
        with client_elsewhere.transaction():
            put(elsewhere, "d/theirs", b"2")
            put(elsewhere, "d/mine too", b"3")
        put(elsewhere, "d/later", b"4")
        assert paths(elsewhere) == ["d/later", "d/mine too", "d/theirs", "d/there"]

    assert paths(elsewhere) == ["d/later", "d/mine", "d/mine too", "d/theirs", "mine/large"]


def test_directories_of_one_name_made_by_two_become_one(client, volume, client_elsewhere, elsewhere):
    """
    Two jobs that write `results/` for the first time both keep all they wrote; of one file the later commit stays.
    """
    with client.transaction():
        put(volume, "results/mine", b"1")
        put(volume, "results/both/mine", b"1")
        put(volume, "results/both/deep/er/mine", b"1")
        put(volume, "results/same", b"later commit")
        put(volume, "results/only mine/x", b"1")
        with client_elsewhere.transaction():
            put(elsewhere, "results/theirs", b"2")
            put(elsewhere, "results/both/theirs", b"2")
            put(elsewhere, "results/both/deep/er/theirs", b"2")
            put(elsewhere, "results/same", b"earlier commit")
            put(elsewhere, "results/both/deep/theirs/x", b"2")
        assert content(volume, "results/same") == b"later commit"
        assert not volume.exists("results/theirs")

    assert paths(elsewhere) == [
        "results/both/deep/er/mine", "results/both/deep/er/theirs", "results/both/deep/theirs/x", "results/both/mine",
        "results/both/theirs", "results/mine", "results/only mine/x", "results/same", "results/theirs",
    ]  # fmt: skip
    assert content(elsewhere, "results/same") == b"later commit"


def test_uploads_of_folders_merge_too(client, volume, elsewhere, tmp_path):
    mine = tree(tmp_path / "mine", {"a": b"1", "sub/b": b"1", "sub/x": b"1"})
    theirs = tree(tmp_path / "theirs", {"c": b"2", "sub/d": b"2", "sub/x": b"2"})

    with client.transaction():
        volume.put_directory(mine, "results")
        elsewhere.put_directory(theirs, "results")

    assert paths(volume) == ["results/a", "results/c", "results/sub/b", "results/sub/d", "results/sub/x"]
    assert content(volume, "results/sub/x") == b"1"


def test_a_directory_can_be_changed_further_after_an_early_merge(client, volume, elsewhere, tmp_path, monkeypatch):
    """
    Written early, because there is much of it, an upload goes on in what its directories have become.
    """
    monkeypatch.setattr("pgstore.fs.commit.change_set.CHANGES_MAX", 400)
    put(volume, "there", b"")
    files = {f"{number:04}": b"" for number in range(600)} | {"results/deep/a": b"1", "results/z": b"1"}

    with client.transaction():
        put(volume, "results/mine", b"1")
        put(elsewhere, "results/deep/theirs", b"2")
        volume.put_directory(tree(tmp_path / "in", files), "/")
        put(volume, "results/deep/b", b"1")
        assert len(paths(volume)) == 606

    assert paths(elsewhere, "results") == [
        "results/deep/a", "results/deep/b", "results/deep/theirs", "results/mine", "results/z",
    ]  # fmt: skip


def test_of_two_who_write_one_file_the_later_commit_wins(client, volume, elsewhere):
    put(volume, "f", b"before")

    with client.transaction():
        put(volume, "f", b"begun first, committed last")
        put(elsewhere, "f", b"committed first")

    assert content(elsewhere, "f") == b"begun first, committed last"


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (lambda v: put(v, "x", b"1"), lambda v: put(v, "x/y", b"2")),
        (lambda v: put(v, "x/y", b"1"), lambda v: put(v, "x", b"2")),
        (lambda v: put(v, "x/y", b"1"), lambda v: put(v, "x/y/z", b"2")),
        (lambda v: put(v, "x/y/z", b"1"), lambda v: put(v, "x/y", b"2")),
        (lambda v: put(v, "d/new", b"1"), lambda v: v.remove_file("d", recursive=True)),
        (lambda v: put(v, "d/e/new", b"1"), lambda v: v.remove_file("d", recursive=True)),
        (lambda v: v.remove_file("d/e/f"), lambda v: v.remove_file("d", recursive=True)),
        (lambda v: v.remove_file("d/g"), lambda v: (v.remove_file("d/g"), put(v, "d/g/h", b"2"))),
        (lambda v: v.remove_file("d/e", recursive=True), lambda v: (v.remove_file("d/e", True), put(v, "d/e", b"2"))),
    ],
    ids=[
        "file over directory", "directory over file", "below: file over directory", "below: directory over file",
        "parent removed", "grandparent removed", "removed in removed", "removed file is a directory",
        "removed directory is a file",
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_a_conflict_and_changes_nothing(client, volume, elsewhere, mine, theirs):
    put(volume, "d/e/f", b"0")
    put(volume, "d/g", b"0")
    after = None

    with pytest.raises(ConflictError), client.transaction():
        put(volume, "other", b"1")
        mine(volume)
        theirs(elsewhere)
        after = paths(elsewhere)

    assert paths(volume) == after


def test_what_two_remove_is_removed(client, volume, elsewhere):
    put(volume, "d/e/f", b"0")
    put(volume, "g", b"0")

    with client.transaction():
        volume.remove_file("d/e", recursive=True)
        volume.remove_file("g")
        elsewhere.remove_file("d/e", recursive=True)
        elsewhere.remove_file("g")

    assert paths(volume) == []


def test_a_removed_directory_goes_with_what_has_come_since(client, volume, elsewhere):
    put(volume, "d/e/f", b"0")

    with client.transaction():
        volume.remove_file("d", recursive=True)
        put(elsewhere, "d/e/since", b"1")
        put(elsewhere, "d/n/since", b"1")
        put(volume, "d/mine", b"2")

    assert paths(volume) == ["d/mine"]


def test_a_merge_in_a_joined_transaction(client, volume, elsewhere, database):
    with psycopg.connect(database) as connection:
        connection.execute("SELECT 1")
        put(elsewhere, "results/theirs", b"2")
        with client.transaction(connection=connection):
            put(volume, "results/mine", b"1")
            put(volume, "results/theirs", b"1")
        connection.commit()

    assert paths(volume) == ["results/mine", "results/theirs"]
    assert content(elsewhere, "results/theirs") == b"1"


def test_many_threads_lose_nothing(client, volume):
    """
    Eight writers making the same directories, one file after the other.
    """
    failures = []

    def work(number):
        try:
            for turn in range(12):
                volume.put_file(io.BytesIO(b"%d" % number), f"{turn % 3}/shared/{number}/{turn}")
                volume.put_file(io.BytesIO(b"%d" % number), f"{turn}/one")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    found = paths(volume)
    assert len(found) == 8 * 12 + 12
    for path in found:
        if not path.endswith("/one"):
            assert content(volume, path) == path.split("/")[2].encode()


UPLOAD = """
    import io, sys, time
    import pgstore

    class Slow(io.RawIOBase):
        def read(self, size=-1):
            if state["left"] <= 0:
                print("halfway", flush=True)
                time.sleep(60)
            state["left"] -= size
            return b"x" * size

    state = {"left": 20 * 1024 * 1024}
    volume = pgstore.Volume.from_name(sys.argv[2], client=pgstore.Client(sys.argv[1]))
    with volume._runner.transaction():
        volume.put_file(io.BytesIO(b"small"), "dir/first")
        volume.put_file(Slow(), "dir/second")
"""


def test_a_killed_upload_leaves_nothing(volume, database, store_name):
    put(volume, "there", b"1")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(UPLOAD), database, store_name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "halfway\n"
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert paths(volume) == ["there"]
    with psycopg.connect(database, autocommit=True) as connection:
        deadline = time.monotonic() + 20
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in tr%'"
        while connection.execute(query).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for table in ("chunk", "extent", "blob"):
            query = f"SELECT count(*) FROM pgstore.{table} WHERE store_id = %s"
            assert connection.execute(query, [int(volume.object_id[3:])]).fetchone() == (0,)
        query = "SELECT count(DISTINCT ino) FROM pgstore.inode WHERE store_id = %s"
        assert connection.execute(query, [int(volume.object_id[3:])]).fetchone() == (2,)
    put(volume, "dir/first", b"2")
    assert paths(volume) == ["dir/first", "there"]


def test_transactions_over_the_same_volumes_in_opposite_order_do_not_deadlock(
    client, client_elsewhere, store_name, tmp_path
):
    """
    Their commits take the locks of the Volumes in one order, whichever was used first.
    """
    file = tmp_path / "file"
    file.write_bytes(b"x")
    volumes = {
        each: [Volume.persist(f"{store_name}-{i}", client=each).hydrate() for i in range(2)]
        for each in (client, client_elsewhere)
    }
    failures: list[BaseException] = []

    def work(each, order):
        try:
            for number in range(20):
                with each.transaction():
                    for index in order:
                        volumes[each][index].put_file(file, f"{order[0]}-{number}")
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=work, args=arguments) for arguments in ((client, (0, 1)), (client_elsewhere, (1, 0)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(volumes[client][0].listdir("/")) == len(volumes[client][1].listdir("/")) == 40
