"""Methods in two forms, `f.remote(…)` and `await f.remote.aio(…)`, of one body that says how each is done.

They wait for workers, not for the database, so they are no operations (`core.operation`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from pgstore.core.method import AioForm, Doc, Method

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
T_co = TypeVar("T_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)
Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Forms(Generic[T_co, A_co]):
    """What the body of a method returns: what is done by a call that blocks, and by one of `aio`."""

    blocking: Callable[[], T_co]
    aio: Callable[[], A_co]


class BoundForms(Method, Generic[P, T_co, A_co]):
    __slots__ = ()
    __doc__ = Doc("A method of a function: call it to block; its `aio` is for asynchronous code.")

    def __init__(self, function: Callable[..., Forms[T_co, A_co]], owner: Any) -> None:
        self._function = function
        self._owner = owner

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        return self._forms(args, kwargs).blocking()

    @property
    def aio(self) -> Callable[P, A_co]:
        """The same for asynchronous code; where it gives a coroutine, frameworks see that."""
        is_awaited = ", Coroutine[" in str(self._function.__annotations__["return"])
        return AioForm(self._function, self._owner, self._start) if is_awaited else self._start  # type: ignore[return-value]

    def _start(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._forms(args, kwargs).aio()

    def _forms(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forms[T_co, A_co]:
        given = args if self._owner is None else (self._owner, *args)
        return self._function(*given, **kwargs)  # type: ignore[no-any-return]


class TwoForms(Generic[Owner, P, T_co, A_co]):
    """A method that has both."""

    def __init__(self, function: Callable[Concatenate[Owner, P], Forms[T_co, A_co]]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, owner: None, kind: type[Owner]) -> BoundForms[..., T_co, A_co]: ...

    @overload
    def __get__(self, owner: Owner, kind: type[Owner]) -> BoundForms[P, T_co, A_co]: ...

    def __get__(self, owner: Owner | None, kind: type[Owner]) -> Any:
        return BoundForms(self.__wrapped__, owner)


def two_forms(function: Callable[Concatenate[Owner, P], Forms[T, A]]) -> TwoForms[Owner, P, T, A]:
    """Make a method of *function*."""
    return TwoForms(function)
