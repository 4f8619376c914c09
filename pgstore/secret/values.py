"""Environment variables with values that nobody should see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pgstore import errors


class Values(dict[str, str]):
    """Environment variables. `repr`, by which tracebacks print them too, shows their names alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<values of {', '.join(self) or 'nothing'}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise errors.SerializationError("values of secrets are not pickled")

    def require(self, keys: Iterable[str], where: str) -> Values:
        """These, if they have all *keys*; raises `InvalidError` that names those that are missing of what *where* names."""
        if missing := [key for key in keys if key not in self]:
            raise errors.InvalidError(f"{where} has no {', '.join(missing)}; it has {', '.join(self) or 'nothing'}")
        return self


def checked(given: object, where: str) -> Values:
    """
    Return the variables of *given*, a dict of str; those that are None are left out. *where* takes it, for the message.

    Raises:
        InvalidError: it is none, or has what no environment can have. The message names keys and types, and no value.
    """
    if not isinstance(given, Mapping):
        raise errors.InvalidError(f"{_EXPECTED.format(where)}, not {type(given).__name__}")
    values = Values()
    for key, value in given.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise errors.InvalidError(f"{_EXPECTED.format(where)}: {key!r} is no name of a variable")
        if value is None:
            continue
        if not isinstance(value, str):
            raise errors.InvalidError(f"{_EXPECTED.format(where)}: {key} is of type {type(value).__name__}")
        if "\0" in value:
            raise errors.InvalidError(f"{_EXPECTED.format(where)}: {key} has a zero byte, which no variable can have")
        values[key] = value
    return values


_EXPECTED = "the env_dict argument to {} has to be a dict[str, str | None]"
