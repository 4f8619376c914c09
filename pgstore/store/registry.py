"""The registry: the table `store`, one row a store. Its statements, what is known of a store, and what a transaction has found.

The row of a store is written once, when it is made. Nothing that changes with use is in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pgstore.core.operation import CommitHook
from pgstore.core.statement import Statement

FIND = Statement(
    """
    SELECT id, kind, created_at, created_by, options,
           kind = 'dict' AND EXISTS (SELECT
                                       FROM pgstore.dict_json_name j
                                      WHERE j.environment = $1
                                        AND j.name = $3)
      FROM pgstore.store
     WHERE environment = $1
       AND (CASE kind WHEN 'nfs' THEN 'volume' ELSE kind END) = $2
       AND name = $3
    """,
    "text text text",
    read_only=True,
)
# Two creators of one name: one inserts, the other inserts nothing and finds the row of the first. That a name is of a JSON Dict is
# noted for good, by whoever tries to make it.
CREATE = Statement(
    """
    WITH noted AS (
         INSERT INTO pgstore.dict_json_name (environment, name)
         SELECT $1, $3
          WHERE $2 = 'dict'
            AND $4 ->> 'serializer'::text = 'json'
             ON CONFLICT DO NOTHING)
    INSERT INTO pgstore.store (environment, kind, name, options)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING
    RETURNING id, kind, created_at, created_by, options,
              $2 = 'dict' AND EXISTS (SELECT
                                        FROM pgstore.dict_json_name j
                                       WHERE j.environment = $1
                                         AND j.name = $3)
    """,
    "text text text jsonb",
)
# An ephemeral store has no name by which two who use its handle first at the same time could meet, so the handle draws the id
# before: one of them inserts the store, the other finds it. What is not used of ids is missed by nobody.
DRAW_ID = Statement(
    """
    SELECT (nextval('pgstore.store_id_seq'::regclass) << 20)
           | pg_catalog.floor(pg_catalog.random() * 1048576::double precision)::bigint
    """,
    repeatable=True,
)
CREATE_EPHEMERAL = Statement(
    """
    INSERT INTO pgstore.store (id, environment, kind, session_id, options)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT DO NOTHING
    RETURNING name, kind, created_at, created_by, environment, options, false
    """,
    "int8 text text int8 jsonb",
)
FIND_ID = Statement(
    """
    SELECT name, kind, created_at, created_by, environment, options,
           kind = 'dict' AND EXISTS (SELECT
                                       FROM pgstore.dict_json_name j
                                      WHERE j.environment = s.environment
                                        AND j.name = s.name)
      FROM pgstore.store s
     WHERE id = $1
    """,
    "int8",
    read_only=True,
)
EXISTS = Statement("SELECT 1 FROM pgstore.store WHERE id = $1", "int8", read_only=True)
LIST = Statement(
    """
    SELECT id, name, created_at, created_by, options,
           kind = 'dict' AND EXISTS (SELECT
                                       FROM pgstore.dict_json_name j
                                      WHERE j.environment = $1
                                        AND j.name = s.name)
      FROM pgstore.store s
     WHERE environment = $1
       AND kind = $2
       AND name IS NOT NULL
       AND created_at < coalesce($3, 'infinity'::timestamptz)
     ORDER BY created_at DESC, id DESC
     LIMIT $4
    """,
    "text text timestamptz int8",
    read_only=True,
)


class Known(Protocol):
    """A handle that wants to be told its store's facts."""

    def bind(self, record: StoreRecord) -> None:
        """The store is known, and committed."""


@dataclass(frozen=True)
class StoreRecord:
    """A store's row."""

    id: int
    created_at: datetime
    created_by: str | None
    options: Mapping[str, Any]  # fixed at creation
    was_json: bool = False  # there was once a Dict of its name with serializer json
    history: object = field(default=None, repr=False, compare=False)  # of the client, in which they were found


class ResolvedStores(CommitHook):
    """Stores found or made by a transaction. They count for it alone until it commits: it may be rolled back.

    A participant of the transaction; it writes nothing.
    """

    def __init__(self) -> None:
        self.record: dict[object, tuple[weakref.ref[Known], StoreRecord]] = {}

    def mark(self) -> dict[object, Any]:
        return dict(self.record)

    def rewind(self, mark: dict[object, Any] | None) -> None:
        self.record = {} if mark is None else dict(mark)

    def committed(self) -> None:
        for handle, record in self.record.values():
            store = handle()
            if store is not None:
                store.bind(record)
