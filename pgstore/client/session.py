"""The session of a client: a row that says "this process is alive".

Ephemeral stores name a session, and so do pins: they must not outlive it. Its heartbeat comes once a minute. Without one for ten
minutes it is dead, and any client that starts a session deletes the dead ones with their stores (`pgstore.session_sweep`).

What a client keeps in the database by its session is known to hooks, such as those of ephemeral stores (`store.deletion`) and of
pins of files (`fs.retention.pins`). A hook is called with each heartbeat, then in the background to clear up, and when the session
ends. The client's scheduler does all of it: heartbeats on its urgent lane, for others depend on them, and what may wait for locks
on the ordinary one.
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
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.core.threads import going_on

T = TypeVar("T")
H = TypeVar("H", bound="SessionHook")

BEAT_SECONDS: Final = 60.0
DEAD_AFTER: Final = "10 minutes"

START = Statement("INSERT INTO pgstore.session (host, pid) VALUES ($1, $2) RETURNING id", "text int4")
BEAT = Statement("UPDATE pgstore.session SET heartbeat_at = statement_timestamp() WHERE id = $1", "int8")
# Passes over a session that is locked, because it is being swept: heartbeats wait for nobody. No row: it was swept.
BEAT_UNLESS_LOCKED = Statement(
    """
    WITH mine AS MATERIALIZED (SELECT id FROM pgstore.session WHERE id = $1 FOR UPDATE SKIP LOCKED),
         beaten AS (UPDATE pgstore.session AS s
                       SET heartbeat_at = statement_timestamp()
                      FROM mine
                     WHERE s.id = mine.id)
    SELECT 1 FROM pgstore.session WHERE id = $1
    """,
    "int8",
    repeatable=True,
)
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
        """Renew what others depend on. Runs as often as heartbeats, one of which may have found out that the session was swept."""
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
        self.client = client
        self._id: int | None = None
        self._pid = os.getpid()
        self._hooks: dict[type[SessionHook], SessionHook] = {}
        self._history = client.history  # in which the row is
        self._tasks: deque[Callable[[], Op[None]]] = deque()
        self._closed = False
        self._lock = threading.RLock()  # reentrant: a signal handler may come in

    def hook(self, kind: type[H]) -> H:
        """The session's hook of class *kind*; made on first use."""
        hook = self._hooks.get(kind)
        if hook is None:
            hook = self._hooks.setdefault(kind, kind(self))  # atomic: all who ask at once get the same
        return hook  # type: ignore[return-value]

    @property
    def history(self) -> object:
        """The history of the client (`client.history`)."""
        return self.client.history

    @property
    def server(self) -> int | None:
        """The server of the client (`client.history`)."""
        return self.client.server

    @property
    def id(self) -> int | None:
        """The session's id; None: it has no row."""
        return self._id

    def beat(self, statement: Statement = BEAT) -> Op[None]:
        """Write a heartbeat."""
        current = self._id
        if current is not None and not (yield Query(statement, current)):
            # Swept, after too long a silence. The stores that it owned now raise NotFoundError.
            with self._lock:
                if self._id == current:
                    self._id = None

    def current(self) -> Op[int]:
        """The session's id. If it has no row, dead sessions are swept and a row is inserted."""
        if self._id is not None and self._history is not self.client.history:
            self._history = self.client.history
            yield from self.beat()  # which finds out whether the row is there, too
        current = self._id
        if current is None:
            yield from sweep()
            ((started,),) = yield Query(START, socket.gethostname(), os.getpid())
            with self._lock:
                if self._id is None:
                    self._id = started
                    self._history = self.client.history
                    self._go_on()
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
        """End the session: delete what is ephemeral, as far as the server can be reached. After the scheduler has been closed."""
        self._closed = True
        if os.getpid() != self._pid or (self._id is None and not self._tasks):
            return
        with contextlib.suppress(errors.Error):
            self.client.run(self._end())

    def _end(self) -> Op[None]:
        yield from each(self._tasks, lambda task: task())
        if self._id is None:
            return
        for hook in tuple(self._hooks.values()):
            yield from hook.at_end()
        yield Query(END, self._id)
        self._id = None

    # ------------------------------------------------------------------------------------------------ in the background

    def _go_on(self) -> None:
        """Have heartbeats written, and hooks told, until the client is closed."""
        scheduler = self.client.scheduler
        scheduler.urgent.leave(
            self, self._beat_again, BEAT_SECONDS, again_seconds=BEAT_SECONDS, again_after_failure=True, can_wait=True
        )
        is_waiting = any(hook.is_waiting for hook in tuple(self._hooks.values()))
        scheduler.leave_call(self, self._tell_hooks, BEAT_SECONDS / 4 if is_waiting else BEAT_SECONDS, can_wait=True)

    def _beat_again(self) -> Op[bool]:
        yield from self.beat(BEAT_UNLESS_LOCKED)
        return False

    def _tell_hooks(self) -> None:
        try:
            # Others depend on what is renewed, so that has a connection even when all are busy; the rest can wait for one.
            with going_on("the renewal of what a session keeps"), bounded_by(Deadline.after(BEAT_SECONDS)):
                self.client.run_in_background(self._renew())
            with going_on("clearing up"):
                self.client.run(self._clear_up())
        finally:
            if not self._closed:
                self._go_on()

    def keep(self) -> Op[None]:
        """Do what is done in the background each time: a heartbeat, then what is left to be done."""
        yield from self.beat()
        yield from self._renew()
        yield from self._clear_up()

    def _renew(self) -> Op[None]:
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
