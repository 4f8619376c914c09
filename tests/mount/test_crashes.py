"""A mounted NetworkFileSystem and crashes of the server, which take what was committed and not on its disk yet."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore import errors
from pgstore.fs.tree.live_nodes import LiveNodes
from pgstore.mount.backends import base, live
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.protocol import Attributes, Owner
from tests.fixtures.server import migrate
from tests.mount import writers
from tests.mount.conftest import daemon_pid

PROGRAM = """
import os, sys
file = open(sys.argv[1], "r+b", buffering=0)
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as exc:
        print(exc.errno, flush=True)
"""


@pytest.fixture
def forgetful_server(own_server):
    """A server whose crash takes all that nobody has waited for."""
    own_server.forget()
    yield own_server
    own_server.remember()


@pytest.fixture
def nfs(forgetful_server, fuse):
    url = forgetful_server.create_database("mounted")
    migrate(url)
    with pgstore.Client(url) as client:
        yield pgstore.NetworkFileSystem.from_name("files", create_if_missing=True, client=client).hydrate()


@pytest.fixture
def mounted(nfs, place):
    with nfs.mount(place, mode="fuse", timeout=100):  # a busy machine recovers slowly
        yield place


class Opened:
    """A file that a program has open, which may block."""

    _process: Any

    def __init__(self, path):
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, expression):
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()

    def answer(self):
        return self._process.stdout.readline().strip()

    def do(self, expression):
        self.begin(expression)
        return self.answer()

    def end(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def opened(mounted):
    """A file called `file`, open in a program."""
    (mounted / "file").touch()
    opened = Opened(mounted / "file")
    yield opened
    opened.end()


@contextlib.contextmanager
def asleep():
    """The daemon does nothing meanwhile."""
    pid = daemon_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.01)


def synced(place):
    """Bring all that was done through the mount to the disk. Not sync(2), which would be for all mounts of the machine."""
    directory = os.open(place, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def stored(nfs, path):
    return b"".join(nfs.read_file(path))


def test_what_was_written_before_and_after_a_crash_is_fsynced(forgetful_server, nfs, opened):
    opened.do("file.write(b'1' * 12_000_000)")
    forgetful_server.crash()
    opened.do("file.write(b'2' * 12_000_000)")

    assert opened.do("os.fsync(file.fileno())") == "None"

    assert stored(nfs, "file") == b"1" * 12_000_000 + b"2" * 12_000_000


def test_an_fsync_that_begins_while_the_server_is_away_ends_when_it_is_back(forgetful_server, nfs, opened):
    opened.do("file.write(b'1' * 12_000_000)")
    forgetful_server.kill()
    opened.do("file.write(b'2' * 12_000_000)")
    opened.begin("os.fsync(file.fileno())")
    time.sleep(0.5)
    forgetful_server.start()

    assert opened.answer() == "None"

    assert stored(nfs, "file") == b"1" * 12_000_000 + b"2" * 12_000_000


def test_several_writers_lose_nothing_in_crashes_and_hear_of_no_error(forgetful_server, nfs, mounted):
    """
    At whatever moment: what is in the database, in the stage or on its way is compared with what they have fsynced.
    """
    programs = {}
    for kind in writers.KINDS:
        (mounted / kind).mkdir()
        programs[kind] = subprocess.Popen(
            [sys.executable, writers.__file__, kind, mounted / kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    for seconds in (0.9, 0.2):  # before anything is brought to the disk in the background, and just after a crash
        time.sleep(seconds)
        forgetful_server.crash()
    time.sleep(0.1)

    for kind, program in programs.items():
        said, _ = program.communicate("stop\n", timeout=60)
        expected = json.loads(said)
        assert isinstance(expected, dict), expected
        assert expected
        there = {str(path.relative_to(mounted / kind)) for path in (mounted / kind).rglob("*") if path.is_file()}
        assert there == expected.keys()
        for name, content in expected.items():
            assert (mounted / kind / name).read_text() == content
            assert stored(nfs, f"{kind}/{name}").decode() == content


def test_names_and_contents_that_nobody_has_fsynced_come_back_after_a_crash(forgetful_server, nfs, mounted):
    """
    The crash takes all of it, as the store shows while the daemon sleeps.
    """
    for attempt in range(9):  # in some of which the daemon is quicker
        top = mounted / f"{attempt}"
        top.mkdir()
        (top / "old").write_text("old")
        (top / "removed").write_text("removed")
        synced(mounted)
        (top / "d").mkdir()
        (top / "d" / "new").write_text("new")
        os.rename(top / "d" / "new", top / "d" / "renamed")
        os.link(top / "d" / "renamed", top / "linked")
        os.symlink("target", top / "symbolic")
        os.rename(top / "d", top / "e")
        os.unlink(top / "removed")
        (top / "old").chmod(0o600)
        (top / "old").write_text("new")
        with asleep():
            forgetful_server.crash()
            names = sorted(entry.path for entry in nfs.listdir(top.name))
        if names == [f"{attempt}/old", f"{attempt}/removed"]:
            break
    else:
        pytest.fail("no crash has taken it")

    assert sorted(os.listdir(top)) == ["e", "linked", "old", "symbolic"]
    assert (top / "e" / "renamed").read_text() == (top / "linked").read_text() == "new"
    assert (top / "e" / "renamed").stat().st_nlink == 2
    assert os.readlink(top / "symbolic") == "target"
    assert (top / "old").read_text() == "new"
    assert (top / "old").stat().st_mode & 0o777 == 0o600
    until(lambda: stored(nfs, f"{attempt}/e/renamed") == b"new")


def test_a_file_whose_name_others_have_taken_after_a_crash_cannot_be_fsynced(forgetful_server, nfs, mounted, opened):
    """
    What is lost for good must not be reported as kept, and nobody's file is overwritten.
    """
    for attempt in range(9):  # in some of which the daemon is quicker
        path = str(mounted / f"{attempt}")
        opened.do(f"globals().update(new=open({path!r}, 'xb', buffering=0)) or new.write(b'ours')")
        with asleep(), contextlib.suppress(FileExistsError):
            forgetful_server.crash()
            with nfs.open(f"{attempt}", "x") as theirs:
                theirs.write("theirs")
            break
    else:
        pytest.fail("no crash has taken it")

    assert opened.do("os.fsync(new.fileno())") == str(errno.ESTALE)

    assert stored(nfs, f"{attempt}") == b"theirs"


def test_what_a_crash_has_not_taken_is_not_written_over_what_others_wrote_since(forgetful_server, nfs, mounted):
    """
    Whoever writes after us, and fsyncs, has brought ours to the disk, too.
    """
    (mounted / "file").write_text("ours")
    synced(mounted)
    with nfs.open("file", "r+b") as theirs:
        theirs.write(b"them")
    forgetful_server.crash()

    time.sleep(0.1)
    synced(mounted)

    assert stored(nfs, "file") == b"them"


def test_while_the_server_is_away_for_too_long_an_fsync_fails_once_and_keeps_the_bytes(forgetful_server, nfs, place):
    with nfs.mount(place, mode="fuse", timeout=0.5):
        (place / "file").touch()
        opened = Opened(place / "file")
        try:
            opened.do("file.write(b'kept')")
            forgetful_server.kill()
            assert opened.do("os.fsync(file.fileno())") == str(errno.EIO)
            forgetful_server.start()

            assert opened.do("os.fsync(file.fileno())") == "None"
        finally:
            opened.end()
        assert stored(nfs, "file") == b"kept"


def test_closing_waits_for_no_disk_and_what_was_closed_is_on_it_soon(forgetful_server, mounted):
    """
    Of itself the server would bring it there after ten seconds.
    """

    def position(of):
        with psycopg.connect(forgetful_server.url(), autocommit=True) as connection:
            ((bytes_written,),) = connection.execute(f"SELECT pg_current_wal_{of}_lsn() - '0/0'::pg_lsn").fetchall()
            return bytes_written

    synced(mounted)
    for number in range(20):  # of which one may come just when what was written before is brought there
        before = position("flush")
        (mounted / f"{number}").write_text("text")
        if position("flush") == before:
            break
    else:
        pytest.fail("each close has waited")
    written = position("insert")
    assert written > before

    until(lambda: position("flush") >= written, 5)


def test_what_is_written_is_on_the_disk_when_the_mount_has_ended(forgetful_server, nfs, place):
    with nfs.mount(place, mode="fuse"):
        (place / "file").write_text("text")

    forgetful_server.crash()

    assert stored(nfs, "file") == b"text"


def test_a_rename_whose_answer_was_lost_with_the_name_is_done_and_not_taken_for_done(
    forgetful_server, nfs, monkeypatch
):
    """
    That there is no such name may be for the crash that has taken it.
    """
    spec = MountSpec(
        *("", "nfs", int(nfs.object_id[3:]), nfs.name, "main", None, (), "/nowhere", False, None, 8 << 20, None, 60.0),
        locks="local",
    )
    client = nfs._runner
    files = live.LiveFiles(base.shared_of(client, spec), spec)
    made = files.make(files.root, b"new", "p", 0o644, Owner(0, 0))
    rename = LiveNodes.rename
    attempts = []

    def lose(self, *arguments, **options):
        attempts.append(arguments)
        if len(attempts) == 1:
            forgetful_server.crash()
            raise errors.OutcomeUnknown("the connection broke")
        return (yield from rename(self, *arguments, **options))

    monkeypatch.setattr(LiveNodes, "rename", lose)

    files.rename(files.root, b"new", files.root, b"renamed", 0)

    found = files.look_up(files.root, b"renamed")
    assert isinstance(found, Attributes)
    assert found.ino == made.ino
    assert nfs.listdir("/")[0].path == "renamed"
