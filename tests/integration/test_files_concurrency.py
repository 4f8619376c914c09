"""Many writers of one file of a NetworkFileSystem, and what crashes and interrupts leave: whole calls, never halves."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial

import psycopg
import pytest

import pgstore
from pgstore import NetworkFileSystem, Volume
from pgstore.fs.content import in_place
from tests.fixtures.live import LiveFiles, assert_sound

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def elsewhere(live_files: LiveFiles, client_elsewhere):
    """The same files by another client: another process, to the server."""
    other = LiveFiles.__new__(LiveFiles)
    other.__dict__.update(live_files.__dict__, run=client_elsewhere.run)
    return other


def together(*bodies):
    """Run *bodies* at the same time, and raise what one of them raised."""
    failures = []

    def guarded(body):
        try:
            body()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_a_write_of_1_mib_is_seen_whole_or_not_at_all(live_files, elsewhere):
    """
    Readers ask while two write the same megabyte, which is 128 chunks here.
    """
    ino = live_files.create()
    live_files.write(ino, 0, b"a" * MIB)
    done = threading.Event()

    def write(files, fill):
        for _ in range(10):
            files.write(ino, 0, fill * MIB)

    def read():
        while not done.is_set():
            assert len(set(elsewhere.read(ino, 0, MIB))) == 1

    def writers():
        try:
            together(lambda: write(live_files, b"b"), lambda: write(elsewhere, b"c"))
        finally:
            done.set()

    together(writers, read)
    assert_sound(live_files)


def test_writers_of_different_places_lose_nothing(live_files, elsewhere):
    """
    Also where both are the first to write into a chunk, and where the file leaves its inode meanwhile.
    """
    for _ in range(5):
        ino = live_files.create()
        rng = random.Random(1)
        places = rng.sample(range(200), 120)

        def write(files, mine, ino=ino):
            for place in mine:
                files.write(ino, place * 1500, bytes([place % 255 + 1]) * 1500)

        together(partial(write, live_files, places[:60]), partial(write, elsewhere, places[60:]))

        data = live_files.read(ino)
        assert len(data) == (max(places) + 1) * 1500
        for place in range(max(places) + 1):
            expected = bytes([place % 255 + 1]) if place in places else b"\0"
            assert data[place * 1500 :][:1500] == expected * 1500, place
    assert_sound(live_files)


def test_appends_truncations_copies_and_writes_go_on_beside_each_other(live_files, elsewhere):
    """
    All that is alone with a file, and all that is not: nobody fails, and everything stays sound.
    """
    ino = live_files.create()
    live_files.write(ino, 0, b"x" * 200 * KIB)
    copies = []

    def change(files, seed):
        rng = random.Random(seed)
        for _ in range(60):
            match rng.randrange(5):
                case 0:
                    files.append(ino, b"a" * rng.randrange(1, 20_000))
                case 1:
                    files.truncate(ino, rng.randrange(300 * KIB))
                case 2:
                    copies.append(files.copy(ino))
                case _:
                    files.write(ino, rng.randrange(300 * KIB), b"w" * rng.randrange(1, 30_000))

    together(lambda: change(live_files, 1), lambda: change(elsewhere, 2))

    for each in [ino, *copies]:
        assert len(live_files.read(each)) == live_files.size(each)
        assert set(live_files.read(each)) <= set(b"xaw\0")
    assert_sound(live_files)


def test_a_write_beside_a_truncation_brings_nothing_back(live_files, elsewhere):
    """
    Whichever was first: what was cut off stays cut off, though the writer may have looked where the bytes are before.
    """
    ino = live_files.create()
    for size in [0, 8192, 70_000] * 25:
        live_files.truncate(ino, 0)
        live_files.write(ino, 0, b"x" * 200 * KIB)

        together(partial(live_files.truncate, ino, size), partial(elsewhere.write, ino, 100 * KIB, b"w" * 100 * KIB))

        data = live_files.read(ino)
        assert data in (b"x" * size, b"x" * size + bytes(100 * KIB - size) + b"w" * 100 * KIB)
    assert_sound(live_files)


def test_writers_of_different_chunks_do_not_wait_for_each_other(live_files, database):
    """
    A write that has its chunk, and waits for another, is passed by one in another chunk.
    """
    ino = live_files.create()
    live_files.write(ino, 0, b"x" * 20 * 8192)
    with psycopg.connect(database) as connection:
        # Whoever has the lock of the second chunk, but not that of the inode.
        connection.execute(
            "SELECT 1 FROM pgstore.chunk c JOIN pgstore.extent e ON e.store_id = c.store_id AND e.chunk_id = c.id "
            "WHERE c.store_id = %s AND e.position = 1 FOR UPDATE OF c",
            [live_files.store_id],
        )
        slow = threading.Thread(target=lambda: live_files.write(ino, 8192, b"slow" * 2048))
        slow.start()
        time.sleep(0.2)
        live_files.write(ino, 0, b"fast")
        assert slow.is_alive()
        connection.rollback()
        slow.join()

    assert live_files.read(ino, 0, 4) == b"fast"
    assert live_files.read(ino, 8192, 4) == b"slow"


def test_a_transaction_that_writes_a_file_twice_waits_for_nobody_who_waits_for_it(client, live_files, elsewhere):
    """
    It is alone with the file from its first write on; other writers wait until it ends, holding nothing.
    """
    ino = live_files.create()
    live_files.write(ino, 0, b"x" * 20 * 8192)
    other = threading.Thread(target=lambda: elsewhere.write(ino, 8192, b"theirs"))

    with client.transaction():
        live_files.write(ino, 0, b"mine")
        other.start()
        time.sleep(0.2)
        live_files.write(ino, 8192, b"mine")
        live_files.append(ino, b"mine")
    other.join()

    assert live_files.read(ino, 8192, 6) == b"theirs"
    assert live_files.read(ino, 20 * 8192) == b"mine"


def test_a_rolled_back_transaction_leaves_a_file_as_it_was(client, live_files):
    ino = live_files.create()
    live_files.write(ino, 0, b"before" * 20_000)

    with pytest.raises(KeyError), client.transaction():
        live_files.write(ino, 50_000, b"after" * 20_000)
        live_files.truncate(ino, 10)
        live_files.append(ino, b"x" * 100_000)
        raise KeyError

    assert live_files.read(ino) == b"before" * 20_000
    assert_sound(live_files)


WRITER = """
    import sys
    import pgstore
    from pgstore import NetworkFileSystem, Volume

    cls = {{"volume": Volume, "nfs": NetworkFileSystem}}[sys.argv[1]]
    client = pgstore.Client({url!r})
    store = cls.from_name({name!r}, client=client)
    print("ready", flush=True)
    mode, buffering = {{"volume": ("wb", -1), "nfs": ("r+b", 0)}}[sys.argv[1]]
    number = 0
    while True:
        number += 1
        fill = bytes([number % 250 + 1])
        with store.open("file", mode, buffering) as file:
            for _ in range(9):
                file.write(fill * {size})
"""


@pytest.mark.parametrize("kind", ["volume", "nfs"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_writer_that_dies_leaves_whole_calls(client, database, store_name, sql, kind, how):
    """
    Of a Volume the old or the new file; of a NetworkFileSystem whole writes. What was staged stays findable.
    """
    cls = Volume if kind == "volume" else NetworkFileSystem
    store = cls.from_name(store_name, create_if_missing=True, client=client)
    size = MIB
    store.put_file(io.BytesIO(bytes(9 * size)), "file")
    script = textwrap.dedent(WRITER.format(url=database, name=store_name, size=size))

    for round_number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1 + 0.17 * round_number)
        process.send_signal(how)
        process.wait(30)
        process.stdout.close()

        with store.open("file", "rb", buffering=0) as file:
            parts = [file.read(size) for _ in range(9)]
        assert [len(part) for part in parts] == [size] * 9
        assert all(len(set(part)) == 1 for part in parts)
        if kind == "volume":
            assert len({part[0] for part in parts}) == 1
    store_id = int(store.object_id[3:])
    lost = sql(
        "SELECT count(*) FROM pgstore.blob b WHERE store_id = %s AND session_id IS NULL "
        "AND NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = b.store_id AND i.blob_id = b.id) "
        "AND NOT EXISTS (SELECT FROM pgstore.blob_candidate l WHERE l.store_id = b.store_id AND l.blob_id = b.id)",
        store_id,
    )
    assert lost == [(0,)]


def test_a_cancelled_task_leaves_everything_as_it_was(call, client, store_name):
    if call.form == "blocking":
        pytest.skip("only tasks are cancelled")
    import asyncio

    volume = Volume.from_name(store_name, create_if_missing=True, client=client)
    volume.put_file(io.BytesIO(b"old"), "file")

    async def write():
        async with volume.open.aio("file", "wb") as file:
            while True:
                await file.write(os.urandom(MIB))

    async def cancelled():
        task = asyncio.create_task(write())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert b"".join([piece async for piece in volume.read_file("file")]) == b"old"

    call.run(cancelled())


def test_a_sparse_file_of_10_gib_takes_no_room_and_no_time(live_files):
    ino = live_files.create()

    live_files.truncate(ino, 10 << 30)
    live_files.write(ino, (5 << 30) + 7, b"middle")

    assert live_files.size(ino) == 10 << 30
    assert live_files.read(ino, (5 << 30) - 100_000, 200_000) == bytes(100_007) + b"middle" + bytes(99_987)
    assert live_files.sql("SELECT count(*) FROM pgstore.extent WHERE store_id = %s", live_files.store_id) == [(1,)]
    live_files.truncate(ino, 5 << 30)
    live_files.truncate(ino, 6 << 30)
    assert live_files.read(ino, 5 << 30, 100) == bytes(100)


def test_a_file_above_the_largest_is_refused(client, live_files):
    ino = live_files.create()
    for make in (lambda: live_files.truncate(ino, 1 << 45), lambda: live_files.write(ino, 1 << 44, b"x")):
        with pytest.raises(pgstore.errors.FileTooLarge):
            make()


def test_a_copy_is_never_changed_by_writes_to_its_source(client, client_elsewhere, store_name):
    """
    Copies share the bytes; a writer that comes at the same moment must notice. Files move out of their inode and into new blobs.
    """
    nfs = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client, chunk_size=8 * KIB)
    nfs.put_file(io.BytesIO(b"0"), "source")
    theirs = NetworkFileSystem.from_name(store_name, client=client_elsewhere)
    ino, store_id = nfs.stat("source").ino, int(nfs.object_id[3:])
    done = threading.Event()
    seen: dict[str, bytes] = {}

    def write():
        try:
            for number in range(400):
                if number % 7 == 0:
                    client.run(in_place.truncate(store_id, ino, 10))
                client.run(in_place.write_at(store_id, ino, 0, bytes([number % 250 + 1]) * (100 * KIB)))
        finally:
            done.set()

    def copy():
        number = 0
        while not done.is_set():
            number += 1
            theirs.copy_files(["source"], f"copy{number}")
            seen[f"copy{number}"] = b"".join(theirs.read_file(f"copy{number}"))

    together(write, copy)

    assert len(seen) > 5
    for name, data in seen.items():
        assert b"".join(nfs.read_file(name)) == data, name
