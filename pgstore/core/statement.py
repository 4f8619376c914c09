"""Statements: SQL text with declared parameter types, sent and received in Postgres' binary formats.

A `Statement` is made once, at import, beside the operation that runs it, and prepared once per connection. Declaring the types
lets the parameters be packed here, the same way for every kind of connection, instead of being guessed from each value.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

_COUNTER = itertools.count(1)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_NULL: Final = b"\xff\xff\xff\xff"  # in place of an element's length

_pack_int4 = struct.Struct("!i").pack
_pack_int8 = struct.Struct("!q").pack
_pack_float8 = struct.Struct("!d").pack


def _pack_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _pack_timestamptz(value: datetime) -> bytes:
    delta = value - _EPOCH
    return _pack_int8((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds)


def _pack_jsonb(value: str) -> bytes:
    return b"\x01" + value.encode()


def _as_is(value: bytes) -> bytes:
    return value


def _array_packer(element_oid: int, pack: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], bytes]:
    """Pack one-dimensional arrays as `array_recv` reads them: dimensions, has nulls, type, length, lower bound, elements."""

    def pack_array(values: Sequence[Any]) -> bytes:
        length = len(values)
        if not length:
            return struct.pack("!iii", 0, 0, element_oid)
        absent = values.count(None)
        header = struct.pack("!iiiii", 1, int(absent > 0), element_oid, length, 1)
        if absent == length:  # of a table's columns most are empty in any one batch
            return header + _NULL * length
        parts = [header]
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                item = pack(value)
                parts.append(_pack_int4(len(item)))
                parts.append(item)
        return b"".join(parts)

    return pack_array


# Name in a statement's declaration: (type oid, packer). The oids are fixed in PostgreSQL's pg_type.dat.
_SCALARS: dict[str, tuple[int, int, Callable[[Any], bytes]]] = {
    # name: (oid, oid of its array, packer)
    "bool": (16, 1000, _pack_bool),
    "bytea": (17, 1001, _as_is),
    "char": (18, 1002, str.encode),
    "int8": (20, 1016, _pack_int8),
    "int4": (23, 1007, _pack_int4),
    "text": (25, 1009, str.encode),
    "float8": (701, 1022, _pack_float8),
    "timestamptz": (1184, 1185, _pack_timestamptz),
    "jsonb": (3802, 3807, _pack_jsonb),
}
TYPES: Final[dict[str, tuple[int, Callable[[Any], bytes]]]] = {
    **{name: (oid, pack) for name, (oid, _, pack) in _SCALARS.items()},
    **{f"{name}[]": (array, _array_packer(oid, pack)) for name, (oid, array, pack) in _SCALARS.items()},
}


class Statement:
    """One SQL statement, its parameters named `$1`, `$2` …

    Args:
        types: of the parameters, in order, space separated: `"int8 text bytea[]"`.
        read_only: it changes nothing and locks nothing, and what a replica knows would do for an answer.
        repeatable: running it again does no harm, so it is sent again where its connection breaks; None: if it is read-only.
        once: its text is made for one use, so no connection should remember it: it is prepared without a name.
        unset: the SQL for connections without our planner settings: joined ones, and those of poolers.
    """

    __slots__ = (
        "_packers",
        "formats",
        "name",
        "oids",
        "portable_sql",
        "read_only",
        "repeatable",
        "sql",
        "takes_arrays",
        "types",
    )

    def __init__(
        self,
        sql: str,
        types: str = "",
        *,
        read_only: bool = False,
        repeatable: bool | None = None,
        once: bool = False,
        portable: str | None = None,
    ) -> None:
        self.types: Final = tuple(types.split())
        self.sql: Final = sql.strip().encode()
        self.portable_sql: Final = self.sql if portable is None else portable.strip().encode()
        self.name: Final = b"" if once else b"pgstore_%d" % next(_COUNTER)
        self.oids: Final = [TYPES[name][0] for name in self.types]
        self.formats: Final = [1] * len(self.types)
        self.read_only: Final = read_only
        self.repeatable: Final = read_only if repeatable is None else repeatable
        self.takes_arrays: Final = any(name.endswith("[]") for name in self.types)
        self._packers: Final = [TYPES[name][1] for name in self.types]

    def pack(self, values: Sequence[Any]) -> list[bytes | None]:
        """The *values* as bytes, in the statement's order and types."""
        if len(values) != len(self._packers):
            raise ValueError(f"{self!r} takes {len(self._packers)} values, not {len(values)}")
        # The length is checked above, for strict=True would cost half as much again as the rest of this line.
        return [None if value is None else pack(value) for pack, value in zip(self._packers, values)]  # noqa: B905

    def __repr__(self) -> str:
        return f"<Statement {' '.join(self.sql.decode().split())[:80]!r}>"
