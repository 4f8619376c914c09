"""Collection: deleting what nothing needs any more.

Nothing but this deletes blobs and chunks, nor the rows of old versions. What goes, and when:

- of a Volume, the versions before the first one to keep. The newest `versions_kept` stay, and so does each that a living session
  has pinned, or that was the newest within the time of grace: a reader may be using it without a pin. Then the rows that only the
  deleted versions had;
- of a NetworkFileSystem, files that lost their last name before the time of grace and that no living session has pinned;
- blobs that no inode refers to: those of deleted inodes, those that a file gave up for a new one, uploads whose session died;
- chunks that no extent has.

Collection works in transactions of bounded size. Each locks what it is about to delete, skips what others have locked, and then
looks again in a second statement, which sees all that was committed before the lock: a blob that a copy has just begun to share is
found in use, or the copy fails at the foreign key, with nothing done. So any number may collect at the same time, beside readers
and writers, and be killed at any moment: candidates (`fs.candidates`) were noted by the transactions that made them so.

The rows of a version are deleted after the version's own row, in a later transaction. So a reader of an old version that still
finds the version's row, in the same or a later statement, has been shown all of it.

The parts: `retained` finds out what must stay, `rows` deletes versions, names and inodes, `contents` deletes blobs and chunks, each
in the transactions of `round`; `dry_run` only tells what would go.
"""

from __future__ import annotations

from typing import Final

from pgstore.core.operation import Op
from pgstore.core.statement import Statement
from pgstore.fs.model import StoreGone
from pgstore.fs.retention.collection.contents import DeletingContents
from pgstore.fs.retention.collection.dry_run import DryRun
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


class Collection(DeletingRows, DeletingContents, DryRun):
    """
    One round of collection in one file system.

    Args:
        grace_seconds: how long what went out of use stays, for readers that have not pinned it.
        transactions_max: stop after so many transactions; None: do all there is to do.
    """

    def __init__(
        self, store_id: int, *, grace_seconds: float = GRACE_SECONDS, transactions_max: int | None = None
    ) -> None:
        super().__init__(store_id, grace_seconds=grace_seconds, transactions_max=transactions_max)
        self.is_complete = False  # there will be nothing to do before somebody changes something

    def run(self) -> Op[Collected]:
        """Delete what nothing needs any more. Not in a transaction."""
        try:
            yield from self._run()
        except StoreGone:  # meanwhile, with all there was to collect
            self.is_complete = True
        return self.found

    def _run(self) -> Op[None]:
        retention = yield from self._retention()
        yield from self._atomic(self._forget_dead_pins)
        if retention.kind == "volume":
            yield from self._delete_versions(retention)
        else:
            yield from self._delete_nameless()
        yield from self._delete_contents()
        waits = (yield from self._retention()).waits
        self.is_complete = self._transactions_left != 0 and not waits


def collect_in_passing(store_id: int) -> Op[bool]:
    """
    Collect for a short time, in the background of the client.

    Returns whether nothing will be left to do before the next change of the file system.
    """
    collection = Collection(store_id, transactions_max=TRANSACTIONS_IN_PASSING)
    yield from collection.run()
    return collection.is_complete
