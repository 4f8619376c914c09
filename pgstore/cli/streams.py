"""What the command line is given by whoever starts it: standard streams, which may be closed, Ctrl-C, and other signals to end."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from typing import Any, Final

from pgstore.cli.codes import INTERRUPTED

# Of `kill` and of service managers; of a terminal that is closed.
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_AT_ONCE_SECONDS: Final = 1.0

_is_interruptible = False
_ended_by: int | None = None
_ended_at = 0.0


def open_all() -> None:
    """
    Open the standard streams that are closed, as by `pgstore status >&-`.

    Else the first file or connection that is opened gets the number of one, and what goes there by mistake goes into it. Who
    writes to an output that was closed, or reads an input that was, gets an OSError, EBADF.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        opened = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the whole process


def print_any_text() -> None:
    """Text may have what the encoding of the locale does not: it is printed as an escape, as on stderr, and not refused."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """What is still buffered for an output that takes nothing must go nowhere, or the interpreter complains at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def end_at_ctrl_c(standing: Any = None) -> None:
    """
    From now on Ctrl-C ends the process at once.

    While modules are imported and while the interpreter ends nothing is half done, and an exception would come out of places that
    do not expect one, with a traceback. Where Ctrl-C is ignored, as after nohup, it stays so.

    Args:
        standing: a handler that does the same and may be replaced.
    """
    global _is_interruptible
    _is_interruptible = False
    _handle(_end, standing)


def raise_at_ctrl_c() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as Python has it."""
    global _is_interruptible
    _is_interruptible = True
    _handle(signal.default_int_handler)


def _handle(handler: Any, standing: Any = None) -> None:
    with contextlib.suppress(ValueError):  # not the main thread's to do
        if signal.getsignal(signal.SIGINT) in (_end, signal.default_int_handler, standing or _end):
            signal.signal(signal.SIGINT, handler)


def end_as_by_ctrl_c() -> None:
    """
    From now on SIGTERM and SIGHUP do what Ctrl-C does: files that are half written are removed, and transactions are rolled back.

    A terminal that is closed sends several at once, of which the first counts: the others must not interrupt the tidying up.
    """
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def end_at_once() -> None:
    """From now on SIGTERM and SIGHUP are what they are without `end_as_by_ctrl_c`."""
    for number in _ENDING:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def ended_by() -> int | None:
    """The exit code of a program that a signal has ended; None: there was none."""
    return None if _ended_by is None else 128 + _ended_by


def _interrupt(number: int, _: object) -> None:
    global _ended_at, _ended_by
    if _ended_by is not None and time.monotonic() - _ended_at < _AT_ONCE_SECONDS:
        return
    if not _is_interruptible:
        os._exit(128 + number)
    _ended_by, _ended_at = number, time.monotonic()
    raise KeyboardInterrupt


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)
