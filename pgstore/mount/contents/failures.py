"""What goes wrong behind a mount: tried again for a while, then an `OSError`, and told once to each open file."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from pgstore import errors
from pgstore.core import clock, meanwhile
from pgstore.core.operation import Op

T = TypeVar("T")
FOREIGN_KEY_VIOLATION: Final = "23503"
_PAUSE_SECONDS: Final = 0.05  # before the first repetition; then twice as long each time
_PAUSE_SECONDS_MAX: Final = 2.0


def persistently(run: Callable[[Op[T]], T], make: Callable[[], Op[T]], seconds: float, closing: threading.Event) -> T:
    """
    Run the operation that *make* makes, which may be done twice, again and again for *seconds* while the server is away.

    Args:
        closing: when it is set, nothing is repeated any more.

    Raises:
        OSError: EIO: the server was away for so long; or what `os_error` makes of other errors.
    """
    give_up = clock.monotonic() + seconds
    pause = _PAUSE_SECONDS
    while True:
        try:
            return run(make())
        except (errors.StoreUnavailable, errors.SerializationConflict, errors.TimedOut) as exc:
            meanwhile.let_go()
            if clock.monotonic() + pause > give_up or closing.wait(pause):
                raise os_error(exc) from exc
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)
        except errors.Error as exc:
            raise os_error(exc) from exc


def os_error(exc: errors.Error) -> OSError:
    """What a program is told of *exc*."""
    if isinstance(exc, (errors.StoreUnavailable, errors.TimedOut)):
        return OSError(errno.EIO, str(exc))
    if isinstance(exc, (errors.NotFoundError, errors.VersionGone)):
        return OSError(errno.ESTALE, str(exc))
    if isinstance(exc, OSError):
        return OSError(exc.errno or errno.EIO, str(exc))
    return OSError(errno.EIO, str(exc))


class Failures:
    """
    Errors of what was done in the background, as fsync(2) of Linux tells of them: each open file once, by its next flush or sync.

    A file that is opened later hears only of what nobody has heard of yet.
    """

    def __init__(self) -> None:
        self._count = 0
        self._latest: OSError | None = None
        self._is_heard = True

    def note(self, exc: OSError) -> int:
        """Returns what somebody has heard of who knows of *exc*."""
        self._latest = exc
        self._count += 1
        self._is_heard = False
        return self._count

    @property
    def heard(self) -> int:
        """What a file that is opened now has heard of."""
        return self._count if self._is_heard else self._count - 1

    def is_news(self, heard: int) -> bool:
        """Whether there is an error after *heard*."""
        return self._latest is not None and heard != self._count

    def since(self, heard: int) -> tuple[int, OSError | None]:
        """What has been heard of after this call, and the latest error after *heard*."""
        if self._latest is None or heard == self._count:
            return self._count, None
        self._is_heard = True
        return self._count, OSError(self._latest.errno, self._latest.strerror)
