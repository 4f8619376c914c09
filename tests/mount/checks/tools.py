"""What the checks are written with."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Check = Callable[[Path], None]

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
USER = 65534  # nobody
OTHER = 65533


def fails(number: int | tuple[int, ...], call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """*call* fails with the errno *number*, or one of them."""
    numbers = number if isinstance(number, tuple) else (number,)
    expected = " or ".join(errno.errorcode[each] for each in numbers)
    try:
        result = call(*args, **kwargs)
    except OSError as exc:
        if exc.errno not in numbers:
            raise AssertionError(f"{errno.errorcode.get(exc.errno or 0, exc.errno)} instead of {expected}") from exc
    else:
        raise AssertionError(f"returned {result!r} instead of failing with {expected}")


@contextlib.contextmanager
def opened(path: Path | bytes | str, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def file_of(path: Path, contents: bytes = b"") -> Path:
    path.write_bytes(contents)
    return path


def renameat2(old: Path, new: Path, flags: int) -> None:
    _checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)))


def map_shared(fd: int, length: int) -> int:
    """The address of a map that no descriptor belongs to, unlike those of `mmap`."""
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(length), 3, 1, fd, ctypes.c_long(0))  # PROT_READ | PROT_WRITE, MAP_SHARED
    if address in (None, ctypes.c_void_p(-1).value):
        _checked(-1)
    assert isinstance(address, int)
    return address


def unmap(address: int, length: int) -> None:
    _checked(libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length)))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _checked(libc.fallocate(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(length)))


def syncfs(fd: int) -> None:
    _checked(libc.syncfs(fd))


def getxattr(path: Path, name: str, size: int) -> int:
    """getxattr(2) with room for *size* bytes."""
    room = ctypes.create_string_buffer(max(size, 1))
    libc.getxattr.restype = ctypes.c_ssize_t
    return _checked(int(libc.getxattr(os.fsencode(path), name.encode(), room, ctypes.c_size_t(size))))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@contextlib.contextmanager
def user(uid: int = USER, gid: int | None = None, groups: tuple[int, ...] = ()) -> Iterator[None]:
    """Be somebody else meanwhile. Only in a process that has one thread and is root."""
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(uid if gid is None else gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def checks_of(namespace: dict[str, Any]) -> list[Check]:
    """The checks of a module: its functions whose names begin with check_."""
    return [each for name, each in namespace.items() if name.startswith("check_")]
