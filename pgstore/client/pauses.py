"""How long one that waits sleeps before it looks by itself (`waiters` says why it does)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

_FIRST_WAIT_SECONDS: Final = 0.001
_LONGEST_WAIT_SECONDS: Final = 6.0
_LOOKS_A_SECOND: Final = 5.0  # of all who wait for a topic
_DUE_STEP_SECONDS: Final = 0.2


def waits() -> Iterator[float]:
    """How long to wait before each further look, as long as nothing is settled."""
    seconds = _FIRST_WAIT_SECONDS
    while True:
        yield seconds
        seconds = min(seconds * 1.6, _LONGEST_WAIT_SECONDS)


def pause_seconds(waiting: int) -> float:
    """
    How long one of so many who wait sleeps before it looks unasked.

    No longer if it seems to be the only one: another may come, be told, and be killed.
    """
    return min(max(1.0, waiting / _LOOKS_A_SECOND), _LONGEST_WAIT_SECONDS) * random.uniform(0.8, 1.0)


def due_pause_seconds(due_in: float, before: int) -> float:
    """How long one sleeps before it brings back what is due in *due_in*, where *before* others do so first."""
    return due_in + before * _DUE_STEP_SECONDS
