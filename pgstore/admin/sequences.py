"""Setting sequences ahead that a change of servers has left behind; `sql/checks/sequences.sql` finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement

# Not only to the largest number in use. Revisions of deleted entries, tokens of ended locks and what the old server did last are in
# no table any more, but somebody may have seen them. Nobody draws a million numbers in what is lost between two servers, and 64
# bits have room for nine million million such leaps. It also makes a lock unnecessary: whoever draws numbers meanwhile draws fewer.
LEAP: Final = 1_000_000

# All sequences of the catalog: where one was left behind the others were too, also where no table shows it.
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
    """Set every sequence far beyond its position and the largest number *used*; returns their names. It takes `pgstore_owner`."""
    return [row[0] for row in (yield Query(RAISE_ALL, list(used), list(used.values()), LEAP))]
