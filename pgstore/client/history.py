"""Histories: which past a connection leads to.

What a client remembers of a database (where stores are, watermarks of Queues, numbers that it has reserved, its session) is true
of one history: of one installation of the schema, in one database, of one cluster and timeline. A restore under the old name, a
schema that was dropped and made again, or a failover that lost what the old server did last each begin another one, in which the
same numbers may mean other things. So what was learnt keeps the history that it was learnt in, and is looked up anew once the
client's is another. They are compared by `is`: a hot path pays for no more.

The statement that is first sent on a new connection was made in the old history. It does no harm, for ids of stores cannot come
again (`store` in sql/schema.sql): it finds nothing, and the store is looked for again (`Store._is_gone`).
"""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any, Final

from pgstore import errors
from pgstore.connection.handshake import IDENTITY, SCHEMA
from pgstore.core.operation import BeforeCommit, CommitHook, Op, Query

_LOG: Final = logging.getLogger("pgstore")


class _Wanted(threading.local):
    """The one `HistoryFollower.server` that statements, and new transactions, of this thread may be sent to; None: any."""

    server: int | None = None


WANTED: Final = _Wanted()
"""What a statement rests on may be lost with the server. Not of the context, which threads that are started would have, too."""


@contextlib.contextmanager
def only_server(server: int | None) -> Iterator[None]:
    """What this thread has done within is done by *server*, or fails with `StoreUnavailable` and is not done; None: by any."""
    before, WANTED.server = WANTED.server, server
    try:
        yield
    finally:
        WANTED.server = before


class History:
    """One past."""

    __slots__ = ("cluster", "database", "installation")

    def __init__(self, installation: str, database: str, cluster: str | None) -> None:
        self.installation = installation  # of the schema, and the name of the database
        self.database = database  # its oid, and that of a table
        self.cluster = cluster  # system identifier and timeline; None: they may not be read

    def goes_on_in(self, other: History) -> bool:
        """Whether *other* is the same past, as far as that can be known. This one takes over what only *other* knows."""
        if (self.installation, self.database) != (other.installation, other.database):
            return False
        if self.cluster is None:
            self.cluster = other.cluster
        return other.cluster in (None, self.cluster)


def history_of(row: tuple[Any, ...], identity: str | None = None) -> History:
    """The history that the row of `SCHEMA` and the answer to `IDENTITY` tell of."""
    return History(row[2], row[3], None if identity is None else identity.rpartition("/")[0])


class HistoryFollower(abc.ABC):
    """What a client knows of the history that its connections lead to."""

    def __init__(self) -> None:
        self.history: History | None = None  # that of its connections; None: there was none yet
        self.is_pooled = False  # a pooler stands before the server, which may be replaced unnoticed
        self.servers_seen = 0  # grows with each server that may know less than the one before; see `note_server`
        self._identity: str | None = None
        self._history_lock = threading.RLock()  # reentrant: a signal handler may come in

    @property
    def server(self) -> int | None:
        """
        A number for the server that connections lead to, another one after a crash of it; None: a crash may go unnoticed.

        Where it is the same before a write that did not wait for the disk, and after a statement that has flushed it, the write is
        on the disk: a crash between the two would have broken a connection, and the number is that of the latest one opened.
        """
        return None if self.is_pooled or self._identity is None else self.servers_seen

    def check_server(self) -> None:
        """
        Raises:
            StoreUnavailable: it is not that of `WANTED` any more; nothing was done.
        """
        wanted = WANTED.server
        if wanted is not None and wanted != self.server:
            raise errors.StoreUnavailable("the server has crashed or was replaced before it could do this")

    @abc.abstractmethod
    def give_up_older_connections(self) -> None:
        """The history is another one: connections that were opened before lead to the old one."""

    @property
    def installation(self) -> str | None:
        """The id of the schema and the name of the database; None: not connected yet."""
        return None if self.history is None else self.history.installation

    def follows(self, history: History) -> bool:
        """Whether *history*, to which a connection of somebody else's leads, is the client's; the first that it sees becomes so."""
        if self.history is None:
            self.follow(history)
        return self.history is not None and self.history.goes_on_in(history)

    def follow(self, history: History) -> None:
        """
        A connection of the client's leads to *history*, which is the client's from now on.

        If it is another one than before, older connections are given up.
        """
        with self._history_lock:
            before = self.history
            if before is not None and before.goes_on_in(history):
                return
            self.history = history
            self.servers_seen += 1
        if before is not None:
            _LOG.warning(
                "the database has another history than before (a restore, a new schema, a failover that lost changes): "
                "stores are looked up anew"
            )
            self.give_up_older_connections()

    def note_server(self, identity: str | None) -> None:
        """
        A connection was opened, to the cluster *identity*; None: unknown. `servers_seen` changes if it may be another server.

        After a failover or a crash the server may have forgotten what it last gave out, such as ids.
        """
        if identity is None or identity != self._identity:
            self._identity = identity
            self.servers_seen += 1


def check_history(client: HistoryFollower) -> Op[None]:
    """
    Find out whether the database is still the same one: the schema may have been made anew under an open connection.

    Not on a joined connection, which does not say where those of the client lead.
    """
    hooked = yield BeforeCommit(_Check, _Check)
    if hooked is not None and hooked.immediate:
        return
    rows = yield Query(SCHEMA)
    identity = None
    if hooked is None:  # what may not be read would end a transaction
        try:
            ((identity,),) = yield Query(IDENTITY)
        except errors.Error:
            identity = None
    if rows:
        client.follow(history_of(rows[0], identity))


class _Check(CommitHook):
    """Tells whether there is a transaction, and whose; keeps nothing."""
