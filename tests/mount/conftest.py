"""Mounts for tests: a new directory of /tmp, so that every user reaches it, and a server in a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pgstore
from pgstore.mount import attach, mount_table
from pgstore.mount.daemon import backends, caller
from tests.fixtures.memory_mount import MemoryMount
from tests.fixtures.server import Server, migrate

MEMORY = "tests.fixtures.memory_backend:files_of"


def skip_without_fuse(reason: str | None) -> None:
    """Skip because of *reason*; where all is to be checked, it is a failure."""
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"nothing can be mounted: {reason}")
        pytest.skip(reason)


@pytest.fixture(scope="module")
def forgetful_server(request):
    """A server whose crash takes all that nobody has waited for."""
    chosen = request.config.getoption("--postgres-bin")
    with Server(chosen, durable=True) as server:
        migrate(server.create_database("mounted"))
        server.forget()
        yield server
        server.remember()


@pytest.fixture(scope="session")
def fuse_of_users() -> None:
    """Users can mount files here, with the help of fusermount3, and root can become one."""
    reason = attach.is_possible()
    if reason is None and shutil.which("fusermount3") is None:
        reason = "fusermount3 is not installed (package fuse3)"
    skip_without_fuse(reason if os.geteuid() == 0 else "only root can become another user")


@pytest.fixture(scope="session")
def fuse() -> None:
    """Files can be mounted here."""
    skip_without_fuse(attach.is_possible())


@contextlib.contextmanager
def reachable_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pgstore-mount-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that every user reaches."""
    with reachable_directory() as directory:
        yield directory


Mounting = Callable[..., MemoryMount]


@contextlib.contextmanager
def memory_mounting() -> Iterator[Mounting]:
    """A function that mounts files in memory, at a path of its own or the one given; all is ended at the end."""
    with contextlib.ExitStack() as stack:

        def mount(*options: str, at: Path | None = None) -> MemoryMount:
            mounted = MemoryMount(at or stack.enter_context(reachable_directory()), *options)
            stack.callback(mounted.end)
            return mounted

        yield mount


@pytest.fixture
def memory_mount(fuse) -> Iterator[Mounting]:
    with memory_mounting() as mount:
        yield mount


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
def memory(fuse, monkeypatch):
    """Mounts have their files in memory, whatever store they are of. The daemon ends with the test."""
    for kind in backends.FACTORIES:
        monkeypatch.setitem(backends.FACTORIES, kind, MEMORY)
    caller.end()
    yield
    caller.end()


@pytest.fixture
def volume_elsewhere(volume, client_elsewhere):
    """The volume of the test, for another client."""
    return pgstore.Volume.from_name(volume.name, client=client_elsewhere)


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


def daemon_pid():
    """The process that serves the mounts of this one."""
    return caller.daemon(backends.FACTORIES["nfs"]).pid
