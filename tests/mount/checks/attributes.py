"""Attributes: modes, times, sizes, extended ones; what statvfs(3) says."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

from tests.mount.checks.tools import checks_of, fails, file_of, getxattr, opened

SECOND = 1_000_000_000


def check_chmod(path: Path) -> None:
    file = file_of(path / "file")
    for mode in (0o000, 0o644, 0o4755, 0o1777, 0o777):
        os.chmod(file, mode)
        assert stat.S_IMODE(os.stat(file).st_mode) == mode
    with opened(file, os.O_RDONLY) as fd:
        os.fchmod(fd, 0o640)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    os.chmod(path, 0o1755)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o1755


def check_times_have_nanoseconds(path: Path) -> None:
    file = file_of(path / "file")
    for atime, mtime in ((1_234_567_890_123_456_789, 987_654_321_000_000_001), (0, 1), (1, 4_102_444_800 * SECOND + 5)):
        os.utime(file, ns=(atime, mtime))
        found = os.stat(file)
        assert (found.st_atime_ns, found.st_mtime_ns) == (atime, mtime)


def check_times_before_1970(path: Path) -> None:
    file = file_of(path / "file")
    os.utime(file, ns=(-1, -1_500_000_000))

    found = os.stat(file)
    assert (found.st_atime_ns, found.st_mtime_ns) == (-1, -1_500_000_000)


def check_times_of_a_symbolic_link_are_its_own(path: Path) -> None:
    file_of(path / "file")
    os.symlink("file", path / "link")
    before = os.stat(path / "file")

    os.utime(path / "link", ns=(5, 6), follow_symlinks=False)

    assert os.lstat(path / "link").st_mtime_ns == 6
    assert os.stat(path / "file").st_mtime_ns == before.st_mtime_ns


def check_time_now(path: Path) -> None:
    file = file_of(path / "file")
    os.utime(file, ns=(1, 1))
    os.utime(file)

    assert abs(os.stat(file).st_mtime - time.time()) < 30


def check_a_write_sets_mtime_and_a_read_leaves_atime(path: Path) -> None:
    file = file_of(path / "file", b"contents")
    os.utime(file, ns=(1, 1))
    changed = os.stat(file).st_ctime_ns
    file.read_bytes()
    assert os.stat(file).st_mtime_ns == 1
    with opened(file, os.O_WRONLY) as fd:
        os.write(fd, b"C")
    found = os.stat(file)
    assert found.st_mtime_ns > 1
    assert found.st_ctime_ns >= changed
    os.utime(file, ns=(1, 1))
    os.truncate(file, 3)
    assert os.stat(file).st_mtime_ns > 1


def check_every_change_sets_ctime(path: Path) -> None:
    file = file_of(path / "file", b"contents")
    for change in (
        lambda: os.chmod(file, 0o600),
        lambda: os.chown(file, -1, os.getegid()),
        lambda: os.utime(file, ns=(1, 1)),
        lambda: os.link(file, path / "link"),
        lambda: os.unlink(path / "link"),
        lambda: os.setxattr(file, "user.x", b"1"),
        lambda: os.removexattr(file, "user.x"),
        lambda: os.truncate(file, 2),
    ):
        before = os.stat(file).st_ctime_ns
        time.sleep(0.005)  # longer than a tick of the kernel's clock
        change()
        assert os.stat(file).st_ctime_ns > before


def check_the_mode_of_new_files_is_that_asked_for(path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(os.open(path / "file", os.O_CREAT | os.O_WRONLY, 0o4751))
        os.mkdir(path / "d", 0o1733)
        os.mkfifo(path / "fifo", 0o622)
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(path / "file").st_mode) == 0o4751
    assert stat.S_IMODE(os.stat(path / "d").st_mode) == 0o1733
    assert stat.S_IMODE(os.stat(path / "fifo").st_mode) == 0o622


def check_extended_attributes(path: Path) -> None:
    file = file_of(path / "file")
    assert os.listxattr(file) == []
    os.setxattr(file, "user.first", b"one")
    os.setxattr(file, "user.binary", bytes(range(256)))
    os.setxattr(file, "user.empty", b"")
    os.setxattr(path, "user.of_directory", b"d")

    assert sorted(os.listxattr(file)) == ["user.binary", "user.empty", "user.first"]
    assert os.getxattr(file, "user.binary") == bytes(range(256))
    assert os.getxattr(file, "user.empty") == b""
    assert os.getxattr(path, "user.of_directory") == b"d"
    os.setxattr(file, "user.first", b"two")
    assert os.getxattr(file, "user.first") == b"two"
    os.removexattr(file, "user.first")
    fails(errno.ENODATA, os.getxattr, file, "user.first")
    fails(errno.ENODATA, os.removexattr, file, "user.first")
    fails(errno.ENODATA, os.setxattr, file, "user.first", b"1", os.XATTR_REPLACE)
    fails(errno.EEXIST, os.setxattr, file, "user.empty", b"1", os.XATTR_CREATE)
    assert getxattr(file, "user.binary", 0) == 256
    fails(errno.ERANGE, getxattr, file, "user.binary", 255)
    fails(errno.E2BIG, os.setxattr, file, "user.large", bytes(65537))
    fails((errno.EOPNOTSUPP, errno.EPERM), os.setxattr, file, "system.unknown", b"1")
    os.symlink("file", path / "link")
    fails(errno.EPERM, os.setxattr, path / "link", "user.x", b"1", follow_symlinks=False)


def check_a_rename_keeps_the_extended_attributes(path: Path) -> None:
    file = file_of(path / "file")
    os.setxattr(file, "user.kept", b"yes")
    os.rename(file, path / "new")

    assert os.getxattr(path / "new", "user.kept") == b"yes"


def check_statvfs(path: Path) -> None:
    found = os.statvfs(path)

    assert found.f_namemax == 255
    assert found.f_bsize >= 512
    assert found.f_blocks >= found.f_bfree >= found.f_bavail > 0
    assert found.f_files >= found.f_ffree > 0


def check_inode_numbers_agree(path: Path) -> None:
    file = file_of(path / "file")
    with opened(file, os.O_RDONLY) as fd, os.scandir(path) as entries:
        assert os.fstat(fd).st_ino == os.stat(file).st_ino == next(entries).inode()
    assert os.stat(path / ".").st_ino == os.stat(path).st_ino


CHECKS = checks_of(globals())
