"""A mounted NetworkFileSystem: live, beside other mounts and other clients, and when something ends or goes away."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import pgstore
from pgstore.fs.model import DIRECTORY
from pgstore.mount.backends import base, hearing, live
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.protocol import Owner
from tests.fixtures.server import migrate
from tests.mount.checks.directories import Directory
from tests.mount.conftest import daemon_pid


@pytest.fixture
def nfs(client, store_name):
    return pgstore.NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def nfs_elsewhere(nfs, client_elsewhere):
    return pgstore.NetworkFileSystem.from_name(nfs.name, client=client_elsewhere)


@pytest.fixture
def mounted(nfs, place, fuse):
    with nfs.mount(place, mode="fuse"):
        yield place


@pytest.fixture
def mounted_elsewhere(nfs_elsewhere, mounted, tmp_path):
    """Another mount of the same files, by a client of its own."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    with nfs_elsewhere.mount(other, mode="fuse"):
        yield other


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.005)


def spec_of(nfs):
    """What a daemon would be told of a mount of *nfs*."""
    return MountSpec(
        *("", "nfs", int(nfs.object_id[3:]), nfs.name, "main", None, (), "/nowhere", False, None, 8 << 20, None, 30.0),
        locks="local",
    )


@contextlib.contextmanager
def fails(number):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


# ---------------------------------------------------------------------------------------------------- what others do


def test_what_one_mount_closes_the_other_opens(mounted, mounted_elsewhere):
    """
    Also in place of what it was, by each of the ways in which editors save.
    """
    for number in range(150):
        content = f"{number} " * (number % 40 + 1)
        match number % 3:
            case 0:
                (mounted / "file").write_text(content)
            case 1:
                (mounted / "new").write_text(content)
                os.rename(mounted / "new", mounted / "file")
            case 2:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(mounted / "file")
                (mounted / "file").write_text(content)

        assert (mounted_elsewhere / "file").read_text() == content


def test_a_name_that_was_missing_is_found_as_soon_as_it_is_there(mounted, mounted_elsewhere):
    for number in range(50):
        assert not (mounted_elsewhere / f"{number}").exists()

        (mounted / f"{number}").write_text("")

        assert (mounted_elsewhere / f"{number}").exists()


def test_an_open_descriptor_sees_what_others_write(nfs_elsewhere, mounted):
    (mounted / "log").write_text("a")
    with open(mounted / "log", "rb", buffering=0) as file:
        assert file.read() == b"a"

        with nfs_elsewhere.open("log", "ab") as theirs:
            theirs.write(b"b")

        until(lambda: os.fstat(file.fileno()).st_size == 2)
        assert os.pread(file.fileno(), 10, 0) == b"ab"


def test_names_come_and_go_as_others_make_and_remove_them(nfs_elsewhere, mounted):
    with nfs_elsewhere.open("d/a", "w") as file:
        file.write("1")
    assert (mounted / "d" / "a").read_text() == "1"

    nfs_elsewhere.remove_file("d/a")

    until(lambda: not (mounted / "d" / "a").exists())
    nfs_elsewhere.remove_file("d", recursive=True)
    until(lambda: not (mounted / "d").exists())


def test_a_listing_has_at_once_what_others_have_made_and_removed(mounted, mounted_elsewhere):
    """
    Though the kernel lists a directory that has not changed without asking for more than that.
    """
    (mounted / "d").mkdir()
    with Directory(mounted / "d") as stream:
        for number in range(40):
            (mounted_elsewhere / "d" / f"{number}").write_text("")
            assert f"{number}" in os.listdir(mounted / "d")
            if number % 2:
                os.unlink(mounted_elsewhere / "d" / f"{number}")
                assert f"{number}" not in os.listdir(mounted / "d")

        stream.rewind()

        assert sorted(map(os.fsdecode, stream.rest())) == sorted([".", "..", *os.listdir(mounted_elsewhere / "d")])


def test_only_one_of_two_mounts_makes_a_file_exclusively(mounted, mounted_elsewhere):
    for number in range(30):
        made: list[os.PathLike[str]] = []

        def make(place, number=number, made=made):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(place / f"lock{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                made.append(place)

        threads = [threading.Thread(target=make, args=(place,)) for place in (mounted, mounted_elsewhere)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(made) == 1


def test_the_times_of_a_directory_are_those_that_others_see(sql, nfs, mounted, mounted_elsewhere):
    """
    After names in it were changed here, what the kernel is told of it is what is known, and that must be right.
    """
    directory, other = mounted / "directory", mounted / "other"
    directory.mkdir()
    other.mkdir()
    (directory / "file").touch()

    def times(path):
        found = path.stat()
        ((stored),) = sql(
            "SELECT mtime_ns, ctime_ns FROM pgstore.inode WHERE store_id = %s AND ino = %s",
            int(nfs.object_id.partition("-")[2]),
            found.st_ino,
        )
        return (found.st_mtime_ns, found.st_ctime_ns), stored

    for change in (
        (directory / "made").touch,
        (directory / "made").unlink,
        lambda: os.rename(directory / "file", directory / "renamed"),
        lambda: os.rename(directory / "renamed", other / "file"),
        lambda: os.link(other / "file", directory / "linked"),
        lambda: os.rename(directory / "linked", other / "file"),
        lambda: os.symlink("x", directory / "symbolic"),
        (directory / "below").mkdir,
        lambda: os.rename(directory / "below", other / "below"),
        (other / "below").rmdir,
        lambda: directory.chmod(0o2750),
        (directory / "made again").touch,
        lambda: os.utime(directory, ns=(1, 2)),
        (directory / "and again").touch,
    ):
        change()
        for path in (directory, other):
            told, stored = times(path)
            assert told == stored
    (mounted_elsewhere / "directory" / "by another").touch()
    until(lambda: times(directory)[0] == times(directory)[1])


def test_new_files_have_the_group_that_others_have_given_the_directory(mounted, mounted_elsewhere):
    directory = mounted / "directory"
    directory.mkdir()
    (directory / "before").touch()

    os.chown(mounted_elsewhere / "directory", -1, 4711)
    (mounted_elsewhere / "directory").chmod(0o2777)
    until(lambda: directory.stat().st_mode & 0o7777 == 0o2777)
    (directory / "after").touch()

    assert [(directory / name).stat().st_gid for name in ("before", "after")] == [os.getegid(), 4711]


def test_appends_of_two_mounts_are_all_there(mounted, mounted_elsewhere):
    def append(place, letter):
        for number in range(50):
            with open(place / "log", "a") as file:
                file.write(f"{letter}{number}\n")

    threads = [threading.Thread(target=append, args=each) for each in ((mounted, "a"), (mounted_elsewhere, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lines = (mounted / "log").read_text().split()
    assert sorted(lines) == sorted([f"a{number}" for number in range(50)] + [f"b{number}" for number in range(50)])


APPENDER = """
import os, sys
path, letter = sys.argv[1], sys.argv[2].encode()
fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("open", flush=True)
sys.stdin.read(1)
for _ in range(40):
    assert os.write(fd, letter * 5999 + b"\\n") == 6000
"""


def test_a_line_that_is_appended_is_not_torn_by_one_of_another_mount(nfs, mounted, mounted_elsewhere):
    """
    A line lies in several pages, of which the kernel would make requests of their own.
    """
    processes: list[Any] = [
        subprocess.Popen(
            [sys.executable, "-I", "-c", APPENDER, str(place / "log"), letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for place, letter in ((mounted, "a"), (mounted_elsewhere, "b"))
    ]
    for process in processes:
        assert process.stdout.readline() == b"open\n"
    for process in processes:
        process.stdin.close()
    for process in processes:
        assert process.wait(60) == 0
        process.stdout.close()

    lines = b"".join(nfs.read_file("log")).splitlines()
    assert sorted(lines) == [b"a" * 5999] * 40 + [b"b" * 5999] * 40


@pytest.fixture
def locking(nfs, nfs_elsewhere, tmp_path, fuse):
    """Two mounts that share locks."""
    places = tmp_path / "one", tmp_path / "other"
    for place in places:
        place.mkdir()
    with nfs.mount(places[0], mode="fuse", locks="shared"), nfs_elsewhere.mount(places[1], mode="fuse", locks="shared"):
        (places[0] / "file").write_text("")
        yield places


def test_shared_locks_exclude_programs_at_other_mounts(locking):
    with open(locking[0] / "file") as ours, open(locking[1] / "file") as theirs:
        fcntl.flock(ours, fcntl.LOCK_SH)
        fcntl.flock(theirs, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with fails(errno.EAGAIN):
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)

        fcntl.flock(ours, fcntl.LOCK_UN)

        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with fails(errno.EAGAIN):
            fcntl.flock(ours, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_who_waits_for_a_shared_lock_has_it_once_the_file_is_closed(locking):
    with open(locking[1] / "file") as theirs:
        with open(locking[0] / "file") as ours:
            fcntl.flock(ours, fcntl.LOCK_EX)
            waiting = threading.Thread(target=fcntl.flock, args=(theirs, fcntl.LOCK_EX))
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive()

        waiting.join(10)
        assert not waiting.is_alive()


def test_a_shared_lock_of_a_mount_that_was_killed_is_nobodys_after_a_while(locking, sql):
    with open(locking[0] / "file") as ours, open(locking[1] / "file") as theirs:
        fcntl.flock(ours, fcntl.LOCK_EX)
        sql("UPDATE pgstore.file_lock SET expires_at = now() - interval '1 second'")

        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_that_others_remove_stays_for_who_has_it_open(mounted, mounted_elsewhere):
    (mounted / "file").write_text("content")
    with open(mounted_elsewhere / "file") as file:
        os.unlink(mounted / "file")

        assert file.read() == "content"


def test_what_is_written_is_seen_through_the_store_when_it_is_closed(nfs_elsewhere, mounted):
    (mounted / "file").write_bytes(b"x" * 300_000)

    assert b"".join(nfs_elsewhere.read_file("file")) == b"x" * 300_000


def test_the_size_is_what_was_written_while_that_is_uploaded(nfs, client):
    """
    The database has it not yet when it is asked, and when it has answered nothing waits here any more.
    """

    class UploadedMeanwhile(live.LiveFiles):
        def _node(self, ino, *, with_contents=False):
            node = super()._node(ino, with_contents=with_contents)
            for contents in self._all_contents():
                contents.upload()
            return node

    what = spec_of(nfs)
    files = UploadedMeanwhile(base.shared_of(client, what), what)
    _, file = files.create(files.root, b"file", 0o644, os.O_WRONLY, Owner(0, 0))
    file.write(0, b"x" * 1000)

    found = files.attributes(file.ino)

    assert found.size_bytes == 1000
    file.release()


def test_directories_are_asked_for_once_until_others_change_something(nfs, client):
    """
    After each name that is made or removed in one the kernel asks for its attributes.
    """
    asked = []

    class Asking(live.LiveFiles):
        caching = hearing.HEARD

        def _node(self, ino, *, with_contents=False):
            asked.append(ino)
            return super()._node(ino, with_contents=with_contents)

    what = spec_of(nfs)
    files = Asking(base.shared_of(client, what), what)
    root, owner = files.root, Owner(0, 0)
    directory, below = (files.make(root, name, DIRECTORY, 0o755, owner).ino for name in (b"directory", b"below"))
    before = files.attributes(root)
    asked.clear()

    _, file = files.create(directory, b"file", 0o644, os.O_WRONLY, owner)
    files.link(file.ino, root, b"linked")
    files.remove(directory, b"file")
    files.remove_directory(root, b"below")
    known = [files.attributes_now(ino) for ino in (root, directory, below)]

    assert asked == []
    # An atime that nobody has set is that of the last modification, of which only the database knows.
    known = [each and each._replace(atime_ns=0) for each in known]
    assert known == [*(files.attributes(ino)._replace(atime_ns=0) for ino in (root, directory)), None]
    assert known[0] != before._replace(atime_ns=0)
    files._known.forget_all()
    assert files.attributes_now(root) is None
    file.release()


def test_locks_are_those_of_one_mount(mounted, mounted_elsewhere):
    (mounted / "file").touch()

    with open(mounted / "file") as here, open(mounted / "file") as again, open(mounted_elsewhere / "file") as there:
        fcntl.flock(here, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_written_is_seen_elsewhere_soon_though_the_file_stays_open(nfs_elsewhere, mounted):
    with open(mounted / "file", "wb", buffering=0) as file:
        file.write(b"text")

        until(lambda: b"".join(nfs_elsewhere.read_file("file")) == b"text")


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_mount_of_a_directory_shows_that_alone(nfs, place, fuse):
    with nfs.open("a/b/file", "w") as file:
        file.write("inside")
    with nfs.open("outside", "w") as file:
        file.write("outside")

    with nfs.mount(place, mode="fuse", sub_path="a/b"):
        assert os.listdir(place) == ["file"]
        assert sorted(os.listdir(place / "..")) == sorted(os.listdir(place.parent))
        (place / "new").write_text("new")

    assert sorted(entry.path for entry in nfs.listdir("a/b")) == ["a/b/file", "a/b/new"]


def test_a_read_only_mount_refuses_to_write(nfs, place, fuse):
    with nfs.open("file", "w") as file:
        file.write("content")

    with nfs.mount(place, mode="fuse", read_only=True):
        assert (place / "file").read_text() == "content"
        with fails(errno.EROFS):
            (place / "file").write_text("other")
        with fails(errno.EROFS):
            os.mkdir(place / "d")


def test_files_of_a_store_that_was_deleted_are_stale(nfs, nfs_elsewhere, mounted):
    (mounted / "file").write_text("content")

    pgstore.NetworkFileSystem.delete(nfs.name, client=nfs_elsewhere._runner)

    def is_stale():
        try:
            (mounted / "file").read_text()
        except OSError as exc:
            return exc.errno in (errno.ESTALE, errno.ENOENT)
        return False

    until(is_stale)
    with fails(errno.ESTALE):
        (mounted / "new").write_text("")


# ------------------------------------------------------------------------------------------------- what ends or goes away


def test_what_was_fsynced_is_there_after_the_daemon_was_killed(nfs, place, fuse):
    mount = nfs.mount(place, mode="fuse")
    file = open(place / "file", "wb", buffering=0)  # noqa: SIM115 - it cannot be closed in good order
    file.write(b"kept" * 1000)
    os.fsync(file.fileno())
    os.kill(daemon_pid(), signal.SIGKILL)
    with contextlib.suppress(OSError):
        file.close()

    with contextlib.suppress(pgstore.Error):
        mount.close()
    with nfs.mount(place, mode="fuse"):
        assert (place / "file").read_bytes() == b"kept" * 1000


def test_a_mount_outlives_a_restart_of_the_server(own_server, place, fuse):
    url = own_server.create_database("mounted")
    migrate(url)
    with pgstore.Client(url) as client:
        nfs = pgstore.NetworkFileSystem.from_name("files", create_if_missing=True, client=client)
        with nfs.mount(place, mode="fuse"):
            (place / "before").write_text("before")
            with open(place / "during", "w") as file:
                file.write("during")
                own_server.restart()

            (place / "after").write_text("after")
            assert {name: (place / name).read_text() for name in ("before", "during", "after")} == {
                "before": "before",
                "during": "during",
                "after": "after",
            }


def test_a_program_that_is_killed_while_it_writes_leaves_no_process_behind(mounted):
    program = subprocess.Popen(
        [sys.executable, "-c", f"f = open({str(mounted / 'f')!r}, 'wb')\nwhile True: f.write(bytes(1 << 20))"]
    )
    until(lambda: (mounted / "f").exists() and (mounted / "f").stat().st_size > 1 << 20)

    program.kill()

    assert program.wait(10) == -signal.SIGKILL
