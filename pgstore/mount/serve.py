"""Serving a mount: who reads the kernel's requests, and who answers them.

One thread reads at a time, and answers itself what need not wait for anybody. Before it does what may wait, it lets another one
read: so a slow READ holds up no GETATTR, and in the common quick case no thread is woken. When all threads wait, the one that reads
keeps reading; it puts aside what may wait, for whoever is free first.

Most of what may wait is answered by the database in less time than it takes to wake a thread. Meanwhile the turn at reading is
kept, as long as nothing else is asked (`core.meanwhile`), and it waits for the database alone: who waits for something else is
noticed by another thread, which looks now and then.

A program that is killed while it waits for an answer is let go at once: the kernel says so (INTERRUPT), and it has a SIGKILL
pending. Other signals don't end a request: few programs expect EINTR of a regular file, and some interrupt themselves all the time.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.core import clock, threads
from pgstore.core.affinity import Following
from pgstore.core.meanwhile import Attention
from pgstore.fs.model import StoreGone
from pgstore.mount import kernel
from pgstore.mount.channel import BODY, Channel, Request
from pgstore.mount.notifier import Notifier
from pgstore.mount.protocol import Files
from pgstore.mount.verbs import CHANGING, NOW, SERVE, Reply, Verbs

_LOG: Final = logging.getLogger("pgstore")

_PUT_ASIDE_MAX: Final = 32
_LOCK_WAITS_MAX: Final = 256
LOOK_SECONDS: Final = 0.01  # between looks whether who has the turn at reading waits for something
_LOOKS_MAX: Final = 100  # with nobody to look at; then it is looked no more until there is
# For so long after it was noticed that somebody waits, nobody keeps the turn at reading; then twice as long, if that is soon.
_SLOW_SECONDS: Final = 0.02
_SLOW_SECONDS_MAX: Final = 1.0


def serve(
    device: int,
    files: Files,
    *,
    threads_max: int | None = None,
    ready: Callable[[], None] | None = None,
    let_go: Callable[[], None] | None = None,
) -> None:
    """
    Answer what the kernel asks of *files*, until they are unmounted; then end them.

    Args:
        device: a descriptor of /dev/fuse with which somebody has mounted. It is not closed.
        threads_max: how many threads serve, the caller's among them; None: as *files* say.
        ready: called once the kernel has been answered for the first time, so that programs find the files.
        let_go: called once the kernel asks for nothing any more, before what was written is brought into the store.
    """
    Server(device, files, threads_max=threads_max, ready=ready, let_go=let_go).run()


class Server:
    """See `serve`."""

    def __init__(
        self,
        device: int,
        files: Files,
        *,
        threads_max: int | None = None,
        ready: Callable[[], None] | None = None,
        let_go: Callable[[], None] | None = None,
    ) -> None:
        self._channel = Channel(device)
        self._files = files
        self._verbs = Verbs(files)
        self._notifier = Notifier(self._channel, files.root, files.changes)
        self._threads_max = files.threads_max if threads_max is None else threads_max
        self._ready = ready
        self._let_go = let_go
        self._reading = threading.Lock()  # whoever has it reads
        self._mutex = threading.Lock()  # over the next four
        self._turn: _Turn | None = None  # of the one that reads
        self._idle = 0  # threads that wait for `_reading`
        self._threads: list[threading.Thread] = []
        self._put_aside: deque[Request] = deque()
        self._underway: dict[int, int] = {}  # requests that may wait: who waits for them, by the request's number
        self._lock_waits: dict[int, threading.Event] = {}  # by the request's number: what makes it give up
        self._ended = False
        self._failure: BaseException | None = None
        self._is_looked_at = False  # whether `_look` looks
        self._look_again = threads.Signal()
        self._slow_seconds = 0.0
        self._slow_until = 0.0

    def run(self) -> None:
        """Serve until nothing is mounted any more."""
        request = Request()
        looking = threading.Thread(target=self._look, name="pgstore-mount-look", daemon=True)
        try:
            if self._initialise(request):
                self._files.begin(self._notifier)
                self._notifier.start()
                threads.start(looking)
                if self._ready is not None:
                    self._ready()
                self._work(request)
        finally:
            self._ended = True
            if self._let_go is not None:
                self._let_go()
            for given_up in list(self._lock_waits.values()):
                given_up.set()
            for thread in self._threads:
                thread.join()
            self._look_again.set()
            if looking.ident is not None:
                looking.join()
            self._notifier.stop()
            self._close_all()
            self._files.end()
        if self._failure is not None:
            raise self._failure

    def _close_all(self) -> None:
        for handle in self._verbs.handles():
            try:
                self._verbs.abandon(handle)
            except Exception:
                _LOG.exception("a file that was open at the end of a mount could not be closed")

    # -------------------------------------------------------------------------------------------------------- threads

    def _work(self, request: Request | None = None) -> None:
        request = request or Request()
        turn = _Turn(self._channel.device, self._pass_on, request)
        turn.attention.attend()
        while True:
            with self._mutex:
                if self._put_aside:
                    request = self._put_aside.popleft()
                    waiting = True
                else:
                    self._idle += 1
                    waiting = False
            if not waiting:
                self._reading.acquire()
                with self._mutex:
                    self._idle -= 1
                    self._turn, turn.is_over = turn, False
                turn.request = request
                try:
                    found = self._read(request, turn)
                except Exception as exc:  # programs must not wait for ever: without a reader the mount ends
                    _LOG.exception("a mount ends, since what the kernel asks cannot be read")
                    self._ended = True
                    self._failure = exc
                    return
                finally:
                    self._end(turn)
                if found is None:
                    if self._ended:
                        return
                    request = turn.request
                    continue
                request = found
            self._answer(request, SERVE[request.opcode])
            self._underway.pop(request.unique, None)

    def _read(self, request: Request, turn: _Turn) -> Request | None:
        """
        Read requests, and answer them, up to one that may wait: return it. None: the turn is over, or nothing is mounted any more.
        """
        read, following = self._channel.read, turn.following
        now = NOW.get
        while True:
            if self._ended or not read(request, following.free):
                self._ended = True
                return None
            opcode = request.opcode
            attempt = now(opcode)
            if attempt is not None:
                if self._answer(request, attempt):
                    following.answered(request.pid)
                    continue
                following.leave()
            elif opcode in _WITHOUT_REPLY:
                if opcode == kernel.INTERRUPT:
                    self._interrupt(request)
                continue
            elif opcode == kernel.SETLKW:
                request = self._wait_for_lock(request)
                continue
            elif opcode not in SERVE:
                self._refuse(request.unique, 0 if opcode == kernel.DESTROY else errno.ENOSYS)
                continue
            self._underway[request.unique] = request.pid
            if opcode in _BRIEF and self._may_keep_turn():
                if self._answer_meanwhile(request, turn):
                    continue
                return None
            if (kept := self._hand_over(request, turn)) is not None:
                turn.request = request = kept
                continue
            return request

    def _may_keep_turn(self) -> bool:
        """Whether somebody else can read if it takes longer, and that has not happened just now."""
        if not (self._idle or len(self._threads) + 1 < self._threads_max):
            return False
        return not self._slow_until or clock.monotonic() >= self._slow_until

    def _answer_meanwhile(self, request: Request, turn: _Turn) -> bool:
        """Answer *request*, and let others read if there is something to be read before it is. Returns whether *turn* goes on."""
        turn.number += 1
        turn.is_waiting = turn.attention.is_on = True
        if not self._is_looked_at:
            self._look_again.set()
        self._answer(request, SERVE[request.opcode])
        turn.attention.is_on = False
        self._underway.pop(request.unique, None)
        with self._mutex:
            turn.is_waiting = False
            return not turn.is_over

    def _look(self) -> None:
        """See to it that somebody reads though who has the turn waits for anything but the database."""
        seen: tuple[_Turn, int] | None = None
        looks = 0
        self._is_looked_at = True
        while not self._ended:
            waiting = self._waiting()
            if waiting is not None and waiting == seen:
                self._pass_on_late(*waiting)
            seen = waiting
            looks = 0 if waiting is not None else looks + 1
            if looks < _LOOKS_MAX:
                if self._look_again.wait(LOOK_SECONDS):
                    self._look_again.clear()
                continue
            self._is_looked_at = False
            self._look_again.clear()
            if self._may_rest():
                self._look_again.wait()
            self._is_looked_at = True
            looks = 0

    def _waiting(self) -> tuple[_Turn, int] | None:
        """Whose turn it is, if they answer something that may wait; and which one of those it is."""
        turn = self._turn
        return None if turn is None or not turn.is_waiting else (turn, turn.number)

    def _may_rest(self) -> bool:
        return not self._ended and self._waiting() is None

    def _pass_on_late(self, turn: _Turn, number: int) -> None:
        with self._mutex:
            if turn.is_waiting and turn.number == number and not turn.is_over:
                now = clock.monotonic()
                is_soon = now < self._slow_until + _SLOW_SECONDS_MAX
                self._slow_seconds = min(2 * self._slow_seconds, _SLOW_SECONDS_MAX) if is_soon else _SLOW_SECONDS
                self._slow_until = now + self._slow_seconds
                self._pass_on_with_mutex(turn)

    def _pass_on(self, turn: _Turn) -> bool:
        """Let another thread read. Returns False if there is none."""
        with self._mutex:
            return self._pass_on_with_mutex(turn)

    def _pass_on_with_mutex(self, turn: _Turn) -> bool:
        if turn.is_over:
            return True
        if not self._idle:
            if len(self._threads) + 1 >= self._threads_max:
                return False
            thread = threading.Thread(target=self._work, name="pgstore-mount", daemon=True)
            try:
                threads.start(thread)
            except RuntimeError:  # the system has no more
                return False
            self._threads.append(thread)
        turn.is_over = True
        self._reading.release()
        return True

    def _end(self, turn: _Turn) -> None:
        """Whoever had *turn* does not read any more."""
        turn.following.free()
        with self._mutex:
            if not turn.is_over:
                turn.is_over = True
                self._reading.release()

    def _hand_over(self, request: Request, turn: _Turn) -> Request | None:
        """Let another thread read. If there is none, put *request* aside and return one to go on with."""
        if self._pass_on(turn):
            return None
        with self._mutex:
            if len(self._put_aside) >= _PUT_ASIDE_MAX or not self._threads:
                return None  # who answers reads on afterwards
            self._put_aside.append(request)
        return Request()

    def _wait_for_lock(self, request: Request) -> Request:
        """Wait in a thread of its own, since others may keep a lock for days. Returns a request to go on with."""
        given_up = threading.Event()
        waiting = threading.Thread(target=self._lock, args=(request, given_up), name="pgstore-mount-lock", daemon=True)
        try:
            if len(self._lock_waits) >= _LOCK_WAITS_MAX:
                raise RuntimeError("too many wait for locks")
            self._lock_waits[request.unique] = given_up
            threads.start(waiting)
        except RuntimeError:
            self._lock_waits.pop(request.unique, None)
            self._refuse(request.unique, errno.ENOLCK)
            return request
        return Request()

    def _lock(self, request: Request, given_up: threading.Event) -> None:
        self._answer(request, lambda verbs, r: verbs.lock(r, given_up))
        self._lock_waits.pop(request.unique, None)

    # -------------------------------------------------------------------------------------------------------- answers

    def _answer(self, request: Request, verb: Callable[[Verbs, Request], Reply | None]) -> bool:
        """Call *verb*, and send what it returns or what it fails with. Returns False if it might wait."""
        unique = request.unique
        try:
            reply = verb(self._verbs, request)
        except (OSError, errors.Error, StoreGone) as exc:
            number = errno_of(exc)
            if number is None:
                _LOG.error(_UNANSWERED, request.opcode, request.node, exc_info=exc)
            self._refuse(unique, number or errno.EIO)
            return True
        except Exception:
            _LOG.exception(_UNANSWERED, request.opcode, request.node)
            self._refuse(unique, errno.EIO)
            return True
        if reply is None:
            return False
        if request.opcode in CHANGING:
            self._verbs.note_change(request)
        try:
            if not self._channel.reply(unique, reply):
                self._verbs.undo_open(request, reply)
        except OSError:
            _LOG.exception("the kernel refused the answer to operation %s of inode %s", request.opcode, request.node)
            self._refuse(unique, errno.EIO)
        return True

    def _refuse(self, unique: int, number: int) -> None:
        try:
            self._channel.reply_error(unique, number)
        except OSError:
            _LOG.exception("the kernel refused an answer")

    def _interrupt(self, request: Request) -> None:
        (unique,) = kernel.INTERRUPT_IN.unpack_from(request.buffer, BODY)
        if given_up := self._lock_waits.get(unique):  # by any signal: the kernel asks again, if the program goes on
            given_up.set()
            return
        pid = self._underway.get(unique)
        if pid is not None and _is_killed(pid):
            with self._mutex:
                for waiting in list(self._put_aside):
                    if waiting.unique == unique:
                        self._put_aside.remove(waiting)
                        self._underway.pop(unique, None)
            self._refuse(unique, errno.EINTR)  # else what it was to do may happen yet, and nobody is told

    # ------------------------------------------------------------------------------------------------------ beginning

    def _initialise(self, request: Request) -> bool:
        """Agree on what both can do. Returns False if nothing is mounted any more."""
        while True:
            if not self._channel.read(request):
                return False
            if request.opcode != kernel.INIT:
                raise OSError(errno.EPROTO, f"the kernel began with operation {request.opcode}")
            major, minor, _readahead, offered, more = kernel.INIT_IN.unpack_from(request.buffer, BODY)
            if offered & kernel.INIT_EXT:
                offered |= more << 32
            if major > kernel.MAJOR:
                self._channel.reply(request.unique, _init_reply(0))  # it asks again, by ours
                continue
            if (major, minor) < (kernel.MAJOR, kernel.MINOR_NEEDED):
                self._channel.reply_error(request.unique, errno.EPROTO)
                raise errors.ConfigurationError(
                    f"the kernel speaks FUSE {major}.{minor}, a mount needs {kernel.MAJOR}.{kernel.MINOR_NEEDED} (Linux 5.4)"
                )
            self._notifier.knows_epochs = minor >= kernel.MINOR_OF_INC_EPOCH
            wanted = _WANTED | (kernel.FLOCK_LOCKS if self._files.shares_locks else 0)
            if os.geteuid() == 0:  # others it would refuse what is to be passed through
                wanted |= kernel.PASSTHROUGH
            agreed = offered & wanted
            self._notifier.passes_through = bool(agreed & kernel.PASSTHROUGH)
            self._verbs.may_be_direct = bool(agreed & kernel.DIRECT_IO_ALLOW_MMAP)
            self._channel.reply(request.unique, _init_reply(agreed))
            return True


class _Turn:
    """A thread's turn at reading."""

    def __init__(self, device: int, pass_on: Callable[[_Turn], object], request: Request) -> None:
        self.attention = Attention(device, partial(pass_on, self))
        self.following = Following()
        self.is_over = True
        self.is_waiting = False
        """Whether it answers something that may wait."""
        self.number = 0  # another one for each of these
        self.request = request
        """What it reads into: not what it has put aside, which is another thread's."""


_WITHOUT_REPLY: Final = (kernel.FORGET, kernel.BATCH_FORGET, kernel.INTERRUPT)

# What the database mostly answers at once. Not what reads and writes much, nor what waits for the disk.
_BRIEF: Final = frozenset(
    (
        *(
            kernel.LOOKUP,
            kernel.GETATTR,
            kernel.SETATTR,
            kernel.STATFS,
            kernel.MKNOD,
            kernel.MKDIR,
            kernel.SYMLINK,
            kernel.READLINK,
        ),
        *(kernel.LINK, kernel.UNLINK, kernel.RMDIR, kernel.RENAME, kernel.RENAME2, kernel.GETXATTR, kernel.LISTXATTR),
        *(
            kernel.SETXATTR,
            kernel.REMOVEXATTR,
            kernel.OPEN,
            kernel.CREATE,
            kernel.FLUSH,
            kernel.RELEASE,
            kernel.OPENDIR,
        ),
    )
)

# Not WRITEBACK_CACHE: with it the kernel believes its own size of a file that others have changed. Not AUTO_INVAL_DATA: pages are
# dropped when `Files` say so, not whenever an mtime differs. Not DONT_MASK: the kernel applies the umask.
_WANTED: Final = (
    kernel.ASYNC_READ
    | kernel.ATOMIC_O_TRUNC
    | kernel.BIG_WRITES
    | kernel.DO_READDIRPLUS
    | kernel.READDIRPLUS_AUTO
    | kernel.ASYNC_DIO
    | kernel.PARALLEL_DIROPS
    | kernel.MAX_PAGES
    | kernel.CACHE_SYMLINKS
    | kernel.HANDLE_KILLPRIV_V2
    | kernel.INIT_EXT
    | kernel.DIRECT_IO_ALLOW_MMAP
)

_READAHEAD_BYTES: Final = 4 * kernel.DATA_BYTES_MAX
_BACKGROUND_MAX: Final = 32  # requests under way that no program waits for yet, as those of read-ahead
_CONGESTED: Final = 24
# What is passed through lies in a file system that lies over no other. With more, ours could not lie below an overlay.
_STACK_DEPTH: Final = 1


def _init_reply(flags: int) -> bytes:
    return kernel.INIT_OUT.pack(
        *(kernel.MAJOR, kernel.MINOR, _READAHEAD_BYTES, flags & 0xFFFFFFFF, _BACKGROUND_MAX, _CONGESTED),
        *(kernel.DATA_BYTES_MAX, 1, kernel.DATA_BYTES_MAX // kernel.PAGE, 0, flags >> 32),
        _STACK_DEPTH if flags & kernel.PASSTHROUGH else 0,
    )


_UNANSWERED: Final = "a mount could not answer operation %s of inode %s"


_STALE: Final = (StoreGone, errors.NotFoundError, errors.VersionGone)


def errno_of(exc: Exception) -> int | None:
    """What a program is told of *exc*. None: it is none of the errors that can be expected."""
    if isinstance(exc, _STALE):
        return errno.ESTALE
    if isinstance(exc, errors.StoreUnavailable):  # ENOTCONN would say that nothing serves the mount
        return errno.EIO
    return exc.errno if isinstance(exc, OSError) and exc.errno in errno.errorcode else None


def _is_killed(pid: int) -> bool:
    """Whether the thread *pid* has a SIGKILL pending. Of other signals that end its process the kernel makes this one."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            pending = [int(line.split()[1], 16) for line in status if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    except OSError:
        return False
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)
