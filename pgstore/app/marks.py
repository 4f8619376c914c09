"""Decorators that say something of a function, method or class below `@app.function()`, `@app.cls()` or `@pgstore.method()`.

They leave what they decorate as it is, and note on it what they say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from pgstore.core.checks import check_bool, check_int
from pgstore.errors import InvalidError

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE: Final = "__pgstore_marks__"
BATCH_SIZE_MAX: Final = 1000
BATCH_WAIT_MS_MAX: Final = 10 * 60 * 1000


@dataclass(frozen=True)
class Marks:
    """What decorators have said."""

    web: str | None = None
    """The decorator that makes it one for the web."""
    inputs_at_once: int | None = None
    is_batched: bool = False
    hook: str | None = None
    """Of a class: "enter" or "exit"."""
    is_first: bool = False

    def added_to(self, options: dict[str, Any]) -> dict[str, Any]:
        """*options*, and what is said here."""
        if self.inputs_at_once is not None:
            options["inputs_at_once"] = self.inputs_at_once
        return options


NO_MARKS: Final = Marks()


def marks_of(thing: Any) -> Marks:
    """What decorators have said of *thing*; of a class nothing that they have said of its bases."""
    found: Marks = getattr(thing, "__dict__", {}).get(_ATTRIBUTE, NO_MARKS)
    return found


def served(function: Callable[..., Any], marks: Marks) -> Callable[..., Any]:
    """What a worker runs for a call of *function*."""
    if not marks.is_batched:
        return function
    if inspect.iscoroutinefunction(inspect.unwrap(getattr(function, "func", function))):

        async def batch_async(*args: Any, **kwargs: Any) -> Any:
            return _only(await function(*([each] for each in args), **{name: [each] for name, each in kwargs.items()}))

        return batch_async

    def batch(*args: Any, **kwargs: Any) -> Any:
        return _only(function(*([each] for each in args), **{name: [each] for name, each in kwargs.items()}))

    return batch


def _only(results: Any) -> Any:
    if not isinstance(results, list) or len(results) != 1:
        raise InvalidError(
            f"a batched function returns a list with a result for each element, here of one, and not {results!r}"
        )
    return results[0]


def _mark(thing: F, decorator: str, **said: Any) -> F:
    if isinstance(thing, (staticmethod, classmethod)) or hasattr(thing, "_is_of_app"):
        raise InvalidError(f"@pgstore.{decorator} has to stand below @app.function, @app.cls or @pgstore.method")
    setattr(thing, _ATTRIBUTE, replace(marks_of(thing), **said))
    return thing


def _check_parentheses(given: object, decorator: str) -> None:
    if given is not None:
        raise InvalidError(f"Did you forget parentheses? Suggestion: `@pgstore.{decorator}`.")


# ------------------------------------------------------------------------------------------------------------- the workers


def concurrent(
    _warn_parentheses_missing: object = None, *, max_inputs: int, target_inputs: int | None = None
) -> Callable[[F], F]:
    """
    Have a worker run up to *max_inputs* calls at once: in threads, or as tasks of an event loop if the function is asynchronous.

    Goes below `@app.function()`, or below `@app.cls()`.
    """
    _check_parentheses(_warn_parentheses_missing, "concurrent(max_inputs=…)")
    check_int(max_inputs, "max_inputs", 1)
    if target_inputs is not None:
        check_int(target_inputs, "target_inputs", 1, max_inputs)
    return lambda thing: _mark(thing, "concurrent", inputs_at_once=max_inputs)


def batched(_warn_parentheses_missing: object = None, *, max_batch_size: int, wait_ms: int) -> Callable[[F], F]:
    """
    Have a function that takes lists, and returns a list, be called with single elements.

    Here each call is a batch of its own: there is nothing to wait for, as no machine has to be woken.
    """
    _check_parentheses(_warn_parentheses_missing, "batched(max_batch_size=…, wait_ms=…)")
    check_int(max_batch_size, "max_batch_size", 1, BATCH_SIZE_MAX)
    check_int(wait_ms, "wait_ms", 0, BATCH_WAIT_MS_MAX)
    return lambda thing: _mark(thing, "batched", is_batched=True)


# ------------------------------------------------------------------------------------------------------------- the classes


def enter(_warn_parentheses_missing: object = None, *, snap: bool = False) -> Callable[[F], F]:
    """
    Have each worker run a method once, before its first call. In order of definition, those of base classes first.

    Args:
        snap: before the others.
    """
    _check_parentheses(_warn_parentheses_missing, "enter()")
    check_bool(snap, "snap")
    return lambda thing: _mark(thing, "enter()", hook="enter", is_first=snap)


def exit(_warn_parentheses_missing: object = None) -> Callable[[F], F]:  # noqa: A001 - Modal's name
    """Have each worker run a method when it ends, within 30 seconds; not when it is killed."""
    _check_parentheses(_warn_parentheses_missing, "exit()")
    return lambda thing: _mark(thing, "exit()", hook="exit")


# ------------------------------------------------------------------------------------------------------------ for the web


def _web(decorator: str, label: object, requires_proxy_auth: bool) -> Callable[[F], F]:
    if label is not None and not isinstance(label, str):
        raise InvalidError(f"Did you forget parentheses? Suggestion: `@pgstore.{decorator}()`.")
    if requires_proxy_auth:
        raise InvalidError(
            f"requires_proxy_auth of @pgstore.{decorator}: pgstore cannot keep anybody out, and serves nothing"
        )
    return lambda thing: _mark(thing, decorator, web=decorator)


def asgi_app(
    label: str | None = None, *, custom_domains: Iterable[str] | None = None, requires_proxy_auth: bool = False
) -> Callable[[F], F]:
    """Accepted: the function is registered, and not served."""
    return _web("asgi_app", label, requires_proxy_auth)


def wsgi_app(
    label: str | None = None, *, custom_domains: Iterable[str] | None = None, requires_proxy_auth: bool = False
) -> Callable[[F], F]:
    """Accepted: the function is registered, and not served."""
    return _web("wsgi_app", label, requires_proxy_auth)


def fastapi_endpoint(
    _warn_parentheses_missing: object = None,
    *,
    method: str = "GET",
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    docs: bool = False,
    requires_proxy_auth: bool = False,
) -> Callable[[F], F]:
    """Accepted: the function is registered, and not served."""
    _check_parentheses(_warn_parentheses_missing, "fastapi_endpoint()")
    return _web("fastapi_endpoint", label, requires_proxy_auth)


def web_endpoint(
    _warn_parentheses_missing: object = None,
    *,
    method: str = "GET",
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    docs: bool = False,
    requires_proxy_auth: bool = False,
) -> Callable[[F], F]:
    """Accepted: the function is registered, and not served."""
    _check_parentheses(_warn_parentheses_missing, "web_endpoint()")
    return _web("web_endpoint", label, requires_proxy_auth)


def web_server(
    port: int,
    *,
    startup_timeout: float = 5.0,
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    requires_proxy_auth: bool = False,
) -> Callable[[F], F]:
    """Accepted: the function is registered, and not served."""
    check_int(port, "the port of web_server", 1, 65535)
    return _web("web_server", label, requires_proxy_auth)
