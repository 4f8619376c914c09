"""Failures as plain values: how an error gets from one process to another, or gets a longer message."""

from __future__ import annotations

import builtins
import errno as numbers
from typing import Any, TypeAlias

from pgstore import errors

PlainError: TypeAlias = list[Any]
"""Class, message, errno, filename, SQLSTATE; None where there is none."""


def as_plain(exc: BaseException) -> PlainError:
    """*exc* as plain values; of an `OSError` that a program would be told of, the error that it was made of."""
    if not isinstance(exc, errors.Error) and isinstance(exc, OSError) and isinstance(exc.__cause__, errors.Error):
        exc = exc.__cause__
    filename = getattr(exc, "filename", None)
    if isinstance(filename, bytes):
        filename = filename.decode(errors="surrogateescape")
    message = str(exc) or type(exc).__name__
    if not isinstance(exc, (errors.Error, OSError)):
        message = f"{type(exc).__name__}: {message}"
    elif not isinstance(exc, errors.Error) and filename is None and exc.strerror:
        message = exc.strerror  # without its number
    return [type(exc).__name__, message, getattr(exc, "errno", None), filename, getattr(exc, "sqlstate", None)]


def message_of(exc: BaseException) -> str:
    """What *exc* says, as whoever has called is told."""
    return str(as_plain(exc)[1])


def rebuilt(failure: PlainError) -> Exception:
    """The error of *failure*; of a class that is neither pgstore's nor an `OSError`: an `Error` with its text."""
    name, message, errno, filename, sqlstate = failure
    ours: Any = getattr(errors, str(name), None)
    if isinstance(ours, type) and issubclass(ours, errors.Error):
        if issubclass(ours, errors.StatementFailed):
            return errors.StatementFailed(message, sqlstate)
        options: dict[str, Any] = {"filename": filename, "errno": errno} if issubclass(ours, OSError) else {}
        return ours(message, **options)
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, OSError):
        return errors.FileFailed(message, filename, errno=errno or numbers.EIO)
    return errors.Error(message)


def extended(exc: Exception, text: str) -> Exception:
    """An error of the same class, to be raised from *exc*, that says *text* too."""
    failure = as_plain(exc)
    failure[1] = f"{failure[1]}; {text}"
    return rebuilt(failure)
