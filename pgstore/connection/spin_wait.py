"""Waiting for an answer awake, where it comes sooner than sleep would.

A server on the same machine answers a small statement in some 15 µs, and falling asleep and being woken costs the client as much
CPU as looking for the answer all that time. Where a core has nothing else to do it also costs the time that it takes to wake: on
a virtual machine with two cores a `get` takes 24 µs instead of 60.

Who serves programs that do nothing but wait for it stays awake longer, and looks meanwhile whether others ask for something
(`core.meanwhile`). Where all cores fall asleep between two steps, and each has to be woken, a mount takes half as long again.

It is of no use where the answer takes longer (another machine, a commit that waits for the disk, a busy server) or where other
threads of this process want to run, which looking keeps waiting. Both are noticed, and then the client sleeps at once.
"""

from __future__ import annotations

import os
from typing import Final

from psycopg.pq.abc import PGconn

from pgstore.core import clock, meanwhile
from pgstore.core.statement import Statement

# About what falling asleep costs: who looks in vain and then sleeps has lost no more than that.
AWAKE_SECONDS: Final = 50e-6
# More than a small commit takes. On a single core the server would have to wait for it.
ATTENDING_SECONDS: Final = 400e-6 if (os.cpu_count() or 1) > 1 else AWAKE_SECONDS
SLEEPS_MAX: Final = 1024


class SpinWait:
    """Of one connection: for which statements it pays to stay awake."""

    _latest: object = None  # the last of all in this process

    def __init__(self) -> None:
        # How often to sleep yet, and how often after the next answer that is late.
        self._sleeps: dict[Statement, tuple[int, int]] = {}

    def catch(self, pgconn: PGconn, statement: Statement) -> bool:
        """Look for the answer to *statement* for as long as it pays. Whether it is there."""
        if SpinWait._latest is not self:  # another thread may be at work
            SpinWait._latest = self
            return False
        left, next_time = self._sleeps.get(statement, (0, 1))
        if left:
            self._sleeps[statement] = left - 1, next_time
            return False
        attention = meanwhile.current()
        until = clock.monotonic() + (AWAKE_SECONDS if attention is None else ATTENDING_SECONDS)
        while True:
            pgconn.consume_input()
            if not pgconn.is_busy():
                if next_time > 1:
                    self._sleeps[statement] = 0, next_time // 2
                return True
            if attention is not None and attention.is_asked():
                attention.let_go()
                return False
            if clock.monotonic() > until:
                if statement.name:  # else it is made for one use, and there is nothing to learn
                    self._sleeps[statement] = next_time, min(2 * next_time, SLEEPS_MAX)
                return False
