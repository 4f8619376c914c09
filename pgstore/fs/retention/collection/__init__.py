"""Collection: deleting what nothing needs any more.

Nothing but this deletes blobs and chunks, nor the rows of old versions. What goes, and when:

- of a Volume, the versions before the floor: the newest so many stay, and any that a living session has pinned or that was the
  newest within the time of grace, for somebody may have begun to read it without a pin. Then the rows that only they had;
- of a NetworkFileSystem, files whose last name is gone for that time and which no living session holds;
- blobs that no inode refers to: those of deleted inodes, those that were left for a new one, uploads whose session died;
- chunks that no extent has.

It goes on in transactions of bounded size, which lock what they are about to delete, skip what is locked, and then look again in a
second statement, which sees what others have committed before our lock: a blob that a copy has just adopted is found in use, or its
adopter fails at the foreign key, with nothing done. So any number may collect at the same time, beside readers and writers, and may
be killed: what is still to be looked at is noted in `blob_candidate` and `chunk_candidate` by the transaction that made it so.

The rows of a version are deleted after the version's own row, in a later transaction. Whoever reads an old version and still finds
that row in the same or a later statement has been shown all of it.

The parts: `kept` finds out what stays, `rows` deletes versions, names and inodes, `contents` blobs and chunks, each in the
transactions of `base`; `survey` only tells what would go.
"""

from __future__ import annotations

from typing import Final

from pgstore.core.operation import Op
from pgstore.core.statement import Statement
from pgstore.fs.content.blobs import StoreGone
from pgstore.fs.retention.collection.contents import DeletingContents
from pgstore.fs.retention.collection.dry_run import Surveying
from pgstore.fs.retention.collection.round import Collected
from pgstore.fs.retention.collection.rows import DeletingRows

__all__ = ["GRACE_SECONDS", "STORES", "Collected", "Collection", "collect_in_passing"]

GRACE_SECONDS: Final = 600.0
TRANSACTIONS_IN_PASSING: Final = 200

# The file systems in environment $1 that have the name $2; NULL: all.
STORES = Statement(
    """
    SELECT s.id, s.environment, s.kind, s.name
      FROM pgstore.store s
     WHERE s.kind IN ('volume', 'nfs')
       AND s.environment = coalesce($1, s.environment)
       AND ($2 IS NULL OR s.name = $2)
     ORDER BY s.environment, s.name, s.id
    """,
    "text text",
    read_only=True,
)


class Collection(DeletingRows, DeletingContents, Surveying):
    """
    One round of collection in one file system.

    Args:
        grace_seconds: how long a reader may take who has neither a pin nor a hold.
        transactions_max: do not more than so much; None: all there is to do.
    """

    def __init__(
        self, store_id: int, *, grace_seconds: float = GRACE_SECONDS, transactions_max: int | None = None
    ) -> None:
        super().__init__(store_id, grace_seconds=grace_seconds, transactions_max=transactions_max)
        self.is_complete = False  # there will be nothing to do before somebody changes something

    def run(self) -> Op[Collected]:
        """Delete what nothing needs. To be run outside transactions."""
        try:
            yield from self._run()
        except StoreGone:  # meanwhile, with all there was to collect
            self.is_complete = True
        return self.found

    def _run(self) -> Op[None]:
        facts = yield from self._facts()
        yield from self._atomic(self._forget_the_dead)
        if facts.kind == "volume":
            yield from self._delete_versions(facts)
        else:
            yield from self._delete_nameless()
        yield from self._delete_contents()
        waits = (yield from self._facts()).waits
        self.is_complete = self._left != 0 and not waits


def collect_in_passing(store_id: int) -> Op[bool]:
    """A short round of collection; whether there will be nothing to do before the next change. A chore of the client."""
    collection = Collection(store_id, transactions_max=TRANSACTIONS_IN_PASSING)
    yield from collection.run()
    return collection.is_complete
