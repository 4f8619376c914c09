"""Files of a mounted Volume that the kernel reads and writes itself, while they are written: what was written is found out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from typing import Any

import pytest

import pgstore
from tests.fixtures.trees import assert_sound
from tests.mount.checks.tools import map_shared, unmap
from tests.mount.conftest import daemon_pid
from tests.mount.test_volume import content, paths, until

MIB = 1 << 20
PROGRAM = """
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.write(fd, b"first ")  # with which the kernel asks for what it takes away of the mode
print("open", flush=True)
sys.stdin.readline()
os.write(fd, b"second")
print(os.pread(fd, 100, 0).decode(), flush=True)
"""


@pytest.fixture
def volume(client, store_name, database):
    volume = pgstore.Volume.from_name(store_name, create_if_missing=True, client=client)
    yield volume.hydrate()
    assert_sound(database, volume)


@pytest.fixture
def mount(volume, place, fuse):
    if os.geteuid() != 0:
        pytest.skip("the kernel lets only root pass files through")
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        pytest.skip("the kernel is too old")
    with contextlib.closing(volume.mount(place, mode="fuse", background_commits=None)) as mount:
        yield mount


@pytest.fixture
def chunks(sql, volume):
    """How many chunks there are of the volume's files."""
    return lambda: sql("SELECT count(*) FROM pgstore.chunk WHERE store_id = %s", int(volume.object_id[3:]))[0][0]


def is_served(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "T"


def test_what_is_being_written_is_written_and_read_while_nobody_serves(mount, place):
    """
    It would wait for ever if it came to the process that serves the mount.
    """
    pid = daemon_pid()
    program: Any = subprocess.Popen(
        [sys.executable, "-I", "-c", PROGRAM, str(place / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout.readline() == "open\n"
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: not is_served(pid))
            program.stdin.write("\n")
            program.stdin.flush()
            may_be_read, _, _ = select.select([program.stdout], [], [], 20)
            said = program.stdout.readline() if may_be_read else "nothing"
        finally:
            os.kill(pid, signal.SIGCONT)

    assert said == "first second\n"
    assert (place / "file").read_bytes() == b"first second"


def test_what_is_open_is_committed_as_far_as_it_is_written_and_only_what_changed_since_is_sent(
    volume_elsewhere, mount, place, chunks
):
    expected = bytearray(os.urandom(4 * MIB))
    with open(place / "file", "w+b", buffering=0) as file:
        file.write(expected)
        mount.commit()
        assert content(volume_elsewhere, "file") == expected
        before = chunks()

        file.seek(2 * MIB + 5)
        file.write(b"other")
        expected[2 * MIB + 5 : 2 * MIB + 10] = b"other"
        file.seek(0, os.SEEK_END)
        file.write(b"more")
        expected += b"more"
        mount.commit()

        assert content(volume_elsewhere, "file") == expected
        assert chunks() - before <= 2
        versions = len(volume_elsewhere.versions())
    mount.commit()

    assert len(volume_elsewhere.versions()) == versions
    assert (place / "file").read_bytes() == expected


def test_bytes_that_change_back_and_forth_are_committed(volume_elsewhere, mount, place):
    with open(place / "file", "wb", buffering=0) as file:
        for size in (10, MIB):
            for byte in (b"a", b"b", b"a"):
                os.pwrite(file.fileno(), byte * size, 0)
                os.fsync(file.fileno())
                mount.commit()
                assert content(volume_elsewhere, "file") == byte * size
            os.ftruncate(file.fileno(), size // 2)
            os.ftruncate(file.fileno(), size)
            mount.commit()
            assert content(volume_elsewhere, "file") == b"a" * (size // 2) + bytes(size // 2)
            os.pwrite(file.fileno(), b"a" * size, 0)
        mount.commit()
        assert content(volume_elsewhere, "file") == b"a" * MIB


def test_what_others_have_open_meanwhile_is_as_it_is_written(mount, place):
    with open(place / "file", "wb", buffering=0) as writer, open(place / "file", "rb", buffering=0) as reader:
        for number in range(50):
            writer.write(b"%09d\n" % number)
            assert os.stat(place / "file").st_size == 10 * (number + 1)
            assert reader.read() == b"%09d\n" % number
        modified = os.stat(place / "file").st_mtime_ns
        os.utime(place / "file", ns=(1, 1))
        assert os.stat(place / "file").st_mtime_ns == 1
        writer.write(b"x")
        assert os.stat(place / "file").st_mtime_ns >= modified

    assert os.stat(place / "file").st_size == 501


def test_what_the_kernel_has_read_before_is_not_shown_afterwards(mount, place):
    file = place / "file"
    file.write_bytes(b"a" * 5000)
    mount.commit()
    assert file.read_bytes() == b"a" * 5000
    assert os.stat(file).st_size == 5000

    with open(file, "r+b", buffering=0) as writer:
        writer.write(b"b" * 4000)
        assert file.read_bytes() == b"b" * 4000 + b"a" * 1000
        writer.seek(0, os.SEEK_END)
        writer.write(b"c" * 10_000)

    assert os.stat(file).st_size == 15_000
    assert file.read_bytes() == b"b" * 4000 + b"a" * 1000 + b"c" * 10_000


def test_a_map_that_is_written_to_after_the_last_close_is_committed_when_it_ends(volume, volume_elsewhere, place, fuse):
    if os.geteuid() != 0:
        pytest.skip("the kernel lets only root pass files through")
    with volume.mount(place, mode="fuse", background_commits=0.1) as path:
        fd = os.open(f"{path}/file", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"a" * 20_000)
        address = map_shared(fd, 20_000)
        os.close(fd)
        (place / "other").write_bytes(b"other")
        until(lambda: "other" in paths(volume_elsewhere))
        assert paths(volume_elsewhere) == ["other"], "it counts as open"

        ctypes.memmove(address, b"b" * 20_000, 20_000)
        unmap(address, 20_000)
        until(lambda: "file" in paths(volume_elsewhere))

    assert content(volume_elsewhere, "file") == b"b" * 20_000


def test_of_a_file_with_holes_only_the_bytes_are_sent(volume_elsewhere, mount, place, chunks):
    with open(place / "file", "wb", buffering=0) as file:
        os.ftruncate(file.fileno(), 1 << 34)
        os.pwrite(file.fileno(), b"middle", 1 << 33)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) <= 1 << 33
        mount.commit()
        versions = len(volume_elsewhere.versions())
    mount.commit()

    assert chunks() == 1
    assert volume_elsewhere.stat("file").size == 1 << 34
    with volume_elsewhere.open("file", "rb") as file:
        file.seek((1 << 33) - 1)
        assert file.read(8) == b"\0middle\0"
    assert len(volume_elsewhere.versions()) == versions


def test_a_file_that_is_opened_again_keeps_its_holes(mount, place):
    with open(place / "file", "wb", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * MIB, 10 * MIB)
    for _ in range(2):
        with open(place / "file", "r+b", buffering=0) as file:
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 10 * MIB
            os.pwrite(file.fileno(), b"y", 11 * MIB - 1)
        assert (place / "file").read_bytes() == bytes(10 * MIB) + b"x" * (MIB - 1) + b"y"


def test_what_is_removed_while_it_is_written_leaves_nothing(mount, place, chunks):
    with open(place / "file", "w+b", buffering=0) as file:
        file.write(b"gone" * MIB)
        os.unlink(place / "file")
        file.write(b"more")
        assert os.pread(file.fileno(), 8, 4 * MIB - 4) == b"gonemore"
        assert os.fstat(file.fileno()).st_nlink == 0
    mount.commit()

    until(lambda: chunks() == 0)


def test_small_files_are_not_passed_through_where_many_have_been_made(mount, place):
    """
    It takes longer than the few writes of such a file.
    """
    folder = f"/proc/{daemon_pid()}/fd"

    def staged():
        found = set()
        for fd in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(f"{folder}/{fd}"))
        return {path for path in found if "(deleted)" in path}

    others = staged()  # of mounts before this one, which somebody still uses

    def is_passed(name):
        with open(place / name, "wb"):
            return bool(staged() - others)

    assert is_passed("first.txt")
    for number in range(20):
        (place / f"{number}.txt").write_bytes(b"small")

    until(lambda: not is_passed("next.txt"))
    assert is_passed("other.bin")
    (place / "large.txt").write_bytes(bytes(5 * MIB))
    until(lambda: is_passed("again.txt"))
