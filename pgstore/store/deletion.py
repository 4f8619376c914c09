"""Deleting stores.

`pgstore.store_delete` in sql/schema.sql says what goes with a store. It only notes large objects: unlinking takes a lock for each
until the commit, so it is done afterwards, a few in each transaction. `pgstore gc` does it where a client did not get that far.
"""

from __future__ import annotations

import os
from collections import deque

from pgstore.client.session import Session, SessionHook, each
from pgstore.core.operation import Autonomous, Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.store.registry import note_change

DELETE = Statement("SELECT pgstore.store_delete($1)", "int8")
UNLINK_LARGE_OBJECTS = Statement("SELECT pgstore.large_objects_unlink($1)", "int8")
STORES_OF_SESSION = Statement("SELECT id FROM pgstore.store WHERE session_id = $1", "int8", read_only=True)


def delete_store(store_id: int) -> Op[None]:
    """Delete a store, or what is left of one, with all that it holds."""
    yield from note_change(store_id)
    yield from atomic(delete_rows(store_id))
    yield from unlink_large_objects(store_id)


def delete_rows(store_id: int) -> Op[None]:
    """Delete a store but for its large objects."""
    yield Query(DELETE, store_id)


def unlink_large_objects(store_id: int) -> Op[None]:
    """Unlink the large objects of a deleted store, a few in each transaction. Those of a store that is still there stay."""
    while (yield Autonomous(_unlink_some(store_id))):
        pass


def _unlink_some(store_id: int) -> Op[int]:
    ((unlinked,),) = yield Query(UNLINK_LARGE_OBJECTS, store_id)
    return unlinked  # type: ignore[no-any-return]


class EphemeralStores(SessionHook):
    """The ephemeral stores of a session: deleted after their handle was collected, and when the session ends."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._unwanted: deque[int] = deque()

    def delete_later(self, store_id: int, pid: int) -> None:
        """Note a store for deletion. Safe in a finaliser; does nothing in a forked child, which owns none."""
        if pid == os.getpid():
            self._unwanted.append(store_id)

    @property
    def is_waiting(self) -> bool:
        return bool(self._unwanted)

    def clear_up(self) -> Op[None]:
        yield from each(self._unwanted, delete_store)

    def at_end(self) -> Op[None]:
        for (store_id,) in (yield Query(STORES_OF_SESSION, self.session.id)):
            yield from delete_store(store_id)
