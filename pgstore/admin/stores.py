"""Named stores of one kind: which there are, making and deleting them."""

from __future__ import annotations

from typing import Any, Final, Literal

import pgstore
from pgstore.client import Client
from pgstore.types import StoreInfo

Kind = Literal["dict", "queue", "volume", "nfs"]


CLASSES: Final[dict[Kind, str]] = {"dict": "Dict", "queue": "Queue", "volume": "Volume", "nfs": "NetworkFileSystem"}


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


def delete(client: Client, kind: Kind, name: str, environment: str, *, allow_missing: bool = False) -> None:
    """
    Delete a store and all that it holds.

    Raises:
        NotFoundError: there is none, and *allow_missing* is false.
    """
    class_of(kind).objects.delete(name, allow_missing=allow_missing, environment_name=environment, client=client)
