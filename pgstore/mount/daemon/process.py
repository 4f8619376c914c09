"""The process of a daemon: one loop that listens to its caller, and a thread for each call.

It ends when its caller says so, or ends; on SIGTERM; and one that stays without a caller, when nothing is mounted any more. Then it
commits what was written, and unmounts.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pgstore import errors
from pgstore.core import threads
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.threads import Signal
from pgstore.mount.daemon import parent
from pgstore.mount.daemon.backends import open_files, spec_of_plain
from pgstore.mount.daemon.clients import Clients
from pgstore.mount.daemon.control import ControlSocket
from pgstore.mount.daemon.messages import Closed, MessageSocket
from pgstore.mount.daemon.served import Served
from pgstore.mount.failures import PlainError, as_plain

_LOG: Final = logging.getLogger("pgstore")
ASK_SECONDS: Final = 60.0  # for a function that gives a URL
ANSWERS_SECONDS: Final = 2.0  # for a call that is under way at the end
SESSION_SECONDS: Final = 1.0  # to end that of a client whose last mount is gone
SESSIONS_SECONDS: Final = 5.0  # to end its sessions, which otherwise count as alive for ten minutes
SAY_AFTER_SECONDS: Final = 2.0  # that bytes are still being written
CALL_ITEMS: Final = 4  # of a message that is a call: "call", number, verb, arguments
_UMASK: Final = 0o077


def run(descriptor: int, hello: dict[str, Any]) -> None:
    """Serve the caller at the other end of the socket *descriptor*, and never return."""
    os.chdir("/")
    os.umask(_UMASK)
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write("pgstore-mount")
    peer = MessageSocket(socket.socket(fileno=descriptor))
    _LOG.addHandler(_ToCaller(peer))
    _LOG.setLevel(hello["log_level"])
    _LOG.propagate = False
    threading.excepthook = _log_failure
    importlib.import_module(hello["import"])
    with contextlib.suppress(parent.Gone):
        Process(peer, hello["parent"]).run()
    # Threads may wait for a server, or for the kernel: nothing of theirs is needed any more.
    os._exit(0)


class Process:
    def __init__(self, peer: MessageSocket, caller: int | None) -> None:
        self._peer: MessageSocket | None = peer
        self._selector = selectors.DefaultSelector()
        self._clients = Clients(self._ask)
        self._lock = threading.RLock()
        self._mounts: dict[int, Served] = {}
        self._users: dict[int, int] = {}  # the client of each mount
        self._abandoned: set[int] = set()
        self._calls: list[threading.Thread] = []
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[Signal, list[Any]]] = {}
        self._control: ControlSocket | None = None
        self._stays = self._is_ending = False
        self._woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._listen(peer.fileno(), self._hear)
        self._listen(self._woken, self._wake)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda _, __: None)
        signal.set_wakeup_fd(self._waker)
        if caller is not None:
            self._listen(parent.watch(caller), self._end)

    def _listen(self, descriptor: int, function: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, function)

    def run(self) -> None:
        """Carry out calls until the end."""
        while not self._is_ending:
            for key, _ in self._selector.select():
                key.data()
        self._close_all()

    def _end(self) -> None:
        self._is_ending = True

    def _wake(self) -> None:
        """A signal has come, or a mount has ended."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._woken, 100):
                if signal.SIGTERM in data:
                    self._end()
        if self._stays and not self._served():
            self._end()

    # --------------------------------------------------------------------------------------------------------- calls

    def _hear(self) -> None:
        """A message of the caller's."""
        peer = self._peer
        assert peer is not None
        try:
            message, descriptors = peer.receive()
        except Closed:
            self._selector.unregister(peer.fileno())
            peer.close()
            self._peer = None
            if not self._stays:
                self._end()
            return
        if message[0] == "answer":
            self._take_answer(*message[1:])
        else:
            self._begin(peer, message, descriptors, _FOR_CALLER)

    def _accept(self) -> None:
        """Another process has connected to the control socket."""
        assert self._control is not None
        peer = self._control.accept()
        if peer is not None:
            self._call(partial(self._serve_other, peer))

    def _serve_other(self, peer: MessageSocket) -> None:
        with contextlib.suppress(Closed):
            message, descriptors = peer.receive()
            if isinstance(message, list) and len(message) == CALL_ITEMS and isinstance(message[3], list):
                self._carry_out(peer, message, descriptors, _FOR_ALL)
        peer.close()

    def _begin(self, peer: MessageSocket, message: Any, descriptors: list[int], verbs: frozenset[str]) -> None:
        self._call(partial(self._carry_out, peer, message, descriptors, verbs))

    def _call(self, function: Callable[[], None]) -> None:
        self._calls = [thread for thread in self._calls if thread.is_alive()]
        self._calls.append(_start(function, "pgstore-call"))

    def _carry_out(self, peer: MessageSocket, message: Any, descriptors: list[int], verbs: frozenset[str]) -> None:
        _, number, verb, arguments = message
        value: Any = None
        failure: PlainError | None = None
        try:
            if verb not in verbs:
                raise errors.InvalidError(f"a daemon does not know {verb!r}")
            if verb == "mount":
                self.mount(descriptors.pop() if descriptors else None, *arguments)
            else:
                value = getattr(self, verb)(*arguments)
        except Exception as exc:  # noqa: BLE001 - whoever has called is told
            failure = as_plain(exc)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        with contextlib.suppress(Closed):
            peer.send(["reply", number, value, failure])

    def _ask(self, client: int) -> str:
        """The URL that the caller's function gives for *client*."""
        peer, number = self._peer, next(self._numbers)
        signalled, answers = self._asked[number] = (Signal(), [])
        try:
            if peer is None:
                raise errors.StoreUnavailable("the program that knows the URL has ended")
            with contextlib.suppress(Closed):
                peer.send(["ask", number, client])
            if not signalled.wait(ASK_SECONDS):
                raise errors.StoreUnavailable(
                    f"the function that gives the URL did not return within {ASK_SECONDS:g} s"
                )
        finally:
            del self._asked[number]
        url, failure = answers
        if failure is not None:
            raise errors.StoreUnavailable(f"the function that gives the URL has failed: {failure}")
        return str(url)

    def _take_answer(self, number: int, url: str | None, failure: str | None) -> None:
        signalled, answers = self._asked.get(number, (None, []))
        if signalled is not None:
            answers[:] = url, failure
            signalled.set()

    # --------------------------------------------------------------------------------------------------------- verbs

    def mount(
        self,
        device: int | None,
        number: int,
        plain: dict[str, Any],
        client: int | None,
        settings: dict[str, Any] | None,
    ) -> None:
        """Mount, in this process's namespace, or what comes through *device*. Without a *client* it is a bucket."""
        spec = spec_of_plain(plain)
        self._open_control()
        opened = None
        if client is not None and settings is not None:
            opened = self._clients.use(client, settings)
            with self._lock:
                self._users[number] = client
        try:
            try:
                with bounded_by(Deadline.after(spec.timeout)):
                    files = open_files(opened, spec)
            except BaseException:
                if device is not None:
                    os.close(device)
                raise
            served = self._mounts[number] = Served(spec, files, device, self._rouse)
            served.begin(spec.timeout)
        except BaseException:
            self._forget(number)
            raise
        if number in self._abandoned:
            self.unmount(number)

    def commit(self, number: int) -> None:
        self._mounts[number].commit()

    def hand_over(self, number: int) -> str | None:
        """What was written, for a transaction of the caller's; None: nothing was."""
        return self._mounts[number].hand_over()

    def handed_over(self, number: int, version: int, merged: list[list[int]]) -> None:
        self._mounts[number].handed_over(version, merged)

    def taken_back(self, number: int) -> None:
        self._mounts[number].taken_back()

    def reload(self, number: int) -> None:
        self._mounts[number].reload()

    def unmount(self, number: int) -> list[str]:
        """Unmount, and return who still uses it."""
        served = self._mounts[number]
        try:
            return served.close()
        finally:
            if served.is_over:
                self._forget(number)
            self._rouse()

    def abandon(self, number: int) -> None:
        """Unmount what the caller does not wait for any more, now or once it is mounted."""
        self._abandoned.add(number)
        if number in self._mounts and self._mounts[number].is_ready:
            self.unmount(number)

    def mounts(self) -> list[dict[str, Any]]:
        with self._lock:
            return [served.told() for served in self._served()]

    def unmount_path(self, path: str) -> list[str] | None:
        """Unmount what is mounted at *path*, and return who still uses it; None: it is none of ours."""
        for number, served in tuple(self._mounts.items()):
            if served.spec.path == path and not served.is_over:
                return self.unmount(number) if self._stays else served.close()
        return None

    def commit_path(self, path: str) -> bool:
        """Commit what was written at *path*; False: it is none of ours."""
        return self._on(path, Served.commit)

    def reload_path(self, path: str) -> bool:
        return self._on(path, Served.reload)

    def _on(self, path: str, verb: Callable[[Served], None]) -> bool:
        for served in self._served():
            if served.spec.path == path:
                verb(served)
                return True
        return False

    def stay(self, log: str | None) -> None:
        """Go on when the caller ends, and write what is logged to the file *log*; None: to nobody."""
        self._stays = True
        handler = logging.NullHandler() if log is None else logging.FileHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _LOG.handlers[:] = [handler]

    def end(self) -> None:
        """End, as if the caller had ended; all is unmounted when its socket is closed."""
        os.write(self._waker, bytes([signal.SIGTERM]))

    def _served(self) -> list[Served]:
        with self._lock:
            return [served for served in self._mounts.values() if not served.is_over]

    def _forget(self, number: int) -> None:
        with self._lock:
            self._mounts.pop(number, None)
            client = self._users.pop(number, None)
        if client is not None:  # where the server is silent it takes long, and nobody is to wait for it
            _start(partial(self._clients.leave, client), "pgstore-client").join(SESSION_SECONDS)

    def _rouse(self) -> None:
        os.write(self._waker, b"\0")

    def _open_control(self) -> None:
        with self._lock:
            if self._control is None:
                self._control = ControlSocket()
                self._listen(self._control.socket.fileno(), self._accept)
                self._rouse()

    # ----------------------------------------------------------------------------------------------------------- end

    def _close_all(self) -> None:
        """Commit and unmount all."""
        with self._lock:
            mounts = list(self._mounts.items())
        closing = [_start(partial(self._close, number, each), "pgstore-close") for number, each in mounts]
        said = threading.Timer(SAY_AFTER_SECONDS, _say_still_writing, [len(closing)])
        said.daemon = True
        if closing:
            said.start()
        for thread in closing:
            thread.join()
        said.cancel()
        for thread in self._calls:  # whoever has unmounted the last one is to be answered
            thread.join(ANSWERS_SECONDS)
        _start(self._clients.close, "pgstore-clients").join(SESSIONS_SECONDS)
        if self._control is not None:
            self._control.close()
        if self._peer is not None:
            self._peer.close()

    def _close(self, number: int, served: Served) -> None:
        """Commit and unmount one, and tell the caller what has become of it, if it is still there."""
        failure: PlainError | None = None
        path = served.spec.path
        try:
            if users := served.close():
                _LOG.warning("%s was unmounted while it was used by %s", path, ", ".join(users))
        except Exception as exc:  # noqa: BLE001 - the caller is told
            failure = as_plain(exc)
            _LOG.error(
                "what was written to %s was not all committed: %s",
                path,
                exc,
                exc_info=not isinstance(exc, errors.Error),
            )
        if self._peer is not None:
            with contextlib.suppress(Closed):
                self._peer.send(["closed", number, failure])


_FOR_CALLER: Final = frozenset(
    (
        "mount",
        "abandon",
        "commit",
        "hand_over",
        "handed_over",
        "taken_back",
        "reload",
        "unmount",
        "mounts",
        "stay",
        "end",
    )
)
_FOR_ALL: Final = frozenset({"mounts", "unmount_path", "commit_path", "reload_path"})


def _start(function: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=function, name=name, daemon=True)
    threads.start(thread)
    return thread


def _log_failure(failure: threading.ExceptHookArgs) -> None:
    """Nobody reads what this process says on stderr."""
    if failure.exc_value is not None:
        _LOG.error("a thread of the daemon of mounts has failed", exc_info=failure.exc_value)


def _say_still_writing(mounts: int) -> None:
    _LOG.warning("what was written to %d mounts is still being committed", mounts)


class _ToCaller(logging.Handler):
    """Hands what is logged to the caller's log."""

    def __init__(self, peer: MessageSocket) -> None:
        super().__init__()
        self._peer = peer

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Closed):
            self._peer.send(["log", record.levelno, self.format(record)])
