"""What the command line is given by whoever starts it: standard streams, which may be closed, and Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import Any

from pgstore.cli.codes import INTERRUPTED


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
    _handle(_end, standing)


def raise_at_ctrl_c() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as Python has it."""
    _handle(signal.default_int_handler)


def _handle(handler: Any, standing: Any = None) -> None:
    with contextlib.suppress(ValueError):  # not the main thread's to do
        if signal.getsignal(signal.SIGINT) in (_end, signal.default_int_handler, standing or _end):
            signal.signal(signal.SIGINT, handler)


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)
