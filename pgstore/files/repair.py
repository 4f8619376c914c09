"""Repairing file systems, where `sql/checks` have found something: what can be mended is, and what might still be is kept.

Damage is not ours to explain: a row deleted by hand, a restore that left out a table. What nothing refers to may be the only copy
of what a file has lost, so before it is deleted the files are looked at. A chunk goes back to the place that lacks it, a blob to
its file, if there is one explanation; if there are several, or one that is not certain, it stays, and is told of. Only what no
loss in its store can explain is handed to collection, which looks again, under locks.

Each repair locks what it changes and looks once more, so others may go on writing. (Where a file was mended it had lost bytes
until now: what they read or copied of it before is not made good.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pgstore.core.operation import Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE
from pgstore.files.collect import Collection

# ------------------------------------------------------------------------------------------------------- what there is

# Noted nowhere, so it is not what an operation of ours has left.
_LOOSE_BLOBS: Final = """
      FROM pgstore.blob b
     WHERE b.store_id = $1
       AND b.session_id IS NULL
       AND NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.blob_id = b.id)
       AND NOT EXISTS (SELECT FROM pgstore.blob_left l WHERE l.store_id = $1 AND l.blob_id = b.id)
"""
_LOOSE_CHUNKS: Final = """
      FROM pgstore.chunk c
     WHERE c.store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.extent e WHERE e.store_id = $1 AND e.chunk_id = c.id)
       AND NOT EXISTS (SELECT FROM pgstore.chunk_left l WHERE l.store_id = $1 AND l.chunk_id = c.id)
"""
LOOSE_CHUNKS = Statement(
    f"SELECT c.id, coalesce(pgstore.chunk_length($1, c.id), 0) {_LOOSE_CHUNKS} ORDER BY c.id", "int8", reads=True
)
# The size of a file that ends where the last chunk of blob b does.
_END: Final = """
           coalesce((SELECT e.position::bigint * b.chunk_size_bytes::integer + coalesce(pgstore.chunk_length($1, e.chunk_id), 0)
                       FROM pgstore.extent e
                      WHERE e.store_id = $1
                        AND e.blob_id = b.id
                      ORDER BY e.position DESC
                      LIMIT 1), 0)
"""
LOOSE_BLOBS = Statement(
    f"""
    SELECT b.id, b.chunk_size_bytes, {_END}
    {_LOOSE_BLOBS}
     ORDER BY b.id
    """,
    "int8",
    reads=True,
)
# Ranges without a chunk in the blobs of files, and the chunks before and behind them. Holes are not wrong; they may be a loss.
GAPS = Statement(
    """
    WITH file AS (
         SELECT i.blob_id, max(i.size_bytes::bigint) AS size_bytes
           FROM pgstore.inode i
          WHERE i.store_id = $1
            AND i.blob_id IS NOT NULL
          GROUP BY i.blob_id
    ), blob AS (
         SELECT b.id, b.chunk_size_bytes::integer AS chunk_size_bytes, f.size_bytes
           FROM file f
           JOIN pgstore.blob b ON b.store_id = $1 AND b.id = f.blob_id
    ), edge AS (
         SELECT e.blob_id, e.position::bigint AS position, e.chunk_id
           FROM pgstore.extent e
          WHERE e.store_id = $1
          UNION ALL
         SELECT b.id, -1, NULL
           FROM blob b
          UNION ALL
         SELECT b.id, b.size_bytes / b.chunk_size_bytes + least(b.size_bytes % b.chunk_size_bytes::bigint, 1::bigint), NULL
           FROM blob b
    ), gap AS (
         SELECT e.blob_id, e.position + 1 AS first, pg_catalog.lead(e.position) OVER w - 1 AS last,
                e.chunk_id AS before, pg_catalog.lead(e.chunk_id) OVER w AS behind
           FROM edge e
         WINDOW w AS (PARTITION BY e.blob_id ORDER BY e.position)
    )
    SELECT g.blob_id, b.chunk_size_bytes, b.size_bytes, g.first, g.last, coalesce(g.before, 0), coalesce(g.behind, $2)
      FROM gap g
      JOIN blob b ON b.id = g.blob_id
     WHERE g.last >= g.first
     ORDER BY g.blob_id, g.first
    """,
    "int8 int8",
    reads=True,
)
# Files that lack their contents: their blob is gone, or is that of another file as well. In a Volume copies have one blob, and
# look so too; in a NetworkFileSystem those are marked. *is_lost*: what they lead to is not there, or does not end where they do.
ROBBED = Statement(
    f"""
    SELECT i.ino::bigint, i.size_bytes::bigint, coalesce(i.blob_id, 0),
           i.blob_id IS NULL OR b.id IS NULL OR i.size_bytes::bigint <> {_END} AS is_lost
      FROM pgstore.inode i
      LEFT JOIN pgstore.blob b ON b.store_id = $1 AND b.id = i.blob_id
     WHERE i.store_id = $1
       AND i.kind::"char" = 'f'
       AND (i.blob_id IS NULL AND i.size_bytes::bigint <> coalesce(pg_catalog.octet_length(i.inline_data), 0)
            OR i.blob_id IS NOT NULL AND b.id IS NULL
            OR NOT b.is_shared AND EXISTS (SELECT
                                             FROM pgstore.inode o
                                            WHERE o.store_id = $1 AND o.blob_id = i.blob_id AND o.ino::bigint <> i.ino::bigint))
    """,
    "int8",
    reads=True,
)
# Whether extents lead to no chunk or have another's.
HEADLESS = Statement(
    """
    SELECT EXISTS (SELECT
                     FROM pgstore.extent e
                    WHERE e.store_id = $1
                      AND (NOT EXISTS (SELECT FROM pgstore.chunk c WHERE c.store_id = $1 AND c.id = e.chunk_id)
                           OR NOT EXISTS (SELECT FROM pgstore.blob b WHERE b.store_id = $1 AND b.id = e.blob_id)))
           OR EXISTS (SELECT
                        FROM pgstore.extent e
                       WHERE e.store_id = $1
                         AND e.is_owned
                       GROUP BY e.chunk_id
                      HAVING count(*) > 1)
    """,
    "int8",
    reads=True,
)

# --------------------------------------------------------------------------------------------------------- mending it

# Whoever writes a file in place, or shares its blob, holds its blob: they finish first, and wait for us. What is not as it was
# seen any more is left.
LOCK_BLOB = Statement("SELECT id FROM pgstore.blob WHERE store_id = $1 AND id = $2 FOR UPDATE", "int8 int8")
LOCK_CHUNK = Statement(f"SELECT c.id {_LOOSE_CHUNKS} AND c.id = $2 FOR UPDATE", "int8 int8")
PUT_BACK = Statement(
    "INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    "int8 int8 int4 int8",
)
LOCK_LOOSE_BLOB = Statement(f"SELECT b.id {_LOOSE_BLOBS} AND b.id = $2 FOR UPDATE", "int8 int8")
GIVE_BACK = Statement(
    """
    UPDATE pgstore.inode
       SET blob_id = $4
     WHERE store_id = $1
       AND ino::bigint = $2
       AND coalesce(blob_id, 0) = $3
       AND inline_data IS NULL
       AND size_bytes::bigint = $5
    """,
    "int8 int8 int8 int8 int8",
)
# They are copies now, and the next write to one of them gives it a blob of its own.
MARK_SHARED = Statement(
    """
    UPDATE pgstore.blob b
       SET is_shared = true
     WHERE b.store_id = $1
       AND NOT b.is_shared
       AND EXISTS (SELECT
                     FROM pgstore.inode i
                    WHERE i.store_id = $1
                      AND i.blob_id = b.id
                   HAVING pg_catalog.count(DISTINCT i.ino::bigint) > 1)
    """,
    "int8",
)
# So with extents: the next write gives each a chunk of its own.
DISOWN = Statement(
    """
    UPDATE pgstore.extent e
       SET is_owned = false
     WHERE e.store_id = $1
       AND e.is_owned
       AND EXISTS (SELECT
                     FROM pgstore.extent o
                    WHERE o.store_id = $1
                      AND o.chunk_id = e.chunk_id
                      AND (o.is_owned OR $2)
                      AND (o.blob_id, o.position::integer) <> (e.blob_id, e.position::integer))
       AND EXISTS (SELECT FROM pgstore.blob b WHERE b.store_id = $1 AND b.id = e.blob_id AND NOT b.is_shared)
    """,
    "int8 bool",
)
RENAME_IMPOSSIBLE = Statement(
    """
    UPDATE pgstore.dirent
       SET name = pg_catalog.convert_to(
                      pg_catalog.concat('impossible-name-', left(encode(name::bytea, 'hex'), 128), '-', ino), 'UTF8')
     WHERE store_id = $1
       AND (pg_catalog.octet_length(name) NOT BETWEEN 1 AND 255
            OR name::bytea IN (decode('2e', 'hex'), decode('2e2e', 'hex'))
            OR position(decode('2f', 'hex') IN name::bytea) > 0
            OR position(decode('00', 'hex') IN name::bytea) > 0)
    """,
    "int8",
)
NOTE_BLOBS = Statement(
    f"""
    INSERT INTO pgstore.blob_left (store_id, blob_id, left_at)
    SELECT $1, b.id, '-infinity'
    {_LOOSE_BLOBS}
       AND b.id = ANY ($2)
     ORDER BY b.id
        ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at)
    """,
    "int8 int8[]",
)
NOTE_CHUNKS = Statement(
    f"""
    INSERT INTO pgstore.chunk_left (store_id, chunk_id)
    SELECT $1, c.id
    {_LOOSE_CHUNKS}
       AND c.id = ANY ($2)
     ORDER BY c.id
        ON CONFLICT (store_id, chunk_id) DO UPDATE SET left_at = greatest(excluded.left_at, chunk_left.left_at)
    """,
    "int8 int8[]",
)


class Chunk(NamedTuple):
    """A chunk that no blob has."""

    id: int
    length: int


class Blob(NamedTuple):
    """A blob that no file has."""

    id: int
    chunk_size: int
    end: int


class Gap(NamedTuple):
    """A range of a file without chunks, and the chunks on both sides of it."""

    blob_id: int
    chunk_size: int
    size_bytes: int  # of the file
    first: int
    last: int
    before: int
    behind: int

    def room(self, position: int) -> int:
        """How many bytes a chunk has at *position* that was written in one go."""
        return min(self.chunk_size, self.size_bytes - position * self.chunk_size)

    def may_lack(self, chunk: Chunk) -> bool:
        """Whether *chunk* may ever have been in it."""
        return chunk.length <= self.room(self.first)

    def surrounds(self, chunk: Chunk) -> bool:
        """Whether *chunk* was made between its neighbours, as are those of a file that is written from its beginning to its end."""
        return self.may_lack(chunk) and self.before < chunk.id < self.behind

    def is_filled_by(self, chunks: Sequence[Chunk]) -> bool:
        """Whether *chunks* are as many and as long as what is missing."""
        count = self.last - self.first + 1
        return len(chunks) == count and all(
            chunk.length == self.room(self.first + at) for at, chunk in enumerate(chunks)
        )


class Robbed(NamedTuple):
    """A file that may lack its blob."""

    ino: int
    size_bytes: int
    blob_id: int  # what it has instead; 0: nothing
    is_lost: bool

    def may_lack(self, blob: Blob) -> bool:
        """Whether its bytes may be those of *blob*: as many chunks, and not more in the last one."""
        return blob.end <= self.size_bytes and -(-blob.end // blob.chunk_size) == -(-self.size_bytes // blob.chunk_size)


@dataclass
class Mended:
    """What was done in a file system; and what was not, and why."""

    chunks: int = 0  # that are in their places again
    blobs: int = 0
    names: int = 0  # that were impossible
    shared: int = 0  # blobs that were not marked
    disowned: int = 0  # extents
    deleted: int = 0  # blobs and chunks that nothing lacked
    kept: list[str] = field(default_factory=list)


def places_for(chunks: Iterable[Chunk], gaps: Sequence[Gap]) -> list[tuple[Gap, list[Chunk]]]:
    """The gaps of which it is certain what they lack, each with its chunks in order."""
    homes: dict[int, list[Gap]] = {}
    wanted: dict[Gap, list[Chunk]] = {}
    for chunk in sorted(chunks):
        homes[chunk.id] = [gap for gap in gaps if gap.surrounds(chunk)]
        for gap in homes[chunk.id]:
            wanted.setdefault(gap, []).append(chunk)
    return [
        (gap, found)
        for gap, found in wanted.items()
        if gap.is_filled_by(found) and all(len(homes[chunk.id]) == 1 for chunk in found)
    ]


def owners_of(blobs: Sequence[Blob], robbed: Sequence[Robbed]) -> list[tuple[Robbed, Blob]]:
    """The files of which it is certain which blob is theirs: both end at one byte, and fit no other that is loose or lost."""
    return [
        (file, blob)
        for file in robbed
        for blob in blobs
        if file.is_lost
        and file.size_bytes == blob.end
        and {other.ino for other in robbed if other.is_lost and other.may_lack(blob)} == {file.ino}
        and [other.id for other in blobs if file.may_lack(other)] == [blob.id]
    ]


def repair(store_id: int, *, in_place: bool, nameless: bool) -> Op[Mended]:
    """
    Mend what can be, and delete what no loss in this file system can explain. Not in a transaction.

    Args:
        in_place: it is a NetworkFileSystem.
        nameless: its names or versions show that inodes are gone, of which nobody knows what contents they had.
    """
    mended = Mended()
    mended.names = yield Query(RENAME_IMPOSSIBLE, store_id)
    mended.chunks = yield from _put_all_back(store_id, nameless=nameless)
    if not nameless:
        robbed = [Robbed(*row) for row in (yield Query(ROBBED, store_id))]
        for file, blob in owners_of([Blob(*row) for row in (yield Query(LOOSE_BLOBS, store_id))], robbed):
            mended.blobs += yield from atomic(_give_back(store_id, file, blob))
    if mended.blobs:  # those files explain no chunk any more
        mended.chunks += yield from _put_all_back(store_id, nameless=nameless)
    yield from _keep_or_delete(store_id, mended, nameless=nameless)
    if not mended.kept:
        if in_place:
            mended.shared = yield Query(MARK_SHARED, store_id)
        mended.disowned = yield Query(DISOWN, store_id, in_place)
    yield from Collection(store_id).run()
    return mended


def _put_all_back(store_id: int, *, nameless: bool) -> Op[int]:
    """Where a file lacks chunks. Not while another one lacks its whole blob, or an extent its chunk: they may be that one's."""
    ((headless,),) = yield Query(HEADLESS, store_id)
    if nameless or headless:
        return 0
    lost = {file.blob_id for file in [Robbed(*row) for row in (yield Query(ROBBED, store_id))] if file.is_lost}
    gaps = [Gap(*row) for row in (yield Query(GAPS, store_id, LIVE))]
    count = 0
    for gap, chunks in places_for([Chunk(*row) for row in (yield Query(LOOSE_CHUNKS, store_id))], gaps):
        if lost <= {gap.blob_id}:
            count += yield from atomic(_put_back(store_id, gap, chunks))
    return count


def _put_back(store_id: int, gap: Gap, chunks: Sequence[Chunk]) -> Op[int]:
    count = 0
    # Under the lock once more, for the file may have been written or cut meanwhile.
    if (yield Query(LOCK_BLOB, store_id, gap.blob_id)) and gap in [
        Gap(*row) for row in (yield Query(GAPS, store_id, LIVE))
    ]:
        for at, chunk in enumerate(chunks):
            if (yield Query(LOCK_CHUNK, store_id, chunk.id)):
                count += yield Query(PUT_BACK, store_id, gap.blob_id, gap.first + at, chunk.id)
    return count


def _give_back(store_id: int, file: Robbed, blob: Blob) -> Op[int]:
    if not (yield Query(LOCK_LOOSE_BLOB, store_id, blob.id)):
        return 0
    changed: int = yield Query(GIVE_BACK, store_id, file.ino, file.blob_id, blob.id, file.size_bytes)
    return min(changed, 1)


def _keep_or_delete(store_id: int, mended: Mended, *, nameless: bool) -> Op[None]:
    """Look at what is loose still. As long as a file may lack it, it stays."""
    ((headless,),) = yield Query(HEADLESS, store_id)
    gaps = [Gap(*row) for row in (yield Query(GAPS, store_id, LIVE))]
    robbed = [Robbed(*row) for row in (yield Query(ROBBED, store_id))]
    lost = nameless or any(file.is_lost for file in robbed)
    free_blobs, free_chunks = [], []
    for blob in [Blob(*row) for row in (yield Query(LOOSE_BLOBS, store_id))]:
        file = next((file for file in robbed if file.may_lack(blob)), None)
        if nameless:
            mended.kept.append(f"blob {blob.id}: it may be the contents of a file whose inode is gone")
        elif file is not None:
            mended.kept.append(f"blob {blob.id}: it may be the contents of inode {file.ino}")
        elif lost:  # of which a hole at the end, or a lost chunk, makes the blob shorter
            mended.kept.append(f"blob {blob.id}: files of this store have lost contents, which it may be")
        else:
            free_blobs.append(blob.id)
    for chunk in [Chunk(*row) for row in (yield Query(LOOSE_CHUNKS, store_id))]:
        gap = next((gap for gap in gaps if gap.surrounds(chunk)), None) or next(
            (gap for gap in gaps if gap.may_lack(chunk)), None
        )
        if gap is not None:
            place = gap.first * gap.chunk_size
            mended.kept.append(f"chunk {chunk.id}: it may be what blob {gap.blob_id} lacks from byte {place} on")
        elif lost or headless:
            mended.kept.append(f"chunk {chunk.id}: files of this store have lost contents that it may have been in")
        else:
            free_chunks.append(chunk.id)
    mended.deleted += yield Query(NOTE_BLOBS, store_id, free_blobs)
    mended.deleted += yield Query(NOTE_CHUNKS, store_id, free_chunks)
