"""Methods of functions in two forms, `f.remote(…)` and `await f.remote.aio(…)`, each written for itself.

They wait for workers, not for the database, so they are no operations (`core.operation`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from pgstore.core.method import Doc, Method

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
A = TypeVar("A")
T_co = TypeVar("T_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)
Owner = TypeVar("Owner")


class BoundForms(Method, Generic[P, T_co, Q, A_co]):
    __slots__ = ("_awaited",)
    __doc__ = Doc("A method of a function: call it to block; its `aio` is for asynchronous code.")

    def __init__(self, function: Callable[..., T_co], awaited: Callable[..., A_co], owner: Any) -> None:
        self._function = function
        self._awaited = awaited
        self._owner = owner

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        given = args if self._owner is None else (self._owner, *args)
        return self._function(*given, **kwargs)  # type: ignore[no-any-return]

    @property
    def aio(self) -> Callable[Q, A_co]:
        """The same for asynchronous code."""
        return self._awaited if self._owner is None else functools.partial(self._awaited, self._owner)


class Forms(Generic[Owner, P, T_co, Q, A_co]):
    """A method of two functions."""

    def __init__(
        self, function: Callable[Concatenate[Owner, P], T_co], awaited: Callable[Concatenate[Owner, Q], A_co]
    ) -> None:
        self._function = function
        self._awaited = awaited
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, owner: None, kind: type[Owner]) -> BoundForms[..., T_co, ..., A_co]: ...

    @overload
    def __get__(self, owner: Owner, kind: type[Owner]) -> BoundForms[P, T_co, Q, A_co]: ...

    def __get__(self, owner: Owner | None, kind: type[Owner]) -> Any:
        return BoundForms(self._function, self._awaited, owner)


def two_forms(
    awaited: Callable[Concatenate[Owner, Q], A],
) -> Callable[[Callable[Concatenate[Owner, P], T]], Forms[Owner, P, T, Q, A]]:
    """Make a method of the decorated function, which blocks, and of *awaited*, for asynchronous code."""
    return lambda function: Forms(function, awaited)
