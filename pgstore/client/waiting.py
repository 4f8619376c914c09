"""Waiting until something can be had: an attempt, repeated whenever somebody tells that it may succeed now.

Locks of Dicts and puts into full Queues wait so. `queue.take` has a loop of its own, which looks before it tries to take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pgstore.client.pauses import due_pause_seconds, pause_seconds, waits
from pgstore.core.clock import Deadline
from pgstore.core.operation import Listen, Op, Query, Topic, Wait
from pgstore.core.statement import Statement

T = TypeVar("T")

# A look for `until`, where nothing becomes due by itself.
WAITERS: Final = Statement(
    "SELECT NULL::double precision, w.* FROM pgstore.waiters($1, $2, true) AS w", "int4 int4", repeatable=True
)


def until(
    topic: Topic,
    attempt: Callable[[], Op[T | None]],
    deadline: Deadline,
    look: Callable[[int, int | None], Query],
    *,
    for_everybody: bool = False,
) -> Op[T | None]:
    """
    Repeat *attempt*, whenever somebody tells of *topic* and from time to time, until it gives something. None: the deadline passed.

    Args:
        look: makes a query of the topic's key and the waiter's slot. It gives one row: the seconds until *attempt* should be tried
            in any case, or NULL; how many wait; how many of them have a lower slot than this one.
        for_everybody: one thing may not be enough for this one, so what is told to it must be told to others as well.
    """
    pauses = waits()
    listen = Listen(topic, for_everybody=for_everybody)
    ticket: Any = yield listen
    try:
        while True:
            was_told = ticket.is_told  # of what it is told while it tries it may have had something else
            result = yield from attempt()
            is_chained = was_told and ticket.spend()
            if result is not None or deadline.passed():
                break
            if was_told:  # another was faster
                ticket.close()
                ticket = yield listen
                continue
            ((due_in, waiting, before),) = yield look(ticket.key, ticket.slot)
            seconds = pause_seconds(ticket.waiting(waiting))
            if not ticket.is_settled:
                seconds = min(seconds, next(pauses))
            if due_in is not None:
                seconds = min(seconds, due_pause_seconds(max(due_in, 0.001), before))
            yield Wait(ticket, min(seconds, deadline.remaining()))
        if result is not None and is_chained:
            ticket.tell_another()
        return result
    finally:
        ticket.close()
