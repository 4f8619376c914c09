"""What tests of mounts have in common."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgstore.mount import attach, mount_table
from pgstore.mount.daemon import backends, caller

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


@pytest.fixture(autouse=True)
def directories_of_its_own(tmp_path, monkeypatch):
    """No test finds what another, or the user, has mounted or kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def place(tmp_path) -> Iterator[Path]:
    """An empty directory to mount at. What a test leaves mounted there is detached."""
    path = tmp_path / "mounted"
    path.mkdir()
    yield path
    for mount in mount_table.mounts():
        if mount.path.startswith(str(tmp_path)):
            with contextlib.suppress(OSError):
                attach.detach(mount.path)


@pytest.fixture
def memory(monkeypatch) -> Iterator[None]:
    """Mounts have their files in memory, whatever store they are of. The daemon ends with the test."""
    if reason := attach.is_possible():
        pytest.skip(reason)
    for kind in backends.FACTORIES:
        monkeypatch.setitem(backends.FACTORIES, kind, MEMORY)
    caller.end()
    yield
    caller.end()


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


@pytest.fixture
def program(memory, database, store_name, place) -> Iterator[Callable[[str], Program]]:
    """Starts programs that have a `volume`, to be mounted at `place`."""
    started: list[Program] = []

    def start(script: str) -> Program:
        started.append(Program(script, database, store_name, str(place)))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
        for pipe in (each.process.stdout, each.process.stderr):
            assert pipe is not None
            pipe.close()


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
