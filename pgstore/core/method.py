"""Methods that are objects: how `help` and `inspect` see them.

A store method has two forms, `d.get(…)` and `d.get.aio(…)`, so it cannot be a plain function. The object is made anew for every
call: what is not needed for calling is looked up in the function behind it when somebody asks. `aio` is an object as well, which
frameworks take for a coroutine function: they ask before they decide whether to await what a callback returns.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)


class Annotations:
    """The annotations of a method that is an object: of the class none, of an instance those of the function behind it."""

    def __get__(self, method: Method | None, kind: type) -> dict[str, Any]:
        return {} if method is None else method._annotations()


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

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Not in the body of a class, where the name stands for what the body annotates.
        cls.__annotations__ = Annotations()  # type: ignore[assignment]

    def _annotations(self) -> dict[str, Any]:
        annotations = dict(self._function.__annotations__)
        if "return" in annotations:
            annotations["return"] = _returned(annotations["return"])
        return annotations

    def __repr__(self) -> str:
        if self._owner is None:
            return f"<{self._function.__qualname__}>"
        return f"<{self._function.__name__} of {self._owner!r}>"


class Doc:
    """The docstring of a method that is an object: on the class its own text, on an instance the function's."""

    def __init__(self, own: str) -> None:
        self._own = own

    def __get__(self, method: Method | None, kind: type) -> str | None:
        return self._own if method is None else method._function.__doc__


class AioForm(Method, Generic[P, T_co]):
    """The awaitable form of a method: a call gives a coroutine that has the method's name."""

    __slots__ = ("_start",)
    __doc__ = Doc("A store method to be awaited.")

    _start: Callable[..., Coroutine[Any, Any, T_co]]

    def __init__(
        self, function: Callable[..., Any], owner: Any, start: Callable[..., Coroutine[Any, Any, T_co]]
    ) -> None:
        self._function = function
        self._owner = owner
        self._start = start

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        coroutine: Any = self._start(*args, **kwargs)
        coroutine.__qualname__ = self._function.__qualname__  # "coroutine 'Dict.put' was never awaited"
        return coroutine  # type: ignore[no-any-return]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # What `inspect` knows functions by, and that this is one of coroutines.
            if name == "__code__":
                return _COROUTINE_CODE
            if name in ("__defaults__", "__kwdefaults__"):
                return None
            return super().__getattr__(name)


async def _coroutine() -> None: ...


_COROUTINE_CODE: Final[CodeType] = _coroutine.__code__


def _signature(function: Callable[..., Any], *, bound: bool) -> inspect.Signature:
    """How *function*'s method is called."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    return signature.replace(parameters=parameters, return_annotation=_returned(signature.return_annotation))


def _returned(annotation: object) -> str:
    """What a call returns: what its generator returns in the end, an iterator over what its pages hold, or its first form."""
    returned = str(annotation)
    if result := re.fullmatch(r"Op\[(.*)\]", returned):
        return result[1]
    if values := re.fullmatch(r"Fetch\[(.*)\]", returned):
        return f"PagedIterator[{values[1]}]"
    if forms := re.fullmatch(r"Forms\[(.*), (?:Coroutine|AsyncGenerator)\[.*\]\]", returned):
        return forms[1]
    return returned
