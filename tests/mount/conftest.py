"""What tests of mounts have in common."""

from __future__ import annotations

import contextlib
import os

import pytest

from pgstore.mount import attach, mount_table
from pgstore.mount.daemon import backends, caller

MEMORY = "tests.fixtures.memory_backend:files_of"


@pytest.fixture(autouse=True)
def directories_of_its_own(tmp_path, monkeypatch):
    """No test finds what another, or the user, has mounted or kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def place(tmp_path):
    """An empty directory to mount at. What a test leaves mounted there is detached."""
    path = tmp_path / "mounted"
    path.mkdir()
    yield path
    for mount in mount_table.mounts():
        if mount.path.startswith(str(tmp_path)):
            with contextlib.suppress(OSError):
                attach.detach(mount.path)


@pytest.fixture
def memory(monkeypatch):
    """Mounts have their files in memory, whatever store they are of. The daemon ends with the test."""
    if reason := attach.is_possible():
        pytest.skip(reason)
    for kind in backends.FACTORIES:
        monkeypatch.setitem(backends.FACTORIES, kind, MEMORY)
    caller.end()
    yield
    caller.end()


def notes(place):
    """What files in memory have noted about the mount at *place*."""
    with open(f"{place}.notes") as file:
        return file.read().splitlines()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


assert os.name == "posix"
