"""FunctionCall: a spawned call as programs have it, by its id alone."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any, ClassVar, Final, NoReturn, Self

from pgstore import errors
from pgstore.app.calls.ending import CANCEL, CANCELLED, DONE, FAILED, KEPT, KILLED, cancelling_topic, end_topic
from pgstore.app.calls.sealing import unseal
from pgstore.app.pickles import Outcome
from pgstore.client import Client, default_client
from pgstore.client.notifications import notifying
from pgstore.client.transaction import check_nothing_written
from pgstore.client.waiting import WAITERS, until
from pgstore.core import clock
from pgstore.core.checks import check_seconds
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Op, Query, Rows, operation
from pgstore.core.statement import Statement

_ID: Final = re.compile(r"fc-([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_PENDING: Final = "p"
_TAKEN_SECONDS: Final = 5.0  # after which one who waits for a call is told that no worker has taken it
_LOG: Final = logging.getLogger("pgstore")

# The last two: whether there is nobody any more who could take it, and whether any worker may and none has.
READ: Final = Statement(
    f"""
    SELECT c.state, c.codec, c.outcome, c.ended_at < statement_timestamp() - interval '{KEPT}',
           c.session_id IS NOT NULL AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = c.session_id),
           c.session_id IS NULL AND c.attempts = 0
      FROM pgstore.spawned_call c
     WHERE c.store_id = $1
       AND c.id = $2
    """,
    "int8 int8",
    repeatable=True,
)


class FunctionCall:
    """
    A spawned call: what `Function.spawn` returns.

    It is its id, which is good in every process and may be stored. The outcome can be asked for by anybody, any number of times,
    for seven days after the end.
    """

    def __init__(self, object_id: object, client: Client | None = None) -> None:
        match = _ID.fullmatch(object_id) if isinstance(object_id, str) else None
        if match is None:
            raise errors.InvalidError(
                f"{object_id!r} is not the id of a call, such as 'fc-2a-17': take FunctionCall.object_id"
            )
        self._store_id, self._number = (int(digits, 16) for digits in match.groups())
        if max(self._store_id, self._number) >= 1 << 63:
            raise errors.InvalidError(f"{object_id!r} is not the id of a call: its numbers are too large")
        self._object_id = match[0]
        self._client = client
        self._has_told = False

    @classmethod
    def from_id(cls, function_call_id: str, client: Client | None = None) -> Self:
        """Return the call with this id. Looks nothing up."""
        return cls(function_call_id, client)

    @property
    def object_id(self) -> str:
        """The id of the call, `fc-…`."""
        return self._object_id

    @property
    def _runner(self) -> Client:
        return self._client or default_client()

    _bound: Any = None  # of an operation: there is no `using`

    # ------------------------------------------------------------------------------------------------------ its outcome

    @operation
    def get(self, timeout: float | None = None, *, index: int = 0) -> Op[Any]:
        """
        Wait until the call has ended, and return what the function returned.

        Args:
            timeout: wait at most so many seconds; 0: only look; None: for ever.
            index: of the input: a call has one.

        Raises:
            TimeoutError: it has not ended within *timeout*.
            OutputExpiredError: it ended more than seven days ago.
            NotFoundError: there is no such call: its transaction has not committed, or its App was deleted.
            RemoteError: it was cancelled, its worker died, or the run that it belonged to.
            InvalidError: the current transaction has written something. The call could not see it, and might wait for its locks.

        And whatever the function raised.
        """
        if index:
            raise errors.InvalidError(f"index is {index!r}, but a call has one input, of index 0")
        if timeout is not None:
            check_seconds(timeout, "timeout")
        check_nothing_written(self._runner, f"{self!r}.get()")
        deadline, tells_at = Deadline.after(timeout), clock.monotonic() + _TAKEN_SECONDS
        with bounded_by(deadline, self._late):
            outcome = yield from self._look(tells_at)
            if outcome is None and not deadline.passed():
                topic = end_topic(self._store_id, self._number)
                look = partial(self._look, tells_at)
                outcome = yield from until(topic, look, deadline, lambda key, slot: Query(WAITERS, key, slot))
        if outcome is None:
            raise errors.TimedOut(f"{self!r} has not ended after {timeout} s")
        return outcome.value()

    def _look(self, tells_at: float) -> Op[Outcome | None]:
        """The outcome; None: there is none yet. From *tells_at* on it says what is to be done, once, if no worker has taken it."""
        rows: Rows = yield Query(READ, self._store_id, self._number)
        if not rows:
            raise errors.NotFoundError(f"there is no call {self._object_id!r}: was its transaction rolled back?")
        state, codec, payload, is_expired, is_orphan, is_untaken = rows[0]
        if state == _PENDING:
            if is_orphan:
                raise errors.RemoteError(f"{self!r} was cancelled: the run that was to take it has ended")
            if is_untaken and clock.monotonic() >= tells_at and not self._has_told:
                self._has_told = True
                _LOG.warning("%r waits for a worker: run `pgstore worker FILE`, or spawn it within `app.run()`", self)
            return None
        if state in (CANCELLED, KILLED):
            raise errors.RemoteError(f"{self!r} was cancelled")
        if is_expired or payload is None:
            raise errors.OutputExpiredError(f"{self!r} ended more than {KEPT} ago: its outcome is not kept any more")
        assert state in (DONE, FAILED)
        keys = self._runner.settings.signing_keys
        pickled = unseal(keys, self._store_id, self._object_id, codec, payload, f"the outcome of {self!r}")
        return Outcome(pickled, is_error=state == FAILED)

    def _late(self, exc: errors.TimedOut) -> errors.TimedOut:
        return errors.TimedOut(f"{self!r}: {exc}")

    gather: ClassVar[Gather]

    # ---------------------------------------------------------------------------------------------------------- its end

    @operation
    def cancel(self, terminate_containers: bool = False) -> Op[None]:
        """
        End the call: if it waits it never runs. If it runs its worker gets SIGINT, and ten seconds later SIGKILL.

        There are no retries, and `get` raises `RemoteError`. Nothing if it has ended.

        Args:
            terminate_containers: kill its worker at once.

        Raises:
            NotFoundError: there is no such call.
        """
        state = KILLED if terminate_containers else CANCELLED
        cancel = Query(CANCEL, self._store_id, self._number, state)
        cancelled = yield from notifying(cancel, end_topic(self._store_id, self._number))
        if cancelled:
            yield from notifying(Query(READ, self._store_id, self._number), cancelling_topic(self._store_id))
        elif not (yield Query(READ, self._store_id, self._number)):
            raise errors.NotFoundError(f"there is no call {self._object_id!r}: was its transaction rolled back?")

    def num_inputs(self) -> int:
        """1: a spawned call has one input."""
        return 1

    def get_call_graph(self) -> NoReturn:
        """Not kept here."""
        raise errors.InvalidError("the graph of calls is not kept here; `pgstore calls` shows the calls of an App")

    def __reduce__(self) -> Any:
        if self._client is not None:
            raise TypeError(f"{self!r} has a client of its own, which cannot leave this process: use from_id() there")
        return FunctionCall, (self._object_id,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FunctionCall) and other._object_id == self._object_id

    def __hash__(self) -> int:
        return hash(self._object_id)

    def __repr__(self) -> str:
        return f"FunctionCall.from_id({self._object_id!r})"


class Gather:
    """`FunctionCall.gather(…)`: the results of all calls, in order. The first that failed raises its exception; others go on."""

    def __call__(self, *calls: FunctionCall) -> list[Any]:
        return [call.get() for call in calls]

    async def aio(self, *calls: FunctionCall) -> list[Any]:
        """The same, awaitable."""
        return [await call.get.aio() for call in calls]


FunctionCall.gather = Gather()
