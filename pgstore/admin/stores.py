"""Named stores of one kind: which there are, making and deleting them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import pgstore
from pgstore.client import Client
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.types import StoreInfo

Kind = Literal["dict", "queue", "volume", "nfs"]

_SIZE: Final = Statement(
    "SELECT entries, size_bytes FROM pgstore.store_sizes WHERE store_id = $1", "int8", read_only=True
)

CLASSES: Final[dict[Kind, str]] = {"dict": "Dict", "queue": "Queue", "volume": "Volume", "nfs": "NetworkFileSystem"}


@dataclass(frozen=True)
class StoreDetails:
    """What a store is, and how much it holds."""

    name: str
    environment: str
    id: str
    created_at: datetime
    created_by: str | None
    options: Mapping[str, Any]
    """Those that it was created with."""
    entries: int
    """Entries of a Dict, items of a Queue that can be taken, files of a Volume or NetworkFileSystem."""
    size_bytes: int
    """Of their values, payloads or contents."""


def class_of(kind: Kind) -> Any:
    """The class of the stores of *kind*, which is imported now."""
    return getattr(pgstore, CLASSES[kind])


def handle(client: Client, kind: Kind, name: str, environment: str) -> Any:
    """
    The store *name*, looked up.

    Raises:
        NotFoundError: there is none, or it is of another kind.
    """
    return class_of(kind).from_name(name, environment_name=environment, client=client).hydrate()


def stores(client: Client, kind: Kind, environment: str) -> list[StoreInfo]:
    """The named stores of *kind* in *environment*, newest first."""
    return [each.info() for each in class_of(kind).objects.list(environment_name=environment, client=client)]


def create(
    client: Client, kind: Kind, name: str, environment: str, *, allow_existing: bool = False, **options: Any
) -> None:
    """
    Create a store, with *options* as `from_name` takes them.

    Raises:
        AlreadyExistsError: it exists, and *allow_existing* is false.
    """
    class_of(kind).objects.create(
        name, allow_existing=allow_existing, environment_name=environment, client=client, **options
    )


def ensure(client: Client, kind: Kind, name: str, environment: str, **options: Any) -> None:
    """
    Create a store unless it exists.

    Raises:
        InvalidError: it exists, with other *options*.
    """
    store = class_of(kind).from_name(
        name, environment_name=environment, create_if_missing=True, client=client, **options
    )
    store.hydrate()


def details(client: Client, kind: Kind, name: str, environment: str) -> StoreDetails:
    """
    Describe a store; what it holds is counted.

    Raises:
        NotFoundError: there is none, or it is of another kind.
    """
    store = handle(client, kind, name, environment)
    record = store._record
    rows = client.run(_rows(Query(_SIZE, record.id)))
    entries, size_bytes = rows[0] if rows else (0, 0)  # none: deleted since
    return StoreDetails(
        name, environment, store.object_id, record.created_at, record.created_by, record.options, entries, size_bytes
    )


def _rows(query: Query) -> Op[Rows]:
    return (yield query)  # type: ignore[no-any-return]


def delete(client: Client, kind: Kind, name: str, environment: str, *, allow_missing: bool = False) -> None:
    """
    Delete a store and all that it holds.

    Raises:
        NotFoundError: there is none, and *allow_missing* is false.
    """
    class_of(kind).objects.delete(name, allow_missing=allow_missing, environment_name=environment, client=client)
