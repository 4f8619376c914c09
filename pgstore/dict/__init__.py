"""Dict: a table of values by key, shared by every client of the database.

One row of `dict_entry` an entry. Keys that Python holds equal are one key (`serializers.keys`); int and float values stand in
columns of their own, others are pickles or JSON (`dict.codec`). An entry that has expired exists for no statement.

The parts: `entries` one key, `bulk` many, `take` removing what is returned, `scan` all in order; `mutate`, `lock`, `memoize` and
`watch` what their names say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from pgstore.core.operation import Op, operation
from pgstore.dict.bulk import Bulk
from pgstore.dict.entries import DictEntry, Entries
from pgstore.dict.lock import Lock
from pgstore.dict.memoize import Memoizing
from pgstore.dict.mutate import Mutating, Mutation
from pgstore.dict.scan import Scan
from pgstore.dict.take import Taking
from pgstore.dict.watch import DictChange, Watcher, Watching
from pgstore.types import DictInfo

__all__ = ["Dict", "DictChange", "DictEntry", "Lock", "Mutation", "Watcher"]


class Dict(Memoizing, Mutating, Watching, Taking, Scan, Bulk, Entries):
    """
    A persistent mapping from keys to any picklable values.

    Keys: str, bytes, numbers, None, tuples and frozensets of keys, enums, UUIDs, dates and times, paths, frozen dataclasses.
    Values come back as copies: change one and put it again. Iteration is in the order of the keys' text. It is a `MutableMapping`,
    but that `keys`, `values` and `items` return lists and `pop` of a missing key returns None.

    >>> d = Dict.from_name("settings", create_if_missing=True)
    >>> d["limit"] = 10
    >>> d.get("limit")
    10
    """

    @operation
    def info(self) -> Op[DictInfo]:
        """Return the facts about this Dict that do not change."""
        facts = yield from self._described()
        return DictInfo(self._name, facts.created_at, facts.created_by)

    def __eq__(self, other: object) -> bool:
        """Whether the entries are those of *other*, a mapping; of the same Dict without looking."""
        if isinstance(other, Dict):
            return self.hydrate().object_id == other.hydrate().object_id or self.items() == other.items()
        if isinstance(other, Mapping):
            return dict(self.items()) == other
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a dict: equal ones would need equal hashes

    def __ior__(self, other: Any) -> Dict:
        if not isinstance(other, Iterable) and not hasattr(other, "keys"):
            return NotImplemented
        self.update(other)
        return self

    def __or__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) | dict(other)

    def __ror__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(other) | dict(self.items())


MutableMapping.register(Dict)
