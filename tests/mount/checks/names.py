"""Names: looking up, making, linking, renaming, removing."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from tests.mount.checks.tools import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    checks_of,
    fails,
    file_of,
    opened,
    renameat2,
    umask,
)

NOT_COUNTED = 1  # links of a directory, where the file system does not count what is in it (as btrfs)


def check_a_missing_name_is_enoent(path: Path) -> None:
    fails(errno.ENOENT, os.stat, path / "missing")
    fails(errno.ENOENT, os.stat, path / "missing")  # from the kernel's memory
    fails(errno.ENOENT, os.open, path / "missing", os.O_RDONLY)
    fails(errno.ENOENT, os.mkdir, path / "missing" / "below")
    fails(errno.ENOENT, os.unlink, path / "missing")
    fails(errno.ENOENT, os.rmdir, path / "missing")
    fails(errno.ENOENT, os.rename, path / "missing", path / "new")
    fails(errno.ENOENT, os.link, path / "missing", path / "new")
    fails(errno.ENOENT, os.truncate, path / "missing", 0)
    fails(errno.ENOENT, os.chmod, path / "missing", 0o600)

    file_of(path / "missing", b"here")

    assert (path / "missing").read_bytes() == b"here"


def check_below_a_file_is_enotdir(path: Path) -> None:
    file = file_of(path / "file")

    fails(errno.ENOTDIR, os.stat, file / "below")
    fails(errno.ENOTDIR, os.mkdir, file / "below")
    fails(errno.ENOTDIR, os.listdir, file)
    fails(errno.ENOTDIR, os.open, file, os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.ENOTDIR, os.rmdir, file)


def check_names_have_up_to_255_bytes(path: Path) -> None:
    name = "ä" * 127 + "b"
    file_of(path / name, b"long")

    assert os.listdir(path) == [name]
    assert (path / name).read_bytes() == b"long"
    for too_long in ("n" * 256, "n" * 1025):
        fails(errno.ENAMETOOLONG, os.stat, path / too_long)
        fails(errno.ENAMETOOLONG, os.mkdir, path / too_long)
        fails(errno.ENAMETOOLONG, os.open, path / too_long, os.O_CREAT | os.O_WRONLY)
        fails(errno.ENAMETOOLONG, os.symlink, "target", path / too_long)
        fails(errno.ENAMETOOLONG, os.rename, path / name, path / too_long)
        fails(errno.ENAMETOOLONG, os.link, path / name, path / too_long)


def check_names_are_bytes(path: Path) -> None:
    names = [b"\xff\xfe", b"a\nb", b"*", b" ", b"\\040", b"\xc3\xa4", b"a\xcc\x88", b"A", b"a", b"...", b"-"]
    for name in names:
        os.mkdir(os.fsencode(path) + b"/" + name)

    assert sorted(os.listdir(os.fsencode(path))) == sorted(names)


def check_mkdir(path: Path) -> None:
    links = os.stat(path).st_nlink
    with umask(0o027):
        os.mkdir(path / "d", 0o777)
    found = os.stat(path / "d")

    assert stat.S_ISDIR(found.st_mode)
    assert stat.S_IMODE(found.st_mode) & 0o777 == 0o750
    assert found.st_uid == os.geteuid()
    assert found.st_nlink in (2, NOT_COUNTED)
    assert os.stat(path).st_nlink in (links + 1, NOT_COUNTED)
    assert os.listdir(path / "d") == []
    fails(errno.EEXIST, os.mkdir, path / "d")
    file_of(path / "file")
    fails(errno.EEXIST, os.mkdir, path / "file")
    os.symlink("nowhere", path / "dangling")
    fails(errno.EEXIST, os.mkdir, path / "dangling")


def check_rmdir(path: Path) -> None:
    links = os.stat(path).st_nlink
    os.mkdir(path / "d")
    file_of(path / "d" / "file")

    fails((errno.ENOTEMPTY, errno.EEXIST), os.rmdir, path / "d")
    os.unlink(path / "d" / "file")
    fails(errno.EINVAL, os.rmdir, f"{path}/d/.")
    os.rmdir(path / "d")

    fails(errno.ENOENT, os.stat, path / "d")
    assert os.stat(path).st_nlink in (links, NOT_COUNTED)


def check_a_removed_directory_that_is_open_is_empty(path: Path) -> None:
    os.mkdir(path / "d")
    with opened(path / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir(path / "d")

        assert os.fstat(fd).st_nlink == 0
        fails(errno.ENOENT, os.open, "file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
        fails(errno.ENOENT, os.mkdir, "below", dir_fd=fd)


def check_open_with_o_creat(path: Path) -> None:
    with umask(0o022), opened(path / "file", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o666) as fd:
        os.write(fd, b"contents")
        found = os.fstat(fd)
    assert stat.S_IMODE(found.st_mode) == 0o644
    assert found.st_nlink == 1

    fails(errno.EEXIST, os.open, path / "file", os.O_CREAT | os.O_WRONLY | os.O_EXCL)
    with opened(path / "file", os.O_CREAT | os.O_RDWR, 0o600) as fd:
        assert os.read(fd, 100) == b"contents"
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o644
    with opened(path / "file", os.O_CREAT | os.O_WRONLY | os.O_TRUNC):
        assert os.stat(path / "file").st_size == 0
    fails(errno.EISDIR, os.open, path, os.O_WRONLY)
    fails(errno.EISDIR, os.open, path, os.O_CREAT | os.O_RDONLY)
    fails((errno.EISDIR, errno.EOPNOTSUPP), os.open, path, os.O_TMPFILE | os.O_RDWR)


def check_a_file_created_without_write_permission_may_be_written_by_its_maker(path: Path) -> None:
    with opened(path / "file", os.O_CREAT | os.O_RDWR, 0o444) as fd:
        os.write(fd, b"contents")
        assert os.pread(fd, 100, 0) == b"contents"


def check_symbolic_links(path: Path) -> None:
    os.symlink("target", path / "link")
    os.symlink("loop", path / "loop")

    assert os.readlink(path / "link") == "target"
    found = os.lstat(path / "link")
    assert (stat.S_ISLNK(found.st_mode), found.st_size) == (True, 6)
    fails(errno.ENOENT, os.stat, path / "link")
    fails(errno.EEXIST, os.symlink, "other", path / "link")
    fails(errno.EEXIST, os.open, path / "link", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    fails(errno.ELOOP, os.open, path / "link", os.O_RDONLY | os.O_NOFOLLOW)
    fails(errno.ELOOP, os.stat, path / "loop")
    fails(errno.EINVAL, os.readlink, path)
    with opened(path / "link", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"through the link")
    assert (path / "target").read_bytes() == b"through the link"
    os.unlink(path / "link")
    assert (path / "target").exists()

    longest = "t" * 4095
    os.symlink(longest, path / "longest")
    assert os.readlink(path / "longest") == longest
    fails(errno.ENAMETOOLONG, os.symlink, longest + "t", path / "longer")


def check_hard_links_are_one_file(path: Path) -> None:
    first, second = file_of(path / "first", b"1"), path / "second"
    os.mkdir(path / "d")
    os.link(first, second)
    os.link(first, path / "d" / "third")

    assert os.stat(first).st_nlink == 3
    assert os.stat(first).st_ino == os.stat(second).st_ino
    with opened(second, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"22")
    assert first.read_bytes() == b"122"
    assert os.stat(path / "d" / "third").st_size == 3
    os.chmod(second, 0o600)
    assert stat.S_IMODE(os.stat(first).st_mode) == 0o600
    os.unlink(first)
    assert os.stat(second).st_nlink == 2
    assert second.read_bytes() == b"122"

    fails(errno.EEXIST, os.link, second, path / "d")
    fails(errno.EPERM, os.link, path / "d", path / "e")
    fails(errno.ENOENT, os.link, second, path / "missing" / "name")


def check_a_hard_link_to_a_symbolic_link_is_one(path: Path) -> None:
    os.symlink("nowhere", path / "link")
    os.link(path / "link", path / "again", follow_symlinks=False)

    assert os.readlink(path / "again") == "nowhere"
    assert os.lstat(path / "again").st_nlink == 2


def check_fifos_and_sockets_are_names(path: Path) -> None:
    os.mkfifo(path / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "s"))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path / "s"))

    assert stat.S_ISFIFO(os.stat(path / "fifo").st_mode)
    assert stat.S_ISSOCK(os.stat(path / "s").st_mode)
    with opened(path / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader, opened(path / "fifo", os.O_WRONLY) as writer:
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"
    os.mknod(path / "file", 0o640 | stat.S_IFREG)
    assert stat.S_ISREG(os.stat(path / "file").st_mode)
    fails(errno.EEXIST, os.mkfifo, path / "fifo")


def check_unlink(path: Path) -> None:
    file_of(path / "file")
    os.mkdir(path / "d")

    os.unlink(path / "file")

    fails(errno.ENOENT, os.stat, path / "file")
    fails((errno.EISDIR, errno.EPERM), os.unlink, path / "d")
    assert os.listdir(path) == ["d"]


def check_rename_replaces(path: Path) -> None:
    file_of(path / "old", b"old")
    file_of(path / "new", b"new")
    ino = os.stat(path / "old").st_ino

    os.rename(path / "old", path / "new")

    assert os.listdir(path) == ["new"]
    assert (path / "new").read_bytes() == b"old"
    assert os.stat(path / "new").st_ino == ino


def check_rename_of_directories(path: Path) -> None:
    for name in ("a", "b", "full"):
        os.mkdir(path / name)
    file_of(path / "full" / "file")
    file_of(path / "a" / "inside", b"inside")
    file_of(path / "file")
    links = os.stat(path).st_nlink

    fails((errno.ENOTEMPTY, errno.EEXIST), os.rename, path / "a", path / "full")
    fails(errno.EISDIR, os.rename, path / "file", path / "b")
    fails(errno.ENOTDIR, os.rename, path / "a", path / "file")
    fails(errno.EINVAL, os.rename, path / "a", path / "a" / "below")
    os.rename(path / "a", path / "b")
    assert (path / "b" / "inside").read_bytes() == b"inside"
    assert os.stat(path).st_nlink in (links - 1, NOT_COUNTED)
    os.rename(path / "b", path / "full" / "b")
    assert os.stat(path).st_nlink in (links - 2, NOT_COUNTED)
    assert os.stat(path / "full").st_nlink in (3, NOT_COUNTED)
    assert os.stat(path / "full" / "b" / "..").st_ino == os.stat(path / "full").st_ino


def check_rename_of_a_file_to_another_of_its_names_does_nothing(path: Path) -> None:
    file_of(path / "first", b"1")
    os.link(path / "first", path / "second")

    os.rename(path / "first", path / "second")
    os.rename(path / "first", path / "first")

    assert sorted(os.listdir(path)) == ["first", "second"]


def check_rename_over_an_open_file_keeps_it_for_who_has_it_open(path: Path) -> None:
    file_of(path / "old", b"old")
    file_of(path / "new", b"new")
    with opened(path / "new", os.O_RDONLY) as fd:
        os.rename(path / "old", path / "new")

        assert os.read(fd, 100) == b"new"
        assert os.fstat(fd).st_nlink == 0
    assert (path / "new").read_bytes() == b"old"


def check_renameat2_noreplace(path: Path) -> None:
    file_of(path / "old", b"old")
    file_of(path / "new", b"new")

    fails(errno.EEXIST, renameat2, path / "old", path / "new", RENAME_NOREPLACE)
    renameat2(path / "old", path / "fresh", RENAME_NOREPLACE)

    assert (path / "fresh").read_bytes() == b"old"
    assert (path / "new").read_bytes() == b"new"
    fails(errno.EINVAL, renameat2, path / "fresh", path / "other", RENAME_NOREPLACE | RENAME_EXCHANGE)


def check_renameat2_exchange(path: Path) -> None:
    file_of(path / "file", b"file")
    os.mkdir(path / "d")
    os.mkdir(path / "d" / "inner")
    file_of(path / "d" / "inner" / "deep", b"deep")

    fails(errno.ENOENT, renameat2, path / "file", path / "missing", RENAME_EXCHANGE)
    fails(errno.EINVAL, renameat2, path / "d", path / "d" / "inner", RENAME_EXCHANGE)
    renameat2(path / "file", path / "d" / "inner", RENAME_EXCHANGE)

    assert (path / "d" / "inner").read_bytes() == b"file"
    assert (path / "file" / "deep").read_bytes() == b"deep"
    assert os.stat(path / "file" / "..").st_ino == os.stat(path).st_ino
    assert os.stat(path / "d").st_nlink in (2, NOT_COUNTED)


def check_times_of_directories(path: Path) -> None:
    file_of(path / "file")
    for change in (
        lambda: file_of(path / "new"),
        lambda: os.rename(path / "new", path / "newer"),
        lambda: os.link(path / "file", path / "linked"),
        lambda: os.symlink("x", path / "symbolic"),
        lambda: os.mkdir(path / "d"),
        lambda: os.rmdir(path / "d"),
        lambda: os.unlink(path / "newer"),
    ):
        os.utime(path, ns=(1, 1))
        change()
        found = os.stat(path)
        assert found.st_mtime_ns > 1
        assert found.st_ctime_ns >= found.st_mtime_ns


CHECKS = checks_of(globals())
