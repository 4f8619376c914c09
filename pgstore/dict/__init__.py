"""Dict: a table of values by key, shared by every client of the database.

One row of `dict_entry` an entry. Keys that Python holds equal are one key (`serializers.keys`); int and float values stand in
columns of their own, others are pickles or JSON (`dict.codec`). An entry that has expired exists for no statement.

The parts: `entries` one key, `bulk` many, `take` removing what is returned, `scan` all in order; `mutate`, `lock`, `memoize` and
`watch` what their names say. `base` has the options and how writes are logged, `arguments` the checks of arguments.

Where a change belongs:

- An option of the Dict, fixed when it is made (`watch`), is a keyword of `from_name` and `ephemeral` in `base`, checked by
  `arguments.check_options`. What it is where it was not given stands in `_option_defaults`.
- A statement that changes entries is a `base.Write`, which also logs the change where the Dict is watched.
- A statement that reads entries says `base.ALIVE`, so that it finds none that has expired.
- A new type of keys belongs in `serializers.keys`, a new form of values in `serializers.codecs` and `codec`.
- A new table is entered in `pgstore.store_delete` (see `pgstore.store`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pgstore.core.operation import Op, operation
from pgstore.dict.base import K, V
from pgstore.dict.bulk import Bulk
from pgstore.dict.entries import DictEntry, Entries
from pgstore.dict.lock import Lock
from pgstore.dict.memoize import Memoizing
from pgstore.dict.mutate import Mutating, Mutation
from pgstore.dict.scan import Scan
from pgstore.dict.take import Taking
from pgstore.dict.watch import DictChange, Watcher, Watching
from pgstore.types import DictInfo

if TYPE_CHECKING:
    from pgstore.store.objects import Objects

__all__ = ["Dict", "DictChange", "DictEntry", "Lock", "Mutation", "Watcher"]


class Dict(Memoizing[K, V], Mutating[K, V], Watching[K, V], Taking[K, V], Scan[K, V], Bulk[K, V], Entries[K, V]):
    """
    A persistent mapping from keys to any picklable values, shared by every client of the database.

    >>> d = Dict.from_name("settings", create_if_missing=True)
    >>> d["limit"] = 10
    >>> d.get("limit")
    10
    >>> d.increment("limit", 5)
    15

    It is a `MutableMapping` (`in`, `len`, `for`, `update`, `|=`, `setdefault`, `popitem`, `==`), but that `keys`, `values` and
    `items` return lists, `pop` of a missing key returns None, and `bool(d)` asks whether there is an entry. For type checkers
    `Dict[str, int]` says what it holds: `d: Dict[str, int] = Dict.from_name("settings")`.

    **Keys.** Equal keys are one key, as in a Python dict (`1 == 1.0 == True`): str, bytes, numbers, None, tuples and frozensets
    of keys, enums, UUIDs, dates and times, paths, frozen dataclasses. Any other is a `TypeError`.

    **Values.** Pickles, by cloudpickle where they need it; int and float are columns of their own, which SQL can read. With
    `serializer="json"` they are JSON in a jsonb column, which gives floats of 1e16 and more back as ints. Values come back as
    copies: change one and put it again.

    **Order.** By the text of the keys, so str keys by code point. `iterate_items(prefix=, start=, end=, reverse=, limit=)`, and
    the same of keys and values, read page by page, in little memory, and see changes that are made meanwhile; in a transaction
    they see one snapshot. Writes of one key follow each other, and each waits for the one before to commit.

    **Atomicity.** Each call is done wholly or not at all, also `update`, `clear` and `pop_many`. `d[k] = d[k] + 1` is two
    calls, and concurrent updates may be lost. One step are `increment(k, by)`, `put(k, v, skip_if_exists=True)`,
    `put(k, v, if_revision=d.get_entry(k).revision)`, `compare_and_set(k, old, new)`, `setdefault`, `pop_many`, and
    `with d.mutate(k, []) as entry: entry.value.append(x)`, which holds the entry locked and is a transaction. In
    `pgstore.transaction()` any number of calls are one.

    **Durability.** A call that writes returns when the server has it on disk.

    **What a crash or an interrupt leaves.** A transaction that did not commit leaves nothing. `pop`, `popitem` and `pop_many`
    load a value before they remove it; what Ctrl-C or a cancelled task has stopped on its way is put back as it was. If the
    connection breaks while a write is under way it may have been done: the call raises `OutcomeUnknown`. A killed holder of a
    `lock` loses it when the lease ends.

    **Expiry.** `put(k, v, ttl=60)`, `from_name(…, ttl=60)` for all puts that say nothing, `touch(k, ttl)`. An expired entry is
    gone for everyone at the same moment, by the server's clock, in SQL as well. Its space is used again by later writes (not by
    those in transactions that you only joined).

    **Watching.** `for change in d.watch()` on a Dict made with `watch=True`: every committed change, in the order of the
    transactions, kept for an hour. A transaction that is left open anywhere in the database holds watchers back.

    **Locks.** `with d.lock(k, timeout=10):` has one holder among all processes. It is a lease that is renewed while the block
    runs; a killed holder's ends after `ttl` (30) seconds. It is not reentrant. `@d.memoize(ttl=3600)` computes once, however
    many ask.

    **Limits.** A value to 256 MiB, integers in `increment` to 64 bits; any number of entries. `len` counts them.

    **Errors.** `KeyError` from `d[k]` and `del d[k]`. `SerializationError` if a value cannot be stored, `DeserializationError`
    if this process cannot load one: it stays as it is, seen by everyone all the time, its bytes are in the error's `raw`, and
    `del` removes it. `NotFoundError` if the Dict does not exist, or does not any more. Refusals (a missing key, a sum beyond 64
    bits, a value that is too large or no JSON) leave a transaction as it was; the few that only the server finds say that it
    can only be rolled back.

    **Trust.** Whoever may write pickles to a Dict may run code in those who read it. Two ways out: all clients have signing
    keys (see `Client`), or the Dict is made with `serializer="json"`, where nothing that is read runs code, so that classes of
    your own cannot be keys. Readers who count on it name `serializer="json"` themselves: that holds whatever is in the
    database. For those who do not, a Dict whose name was that of a JSON Dict, for their handle, their client or the database,
    loads no pickles until a reader names `serializer="pickle"`. The database's memory, the table `pgstore.dict_json_name`, can
    be undone by its owner, and by no `pgstore_writer`. Numbers and JSON need no signature.
    """

    if TYPE_CHECKING:
        objects: ClassVar[Objects[Dict[Any, Any]]]

    @operation
    def info(self) -> Op[DictInfo]:
        """Return the facts about this Dict that do not change."""
        record = yield from self._described()
        return DictInfo(self._name, record.created_at, record.created_by)

    def __eq__(self, other: object) -> bool:
        """Whether the entries are those of *other*, a mapping; of the same Dict without looking."""
        if isinstance(other, Dict):
            return self.hydrate().object_id == other.hydrate().object_id or self.items() == other.items()
        if isinstance(other, Mapping):
            return dict(self.items()) == other
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a dict: equal ones would need equal hashes

    def __ior__(self, other: Any) -> Self:
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
