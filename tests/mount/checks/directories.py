"""Directories as readdir(3) shows them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from tests.mount.checks.tools import checks_of, file_of, libc


class _Entry(ctypes.Structure):
    """struct dirent of 64-bit Linux."""

    _fields_ = [
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    ]


libc.opendir.restype = ctypes.c_void_p
libc.readdir.argtypes = [ctypes.c_void_p]
libc.readdir.restype = ctypes.POINTER(_Entry)
libc.telldir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.rewinddir.argtypes = [ctypes.c_void_p]
libc.closedir.argtypes = [ctypes.c_void_p]


class Directory:
    """opendir(3) and its family, which Python has not."""

    def __init__(self, path: Path) -> None:
        self._stream = libc.opendir(os.fsencode(path))
        assert self._stream

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        libc.closedir(self._stream)

    def read(self) -> tuple[bytes, int] | None:
        """The next name, and its inode."""
        entry = libc.readdir(self._stream)
        return (entry.contents.d_name, entry.contents.d_ino) if entry else None

    def rest(self) -> list[bytes]:
        found = []
        while entry := self.read():
            found.append(entry[0])
        return found

    def tell(self) -> int:
        return int(libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        libc.seekdir(self._stream, place)

    def rewind(self) -> None:
        libc.rewinddir(self._stream)


def check_a_listing_has_each_name_once_and_the_dots(path: Path) -> None:
    names = {b"n%d" % i for i in range(1200)}
    for name in names:
        os.close(os.open(os.fsencode(path) + b"/" + name, os.O_CREAT))
    with Directory(path) as directory:
        found = directory.rest()
    assert len(found) == len(set(found))
    assert set(found) == names | {b".", b".."}

    os.mkdir(path / "d")
    with Directory(path / "d") as directory:
        inodes = {entry[0]: entry[1] for entry in iter(directory.read, None)}
    assert inodes == {b".": os.stat(path / "d").st_ino, b"..": os.stat(path).st_ino}


def check_kinds_and_attributes_of_a_listing(path: Path) -> None:
    file_of(path / "file", b"12345")
    os.mkdir(path / "d")
    os.symlink("file", path / "link")
    os.mkfifo(path / "fifo")
    with os.scandir(path) as entries:
        found = {each.name: each for each in entries}

    assert found["file"].is_file(follow_symlinks=False)
    assert found["d"].is_dir(follow_symlinks=False)
    assert found["link"].is_symlink()
    assert not found["fifo"].is_file()
    assert found["file"].stat().st_size == 5


def check_seekdir_and_rewinddir(path: Path) -> None:
    for i in range(1400):
        os.close(os.open(path / f"{i:04}", os.O_CREAT))
    with Directory(path) as directory:
        places = []
        names = []
        while True:
            place = directory.tell()
            if (entry := directory.read()) is None:
                break
            places.append(place)
            names.append(entry[0])
        assert len(names) == 1402
        for index in (1399, 5, 700, 1001, 1002, 1003, 0, 1, 2, 1401):
            directory.seek(places[index])
            assert directory.read() == (names[index], os.lstat(path / os.fsdecode(names[index])).st_ino)
        directory.seek(places[990])
        assert directory.rest() == names[990:]
        file_of(path / "new")
        directory.rewind()
        assert sorted(directory.rest()) == sorted([*names, b"new"])


def check_what_is_removed_while_it_is_read_hides_nothing_else(path: Path) -> None:
    for i in range(2200):
        os.close(os.open(path / f"{i:04}", os.O_CREAT))
    with Directory(path) as directory:
        seen = []
        while entry := directory.read():
            if entry[0] not in (b".", b".."):
                seen.append(entry[0])
                os.unlink(os.fsencode(path) + b"/" + entry[0])
    assert len(seen) == 2200
    assert os.listdir(path) == []


def check_what_stays_is_listed_once_while_others_come_and_go(path: Path) -> None:
    staying = {f"stay{i:04}" for i in range(900)}
    for name in staying:
        file_of(path / name)
    for i in range(200):
        file_of(path / f"go{i:04}")
    found = []
    with os.scandir(path) as entries:
        for number, entry in enumerate(entries):
            found.append(entry.name)
            if number % 4 == 0 and number // 4 < 200:
                os.unlink(path / f"go{number // 4:04}")
                file_of(path / f"come{number:05}")
    assert [name for name in found if name in staying] == sorted(staying) or set(found) >= staying
    assert len([name for name in found if name in staying]) == len(staying)


CHECKS = checks_of(globals())
