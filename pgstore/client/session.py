"""The session of a client: a row that says "this process is alive".

Ephemeral stores name a session, and so do pins: they must not outlive it. Its heartbeat comes once a minute. Without one for ten
minutes it is dead, and any client that starts a session deletes the dead ones with their stores (`pgstore.session_sweep`).

What a client keeps in the database by its session is known to hooks: ephemeral stores (`store.deletion`), pins of files
(`fs.retention.pins`). They are told after each heartbeat, when there is time to clear up, and when the session ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client.interfaces import ClientInterface
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.core.threads import going_on, start

T = TypeVar("T")
H = TypeVar("H", bound="SessionHook")

BEAT_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 2.0  # that closing waits for the background thread
DEAD_AFTER: Final = "10 minutes"

START = Statement("INSERT INTO pgstore.session (host, pid) VALUES ($1, $2) RETURNING id", "text int4")
BEAT = Statement("UPDATE pgstore.session SET heartbeat_at = statement_timestamp() WHERE id = $1", "int8")
END = Statement("DELETE FROM pgstore.session WHERE id = $1", "int8")
SWEEP = Statement(f"SELECT pgstore.session_sweep(interval '{DEAD_AFTER}')")


def sweep() -> Op[None]:
    """Delete the sessions that died and their ephemeral stores."""
    yield Query(SWEEP)


class SessionHook:
    """
    What is kept in the database for as long as a session lives.

    A hook that does not say otherwise keeps nothing and does nothing.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be deleted sooner than after the next heartbeat."""
        return False

    def with_heartbeat(self) -> Op[None]:
        """Renew what others depend on. Runs after each heartbeat, which may have found out that the session was swept."""
        yield from ()

    def clear_up(self) -> Op[None]:
        """Delete what is not wanted any more. Runs in the background; what fails is tried again."""
        yield from ()

    def at_end(self) -> Op[None]:
        """Delete everything. Runs when the session ends in good order."""
        yield from ()


class Session:
    """A client's session. Its row is inserted when it is first needed, such as by an ephemeral store."""

    def __init__(self, client: ClientInterface) -> None:
        self._client = client
        self._id: int | None = None
        self._pid = os.getpid()
        self._hooks: dict[type[SessionHook], SessionHook] = {}
        self._history = client.history  # in which the row is
        self._reserved_on = client.servers_seen
        self._reserved: dict[int, deque[int]] = {}
        self._tasks: deque[Callable[[], Op[None]]] = deque()
        self._stop = threading.Event()
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._thread: threading.Thread | None = None

    def reserved_inodes(self, store_id: int) -> deque[int]:
        """Numbers of inodes that are reserved for this client in a file system; those of another server are forgotten."""
        if self._client.is_pooled:
            return deque()  # the server may be replaced unnoticed
        if self._reserved_on != self._client.servers_seen:
            self._reserved_on, self._reserved = self._client.servers_seen, {}
        return self._reserved.setdefault(store_id, deque())

    def hook(self, kind: type[H]) -> H:
        """The session's hook of class *kind*; made on first use."""
        hook = self._hooks.get(kind)
        if hook is None:
            hook = self._hooks.setdefault(kind, kind(self))  # atomic: all who ask at once get the same
        return hook  # type: ignore[return-value]

    @property
    def history(self) -> object:
        """The history of the client (`client.history`)."""
        return self._client.history

    @property
    def server(self) -> int | None:
        """The server of the client (`client.history`)."""
        return self._client.server

    @property
    def id(self) -> int | None:
        """The session's id; None: it has no row."""
        return self._id

    def beat(self) -> Op[None]:
        """Write a heartbeat."""
        current = self._id
        if current is not None and not (yield Query(BEAT, current)):
            # Swept, after too long a silence. The stores that it owned now raise NotFoundError.
            with self._lock:
                if self._id == current:
                    self._id = None

    def current(self) -> Op[int]:
        """The session's id. If it has no row, dead sessions are swept and a row is inserted."""
        if self._id is not None and self._history is not self._client.history:
            self._history = self._client.history
            yield from self.beat()  # which finds out whether the row is there, too
        current = self._id
        if current is None:
            yield from sweep()
            ((started,),) = yield Query(START, socket.gethostname(), os.getpid())
            with self._lock:
                if self._id is None:
                    self._id = started
                    self._history = self._client.history
                    self._start_thread()
                current = self._id
            if current != started:  # another thread was quicker; this one would get no heartbeat
                yield Query(END, started)
        return current

    def later(self, task: Callable[[], Op[None]]) -> None:
        """
        Have the operation that *task* makes run in the background, once.

        Safe in a finaliser; a forked child forgets it.
        """
        self._tasks.append(task)

    def close(self) -> None:
        """End the session: delete what is ephemeral, as far as the server can be reached."""
        self._stop.set()
        if os.getpid() != self._pid:
            return
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)  # what it has in hand is not done twice
        if self._id is None and not self._tasks:
            return
        with contextlib.suppress(errors.Error):
            self._client.run(self._end())

    def _end(self) -> Op[None]:
        yield from each(self._tasks, lambda task: task())
        if self._id is None:
            return
        for hook in tuple(self._hooks.values()):
            yield from hook.at_end()
        yield Query(END, self._id)
        self._id = None

    def _start_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="pgstore-session", daemon=True)
            with contextlib.suppress(RuntimeError):  # the program ends before the first heartbeat is due
                start(thread)
                self._thread = thread

    def _run(self) -> None:
        while not self._stop.wait(self._pause_seconds()):
            # Others depend on the heartbeat, so it has a connection even when all are busy; the rest can wait for one.
            with going_on("the heartbeat"):
                self._client.run_in_background(self._keep_alive())
            with going_on("clearing up"):
                self._client.run(self._clear_up())

    def _pause_seconds(self) -> float:
        is_waiting = any(hook.is_waiting for hook in tuple(self._hooks.values()))
        return BEAT_SECONDS / 4 if is_waiting else BEAT_SECONDS

    def keep(self) -> Op[None]:
        """Do what the background thread does each time: a heartbeat, then what is left to be done."""
        yield from self._keep_alive()
        yield from self._clear_up()

    def _keep_alive(self) -> Op[None]:
        yield from self.beat()
        for hook in tuple(self._hooks.values()):
            yield from hook.with_heartbeat()

    def _clear_up(self) -> Op[None]:
        for hook in tuple(self._hooks.values()):
            yield from hook.clear_up()
        yield from each(self._tasks, lambda task: task())


def each(left: deque[T], do: Callable[[T], Op[None]]) -> Op[None]:
    """Call *do* with everything that is *left*. What fails goes to the end, to be tried again, and the others are still done."""
    for _ in range(len(left)):
        try:
            task = left.popleft()
        except IndexError:  # another thread was quicker
            return
        try:
            yield from do(task)
        except BaseException as exc:
            if isinstance(exc, errors.StoreUnavailable) or not isinstance(exc, errors.Error):
                left.appendleft(task)
                raise
            left.append(task)
