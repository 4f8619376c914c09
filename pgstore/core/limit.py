"""How long a call may take, for all that it waits for: a lock, a free connection, a server that has fallen silent.

A call with a bound says so once (`within`), and whatever waits on its behalf asks (`patience`). What it was about to do is then
cancelled by the server, or the server given up. Not `lock_timeout`: setting it costs a round trip, and it knows nothing of a server
that does not answer.

The bound is for what the caller would wait for. The call itself has a few seconds more, or one that may not wait for anything could
not reach the server, nor put another connection in the place of one that has broken meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Final

from pgstore.core.clock import Deadline, monotonic
from pgstore.errors import TimedOut

# The server has at least so long for each answer.
SILENCE_SECONDS: Final = 1.0
# For so long after its bound a call starts anew on other connections, or waits for answers. What it has begun then ends in five
# seconds: opening a connection takes at most two of them, which is the least that libpq can be told.
_RENEWING_SECONDS: Final = 2.5
_ENDING_SECONDS: Final = 4.5
_LEAST_SECONDS: Final = 0.1  # for an answer that is on its way

# Parameters of libpq, unless a URL has them: a peer that is gone without a word is noticed within half a minute, whether something
# was sent to it or not.
NOTICING_DEAD_PEERS: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20000,
}

_FOR_EVER_SECONDS: Final = 86400.0  # more than `poll` and libpq take

_CURRENT: Final[ContextVar[bounded_by | None]] = ContextVar("pgstore_limit", default=None)


class bounded_by:  # noqa: N801 - reads as a word of the language
    """Bound what is done in the `with` block by *deadline*. *late* makes the error of the call of the `TimedOut` that comes."""

    __slots__ = ("_before", "_late", "at")

    def __init__(self, deadline: Deadline, late: Callable[[TimedOut], Exception] | None = None) -> None:
        self.at = deadline.at  # None: there is no bound, or not any more, also for who has a copy of the context
        self._before: bounded_by | None = None
        self._late = late

    def __enter__(self) -> None:
        if self.at is not None:
            before = self._before = _CURRENT.get()
            if before is not None and before.at is not None and before.at < self.at:
                self.at = before.at
            _CURRENT.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.at is None:
            return
        self.at = None
        if _CURRENT.get() is self:  # an operation that is given up may end in another context
            _CURRENT.set(self._before)
        if kind is not None and self._late is not None and isinstance(exc, TimedOut):
            raise self._late(exc) from exc


def current() -> bounded_by | None:
    """The bound of the call, if it has one."""
    bound = _CURRENT.get()
    return None if bound is None or bound.at is None else bound


def lift() -> None:
    """
    The call has no bound any more.

    It was interrupted, and tidies up. What is more, the interrupt may have come as the `with` block began or ended, and the next
    call would have the bound of this one.
    """
    bound = _CURRENT.get()
    if bound is not None:
        bound.at = None
        _CURRENT.set(None)


def is_over() -> bool:
    """Whether the call has a bound, and it is reached."""
    return _beyond(0.0)


def is_spent() -> bool:
    """Whether the bound is passed for so long that nothing is to be tried again."""
    return _beyond(_RENEWING_SECONDS)


def wait_seconds() -> float | None:
    """How many seconds to wait for the next that the server sends; None: for ever."""
    bound = _CURRENT.get()
    if bound is None or (at := bound.at) is None:
        return None
    seconds = at - monotonic()
    if seconds >= SILENCE_SECONDS:
        return seconds if seconds < _FOR_EVER_SECONDS else None
    # Not by `min` and `max`, which take longer than all the rest.
    left = seconds + _RENEWING_SECONDS
    if left >= SILENCE_SECONDS:
        return SILENCE_SECONDS
    return left if left > _LEAST_SECONDS else _LEAST_SECONDS


def ending(seconds: float) -> float:
    """*seconds*, or less if the call has no longer to end."""
    bound = _CURRENT.get()
    if bound is None or (at := bound.at) is None:
        return seconds
    return max(_LEAST_SECONDS, min(seconds, at + _ENDING_SECONDS - monotonic()))


def _beyond(seconds: float) -> bool:
    bound = _CURRENT.get()
    return bound is not None and (at := bound.at) is not None and monotonic() >= at + seconds
