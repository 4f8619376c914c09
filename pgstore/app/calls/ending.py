"""How a call ends: its row has the outcome, and its lease is gone, in one statement.

Nobody but who has the lease can end a call, but for whoever cancels it. So a worker that was away for too long, whose call another
has begun again, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pgstore import errors
from pgstore.app.calls.sealing import seal
from pgstore.app.pickles import Outcome
from pgstore.client import Client, default_client
from pgstore.client.notifications import notifying
from pgstore.core.operation import Op, Query, Topic
from pgstore.core.statement import Statement
from pgstore.queue.lease import THIS_LEASE

DONE: Final = "d"
FAILED: Final = "f"
CANCELLED: Final = "c"
KILLED: Final = "k"  # cancelled, and its worker is to be killed
KEPT: Final = "7 days"  # an outcome, after the end of its call
ROW_KEPT: Final = "30 days"  # the rest, so that until then an outcome is known to have expired
_ERROR_CHARS_MAX: Final = 1000

# Of two that would end one call the second waits for the first and then finds no lease, or none that is this.
END: Final = Statement(
    f"""
    WITH lease AS (DELETE FROM pgstore.queue_deferred WHERE {THIS_LEASE} RETURNING 1)
    UPDATE pgstore.spawned_call AS c
       SET state = $5,
           ended_at = statement_timestamp(),
           codec = $6,
           arguments = NULL,
           outcome = $7,
           error = coalesce($8, c.error)
      FROM lease
     WHERE c.store_id = $1
       AND c.id = $4
       AND c.state = 'p'
    """,
    "int8 int8 float8 int8 char char bytea text",
)
# An attempt that failed and that another will follow.
NOTE_FAILURE: Final = Statement(
    "UPDATE pgstore.spawned_call SET error = coalesce($3, error) WHERE store_id = $1 AND id = $2 AND state = 'p'",
    "int8 int8 text",
)


def call_name(store_id: int, number: int) -> str:
    """The id of a call as users have it; `pgstore.calls` makes the same."""
    return f"fc-{store_id:x}-{number:x}"


def end_topic(store_id: int, number: int) -> Topic:
    """What those wait for who want the outcome of a call: all of them are told."""
    return Topic(store_id, f"call {number:x}", for_everybody=True)


@dataclass(frozen=True)
class Ending:
    """
    What ends a call: the lease that its worker has. Plain data, which is pickled for a worker process.

    With a function that is transactional it is the last statement of the function's transaction (`Input.completion`): the call is
    done if and only if that commits.
    """

    store_id: int
    number: int
    lease: tuple[int, float]

    @property
    def name(self) -> str:
        """The id of the call, `fc-…`."""
        return call_name(self.store_id, self.number)

    def end(self, client: Client, outcome: Outcome) -> Op[bool]:
        """
        End the call with *outcome*. False: it was cancelled, or is another worker's by now.

        Raises:
            ValueTooLarge: the outcome is above 256 MiB.
        """
        keys = client.settings.signing_keys
        codec, payload = seal(keys, self.store_id, self.name, outcome.payload, f"the result of {self.name}")
        state, error = (FAILED, error_of(outcome)) if outcome.is_error else (DONE, None)
        end = Query(END, self.store_id, *self.lease, self.number, state, codec, payload, error)
        return bool((yield from notifying(end, end_topic(self.store_id, self.number))))

    def complete(self, outcome: Outcome) -> Op[None]:
        """`end`, in the transaction of the function.

        Raises:
            LeaseLost: the call was cancelled, or is another worker's: the transaction must not commit.
        """
        if not (yield from self.end(default_client(), outcome)):
            raise errors.LeaseLost(f"{self.name} was cancelled, or its lease has ended and it is another worker's")


def error_of(outcome: Outcome) -> str:
    """Type and text of the exception in *outcome*, as a column can have them, and short."""
    clean = ": ".join(outcome.error).replace("\0", "\\x00").encode(errors="backslashreplace").decode()
    return clean if len(clean) <= _ERROR_CHARS_MAX else f"{clean[:_ERROR_CHARS_MAX]}…"


def cancelling(which: str, state: str, error: str) -> str:
    """
    What cancels calls of store $1, as `cancelled` in a WITH clause.

    The first who cancels a call ends it; its worker finds that the lease is gone. A waiting item is dropped by who takes it.
    """
    return f"""
    WITH cancelled AS (
             UPDATE pgstore.spawned_call
                SET state = {state},
                    ended_at = statement_timestamp(),
                    arguments = NULL,
                    error = '{error}'
              WHERE store_id = $1
                AND {which}
             RETURNING function, lease_id),
         released AS (
             DELETE FROM pgstore.queue_deferred AS e
              USING cancelled c
              WHERE e.store_id = $1
                AND e.id = c.lease_id
                AND e.kind IN ('l', 'd'))
    """


CANCEL: Final = Statement(
    cancelling("id = $2 AND state = 'p'", "$3", "cancelled") + "SELECT 1 FROM cancelled",
    "int8 int8 char",
)


def cancelling_topic(store_id: int) -> Topic:
    """What workers of an App wait for beside calls: that one which they run was cancelled."""
    return Topic(store_id, "cancelled", for_everybody=True)
