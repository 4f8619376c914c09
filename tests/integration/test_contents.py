"""Contents behind a mount: what is staged, uploaded, read ahead and shared, without a kernel and without names."""

from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import sys
import textwrap
import threading

import psycopg
import pytest

import pgstore
from pgstore.fs.content import in_place
from pgstore.fs.content.blobs import INLINE_BYTES_MAX
from pgstore.fs.content.block_cache import BLOCK_BYTES, BlockCache
from pgstore.fs.content.block_reader import BlockReader, Reading, Source
from pgstore.mount.contents import live as live_module
from pgstore.mount.contents import under_way, uploaded
from pgstore.mount.contents.open_file import FALLOC_FL_PUNCH_HOLE, ContentsFile
from pgstore.mount.contents.passed import data_of
from pgstore.mount.contents.stage import Stage
from tests.faults.conftest import until
from tests.fixtures.staged import StagedFiles, assert_same

KIB = 1024
MIB = 1024 * KIB
CHUNK = 64 * KIB


@pytest.fixture
def volume(database, client, tmp_path):
    return StagedFiles(database, client, "volume", "r", tmp_path)


@pytest.fixture
def live(database, client, tmp_path):
    return StagedFiles(database, client, "nfs", "r", tmp_path)


def opened(contents, flags=os.O_RDWR):
    return ContentsFile(contents, flags)


def chunks(files, blob_id=None):
    """The ids of the chunks of a blob, or of all."""
    return [
        row[0]
        for row in files.sql(
            "SELECT chunk_id FROM pgstore.extent WHERE store_id = %s AND blob_id = coalesce(%s, blob_id) ORDER BY position",
            files.store_id,
            blob_id,
        )
    ]


# ------------------------------------------------------------------------------------------------------------- the stage


def test_what_is_staged_has_no_name(staged_files):
    """
    So a daemon that is killed leaves nothing on the disk.
    """
    file = opened(staged_files.create())

    file.write(0, b"x" * MIB)

    assert list(staged_files.folder.iterdir()) == []
    assert staged_files.shared.stage.bytes == MIB


def test_a_killed_process_leaves_nothing_in_its_stage(tmp_path):
    program = f"""
        import os, signal
        from pgstore.mount.contents.stage import Stage
        staged = Stage({str(tmp_path)!r}).file()
        assert staged.write_now(0, b"x" * 200_000)
        os.kill(os.getpid(), signal.SIGKILL)
    """

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)

    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_small_files_take_no_descriptor(volume):
    """
    Thousands may wait for a commit.
    """
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for _ in range(50):
        contents = volume.create()
        contents.write(0, b"x" * 60 * KIB)
        kept.append(contents)

    assert len(os.listdir("/proc/self/fd")) - before < 10
    assert bytes(kept[-1].read(0, 100, BlockReader(volume.shared.reading))[0]) == b"x" * 100


def test_a_private_folder_is_made_and_removed():
    stage = Stage()
    assert os.stat(stage.folder).st_mode & 0o777 == 0o700

    stage.close()

    assert not os.path.exists(stage.folder)


def test_more_is_written_than_the_stage_holds(request, database, client, tmp_path):
    """
    Who writes waits for uploads, which give back what the server has on its disk.
    """
    for kind in ("volume", "nfs"):
        files = StagedFiles(database, client, kind, "r", tmp_path, bytes_max=2 * MIB)
        contents = files.create()
        file = opened(contents)
        data = random.Random(1).randbytes(9 * MIB)

        for start in range(0, len(data), 128 * KIB):
            file.write(start, data[start : start + 128 * KIB])
        in_stage = files.shared.stage.bytes
        same = b"".join(file.read(0, len(data))) == data
        files.keep(contents)

        assert same, kind
        assert in_stage <= 2 * MIB, kind
        assert_same(files.stored(contents.ino), data, kind)


def test_a_full_disk_is_no_space_and_leaves_the_store_as_it_was(database, client, tmp_path):
    """
    A program that wants more than there is room for is told so by the write; what was kept before stays.
    """
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mounted, check=False, capture_output=True).returncode != 0:
        pytest.skip("a disk can only be mounted by root")
    try:
        files = StagedFiles(database, client, "volume", "r", tmp_path)
        contents = files.create()
        file = opened(contents)
        file.write(0, b"before")
        files.keep(contents)

        with pytest.raises(OSError) as caught:
            file.write(0, b"x" * 3 * MIB)

        assert caught.value.errno == errno.ENOSPC
        assert_same(files.stored(contents.ino), b"before")
        assert b"".join(file.read(0, 100)) == b"before"
        file.write(0, b"after!")
        files.keep(contents)
        assert_same(files.stored(contents.ino), b"after!")
        contents.release()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_stage_that_cannot_be_emptied_is_no_space(database, tmp_path, proxy):
    """
    The server is away: who writes gets ENOSPC after a while, and all that was written is there still.
    """
    client = pgstore.Client(proxy.url(database))
    files = StagedFiles(database, client, "nfs", "r", tmp_path, bytes_max=256 * KIB, wait_seconds=0.5, timeout=0.2)
    file = opened(files.create())
    proxy.refuse()
    proxy.cut()

    with pytest.raises(OSError) as caught:
        for number in range(4):
            file.write(number * 100 * KIB, bytes([number + 1]) * 100 * KIB)

    assert caught.value.errno == errno.ENOSPC
    assert_same(b"".join(file.read(0, 200 * KIB)), b"\1" * 100 * KIB + b"\2" * 100 * KIB)
    proxy.accept()
    files.keep(file.contents)
    assert_same(files.stored(file.ino), b"\1" * 100 * KIB + b"\2" * 100 * KIB)
    client.close()


def test_holes_and_data_are_told_apart(staged_files):
    """
    lseek(2): of what is staged, and of what the database has.
    """
    contents = staged_files.create()
    file = opened(contents)
    file.write(100_000, b"x" * 10_000)
    contents.truncate(400_000)
    for _ in range(2):
        first = file.seek(0, os.SEEK_DATA)
        assert 0 < first <= 100_000
        end = file.seek(first, os.SEEK_HOLE)
        assert 110_000 <= end < 200_000
        assert file.seek(0, os.SEEK_HOLE) == 0
        assert file.seek(300_000, os.SEEK_HOLE) == 300_000
        for whence, offset in ((os.SEEK_DATA, 300_000), (os.SEEK_DATA, 400_000), (os.SEEK_HOLE, 400_000)):
            with pytest.raises(OSError) as caught:
                file.seek(offset, whence)
            assert caught.value.errno == errno.ENXIO
        staged_files.keep(contents)
        contents = staged_files.again(contents.ino)
        file = opened(contents)


def test_ranges_are_copied_between_files(staged_files):
    source, target = opened(staged_files.create()), opened(staged_files.create())
    data = random.Random(2).randbytes(3 * MIB)
    source.write(0, data)

    assert source.copy_to(1000, target, 5000, 2 * MIB) == 2 * MIB
    assert source.copy_to(3 * MIB - 10, target, 0, 100) == 10

    expected = data[-10:] + bytes(4990) + data[1000 : 1000 + 2 * MIB]
    assert_same(b"".join(target.read(0, 4 * MIB)), expected)


def test_a_file_beyond_the_largest_is_too_big(staged_files):
    file = opened(staged_files.create())
    for act in (
        lambda: file.write((1 << 44) - 1, b"ab"),
        lambda: file.contents.truncate((1 << 44) + 1),
        lambda: file.allocate(0, 0, (1 << 44) + 1),
    ):
        with pytest.raises(OSError) as caught:
            act()
        assert caught.value.errno == errno.EFBIG


# --------------------------------------------------------------------------------------------------------------- uploads


def test_whole_chunks_are_uploaded_while_a_file_is_written(volume):
    """
    So a commit has only the tail left to do.
    """
    contents = volume.create()
    file = opened(contents)

    file.write(0, b"x" * (9 * MIB + 100))
    until(lambda: len(chunks(volume)) >= 4 * MIB // 8192)

    before = set(chunks(volume))
    volume.keep(contents)
    assert before <= set(chunks(volume))
    assert_same(volume.stored(contents.ino), b"x" * (9 * MIB + 100))


def test_unchanged_chunks_are_shared_with_the_version_before(volume):
    """
    A small change of a large file costs a chunk.
    """
    contents = volume.create()
    contents.write(0, random.Random(3).randbytes(50 * 8192))
    volume.keep(contents)
    old = chunks(volume, contents.base.blob_id)

    contents.write(20 * 8192 + 5, b"changed")
    contents.write(50 * 8192, b"more")
    volume.keep(contents)

    new = chunks(volume, contents.base.blob_id)
    assert (len(old), len(new)) == (50, 51)
    assert [a for a, b in zip(old, new, strict=False) if a != b] == [old[20]]


def test_a_chunk_that_is_written_again_is_uploaded_again(volume):
    contents = volume.create()
    contents.write(0, b"a" * 100 * KIB)
    contents.upload()

    contents.write(8192, b"b" * 8192)
    volume.keep(contents)

    assert_same(volume.stored(contents.ino), b"a" * 8192 + b"b" * 8192 + b"a" * (100 * KIB - 2 * 8192))


def test_what_is_written_after_a_commit_took_it_is_left_to_the_next(volume):
    """
    Programs write on while a commit is under way; nothing of it is lost, and the commit has one state.
    """
    contents = volume.create()
    contents.write(0, b"a" * 100 * KIB)
    contents.upload()
    with volume.client.transaction() as tx:
        kept = volume.client.run(contents.hand_over())
        contents.write(10, b"later")
        contents.truncate(90 * KIB)
        volume._write_version(tx.connection, contents.ino, kept, 1)
    contents.committed(kept, 1)

    assert_same(volume.stored(contents.ino), b"a" * 100 * KIB)
    assert contents.is_changed
    expected = b"a" * 10 + b"later" + b"a" * (90 * KIB - 15)
    assert_same(b"".join(opened(contents).read(0, MIB)), expected)
    volume.keep(contents)
    assert_same(volume.stored(contents.ino), expected)
    assert not contents.is_changed


def test_a_commit_that_failed_is_tried_again(volume):
    """
    The blob belongs to the session again, and the same bytes go into the next commit.
    """
    contents = volume.create()
    contents.write(0, b"a" * 100 * KIB)
    contents.upload()

    with pytest.raises(ZeroDivisionError), volume.client.transaction():
        volume.client.run(contents.hand_over())
        raise ZeroDivisionError
    contents.not_committed()
    contents.write(0, b"b")
    volume.keep(contents)

    assert_same(volume.stored(contents.ino), b"b" + b"a" * (100 * KIB - 1))


def test_abandoned_contents_are_collected(volume):
    contents = volume.create()
    contents.write(0, b"a" * 100 * KIB)
    contents.upload()

    contents.abandon()
    volume.client.run(volume.client.session.keep())

    rows = volume.sql(
        "SELECT b.session_id, (SELECT count(*) FROM pgstore.blob_candidate c WHERE c.blob_id = b.id) "
        "FROM pgstore.blob b WHERE store_id = %s",
        volume.store_id,
    )
    assert rows == [(None, 1)]
    assert (contents.size_bytes, contents.is_changed, volume.shared.stage.bytes) == (0, False, 0)


def test_a_session_that_was_swept_costs_a_second_upload(volume):
    """
    A laptop that slept for an hour: its blob was collected meanwhile, and the stage has the bytes.
    """
    contents = volume.create()
    contents.write(0, b"a" * 100 * KIB)
    contents.upload()
    volume.sql("DELETE FROM pgstore.session WHERE id = %s RETURNING 1", volume.client.session.id)
    volume.sql("DELETE FROM pgstore.blob WHERE store_id = %s RETURNING 1", volume.store_id)

    contents.write(0, b"b")
    volume.keep(contents)

    assert_same(volume.stored(contents.ino), b"b" + b"a" * (100 * KIB - 1))


def test_others_see_soon_what_is_written_in_place(live):
    """
    Within about a second, without a flush.
    """
    contents = live.create()

    contents.write(0, b"a" * 100)

    until(lambda: live.stored(contents.ino) == b"a" * 100, seconds=10)


def failing(function):
    with pytest.raises(OSError):
        function()


def test_who_waits_for_an_upload_in_the_background_hears_that_it_failed(database, client, tmp_path):
    """
    The file is locked by somebody's transaction for longer than both would wait.
    """
    files = StagedFiles(database, client, "nfs", "r", tmp_path, timeout=0.3)
    file = opened(files.create())
    file.write(0, b"a" * 100)
    with psycopg.connect(database) as theirs:
        theirs.execute(
            "UPDATE pgstore.inode SET mode = mode WHERE store_id = %s AND ino = %s", [files.store_id, file.ino]
        )
        background = threading.Thread(target=failing, args=[file.contents.upload])
        background.start()
        until(lambda: file.contents._uploading)

        with pytest.raises(OSError, match="waiting for a lock"):
            file.flush()
        background.join()

    assert file.contents.is_dirty
    file.flush()
    assert files.stored(file.ino) == b"a" * 100


def test_a_flush_brings_what_was_written_in_place(live):
    file = opened(live.create())
    file.write(0, b"a" * 3 * MIB)
    file.write(7, b"b")

    file.flush()

    assert not file.contents.is_dirty
    assert_same(live.stored(file.ino), b"a" * 7 + b"b" + b"a" * (3 * MIB - 8))


def test_two_who_append_lose_nothing(database, client, client_elsewhere, tmp_path):
    """
    Two machines: each record is there once and whole, and those of one writer are in its order.
    """
    here = StagedFiles(database, client, "nfs", "r", tmp_path)
    contents = here.create()
    elsewhere = StagedFiles.__new__(StagedFiles)
    elsewhere.__dict__.update(here.__dict__)
    elsewhere.shared = type(here.shared)(client_elsewhere, here.store_id, Stage(str(tmp_path)), BlockCache())
    client_elsewhere.run(_nothing())
    both = [opened(files.again(contents.ino), os.O_WRONLY | os.O_APPEND) for files in (here, elsewhere)]

    def append(number):
        for at in range(100):
            both[number].write(0, f"{number} {at:05}\n".encode())

    threads = [threading.Thread(target=append, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for file in both:
        file.flush()

    lines = here.stored(contents.ino).decode().splitlines()
    assert len(lines) == 200
    for number in "01":
        assert [line for line in lines if line[0] == number] == [f"{number} {at:05}" for at in range(100)]


def _nothing():
    from pgstore.core.operation import Query
    from pgstore.core.statement import Statement

    yield Query(Statement("SELECT 1"))


def test_what_others_changed_is_read_after_drop(live):
    contents = live.create()
    file = opened(contents)
    file.write(0, b"a" * 100 * KIB)
    file.flush()
    other = opened(live.again(contents.ino))
    other.write(0, b"b" * 100 * KIB)
    other.contents.truncate(50 * KIB)
    other.flush()
    file.write(5, b"mine")

    contents.drop(50 * KIB, 0)

    assert_same(b"".join(file.read(0, MIB)), b"b" * 5 + b"mine" + b"b" * (50 * KIB - 9))


def test_a_file_that_was_collected_is_stale(live):
    contents = live.create()
    file = opened(contents)
    file.write(0, b"a")
    live.sql("DELETE FROM pgstore.inode WHERE store_id = %s RETURNING 1", live.store_id)

    with pytest.raises(OSError) as caught:
        file.flush()

    assert caught.value.errno == errno.ESTALE


def test_punching_gives_room_back(staged_files):
    file = opened(staged_files.create())
    file.write(0, b"x" * MIB)

    file.allocate(FALLOC_FL_PUNCH_HOLE | 1, 100 * KIB, 800 * KIB)

    assert staged_files.shared.stage.bytes == MIB - 800 * KIB
    assert_same(b"".join(file.read(0, 2 * MIB)), b"x" * 100 * KIB + bytes(800 * KIB) + b"x" * 124 * KIB)


@pytest.mark.parametrize("storage", ["r", "l"])
def test_whole_chunks_of_a_hole_go(database, client, tmp_path, storage):
    """
    Also those that were just written, and the last one, which the file ends in.
    """
    files = StagedFiles(database, client, "nfs", storage, tmp_path, chunk_size=CHUNK)
    contents = files.create()
    file = opened(contents)
    size = 9 * CHUNK + 100
    model = bytearray(random.Random(storage).randbytes(size))
    file.write(0, model)
    positions = "SELECT array_agg(position::int ORDER BY position) FROM pgstore.extent WHERE store_id = %s"

    for start, end, left in (
        (CHUNK + 10, 4 * CHUNK + 10, [0, 1, 4, 5, 6, 7, 8, 9]),
        (5 * CHUNK + 1, 6 * CHUNK - 1, [0, 1, 4, 5, 6, 7, 8, 9]),
        (6 * CHUNK, 7 * CHUNK, [0, 1, 4, 5, 7, 8, 9]),
        (8 * CHUNK + 1, 20 * CHUNK, [0, 1, 4, 5, 7, 8]),
    ):
        file.allocate(FALLOC_FL_PUNCH_HOLE | 1, start, end - start)
        model[start:end] = bytes(min(end, size) - start)

        assert files.sql(positions, files.store_id) == [(left,)]
        assert_same(b"".join(map(bytes, file.read(0, 2 * size))), model)
        assert_same(files.stored(file.ino), model)
    assert (file.seek(2 * CHUNK, os.SEEK_DATA), file.seek(0, os.SEEK_HOLE)) == (4 * CHUNK, 2 * CHUNK)
    assert file.seek(7 * CHUNK, os.SEEK_HOLE) == 9 * CHUNK

    file.write(2 * CHUNK, b"again")
    file.sync()
    assert_same(files.stored(file.ino)[2 * CHUNK : 3 * CHUNK], b"again".ljust(CHUNK, b"\0"))


def test_a_hole_in_one_of_two_copies_is_in_that_one_alone(client, store_name, sql):
    nfs = pgstore.NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client)
    data = random.Random(1).randbytes(400 * KIB)
    nfs.write_file("one", io.BytesIO(data))
    nfs.copy_files(["one"], "two")
    store_id = int(nfs.hydrate().object_id[3:])

    ((ino,),) = sql("SELECT ino FROM pgstore.dirent WHERE store_id = %s AND name::bytea = 'two'", store_id)
    client.run(in_place.punch(store_id, ino, 1000, 300 * KIB))

    assert_same(b"".join(nfs.read_file("one")), data)
    assert_same(b"".join(nfs.read_file("two")), data[:1000] + bytes(300 * KIB - 1000) + data[300 * KIB :])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volume", "nfs"])
@pytest.mark.parametrize("storage", ["r", "l"])
def test_many_write_and_read_while_everything_is_uploaded_and_evicted(
    database, client, tmp_path, monkeypatch, kind, storage
):
    """
    Each of four threads knows what it wrote, in a stage that holds a fifth of the file, while commits go on.
    """
    for module in (uploaded, live_module, under_way):
        monkeypatch.setattr(module, "UPLOAD_BYTES", 16 * KIB)
    files = StagedFiles(database, client, kind, storage, tmp_path, bytes_max=200 * KIB)
    contents = files.create()
    span, threads = 1000 * KIB, 4
    contents.write(span - 1, b"\0")
    models = [bytearray(span) for _ in range(threads)]  # each has its own pages
    done = threading.Event()
    failures = []

    def work(number):
        rng = random.Random(number)
        file, model = opened(contents), models[number]
        try:
            for _ in range(250):
                page = rng.randrange(span // 4096 // threads) * threads + number
                at, length = page * 4096 + rng.randrange(4000), rng.randrange(1, 96)
                match rng.randrange(5):
                    case 0:
                        found = b"".join(map(bytes, file.read(page * 4096, 4096)))
                        same = found == model[page * 4096 : (page + 1) * 4096]
                        assert same, page
                    case 1:
                        file.allocate(FALLOC_FL_PUNCH_HOLE | 1, at, length)
                        model[at : at + length] = bytes(length)
                    case 2:
                        data = rng.randbytes(4096)
                        file.write(page * 4096, data)
                        model[page * 4096 : (page + 1) * 4096] = data
                    case _:
                        data = rng.randbytes(length)
                        file.write(at, data)
                        model[at : at + length] = data
        except BaseException as exc:
            failures.append(exc)

    def keep():
        try:
            while not done.is_set():
                files.keep(contents)
        except BaseException as exc:
            failures.append(exc)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    keeper = threading.Thread(target=keep)
    for thread in (*workers, keeper):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    keeper.join()
    files.keep(contents)

    assert failures == []
    expected = b"".join(models[page % threads][page * 4096 : (page + 1) * 4096] for page in range(span // 4096))
    same = [b"".join(map(bytes, opened(contents).read(0, span))) == expected, files.stored(contents.ino) == expected]
    assert same == [True, True]
    assert files.shared.stage.bytes <= 200 * KIB


# --------------------------------------------------------------------------------------------------------------- reading


class Counted:
    """A source that counts what is read of it."""

    def __init__(self, size):
        self.data = random.Random(4).randbytes(size)
        self.reads = []
        self.source = Source(object(), size, self.read)

    def read(self, start, end):
        self.reads.append((start, end))
        yield from ()
        return [self.data[start:end]]


def test_reading_in_order_runs_ahead(client):
    """
    Most blocks are there before they are asked for, and each is fetched once.
    """
    counted = Counted(40 * MIB)
    reader = BlockReader(Reading(client, BlockCache()))

    found = b"".join(b"".join(reader.read(counted.source, at, at + 128 * KIB)) for at in range(0, 40 * MIB, 128 * KIB))

    assert_same(found, counted.data)
    assert sorted(start for start, _ in counted.reads) == sorted({start for start, _ in counted.reads})
    assert sum(end - start for start, end in counted.reads) == 40 * MIB
    assert len(counted.reads) <= 24


def test_reading_at_random_fetches_what_is_asked_for(client):
    counted = Counted(40 * MIB)
    reader = BlockReader(Reading(client, BlockCache()))
    places = [random.Random(5).randrange(3, 9999) * 4096 for _ in range(50)]

    for place in sorted(set(places), reverse=True):
        assert b"".join(reader.read(counted.source, place, place + 4096)) == counted.data[place : place + 4096]

    assert sum(end - start for start, end in counted.reads) < 50 * 4096 + 4 * MIB


def test_what_was_read_is_answered_without_waiting(client):
    counted = Counted(3 * MIB)
    reading = Reading(client, BlockCache())
    assert BlockReader(reading).read_now(counted.source, 0, 4096) is None
    BlockReader(reading).read(counted.source, 0, 4096)

    found = BlockReader(reading).read_now(counted.source, 100, 200)

    assert found is not None
    assert b"".join(found) == counted.data[100:200]


def test_the_cache_is_bounded_and_keeps_what_was_used_last():
    cache = BlockCache(3 * BLOCK_BYTES)
    for number in range(5):
        cache.put(("source", number), (bytes([number]) * BLOCK_BYTES,))
        cache.get(("source", 2))

    assert cache.bytes <= 3 * BLOCK_BYTES
    assert [number for number in range(5) if cache.has(("source", number))] == [2, 3, 4]


def test_the_cache_goes_on_on_the_disk(tmp_path):
    """
    In a file without a name, which nobody can trust after a crash.
    """
    cache = BlockCache(BLOCK_BYTES, folder=str(tmp_path), disk_bytes_max=3 * BLOCK_BYTES)
    for number in range(6):
        cache.put(("source", number), (bytes([number]) * 1000, bytes([number]) * 24))

    cache.put(("source", 6), (bytes(BLOCK_BYTES),))
    kept = [
        number
        for number in range(6)
        if (block := cache.get(("source", number))) and b"".join(block) == bytes([number]) * 1024
    ]

    assert list(tmp_path.iterdir()) == []
    assert kept == [3, 4, 5]
    assert cache.disk_bytes <= 3 * BLOCK_BYTES


def test_one_connection_is_enough_for_everything(database, tmp_path):
    """
    Reading ahead and uploads in the background degrade, and never wait for each other in a circle.
    """
    for kind in ("volume", "nfs"):
        with pgstore.Client(database, connections_max=1) as client:
            files = StagedFiles(database, client, kind, "r", tmp_path)
            contents = files.create()
            data = random.Random(6).randbytes(12 * MIB)
            file = opened(contents)
            for at in range(0, len(data), MIB):
                file.write(at, data[at : at + MIB])
            file.sync()
            files.keep(contents)

            assert_same(files.stored(contents.ino), data)


@pytest.fixture(scope="module")
def large() -> bytes:
    return random.Random(7).randbytes(MIB) * 70


@pytest.mark.parametrize(("kind", "connections_max"), [(pgstore.Volume, 10), (pgstore.NetworkFileSystem, 1)])
def test_a_large_file_is_downloaded(database, tmp_path, large, kind, connections_max):
    """
    Over several connections where there are some; in a transaction over its own.
    """
    with pgstore.Client(database, connections_max=connections_max) as client, kind.ephemeral(client=client) as store:
        with store.open("file", "wb") as file:
            file.write(large)

        store.get_file("file", tmp_path / "outside")
        with client.transaction():
            store.get_file("file", tmp_path / "inside")
        with store.open("file", "rb") as file:
            pieces = []
            while piece := file.read(3 * MIB + 1):
                pieces.append(piece)
        with store.open("file", "rb") as file:
            whole = file.read()

        assert_same((tmp_path / "outside").read_bytes(), large)
        assert_same((tmp_path / "inside").read_bytes(), large)
        assert_same(b"".join(pieces), large)
        assert_same(whole, large)


def test_who_waits_for_the_upload_of_another_comes_to_its_error(live):
    """
    Here both wait for a transaction that removes the file.
    """
    contents = live.create()
    file = opened(contents)
    file.write(0, b"lost")
    outcomes = []

    def bring(how):
        try:
            outcomes.append(how())
        except OSError as exc:
            outcomes.append(exc.errno)

    with psycopg.connect(live.url) as connection:
        connection.execute("DELETE FROM pgstore.inode WHERE store_id = %s AND ino = %s", [live.store_id, contents.ino])
        uploading = threading.Thread(target=bring, args=(contents.upload,))
        uploading.start()
        until(lambda: contents._uploading)
        syncing = threading.Thread(target=bring, args=(file.sync,))
        syncing.start()
        until(lambda: len(contents._drains) == 2)
    uploading.join(30)
    syncing.join(30)

    assert outcomes == [errno.ESTALE, errno.ESTALE]


def test_what_was_uploaded_stays_staged_until_it_is_on_the_disk_though_others_change_the_file(live):
    """
    A crash of the server would take it, and then it is needed.
    """
    contents = live.create()
    file = opened(contents)
    file.write(0, b"x" * MIB)
    file.flush()

    contents.drop(MIB, 0)
    assert live.shared.stage.bytes == MIB
    file.sync()

    assert live.shared.stage.bytes == 0


# ------------------------------------------------------------------------------------------------------ passed through


class PassingKernel:
    """Passes a file through, as far as contents can tell."""

    def pass_through(self, fd):
        return 1

    def end_pass_through(self, number):
        pass


@pytest.fixture
def passed(staged_files):
    """New contents that are passed through, and the file that the kernel writes to."""
    if staged_files.kind == "nfs":
        pytest.skip("a NetworkFileSystem passes nothing through")
    contents = staged_files.create()
    contents.open(write=True)
    assert contents.pass_through(PassingKernel(), may_begin=True)
    yield contents, contents._passed.fd
    contents.release()


@pytest.mark.parametrize("is_committed", [False, True], ids=["uploaded", "committed"])
@pytest.mark.parametrize("size", [20_000, 200_000], ids=["inline", "chunks"])
def test_what_is_appended_past_us_just_before_it_is_sent_is_read_and_committed_afterwards(
    staged_files, passed, size, is_committed, monkeypatch
):
    """
    It is sent with the rest of its piece before anybody has noted that it was written.
    """
    contents, fd = passed
    expected = bytearray(b"a" * size + b"b" * 3000)
    os.pwrite(fd, expected[:size], 0)
    catch_up, send = contents.catch_up, contents._send

    def append_and_send(parts):
        os.pwrite(fd, expected[size:], size)
        contents.look()  # as fstat(2) does
        send(parts)

    def catch_up_and_miss():
        catch_up()
        if size <= INLINE_BYTES_MAX:
            os.pwrite(fd, expected[size:], size)

    with monkeypatch.context() as patch:
        patch.setattr(contents, "catch_up", catch_up_and_miss)
        patch.setattr(contents, "_send", append_and_send)
        contents.upload()
        if is_committed:
            staged_files.commit(contents)
    contents.close(write=True)
    assert contents.end_passing()

    assert_same(b"".join(map(bytes, ContentsFile(contents, 0).read(0, len(expected)))), expected, "read")
    staged_files.keep(contents)
    assert_same(staged_files.stored(contents.ino), expected, "stored")


def test_a_file_that_is_cut_while_it_is_looked_at_ends_there(tmp_path, monkeypatch):
    """
    The kernel says that there is nothing behind the end, with the error that means no device elsewhere.
    """
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(b"x" * 8192)
        lseek = os.lseek

        def cut_before_the_hole(fd, at, whence):
            if whence == os.SEEK_HOLE:
                os.ftruncate(fd, 0)
            return lseek(fd, at, whence)

        monkeypatch.setattr(os, "lseek", cut_before_the_hole)

        assert list(data_of(file.fileno(), 8192)) == []
