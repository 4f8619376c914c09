"""A mount as a whole: what others change, what is slow, what breaks, how it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgstore.mount import attach, mount_table
from tests.mount.checks.directories import Directory
from tests.mount.checks.tools import USER, fails, opened
from tests.mount.checks.tools import user as as_user
from tests.mount.conftest import skip_without_fuse

SOON = 10.0


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for what comes at once, but not to this thread."""
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline, f"waited {SOON} s for: {what}"
        time.sleep(0.002)


def program(text: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process, which may wait for ever."""
    return subprocess.Popen([sys.executable, "-c", text, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


READ_IT = "import sys; print(len(open(sys.argv[1], 'rb', buffering=0).read(10)), flush=True)"
SYNC_IT = "import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))"


def state_of(process: subprocess.Popen[str]) -> str:
    """`S` and `D`: it waits."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def ended(process: subprocess.Popen[str], code: int) -> str:
    """What *process* has written, once it ends with *code*."""
    written = process.communicate(timeout=SOON)[0]
    assert process.returncode == code
    return written


# ---------------------------------------------------------------------------------------------------------- listings


def listed(directory: Path) -> dict[str, int]:
    """As `ls -l`: names and sizes."""
    with os.scandir(directory) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}


def test_a_directory_that_has_not_changed_is_listed_again_without_asking(memory_mount):
    mounted = memory_mount("--listed")
    mounted.call("fill", 2500)
    first = listed(mounted.directory)
    asked = mounted.call("listings")

    again = listed(mounted.directory)

    assert (again, mounted.call("listings")) == (first, asked)
    assert len(first) == 2500


def test_a_directory_is_listed_as_it_is_after_changes_here_and_by_others(memory_mount):
    mounted = memory_mount("--listed")
    mounted.call("fill", 1200)
    with Directory(mounted.directory) as stream:
        for number in range(20):
            (mounted.directory / f"here {number}").write_text("")
            assert f"here {number}" in listed(mounted.directory)
            mounted.call("enter", "000007", f"there {number}")
            mounted.call("tell_contents", "")
            assert f"there {number}" in listed(mounted.directory)
            os.unlink(mounted.directory / f"here {number}")

            stream.rewind()
            names = stream.rest()

            assert sorted(map(os.fsdecode, names)) == sorted((".", "..", *listed(mounted.directory)))
            assert (b"there %d" % number in names, b"here %d" % number in names) == (True, False)


@pytest.mark.parametrize("by_others", [False, True])
def test_a_listing_under_way_does_not_bring_back_the_size_that_a_file_had(memory_mount, by_others):
    """
    Its names are read many at a time, and given to the kernel a few at a time, which believes what it was given last.
    """
    mounted = memory_mount()
    mounted.call("fill", 1000)
    with os.scandir(mounted.directory) as entries:
        assert next(entries).stat().st_size == 0
        if by_others:
            mounted.call("rewrite", "000900", "of others")
            mounted.call("tell_contents", "000900")
        else:
            (mounted.directory / "000900").write_text("from here")

        rest = {entry.name: entry.stat().st_size for entry in entries}  # so that the kernel wants attributes

    assert len(rest) == 999
    assert (mounted.directory / "000900").stat().st_size == rest["000900"] == 9


# ------------------------------------------------------------------------------------------------ what others change


def test_contents_that_others_change_are_seen_by_who_has_the_file_open_and_mapped(memory_mount):
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"old" * 2000)
    with opened(file, os.O_RDONLY) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:3] == b"old"
        mounted.call("rewrite", "file", "new!" * 1500)
        assert os.pread(fd, 4, 0) == b"oldo"  # from the kernel's memory

        mounted.call("tell_contents", "file")

        until(lambda: os.pread(fd, 4, 0) == b"new!", "the contents by read(2)")
        assert mapped[:4] == b"new!"
        assert file.read_bytes() == b"new!" * 1500


def test_a_file_that_others_let_grow_is_read_to_its_end(memory_mount):
    """
    With the kernel's own cache of writes it would keep the size that it knew.
    """
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"abc")
    with opened(file, os.O_RDONLY) as fd:
        assert os.read(fd, 10) == b"abc"
        mounted.call("rewrite", "file", "abcdefgh")
        mounted.call("tell_contents", "file")

        until(lambda: os.fstat(fd).st_size == 8, "the size")
        assert os.pread(fd, 100, 0) == b"abcdefgh"


def test_attributes_that_others_change_are_seen(memory_mount):
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"x")
    file.chmod(0o644)
    mounted.call("set_mode", "file", 0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644

    mounted.call("tell_attributes", "file")

    until(lambda: stat.S_IMODE(file.stat().st_mode) == 0o600, "the mode")


def test_names_that_others_change_are_seen(memory_mount):
    """
    A name that is gone, one that had been missing, and the listing and the times of their directory.
    """
    mounted = memory_mount()
    old, new = mounted.directory / "old", mounted.directory / "new"
    old.write_bytes(b"x")
    assert not new.exists()
    os.utime(mounted.directory, ns=(1, 1))
    mounted.call("move", "/", "old", "new")
    assert (old.exists(), new.exists()) == (True, False)
    assert mounted.directory.stat().st_mtime_ns == 1

    mounted.call("tell_name", "/", "old")
    mounted.call("tell_name", "/", "new")

    until(lambda: (old.exists(), new.exists()) == (False, True), "the names")
    until(lambda: mounted.directory.stat().st_mtime_ns != 1, "the time of the directory")
    assert os.listdir(mounted.directory) == ["new"]


def test_a_name_that_others_have_made_is_found_by_who_creates_it(memory_mount):
    """
    Although the kernel remembers that there was none: a file is opened, or is there already; a link is followed.
    """
    mounted = memory_mount()
    for name in ("file", "link", "exclusive"):
        assert not (mounted.directory / name).exists()
    (mounted.directory / "contents").write_bytes(b"contents")
    mounted.call("enter", "contents", "file")
    mounted.call("enter", "contents", "exclusive")
    mounted.call("enter_symbolic_link", "link", "contents")

    for name in ("file", "link"):
        with opened(mounted.directory / name, os.O_CREAT | os.O_RDWR) as fd:
            assert os.read(fd, 100) == b"contents"
    fails(errno.EEXIST, os.open, mounted.directory / "exclusive", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert (mounted.directory / "exclusive").exists()


def test_writes_go_on_while_notifications_storm(memory_mount):
    """
    What is being written, read, made and removed is what the notifications are about.
    """
    mounted = memory_mount()
    storm = threading.Thread(target=mounted.call, args=("tell_all", 3000))
    data = os.urandom(300_000)
    storm.start()
    rounds = 0
    while storm.is_alive() or rounds < 20:
        file = mounted.directory / f"file{rounds % 5}"
        file.write_bytes(data)
        assert file.read_bytes() == data
        os.rename(file, mounted.directory / "renamed")
        with opened(mounted.directory / "renamed", os.O_RDWR) as fd, mmap.mmap(fd, 0) as mapped:
            mapped[1000:1005] = b"hello"
            assert os.pread(fd, 5, 1000) == b"hello"
        os.unlink(mounted.directory / "renamed")
        rounds += 1
    storm.join()

    assert rounds >= 20


def test_after_more_changes_than_are_kept_apart_all_names_are_looked_up_anew(memory_mount):
    mounted = memory_mount()
    old, new = mounted.directory / "old", mounted.directory / "new"
    old.write_bytes(b"x")
    assert not new.exists()
    mounted.call("move", "/", "old", "new")

    mounted.call("tell_too_much", 1000)

    until(lambda: (old.exists(), new.exists()) == (False, True), "the names")


def test_a_notification_that_must_wait_for_a_read_holds_up_no_request(memory_mount):
    """
    The kernel answers it once it has the page that it is about.
    """
    mounted = memory_mount()
    file, other = mounted.directory / "file", mounted.directory / "other"
    file.write_bytes(b"0123456789")
    other.write_bytes(b"x")
    os.setxattr(file, "user.held", b"1")
    mounted.call("hold")
    waiting = program(READ_IT, file)
    until(lambda: mounted.call("opened") == 1, "the file to be open")
    until(lambda: state_of(waiting) in "SD", "the program to wait")
    mounted.call("tell_contents", "file")
    mounted.call("set_mode", "other", 0o600)
    mounted.call("tell_attributes", "other")

    (mounted.directory / "new").write_bytes(b"new")
    assert file.stat().st_size == 10
    assert waiting.poll() is None
    mounted.call("let_go")

    assert ended(waiting, 0) == "10\n"
    until(lambda: stat.S_IMODE(other.stat().st_mode) == 0o600, "the notifications that were behind it")


# ------------------------------------------------------------------------------------------------------ what is slow


@pytest.mark.parametrize("readers", [1, 3, 12])
def test_slow_reads_hold_up_nobody_else(memory_mount, readers):
    """
    Also more of them than there are threads that serve.
    """
    mounted = memory_mount("--seconds", "0", "--threads", "4")
    for number in range(readers):
        file = mounted.directory / f"slow{number}"
        file.write_bytes(b"0123456789")
        os.setxattr(file, "user.held", b"1")
    quick = mounted.directory / "quick"
    quick.write_bytes(b"quick")
    mounted.call("hold")
    waiting = [program(READ_IT, mounted.directory / f"slow{number}") for number in range(readers)]
    try:
        until(lambda: mounted.call("opened") >= min(readers, 3), "all threads but one to wait")
        began = time.monotonic()
        for _ in range(50):
            quick.stat()
        assert time.monotonic() - began < 5
        assert all(each.poll() is None for each in waiting)
    finally:
        mounted.call("let_go")
    assert [ended(each, 0) for each in waiting] == ["10\n"] * readers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("doing", [READ_IT, SYNC_IT], ids=["reading", "syncing"])
def test_a_program_that_is_killed_does_not_wait_for_its_answer(memory_mount, doing, number):
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"x")
    os.setxattr(file, "user.held", b"1")
    mounted.call("hold")
    waiting = program(doing, file)
    until(lambda: mounted.call("opened") == 1, "the file to be open")
    until(lambda: state_of(waiting) in "SD", "the program to wait")
    waiting.send_signal(number)

    ended(waiting, -number)
    if doing == SYNC_IT:  # what the kernel reads ahead keeps the file open
        until(lambda: mounted.call("opened") == 0, "the file to be closed")
    mounted.call("let_go")
    assert file.read_bytes() == b"x"


def test_what_is_opened_for_a_program_that_is_gone_is_closed_again(memory_mount):
    """
    The kernel tells nobody to close what it has not got.
    """
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"x")
    os.setxattr(file, "user.held_open", b"1")
    until(lambda: mounted.call("opened") == 0, "the file to be closed")
    mounted.call("hold")
    waiting = program("import os, sys; print('now', flush=True); os.open(sys.argv[1], os.O_RDONLY)", file)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "now\n"
    until(lambda: mounted.call("opened_before") == 1, "the program to wait")
    waiting.kill()
    ended(waiting, -signal.SIGKILL)

    mounted.call("let_go")

    until(lambda: mounted.call("opened_after_all") == 1, "the file to be opened")
    until(lambda: mounted.call("opened") == 0, "the file to be closed")


def test_a_signal_that_does_not_kill_interrupts_nothing(memory_mount):
    """
    Few programs expect that a file is interrupted; some send themselves signals all the time.
    """
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"0123456789")
    os.setxattr(file, "user.held", b"1")
    mounted.call("hold")
    waiting = program("import signal; signal.signal(signal.SIGUSR1, lambda *_: print('signal'))\n" + READ_IT, file)
    until(lambda: mounted.call("opened") == 1, "the file to be open")
    waiting.send_signal(signal.SIGUSR1)
    mounted.call("let_go")

    assert ended(waiting, 0) == "signal\n10\n"


LOCK_IT = """
import fcntl, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("signal", flush=True))
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
"""


def test_locks_that_are_waited_for_hold_up_nobody(memory_mount):
    """
    With more that wait than threads that serve; a signal's handler runs meanwhile, and who is killed is gone.
    """
    mounted = memory_mount("--shares-locks", "--threads", "2")
    file = mounted.directory / "file"
    file.write_bytes(b"x")
    with opened(file, os.O_RDONLY) as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        with opened(file, os.O_RDONLY) as other:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fails(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiting = [program(LOCK_IT, file) for _ in range(5)]
        until(lambda: mounted.call("opened") == 6, "all to have the file open")
        until(lambda: all(state_of(each) in "SD" for each in waiting), "all to wait")
        (mounted.directory / "other").write_bytes(b"not held up")
        waiting[0].send_signal(signal.SIGUSR1)
        assert waiting[0].stdout is not None
        assert waiting[0].stdout.readline() == "signal\n"
        waiting[1].kill()
        assert ended(waiting[1], -signal.SIGKILL) == ""
        assert [each.poll() for each in waiting] == [None, -signal.SIGKILL, None, None, None]

        fcntl.flock(holder, fcntl.LOCK_UN)

    assert [ended(each, 0) for each in waiting if each is not waiting[1]] == ["locked\n"] * 4


def test_files_are_written_by_many_at_once(memory_mount):
    mounted = memory_mount("--waits")

    def write(number: int) -> None:
        for round_ in range(50):
            (mounted.directory / f"{number}-{round_}").write_bytes(b"%d" % number * 5000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(os.listdir(mounted.directory)) == 500
    assert all((mounted.directory / f"{n}-49").read_bytes() == b"%d" % n * 5000 for n in range(10))


# --------------------------------------------------------------------------------------------------- many and large


def test_a_directory_of_100_000_entries_streams_and_is_sought_in(memory_mount):
    mounted = memory_mount()
    mounted.call("fill", 100_000)
    names = [b"%06d" % number for number in range(100_000)]
    with Directory(mounted.directory) as directory:
        places = {}
        found = []
        while True:
            place = directory.tell()
            if (entry := directory.read()) is None:
                break
            found.append(entry[0])
            if len(found) % 9_999 == 0:
                places[len(found) - 1] = place
        assert found[2:] == names
        for index in sorted(places, reverse=True):
            directory.seek(places[index])
            assert (directory.read() or ())[:1] == (found[index],)
        directory.rewind()
        assert (directory.read() or ())[:1] == (b".",)
    assert len(os.listdir(mounted.directory)) == 100_000


# ------------------------------------------------------------------------------------------------------- what breaks


def test_a_mistake_in_the_server_is_an_input_output_error_and_the_mount_goes_on(memory_mount, capfd):
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"x")
    os.setxattr(file, "user.broken", b"1")

    fails(errno.EIO, os.open, file, os.O_RDONLY)

    assert "a mistake in the server" in capfd.readouterr().err
    os.removexattr(file, "user.broken")
    assert file.read_bytes() == b"x"


def test_a_read_only_mount_refuses_changes(memory_mount):
    mounted = memory_mount("--read-only")

    fails(errno.EROFS, os.mkdir, mounted.directory / "d")
    fails(errno.EROFS, os.open, mounted.directory / "file", os.O_CREAT | os.O_WRONLY)
    fails(errno.EROFS, os.chmod, mounted.directory, 0o700)


def test_a_mount_is_of_type_fuse_pgstore_without_setuid_and_devices(memory_mount):
    mounted = memory_mount()
    with open("/proc/self/mountinfo") as table:
        (line,) = (line for line in table if f" {mounted.directory} " in line)

    assert " - fuse.pgstore memory " in line
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert {"default_permissions", "allow_other"} <= set(line.split()[-1].split(","))


def test_killing_the_server_leaves_no_process_waiting_and_the_path_can_be_mounted_again(memory_mount):
    mounted = memory_mount()
    file = mounted.directory / "file"
    file.write_bytes(b"x" * 100_000)
    os.setxattr(file, "user.held", b"1")
    mounted.call("hold")
    with opened(file, os.O_WRONLY) as fd:
        waiting = program(READ_IT, file)
        until(lambda: mounted.call("opened") == 2, "the file to be open")
        mounted.kill()

        ended(waiting, 1)
        fails(errno.ENOTCONN, os.write, fd, b"x")
        fails(errno.ENOTCONN, os.statvfs, mounted.directory)
        began = time.monotonic()
        again = memory_mount(at=mounted.directory)
        assert time.monotonic() - began < 5
    (again.directory / "new").write_bytes(b"new")
    assert os.listdir(again.directory) == ["new"]
    assert len(mount_table.mounts_at(str(again.directory))) == 1
    assert again.unmount() == "ended 0"
    assert mount_table.mounts_at(str(again.directory)) == []


def test_unmounting_ends_the_server_once_the_last_file_is_closed(memory_mount):
    mounted = memory_mount()
    with opened(mounted.directory / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before")
        attach.detach(str(mounted.directory))

        assert os.listdir(mounted.directory) == []
        os.write(fd, b" after")
        assert os.pread(fd, 100, 0) == b"before after"
        assert mounted.process.poll() is None
    assert mounted.process.wait(SOON) == 0
    assert mounted.process.stdout.read() == "ended 0\n"


def test_unmounting_while_notifications_storm_ends_the_server(memory_mount):
    mounted = memory_mount()
    for number in range(20):
        (mounted.directory / f"{number}").write_bytes(b"x")
    assert mounted.process.stdin is not None
    mounted.process.stdin.write('["tell_all", 100000]\n')
    mounted.process.stdin.flush()

    attach.detach(str(mounted.directory))

    assert mounted.process.wait(SOON) == 0


def test_an_aborted_connection_ends_the_server(memory_mount):
    """
    MountSpec `umount -f` does to a mount that hangs.
    """
    mounted = memory_mount()
    (mount,) = mount_table.mounts_at(str(mounted.directory))
    with contextlib.suppress(FileNotFoundError):  # not every container has the control file system
        Path(f"/sys/fs/fuse/connections/{mount.device.partition(':')[2]}/abort").write_text("1")
        assert mounted.process.wait(SOON) == 0


# ------------------------------------------------------------------------------------------------------ who may mount


def test_a_user_mounts_with_fusermount3(fuse_of_users, directory, memory_mount):
    """
    And it is the user's alone, unless /etc/fuse.conf lets users allow others.
    """
    os.chown(directory, USER, USER)
    mounted = memory_mount("--user", str(USER), at=directory)
    (mount,) = mount_table.mounts_at(str(directory))
    assert (mount.type, mount.source) == ("fuse.pgstore", "memory")

    done = in_shell_of_user(f"cd {directory} && echo contents >file && cat file && stat -c %u file")
    assert done == f"contents\n{USER}\n"
    mounted.call("fill", 1)  # as root's, which is whose all is that was made without a mount
    done = in_shell_of_user(f"cd {directory} && echo more >>000000 && stat -c %u:%g . 000000 && ls -n 000000")
    assert done.startswith(f"{USER}:{USER}\n{USER}:{USER}\n-rw-r--r-- 1 {USER} {USER} 5 ")
    if "user_allow_other" not in Path("/etc/fuse.conf").read_text().split():
        fails(errno.EACCES, os.listdir, directory)
    attach.detach(str(directory))
    assert mounted.process.wait(SOON) == 0


def test_a_user_detaches_with_fusermount3(fuse_of_users, directory, memory_mount):
    os.chown(directory, USER, USER)
    mounted = memory_mount("--user", str(USER), at=directory)

    with as_user():
        attach.detach(str(directory))
        assert mounted.process.wait(SOON) == 0
        with pytest.raises(OSError, match="fusermount3 says"):
            attach.detach(str(directory))


def in_shell_of_user(commands: str) -> str:
    """What they write. Who is a user only for now (seteuid(2)) may not use what belongs to that user alone."""
    done = subprocess.run(
        ["sh", "-c", commands], capture_output=True, text=True, check=True, user=USER, group=USER, extra_groups=[]
    )
    return done.stdout


IN_A_NAMESPACE = """
import ctypes, os, sys
from pgstore.mount import attach, namespace
from pgstore.mount.serve import serve
from tests.fixtures.memory_files import MemoryFiles

directory, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as a process that began as this user
namespace.enter()
attached = attach.attach(directory, name="memory")
ready, told = os.pipe()
server = os.fork()
if server == 0:
    serve(attached.device, MemoryFiles(), ready=lambda: os.write(told, b"."))
    os._exit(0)
os.close(attached.device)
os.read(ready, 1)
with open(directory + "/file", "w") as file:
    file.write("here")
print(os.listdir(directory), open(directory + "/file").read(), os.stat(directory + "/file").st_uid == uid, flush=True)
sys.stdin.read()
attach.detach(directory)
os.waitpid(server, 0)
"""


def test_a_user_mounts_in_a_namespace_without_fusermount3(directory, fuse, tmp_path):
    """
    Nobody else sees it, and nothing is left of it.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if stat.S_IMODE(os.stat("/dev/fuse").st_mode) & 0o006 != 0o006:
        skip_without_fuse("/dev/fuse is root's alone; udev gives it the mode 0666")
    os.chown(directory, USER, USER)
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_NAMESPACE, str(directory), str(USER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert mount_table.mounts_at(str(directory)) == []
    finally:
        _, complaints = process.communicate(timeout=SOON)
    if "Operation not permitted" in complaints or "No space left" in complaints:
        skip_without_fuse(f"users may have no namespaces here: {complaints.splitlines()[-1]}")
    assert (process.returncode, line) == (0, "['file'] here True\n"), complaints


# ------------------------------------------------------------------------------------------------------ where it may be


def test_a_path_that_cannot_be_mounted_at_is_refused_in_words(directory):
    file = directory / "file"
    file.write_text("x")

    with pytest.raises(FileNotFoundError, match="missing"):
        attach.usable(str(directory / "missing"))
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        attach.usable(str(file))
    with pytest.raises(OSError, match="is not empty") as failure:
        attach.usable(str(directory))
    assert failure.value.errno == errno.ENOTEMPTY


def test_a_path_that_is_a_mount_is_refused(memory_mount):
    mounted = memory_mount()

    with pytest.raises(OSError, match="is a mount already") as failure:
        attach.attach(str(mounted.directory), name="second")

    assert failure.value.errno == errno.EBUSY
    with pytest.raises(OSError, match="unmounting"):
        attach.detach(str(mounted.directory / "nothing"))


def test_a_path_with_spaces_and_a_symbolic_link_is_found(directory, memory_mount):
    place = directory / "a b\\c\td"
    place.mkdir()
    (directory / "link").symlink_to(place)
    mounted = memory_mount(at=directory / "link")

    (mount,) = mount_table.mounts_at(str(place))
    assert (mount.type, mount.source) == ("fuse.pgstore", "memory")
    (mounted.directory / "file").write_text("x")
    attach.detach(str(place))
    assert mounted.process.wait(SOON) == 0
