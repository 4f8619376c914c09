"""What all parts of Dict share: options, codec, and how writes are logged for those who watch."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self

from pgstore import errors
from pgstore.client import Client
from pgstore.client.notifications import notifying
from pgstore.core.operation import BeforeCommit, CommitHook, Many, Op, Query, Request, Rows, Topic, atomic
from pgstore.core.statement import Statement
from pgstore.dict.arguments import check_options, check_ttl
from pgstore.dict.codec import PROJECTION_CHARS_MAX, Codec
from pgstore.store.handle import Store
from pgstore.store.registry import StoreRecord

# Types of keys and values, for type checkers: `Dict[str, int]`. What is not said is Any.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    K = TypeVar("K", default=Any)
    V = TypeVar("V", default=Any)
else:
    from typing import TypeVar

    K, V = TypeVar("K"), TypeVar("V")

T = TypeVar("T")

ALIVE: Final = "(expires_at IS NULL OR expires_at > statement_timestamp())"
VALUE: Final = "codec, value, integer_value, float_value, json_value"
VALUE_TYPES: Final = "char bytea int8 float8 jsonb"
# JSON is read as text, for the codec to load: an error of the driver in the middle of a result would name no key.
READ: Final = "codec, value, integer_value, float_value, json_value::text"
WATCHED: Final = "watch"
_JSON_NAMES: Final = "names of Dicts that were JSON"

# One write in N also deletes expired entries: often enough to keep up, too rarely to be felt.
_COLLECT_EVERY: Final = 100


class ChangeKind(enum.StrEnum):
    """What happened to an entry: dict_change.kind."""

    PUT = "p"
    DELETE = "d"
    CLEAR = "c"  # one row for all entries


class Write:
    """
    A statement that changes entries, in two forms: as it is, and logging each change for those who watch the Dict.

    *dml* is an INSERT, UPDATE or DELETE on `dict_entry` without RETURNING, its first parameter the store; *returning* are the
    columns wanted back; *kind* is what the log says of the change.
    """

    def __init__(self, dml: str, types: str, *, kind: ChangeKind, returning: str = "") -> None:
        self.plain: Final = Statement(f"{dml} RETURNING {returning}" if returning else dml, types)
        log = (
            "SELECT $1, key, revision, key_pickle FROM changed"
            if kind != ChangeKind.CLEAR
            else "SELECT $1, '', 0, NULL::bytea"
        )
        self.logged: Final = Statement(
            f"""
            WITH changed AS ({dml} RETURNING key, key_pickle, revision{f", {returning}" if returning else ""}),
                 logged AS (INSERT INTO pgstore.dict_change (store_id, kind, key, revision, key_pickle)
                            SELECT l.store_id, '{kind}', l.key, l.revision, l.key_pickle
                              FROM ({log}) AS l (store_id, key, revision, key_pickle))
            SELECT {_names(returning) or "1"} FROM changed
            """,
            types,
        )


def _names(returning: str) -> str:
    """The names of *returning*'s columns: what stands before AS is computed inside."""
    return ", ".join(column.split(" AS ")[-1].strip() for column in returning.split(", ")) if returning else ""


class DictBase(Store, Generic[K, V]):
    """Options, codec and writes."""

    _kind: ClassVar = "dict"
    _display_name: ClassVar = "Dict"
    _id_prefix: ClassVar = "di"
    _name_space: ClassVar = "dict"

    _option_defaults: ClassVar = {"serializer": "pickle", "watch": False, "json_projection": False}
    _codec: Codec | None = None
    _saw_json: bool = False  # the Dict of this name was one of serializer json

    @classmethod
    def from_name(
        cls,
        label: str | None = None,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
        serializer: str | None = None,
        ttl: float | None = None,
        watch: bool | None = None,
        json_projection: bool | None = None,
    ) -> Self:
        """
        Return a handle on the Dict of this name; it is looked up on first use.

        Args:
            label: the name, 1 to 64 of A-Z a-z 0-9 . _ - (also accepted as *name*).
            environment_name: None: the client's.
            create_if_missing: create it on first use; else using it raises `NotFoundError`.
            client: None: the default client.
            serializer: `pickle` (any value), `cloudpickle` (the same, always by cloudpickle), or `json` (JSON values in a
                jsonb column; reading runs no code, so no class of yours can be a key). As in JSON, tuples come back as lists and
                the keys of dicts as str; as in jsonb, of equal keys the last is kept, floats of 1e16 and more come back as int,
                and -0.0 within a value as 0.0. Where the Dict of this name was once of `json`, pickles are loaded only if another
                serializer is named here.
            ttl: seconds after which an entry expires unless its put says otherwise.
            watch: log changes, for `watch()`.
            json_projection: also store values as jsonb where they are JSON of at most 32 MiB, for SQL to query and index.

        The last four are fixed when the Dict is created. None leaves them as they are, or at `pickle`, no expiry, and off.

        Raises:
            InvalidError: the name cannot be one; on first use, the Dict was created with other options.
        """
        store = super().from_name(
            label, name=name, environment_name=environment_name, create_if_missing=create_if_missing, client=client
        )
        store._options = check_options(serializer=serializer, ttl=ttl, watch=watch, json_projection=json_projection)
        return store

    @classmethod
    def ephemeral(
        cls,
        client: Client | None = None,
        environment_name: str | None = None,
        *,
        serializer: str | None = None,
        ttl: float | None = None,
        watch: bool | None = None,
        json_projection: bool | None = None,
    ) -> Self:
        """
        Return a nameless Dict that lives as long as this handle; the options are those of `from_name`.

        It is deleted at the end of its `with` or `async with` block, when the handle is collected, when the interpreter exits, and
        after a crash once its process has been silent for ten minutes.
        """
        store = super().ephemeral(client, environment_name)
        store._options = check_options(serializer=serializer, ttl=ttl, watch=watch, json_projection=json_projection)
        return store

    # ---------------------------------------------------------------------------------------------------------- codec

    def _resolve_codec(self) -> Op[Codec]:
        """The store's codec, which knows its facts."""
        record = self._record
        if record is None or record.history is not self._client.history:  # type: ignore[union-attr]
            record = yield from self._resolve()
        codec = self._codec
        if codec is None or codec.record is not record:
            refusal = self._untrusted_reason(record)
            codec = self._codec = Codec(record, self._runner.settings.signing_keys, repr(self), refusal)
        return codec

    def _accept(self, record: StoreRecord) -> StoreRecord:
        record = super()._accept(record)
        self._untrusted_reason(record)
        return record

    def _untrusted_reason(self, record: StoreRecord) -> str | None:
        """
        Why the pickles of this Dict are not to be loaded; None: they may be.

        Whoever reads a JSON Dict counts on it that this runs no code. Whoever may delete it could make another of its name, that
        holds pickles. So what was once seen as JSON, by this handle, by this client, or by the database as long as it knows the
        name, stays so for those who do not name another serializer themselves.
        """
        first = self._first
        if record.options.get("serializer") == "json":
            first._saw_json = True
            if first._name is not None:
                self._json_names.add((first._environment, first._name))
            return None
        found = record.options.get("serializer", "pickle")
        asked = self._options.get("serializer")
        is_asked_for = asked is not None and asked == found  # an option may be null, by whoever wrote it
        if is_asked_for or not (asked or first._saw_json or record.was_json or self._client_saw_json):
            return None
        return (
            f"{self!r} was of serializer='json', whose values run no code, and is now of serializer={found!r}, whose values may: "
            f"pass serializer={found!r} to accept that"
        )

    @property
    def _json_names(self) -> set[tuple[str, str]]:
        names: set[tuple[str, str]] = self._runner.shared.setdefault(_JSON_NAMES, set())
        return names

    @property
    def _client_saw_json(self) -> bool:
        first = self._first
        return first._name is not None and (first._environment, first._name) in self._json_names

    def __reduce__(self) -> tuple[Any, ...]:
        reduced = super().__reduce__()
        return (*reduced, {"_saw_json": True}) if self._first._saw_json or self._client_saw_json else reduced

    # --------------------------------------------------------------------------------------------------------- writes

    def _write(self, write: Write, record: StoreRecord, *values: Any, undo: Any = None) -> Op[Any]:
        """
        Run *write* on this Dict; logged and announced if it is watched.

        Returns its rows, or where it returns none the number of entries changed.
        """
        options = record.options
        if _in_passing():
            yield from self._collect(record)
        if not options.get("watch") and options.get("serializer") != "json":
            return (yield Query(write.plain, record.id, *values, undo=undo))
        return (yield from self._guarded(record, values, self._written(write, record, *values, undo=undo)))

    def _written(self, write: Write, record: StoreRecord, *values: Any, undo: Any) -> Op[Any]:
        if not record.options.get("watch"):
            return (yield Query(write.plain, record.id, *values, undo=undo))
        query = Query(write.logged, record.id, *values, undo=undo)
        rows: Rows = yield from notifying(query, Topic(record.id, WATCHED))
        return rows if write.plain.sql.find(b" RETURNING ") >= 0 else len(rows)

    def _guarded(self, record: StoreRecord, values: Sequence[Any], writing: Op[T]) -> Op[T]:
        """*writing* of *values*, so that a transaction goes on if the server finds their JSON too large."""
        is_json = record.options.get("serializer") == "json"
        return self._in_savepoint(writing) if is_json and _may_be_too_large(values) else writing

    def _in_savepoint(self, writing: Op[T]) -> Op[T]:
        try:
            return (yield from atomic(writing))
        except errors.ValueTooLarge as exc:
            raise errors.ValueTooLarge(
                f"a value for {self!r} is too large for jsonb, in which it takes more than as text: split it"
            ) from exc

    def _collect_in_passing(self, record: StoreRecord) -> Iterable[Request]:
        """Collect, once in N writes. Before the write: if it came after, its failure could lose what the write has taken."""
        return self._collect(record) if _in_passing() else ()

    # Two collectors never wait for each other, nor for a writer: each deletes what is not locked. The cast keeps the planner from
    # using an index for the store: the rows are fetched by ctid, also by a plan that was made while there were few.
    _COLLECT: Final = Statement(
        """
        DELETE FROM pgstore.dict_entry
         WHERE store_id::numeric = $1::numeric
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.dict_entry
                                  WHERE store_id = $1
                                    AND expires_at <= statement_timestamp()
                                  LIMIT 1000
                                    FOR UPDATE SKIP LOCKED))
        """,
        "int8",
    )
    # Never waits, as above. Nothing is looked through unless the first is old: the log may hold millions.
    _FORGET_CHANGES: Final = Statement(
        """
        DELETE FROM pgstore.dict_change
         WHERE store_id::numeric = $1::numeric
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.dict_change
                                  WHERE store_id = $1
                                    AND (SELECT changed_at
                                           FROM pgstore.dict_change
                                          WHERE store_id = $1
                                          ORDER BY transaction_id, id
                                          LIMIT 1) < statement_timestamp() - interval '1 hour'
                                    AND changed_at < statement_timestamp() - interval '1 hour'
                                  ORDER BY transaction_id, id
                                  LIMIT 1000
                                    FOR UPDATE SKIP LOCKED))
        """,
        "int8",
    )

    def _collect(self, record: StoreRecord) -> Op[None]:
        """Delete what has expired; not in a transaction of the caller's, which may keep others waiting for these entries."""
        queries = [Query(self._COLLECT, record.id)]
        if record.options.get("watch"):
            queries.append(Query(self._FORGET_CHANGES, record.id))
        hooked = yield BeforeCommit(_Collecting, _Collecting)
        if hooked is None:
            yield Many(queries)
        elif not hooked.immediate:
            hooked.hook.queries[record.id] = queries

    @staticmethod
    def _ttl(ttl: float | None, options: Mapping[str, Any]) -> float | None:
        """The seconds until an entry expires, None for never."""
        if ttl is None:
            default: float | None = options.get("ttl")
            return default
        checked = check_ttl(ttl)
        return None if checked == float("inf") else checked


class _Collecting(CommitHook):
    """What a transaction collects, in one go with its commit: until then nobody could put an entry that it deleted."""

    def __init__(self) -> None:
        self.queries: dict[int, list[Query]] = {}

    def with_commit(self) -> list[Query]:
        return [query for store_id in sorted(self.queries) for query in self.queries[store_id]]


def _may_be_too_large(values: Sequence[Any]) -> bool:
    """Whether a JSON text among *values*, or in columns of them, may be too large as jsonb, which is known only when it is made."""
    # Plain loops: each write of JSON comes here.
    for value in values:
        if type(value) is str:
            if len(value) > PROJECTION_CHARS_MAX:
                return True
        elif type(value) is tuple:
            for text in value:
                if type(text) is str and len(text) > PROJECTION_CHARS_MAX:
                    return True
    return False


def _in_passing() -> bool:
    return random.random() * _COLLECT_EVERY < 1
