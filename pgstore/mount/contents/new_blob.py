"""A blob that is being made of what was written to a file of a Volume, and the statements for its chunks."""

from __future__ import annotations

from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.candidates import note_chunks
from pgstore.fs.content.blobs import ASYNC_COMMIT, INSERT_CHUNK
from pgstore.fs.content.staged import ABANDON
from pgstore.mount.contents.ranges import Ranges

DELETE_EXTENTS = Statement(
    f"""
    WITH gone AS (
         DELETE FROM pgstore.extent
          WHERE store_id = $1
            AND blob_id = $2
            AND position::integer = ANY ($3)
         RETURNING chunk_id
    )
    {note_chunks("gone")}
    """,
    "int8 int8 int4[]",
)
# The chunks of blob $3 at the positions of the ranges from $4 to before $5 become chunks of blob $2, too. The foreign key of the
# extents locks them: collection skips them, or has deleted them, and then this fails.
SHARE_RANGES = Statement(
    """
    INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id, is_owned)
    SELECT $1, $2, e.position, e.chunk_id, false
      FROM unnest($4, $5) AS u (start, stop)
     CROSS JOIN LATERAL (
           SELECT n.position, n.chunk_id
             FROM pgstore.extent n
            WHERE n.store_id = $1
              AND n.blob_id = $3
              AND n.position::integer >= u.start
              AND n.position::integer < u.stop) e
        ON CONFLICT DO NOTHING
    """,
    "int8 int8 int8 int4[] int4[]",
)
HAS_SESSIONS_BLOB = Statement(
    "SELECT 1 FROM pgstore.blob WHERE store_id = $1 AND id = $2 AND session_id = $3", "int8 int8 int8", read_only=True
)


class NewBlob:
    """A new blob, and what is known of its chunks, by their positions."""

    def __init__(self, blob_id: int, chunk_size: int, session_id: int, written_to: int | None) -> None:
        self.id = blob_id
        self.chunk_size = chunk_size
        self.session_id = session_id
        self.written_to = written_to  # the server that has it; None: every write waits for the disk
        self.insert_chunk = INSERT_CHUNK
        self.size_bytes = 0  # of the file, as far as it is in the blob
        self.written = Ranges()  # where there may be extents
        self.safe = Ranges()  # of these, on the server's disk
        self.has_rest = False  # what did not change was taken over
        self.is_whole = False  # and all that changed was uploaded once
        self.state = 0  # grows with every change

    @property
    def is_safe(self) -> bool:
        """Whether all that was written is on the server's disk. False where that is nothing: the blob itself may be lost."""
        return bool(self.written) and not any(self.safe.gaps(*part) for part in self.written)


class BlobLost(OSError):
    """The blob was lost in a crash of the server, or collected."""


def relaxed(blob: NewBlob) -> list[Query]:
    return [] if blob.written_to is None else [Query(ASYNC_COMMIT)]


def rows(statement: Statement, *values: object) -> Op[Rows]:
    return (yield Query(statement, *values))  # type: ignore[no-any-return]


def abandon(store_id: int, blob: NewBlob) -> Op[None]:
    yield Query(ABANDON, store_id, blob.id, blob.session_id)
