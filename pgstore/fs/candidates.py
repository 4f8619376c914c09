"""Candidates for collection: blobs that may have lost their last inode, chunks that may have lost their last extent.

Whoever takes the last reference away notes it in the same transaction, so that collection need not search the store for what
nothing refers to. A candidate may still be in use: collection finds out, under a lock, before it deletes anything.
"""

from __future__ import annotations

from typing import Final

GRACE_OVER: Final = (
    "timestamptz '-infinity'"  # as the time of the note: nobody can have begun to read it a short time ago
)


def note_blobs(source: str, *, noted_at: str = "statement_timestamp()") -> str:
    """The INSERT that notes the blobs of *source*, a table expression that has a `blob_id`; $1 is the store."""
    return _note("blob", source, noted_at)


def note_chunks(source: str) -> str:
    """The INSERT that notes the chunks of *source*, a table expression that has a `chunk_id`; $1 is the store."""
    return _note("chunk", source, "statement_timestamp()")


def _note(kind: str, source: str, noted_at: str) -> str:
    # Two who note the same do it in one order, so that neither waits for the other in a circle. DO UPDATE waits for a collection
    # that is about to delete the note, having seen the candidate in use before it was: DO NOTHING would take that note for its own.
    return f"""
    INSERT INTO pgstore.{kind}_candidate (store_id, {kind}_id, noted_at)
    SELECT DISTINCT $1, n.{kind}_id, {noted_at}
      FROM {source} n
     WHERE n.{kind}_id IS NOT NULL
     ORDER BY n.{kind}_id
        ON CONFLICT (store_id, {kind}_id) DO UPDATE SET noted_at = greatest(excluded.noted_at, {kind}_candidate.noted_at)
"""
