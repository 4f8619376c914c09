"""Histories: which past a connection leads to.

What a client remembers of a database (where stores are, marks of Queues, numbers that it has reserved, its session) is true of one
history: of one installation of the schema, in one database, of one cluster and timeline. A restore under the old name, a schema
that was dropped and made again, or a failover that lost what the old server did last each begin another one, in which the same
numbers may mean other things. So what was learnt keeps the history that it was learnt in, and is looked up anew once the client's
is another. They are compared by `is`: a hot path pays for no more.

The statement that is first sent on a new connection was made in the old history. It does no harm, for ids of stores cannot come
again (`store` in sql/schema.sql): it finds nothing, and the store is looked for again (`Store._is_gone`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgstore import errors
from pgstore.connection.handshake import IDENTITY, SCHEMA
from pgstore.core.operation import BeforeCommit, CommitHook, Op, Query

if TYPE_CHECKING:
    from pgstore.client import Client


class History:
    """One past."""

    __slots__ = ("cluster", "database", "installation")

    def __init__(self, installation: str, database: int, cluster: str | None) -> None:
        self.installation = installation  # of the schema, and the name of the database
        self.database = database  # its oid
        self.cluster = cluster  # system identifier and timeline; None: they may not be read

    def goes_on_in(self, other: History) -> bool:
        """Whether *other* is the same past, as far as that can be known. What one knows and the other does not both know then."""
        if (self.installation, self.database) != (other.installation, other.database):
            return False
        if self.cluster is None:
            self.cluster = other.cluster
        return other.cluster in (None, self.cluster)


def history_of(row: tuple[Any, ...], identity: str | None = None) -> History:
    """The history that the row of `SCHEMA` and the answer to `IDENTITY` tell of."""
    return History(row[2], row[3], None if identity is None else identity.rpartition("/")[0])


def look(client: Client) -> Op[None]:
    """
    Let *client* know which history the connection leads to by now: the schema may have been made anew under it.

    Not on a joined connection, which does not say where those of the client lead.
    """
    hooked = yield BeforeCommit(_Looking, _Looking)
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
        client.met(history_of(rows[0], identity))


class _Looking(CommitHook):
    """Tells whether there is a transaction, and whose; keeps nothing."""
