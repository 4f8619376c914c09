"""How long a call may take, for all that it waits for: a lock, a free connection, a server that has fallen silent.

A call with a bound says so once (`within`), and whatever waits on its behalf asks (`patience`). What it was about to do is then
cancelled by the server, or the server given up. Not `lock_timeout`: setting it costs a round trip, and it knows nothing of a server
that does not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Final

from pgstore.core.clock import Deadline, monotonic
from pgstore.errors import TimedOut

# The server has at least so long for each answer: a call that may not wait for anything has to reach it all the same.
SILENCE_SECONDS: Final = 1.0

# Parameters of libpq, unless a URL has them: a peer that is gone without a word is noticed within half a minute, whether something
# was sent to it or not.
NOTICING_DEAD_PEERS: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20000,
}

_FOR_EVER_SECONDS: Final = 86400.0  # more than `poll` and libpq take

_AT: Final[ContextVar[float | None]] = ContextVar("pgstore_limit", default=None)


class within:  # noqa: N801 - reads as a word of the language
    """Bound what is done in the `with` block by *deadline*. *late* makes the error of the call of the `TimedOut` that comes."""

    __slots__ = ("_at", "_before", "_late")

    def __init__(self, deadline: Deadline, late: Callable[[TimedOut], Exception] | None = None) -> None:
        self._at = deadline.at
        self._before: float | None = None
        self._late = late

    def __enter__(self) -> None:
        if self._at is not None:
            self._before = before = _AT.get()
            _AT.set(self._at if before is None else min(self._at, before))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._at is None:
            return
        _AT.set(self._before)  # not by a token: an operation that is given up may end in another context
        if isinstance(exc, TimedOut) and self._late is not None:
            raise self._late(exc) from exc


def is_set() -> bool:
    """Whether the call has a bound."""
    return _AT.get() is not None


def is_over() -> bool:
    """Whether the call has a bound, and it is reached."""
    at = _AT.get()
    return at is not None and monotonic() >= at


def patience() -> float | None:
    """How many seconds to wait for the next that the server sends; None: for ever."""
    at = _AT.get()
    if at is None:
        return None
    seconds = at - monotonic()
    return max(SILENCE_SECONDS, seconds) if seconds < _FOR_EVER_SECONDS else None
