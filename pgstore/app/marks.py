"""Decorators that say something of a function, method or class below `@app.function()`, `@app.cls()` or `@pgstore.method()`.

They leave what they decorate as it is, and note on it what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from pgstore.core.checks import check_bool, check_int
from pgstore.errors import InvalidError

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE: Final = "__pgstore_marks__"


@dataclass(frozen=True)
class Marks:
    """What decorators have said."""

    web: str | None = None
    """The decorator that makes it one for the web."""
    inputs_at_once: int | None = None
    hook: str | None = None
    """Of a class: "enter" or "exit"."""
    is_first: bool = False


NO_MARKS: Final = Marks()


def marks_of(thing: Any) -> Marks:
    """What decorators have said of *thing*; of a class nothing that they have said of its bases."""
    found: Marks = getattr(thing, "__dict__", {}).get(_ATTRIBUTE, NO_MARKS)
    return found


def _mark(thing: F, decorator: str, **said: Any) -> F:
    if isinstance(thing, (staticmethod, classmethod)) or hasattr(thing, "_is_of_app"):
        raise InvalidError(f"@pgstore.{decorator} has to stand below @app.function, @app.cls or @pgstore.method")
    setattr(thing, _ATTRIBUTE, replace(marks_of(thing), **said))
    return thing


def check_parentheses(given: object, decorator: str) -> None:
    """Raise `InvalidError` if *decorator*, which takes options by keyword, was *given* anything else."""
    if given is not None:
        raise InvalidError(f"Did you forget parentheses? Suggestion: `@{decorator}`.")


# ------------------------------------------------------------------------------------------------------------- the workers


def concurrent(
    _warn_parentheses_missing: object = None, *, max_inputs: int, target_inputs: int | None = None
) -> Callable[[F], F]:
    """
    Have a worker run up to *max_inputs* calls at once: in threads, or as tasks of an event loop if the function is asynchronous.

    Goes below `@app.function()`, or below `@app.cls()`.
    """
    check_parentheses(_warn_parentheses_missing, "pgstore.concurrent(max_inputs=…)")
    check_int(max_inputs, "max_inputs", 1)
    if target_inputs is not None:
        check_int(target_inputs, "target_inputs", 1, max_inputs)
    return lambda thing: _mark(thing, "concurrent", inputs_at_once=max_inputs)


# ------------------------------------------------------------------------------------------------------------- the classes


def enter(_warn_parentheses_missing: object = None, *, snap: bool = False) -> Callable[[F], F]:
    """
    Have each worker run a method once, before its first call. In order of definition, those of base classes first.

    Args:
        snap: before the others.
    """
    check_parentheses(_warn_parentheses_missing, "pgstore.enter()")
    check_bool(snap, "snap")
    return lambda thing: _mark(thing, "enter()", hook="enter", is_first=snap)


def exit(_warn_parentheses_missing: object = None) -> Callable[[F], F]:  # noqa: A001 - Modal's name
    """Have each worker run a method when it ends, within 30 seconds; not when it is killed."""
    check_parentheses(_warn_parentheses_missing, "pgstore.exit()")
    return lambda thing: _mark(thing, "exit()", hook="exit")


# ------------------------------------------------------------------------------------------------------------ for the web


def _web(decorator: str) -> Callable[..., Callable[[F], F]]:
    def accept(*given: Any, requires_proxy_auth: bool = False, **options: Any) -> Callable[[F], F]:
        """Accepted, with all that Modal's takes: the function is registered, and not served."""
        if any(callable(each) for each in given):
            check_parentheses(given, f"pgstore.{decorator}()")
        if requires_proxy_auth:
            raise InvalidError(
                f"requires_proxy_auth of @pgstore.{decorator}: pgstore cannot keep anybody out, and serves nothing"
            )
        return lambda thing: _mark(thing, decorator, web=decorator)

    accept.__name__ = accept.__qualname__ = decorator
    return accept


asgi_app = _web("asgi_app")
wsgi_app = _web("wsgi_app")
fastapi_endpoint = _web("fastapi_endpoint")
web_endpoint = _web("web_endpoint")
web_server = _web("web_server")
