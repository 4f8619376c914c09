"""Setting sequences right that a change of servers has left behind; `sql/checks/sequences.sql` finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement

# What is in use is not all that was given out: revisions of entries that were deleted, tokens of locks that ended, and what the
# old server did before it fell away are in no table any more, but somebody may have seen them. So far ahead, for nobody makes as
# many in what is lost between two servers, and 64 bits have room for nine million million such leaps. It is also what makes this
# right without a lock: whoever draws numbers meanwhile draws fewer.
LEAP: Final = 1_000_000

# All of them, as the catalog has them: where one was left behind, the others were too, also those that nothing shows of.
RAISE_ALL: Final = Statement(
    """
    SELECT c.relname::text,
           setval(c.oid::regclass, greatest(coalesce(pg_sequence_last_value(c.oid::regclass), 1), coalesce(u.number, 1)) + $3)
      FROM pg_class c
      LEFT JOIN unnest($1, $2) AS u (name, number) ON u.name = c.relname::text
     WHERE c.relnamespace = 'pgstore'::regnamespace
       AND c.relkind = 'S'
     ORDER BY c.relname
    """,
    "text[] int8[] int8",
)


def raise_sequences(used: Mapping[str, int]) -> Op[list[str]]:
    """Set every sequence far beyond what it is at and what is *used* of it; returns their names. It takes `pgstore_owner`."""
    return [row[0] for row in (yield Query(RAISE_ALL, list(used), list(used.values()), LEAP))]
