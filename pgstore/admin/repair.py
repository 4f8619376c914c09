"""Repairing what checks have found, where there is one certain repair.

Nothing is deleted that may be the only copy of something. It is reported as kept instead, and the check finds it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pgstore import errors
from pgstore.admin.check import Finding
from pgstore.admin.gc import file_systems
from pgstore.admin.sequences import LEAP, raise_sequences
from pgstore.client import Client
from pgstore.client.session import sweep
from pgstore.core.names import KIND_NAMES
from pgstore.core.operation import Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.fs.retention.repair import Mended
from pgstore.fs.retention.repair import repair as mend_files
from pgstore.queue import repair as queue_repair
from pgstore.store.deletion import delete_store
from pgstore.store.registry import EXISTS

_KEPT_SHOWN_MAX: Final = 20
_LOCK_TIMED_OUT: Final = "55P03"


@dataclass(frozen=True)
class Repair:
    """One thing that was done."""

    what: str
    where: str
    """The store."""
    kept: bool = False
    """It was not done, and *what* says why."""


def repair(client: Client, findings: Sequence[Finding]) -> Iterator[Repair]:
    """
    Repair what *findings* are about; gives each thing when it is done.

    Raises:
        AccessDenied: it takes a member of pgstore_owner.
        StoreUnavailable: a transaction of somebody else's has locked what is to be repaired.
    """
    found = {finding.check: finding for finding in findings}
    try:
        if found.keys() & {"sequences", "queue_watermarks"}:
            yield from client.run(atomic(_sequences_and_watermarks(found.get("sequences"))))
        if "orphans" in found:
            for store_id in sorted(set(found["orphans"].of("store_id"))):
                yield from client.run(_orphans(store_id))
        if "dict_changes" in found:
            yield from client.run(_changes())
        if found.keys() & FILE_CHECKS:
            yield from _files(client, found)
    except errors.AccessDenied as exc:
        raise errors.AccessDenied(
            f"this repair needs the rights of pgstore_owner, or of who owns the schema: {exc.__cause__ or exc}"
        ) from exc
    except errors.StatementFailed as exc:
        if exc.sqlstate != _LOCK_TIMED_OUT:
            raise
        raise errors.StoreUnavailable(
            "somebody's transaction has locked what is to be repaired, for a minute now: end it and run this again"
        ) from exc


FILE_CHECKS: Final = frozenset({"file_leftovers", "file_blobs", "file_extents", "file_entry_names", "file_contents"})
SHOWING_LOST_INODES: Final = frozenset({"file_names", "file_trees", "file_versions"})
REPAIRABLE: Final = FILE_CHECKS | {"sequences", "queue_watermarks", "orphans", "dict_changes"}


# How long to wait for transactions under way: all new ones wait for us meanwhile.
BOUND_LOCKS: Final = Statement("SELECT set_config('lock_timeout', '60s', true)")


def _sequences_and_watermarks(finding: Finding | None) -> Op[list[Repair]]:
    """Set sequences ahead and move items, in one transaction that locks the items: none is put with an old id meanwhile."""
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
        what = f"{moved.items} items below the watermark put at the end of partition {moved.partition!r}"
        done.append(Repair(what, f"Queue {moved.store_id}"))
    return done


# The kind of a store of which rows are left that may be the only copy of something. What an insert left that raced with a deletion
# looks the same, so it is kept, too. NULL where no store can have had the id: 20 random bits stand below the number of each.
LOST_STORE: Final = Statement(
    """
    SELECT CASE WHEN $1 < 1048576 THEN NULL
                WHEN EXISTS (SELECT FROM pgstore.volume_version v WHERE v.store_id = $1) THEN 'volume'
                WHEN EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.ino::bigint = 1) THEN 'nfs'
                WHEN EXISTS (SELECT FROM pgstore.dict_entry e WHERE e.store_id = $1) THEN 'dict'
                WHEN EXISTS (SELECT FROM pgstore.spawned_call c WHERE c.store_id = $1) THEN 'app'
                WHEN EXISTS (SELECT FROM pgstore.queue_item i WHERE i.store_id = $1)
                     OR EXISTS (SELECT FROM pgstore.queue_deferred d WHERE d.store_id = $1) THEN 'queue'
            END
    """,
    "int8",
    read_only=True,
)


def _orphans(store_id: int) -> Op[list[Repair]]:
    """Delete rows of a store that does not exist, where they cannot be what is left of a store whose row was lost."""
    # Ids are never used twice: a store that does not exist never will.
    if (yield Query(EXISTS, store_id)):
        return []
    ((kind,),) = yield Query(LOST_STORE, store_id)
    if kind is not None:
        restoring = f"INSERT INTO pgstore.store (id, environment, kind, name) VALUES ({store_id}, 'main', '{kind}', …)"
        if kind in ("volume", "nfs"):
            restoring += (
                f"; INSERT INTO pgstore.file_system (store_id, head) SELECT {store_id}, coalesce(max(version), 0) "
                f"FROM pgstore.volume_version WHERE store_id = {store_id}"
            )
        reason = (
            "it has data, of which only the row in pgstore.store is gone; this makes it again (and it can be deleted then, "
            f"if that was meant): {restoring}"
        )
        return [Repair(reason, f"store {store_id}", kept=True)]
    yield from delete_store(store_id)
    return [Repair("rows deleted that slipped in when it was deleted", f"store {store_id}")]


# The first Dict after $1 with logged changes.
DICT_WITH_CHANGES: Final = Statement(
    """
    SELECT store_id
      FROM pgstore.dict_change
     WHERE store_id > $1
     ORDER BY store_id
     LIMIT 1
    """,
    "int8",
    read_only=True,
)
FORGET_CHANGES_TO_COME: Final = Statement(
    """
    DELETE FROM pgstore.dict_change
     WHERE store_id = $1
       AND transaction_id >= pg_snapshot_xmax(pg_current_snapshot())
    """,
    "int8",
)


def _changes() -> Op[list[Repair]]:
    count = store_id = 0
    while rows := (yield Query(DICT_WITH_CHANGES, store_id)):
        ((store_id,),) = rows
        count += yield Query(FORGET_CHANGES_TO_COME, store_id)
    what = f"{count} changes of transactions to come deleted from pgstore.dict_change"
    return [Repair(what, "all Dicts")] if count else []


def _files(client: Client, found: Mapping[str, Finding]) -> Iterator[Repair]:
    """Repair each file system that has findings, in transactions of its own; all of them where not all findings are known."""
    client.run(sweep())
    about = [found[name] for name in FILE_CHECKS & found.keys()]
    wanted = {store_id for finding in about for store_id in finding.of("store_id")}
    lossy = [found[name] for name in SHOWING_LOST_INODES & found.keys()]
    losers = {store_id for finding in lossy for store_id in finding.of("store_id")}
    for store_id, environment, kind, name in client.run(file_systems()):
        if store_id in wanted or not all(finding.is_complete for finding in about):
            has_lost_inodes = store_id in losers or not all(finding.is_complete for finding in lossy)
            mended = client.run(mend_files(store_id, in_place=kind == "nfs", nameless=has_lost_inodes))
            yield from _repairs_of(mended, f"{KIND_NAMES[kind]} {environment}/{name or store_id}")


def _repairs_of(mended: Mended, where: str) -> Iterator[Repair]:
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
