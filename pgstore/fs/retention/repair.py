"""Repairing file systems in which `sql/checks` have found something.

The damage may have any cause: a row deleted by hand, a restore that left out a table. What nothing refers to may be the only copy
of what a file has lost, so the files are examined before anything is deleted. A chunk goes back into the gap, and a blob back to
the file, that it certainly came from. If several are possible, or one that is not certain, it stays and is reported. Only what no
loss in its store can explain becomes a candidate for collection, which examines it again under locks.

Each repair locks what it changes and checks it once more under the lock, so others may go on writing. What they read or copied of a
file before it was repaired stays as it was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pgstore.core.operation import Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.fs.candidates import GRACE_OVER, note_blobs, note_chunks
from pgstore.fs.model import FILE, LIVE
from pgstore.fs.retention.collection import Collection


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
    """A range of a file without chunks, and the ids of the chunks before and behind it."""

    blob_id: int
    chunk_size: int
    size_bytes: int  # of the file
    first: int  # position
    last: int
    before: int
    behind: int

    def room(self, position: int) -> int:
        """How many bytes the chunk at *position* has if the file was written from its beginning to its end."""
        return min(self.chunk_size, self.size_bytes - position * self.chunk_size)

    def may_lack(self, chunk: Chunk) -> bool:
        """Whether *chunk* can have been in this gap."""
        return chunk.length <= self.room(self.first)

    def surrounds(self, chunk: Chunk) -> bool:
        """Whether *chunk* was made between its neighbours, as if the file was written from its beginning to its end."""
        return self.may_lack(chunk) and self.before < chunk.id < self.behind

    def is_filled_by(self, chunks: Sequence[Chunk]) -> bool:
        """Whether *chunks* are exactly as many and as long as what is missing."""
        count = self.last - self.first + 1
        return len(chunks) == count and all(
            chunk.length == self.room(self.first + at) for at, chunk in enumerate(chunks)
        )


class IncompleteFile(NamedTuple):
    """A file that may lack its contents."""

    ino: int
    size_bytes: int
    blob_id: int  # the blob that it has; 0: none
    is_lost: bool

    def may_lack(self, blob: Blob) -> bool:
        """Whether *blob* can be its contents: it has as many chunks, and no more bytes."""
        return blob.end <= self.size_bytes and -(-blob.end // blob.chunk_size) == -(-self.size_bytes // blob.chunk_size)


@dataclass
class Mended:
    """What a repair has done in a file system, and what it could not do and why."""

    chunks: int = 0  # put back into their gaps
    blobs: int = 0  # given back to their files
    names: int = 0  # impossible ones, changed
    shared: int = 0  # blobs of several files, marked as shared
    disowned: int = 0  # extents with a chunk that others have, marked as not its owner
    deleted: int = 0  # blobs and chunks that no file can have lost
    kept: list[str] = field(default_factory=list)


def gaps_filled_by(chunks: Iterable[Chunk], gaps: Sequence[Gap]) -> list[tuple[Gap, list[Chunk]]]:
    """The gaps of which it is certain which chunks they lack, with these chunks in order."""
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


def owners_of(blobs: Sequence[Blob], incomplete: Sequence[IncompleteFile]) -> list[tuple[IncompleteFile, Blob]]:
    """The files of which it is certain which blob they lack: both end at the same byte, and neither fits any other."""
    return [
        (file, blob)
        for file in incomplete
        for blob in blobs
        if file.is_lost
        and file.size_bytes == blob.end
        and {other.ino for other in incomplete if other.is_lost and other.may_lack(blob)} == {file.ino}
        and [other.id for other in blobs if file.may_lack(other)] == [blob.id]
    ]


# ------------------------------------------------------------------------------------------------------- what there is

# They are no candidates for collection either, so no operation of pgstore has left them like this.
_UNREFERENCED_BLOBS: Final = """
      FROM pgstore.blob b
     WHERE b.store_id = $1
       AND b.session_id IS NULL
       AND NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.blob_id = b.id)
       AND NOT EXISTS (SELECT FROM pgstore.blob_candidate l WHERE l.store_id = $1 AND l.blob_id = b.id)
"""
_UNREFERENCED_CHUNKS: Final = """
      FROM pgstore.chunk c
     WHERE c.store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.extent e WHERE e.store_id = $1 AND e.chunk_id = c.id)
       AND NOT EXISTS (SELECT FROM pgstore.chunk_candidate l WHERE l.store_id = $1 AND l.chunk_id = c.id)
"""
UNREFERENCED_CHUNKS = Statement(
    f"SELECT c.id, coalesce(pgstore.chunk_length($1, c.id), 0) {_UNREFERENCED_CHUNKS} ORDER BY c.id",
    "int8",
    read_only=True,
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
UNREFERENCED_BLOBS = Statement(
    f"""
    SELECT b.id, b.chunk_size_bytes, {_END}
    {_UNREFERENCED_BLOBS}
     ORDER BY b.id
    """,
    "int8",
    read_only=True,
)
# Ranges without chunks in the blobs of files, and the chunks before and behind each. They may be holes, or lost.
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
    read_only=True,
)
# Files that may lack their contents: their blob does not exist, or another file has it too. (Copies share a blob; in a Volume they
# look the same, in a NetworkFileSystem the blob is marked as shared.) is_lost: certainly, for the blob is missing or ends
# elsewhere.
INCOMPLETE_FILES = Statement(
    f"""
    SELECT i.ino::bigint, i.size_bytes::bigint, coalesce(i.blob_id, 0),
           i.blob_id IS NULL OR b.id IS NULL OR i.size_bytes::bigint <> {_END} AS is_lost
      FROM pgstore.inode i
      LEFT JOIN pgstore.blob b ON b.store_id = $1 AND b.id = i.blob_id
     WHERE i.store_id = $1
       AND i.kind::"char" = '{FILE}'
       AND (i.blob_id IS NULL AND i.size_bytes::bigint <> coalesce(pg_catalog.octet_length(i.inline_data), 0)
            OR i.blob_id IS NOT NULL AND b.id IS NULL
            OR NOT b.is_shared AND EXISTS (SELECT
                                             FROM pgstore.inode o
                                            WHERE o.store_id = $1 AND o.blob_id = i.blob_id AND o.ino::bigint <> i.ino::bigint))
    """,
    "int8",
    read_only=True,
)
# Whether extents have no chunk, no blob, or a chunk that another extent owns.
BROKEN_EXTENTS = Statement(
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
    read_only=True,
)

# --------------------------------------------------------------------------------------------------------- mending it

# Several files have the blob, so they are treated as copies: the next write to one of them gives it a blob of its own.
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
# The same for extents that have one chunk: the next write to one of them gives it a chunk of its own.
CLEAR_OWNED = Statement(
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


def repair(store_id: int, *, in_place: bool, nameless: bool) -> Op[Mended]:
    """
    Repair what can be repaired, and delete what no file of this file system can have lost. Not in a transaction.

    Args:
        in_place: the file system is a NetworkFileSystem.
        nameless: there are names or versions without their inodes, so that any contents may have been those of a lost inode.
    """
    mended = Mended()
    mended.names = yield Query(RENAME_IMPOSSIBLE, store_id)
    mended.chunks = yield from _insert_all_chunks(store_id, nameless=nameless)
    if not nameless:
        incomplete = [IncompleteFile(*row) for row in (yield Query(INCOMPLETE_FILES, store_id))]
        for file, blob in owners_of([Blob(*row) for row in (yield Query(UNREFERENCED_BLOBS, store_id))], incomplete):
            mended.blobs += yield from atomic(_restore_blob(store_id, file, blob))
    if mended.blobs:  # those files explain no chunk any more
        mended.chunks += yield from _insert_all_chunks(store_id, nameless=nameless)
    yield from _keep_or_delete(store_id, mended, nameless=nameless)
    if not mended.kept:
        if in_place:
            mended.shared = yield Query(MARK_SHARED, store_id)
        mended.disowned = yield Query(CLEAR_OWNED, store_id, in_place)
    yield from Collection(store_id).run()
    return mended


def _insert_all_chunks(store_id: int, *, nameless: bool) -> Op[int]:
    """Fill gaps with chunks. Not while a file lacks its whole blob, or an extent its chunk: the chunks may be that one's."""
    ((broken_extents,),) = yield Query(BROKEN_EXTENTS, store_id)
    if nameless or broken_extents:
        return 0
    incomplete = [IncompleteFile(*row) for row in (yield Query(INCOMPLETE_FILES, store_id))]
    lost = {file.blob_id for file in incomplete if file.is_lost}
    gaps = [Gap(*row) for row in (yield Query(GAPS, store_id, LIVE))]
    count = 0
    for gap, chunks in gaps_filled_by([Chunk(*row) for row in (yield Query(UNREFERENCED_CHUNKS, store_id))], gaps):
        if lost <= {gap.blob_id}:
            count += yield from atomic(_insert_chunks(store_id, gap, chunks))
    return count


# Who writes a file in place, or shares its blob, locks the blob: they finish first, and then wait for us. An extent that begins to
# have the chunk locks it, by its foreign key: it waits for us, or the chunk is not found any more.
LOCK_BLOB = Statement("SELECT id FROM pgstore.blob WHERE store_id = $1 AND id = $2 FOR UPDATE", "int8 int8")
LOCK_CHUNK = Statement(f"SELECT c.id {_UNREFERENCED_CHUNKS} AND c.id = $2 FOR UPDATE", "int8 int8")
INSERT_EXTENT = Statement(
    "INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    "int8 int8 int4 int8",
)


def _insert_chunks(store_id: int, gap: Gap, chunks: Sequence[Chunk]) -> Op[int]:
    count = 0
    # Look again under the lock: the file may have been written or truncated meanwhile.
    if (yield Query(LOCK_BLOB, store_id, gap.blob_id)) and gap in [
        Gap(*row) for row in (yield Query(GAPS, store_id, LIVE))
    ]:
        for at, chunk in enumerate(chunks):
            if (yield Query(LOCK_CHUNK, store_id, chunk.id)):
                count += yield Query(INSERT_EXTENT, store_id, gap.blob_id, gap.first + at, chunk.id)
    return count


# An inode that begins to refer to the blob locks it, by its foreign key: it waits for us, or the blob is not found any more.
LOCK_UNREFERENCED_BLOB = Statement(f"SELECT b.id {_UNREFERENCED_BLOBS} AND b.id = $2 FOR UPDATE", "int8 int8")
SET_BLOB = Statement(
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


def _restore_blob(store_id: int, file: IncompleteFile, blob: Blob) -> Op[int]:
    if not (yield Query(LOCK_UNREFERENCED_BLOB, store_id, blob.id)):
        return 0
    changed: int = yield Query(SET_BLOB, store_id, file.ino, file.blob_id, blob.id, file.size_bytes)
    return min(changed, 1)


NOTE_BLOBS = Statement(
    note_blobs(f"(SELECT b.id AS blob_id {_UNREFERENCED_BLOBS} AND b.id = ANY ($2))", noted_at=GRACE_OVER),
    "int8 int8[]",
)
NOTE_CHUNKS = Statement(
    note_chunks(f"(SELECT c.id AS chunk_id {_UNREFERENCED_CHUNKS} AND c.id = ANY ($2))"), "int8 int8[]"
)


def _keep_or_delete(store_id: int, mended: Mended, *, nameless: bool) -> Op[None]:
    """Deal with what is still unreferenced: what a file may lack stays, all else becomes a candidate for collection."""
    ((broken_extents,),) = yield Query(BROKEN_EXTENTS, store_id)
    gaps = [Gap(*row) for row in (yield Query(GAPS, store_id, LIVE))]
    incomplete = [IncompleteFile(*row) for row in (yield Query(INCOMPLETE_FILES, store_id))]
    lost = nameless or any(file.is_lost for file in incomplete)
    free_blobs, free_chunks = [], []
    for blob in [Blob(*row) for row in (yield Query(UNREFERENCED_BLOBS, store_id))]:
        file = next((file for file in incomplete if file.may_lack(blob)), None)
        if nameless:
            mended.kept.append(f"blob {blob.id}: it may be the contents of a file whose inode is gone")
        elif file is not None:
            mended.kept.append(f"blob {blob.id}: it may be the contents of inode {file.ino}")
        elif lost:  # of which a hole at the end, or a lost chunk, makes the blob shorter
            mended.kept.append(f"blob {blob.id}: files of this store have lost contents, which it may be")
        else:
            free_blobs.append(blob.id)
    for chunk in [Chunk(*row) for row in (yield Query(UNREFERENCED_CHUNKS, store_id))]:
        gap = next((gap for gap in gaps if gap.surrounds(chunk)), None) or next(
            (gap for gap in gaps if gap.may_lack(chunk)), None
        )
        if gap is not None:
            start = gap.first * gap.chunk_size
            mended.kept.append(f"chunk {chunk.id}: it may be what blob {gap.blob_id} lacks from byte {start} on")
        elif lost or broken_extents:
            mended.kept.append(f"chunk {chunk.id}: files of this store have lost contents that it may have been in")
        else:
            free_chunks.append(chunk.id)
    mended.deleted += yield Query(NOTE_BLOBS, store_id, free_blobs)
    mended.deleted += yield Query(NOTE_CHUNKS, store_id, free_chunks)
