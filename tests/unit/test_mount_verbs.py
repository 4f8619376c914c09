"""Serving without a kernel: requests and replies as it sends and gets them, over a socket that keeps messages apart."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgstore import errors
from pgstore.core import meanwhile, threads
from pgstore.fs.model import StoreGone
from pgstore.mount import kernel
from pgstore.mount.protocol import NO_CACHING, Attributes, Caching, Missing, Owner, Statistics
from pgstore.mount.serve import serve
from tests.fixtures.memory_files import MemoryFile, MemoryFiles

CAN = kernel.HANDLE_KILLPRIV_V2 | kernel.DO_READDIRPLUS | kernel.ASYNC_READ
POSIX_LOCKS, DONT_MASK, WRITEBACK_CACHE = 1 << 1, 1 << 6, 1 << 16


class FakeKernel:
    """The kernel's side of a mount."""

    def __init__(self, files: MemoryFiles, **options: Any) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs = theirs
        self._ours.settimeout(10)
        self._numbers = itertools.count(2, 2)
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, args=(theirs.fileno(), files, options))
        self._thread.start()

    def _serve(self, device: int, files: MemoryFiles, options: dict[str, Any]) -> None:
        try:
            serve(device, files, **options)
        except BaseException as exc:
            self.failures.append(exc)

    def send(self, opcode: int, node: int = 1, body: bytes = b"", *, uid: int = 0, gid: int = 0, pid: int = 1) -> int:
        unique = next(self._numbers)
        header = kernel.IN_HEADER.pack(kernel.IN_HEADER.size + len(body), opcode, unique, node, uid, gid, pid)
        self._ours.send(header + body)
        return unique

    def answer(self) -> tuple[int, int, bytes]:
        """The number of the request, errno, and the rest."""
        reply = self._ours.recv(1 << 20)
        length, error, unique = kernel.OUT_HEADER.unpack_from(reply)
        assert length == len(reply)
        return unique, -error, reply[kernel.OUT_HEADER.size :]

    def ask(self, opcode: int, node: int = 1, body: bytes = b"", **who: int) -> bytes:
        unique = self.send(opcode, node, body, **who)
        answered, error, rest = self.answer()
        assert answered == unique
        if error:
            raise OSError(error, os.strerror(error))
        return rest

    def initialise(self, minor: int = 45, major: int = 7, flags: int = CAN) -> tuple[Any, ...]:
        body = kernel.INIT_IN.pack(major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32)
        return kernel.INIT_OUT.unpack_from(self.ask(kernel.INIT, body=body))

    def silent(self) -> bool:
        """Whether nothing is said by what has been sent: something else is answered first."""
        unique = self.send(kernel.STATFS)
        return self.answer()[0] == unique

    def end(self) -> None:
        self._ours.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._theirs.close()


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


@pytest.fixture
def fake(files) -> Iterator[FakeKernel]:
    fake = FakeKernel(files)
    fake.initialise()
    yield fake
    fake.end()
    assert fake.failures == []


def entry(reply: bytes) -> dict[str, int]:
    names = [field.split()[1] for field in kernel.ENTRY_OUT.fields]
    return dict(zip(names, kernel.ENTRY_OUT.unpack_from(reply), strict=True))


def created(fake: FakeKernel, name: bytes, mode: int = 0o644, **who: int) -> tuple[dict[str, int], int]:
    """The entry, and the handle."""
    body = kernel.CREATE_IN.pack(os.O_RDWR | os.O_CREAT, mode, 0, 0) + name + b"\0"
    reply = fake.ask(kernel.CREATE, body=body, **who)
    return entry(reply), kernel.OPEN_OUT.unpack_from(reply, kernel.ENTRY_OUT.size)[0]


# --------------------------------------------------------------------------------------------------------- beginning


def test_it_asks_for_what_it_uses_and_never_for_the_kernels_cache_of_writes(files):
    fake = FakeKernel(files)

    found = fake.initialise(flags=(1 << 64) - 1)
    fake.end()

    major, minor, readahead, flags, _, _, data_bytes, granularity, pages, _, more_flags, stack_depth = found

    assert (major, minor, data_bytes, pages, granularity) == (7, 45, 1 << 20, 256, 1)
    assert readahead >= 1 << 20
    assert flags & kernel.HANDLE_KILLPRIV_V2
    assert not flags & (WRITEBACK_CACHE | DONT_MASK | kernel.FLOCK_LOCKS | POSIX_LOCKS)
    assert more_flags << 32 & kernel.DIRECT_IO_ALLOW_MMAP
    assert bool(more_flags << 32 & kernel.PASSTHROUGH) == bool(stack_depth) == (os.geteuid() == 0)


def test_it_asks_for_nothing_that_the_kernel_has_not(files):
    fake = FakeKernel(files)

    flags = fake.initialise(minor=31, flags=kernel.ASYNC_READ)[3]
    fake.end()

    assert flags == kernel.ASYNC_READ


def test_a_newer_major_version_is_asked_again(files):
    fake = FakeKernel(files)

    assert fake.initialise(major=8)[0] == 7
    assert fake.initialise()[0] == 7
    fake.end()


def test_an_older_kernel_is_refused_in_words(files):
    fake = FakeKernel(files)

    with pytest.raises(OSError, match=os.strerror(errno.EPROTO)):
        fake.initialise(minor=30)
    fake.end()

    assert isinstance(fake.failures[0], errors.ConfigurationError)


def test_programs_are_let_in_once_the_kernel_has_its_first_answer(files):
    ready = threading.Event()
    fake = FakeKernel(files, ready=ready.set)
    assert not ready.is_set()

    fake.initialise()

    assert ready.wait(10)
    fake.end()


# ------------------------------------------------------------------------------------------------- who reads and answers


class HeldFiles(MemoryFiles):
    """Of which *held* is looked up when something has happened."""

    def __init__(self, wait: Callable[[], object]) -> None:
        super().__init__(waits=True)
        self._wait = wait

    def look_up(self, directory: int, name: bytes) -> Attributes | Missing:
        if name == b"held":
            self._wait()
        return super().look_up(directory, name)


@pytest.fixture
def held() -> threading.Event:
    return threading.Event()


def answered_while_held(fake: FakeKernel, held: threading.Event, count: int) -> int:
    """How many threads answer, when *count* requests are held and another one is answered meanwhile."""
    waiting = {fake.send(kernel.LOOKUP, body=b"held\0") for _ in range(count)}

    assert entry(fake.ask(kernel.LOOKUP, body=b"other\0"))["nodeid"] == 0

    threads = sum(thread.name == "pgstore-mount" for thread in threading.enumerate())
    held.set()
    assert {fake.answer()[0] for _ in range(count)} == waiting
    return threads


def test_what_is_answered_at_once_by_the_database_takes_no_other_thread(held):
    fake = FakeKernel(HeldFiles(held.wait))
    fake.initialise()
    held.set()

    for _ in range(100):
        fake.ask(kernel.LOOKUP, body=b"held\0")

    assert not any(thread.name == "pgstore-mount" for thread in threading.enumerate())
    fake.end()


@pytest.mark.parametrize("count", [1, 2])
def test_who_waits_for_anything_but_the_database_holds_up_nobody(held, count):
    """
    Also two of them, and again, when that is known to take long. Whoever is left reads.
    """
    fake = FakeKernel(HeldFiles(held.wait), threads_max=4)
    fake.initialise()

    for _ in range(3):
        held.clear()
        assert answered_while_held(fake, held, count) <= 3
    fake.end()


def test_others_are_served_once_they_ask_while_the_database_is_waited_for(held):
    """
    At once, and not when somebody has noticed that it takes long.
    """
    ours, theirs = socket.socketpair()

    def wait() -> None:
        attention = meanwhile.current()
        while attention is not None and attention.is_on:
            attention.wait_for(ours.fileno(), select.POLLIN, 10_000)
        held.wait()

    with ours, theirs:
        fake = FakeKernel(HeldFiles(wait))
        fake.initialise()

        assert answered_while_held(fake, held, 1) == 1
        fake.end()

    assert not any(thread.name.startswith("pgstore-mount") for thread in threading.enumerate())


# ------------------------------------------------------------------------------------------------------------- verbs


def test_a_missing_name_may_be_remembered(fake):
    found = entry(fake.ask(kernel.LOOKUP, body=b"missing\0"))

    assert (found["nodeid"], found["entry_valid"]) == (0, 60)


def test_a_missing_name_is_an_error_where_it_may_not_be_remembered():
    fake = FakeKernel(MemoryFiles(caching=NO_CACHING))
    fake.initialise()

    with pytest.raises(FileNotFoundError):
        fake.ask(kernel.LOOKUP, body=b"missing\0")
    fake.end()


def test_times_of_belief_have_fractions():
    fake = FakeKernel(MemoryFiles(caching=Caching(1.5, 2.25, 0.0)))
    fake.initialise()
    made, _ = created(fake, b"file")
    fake.end()

    assert (made["entry_valid"], made["entry_valid_nsec"]) == (1, 500_000_000)
    assert (made["attr_valid"], made["attr_valid_nsec"]) == (2, 250_000_000)


def test_what_may_not_be_remembered_is_told_once_that_changes():
    files = MemoryFiles(caching=NO_CACHING)
    fake = FakeKernel(files)
    fake.initialise()
    assert created(fake, b"file")[0]["attr_valid"] == 0

    files._caching = Caching(7.0, 7.0, 7.0)

    assert entry(fake.ask(kernel.LOOKUP, body=b"file\0"))["attr_valid"] == 7
    fake.end()


def test_new_files_belong_to_who_asks(fake):
    made, _ = created(fake, b"file", uid=1000, gid=4_000_000_000)

    assert (made["uid"], made["gid"], made["mode"]) == (1000, 4_000_000_000, 0o100644)


def test_data_is_written_and_read(fake):
    made, handle = created(fake, b"file")
    head = kernel.WRITE_IN.pack(handle, 3, 5, 0, 0, os.O_RDWR)
    assert kernel.WRITE_OUT.unpack_from(fake.ask(kernel.WRITE, made["nodeid"], head + b"hello")) == (5,)

    read = kernel.READ_IN.pack(handle, 0, 100, 0, 0, os.O_RDWR)

    assert fake.ask(kernel.READ, made["nodeid"], read) == b"\0\0\0hello"


def test_for_a_users_writes_the_mode_is_asked_once_and_again_after_a_chmod(fake, files, monkeypatch):
    """
    On a NetworkFileSystem each time it is asked of the database.
    """
    made, handle = created(fake, b"file")
    ino = made["nodeid"]
    asked = []
    attributes = files.attributes
    monkeypatch.setattr(files, "attributes_now", lambda ino: None)

    def ask(ino):
        asked.append(ino)
        return attributes(ino)

    monkeypatch.setattr(files, "attributes", ask)

    def write():
        head = kernel.WRITE_IN.pack(handle, 0, 5, kernel.WRITE_KILL_SUIDGID, 0, os.O_RDWR)
        fake.ask(kernel.WRITE, ino, head + b"hello")

    for _ in range(3):
        write()
    assert asked == [ino]

    fields = [0] * (
        len(kernel.SETATTR_IN.fields) - len([f for f in kernel.SETATTR_IN.fields if "unused" in f or "padding" in f])
    )
    fields[0], fields[10] = kernel.FATTR_MODE, 0o4755
    for _ in range(2):
        fake.ask(kernel.SETATTR, ino, kernel.SETATTR_IN.pack(*fields))
        assert attributes(ino).mode == 0o4755
        write()
        assert attributes(ino).mode == 0o755


def test_a_read_of_very_many_pieces_is_one_reply(fake, files, monkeypatch):
    """
    writev(2) takes 1024.
    """
    made, handle = created(fake, b"file")
    monkeypatch.setattr(files.inodes[made["nodeid"]], "read", lambda _offset, _length: [b"x"] * 3000, raising=False)

    assert fake.ask(kernel.READ, made["nodeid"], kernel.READ_IN.pack(handle, 0, 3000, 0, 0, 0)) == b"x" * 3000


def test_a_mount_of_a_part_shows_its_root_as_the_first_inode(files):
    """
    The kernel calls what is mounted 1, whichever inode it is.
    """
    below = files.make(1, b"below", "d", 0o755, Owner(0, 0))
    files.make(below.ino, b"inside", "f", 0o644, Owner(0, 0))
    files.root = below.ino
    fake = FakeKernel(files)
    fake.initialise()

    assert entry(fake.ask(kernel.LOOKUP, body=b"inside\0"))["nodeid"] > 1
    attributes = fake.ask(kernel.GETATTR, body=kernel.GETATTR_IN.pack(0, 0))
    fake.end()

    assert struct.unpack_from("Q", attributes, 16) == (below.ino,)


def test_of_very_large_directories_the_kernel_is_given_names_alone(fake, files, monkeypatch):
    monkeypatch.setattr("pgstore.mount.listing._REMEMBERED_MAX", 5)
    for number in range(20):
        files.make(1, b"%02d" % number, "f", 0o644, Owner(0, 0))
    (handle, *_) = kernel.OPEN_OUT.unpack_from(fake.ask(kernel.OPENDIR, body=kernel.OPEN_IN.pack(0, 0)))

    packed = fake.ask(kernel.READDIRPLUS, body=kernel.READ_IN.pack(handle, 0, 65536, 0, 0, 0))

    size = kernel.DIRENTPLUS.size + 8
    assert len(packed) == 22 * size
    nodes = [entry(packed[start:])["nodeid"] for start in range(0, len(packed), size)]
    assert nodes[:2] == [0, 0]
    assert all(nodes[2:5])
    assert not any(nodes[5:])


def test_forgetting_is_not_answered(fake):
    fake.send(kernel.FORGET, body=struct.pack("Q", 1))
    fake.send(kernel.BATCH_FORGET, body=struct.pack("II", 0, 0))

    assert fake.silent()


def test_what_is_not_offered_is_enosys(fake):
    for opcode in (39, 40, 51, 34):  # IOCTL, POLL, TMPFILE, ACCESS
        with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
            fake.ask(opcode, body=bytes(64))


def test_the_end_is_answered(fake):
    assert fake.ask(kernel.DESTROY) == b""


def test_what_is_open_at_the_end_is_closed(files):
    fake = FakeKernel(files)
    fake.initialise()
    made, _ = created(fake, b"file")
    inode = files.inodes[made["nodeid"]]
    assert inode.opened == 1

    fake.end()

    assert inode.opened == 0


def test_a_file_that_cannot_be_closed_at_the_end_keeps_no_other_open(files, monkeypatch, caplog):
    fake = FakeKernel(files)
    fake.initialise()
    inodes = [files.inodes[created(fake, name)[0]["nodeid"]] for name in (b"first", b"second")]
    release = MemoryFile.release

    def fail(file: MemoryFile) -> None:
        release(file)
        if file.ino == inodes[0].ino:
            raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(MemoryFile, "release", fail)
    with caplog.at_level(logging.CRITICAL, "pgstore"):
        fake.end()

    assert [inode.opened for inode in inodes] == [0, 0]


# ------------------------------------------------------------------------------------------------------------ threads


def test_without_threads_of_the_system_one_serves_all(monkeypatch):
    files = MemoryFiles(waits=True)
    start = threads.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "pgstore-mount":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threads, "start", refuse)
    fake = FakeKernel(files)
    fake.initialise()

    for number in range(3):
        created(fake, b"%d" % number)
    fake.end()

    assert sorted(files.inodes[1].names) == [b"0", b"1", b"2"]


def test_what_may_wait_is_answered_in_any_order_by_no_more_threads_than_allowed(monkeypatch):
    """
    And what need not wait at once, though more waits than there are threads.
    """
    files = MemoryFiles()
    gate = threading.Event()
    waiting: set[threading.Thread] = set()

    def statistics() -> Statistics:
        waiting.add(threading.current_thread())
        gate.wait(10)
        return Statistics(4096, 1, 1, 1, 1)

    monkeypatch.setattr(files, "statistics", statistics)
    fake = FakeKernel(files, threads_max=3)
    fake.initialise()
    slow = {fake.send(kernel.STATFS) for _ in range(10)}
    assert entry(fake.ask(kernel.LOOKUP, body=b"quick\0"))["nodeid"] == 0

    gate.set()

    assert {fake.answer()[0] for _ in range(10)} == slow
    fake.end()
    assert len(waiting) <= 3


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (errors.StaleFile("gone"), errno.ESTALE),
        (errors.NotFoundError("no such store"), errno.ESTALE),
        (StoreGone(), errno.ESTALE),
        (errors.AccessDenied("no right"), errno.EACCES),
        (errors.StoreUnavailable("no server"), errno.EIO),
        (errors.OutcomeUnknown("no server"), errno.EIO),
        (errors.TimedOut("too long"), errno.ETIMEDOUT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_that_can_be_expected_are_their_errno(fake, files, monkeypatch, caplog, failure, number):
    def fail(_ino: int) -> Attributes:
        raise failure

    monkeypatch.setattr(files, "attributes", fail)

    with pytest.raises(OSError, match=r"\[Errno") as raised:
        fake.ask(kernel.GETATTR, body=kernel.GETATTR_IN.pack(0, 0))

    assert raised.value.errno == number
    assert caplog.records == []


@pytest.mark.parametrize(
    "failure", [ZeroDivisionError("a mistake"), errors.ConflictError("unforeseen"), OSError("without"), MemoryError()]
)
def test_an_error_that_nobody_expects_is_eio_and_logged_once(fake, files, monkeypatch, caplog, failure):
    def fail(_directory: int, _name: bytes) -> Attributes | Missing:
        raise failure

    monkeypatch.setattr(files, "look_up", fail)
    with caplog.at_level(logging.ERROR, "pgstore"), pytest.raises(OSError, match=os.strerror(errno.EIO)):
        fake.ask(kernel.LOOKUP, body=b"name\0")

    (record,) = caplog.records
    assert record.exc_info
    monkeypatch.undo()
    assert entry(fake.ask(kernel.LOOKUP, body=b"name\0"))["nodeid"] == 0


def test_a_request_that_makes_no_sense_is_eio_and_the_mount_goes_on(fake, caplog):
    with caplog.at_level(logging.CRITICAL, "pgstore"):
        for opcode in (kernel.READ, kernel.WRITE, kernel.FLUSH, kernel.READDIR):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                fake.ask(opcode, body=b"\xff" * 64)

    assert fake.silent()


def test_a_channel_that_talks_nonsense_ends_the_mount(files, caplog):
    """
    Rather than that programs wait for answers for ever.
    """
    fake = FakeKernel(files)
    fake.initialise()

    with caplog.at_level(logging.CRITICAL, "pgstore"):
        fake._ours.send(bytes(80))
        fake.end()

    assert [type(failure) for failure in fake.failures] == [OSError]
