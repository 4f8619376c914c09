"""A terminal whose keys are read one by one, and which is as it was afterwards, whatever ends the program."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Keys:
    """Keys, and what wakes up whoever waits for them: `wake`, from any thread, and a change of the terminal's size."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        os.set_blocking(self._read, False)

    def wake(self, *_: object) -> None:
        """Have `wait` return."""
        with contextlib.suppress(BlockingIOError):  # it is full of the same
            os.write(self._write, b"\0")

    def wait(self, seconds: float) -> str:
        """The keys that were pressed, after at most *seconds*; none if it was woken. Ctrl-D where the terminal is gone."""
        ready, _, _ = select.select([self._terminal, self._read], [], [], seconds)
        if self._read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        if self._terminal not in ready:
            return ""
        try:
            return os.read(self._terminal, 4096).decode("utf-8", "replace") or "\x04"
        except OSError:
            return "\x04"

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._read)
        os.close(self._write)


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """
    Read keys of standard input without echo and without waiting for Enter.

    SIGTERM and SIGHUP become SystemExit, so that the terminal is put back. Ctrl-Z does nothing, for who stops us would be left with
    a terminal that shows nothing.
    """
    terminal = sys.stdin.fileno()
    found = Keys(terminal)
    before = termios.tcgetattr(terminal)
    changed = termios.tcgetattr(terminal)
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    changed[6] = [*changed[6]]
    changed[6][termios.VSUSP] = b"\0"
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    handlers = {number: signal.signal(number, _end) for number in _SIGNALS}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, found.wake)
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, changed)
        yield found
    finally:
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        found.close()


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
