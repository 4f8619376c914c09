"""How arguments, results and exceptions travel between a program and its workers, and what an input comes to (`Outcome`).

A worker has the `__main__` of a program that is a script, so what is defined there goes by reference: with cloudpickle a class of
it would arrive as another one, and `except MyError` would not match. What plain pickle cannot do is left to `serializers`.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, TypeAlias

from pgstore import errors
from pgstore.app.spec import Program
from pgstore.serializers.values import NOT_LOADED, loads
from pgstore.serializers.values import dumps as dumps_by_value

__all__ = ["Outcome", "dumps", "dumps_by_value", "failed", "failed_here", "loads", "share_main"]

_PROTOCOL: Final = 5
# An exception that is pickled, if it can be, then those of its cause and its context, and whether the context is hidden.
_Chain: TypeAlias = "tuple[bytes | None, _Chain, _Chain, bool] | None"
_CHAIN_MAX: Final = 8  # exceptions; a chain may be a circle


def dumps(value: Any, what: str, program: Program) -> bytes:
    """
    Pickle *value*, which errors call *what*, between the caller of *program* and its workers.

    Raises:
        SerializationError: it cannot be pickled.
    """
    if program.kind == "script":
        with contextlib.suppress(Exception):  # `dumps_by_value` does without, or says what is wrong
            return pickle.dumps(value, _PROTOCOL)
    return dumps_by_value(value, what)


def share_main(program: Program) -> None:
    """In the caller of a script: have `__main__` be known by the name that it has in workers, too."""
    if program.kind == "script":
        sys.modules.setdefault(program.name, sys.modules["__main__"])


# --------------------------------------------------------------------------------------------------------------- outcomes


@dataclass(frozen=True)
class Outcome:
    """How an input has ended: the pickled result, or what `failed` has made of an exception."""

    payload: bytes = field(repr=False)
    is_error: bool = False

    def value(self) -> Any:
        """
        Return the result.

        Raises:
            BaseException: what the function has raised, with a note of where.
            ExecutionError: that, where it cannot be pickled or loaded.
        """
        if not self.is_error:
            return loads(self.payload, "the result")
        chain, kind, text, shown = pickle.loads(self.payload)
        exc = _unchained(chain)
        if exc is None:
            raise errors.ExecutionError(f"{kind}: {text} (which cannot be brought here as it is)\n\n{shown}")
        if shown:
            with contextlib.suppress(Exception):  # some have no room for notes
                exc.add_note(f"In the worker:\n{shown}")
        raise exc

    @property
    def error(self) -> tuple[str, str]:
        """Name of the type and text of the exception."""
        _, kind, text, _ = pickle.loads(self.payload)
        return kind, text


def failed(exc: BaseException, program: Program, name: str, trace: TracebackType | None) -> Outcome:
    """
    The outcome where *name* has raised *exc*. What is no `Exception` would end the caller, and is a `RemoteError`.

    Args:
        trace: of *exc*, as far as the program is concerned.
    """
    kind, text = type(exc).__qualname__, _text(exc)
    shown = "".join(traceback.format_exception(type(exc), exc, trace)).rstrip()
    if not isinstance(exc, Exception):
        exc = errors.RemoteError(f"{name} has ended with {kind}{text and ': '}{text}")
    return _failed(exc, program, kind, text, shown)


def failed_here(exc: BaseException) -> Outcome:
    """The outcome where *exc* was raised by what runs workers, and has no note of a worker."""
    return _failed(exc, Program("none", "", None), type(exc).__qualname__, _text(exc), "")


def _failed(exc: BaseException, program: Program, kind: str, text: str, shown: str) -> Outcome:
    return Outcome(pickle.dumps((_chain(exc, program, _CHAIN_MAX), kind, text, shown), _PROTOCOL), is_error=True)


def _chain(exc: BaseException | None, program: Program, depth: int) -> _Chain:
    if exc is None or not depth:
        return None
    cause = _chain(exc.__cause__, program, depth - 1)
    context = None if exc.__context__ is exc.__cause__ else _chain(exc.__context__, program, depth - 1)
    return _pickled(exc, program), cause, context, exc.__suppress_context__


def _pickled(exc: BaseException, program: Program) -> bytes | None:
    """*exc*, if it can be loaded again: many take other arguments than those that they give to their base."""
    try:
        data = dumps(exc, "an exception", program)
        return data if type(pickle.loads(data)) is type(exc) else None
    except NOT_LOADED:
        return None


def _unchained(chain: _Chain) -> BaseException | None:
    if chain is None:
        return None
    data, cause, context, is_hidden = chain
    if data is None:
        return None
    try:
        exc = pickle.loads(data)
    except NOT_LOADED:
        return None
    if not isinstance(exc, BaseException):
        return None
    exc.__cause__ = _unchained(cause)
    exc.__context__ = exc.__cause__ if context is None else _unchained(context)
    exc.__suppress_context__ = is_hidden
    return exc


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - a foreign __str__ may raise anything
        return "<no text>"
