"""Waiting until something can be had: an attempt, repeated whenever somebody tells that it may succeed now.

Locks of Dicts and puts into full Queues wait so. `queue.take` has a loop of its own, which looks before it tries to take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pgstore.client.waiters import due_pause_seconds, pause_seconds, waits
from pgstore.core.clock import Deadline
from pgstore.core.operation import Listen, Op, Query, Topic, Wait
from pgstore.core.statement import Statement

T = TypeVar("T")

# A look for `until`, where nothing becomes due by itself.
WAITERS: Final = Statement(
    "SELECT NULL::double precision, w.* FROM pgstore.waiters($1, $2, true) AS w", "int4 int4", repeatable=True
)


def until(
    topic: Topic, attempt: Callable[[], Op[T | None]], deadline: Deadline, look: Callable[[int, int | None], Query]
) -> Op[T | None]:
    """
    Repeat *attempt*, whenever somebody tells of *topic* and from time to time, until it gives something. None: the deadline passed.

    Args:
        look: makes a query of the topic's key and the waiter's slot. It gives one row: the seconds until *attempt* should be tried
            in any case, or NULL; how many wait; how many of them have a lower slot than this one.
    """
    pauses = waits()
    ticket: Any = yield Listen(topic)
    try:
        while (result := (yield from attempt())) is None and not deadline.passed():
            if ticket.is_told:  # another was faster
                ticket.spend()
                ticket.close()
                ticket = yield Listen(topic)
                continue
            ((due_in, waiting, before),) = yield look(ticket.key, ticket.slot)
            seconds = pause_seconds(waiting) if ticket.is_settled else next(pauses)
            if due_in is not None:
                seconds = min(seconds, due_pause_seconds(max(due_in, 0.001), before))
            yield Wait(ticket, min(seconds, deadline.remaining()))
        if result is not None and ticket.spend():
            ticket.tell_another()
        return result
    finally:
        ticket.close()
