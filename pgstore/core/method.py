"""Methods that are objects: how `help` and `inspect` see them.

A store method has two forms, `d.get(…)` and `d.get.aio(…)`, so it cannot be a plain function. The object is made anew for every
call: what is not needed for calling is looked up in the function behind it when somebody asks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self


class Method:
    """Base of the forms; each says of itself what it is with `__doc__ = Doc(…)`."""

    __slots__ = ("_function", "_owner")

    _function: Callable[..., Any]
    _owner: Any  # the instance; None: looked up in the class

    def __get__(self, owner: object, kind: type | None = None) -> Self:
        """Bound already. That there is a `__get__` makes it a method for `inspect.isroutine`, so for `help`."""
        return self

    if not TYPE_CHECKING:  # which would take it that there is every attribute

        def __getattr__(self, name: str) -> Any:
            # Not properties: those would be found in the class as well, and taken for what the class says of itself.
            if name in ("__name__", "__qualname__"):
                return getattr(self._function, name)
            if name == "__wrapped__":
                return self._function
            if name == "__signature__":
                return _signature(self._function, bound=self._owner is not None)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        if self._owner is None:
            return f"<{self._function.__qualname__}>"
        return f"<{self._function.__name__} of {self._owner!r}>"


class Doc:
    """The docstring of a method that is an object: of the class its own, of an instance that of the function behind it."""

    def __init__(self, own: str) -> None:
        self._own = own

    def __get__(self, method: Method | None, kind: type) -> str | None:
        return self._own if method is None else method._function.__doc__


def _signature(function: Callable[..., Any], *, bound: bool) -> inspect.Signature:
    """How *function*'s method is called. It returns what the generator returns in the end, or what the pages hold."""
    signature = inspect.signature(function)
    returned = str(signature.return_annotation)
    if result := re.fullmatch(r"Op\[(.*)\]", returned):
        returned = result[1]
    elif values := re.fullmatch(r"Fetch\[(.*)\]", returned):
        returned = f"PagedIterator[{values[1]}]"
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    return signature.replace(parameters=parameters, return_annotation=returned)
