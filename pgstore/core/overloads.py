"""Operations whose result depends on their arguments, as type checkers are to see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pgstore.core.operation import Op, UnboundOperation, operation

F = TypeVar("F")


class operation_as(operation[Any, Any, Any], Generic[F]):  # noqa: N801 - a decorator
    """
    `operation`, for a method that checkers see as *F*: `@operation_as[Get[K, V]]`.

    Checkers do not carry overloads, nor a method's own type variables, through a decorator. *F* is a class with the overloads of
    `__call__` and `aio`. At run time there is no difference.
    """

    if TYPE_CHECKING:

        def __init__(self, function: Callable[..., Op[Any]]) -> None: ...

        @overload  # type: ignore[override]
        def __get__(self, owner: None, kind: type[Any]) -> UnboundOperation[Any, ..., Any]: ...
        @overload
        def __get__(self, owner: object, kind: type[Any]) -> F: ...
        def __get__(self, owner: Any, kind: type[Any]) -> Any: ...
