"""What `pgstore check --repair` does: for each check that has found something and has a repair, mend what is certain.

Nothing is deleted that may be the only copy of something. What was left for that reason is told of, and the check finds it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pgstore
from pgstore import errors
from pgstore.client.session import delete_store, sweep, unlink_large_objects
from pgstore.core.operation import Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.files.collect import STORES
from pgstore.files.repair import Mended
from pgstore.files.repair import repair as mend_files
from pgstore.queue import repair as queue_repair
from pgstore.registry import EXISTS
from pgstore.sequences import LEAP, raise_sequences

_KEPT_SHOWN_MAX: Final = 20
# How long to wait for those who are at work, before all others would have to wait for us.
BOUND_LOCKS: Final = Statement("SELECT set_config('lock_timeout', '60s', true)")
_LOCK_TIMED_OUT: Final = "55P03"

# Of which kind the store was, if what is left may be the only copy of something. What an insert has left that raced with a deletion
# looks the same, so it is kept too; not where no store can have had the id, for 20 random bits stand below each one's number.
LOST_STORE: Final = Statement(
    """
    SELECT CASE WHEN $1 < 1048576 THEN NULL
                WHEN EXISTS (SELECT FROM pgstore.volume_version v WHERE v.store_id = $1) THEN 'volume'
                WHEN EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.ino::bigint = 1) THEN 'nfs'
                WHEN EXISTS (SELECT FROM pgstore.dict_entry e WHERE e.store_id = $1) THEN 'dict'
                WHEN EXISTS (SELECT FROM pgstore.queue_item i WHERE i.store_id = $1)
                     OR EXISTS (SELECT FROM pgstore.queue_deferred d WHERE d.store_id = $1) THEN 'queue'
            END
    """,
    "int8",
    reads=True,
)
FORGET_CHANGES_TO_COME: Final = Statement(
    "DELETE FROM pgstore.dict_change WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())"
)


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    check: str
    about: str
    columns: list[str]
    rows: list[tuple[Any, ...]]
    is_complete: bool = True  # these are all

    def of(self, column: str) -> list[Any]:
        """What the rows have in *column*."""
        at = self.columns.index(column)
        return [row[at] for row in self.rows]


@dataclass(frozen=True)
class Repair:
    """One thing that was done; or, with *kept*, that was not, and why."""

    what: str
    where: str
    kept: bool = False


def repair(client: pgstore.Client, findings: Sequence[Finding]) -> Iterator[Repair]:
    """
    Mend what *findings* are about; tells of each thing when it is done.

    Raises:
        AccessDenied: it takes a member of pgstore_owner.
    """
    found = {finding.check: finding for finding in findings}
    try:
        if found.keys() & {"sequences", "queue_marks"}:
            yield from client.run(atomic(_sequences_and_marks(found.get("sequences"))))
        if "orphans" in found:
            for store_id in sorted(set(found["orphans"].of("store_id"))):
                yield from client.run(_orphans(store_id))
        if "dict_changes" in found:
            count: int = client.run(_one(Query(FORGET_CHANGES_TO_COME)))
            if count:
                yield Repair(f"{count} changes of transactions to come deleted from pgstore.dict_change", "all Dicts")
        if found.keys() & FILE_CHECKS:
            client.run(atomic(sweep()))
            about = [found[name] for name in FILE_CHECKS & found.keys()]
            wanted = {store_id for finding in about for store_id in finding.of("store_id")}
            lossy = [found[name] for name in SHOWING_LOST_INODES & found.keys()]
            losers = {store_id for finding in lossy for store_id in finding.of("store_id")}
            for store_id, environment, kind, name in client.run(_one(Query(STORES, None, None))):
                if store_id in wanted or not all(finding.is_complete for finding in about):
                    where = f"{'NetworkFileSystem' if kind == 'nfs' else 'Volume'} {environment}/{name or store_id}"
                    nameless = store_id in losers or not all(finding.is_complete for finding in lossy)
                    yield from _told(client.run(mend_files(store_id, in_place=kind == "nfs", nameless=nameless)), where)
    except errors.AccessDenied as exc:
        raise errors.AccessDenied(
            f"this repair needs the rights of pgstore_owner, or of who owns the schema: {exc.__cause__ or exc}"
        ) from exc
    except errors.StatementFailed as exc:
        if exc.sqlstate != _LOCK_TIMED_OUT:
            raise
        raise errors.StoreUnavailable(
            "somebody's transaction holds what is to be mended, for a minute now: end it and run this again"
        ) from exc


FILE_CHECKS: Final = frozenset({"file_leftovers", "file_blobs", "file_extents", "file_entry_names", "file_contents"})
SHOWING_LOST_INODES: Final = frozenset({"file_names", "file_trees", "file_versions"})
REPAIRABLE: Final = FILE_CHECKS | {"sequences", "queue_marks", "orphans", "dict_changes"}


def _one(query: Query) -> Op[Any]:
    return (yield query)


def _sequences_and_marks(finding: Finding | None) -> Op[list[Repair]]:
    """In one transaction, with the items locked, so that none is put with an old id in between."""
    yield Query(BOUND_LOCKS)
    yield from queue_repair.lock_items()
    done: list[Repair] = []
    if finding is not None:
        used: dict[str, int] = {}
        for sequence, number in zip(finding.of("sequence"), finding.of("used"), strict=True):
            used[sequence] = max(number, used.get(sequence, 0))
        raised = yield from raise_sequences(used)
        what = f"{len(raised)} sequences set {LEAP:,} beyond what is in use; behind were {', '.join(sorted(used))}"
        done.append(Repair(what, "all stores"))
    for moved in (yield from queue_repair.move_items()):
        what = f"{moved.items} items below the mark put at the end of partition {moved.partition!r}"
        done.append(Repair(what, f"Queue {moved.store_id}"))
    return done


def _orphans(store_id: int) -> Op[list[Repair]]:
    """Delete what slipped in while a store was deleted, where it cannot be what is left of a store whose row was lost."""
    # Ids are never used twice: a store that is not there will not be.
    if (yield Query(EXISTS, store_id)):
        return []
    ((kind,),) = yield Query(LOST_STORE, store_id)
    if kind is not None:
        made_again = f"INSERT INTO pgstore.store (id, environment, kind, name) VALUES ({store_id}, 'main', '{kind}', …)"
        if kind in ("volume", "nfs"):
            made_again += (
                f"; INSERT INTO pgstore.file_system (store_id, head) SELECT {store_id}, coalesce(max(version), 0) "
                f"FROM pgstore.volume_version WHERE store_id = {store_id}"
            )
        reason = (
            "it has data, of which only the row in pgstore.store is gone; this makes it again (and it can be deleted then, "
            f"if that was meant): {made_again}"
        )
        return [Repair(reason, f"store {store_id}", kept=True)]
    yield from atomic(delete_store(store_id))
    yield from unlink_large_objects(store_id)
    return [Repair("rows deleted that slipped in when it was deleted", f"store {store_id}")]


def _told(mended: Mended, where: str) -> Iterator[Repair]:
    for count, what in (
        (mended.chunks, "chunks put back where a file lacked them"),
        (mended.blobs, "files given their contents back"),
        (mended.names, "entries with impossible names renamed to impossible-name-…"),
        (mended.shared, "blobs of several files marked as shared"),
        (mended.disowned, "extents marked as not the only ones of their chunk"),
        (mended.deleted, "blobs and chunks deleted that nothing refers to and no file lacks"),
    ):
        if count:
            yield Repair(f"{count} {what}", where)
    for reason in mended.kept[:_KEPT_SHOWN_MAX]:
        yield Repair(reason, where, kept=True)
    if len(mended.kept) > _KEPT_SHOWN_MAX:
        yield Repair(f"and {len(mended.kept) - _KEPT_SHOWN_MAX} more", where, kept=True)
