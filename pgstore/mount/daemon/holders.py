"""Who uses a mount: processes that have something open there, work there, or run a program from there.

/proc tells by itself where a descriptor leads, so nothing of the mount is touched. Of processes of other users only root is told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

SHOWN_MAX: Final = 5


def holders(path: str) -> list[str]:
    """The processes that use what is mounted at *path*, as `name (number)`, at most `SHOWN_MAX`."""
    found = []
    below = path.rstrip("/") + "/"
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):
        if pid != os.getpid() and any(each == path or each.startswith(below) for each in _paths(pid)):
            found.append(f"{_name(pid)} ({pid})")
            if len(found) == SHOWN_MAX:
                break
    return found


def _paths(pid: int) -> Iterator[str]:
    """What the process *pid* has open, mapped, runs, and where it works."""
    for name in ("cwd", "root", "exe"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/{name}")
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{number}")
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6:
                yield fields[5]


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"
