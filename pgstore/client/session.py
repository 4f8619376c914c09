"""The session of a client: a row that says "this process is alive".

Ephemeral stores name a session, and so do pins: they must not outlive it. Its heartbeat comes once a minute. Without one for ten
minutes it is dead, and any client that starts a session deletes the dead ones with their stores (`pgstore.session_sweep`).

What a client keeps in the database by its session is the business of hooks: ephemeral stores (`store.deletion`), pins of files
(`fs.retention.pins`). They are told when the heart beats, when there is time to clear up, and when the session ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from pgstore import errors
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.core.threads import going_on, start

if TYPE_CHECKING:
    from pgstore.client import Client

T = TypeVar("T")
H = TypeVar("H", bound="SessionHook")

BEAT_SECONDS: Final = 60.0
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
    What the stores of a client keep in the database for as long as its session lives.

    One that does not say otherwise keeps nothing and does nothing.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be cleared up sooner than with the next heartbeat."""
        return False

    def with_heartbeat(self) -> Op[None]:
        """Renew what others go by. It runs after each heartbeat, which may have found out that the session was swept."""
        yield from ()

    def clear_up(self) -> Op[None]:
        """Delete what is not wanted any more. It runs in the background; what fails is tried again."""
        yield from ()

    def at_end(self) -> Op[None]:
        """Delete everything: the session ends."""
        yield from ()


class Session:
    """This client's session; started with the first ephemeral store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._id: int | None = None
        self._pid = os.getpid()
        self._hooks: dict[type[SessionHook], SessionHook] = {}
        self._history = client.history  # which knows the session
        self._reserved_in = client.history
        self._reserved: dict[int, deque[int]] = {}
        self._errands: deque[Callable[[], Op[None]]] = deque()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def reserved_inodes(self, store_id: int) -> deque[int]:
        """Numbers of inodes to be made in a file system, which nobody else makes, as long as the history goes on."""
        if self._client.is_pooled:
            return deque()  # the server may be replaced unnoticed
        if self._reserved_in is not self._client.history:
            self._reserved_in, self._reserved = self._client.history, {}
        return self._reserved.setdefault(store_id, deque())

    def hook(self, kind: type[H]) -> H:
        """The hook of class *kind*; made on first use."""
        hook = self._hooks.get(kind)
        if hook is None:
            hook = self._hooks.setdefault(kind, kind(self))  # atomic: all who ask at once get the same
        return hook  # type: ignore[return-value]

    @property
    def history(self) -> object:
        """The history of the client (`client.history`)."""
        return self._client.history

    @property
    def id(self) -> int | None:
        """The id of the session; None: it has not been started."""
        return self._id

    def beat(self) -> Op[None]:
        """Say that we are alive."""
        current = self._id
        if current is not None and not (yield Query(BEAT, current)):
            # Swept: we were silent for too long. Stores we owned now raise NotFoundError.
            with self._lock:
                if self._id == current:
                    self._id = None

    def current(self) -> Op[int]:
        """The id of the session, started if need be; sweeps what others left when it starts."""
        if self._id is not None and self._history is not self._client.history:
            self._history = self._client.history
            yield from self.beat()  # which finds out whether it is known there
        current = self._id
        if current is None:
            yield from sweep()
            ((started,),) = yield Query(START, socket.gethostname(), os.getpid())
            with self._lock:
                if self._id is None:
                    self._id = started
                    self._history = self._client.history
                    self._start_housekeeper()
                current = self._id
            if current != started:  # another thread was quicker; a session that nobody beats for would be swept
                yield Query(END, started)
        return current

    def later(self, errand: Callable[[], Op[None]]) -> None:
        """Have the housekeeper run the operation that *errand* gives, once. Safe in a finaliser; forgotten by a forked child."""
        self._errands.append(errand)

    def close(self) -> None:
        """Delete what is ephemeral, as far as the server can be reached."""
        self._stop.set()
        if (self._id is None and not self._errands) or os.getpid() != self._pid:
            return
        with contextlib.suppress(errors.Error):
            self._client.run(self._end())

    def _end(self) -> Op[None]:
        yield from each(self._errands, lambda errand: errand())
        if self._id is None:
            return
        for hook in tuple(self._hooks.values()):
            yield from hook.at_end()
        yield Query(END, self._id)
        self._id = None

    def _start_housekeeper(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._keep_house, name="pgstore-housekeeper", daemon=True)
            with contextlib.suppress(RuntimeError):  # the program ends before it would have to beat
                start(thread)
                self._thread = thread

    def _keep_house(self) -> None:
        while not self._stop.wait(self._pause_seconds()):
            # What others depend on, on a connection that is certain; the rest can wait.
            with going_on("the heartbeat"):
                self._client.run_in_background(self._keep_alive())
            with going_on("clearing up"):
                self._client.run(self._clear_up())

    def _pause_seconds(self) -> float:
        is_waiting = any(hook.is_waiting for hook in tuple(self._hooks.values()))
        return BEAT_SECONDS / 4 if is_waiting else BEAT_SECONDS

    def keep(self) -> Op[None]:
        """One round of housekeeping: a heartbeat, for others depend on it, and what is left to be done."""
        yield from self._keep_alive()
        yield from self._clear_up()

    def _keep_alive(self) -> Op[None]:
        yield from self.beat()
        for hook in tuple(self._hooks.values()):
            yield from hook.with_heartbeat()

    def _clear_up(self) -> Op[None]:
        for hook in tuple(self._hooks.values()):
            yield from hook.clear_up()
        yield from each(self._errands, lambda errand: errand())


def each(left: deque[T], do: Callable[[T], Op[None]]) -> Op[None]:
    """Do everything that is *left*. What fails goes to the end, for the next round, and keeps nothing else from being done."""
    for _ in range(len(left)):
        try:
            yield from do(left[0])
        except errors.StoreUnavailable:
            raise
        except errors.Error:
            left.rotate(-1)
        else:
            left.popleft()
