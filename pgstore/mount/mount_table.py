"""What is mounted where, as this process sees it: /proc/self/mountinfo (proc_pid_mountinfo(5)).

It is read instead of looking at paths: of a mount that nobody serves any more, or that hangs, every other call fails or hangs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final, NamedTuple

TYPE: Final = "fuse.pgstore"
_TABLE: Final = "/proc/self/mountinfo"


class Mount(NamedTuple):
    id: int
    device: str
    """`major:minor`, as in /sys/class/bdi."""
    path: str
    type: str
    source: str


def mounts(table: bytes | None = None) -> list[Mount]:
    """All mounts, in the order in which they were made: of several at one path the last is seen."""
    if table is None:
        with open(_TABLE, "rb") as file:
            table = file.read()
    return [_mount(line) for line in table.splitlines()]


def mounts_at(path: str) -> list[Mount]:
    """Those at *path*, which is absolute and without symbolic links."""
    return [mount for mount in mounts() if mount.path == path]


def _mount(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    number, _, device, _, path, *_ = before.split(b" ")
    kind, source, *_ = after.split(b" ")
    return Mount(int(number), _text(device), _text(path), _text(kind), _text(source))


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(_unescaped, field))


_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")
_unescaped: Final[Callable[[re.Match[bytes]], bytes]] = lambda match: bytes([int(match[1], 8)])  # noqa: E731
