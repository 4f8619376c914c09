"""Who still has a file open: whether a close(2) is the last one of the program that has opened it.

The kernel tells of every close, and not whether there are copies of the descriptor: those of dup(2), as shells make them, and those
that a child process was given. /proc knows. And it knows whether a process closes its files because a signal has killed it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

_EXIT_CODE: Final = 49  # in /proc/PID/stat, counted from behind the name (proc(5): field 52)
_SIGNALS: Final = 0x7F  # in an exit code: the signal that has killed


def process_of(thread: int) -> int:
    """The process that the thread of this number belongs to; its own number, if there is none any more."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
    return thread


def is_killed(thread: int) -> bool:
    """Whether the process of this thread ends by a signal. False also where this user may not know."""
    try:
        with open(f"/proc/{thread}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return bool(int(fields[_EXIT_CODE]) & _SIGNALS)
    except (OSError, ValueError, IndexError):
        return False


def has_open(process: int, ino: int, name: bytes) -> bool | None:
    """
    Whether *process* has a descriptor of the file open; None: this user may not know, or it is of another machine or container.

    Args:
        ino: the number of the inode, by which it is told from others of the same name.
        name: the last part of its path.
    """
    directory = f"/proc/{process}/fd".encode()
    try:
        numbers = os.listdir(directory)
    except OSError:
        return None
    for number in numbers:
        with contextlib.suppress(OSError):
            path = os.readlink(directory + b"/" + number).removesuffix(b" (deleted)")
            if path.endswith(b"/" + name) and _inode_of(process, number) in (None, ino):
                return True
    return False


def children_have_open(process: int, ino: int, name: bytes) -> bool:
    """`has_open`, of any that *process* has started, or that those have."""
    return any(has_open(each, ino, name) for each in _descendants(process))


def _inode_of(process: int, number: bytes) -> int | None:
    """The inode of a descriptor; None: the kernel does not say (before Linux 5.14)."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{process}/fdinfo/{number.decode()}", "rb") as info:
        for line in info:
            if line.startswith(b"ino:"):
                return int(line.split()[1])
    return None


def _descendants(process: int) -> Iterator[int]:
    """Those that *process* has started, and those that these have."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{process}/task/{thread}/children") as children:
                for child in map(int, children.read().split()):
                    yield child
                    yield from _descendants(child)
