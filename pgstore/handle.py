"""Handles: what Dict, Queue and Volume have in common.

A handle names a store and finds it on first use; making one does no I/O. The registry is the table `store`; its statements stand
in `registry`. What a class adds is its kind, its creation and its operations.

What it has found is true of one history of the database (`client.history`), and looked for anew in another. Handles made from a
handle (`_clone`) ask that first one, so all of them lead to the same store, whichever is used first.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, NoReturn, ParamSpec, Self, TypeVar, cast

from pgstore import errors
from pgstore.client import Client, default_client
from pgstore.client.history import look
from pgstore.client.session import delete_store, unlink_large_objects
from pgstore.client.transaction import Transaction
from pgstore.client.undo import on_rollback
from pgstore.core.method import Doc
from pgstore.core.names import check_name
from pgstore.core.numbers import as_int
from pgstore.core.operation import Apart, BeforeCommit, BoundOperation, LookAgain, Op, Query, atomic, operation
from pgstore.registry import CREATE, CREATE_EPHEMERAL, DRAW_ID, EXISTS, FIND, FIND_ID, LIST, Facts, Found

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Store")

_drawing = threading.RLock()  # held for a moment; reentrant: a finaliser or signal handler may come in


def _after_fork_in_child() -> None:
    global _drawing
    _drawing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class Store:
    """Base of Dict, Queue and Volume."""

    _kind: ClassVar[str]
    _noun: ClassVar[str]  # as users know it
    _id_prefix: ClassVar[str]  # of object_id; Modal's
    _name_space: ClassVar[str]  # kinds that share names share this
    _option_defaults: ClassVar[Mapping[str, Any]] = {}  # what an option is that was not given at creation
    objects: ClassVar[_ObjectsOfClass]
    hydrate: ClassVar[_Hydrate]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise errors.InvalidError(
            f"{self._noun}() cannot be called; use {self._noun}.from_name(name, create_if_missing=True) or "
            f"{self._noun}.ephemeral()"
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
        store._facts = None
        store._accepted = None
        store._ephemeral_id = None
        store._closed = False
        return store

    def _clone(self, **changes: Any) -> Self:
        """A handle on the same store that differs in *changes*; an ephemeral store lives as long as any of them."""
        clone = type(self).__new__(type(self))
        clone.__dict__.update(self.__dict__, _origin=self._first, **changes)
        return clone

    _origin: Self | None  # the handle that this was cloned from, first of all; None: it was not
    _client: Client | None
    _bound: Transaction | None
    _name: str | None
    _environment_name: str | None
    _create_if_missing: bool
    _is_ephemeral: bool
    _wanted_id: int | None  # made by from_id
    _installation: str | None  # unpickled, and not used yet: where it came from
    _options: dict[str, Any]  # what the store is to be created with, and must have been
    _facts: Facts | None
    _accepted: (
        Facts | None
    )  # what it was last told by a transaction, for that alone; it has the options that were asked for
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
        """
        Return a handle on the store of this name; it is looked up on first use.

        Args:
            label: the name, 1 to 64 of A-Z a-z 0-9 . _ - (also accepted as *name*).
            environment_name: None: the client's.
            create_if_missing: create it on first use; else using it raises `NotFoundError`.
            client: None: the default client.

        Raises:
            InvalidError: the name cannot be one.
        """
        if (label is None) == (name is None):
            raise errors.InvalidError(f"{cls._noun}.from_name takes one name")
        checked = check_name(label if name is None else name, cls._noun)
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
        )  # more Python would not convert
        if prefix != cls._id_prefix or not is_number or int(number) >= _ID_END:
            raise errors.InvalidError(f"{object_id!r} is not the id of a {cls._noun}, such as '{cls._id_prefix}-42'")
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
        facts = self._first._facts or self._first._accepted
        if facts is None:
            raise AttributeError(f"{self!r} has no object_id before its first use; call hydrate()")
        return f"{self._id_prefix}-{facts.id}"

    def _described(self) -> Op[Facts]:
        """The facts, for `info()`."""
        store_id = yield from self._locate()
        rows = yield Query(FIND_ID, store_id)
        if not rows:
            yield from self._is_gone(store_id)
        name, _, created_at, created_by, _, options, _ = rows[0]
        self._name = name
        return Facts(store_id, created_at.astimezone(), created_by, options)

    def __repr__(self) -> str:
        if self._is_ephemeral:
            return f"pgstore.{self._noun}.ephemeral()"
        if self._name is None:
            return f"pgstore.{self._noun}.from_id('{self._id_prefix}-{self._wanted_id}')"
        environment = f", environment_name={self._environment_name!r}" if self._environment_name else ""
        return f"pgstore.{self._noun}.from_name({self._name!r}{environment})"

    # ----------------------------------------------------------------------------------------------- as a runner's

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

    def _locate(self) -> Op[int]:
        """The store's id; found, or created, on first use."""
        facts = self._facts
        if facts is None or facts.history is not self._client.history:  # type: ignore[union-attr]
            facts = yield from self._know()
        return facts.id

    def _know(self) -> Op[Facts]:
        """The store's facts; found, or created, on first use; found anew in another history."""
        first, client = self._first, self._runner
        facts = first._facts
        if facts is None or facts.history is not client.history:
            facts = yield from first._look_up()
        self._name, self._environment_name = first._name, first._environment_name
        if first._facts is facts:  # else it is a transaction's, and may be rolled back with it
            self._facts = facts
        return facts

    def _look_up(self) -> Op[Facts]:
        client = self._runner
        if self._closed:
            raise self._missing()
        if self._installation is not None:
            if client.history is None:
                yield from look(client)
            if self._installation != _id_of(client.installation):
                raise errors.InvalidError(f"{self!r} was pickled where another database is in use")
        enrolment = yield BeforeCommit(Found, Found)
        if enrolment is not None and (enrolment.immediate or client.settings.connections_max == 1):
            return (yield from self._look_up_inside(enrolment.participant))
        # Apart from a transaction of pgstore's own: until it commits, others who want this name would wait for it.
        facts = cast("Facts | None", (yield Apart(self._find_or_create())))
        if facts is None and enrolment is not None:
            # It may have been made by `objects.create` in this very transaction.
            return (yield from self._look_up_inside(enrolment.participant))
        if facts is None:
            raise self._missing()
        self.settle(facts)
        return facts

    def _look_up_inside(self, found: Found) -> Op[Facts]:
        """Find it on the transaction's own connection, for the transaction alone until it commits."""
        key = (yield from self._draw_id()) if self._is_ephemeral else self._key
        _, facts = found.facts.get(key, (None, None))
        if facts is None:
            facts = yield from self._find_or_create()
            if facts is None:
                raise self._missing()
            found.facts[key] = (weakref.ref(self), facts)
        elif facts is not self._accepted:  # found by another handle, of which something else may have been asked
            self._accept(facts)
        if facts is not self._accepted:
            # Weakly: an ephemeral store goes with its handle.
            yield from on_rollback(partial(_forget, weakref.ref(self), facts, self._accepted))
            self._accepted = facts
        return facts

    @property
    def _key(self) -> object:
        return (self._kind, self._environment, self._name, self._wanted_id)

    def _find_or_create(self) -> Op[Facts | None]:
        before = self._runner.history
        if self._is_ephemeral:
            facts: Facts | None = yield from self._find_or_create_ephemeral()
        else:
            facts = yield from self._find()
            if facts is None and self._create_if_missing:
                facts = yield from atomic(self._create())
                if facts is None:  # another client was quicker
                    facts = yield from self._find()
        if facts is None:
            return None
        # Before the first query: it may have been sent on a connection that was the first of another history.
        return replace(facts, history=self._runner.history if before is None else before)

    def _find_or_create_ephemeral(self) -> Op[Facts | None]:
        store_id = yield from self._draw_id()
        rows: list[tuple[Any, ...]] = []
        if self._facts is None:
            # The session outlives any transaction, so it is part of none.
            session_id = yield Apart(self._runner.session.current())
            rows = yield from atomic(self._create_ephemeral(store_id, session_id))
        if not rows:
            rows = yield Query(FIND_ID, store_id)
        return self._facts_by_id(store_id, rows)

    def _draw_id(self) -> Op[int]:
        """The id of an ephemeral store, whether there is one already or not; the same for all who ask at once."""
        if self._ephemeral_id is None:
            ((drawn,),) = yield Query(DRAW_ID)
            with _drawing:
                if self._ephemeral_id is None:
                    self._owner_pid = os.getpid()
                    self._ephemeral_id = drawn
                    unwanted = self._runner.session.unwanted
                    weakref.finalize(self, unwanted, drawn, self._owner_pid).atexit = False
        return self._ephemeral_id

    def _find(self) -> Op[Facts | None]:
        if self._wanted_id is not None:
            rows = yield Query(FIND_ID, self._wanted_id)
            if rows and rows[0][1] == self._kind:
                self._name, self._environment_name = rows[0][0], rows[0][4]
            return self._facts_by_id(self._wanted_id, rows)
        rows = yield Query(FIND, self._environment, self._name_space, self._name)
        if not rows:
            return None
        return self._facts_of(rows[0])

    def _facts_of(self, row: tuple[Any, ...]) -> Facts:
        store_id, kind, created_at, created_by, options, was_json = row
        if kind != self._kind:
            other = "NetworkFileSystem" if kind == "nfs" else "Volume"
            raise errors.InvalidError(
                f"{self._name!r} in environment {self._environment!r} is a {other}, not a {self._noun}"
            )
        return self._accept(Facts(store_id, created_at, created_by, options, was_json))

    def _facts_by_id(self, store_id: int, rows: list[tuple[Any, ...]]) -> Facts | None:
        if not rows or rows[0][1] != self._kind:
            return None
        _, _, created_at, created_by, _, options, was_json = rows[0]
        return self._accept(Facts(store_id, created_at, created_by, options, was_json))

    def _accept(self, facts: Facts) -> Facts:
        """Raise `InvalidError` if the store was created with other options than this handle was given."""
        for name, wanted in self._options.items():
            found = facts.options.get(name, self._option_defaults.get(name))
            if found != wanted:
                raise errors.InvalidError(
                    f"{self!r} was created with {name}={found!r}, not {wanted!r}; leave {name}= out to accept that"
                )
        return facts

    def _create(self) -> Op[Facts | None]:
        """Make the store; None: it exists. Runs in a transaction."""
        rows = yield Query(CREATE, self._environment, self._kind, self._name, json.dumps(self._options))
        if not rows:
            return None
        facts = self._facts_of(rows[0])
        yield from self._created(facts.id)
        return facts

    def _create_ephemeral(self, store_id: int, session_id: int) -> Op[list[tuple[Any, ...]]]:
        """Make the store, and return its row; none, if another who uses the handle was quicker. Runs in a transaction."""
        options = json.dumps(self._options)
        rows = yield Query(CREATE_EPHEMERAL, store_id, self._environment, self._kind, session_id, options)
        if rows:
            yield from self._created(store_id)
        return rows  # type: ignore[no-any-return]

    def _created(self, store_id: int) -> Op[None]:
        """What belongs to a new store of this kind beside its row."""
        yield from ()

    def settle(self, facts: Facts) -> None:
        """The store is known, and committed."""
        self._facts = facts
        self._installation = None  # checked; what the client's own connections lead to from now on is its database

    def _missing(self) -> errors.NotFoundError:
        if self._is_ephemeral:
            return errors.NotFoundError(
                f"this ephemeral {self._noun} does not exist any more: it was closed, or swept after ten silent minutes, or the "
                "database was replaced"
            )
        if self._name is None:
            return errors.NotFoundError(f"there is no {self._noun} with the id '{self._id_prefix}-{self._wanted_id}'")
        return errors.NotFoundError(
            f"there is no {self._noun} named {self._name!r} in environment {self._environment!r}; "
            f"create it with {self._noun}.from_name({self._name!r}, create_if_missing=True)"
        )

    def _check_exists(self, store_id: int) -> Op[None]:
        """Raise `NotFoundError` if the store was deleted since it was found. Reads ask only where they found nothing."""
        if not (yield Query(EXISTS, store_id)):
            yield from self._is_gone(store_id)

    def _is_gone(self, store_id: int) -> Op[NoReturn]:
        """
        Raise `NotFoundError`: the store *store_id* does not exist.

        Where the reason is that the database has another history by now, it is one by which the operation is done again, on the
        store that has the name there (see `LookAgain`).
        """
        first, client = self._first, self._runner
        if not first._closed and first._name is not None and first._wanted_id is None:
            yield from look(client)
            facts = first._facts
            if facts is not None and (facts.id != store_id or facts.history is not client.history):
                raise LookAgain(f"{self!r} was found in another history of the database; use it again")
        raise self._missing()

    # --------------------------------------------------------------------------------------------------- ephemeral

    def __enter__(self) -> Self:
        self._check_ephemeral()
        self._runner.run(self._locate(), self._bound)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._close(), self._bound)

    async def __aenter__(self) -> Self:
        self._check_ephemeral()
        await self._runner.run_async(self._locate(), self._bound)
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
        first._closed, first._facts, first._accepted, self._facts = True, None, None, None
        store_id = first._ephemeral_id
        if store_id is not None and first._owner_pid == os.getpid():  # a forked child leaves its parent's `with`, too
            yield from atomic(delete_store(store_id))
            yield from unlink_large_objects(store_id)

    # ------------------------------------------------------------------------------------------------------ pickling

    def __reduce__(self) -> tuple[Any, ...]:
        if self._bound is not None:
            raise TypeError(f"{self!r} is bound to a transaction, which cannot leave this process")
        wanted_id = self._runner.run(self._locate()) if self._is_ephemeral else self._wanted_id
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


def _forget(handle: weakref.ref[Store], facts: Facts, before: Facts | None) -> None:
    """What a handle was told by a transaction was rolled back with it."""
    store = handle()
    if store is not None and store._accepted is facts:
        store._accepted = before


def _id_of(installation: str | None) -> str | None:
    """Without the database's name: a handle that lies in a store survives a restore into a database of another name."""
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
    """By name, on the default client of the process: a handle carries no URL, which may hold a password."""
    return kind._make(
        None,
        name=name,
        environment_name=environment_name,
        create_if_missing=create_if_missing,
        wanted_id=wanted_id,
        installation=installation,
        options=options,
    )


class _Hydrate:
    """
    Look the store up (or create it) now, and return the handle; `store.hydrate()` and `await store.hydrate.aio()`.

    A descriptor of its own, for its result has the type of the handle.
    """

    def __get__(self, store: S, owner: type[S]) -> BoundOperation[..., S]:
        return BoundOperation(hydrate, store)


def hydrate(store: S, client: Client | None = None) -> Op[S]:
    """Look the store up, or create it, now; return the handle. Other operations do that on first use."""
    if client is not None and client is not store._runner:
        raise errors.InvalidError("the handle has a client already; pass client= where it is made")
    yield from store._locate()
    return store


Store.hydrate = _Hydrate()


# ---------------------------------------------------------------------------------------------------------- objects


class _BoundRegistryOperation(BoundOperation[P, T]):
    __slots__ = ()
    __doc__ = Doc("A method that needs no store: it runs on the client that the call names.")

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _client_of(args, kwargs).run(self.op(*args, **kwargs))

    def _start(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]:
        return _client_of(args, kwargs).run_async(self.op(*args, **kwargs))


class _registry_operation(operation[Any, P, T]):  # noqa: N801 - a decorator
    __slots__ = ()

    def __get__(self, owner: Any, kind: Any) -> _BoundRegistryOperation[P, T]:  # type: ignore[override]
        return _BoundRegistryOperation(self._function, owner)


class class_operation(_registry_operation[P, T]):  # noqa: N801 - a decorator
    """Turn a generator method that is called on the class, `Volume.rename(…)`, into a call with two forms."""

    __slots__ = ()

    def __get__(self, owner: Any, kind: Any) -> _BoundRegistryOperation[P, T]:  # type: ignore[override]
        return _BoundRegistryOperation(self._function, kind)


def _client_of(args: tuple[Any, ...], kwargs: Any) -> Client:
    """The client that a call names, also without the keyword, as Modal's signatures allow."""
    given: Client | None = next((value for value in args if isinstance(value, Client)), kwargs.get("client"))
    return given or default_client()


class Objects(Generic[S]):
    """`Dict.objects`, `Queue.objects` …: create, list and delete stores by name."""

    def __init__(self, kind: type[S]) -> None:
        self._class = kind

    def __repr__(self) -> str:
        return f"pgstore.{self._class._noun}.objects"

    @_registry_operation
    def create(
        self,
        /,
        name: str,
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
        **options: Any,
    ) -> Op[None]:
        """
        Create the store *name*, with *options* as `from_name` takes them.

        Raises:
            AlreadyExistsError: it exists, and *allow_existing* is false.
        """
        store = self._class.from_name(name, environment_name=environment_name, client=client, **options)
        facts = yield from atomic(store._create())
        if facts is None:
            yield from store._find()  # raises an error where it is a store of another kind
        if facts is None and not allow_existing:
            raise errors.AlreadyExistsError(
                f"{store._noun} {name!r} exists already in environment {store._environment!r}; "
                "pass allow_existing=True to accept that"
            )

    @_registry_operation
    def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Op[list[S]]:
        """
        Return the named stores of this kind, newest first.

        Args:
            max_objects: at most so many; None: all.
            created_before: only older ones; a naive datetime is local time, a str is ISO 8601.
        """
        if max_objects is not None and ((limit := as_int(max_objects)) is None or limit < 0):
            raise errors.InvalidError(f"max_objects is {max_objects!r}, expected 0 or more, or None")
        if environment_name is not None:
            check_name(environment_name, "environment")
        runner = client or default_client()
        environment = environment_name or runner.environment
        limit = _ALL if max_objects is None else min(as_int(max_objects) or 0, _ALL)
        history = runner.history
        rows = yield Query(LIST, environment, self._class._kind, _instant(created_before), limit)
        stores = []
        for store_id, name, created_at, created_by, options, was_json in rows:
            store = self._class.from_name(name, environment_name=environment, client=runner)
            here = runner.history if history is None else history
            store.settle(Facts(store_id, created_at, created_by, options, was_json, here))
            stores.append(store)
        return stores

    @_registry_operation
    def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Op[None]:
        """
        Delete the store *name* and all that it holds. Handles that still lead to it raise `NotFoundError`.

        Raises:
            NotFoundError: there is none, and *allow_missing* is false.
        """
        store = self._class.from_name(name, environment_name=environment_name, client=client)
        facts = yield from store._find()
        if facts is not None:
            yield from atomic(delete_store(facts.id))
            yield from unlink_large_objects(facts.id)
        elif not allow_missing:
            raise errors.NotFoundError(
                f"there is no {store._noun} named {name!r} in environment {store._environment!r}; "
                "pass allow_missing=True to accept that"
            )


_ALL: Final = 1 << 62
_ID_END: Final = 1 << 63
_ID_DIGITS_MAX: Final = len(str(_ID_END))


def _instant(value: datetime | str | None) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as exc:
            raise errors.InvalidError(f"created_before {value!r} is not an ISO 8601 date or time") from exc
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise errors.InvalidError(f"created_before must be a datetime or str, not {type(value).__name__}")
    try:
        return value.astimezone()
    except (ValueError, OverflowError) as exc:  # local time, on the first or last day that Python has
        raise errors.InvalidError(f"created_before {value!r} is not a time that every zone has: {exc}") from exc


class _ObjectsOfClass:
    """Gives each class its `Objects`."""

    def __get__(self, instance: Store | None, owner: type[S]) -> Objects[S]:
        return Objects(owner)


Store.objects = _ObjectsOfClass()
