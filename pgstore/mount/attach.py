"""Mounting and unmounting: where the descriptor that a mount is served through comes from.

- Who may mount, as root may, calls mount(2).
- Others call `fusermount3`, which is setuid root, and hands the descriptor back over a socket (_FUSE_COMMFD).
- Where neither is possible, a process may have a namespace of its own, in which it may mount: see `namespace`.

All mounts are nosuid, nodev and default_permissions: the kernel checks permissions by what it is told of owners and modes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
from typing import Final, NamedTuple

from pgstore import errors
from pgstore.mount import mount_table, namespace
from pgstore.mount.mount_table import TYPE

_DEVICE: Final = "/dev/fuse"
_HELPER: Final = "fusermount3"
_HELPER_SECONDS: Final = 30
_SETTINGS: Final = "/etc/fuse.conf"

_READAHEAD_KIB: Final = 1024

# <sys/mount.h>
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MNT_DETACH: Final = 2


class Attached(NamedTuple):
    device: int
    """A descriptor to serve through; closing it ends the mount for all who use it."""
    path: str
    """Where it is mounted: absolute, without symbolic links."""


def is_possible() -> str | None:
    """Why nothing can be mounted here; None: something can."""
    if sys.platform != "linux":
        return "mounts need Linux"
    if not os.path.exists(_DEVICE):
        return f"{_DEVICE} does not exist: this machine has no FUSE, or keeps it from containers"
    if namespace.may_mount():
        try:
            os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
        except OSError as exc:
            return f"{_DEVICE} cannot be opened: {exc.strerror}"
        return None
    if shutil.which(_HELPER) is None:
        return f"who may not mount needs {_HELPER}, which is not installed (package fuse3)"
    if not namespace.may_gain_privileges():
        return f"this process may not mount, nor may {_HELPER} for it, as in a container without CAP_SYS_ADMIN"
    return None


def attach(
    path: str, *, name: str, read_only: bool = False, allow_others: bool | None = None, covers: bool = False
) -> Attached:
    """
    Mount at *path*, an empty directory.

    A mount of ours there that nobody serves any more is detached first.

    Args:
        name: what the list of mounts shows as the source.
        covers: *path* may be any directory; what is in it, or mounted there, is not seen any more.
        allow_others: whether other users may use it. None: if whoever mounts may allow that: root, and others where /etc/fuse.conf
            says user_allow_other.

    Raises:
        FileMissing, NotADirectory: *path* is none.
        DirectoryNotEmpty: it has entries, which nobody would see any more.
        FileFailed: something is mounted there already, or the system refuses.
        ConfigurationError: this user may not mount, and there is no `fusermount3`.
        TimedOut: `fusermount3` did not end.
    """
    path = os.path.realpath(path) if covers else usable(path)
    if namespace.may_mount():
        device = _mount(path, name, read_only, allow_others is not False)
    else:
        device = _mount_by_helper(
            path, name, read_only, _others_may_be_allowed() if allow_others is None else allow_others
        )
    return Attached(device, path)


def usable(path: str) -> str:
    """
    *path*, absolute and without symbolic links, if something can be mounted there; else an error, as in `attach`.
    """
    if not path:
        raise errors.FileMissing(
            "'' is no directory to mount at", path
        )  # realpath() takes it for the working directory
    resolved = os.path.realpath(path)
    detach_stale(resolved)
    if mount_table.mounts_at(resolved):
        raise errors.FileFailed(f"{path!r} is a mount already: unmount it first", path, errno=errno.EBUSY)
    try:
        kind = os.lstat(resolved).st_mode
        if not stat.S_ISDIR(kind):
            raise errors.NotADirectory(f"{path!r} is not a directory, and only a directory can be mounted over", path)
        with os.scandir(resolved) as entries:
            if next(entries, None) is not None:
                raise errors.DirectoryNotEmpty(
                    f"directory {path!r} is not empty: a mount would hide what is in it", path, errno=errno.ENOTEMPTY
                )
    except errors.Error:
        raise
    except FileNotFoundError as exc:
        raise errors.FileMissing(f"directory {path!r} to mount at: no such directory: make it first", path) from exc
    except OSError as exc:
        raise errors.of_local(exc, f"directory {path!r} to mount at", path) from exc
    return resolved


def detach_stale(path: str) -> None:
    """Detach mounts of ours at *path* that nobody serves any more."""
    while (found := mount_table.mounts_at(path)) and found[-1].type == TYPE and is_stale(path):
        detach(path)


def is_stale(path: str) -> bool:
    """Whether what is mounted at *path* is not served any more."""
    try:
        os.statvfs(path)  # not stat(2), which the kernel answers from its memory for a while
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def detach(path: str) -> None:
    """
    Unmount *path*: at once for who comes now, and for who has files open there once they are closed (umount2(2), MNT_DETACH).

    Raises:
        FileFailed: nothing is mounted there, or not by this user.
    """
    if namespace.may_mount():
        if _libc().umount2(os.fsencode(path), _MNT_DETACH) != 0:
            raise _failed(f"unmounting {path!r}", path)
        return
    _run_helper(["-u", "-z", "--", path], f"unmounting {path!r}", path)


def detach_unless_busy(path: str) -> bool:
    """
    Unmount *path*, unless somebody uses it. Returns whether nothing of ours is mounted there any more.

    Raises:
        FileFailed: this user may not unmount it.
    """
    if not any(mount.type == TYPE for mount in mount_table.mounts_at(path)):
        return True
    if namespace.may_mount():
        if _libc().umount2(os.fsencode(path), 0) == 0:
            return True
        if ctypes.get_errno() == errno.EBUSY:
            return False
        raise _failed(f"unmounting {path!r}", path)
    try:
        _run_helper(["-u", "--", path], f"unmounting {path!r}", path)
    except errors.FileFailed as exc:
        if "busy" in str(exc).lower():
            return False
        raise
    return True


def _mount(path: str, name: str, read_only: bool, allow_others: bool) -> int:
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise errors.of_local(exc, f"opening {_DEVICE}", _DEVICE) from exc
    options = (
        f"fd={device},rootmode={stat.S_IFDIR:o},user_id={os.geteuid()},group_id={os.getegid()},default_permissions"
    )
    if allow_others:
        options += ",allow_other"
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    if _libc().mount(name.encode(), os.fsencode(path), TYPE.encode(), flags, options.encode()) != 0:
        failure = _failed(f"mounting at {path!r}", path)
        os.close(device)
        raise failure
    _read_further_ahead(path)
    return device


def _read_further_ahead(path: str) -> None:
    """Than the 128 KiB that the kernel allows any device. More than that is not read in one request either. Only root may."""
    for mount in mount_table.mounts_at(path)[-1:]:
        with contextlib.suppress(OSError), open(f"/sys/class/bdi/{mount.device}/read_ahead_kb", "w") as setting:
            setting.write(str(_READAHEAD_KIB))


def _mount_by_helper(path: str, name: str, read_only: bool, allow_others: bool) -> int:
    kind, _, subtype = TYPE.partition(".")
    escaped = name.replace("\\", "\\\\").replace(",", "\\,")
    options = f"fsname={escaped},subtype={subtype},default_permissions,nosuid,nodev"
    options += (",ro" if read_only else "") + (",allow_other" if allow_others else "")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            _run_helper(["-o", options, "--", path], f"mounting at {path!r}", path, theirs)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise errors.FileFailed(f"mounting at {path!r}: {_HELPER} gave no descriptor of {kind}", path)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _run_helper(arguments: list[str], what: str, path: str, channel: socket.socket | None = None) -> None:
    program = shutil.which(_HELPER)
    if program is None:
        raise errors.ConfigurationError(is_possible() or f"{_HELPER} is not installed")
    environment = dict(os.environ)
    descriptors: tuple[int, ...] = ()
    if channel is not None:
        descriptors = (channel.fileno(),)
        environment["_FUSE_COMMFD"] = str(channel.fileno())
    try:
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise errors.TimedOut(f"{what}: {_HELPER} did not end within {_HELPER_SECONDS} s", path) from exc
    except OSError as exc:
        raise errors.of_local(exc, f"{what}: running {_HELPER}", path) from exc
    if done.returncode != 0:
        reason = done.stderr.strip().removeprefix(f"{_HELPER}: ") or f"exit code {done.returncode}"
        raise errors.FileFailed(f"{what}: {_HELPER} says: {reason}", path, errno=errno.EPERM)


def _others_may_be_allowed() -> bool:
    try:
        with open(_SETTINGS) as settings:
            return any(line.strip() == "user_allow_other" for line in settings)
    except OSError:
        return False


def _failed(what: str, path: str) -> errors.Error:
    number = ctypes.get_errno()
    return errors.of_local(OSError(number, os.strerror(number)), what, path)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
    libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
    return libc
