"""Spawned calls: what they are and what becomes of them; the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pgstore import errors
from pgstore.app.calls.function_call import FunctionCall
from pgstore.app.calls.queue import partition_of
from pgstore.client import Client
from pgstore.client.waking import lock_key
from pgstore.core.names import check_name
from pgstore.core.operation import Op, Query, Rows, Topic
from pgstore.core.statement import Statement

# Of all Apps, or of one; the newest first.
LIST = Statement(
    """
    SELECT c.call_id, c.environment, c.app, c.function, c.state, c.attempts, c.spawned_at, c.started_at, c.ended_at, c.error, c.run
      FROM pgstore.store s
      JOIN pgstore.calls c ON c.store_id = s.id
     WHERE s.environment = coalesce($1, s.environment)
       AND ($2 IS NULL OR s.name = $2)
       AND ($3 IS NULL OR c.call_id = $3)
     ORDER BY c.spawned_at DESC, c.id DESC
     LIMIT $4
    """,
    "text text text int8",
    read_only=True,
)
# Functions with calls that are any worker's, of which none runs.
WAITING = Statement(
    """
    SELECT c.environment, c.app, c.store_id, c.function, count(*)
      FROM pgstore.store s
      JOIN pgstore.calls c ON c.store_id = s.id
     WHERE s.environment = coalesce($1, s.environment)
       AND ($2 IS NULL OR s.name = $2)
       AND c.run IS NULL
       AND c.ended_at IS NULL
     GROUP BY c.environment, c.app, c.store_id, c.function
    HAVING count(*) FILTER (WHERE c.state = 'running') = 0
     ORDER BY c.environment, c.app, c.function
    """,
    "text text",
    read_only=True,
)
WAITERS = Statement("SELECT w.waiting FROM pgstore.waiters($1, NULL, true) AS w", "int4", repeatable=True)

_LIMIT_MAX: Final = 1 << 62  # what LIMIT takes


@dataclass(frozen=True)
class Call:
    """A row of the view `pgstore.calls`."""

    id: str
    environment: str
    app: str | None
    function: str
    state: str
    attempts: int
    spawned_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None
    run: int | None
    """The session of the run that it belongs to; None: any worker takes it."""


@dataclass(frozen=True)
class Unattended:
    """Calls of a function that no worker waits for."""

    environment: str
    app: str | None
    function: str
    calls: int


def calls(client: Client, app: str | None = None, *, environment: str | None = None, limit: int = 100) -> list[Call]:
    """
    The newest *limit* calls.

    Args:
        app: of one App; None: of all.
        environment: None: all.

    Raises:
        InvalidError: *app* cannot be a name.
    """
    if app is not None:
        check_name(app, "App")
    rows: Rows = client.run(_rows(Query(LIST, environment, app, None, min(limit, _LIMIT_MAX))))
    return [Call(*row) for row in rows]


def call(client: Client, call_id: str) -> Call:
    """
    Raises:
        NotFoundError: there is no call *call_id*.
    """
    rows: Rows = client.run(_rows(Query(LIST, None, None, FunctionCall.from_id(call_id).object_id, 1)))
    if not rows:
        raise errors.NotFoundError(f"there is no call {call_id!r}")
    return Call(*rows[0])


def cancel(client: Client, call_id: str, *, kill: bool = False) -> Call:
    """Cancel the call *call_id* if it has not ended; with *kill* its worker is killed at once. Returns what has become of it."""
    FunctionCall.from_id(call_id, client).cancel(kill)
    return call(client, call_id)


def unattended(client: Client, app: str | None = None, *, environment: str | None = None) -> list[Unattended]:
    """Functions whose calls wait for any worker, and none is there."""
    found = []
    for in_environment, name, store_id, function, number in client.run(_rows(Query(WAITING, environment, app))):
        ((waiting,),) = client.run(_rows(Query(WAITERS, lock_key(Topic(store_id, partition_of(function, None))))))
        if not waiting:
            found.append(Unattended(in_environment, name, function, number))
    return found


def _rows(query: Query) -> Op[Rows]:
    return (yield query)  # type: ignore[no-any-return]
