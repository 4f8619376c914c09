"""What is done with stores rather than in one: `Dict.objects`, operations of a class such as `Volume.rename`, and `hydrate`."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Generic, ParamSpec, TypeVar

from pgstore import errors
from pgstore.client import Client, default_client
from pgstore.core.checks import check_int
from pgstore.core.method import Doc
from pgstore.core.names import check_name
from pgstore.core.observation import observed
from pgstore.core.operation import BoundOperation, Op, Query, atomic, operation
from pgstore.store.deletion import delete_store
from pgstore.store.registry import LIST, StoreRecord, note_change

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")  # a class of handles, which stands above this module


class _OperationOfClient(BoundOperation[P, T]):
    __slots__ = ()
    __doc__ = Doc("A method that needs no store: it runs on the client that the call names.")

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        client = _client_of(args, kwargs)
        return client.run(observed(self.op(*args, **kwargs), self._owner, self._function.__name__, client))

    def _start(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]:
        client = _client_of(args, kwargs)
        return client.run_async(observed(self.op(*args, **kwargs), self._owner, self._function.__name__, client))


class _client_operation(operation[Any, P, T]):  # noqa: N801 - a decorator
    __slots__ = ()

    def __get__(self, owner: Any, kind: Any) -> _OperationOfClient[P, T]:  # type: ignore[override]
        return _OperationOfClient(self._function, owner)


class class_operation(_client_operation[P, T]):  # noqa: N801 - a decorator
    """Turn a generator method that is called on the class, `Volume.rename(…)`, into a call with two forms."""

    __slots__ = ()

    def __get__(self, owner: Any, kind: Any) -> _OperationOfClient[P, T]:  # type: ignore[override]
        return _OperationOfClient(self._function, kind)


def _client_of(args: tuple[Any, ...], kwargs: Any) -> Client:
    """The client that a call names, also without the keyword, as Modal's signatures allow."""
    given: Client | None = next((value for value in args if isinstance(value, Client)), kwargs.get("client"))
    return given or default_client()


class Objects(Generic[S]):
    """`Dict.objects`, `Queue.objects` …: create, list and delete stores by name."""

    def __init__(self, kind: type[S]) -> None:
        self._class: Any = kind

    def __repr__(self) -> str:
        return f"pgstore.{self._class._display_name}.objects"

    @_client_operation
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
        yield from note_change()
        record = yield from atomic(store._create())
        if record is None:
            yield from store._find()  # raises if it is a store of another kind
        if record is None and not allow_existing:
            raise errors.AlreadyExistsError(
                f"{store._display_name} {name!r} exists already in environment {store._environment!r}; "
                "pass allow_existing=True to accept that"
            )

    @_client_operation
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
        limit = _ALL if max_objects is None else min(check_int(max_objects, "max_objects", 0, also="None"), _ALL)
        if environment_name is not None:
            check_name(environment_name, "environment")
        runner = client or default_client()
        environment = environment_name or runner.environment
        history = runner.history
        rows = yield Query(LIST, environment, self._class._kind, instant(created_before), limit)
        stores = []
        history = runner.history if history is None else history
        for row in rows:
            record = replace(StoreRecord(*row), history=history)
            store = self._class.from_name(record.name, environment_name=environment, client=runner)
            store.bind(record)
            stores.append(store)
        return stores

    @_client_operation
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
        record = yield from store._find()
        if record is not None:
            yield from delete_store(record.id)
        elif not allow_missing:
            raise errors.NotFoundError(
                f"there is no {store._display_name} named {name!r} in environment {store._environment!r}; "
                "pass allow_missing=True to accept that"
            )


_ALL: Final = 1 << 62  # stores


def instant(value: datetime | str | None) -> datetime | None:
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


class ObjectsOfClass:
    """Gives each class its `Objects`."""

    def __get__(self, instance: S | None, owner: type[S]) -> Objects[S]:
        return Objects(owner)


class Hydrate:
    """
    Look the store up (or create it) now, and return the handle; `store.hydrate()` and `await store.hydrate.aio()`.

    A descriptor of its own, for its result has the type of the handle.
    """

    def __get__(self, store: S, owner: type[S]) -> BoundOperation[..., S]:
        return BoundOperation(hydrate, store)


def hydrate(store: Any, client: Client | None = None) -> Op[Any]:
    """Look the store up, or create it, now; return the handle. Other operations do that on first use."""
    if client is not None and client is not store._runner:
        raise errors.InvalidError("the handle has a client already; pass client= where it is made")
    yield from store._resolve_id()
    return store
