"""Handles: what Dict, Queue, Volume and NetworkFileSystem have in common.

A handle names a store and finds it on first use; making one does no I/O. The registry is the table `store`; its statements stand
in `registry`. What a class adds is its kind, its creation and its operations.

A handle keeps the record that it has found for one history of the database (`client.history`), and looks for the store again in
another. Handles that are cloned from a handle (`_clone`) ask the first one, so all of them lead to the same store, whichever is
used first.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, NoReturn, Self, TypeVar, cast

from pgstore import errors
from pgstore.client import Client, default_client
from pgstore.client.history import check_history
from pgstore.client.transaction import Transaction
from pgstore.client.undo import on_rollback
from pgstore.core.names import KIND_NAMES, check_name
from pgstore.core.operation import Autonomous, BeforeCommit, Op, Query, Rows, StaleHandle, atomic
from pgstore.store.deletion import EphemeralStores, delete_store
from pgstore.store.objects import Hydrate, ObjectsOfClass
from pgstore.store.registry import (
    CREATE,
    CREATE_EPHEMERAL,
    DRAW_ID,
    EXISTS,
    FIND,
    FIND_ID,
    ResolvedStores,
    StoreRecord,
    record_in,
)

S = TypeVar("S", bound="Store")

_draw_lock = threading.RLock()  # held briefly; reentrant: a finaliser or signal handler may come in


def _after_fork_in_child() -> None:
    global _draw_lock
    _draw_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class Store:
    """Base of Dict, Queue, Volume and NetworkFileSystem."""

    _kind: ClassVar[str]
    _display_name: ClassVar[str]  # what users call it, as in `KIND_NAMES`
    _id_prefix: ClassVar[str]  # of object_id; Modal's
    _name_space: ClassVar[str]  # the same for kinds that share names
    _option_defaults: ClassVar[Mapping[str, Any]] = {}  # of options that were not given at creation
    objects: ClassVar = ObjectsOfClass()
    hydrate: ClassVar = Hydrate()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise errors.InvalidError(
            f"{self._display_name}() cannot be called; use {self._display_name}.from_name(name, create_if_missing=True) or "
            f"{self._display_name}.ephemeral()"
        )

    @classmethod
    def _make(cls, client: Client | None, **state: Any) -> Self:
        store = cls.__new__(cls)
        store._client = client
        store._origin = None
        store._bound = None
        store._name = state.get("name")
        store._environment_name = state.get("environment_name")
        store._create_if_missing = state.get("create_if_missing", False)
        store._is_ephemeral = state.get("ephemeral", False)
        store._wanted_id = state.get("wanted_id")
        store._installation = state.get("installation")
        store._options = state.get("options") or {}
        store._record = None
        store._accepted = None
        store._ephemeral_id = None
        store._closed = False
        return store

    def _clone(self, **changes: Any) -> Self:
        """A handle on the same store that differs in *changes*; an ephemeral store lives as long as any of them."""
        clone = type(self).__new__(type(self))
        clone.__dict__.update(self.__dict__, _origin=self._first, **changes)
        return clone

    _origin: Self | None  # the first of the handles that this was cloned from; None: it is that itself
    _client: Client | None
    _bound: Transaction | None
    _name: str | None
    _environment_name: str | None
    _create_if_missing: bool
    _is_ephemeral: bool
    _wanted_id: int | None  # made by from_id
    _installation: str | None  # where it was pickled; None: it was not, or has been used since
    _options: dict[str, Any]  # given: a new store gets them, and one that is found must have them
    _record: StoreRecord | None
    _accepted: StoreRecord | None  # found by a transaction, for that alone; it has the options that were given
    _ephemeral_id: int | None  # drawn on first use, before there is a store
    _owner_pid: int  # of the process that drew it
    _closed: bool

    # ------------------------------------------------------------------------------------------------------- making

    @classmethod
    def from_name(
        cls,
        label: str | None = None,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
    ) -> Self:
        """Return a handle on the store of this name. Each class adds the options that its stores are made with."""
        if (label is None) == (name is None):
            raise errors.InvalidError(f"{cls._display_name}.from_name takes one name")
        checked = check_name(label if name is None else name, cls._display_name)
        if environment_name is not None:
            check_name(environment_name, "environment")
        return cls._make(client, name=checked, environment_name=environment_name, create_if_missing=create_if_missing)

    @classmethod
    def persist(
        cls,
        label: str | None = None,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        client: Client | None = None,
        **options: Any,
    ) -> Self:
        """Return a handle on the store of this name, which is created on first use if missing; *options*: as `from_name`."""
        return cls.from_name(
            label,
            name=name,
            environment_name=environment_name,
            create_if_missing=True,
            client=client,
            **options,
        )

    @classmethod
    def from_id(cls, object_id: str, client: Client | None = None) -> Self:
        """Return a handle on the store with this `object_id`."""
        prefix, _, number = str(object_id).partition("-")
        is_number = (
            number.isascii() and number.isdigit() and len(number) <= _ID_DIGITS_MAX
        )  # Python converts no more than 4,300
        if prefix != cls._id_prefix or not is_number or int(number) >= _ID_END:
            raise errors.InvalidError(
                f"{object_id!r} is not the id of a {cls._display_name}, such as '{cls._id_prefix}-42'"
            )
        return cls._make(client, wanted_id=int(number))

    @classmethod
    def ephemeral(cls, client: Client | None = None, environment_name: str | None = None) -> Self:
        """
        Return a nameless store that lives as long as this handle.

        It is deleted at the end of its `with` or `async with` block, when the handle is collected, when the interpreter exits, and
        after a crash once its process has been silent for ten minutes.
        """
        if environment_name is not None:
            check_name(environment_name, "environment")
        return cls._make(client, environment_name=environment_name, ephemeral=True)

    def using(self, transaction: Transaction) -> Self:
        """Return a handle whose operations all run in *transaction*, from any thread or task, one at a time."""
        if not isinstance(transaction, Transaction):
            raise errors.InvalidError(f"expected a pgstore transaction, not {type(transaction).__name__}")
        return self._clone(_bound=transaction)

    # -------------------------------------------------------------------------------------------------- what it is

    @property
    def name(self) -> str | None:
        """The store's name; None: ephemeral, or made by `from_id` and not used yet."""
        return self._name

    @property
    def object_id(self) -> str:
        """The store's id. Raises `AttributeError` before the first use; `hydrate()` counts as one."""
        record = self._first._record or self._first._accepted
        if record is None:
            raise AttributeError(f"{self!r} has no object_id before its first use; call hydrate()")
        return f"{self._id_prefix}-{record.id}"

    def _described(self) -> Op[StoreRecord]:
        """The record as it is now, for `info()`."""
        store_id = yield from self._resolve_id()
        rows = yield Query(FIND_ID, store_id)
        if not rows:
            yield from self._is_gone(store_id)
        record = StoreRecord(*rows[0])
        self._name = record.name
        return replace(record, created_at=record.created_at.astimezone())

    def __repr__(self) -> str:
        if self._is_ephemeral:
            return f"pgstore.{self._display_name}.ephemeral()"
        if self._name is None:
            return f"pgstore.{self._display_name}.from_id('{self._id_prefix}-{self._wanted_id}')"
        environment = f", environment_name={self._environment_name!r}" if self._environment_name else ""
        return f"pgstore.{self._display_name}.from_name({self._name!r}{environment})"

    # -------------------------------------------------------------------------------------------------- its client

    @property
    def _runner(self) -> Client:
        client = self._client
        if client is None:
            first = self._first
            if first._client is None:
                first._client = default_client()
            client = self._client = first._client
        return client

    @property
    def _environment(self) -> str:
        return self._environment_name or self._runner.environment

    # ------------------------------------------------------------------------------------------------- finding it

    @property
    def _first(self) -> Self:
        """The handle that all of its clones ask."""
        return self if self._origin is None else self._origin

    # Two words: to resolve a handle is to know its store, to find a store is to ask the database for it.

    def _resolve_id(self) -> Op[int]:
        """The store's id; found, or created, on first use."""
        record = self._record
        if record is None or record.history is not self._client.history:  # type: ignore[union-attr]
            record = yield from self._resolve()
        return record.id

    def _resolve(self) -> Op[StoreRecord]:
        """The store's record; found, or created, on first use; found anew in another history."""
        record = self._record
        if record is not None and record.history is self._client.history:  # type: ignore[union-attr]
            return record
        first, client = self._first, self._runner
        record = first._record
        if record is None or record.history is not client.history:
            record = yield from first._resolve_anew()
        self._name, self._environment_name = first._name, first._environment_name
        if first._record is record:  # else it is a transaction's, and may be rolled back with it
            self._record = record
        return record

    def _resolve_anew(self) -> Op[StoreRecord]:
        """`_resolve`, for the first handle, which knows of no store in this history."""
        client = self._runner
        if self._closed:
            raise self._missing()
        if self._installation is not None:
            if client.history is None:
                yield from check_history(client)
            if self._installation != _id_of(client.installation):
                raise errors.InvalidError(f"{self!r} was pickled where another database is in use")
        hooked = yield BeforeCommit(ResolvedStores, ResolvedStores)
        if hooked is not None and (
            hooked.immediate or client.settings.connections_max == 1 or hooked.hook.has_made_changes
        ):
            return (yield from self._resolve_inside(hooked.hook))
        # Not in a transaction of pgstore's own: until it commits, others who want this name would wait for it.
        record = cast("StoreRecord | None", (yield Autonomous(self._find_or_create())))
        if record is None and hooked is not None:
            # It may have been made by `objects.create` in this very transaction.
            return (yield from self._resolve_inside(hooked.hook))
        if record is None:
            raise self._missing()
        self.bind(record)
        return record

    def _resolve_inside(self, resolved: ResolvedStores) -> Op[StoreRecord]:
        """Find or create it in the transaction. What is found counts for this transaction alone until it commits."""
        key = (yield from self._draw_id()) if self._is_ephemeral else self._key
        _, record = resolved.records.get(key, (None, None))
        if record is None:
            record = yield from self._find_or_create()
            if record is None:
                raise self._missing()
            resolved.records[key] = (weakref.ref(self), record)
        elif record is not self._accepted:  # found by another handle, which may have been given other options
            self._accept(record)
        if record is not self._accepted:
            # Weakly: an ephemeral store goes with its handle.
            yield from on_rollback(partial(_forget, weakref.ref(self), record, self._accepted))
            self._accepted = record
        return record

    @property
    def _key(self) -> object:
        return (self._kind, self._environment, self._name, self._wanted_id)

    def _find_or_create(self) -> Op[StoreRecord | None]:
        before = self._runner.history
        if self._is_ephemeral:
            record: StoreRecord | None = yield from self._find_or_create_ephemeral()
        else:
            record = yield from self._find()
            if record is None and self._create_if_missing:
                record = yield from atomic(self._create())
                if record is None:  # another client was quicker
                    record = yield from self._find()
        if record is None:
            return None
        # The history before the first query: that may have been sent on a connection that was the first of another history.
        return replace(record, history=self._runner.history if before is None else before)

    def _find_or_create_ephemeral(self) -> Op[StoreRecord | None]:
        store_id = yield from self._draw_id()
        rows: Rows = []
        if self._record is None:
            # The session outlives any transaction, so it is part of none.
            session = self._runner.session
            session.hook(EphemeralStores)  # which deletes it with the session, if nothing does before
            session_id = yield Autonomous(session.current())
            rows = yield from atomic(self._create_ephemeral(store_id, session_id))
        if not rows:
            rows = yield Query(FIND_ID, store_id)
        return self._record_by_id(rows)

    def _draw_id(self) -> Op[int]:
        """The id that the ephemeral store has or will have; the same for all who ask at once."""
        if self._ephemeral_id is None:
            ((drawn,),) = yield Query(DRAW_ID)
            with _draw_lock:
                if self._ephemeral_id is None:
                    self._owner_pid = os.getpid()
                    self._ephemeral_id = drawn
                    stores = self._runner.session.hook(EphemeralStores)
                    weakref.finalize(self, stores.delete_later, drawn, self._owner_pid).atexit = False
        return self._ephemeral_id

    def _find(self) -> Op[StoreRecord | None]:
        if self._wanted_id is not None:
            record = self._record_by_id((yield Query(FIND_ID, self._wanted_id)))
            if record is not None:
                self._name, self._environment_name = record.name, record.environment
            return record
        return self._record_by_name((yield Query(FIND, self._environment, self._name_space, self._name)))

    def _record_by_name(self, rows: Rows) -> StoreRecord | None:
        record = record_in(rows)
        if record is None:
            return None
        if record.kind != self._kind:
            raise errors.InvalidError(
                f"{self._name!r} in environment {self._environment!r} is a {KIND_NAMES[record.kind]}, not a {self._display_name}"
            )
        return self._accept(record)

    def _record_by_id(self, rows: Rows) -> StoreRecord | None:
        record = record_in(rows)
        return None if record is None or record.kind != self._kind else self._accept(record)

    def _accept(self, record: StoreRecord) -> StoreRecord:
        """Raise `InvalidError` if the store was created with other options than this handle was given."""
        for name, wanted in self._options.items():
            found = record.options.get(name, self._option_defaults.get(name))
            if found != wanted:
                raise errors.InvalidError(
                    f"{self!r} was created with {name}={found!r}, not {wanted!r}; leave {name}= out to accept that"
                )
        return record

    def _create(self) -> Op[StoreRecord | None]:
        """Create the store; None: it exists. To be run in a transaction."""
        rows = yield Query(CREATE, self._environment, self._kind, self._name, json.dumps(self._options))
        record = self._record_by_name(rows)
        if record is not None:
            yield from self._created(record.id)
        return record

    def _create_ephemeral(self, store_id: int, session_id: int) -> Op[Rows]:
        """Create the store and return its row, or none if another user of the handle was quicker. To be run in a transaction."""
        options = json.dumps(self._options)
        rows = yield Query(CREATE_EPHEMERAL, store_id, self._environment, self._kind, session_id, options)
        if rows:
            yield from self._created(store_id)
        return rows  # type: ignore[no-any-return]

    def _created(self, store_id: int) -> Op[None]:
        """Insert what belongs to a new store of this kind beside its row."""
        yield from ()

    def bind(self, record: StoreRecord) -> None:
        """Remember the store, which is committed."""
        self._record = record
        self._installation = None  # it was checked, and the client's connections lead there from now on

    def _missing(self) -> errors.NotFoundError:
        if self._is_ephemeral:
            return errors.NotFoundError(
                f"this ephemeral {self._display_name} does not exist any more: it was closed, or swept after ten silent minutes, "
                "or the database was replaced"
            )
        if self._name is None:
            return errors.NotFoundError(
                f"there is no {self._display_name} with the id '{self._id_prefix}-{self._wanted_id}'"
            )
        return errors.NotFoundError(
            f"there is no {self._display_name} named {self._name!r} in environment {self._environment!r}; "
            f"create it with {self._display_name}.from_name({self._name!r}, create_if_missing=True)"
        )

    def _check_exists(self, store_id: int) -> Op[None]:
        """Raise `NotFoundError` if the store was deleted since it was found. Reads ask only after they have found nothing."""
        if not (yield Query(EXISTS, store_id)):
            yield from self._is_gone(store_id)

    def _is_gone(self, store_id: int) -> Op[NoReturn]:
        """
        Raise `NotFoundError`: the store *store_id* does not exist.

        If the database has another history by now, raise `StaleHandle` instead: then the operation is done again, on the store
        that has the name there.
        """
        first, client = self._first, self._runner
        if not first._closed and first._name is not None and first._wanted_id is None:
            yield from check_history(client)
            record = first._record
            if record is not None and (record.id != store_id or record.history is not client.history):
                raise StaleHandle(f"{self!r} was found in another history of the database; use it again")
        raise self._missing()

    # --------------------------------------------------------------------------------------------------- ephemeral

    def __enter__(self) -> Self:
        self._check_ephemeral()
        self._runner.run(self._resolve_id(), self._bound)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._close(), self._bound)

    async def __aenter__(self) -> Self:
        self._check_ephemeral()
        await self._runner.run_async(self._resolve_id(), self._bound)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.run_async(self._close(), self._bound)

    def _check_ephemeral(self) -> None:
        if not self._is_ephemeral:
            raise errors.InvalidError(f"{self!r} is not ephemeral, so there is nothing that `with` could end")

    def _close(self) -> Op[None]:
        first = self._first
        first._closed, first._record, first._accepted, self._record = True, None, None, None
        store_id = first._ephemeral_id
        if store_id is not None and first._owner_pid == os.getpid():  # a forked child leaves its parent's `with`, too
            yield from delete_store(store_id)

    # ------------------------------------------------------------------------------------------------------ pickling

    def __reduce__(self) -> tuple[Any, ...]:
        if self._bound is not None:
            raise TypeError(f"{self!r} is bound to a transaction, which cannot leave this process")
        wanted_id = self._runner.run(self._resolve_id()) if self._is_ephemeral else self._wanted_id
        environment = None if wanted_id is not None else self._environment
        return _unpickled, (
            type(self),
            self._name,
            environment,
            self._create_if_missing,
            wanted_id,
            _id_of(self._runner.installation),
            self._options,
        )


def _forget(handle: weakref.ref[Store], record: StoreRecord, before: StoreRecord | None) -> None:
    """Undo that a handle has accepted *record*, which was rolled back."""
    store = handle()
    if store is not None and store._accepted is record:
        store._accepted = before


def _id_of(installation: str | None) -> str | None:
    """*installation* without the database's name: a pickled handle outlives a restore into a database of another name."""
    return None if installation is None else installation.partition("/")[0]


def _unpickled(
    kind: type[S],
    name: str | None,
    environment_name: str | None,
    create_if_missing: bool,
    wanted_id: int | None,
    installation: str | None,
    options: dict[str, Any],
) -> S:
    """A handle on the default client of this process: pickles carry no URL, which may hold a password."""
    return kind._make(
        None,
        name=name,
        environment_name=environment_name,
        create_if_missing=create_if_missing,
        wanted_id=wanted_id,
        installation=installation,
        options=options,
    )


_ID_END: Final = 1 << 63
_ID_DIGITS_MAX: Final = len(str(_ID_END))
