"""The caller's side of its daemon: starting it, asking it, and answering what it asks.

There is one daemon for a process, started when it is first needed. A forked process starts one of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from pgstore import errors
from pgstore.client import Client
from pgstore.core import threads
from pgstore.core.threads import Signal
from pgstore.mount.daemon import start
from pgstore.mount.daemon.backends import AnySpec
from pgstore.mount.daemon.clients import settings_of
from pgstore.mount.daemon.messages import Closed, MessageSocket
from pgstore.mount.failures import PlainError, rebuilt

_LOG: Final = logging.getLogger("pgstore")
START_SECONDS: Final = 30.0  # for an interpreter on a busy machine
END_SECONDS: Final = 5.0  # for a process that has closed its socket
# What an interpreter may need to start at all. All else is told over the socket.
_INHERITED: Final = ("LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONHOME")
# Its threads read megabytes at a time. With an arena for each of them the C library would keep as much again in those that do not
# read just now; and if it gave each piece back to the system, the kernel would clear its pages again and again, which takes as
# long as receiving it.
_MEMORY: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),  # bytes: what is larger is given back when it is freed
    "MALLOC_TRIM_THRESHOLD_": str(16 * 1024 * 1024),  # so much at the end of the arena is given back, too
}
_DESCRIPTOR: Final = 3


class DaemonGone(errors.FileFailed):
    """The daemon has ended before its caller."""


class Daemon:
    """
    A daemon that was started by this process.

    Args:
        is_own: it ends with this process; else once nothing is mounted any more, after `stay`.
        factory: what it is to import before it is asked for anything.
    """

    def __init__(self, factory: str, *, is_own: bool = True) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.pid = _spawn(theirs.fileno())
        self._peer = MessageSocket(ours)
        self._clients: weakref.WeakKeyDictionary[Client, int] = weakref.WeakKeyDictionary()
        self._urls: dict[int, Callable[[], str]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._waiting: dict[int, tuple[Signal, list[Any]]] = {}
        self._end_of: dict[int, Callable[[], None]] = {}  # by mount: called if the daemon ends before it is unmounted
        # By mount: what became of it when the daemon ended in good order.
        self._closed: dict[int, PlainError | None] = {}
        self.has_ended = False
        self._ended = Signal()
        self._how = ""
        hello = {
            "path": [os.path.abspath(path) for path in sys.path] + [str(Path(start.__file__).parents[3])],
            "environment": dict(os.environ),
            "parent": os.getpid() if is_own else None,
            "import": factory.partition(":")[0],
            "log_level": _LOG.getEffectiveLevel(),
        }
        with contextlib.suppress(Closed):  # its end is noticed below
            self._peer.send(hello)
        threads.start(threading.Thread(target=self._listen, name="pgstore-daemon", daemon=True))

    # --------------------------------------------------------------------------------------------------------- asking

    def call(self, verb: str, *arguments: Any, descriptors: Sequence[int] = ()) -> Any:
        """
        Have the daemon carry *verb* out, and return its result.

        Raises:
            DaemonGone: it has ended.
            Exception: what the call has failed with.
        """
        number = next(self._numbers)
        done, results = self._waiting[number] = (Signal(), [])
        try:
            if self.has_ended:
                raise self._gone()
            try:
                self._peer.send(["call", number, verb, list(arguments)], descriptors)
            except Closed:
                # Whoever hears of it may mount anew at once, and is not to be given this daemon again.
                self._ended.wait(END_SECONDS)
                raise self._gone() from None
            done.wait()
        finally:
            self._waiting.pop(number, None)
        if not results:
            raise self._gone()
        value, failure = results
        if failure is not None:
            raise rebuilt(failure)
        return value

    def _gone(self) -> DaemonGone:
        return DaemonGone(f"the process that served the mounts of this one has ended{self._how}", errno=107)

    def mount(self, client: Client | None, spec: AnySpec, on_end: Callable[[], None], device: int | None = None) -> int:
        """
        Mount what *spec* says, and return the number of the mount.

        Args:
            client: None: of a bucket.
            on_end: called by some thread if the daemon ends before `unmount`.
            device: a descriptor of /dev/fuse that was mounted already, where the daemon does not see it.
        """
        number = next(self._numbers)
        self._end_of[number] = on_end
        descriptors = [] if device is None else [device]
        try:
            client_number, settings = (None, None) if client is None else self._known(client)
            self.call("mount", number, spec.as_plain(), client_number, settings, descriptors=descriptors)
        except BaseException as exc:
            self._end_of.pop(number, None)
            if not isinstance(exc, Exception):  # Ctrl-C: it may be mounted in a moment, and nobody would know of it
                with contextlib.suppress(Closed):
                    self._peer.send(["call", 0, "abandon", [number]])
            raise
        return number

    def unmount(self, number: int) -> list[str]:
        """Commit and unmount, and return who still uses the mount."""
        try:
            users: list[str] = self.call("unmount", number)
        except DaemonGone:
            if number not in self._closed:
                raise
            if (failure := self._closed.pop(number)) is not None:
                raise rebuilt(failure) from None
            return []
        finally:
            self._end_of.pop(number, None)
        return users

    def _known(self, client: Client) -> tuple[int, dict[str, Any]]:
        """The number by which the daemon knows *client*, and its settings."""
        with self._lock:
            number = self._clients.get(client)
            if number is None:
                number = self._clients[client] = next(self._numbers)
                if callable(client.settings.url):
                    # Not the client itself: it may be collected when nothing of it is mounted any more.
                    self._urls[number] = client.settings.configured_url  # type: ignore[assignment]
        return number, settings_of(client)

    def end(self) -> None:
        """Have it end, and wait until it has."""
        with contextlib.suppress(errors.Error):
            self.call("end")
        self.wait()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._ended.wait()

    def leave(self) -> None:
        """Leave it to itself, after `stay`."""
        self._peer.close()

    def forget(self) -> None:
        """In a forked process: it is the parent's."""
        self._peer.forget()

    # ------------------------------------------------------------------------------------------------------ listening

    def _listen(self) -> None:
        """Hand on what the daemon says, until it ends."""
        try:
            while True:
                message, _ = self._peer.receive()
                self._take(*message)
        except Closed:
            self._end()

    def _take(self, kind: str, *values: Any) -> None:
        if kind == "reply":
            number, value, failure = values
            done, results = self._waiting.get(number, (None, []))
            if done is not None:
                results[:] = value, failure
                done.set()
        elif kind == "closed":
            number, failure = values
            self._closed[number] = failure
            self._end_of.pop(number, None)
        elif kind == "log":
            level, text = values
            _LOG.log(level, "%s", text)
        elif kind == "ask":
            # A function of the caller's may take its time, and log.
            threads.start(threading.Thread(target=partial(self._answer, *values), name="pgstore-url", daemon=True))

    def _answer(self, number: int, client: int) -> None:
        url = failure = None
        try:
            url = self._urls[client]()
        except Exception as exc:  # noqa: BLE001 - whoever connects is told
            failure = f"{type(exc).__name__}: {exc}"
        with contextlib.suppress(Closed):
            self._peer.send(["answer", number, url, failure])

    def _end(self) -> None:
        self._how = _awaited(self.pid)
        self.has_ended = True
        self._peer.close()
        for on_end in list(self._end_of.values()):
            with threads.going_on("clearing up after a daemon that has ended"):
                on_end()
        for done, _ in list(self._waiting.values()):
            done.set()
        self._ended.set()


def _spawn(descriptor: int) -> int:
    """Start the program of a daemon, with a socket, and return its number."""
    program = sys.executable
    if not program:
        raise errors.ConfigurationError(
            "sys.executable is not set: there is no interpreter to run the daemon of mounts with"
        )
    # In a session of its own, so that Ctrl-C in a terminal is none of its. By posix_spawn: a process with threads cannot run
    # Python between fork and exec.
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    try:
        nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        return os.posix_spawn(
            program,
            [program, "-I", "-S", start.__file__, str(_DESCRIPTOR)],
            {name: os.environ[name] for name in _INHERITED if name in os.environ} | _MEMORY,
            file_actions=[*nothing, (os.POSIX_SPAWN_DUP2, high, _DESCRIPTOR)],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD],
        )
    finally:
        os.close(high)


def _awaited(pid: int) -> str:
    """Reap the process *pid*, and say how it has ended."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # somebody waits for all children, or none is to be waited for
        return ""
    if os.WIFSIGNALED(status):
        return f" by signal {os.WTERMSIG(status)} ({signal.Signals(os.WTERMSIG(status)).name})"
    code = os.WEXITSTATUS(status)
    return f" with exit code {code}" if code else ""


_daemon: Daemon | None = None
_lock = threading.RLock()


def daemon(factory: str) -> Daemon:
    """The daemon of this process; if there is none, one is started that is soon to serve what *factory* makes."""
    global _daemon
    with _lock:
        if _daemon is None or _daemon.has_ended:
            _daemon = Daemon(factory)
        return _daemon


def running() -> Daemon:
    """
    The daemon of this process.

    Raises:
        InvalidError: there is none.
    """
    if _daemon is None:
        raise errors.InvalidError("this process has mounted nothing")
    return _daemon


def start_early(factory: str) -> None:
    """Start the daemon if there is none, and do not wait for it."""
    daemon(factory)


def end() -> None:
    """End the daemon of this process, if there is one."""
    global _daemon
    with _lock:
        ending, _daemon = _daemon, None
    if ending is not None:
        ending.end()


def kill() -> None:
    """End the daemon of this process at once, if there is one. What was not committed is lost."""
    if _daemon is not None and not _daemon.has_ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(_daemon.pid, signal.SIGKILL)
        _daemon.wait()


def _after_fork_in_child() -> None:
    global _daemon, _lock
    _lock = threading.RLock()
    if _daemon is not None:
        _daemon.forget()
    _daemon = None


os.register_at_fork(after_in_child=_after_fork_in_child)
