"""Permissions: what users may not do, whom new files belong to, which bits a change of a file takes away.

They need a process that is root, and become other users for a while. Owners and modes of the mount must be those that are set.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tests.mount.checks.tools import OTHER, USER, checks_of, fails, fallocate, file_of, opened, user


def check_modes_are_obeyed(path: Path) -> None:
    file = file_of(path / "file", b"secret")
    os.chmod(file, 0o600)
    os.mkdir(path / "closed", 0o700)
    file_of(path / "closed" / "inside")
    os.mkdir(path / "unlistable", 0o711)
    file_of(path / "unlistable" / "known", b"known")

    with user():
        fails(errno.EACCES, os.open, file, os.O_RDONLY)
        fails(errno.EACCES, os.open, file, os.O_WRONLY)
        fails(errno.EACCES, os.truncate, file, 0)
        fails(errno.EACCES, os.stat, path / "closed" / "inside")
        fails(errno.EACCES, os.listdir, path / "closed")
        fails(errno.EACCES, os.listdir, path / "unlistable")
        assert (path / "unlistable" / "known").read_bytes() == b"known"
        fails(errno.EACCES, os.unlink, path / "unlistable" / "known")
        fails(errno.EACCES, os.mkdir, path / "unlistable" / "new")
        fails(errno.EACCES, os.rename, path / "unlistable" / "known", path / "unlistable" / "new")
        fails(errno.EACCES, os.symlink, "x", path / "unlistable" / "new")
        fails((errno.EACCES, errno.EPERM), os.link, path / "unlistable" / "known", path / "unlistable" / "new")
        fails(errno.EACCES, os.open, path / "unlistable" / "new", os.O_CREAT | os.O_WRONLY)
        fails(errno.EPERM, os.chmod, file, 0o666)
        fails(errno.EPERM, os.chown, file, USER, USER)
        fails(errno.EPERM, os.utime, file, ns=(1, 1))
        fails(errno.EACCES, os.utime, file)


def check_only_the_owner_changes_the_mode_and_nobody_gives_away(path: Path) -> None:
    file = file_of(path / "file")
    os.chown(file, USER, USER)
    with user(groups=(USER, OTHER)):
        os.chmod(file, 0o640)
        os.chown(file, -1, OTHER)
        fails(errno.EPERM, os.chown, file, OTHER, -1)
        fails(errno.EPERM, os.chown, file, -1, 1)
    found = os.stat(file)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, OTHER, 0o640)


def check_new_files_belong_to_who_makes_them(path: Path) -> None:
    os.chmod(path, 0o777)
    with user(USER, OTHER):
        file_of(path / "file")
        os.mkdir(path / "d")
        os.symlink("x", path / "link")
        os.mkfifo(path / "fifo")
    for name in ("file", "d", "link", "fifo"):
        found = os.lstat(path / name)
        assert (found.st_uid, found.st_gid) == (USER, OTHER)


def check_directories_with_setgid_give_their_group(path: Path) -> None:
    os.chown(path, 0, OTHER)
    os.chmod(path, 0o2777)
    with user(USER, USER):
        file_of(path / "file")
        os.mkdir(path / "d")
        os.symlink("x", path / "link")
        file_of(path / "d" / "deep")

    for name in ("file", "d", "link", "d/deep"):
        assert os.lstat(path / name).st_gid == OTHER
    assert os.stat(path / "d").st_mode & stat.S_ISGID
    assert not os.stat(path / "file").st_mode & stat.S_ISGID


def check_sticky_directories(path: Path) -> None:
    os.chmod(path, 0o1777)
    mine = file_of(path / "mine")
    os.chown(mine, USER, USER)
    theirs = file_of(path / "theirs")
    os.chown(theirs, OTHER, OTHER)
    os.chmod(theirs, 0o666)

    with user():
        fails(errno.EPERM, os.unlink, theirs)
        fails(errno.EPERM, os.rename, theirs, path / "new")
        fails(errno.EPERM, os.rename, mine, theirs)
        os.rename(mine, path / "new")
        os.unlink(path / "new")


def check_users_lose_setuid_by_writing(path: Path) -> None:
    file = file_of(path / "file", b"contents")
    os.chown(file, USER, USER)

    def write() -> None:
        with opened(file, os.O_WRONLY) as fd:
            os.write(fd, b"c")

    def allocate() -> None:
        with opened(file, os.O_WRONLY) as fd:
            fallocate(fd, 0, 0, 20)

    for change in (
        write,
        allocate,
        lambda: os.truncate(file, 3),
        lambda: os.close(os.open(file, os.O_WRONLY | os.O_TRUNC)),
    ):
        os.chmod(file, 0o6777)
        with user():
            change()
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o777

    os.chmod(file, 0o6777)
    write()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o6777


def check_chown_takes_setuid_away(path: Path) -> None:
    file = file_of(path / "file")
    os.chmod(file, 0o6755)
    os.chown(file, USER, USER)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o755
    os.chmod(file, 0o6755)
    with user():
        os.chown(file, -1, -1)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o755

    os.chmod(path, 0o2755)
    os.chown(path, USER, OTHER)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o2755


def check_setgid_of_a_group_that_one_is_not_in_is_refused(path: Path) -> None:
    file = file_of(path / "file")
    os.chown(file, USER, OTHER)
    with user(USER, USER):
        os.chmod(file, 0o2755)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o755


def check_group_and_other_bits(path: Path) -> None:
    file = file_of(path / "file", b"x")
    os.chown(file, 0, OTHER)
    os.chmod(file, 0o604)
    with user(USER, OTHER):
        fails(errno.EACCES, os.open, file, os.O_RDONLY)
    with user(USER, USER, groups=(OTHER,)):
        fails(errno.EACCES, os.open, file, os.O_RDONLY)
    with user(USER, USER):
        assert file.read_bytes() == b"x"
    os.chmod(file, 0o640)
    with user(USER, USER, groups=(OTHER,)):
        assert file.read_bytes() == b"x"


def check_owners_have_32_bits(path: Path) -> None:
    file = file_of(path / "file")
    os.chown(file, 4_000_000_000, 4_294_967_294)
    found = os.stat(file)

    assert (found.st_uid, found.st_gid) == (4_000_000_000, 4_294_967_294)


def check_device_nodes_are_names_that_open_nothing(path: Path) -> None:
    for kind, number in ((stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(4000, 70_000))):
        node = path / f"{kind}"
        os.mknod(node, kind | 0o666, number)
        found = os.stat(node)
        assert (stat.S_IFMT(found.st_mode), found.st_rdev) == (kind, number)
        fails(errno.EACCES, os.open, node, os.O_RDONLY)  # the mount is nodev


def check_trusted_extended_attributes_are_roots(path: Path) -> None:
    os.chmod(path, 0o777)
    os.setxattr(path, "trusted.x", b"1")
    with user():
        fails((errno.EPERM, errno.ENODATA), os.getxattr, path, "trusted.x")
        fails(errno.EPERM, os.setxattr, path, "trusted.x", b"2")
    assert os.getxattr(path, "trusted.x") == b"1"


CHECKS = checks_of(globals())
