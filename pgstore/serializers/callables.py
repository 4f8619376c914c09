"""What a callable is, as a key: two that could give different results have different ones, in every process.

A function is its module, name and code, its defaults, and what it closes over, as that is when it is asked about; a `partial` is
what it calls and with what; a bound method also its object. What is not of these, or holds what cannot be a key, is refused.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator
from typing import Any, Final

from pgstore.serializers.keys import key_text

_DEPTH_MAX: Final = 20  # of functions in functions
_ITSELF: Final = "itself"
_EMPTY: Final = "not set yet"


def callable_key(function: Any) -> Any:
    """The key of *function*; raises `TypeError`, which says what is in the way."""
    return _Keys().of(function, "")


class _Keys:
    def __init__(self) -> None:
        self._inside: list[Any] = []  # whose keys are being made, outermost first

    def of(self, function: Any, where: str) -> Any:
        if any(function is other for other in self._inside):
            return _ITSELF
        if len(self._inside) >= _DEPTH_MAX:
            raise TypeError(f"there are functions in functions, more than {_DEPTH_MAX} deep")
        self._inside.append(function)
        try:
            return self._of(function, where)
        finally:
            self._inside.pop()

    def _of(self, function: Any, where: str) -> Any:
        if isinstance(function, functools.partial):
            given = self._value((function.args, _sorted(function.keywords)), f"what the partial{where} gives")
            return ("partial", self.of(function.func, where), given)
        if isinstance(function, types.MethodType):
            return ("method", self.of(function.__func__, where), self._value(function.__self__, f"its object{where}"))
        if isinstance(function, types.FunctionType):
            given = (function.__defaults__ or (), _sorted(function.__kwdefaults__ or {}))
            closed = [self._value(content, f"its variable {name!r}{where}") for name, content in _closure(function)]
            code = _fingerprint(function.__code__)
            return (_name(function), code, self._value(given, f"its defaults{where}"), tuple(closed))
        if isinstance(function, types.BuiltinFunctionType) and isinstance(function.__self__, types.ModuleType):
            return _name(function)
        if isinstance(function, type) and "<" not in function.__qualname__:
            return _name(function)
        raise TypeError(f"of a {type(function).__name__}{where} nobody knows what it gives")

    def _value(self, value: Any, what: str) -> Any:
        if isinstance(value, tuple):
            return tuple(self._value(part, what) for part in value)
        if isinstance(value, types.ModuleType):
            return ("module", value.__name__)
        if callable(value):
            return self.of(value, f" in {what}")
        try:
            key_text(value)
        except TypeError as exc:
            raise TypeError(f"{what} is {value!r}, which cannot be a key") from exc
        return value


def _name(function: Any) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _sorted(named: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(named.items()))


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a function that calls itself, before its name is bound
            yield name, _EMPTY


def _fingerprint(code: types.CodeType) -> str:
    """The same in every process of this version of Python, wherever in its file the function stands."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(code):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()


def _parts(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield code.co_exceptiontable
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags)).encode()
    yield from _constant(code.co_consts)


def _constant(constant: Any) -> Iterator[bytes]:
    if isinstance(constant, types.CodeType):
        yield from _parts(constant)
    elif isinstance(constant, frozenset):  # whose order is not the same everywhere
        yield repr(sorted(map(repr, constant))).encode()
    elif isinstance(constant, tuple):
        yield f"tuple of {len(constant)}".encode()
        for part in constant:
            yield from _constant(part)
    else:
        yield f"{type(constant).__name__} {constant!r}".encode(errors="surrogatepass")
