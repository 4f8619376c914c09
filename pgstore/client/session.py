"""The session of a client: a row that says "this process is alive", and what must not outlive it.

Ephemeral stores name a session, and so do pins. It beats once a minute; without a beat for ten minutes it is dead, and any client
that starts a session sweeps dead ones away with their stores. In good order a store goes earlier: when it is closed, collected, or
the interpreter exits. A finaliser may run anywhere, on any thread, so it only notes the id; the housekeeper deletes.
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
from pgstore.client.pins import Pins
from pgstore.core.operation import Apart, Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.core.threads import going_on, start

if TYPE_CHECKING:
    from pgstore.client import Client

T = TypeVar("T")

BEAT_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 2.0  # that closing waits for the housekeeper
DEAD_AFTER: Final = "10 minutes"

START = Statement("INSERT INTO pgstore.session (host, pid) VALUES ($1, $2) RETURNING id", "text int4")
BEAT = Statement("UPDATE pgstore.session SET heartbeat_at = statement_timestamp() WHERE id = $1", "int8")
END = Statement("DELETE FROM pgstore.session WHERE id = $1", "int8")
# Two sweepers never wait for each other: each takes what the other has not locked.
DEAD = Statement(
    f"""
    SELECT id
      FROM pgstore.session
     WHERE heartbeat_at < statement_timestamp() - interval '{DEAD_AFTER}'
     ORDER BY id
       FOR UPDATE SKIP LOCKED
     LIMIT 100
    """
)
STORES_OF = Statement("SELECT id FROM pgstore.store WHERE session_id = ANY ($1)", "int8[]", reads=True)
END_DEAD = Statement("DELETE FROM pgstore.session WHERE id = ANY ($1)", "int8[]")

# Every table that holds rows of a store, children before parents.
_TABLES: Final = (
    *("dict_entry", "dict_change", "dict_lock"),
    *("queue_item", "queue_deferred", "queue_key", "queue_lapse", "queue_head", "queue_turn", "queue_count"),
    *(
        "dirent",
        "inode",
        "blob",
        "chunk",
        "blob_left",
        "chunk_left",
        "inode_hold",
        "version_pin",
        "volume_version",
        "file_system",
    ),
)
# In the order of the keys, as who updates many of them locks them, or the two would wait for each other in a circle.
_LOCK_ENTRIES: Final = Statement(
    """
    SELECT count(*)
      FROM (SELECT 1
              FROM pgstore.dict_entry
             WHERE store_id = $1
             ORDER BY key
               FOR UPDATE) AS entry
    """,
    "int8",
)
DELETE_ROWS = [Statement(f"DELETE FROM pgstore.{table} WHERE store_id = $1", "int8") for table in _TABLES]
LEAVE_LARGE_OBJECTS = Statement("SELECT pgstore.large_objects_leave($1)", "int8")
UNLINK_LARGE_OBJECTS = Statement("SELECT pgstore.large_objects_unlink($1)", "int8")
DELETE_STORE = Statement("DELETE FROM pgstore.store WHERE id = $1", "int8")


def delete_store(store_id: int) -> Op[int]:
    """Delete a store and all that it holds. Returns the number of stores deleted, 0 or 1."""
    # The store's row first: inserts that read it meanwhile wait for nothing, and those that come after find none.
    deleted: int = yield Query(DELETE_STORE, store_id)
    yield Query(_LOCK_ENTRIES, store_id)
    yield Query(LEAVE_LARGE_OBJECTS, store_id)
    for statement in DELETE_ROWS:
        yield Query(statement, store_id)
    return deleted


def unlink_large_objects(store_id: int) -> Op[None]:
    """Unlink the large objects of a deleted store, a few in each transaction; those of one that is not deleted yet stay."""
    while (yield Apart(_unlink_some(store_id))):
        pass


def _unlink_some(store_id: int) -> Op[int]:
    ((unlinked,),) = yield Query(UNLINK_LARGE_OBJECTS, store_id)
    return unlinked  # type: ignore[no-any-return]


def sweep() -> Op[None]:
    """Delete the sessions that died and their ephemeral stores."""
    dead = [row[0] for row in (yield Query(DEAD))]
    if not dead:
        return
    for (store_id,) in (yield Query(STORES_OF, dead)):
        yield from delete_store(store_id)
    yield Query(END_DEAD, dead)


class Session:
    """This client's session; started with the first ephemeral store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._id: int | None = None
        self._pid = os.getpid()
        self.pins = Pins(self)
        self._unwanted: deque[int] = deque()
        self._history = client.history  # which knows the session
        self._reserved_in = client.history
        self._reserved: dict[int, deque[int]] = {}
        self._errands: deque[Callable[[], Op[None]]] = deque()
        self._stop = threading.Event()
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._thread: threading.Thread | None = None

    def reserved_inodes(self, store_id: int) -> deque[int]:
        """Numbers of inodes to be made in a file system, which nobody else makes, as long as the history goes on."""
        if self._client.is_pooled:
            return deque()  # the server may be replaced unnoticed
        if self._reserved_in is not self._client.history:
            self._reserved_in, self._reserved = self._client.history, {}
        return self._reserved.setdefault(store_id, deque())

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
            yield from atomic(sweep())
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

    def unwanted(self, store_id: int, pid: int) -> None:
        """Note an ephemeral store for deletion. Safe in a finaliser; does nothing in a forked child, which owns none."""
        if pid == os.getpid():
            self._unwanted.append(store_id)

    def later(self, errand: Callable[[], Op[None]]) -> None:
        """Have the housekeeper run the operation that *errand* gives, once. Safe in a finaliser; forgotten by a forked child."""
        self._errands.append(errand)

    def close(self) -> None:
        """Delete what is ephemeral, as far as the server can be reached."""
        self._stop.set()
        if os.getpid() != self._pid:
            return
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)  # what it has in hand is not done twice
        if self._id is None and not self._errands:
            return
        with contextlib.suppress(errors.Error):
            self._client.run(self._end())

    def _end(self) -> Op[None]:
        yield from _each(self._errands, lambda errand: errand())
        if self._id is None:
            return
        for (store_id,) in (yield Query(STORES_OF, [self._id])):
            yield from atomic(delete_store(store_id))
            yield from unlink_large_objects(store_id)
        yield from self.pins.release_all()
        yield Query(END, self._id)
        self._id = None

    def _start_housekeeper(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._keep_house, name="pgstore-housekeeper", daemon=True)
            with contextlib.suppress(RuntimeError):  # the program ends before it would have to beat
                start(thread)
                self._thread = thread

    def _keep_house(self) -> None:
        while not self._stop.wait(BEAT_SECONDS / 4 if self._unwanted or self.pins.has_unwanted else BEAT_SECONDS):
            # What others depend on, on a connection that is certain; the rest can wait.
            with going_on("the heartbeat"):
                self._client.run_in_background(self._keep_alive())
            with going_on("clearing up"):
                self._client.run(self._clear_up())

    def keep(self) -> Op[None]:
        """One round of housekeeping: beat, for others depend on it, and do what is to be done."""
        yield from self._keep_alive()
        yield from self._clear_up()

    def _keep_alive(self) -> Op[None]:
        yield from self.beat()
        if self.pins:
            yield from self.pins.renew()

    def _clear_up(self) -> Op[None]:
        yield from _each(self._unwanted, _delete_ephemeral)
        yield from _each(self._errands, lambda errand: errand())


def _delete_ephemeral(store_id: int) -> Op[None]:
    yield from atomic(delete_store(store_id))
    yield from unlink_large_objects(store_id)


def _each(left: deque[T], do: Callable[[T], Op[None]]) -> Op[None]:
    """Do everything that is *left*. What fails goes to the end, for the next round, and keeps nothing else from being done."""
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
