"""Contents: reading, writing, truncating, holes, maps, copies."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import tempfile
import termios
from pathlib import Path

from tests.mount.checks.tools import (
    KEEP_SIZE,
    PUNCH_HOLE,
    ZERO_RANGE,
    checks_of,
    fails,
    fallocate,
    file_of,
    map_shared,
    opened,
    syncfs,
    unmap,
)

MIB = 1 << 20


def check_read_and_write(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        assert os.write(fd, b"0123456789") == 10
        assert os.pread(fd, 4, 3) == b"3456"
        assert os.pread(fd, 100, 8) == b"89"
        assert os.pread(fd, 100, 10) == b""
        assert os.pread(fd, 100, 10_000_000) == b""
        assert os.pwrite(fd, b"xx", 4) == 2
        assert os.lseek(fd, 0, os.SEEK_END) == 10
    assert (path / "file").read_bytes() == b"0123xx6789"
    with opened(path / "file", os.O_RDONLY) as fd:
        fails(errno.EBADF, os.write, fd, b"x")
        fails((errno.EBADF, errno.EINVAL), os.ftruncate, fd, 0)
    with opened(path / "file", os.O_WRONLY) as fd:
        fails(errno.EBADF, os.read, fd, 1)
    with opened(path, os.O_RDONLY) as fd:
        fails(errno.EISDIR, os.read, fd, 1)


def check_large_writes_and_reads(path: Path) -> None:
    data = os.urandom(3 * MIB + 4321)
    with opened(path / "file", os.O_CREAT | os.O_WRONLY) as fd:
        assert os.write(fd, data) == len(data)
    with opened(path / "file", os.O_RDONLY) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, len(data), 0) == data
        assert os.pread(fd, MIB, MIB - 7) == data[MIB - 7 : 2 * MIB - 7]


def check_a_gap_reads_as_zeros(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 5 * MIB)
        assert os.fstat(fd).st_size == 5 * MIB + 3
        assert os.pread(fd, 3, MIB - 1) == bytes(3)
        assert os.pread(fd, 10, 5 * MIB - 2) == b"\0\0end"


def check_o_append(path: Path) -> None:
    file = file_of(path / "file", b"start")
    with opened(file, os.O_WRONLY | os.O_APPEND) as first, opened(file, os.O_RDWR | os.O_APPEND) as second:
        os.write(first, b"-1")
        os.write(second, b"-2")
        os.lseek(first, 0, os.SEEK_SET)
        os.write(first, b"-3")
        assert os.pread(second, 100, 0) == b"start-1-2-3"


def check_truncate(path: Path) -> None:
    file = file_of(path / "file", b"x" * 100_000)

    os.truncate(file, 70_001)
    assert os.stat(file).st_size == 70_001
    os.truncate(file, 100_000)
    assert file.read_bytes() == b"x" * 70_001 + bytes(29_999)
    with opened(file, os.O_RDWR) as fd:
        os.ftruncate(fd, 3)
        assert os.pread(fd, 10, 0) == b"xxx"
        os.ftruncate(fd, 5)
        assert os.pread(fd, 10, 0) == b"xxx\0\0"
        fails(errno.EINVAL, os.ftruncate, fd, -1)
    fails(errno.EISDIR, os.truncate, path, 0)
    fails(errno.EINVAL, os.truncate, file, -1)
    with opened(file, os.O_RDONLY | os.O_TRUNC):
        assert os.stat(file).st_size == 0


def check_a_size_above_all_limits_is_efbig(path: Path) -> None:
    file = file_of(path / "file", b"x")

    fails((errno.EFBIG, errno.EINVAL), os.truncate, file, (1 << 63) - 1)
    with opened(file, os.O_RDWR) as fd:
        fails((errno.EFBIG, errno.EINVAL), os.pwrite, fd, b"x", (1 << 63) - 2)

    assert file.read_bytes() == b"x"


def check_an_unlinked_file_lives_while_it_is_open(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before")
        os.unlink(path / "file")
        assert os.listdir(path) == []
        os.write(fd, b" and after")
        assert os.pread(fd, 100, 0) == b"before and after"
        found = os.fstat(fd)
        assert (found.st_nlink, found.st_size) == (0, 16)
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 6)
        os.fsync(fd)
        assert os.pread(fd, 100, 0) == b"before"
        file_of(path / "file", b"another")
        assert os.pread(fd, 100, 0) == b"before"


def check_copies_of_a_descriptor_share_the_position(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        other = os.dup(fd)
        os.write(fd, b"one")
        os.write(other, b"two")
        os.close(other)
        assert os.pread(fd, 100, 0) == b"onetwo"


def check_what_is_closed_is_seen_by_who_opens(path: Path) -> None:
    for round_ in range(20):
        data = b"%d" % round_ * (round_ + 1)
        with opened(path / "file", os.O_CREAT | os.O_WRONLY | os.O_TRUNC) as fd:
            os.write(fd, data)
        assert (path / "file").read_bytes() == data


def check_fsync(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
        os.fsync(fd)
        os.fdatasync(fd)
        syncfs(fd)
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def check_fallocate(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"data")
        fallocate(fd, 0, 0, 100_000)
        assert os.fstat(fd).st_size == 100_000
        assert os.pread(fd, 6, 0) == b"data\0\0"
        fallocate(fd, KEEP_SIZE, 100_000, 50_000)
        assert os.fstat(fd).st_size == 100_000
        fallocate(fd, 0, 0, 10)
        assert os.fstat(fd).st_size == 100_000
        fails(errno.EINVAL, fallocate, fd, 0, 0, 0)
        fails(errno.EINVAL, fallocate, fd, 0, -1, 10)
        fails(errno.EOPNOTSUPP, fallocate, fd, 8, 0, 4096)  # FALLOC_FL_COLLAPSE_RANGE
    with opened(path / "file", os.O_RDONLY) as fd:
        fails(errno.EBADF, fallocate, fd, 0, 0, 10)


def check_punching_holes(path: Path) -> None:
    data = bytearray(os.urandom(400_000))
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, data)
        for offset, length in ((10, 20), (65_000, 200_000), (399_000, 10_000)):
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            end = min(offset + length, len(data))
            data[offset:end] = bytes(end - offset)
        assert os.fstat(fd).st_size == 400_000
        assert os.pread(fd, 500_000, 0) == data
        fallocate(fd, ZERO_RANGE, 390_000, 20_000)
        assert os.fstat(fd).st_size == 410_000
        assert os.pread(fd, 500_000, 0) == data[:390_000] + bytes(20_000)


def check_a_file_takes_what_is_written_to_it(path: Path) -> None:
    """
    By which `du` counts, and `cp` and `tar` look for holes at all.
    """
    with opened(path / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 100 * MIB)
        os.pwrite(fd, b"x" * MIB, 50 * MIB)
        assert MIB <= os.fstat(fd).st_blocks * 512 <= 3 * MIB
        os.fsync(fd)
        assert MIB <= os.fstat(fd).st_blocks * 512 <= 3 * MIB
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 50 * MIB, MIB)
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 <= 2 * MIB
    assert (path / "file").stat().st_blocks * 512 <= 2 * MIB
    (path / "whole").write_bytes(b"x" * 300_000)
    assert 300_000 <= (path / "whole").stat().st_blocks * 512 <= 2 * 300_000


def check_holes_are_found(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"x" * 100, 0)
        os.pwrite(fd, b"y" * 100, 8 * MIB)

        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        assert 100 <= hole <= 8 * MIB
        data = os.lseek(fd, hole, os.SEEK_DATA)
        assert hole <= data <= 8 * MIB
        assert os.lseek(fd, 8 * MIB, os.SEEK_HOLE) == 8 * MIB + 100
        fails(errno.ENXIO, os.lseek, fd, 8 * MIB + 100, os.SEEK_DATA)
        fails(errno.ENXIO, os.lseek, fd, 9 * MIB, os.SEEK_HOLE)


def check_copy_file_range(path: Path) -> None:
    data = os.urandom(300_000)
    file_of(path / "from", data)
    with opened(path / "from", os.O_RDWR) as source, opened(path / "to", os.O_CREAT | os.O_RDWR) as target:
        copied = 0
        while copied < len(data):
            count = os.copy_file_range(source, target, len(data) - copied, copied, copied)
            assert count > 0
            copied += count
        assert os.copy_file_range(source, target, 10, len(data), len(data)) == 0
        assert os.pread(target, len(data) + 1, 0) == data
        assert os.copy_file_range(source, target, 100, 1000, 5) == 100
        assert os.pread(target, 110, 0) == data[:5] + data[1000:1100] + data[105:110]
        assert os.copy_file_range(source, source, 100, 0, 200_000) == 100
        assert os.pread(source, 100, 200_000) == data[:100]
        fails(errno.EINVAL, os.copy_file_range, source, source, 1000, 0, 500)
    with opened(path / "to", os.O_RDONLY) as target, opened(path / "from", os.O_RDONLY) as source:
        fails(errno.EBADF, os.copy_file_range, source, target, 10)


def check_shared_maps(path: Path) -> None:
    data = bytearray(os.urandom(200_000))
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, data)
        with mmap.mmap(fd, 0) as mapped:
            assert mapped[:] == data
            mapped[70_000:70_005] = b"hello"
            data[70_000:70_005] = b"hello"
            assert os.pread(fd, len(data), 0) == data
            os.pwrite(fd, b"there", 100_000)
            data[100_000:100_005] = b"there"
            assert mapped[:] == data
            mapped.flush()
    assert (path / "file").read_bytes() == data


def check_a_map_that_is_written_counts_after_it_is_gone(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 10_000)
        mapped = mmap.mmap(fd, 0)
    mapped[5_000:5_004] = b"late"
    mapped.close()

    assert (path / "file").read_bytes() == bytes(5_000) + b"late" + bytes(4_996)
    assert os.stat(path / "file").st_size == 10_000


def check_private_maps_change_nothing(path: Path) -> None:
    file = file_of(path / "file", b"x" * 5_000)
    with opened(file, os.O_RDONLY) as fd, mmap.mmap(fd, 0, mmap.MAP_PRIVATE) as mapped:
        mapped[:5] = b"hello"
    assert file.read_bytes() == b"x" * 5_000


def check_a_map_is_written_to_after_the_file_was_closed(path: Path) -> None:
    """
    Python's maps keep a descriptor of their own; those of C programs don't.
    """
    file, expected = path / "file", bytearray(100_000)
    with opened(file, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, len(expected))
        address = map_shared(fd, len(expected))
    try:
        for offset, data in ((5_000, b"late"), (99_000, b"later")):
            ctypes.memmove(address + offset, data, len(data))
            expected[offset : offset + len(data)] = data
            assert file.read_bytes() == expected
        with opened(file, os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b"end")
        expected += b"end"
        ctypes.memmove(address, b"last", 4)
        expected[:4] = b"last"
    finally:
        unmap(address, len(expected))
    assert file.read_bytes() == expected


def check_a_map_of_what_is_open_for_appending(path: Path) -> None:
    file = file_of(path / "file", b"a" * 5_000)
    with opened(file, os.O_RDWR | os.O_APPEND) as fd, mmap.mmap(fd, 5_000) as mapped:
        mapped[:2] = b"bb"
        mapped.flush()
        os.write(fd, b"c")
        assert mapped[:3] == b"bba"
    assert file.read_bytes() == b"bb" + b"a" * 4_998 + b"c"


def check_locks(path: Path) -> None:
    file = file_of(path / "file", b"x")
    with opened(file, os.O_RDWR) as first, opened(file, os.O_RDWR) as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        fails(errno.EAGAIN, fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)

        fcntl.lockf(first, fcntl.LOCK_EX, 10, 0)
        child = os.fork()
        if child == 0:
            try:
                fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 20)
                fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
            except OSError as exc:
                os._exit(exc.errno or 0)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (errno.EAGAIN, errno.EACCES)


def check_another_file_system_is_exdev(path: Path) -> None:
    file = file_of(path / "file", b"x")
    with tempfile.TemporaryDirectory() as name:
        elsewhere = Path(name)
        if os.stat(elsewhere).st_dev == os.stat(path).st_dev:
            return
        fails(errno.EXDEV, os.rename, file, elsewhere / "file")
        fails(errno.EXDEV, os.link, file, elsewhere / "file")
        with opened(file, os.O_RDONLY) as source, opened(elsewhere / "copy", os.O_CREAT | os.O_WRONLY) as target:
            fails(errno.EXDEV, os.copy_file_range, source, target, 1)


def check_a_file_is_no_terminal_and_always_ready(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR) as fd:
        fails(errno.ENOTTY, fcntl.ioctl, fd, termios.TCGETS, bytes(64))
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        assert poll.poll(0) == [(fd, select.POLLIN | select.POLLOUT)]


def check_o_direct(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, 65536) as room:
        room[:] = b"d" * 65536
        assert os.writev(fd, [room]) == 65536
        room[:] = bytes(65536)
        assert os.preadv(fd, [room], 0) == 65536
        assert room[:] == b"d" * 65536


CHECKS = checks_of(globals())
