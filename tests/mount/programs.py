"""Programs that mount, in processes of their own; and what tests look at from outside."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgstore.mount import mount_table

MEMORY = "tests.fixtures.memory_backend:files_of"
SECONDS_MAX = 30.0
PRELUDE = f"""
import asyncio, os, signal, subprocess, sys, threading, time
import pgstore
from pgstore.mount.daemon import backends, caller
for kind in backends.FACTORIES:
    backends.FACTORIES[kind] = "{MEMORY}"
client = pgstore.Client(sys.argv[1])
volume = pgstore.Volume.from_name(sys.argv[2], client=client, create_if_missing=True)
place = sys.argv[3]
"""


class Program:
    """A Python program in a process of its own, which begins with `PRELUDE` and says a line when it has come so far."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.end()[1]
        return line

    def end(self) -> tuple[int, str]:
        """Wait for its end; returns its exit code and what it said on stderr."""
        _, complaints = self.process.communicate(timeout=SECONDS_MAX)
        return self.process.returncode, complaints

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def notes(place: Any) -> list[str]:
    """What files in memory have noted about the mount at *place*."""
    return Path(f"{place}.notes").read_text().splitlines()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_mounted(place: Any) -> bool:
    return bool(mount_table.mounts_at(str(place)))


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = SECONDS_MAX) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)
