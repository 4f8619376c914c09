"""Secrets stored in the database: what administrators do with them."""

from __future__ import annotations

from collections.abc import Mapping

from pgstore.client import Client
from pgstore.secret import Secret, table
from pgstore.secret.values import checked
from pgstore.types import SecretInfo


def create(client: Client, name: str, values: Mapping[str, str], environment: str, *, replace: bool = False) -> None:
    """
    Store a secret; *replace*: in place of one that exists.

    Raises:
        AlreadyExistsError: there is one of this name.
        ConfigurationError: there is no key in `PGSTORE_SECRET_KEY`.
    """
    if replace:
        Secret.from_name(name)  # which checks the name
        client.run(table.replace(environment, name, checked(values, "Secret")))
    else:
        Secret.objects.create(name, dict(values), environment_name=environment, client=client)


def secrets(client: Client, environment: str) -> list[SecretInfo]:
    """The stored secrets, newest first."""
    found: list[SecretInfo] = client.run(table.listed(environment))
    return found


def delete(client: Client, name: str, environment: str, *, allow_missing: bool = False) -> None:
    """Delete a secret. Raises `NotFoundError`."""
    Secret.objects.delete(name, allow_missing=allow_missing, environment_name=environment, client=client)


def rotate(client: Client) -> int:
    """
    Encrypt all secrets, of all environments, anew with the first key. Returns how many.

    Raises:
        ConfigurationError: no key opens one of them. Nothing is changed then.
    """
    count: int = client.run(table.rotate())
    return count
