"""A view of the file system of one's own: mounts that nobody else sees, that need no root, and that end with the last process.

Where users may have namespaces (user_namespaces(7)) and open /dev/fuse, this takes neither root nor `fusermount3`. It must happen
before a process has threads, so it is for processes that are started for it.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from pgstore import errors

# <sched.h> and <sys/mount.h>
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18

_CAP_SYS_ADMIN: Final = 21


def may_mount() -> bool:
    """Whether this process may call mount(2): root may, outside of most containers, and who has called `enter`."""
    return bool(_status("CapEff") >> _CAP_SYS_ADMIN & 1)


def may_gain_privileges() -> bool:
    """Whether a program that this process runs may call mount(2) if it is setuid root (capabilities(7), prctl(2))."""
    return bool(_status("CapBnd") >> _CAP_SYS_ADMIN & 1) and not _status("NoNewPrivs")


def enter() -> None:
    """
    Give this process, and those that it starts from now on, a mount namespace of their own. Users stay who they are.

    What it starts by exec(3) may use mounts, and not make any.

    Raises:
        FileFailed: the system allows no namespaces, or this process has several threads.
    """
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if may_mount():
        _check(libc.unshare(_CLONE_NEWNS))
    else:
        _check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
        _write("/proc/self/setgroups", "deny")  # else the kernel takes no map of groups from who is not root
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    # Else what is mounted here would be mounted where this came from as well.
    _check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))


def _status(field: str) -> int:
    """A number of /proc/self/status; 0: it is not there."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1], 16) for line in status if line.startswith(f"{field}:"))
    except (OSError, StopIteration):
        return 0


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise errors.of_local(OSError(number, os.strerror(number)), "a mount namespace of one's own")


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as exc:
        raise errors.of_local(exc, "a mount namespace of one's own", path) from exc
