"""How arguments, results and exceptions travel between a program and its workers.

A worker has the `__main__` of a program that is a script, so what is defined there goes by reference: with cloudpickle a class of
it would arrive as another one, and `except MyError` would not match. What plain pickle cannot do is left to `serializers`.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from types import TracebackType
from typing import Any, Final, TypeAlias

from pgstore import errors
from pgstore.app.program import Program
from pgstore.serializers.values import NOT_LOADED, loads
from pgstore.serializers.values import dumps as dumps_by_value

__all__ = ["dumps", "dumps_by_value", "failure", "failure_here", "loads", "rebuilt", "share_main"]

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


# ------------------------------------------------------------------------------------------------------------- exceptions


def failure(exc: BaseException, program: Program, name: str, trace: TracebackType | None) -> bytes:
    """
    *exc*, which *name* has raised, as the payload of an `Outcome`.

    What is no `Exception` would end the caller, and is a `RemoteError`.

    Args:
        trace: of *exc*, as far as the program is concerned.
    """
    kind, text = type(exc).__qualname__, _text(exc)
    shown = "".join(traceback.format_exception(type(exc), exc, trace)).rstrip()
    if not isinstance(exc, Exception):
        exc = errors.RemoteError(f"{name} has ended with {kind}{text and ': '}{text}")
    return pickle.dumps((_chain(exc, program, _CHAIN_MAX), kind, text, shown), _PROTOCOL)


def failure_here(exc: BaseException) -> bytes:
    """*exc*, which was not raised in a worker, as the payload of an `Outcome`; it is rebuilt without a note."""
    program = Program("none", "", None)
    return pickle.dumps((_chain(exc, program, _CHAIN_MAX), type(exc).__qualname__, _text(exc), ""), _PROTOCOL)


def rebuilt(payload: bytes) -> BaseException:
    """The exception of which `failure` has made *payload*, with a note that has the traceback of the worker."""
    chain, kind, text, shown = pickle.loads(payload)
    exc = _unchained(chain)
    if exc is None:
        return errors.ExecutionError(f"{kind}: {text} (which cannot be brought here as it is)\n\n{shown}")
    if shown:
        with contextlib.suppress(Exception):  # some have no room for notes
            exc.add_note(f"In the worker:\n{shown}")
    return exc


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
