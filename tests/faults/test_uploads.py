"""Contents behind a mount, while connections break and the server stops, crashes and comes back: nothing is lost or doubled."""

from __future__ import annotations

import errno
import random
import signal

import pytest

import pgstore
from pgstore.fs.content.block_reader import BlockReader
from pgstore.mount.contents.open_file import ContentsFile
from tests.faults.conftest import Background, until
from tests.fixtures.proxy import Proxy
from tests.fixtures.server import migrate
from tests.fixtures.staged import StagedFiles, assert_same

KIB = 1024
MIB = 1024 * KIB
RDWR = 2


@pytest.fixture(params=["volume", "nfs"])
def far(request, database, proxy, tmp_path):
    """Files of each kind, behind a proxy."""
    with pgstore.Client(proxy.url(database)) as client:
        files = StagedFiles(database, client, request.param, "r", tmp_path)
        yield files
        proxy.accept()
        proxy.resume()


def test_connections_break_in_the_middle_of_uploads(far, proxy):
    """
    Wherever they break, before a request arrives or before its answer does, each byte is there once and right.
    """
    contents = far.create()
    file = ContentsFile(contents, RDWR)
    rng = random.Random(1)
    model = bytearray()
    for number in range(12):
        data = rng.randbytes(rng.randrange(1, MIB))
        at = rng.randrange(len(model) + 1)
        model[at : at + len(data)] = data
        file.write(at, data)
        if number % 2:
            proxy.cut_after(from_client=rng.randrange(600 * KIB))
        else:
            proxy.cut_after(from_server=rng.randrange(300))
        file.sync()
        proxy.cut_after()
        if number % 4 == 3:
            far.keep(contents)
            assert_same(far.stored(contents.ino), bytes(model), number)

    assert proxy.connections_cut > 0
    assert_same(b"".join(map(bytes, file.read(0, len(model)))), bytes(model))


def test_programs_read_and_write_while_an_upload_is_stuck(far, proxy):
    """
    It holds no lock that they wait for.
    """
    contents = far.create()
    file = ContentsFile(contents, RDWR)
    file.write(0, b"-" * MIB)
    file.sync()
    file.write(0, b"a" * 2 * MIB)
    proxy.stall()
    upload = Background(file.sync)
    until(lambda: contents._uploading)

    assert file.write_now(MIB, b"b" * 100)
    found = file.read_now(MIB - 1, 102)
    stuck = upload.running
    proxy.resume()
    upload.result()
    far.keep(contents)

    assert found is not None
    assert b"".join(map(bytes, found)) == b"a" + b"b" * 100 + b"a"
    assert stuck
    assert_same(far.stored(contents.ino), b"a" * MIB + b"b" * 100 + b"a" * (MIB - 100))


def test_a_server_that_stays_away_is_an_io_error_told_once_to_each(database, proxy, tmp_path):
    """
    As fsync(2) has it: each open file hears of it once; the bytes are kept, and go with the next attempt that succeeds.
    """
    with pgstore.Client(proxy.url(database)) as client:
        files = StagedFiles(database, client, "nfs", "r", tmp_path, timeout=0.1)
        contents = files.create()
        first, second = (ContentsFile(contents, RDWR) for _ in range(2))
        client.is_closing = True  # a connection is not waited for, beyond what the mount waits
        proxy.refuse()
        proxy.cut()

        first.write(0, b"a" * 6 * MIB)  # enough to begin an upload
        until(lambda: contents.failures.heard < contents.failures._count)
        outcomes: list[int | None] = []
        proxy.accept()
        for file in (first, first, second, second):
            try:
                file.flush()
                outcomes.append(0)
            except OSError as exc:
                outcomes.append(exc.errno)
        later = ContentsFile(contents, RDWR)
        later.flush()

        assert outcomes == [errno.EIO, 0, errno.EIO, 0]
        assert_same(files.stored(contents.ino), b"a" * 6 * MIB)


@pytest.fixture
def own(own_server):
    url = own_server.create_database()
    migrate(url)
    return url


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volume", "nfs"])
@pytest.mark.parametrize("storage", ["r", "l"])
def test_what_a_crash_may_have_lost_is_uploaded_again(own_server, own, tmp_path, kind, storage):
    """
    Uploads don't wait for the disk. The server dies between them and the commit, or the fsync, which then has all of it.
    """
    own_server.forget()
    with pgstore.Client(own) as client:
        files = StagedFiles(own, client, kind, storage, tmp_path)
        contents = files.create()
        file = ContentsFile(contents, RDWR)
        data = bytearray(random.Random(2).randbytes(3 * MIB))
        file.write(0, data)
        for number in range(3):
            contents.upload()
            own_server.crash()
            file.write(number * 100_000, b"again")
            data[number * 100_000 : number * 100_000 + 5] = b"again"
        file.sync()
        own_server.crash()
        files.keep(contents)

        assert_same(files.stored(contents.ino), bytes(data))
        contents.release()
        assert_same(
            b"".join(files.again(contents.ino).read(0, 4 * MIB, BlockReader(files.shared.reading))), bytes(data)
        )
    own_server.remember()


@pytest.mark.slow
def test_a_commit_notices_that_the_server_has_crashed_since_the_upload(own_server, own, tmp_path):
    """
    It is refused before it has committed anything, and succeeds with the same bytes, which the stage still has.
    """
    with pgstore.Client(own) as client:
        files = StagedFiles(own, client, "volume", "r", tmp_path)
        contents = files.create()
        contents.write(0, b"a" * MIB)
        contents.upload()
        own_server.kill()
        own_server.start()

        with pytest.raises(pgstore.errors.StaleFile):
            files.commit(contents)
        contents.not_committed()
        assert_same(files.stored(contents.ino), b"")
        files.keep(contents)

        assert_same(files.stored(contents.ino), b"a" * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volume", "nfs"])
def test_a_restart_of_the_server_is_waited_for(own_server, own, tmp_path, kind):
    with pgstore.Client(own) as client:
        files = StagedFiles(own, client, kind, "r", tmp_path)
        contents = files.create()
        file = ContentsFile(contents, RDWR)
        file.write(0, b"a" * MIB)
        file.sync()
        file.write(MIB, b"b" * MIB)
        own_server.terminate(signal.SIGINT)
        sync = Background(file.sync)
        until(lambda: contents._uploading)
        own_server.start()
        sync.result()
        files.keep(contents)

        assert_same(files.stored(contents.ino), b"a" * MIB + b"b" * MIB)


def test_a_read_is_tried_again_when_its_connection_breaks(far, proxy):
    contents = far.create()
    contents.write(0, random.Random(3).randbytes(5 * MIB))
    far.keep(contents)
    contents.release()
    contents = far.again(contents.ino)
    file = ContentsFile(contents, 0)

    proxy.cut_after(from_server=MIB)
    found = b"".join(map(bytes, file.read(0, 5 * MIB)))

    assert proxy.connections_cut > 0
    assert_same(found, random.Random(3).randbytes(5 * MIB))


def test_a_download_over_several_connections_survives_their_loss(database, proxy: Proxy, tmp_path):
    data = random.Random(4).randbytes(MIB) * 70
    with pgstore.Client(database) as near, pgstore.Volume.ephemeral(client=near) as volume:
        with volume.open("file", "wb") as file:
            file.write(data)
        with pgstore.Client(proxy.url(database)) as client:
            there = pgstore.Volume.from_id(volume.object_id, client=client)
            there.hydrate()
            proxy.cut_after(from_server=20 * MIB)
            there.get_file("file", tmp_path / "file")

        assert proxy.connections_cut > 0
        assert_same((tmp_path / "file").read_bytes(), data)
