"""The registry: the table `store`, one row a store. Its statements, what is known of a store, and what a transaction has found.

The row of a store is written once, when it is made. Nothing that changes with use is in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from pgstore.core.operation import BeforeCommit, CommitHook, Op, Rows
from pgstore.core.statement import Statement

# What makes a `StoreRecord`, of the row `s`. The last: whether there was ever a Dict of serializer json with its name.
_COLUMNS: Final = """s.id, s.kind, s.environment, s.name, s.created_at, s.created_by, s.options,
           s.kind = 'dict' AND EXISTS (SELECT
                                         FROM pgstore.dict_json_name j
                                        WHERE j.environment = s.environment
                                          AND j.name = s.name)"""

FIND = Statement(
    f"""
    SELECT {_COLUMNS}
      FROM pgstore.store s
     WHERE s.environment = $1
       AND (CASE s.kind WHEN 'nfs' THEN 'volume' ELSE s.kind END) = $2
       AND s.name = $3
    """,
    "text text text",
    read_only=True,
)
# Two creators of one name: one inserts, the other inserts nothing and finds the row of the first. That a name is of a JSON Dict is
# noted for good, by whoever tries to make it.
CREATE = Statement(
    f"""
    WITH noted AS (
         INSERT INTO pgstore.dict_json_name (environment, name)
         SELECT $1, $3
          WHERE $2 = 'dict'
            AND $4 ->> 'serializer'::text = 'json'
             ON CONFLICT DO NOTHING)
    INSERT INTO pgstore.store AS s (environment, kind, name, options)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING
    RETURNING {_COLUMNS}
    """,
    "text text text jsonb",
)
# An ephemeral store has no name by which two who use its handle first at the same time could meet, so the handle draws the id
# before: one of them inserts the store, the other finds it. Nobody misses an id that is not used.
DRAW_ID = Statement(
    """
    SELECT (nextval('pgstore.store_id_seq'::regclass) << 20)
           | pg_catalog.floor(pg_catalog.random() * 1048576::double precision)::bigint
    """,
    repeatable=True,
)
CREATE_EPHEMERAL = Statement(
    f"""
    INSERT INTO pgstore.store AS s (id, environment, kind, session_id, options)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT DO NOTHING
    RETURNING {_COLUMNS}
    """,
    "int8 text text int8 jsonb",
)
FIND_ID = Statement(f"SELECT {_COLUMNS} FROM pgstore.store s WHERE s.id = $1", "int8", read_only=True)
EXISTS = Statement("SELECT 1 FROM pgstore.store WHERE id = $1", "int8", read_only=True)
LIST = Statement(
    f"""
    SELECT {_COLUMNS}
      FROM pgstore.store s
     WHERE s.environment = $1
       AND s.kind = $2
       AND s.name IS NOT NULL
       AND s.created_at < coalesce($3, 'infinity'::timestamptz)
     ORDER BY s.created_at DESC, s.id DESC
     LIMIT $4
    """,
    "text text timestamptz int8",
    read_only=True,
)


@dataclass(frozen=True)
class StoreRecord:
    """A store's row."""

    id: int
    kind: str
    environment: str
    name: str | None  # None: ephemeral
    created_at: datetime
    created_by: str | None
    options: Mapping[str, Any]  # fixed at creation
    was_json: bool = False  # there was once a Dict of its name with serializer json
    history: object = field(default=None, repr=False, compare=False)  # of the client, in which it was found


def record_in(rows: Rows) -> StoreRecord | None:
    """The one that *rows* have, if any."""
    return StoreRecord(*rows[0]) if rows else None


class Handle(Protocol):
    """Who wants to be told a store's record."""

    def bind(self, record: StoreRecord) -> None:
        """The store is known, and committed."""


class ResolvedStores(CommitHook):
    """The stores that a transaction has found or made. They count for it alone until it commits: it may be rolled back."""

    def __init__(self) -> None:
        self.records: dict[object, tuple[weakref.ref[Handle], StoreRecord]] = {}
        self.has_made_changes = False  # it has made, renamed or deleted a store, or tried to

    def mark(self) -> dict[object, Any]:
        return dict(self.records)

    def rewind(self, mark: dict[object, Any] | None) -> None:
        self.records = {} if mark is None else dict(mark)

    def committed(self) -> None:
        for handle, record in self.records.values():
            store = handle()
            if store is not None:
                store.bind(record)


def note_change(deleted: int | None = None) -> Op[None]:
    """
    Note that the current transaction makes, renames or deletes a store; to be called before. *deleted*: the id of one that goes.

    From then on stores are looked for, and made, inside the transaction: beside it they are not what they are in it, and whoever
    would make one of a name that it has given would wait for its end.
    """
    hooked = yield BeforeCommit(ResolvedStores, ResolvedStores)
    if hooked is not None:
        hooked.hook.has_made_changes = True
        found = hooked.hook.records
        hooked.hook.records = {key: entry for key, entry in found.items() if entry[1].id != deleted}
