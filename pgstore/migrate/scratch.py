"""Databases for tests: copies of one that has the schema, made in a moment and dropped at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
from types import TracebackType
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgstore import errors
from pgstore.config import ConnectionString
from pgstore.core.error_mapping import describe, map_error
from pgstore.migrate.run import upgrade

_PREFIX: Final = "pgstore_test"


class ScratchDatabases:
    """
    Databases on the server of *url*; those that are left are dropped at the end of the `with` block.

    Raises:
        Error: the server cannot be reached, or its role may not create databases.
    """

    def __init__(self, url: str) -> None:
        self._url = ConnectionString(url)
        # By process and by chance: others may use the server for the same.
        self._name = f"{_PREFIX}_{os.getpid()}_{secrets.token_hex(4)}"
        self._made = 0
        self._left: list[str] = []
        self._template: str | None = None

    def __enter__(self) -> ScratchDatabases:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(self._left):
            with contextlib.suppress(errors.Error):  # what is left is said by its name
                self._execute(_DROP, name)

    def create(self) -> str:
        """The URL of a new database, which has the schema."""
        if self._template is None:
            self._template = self._create("template0")
            upgrade(self._url_of(self._template))
        return self._url_of(self._create(self._template))

    def drop(self, url: str) -> None:
        """Drop the database of *url*, with whoever is connected to it."""
        name = str(conninfo_to_dict(url)["dbname"])
        self._execute(_DROP, name)
        self._left.remove(name)

    def _create(self, template: str) -> str:
        name = f"{self._name}_{self._made}"
        self._made += 1
        self._execute(_CREATE, name, template)
        self._left.append(name)
        return name

    def _url_of(self, database: str) -> str:
        return ConnectionString(make_conninfo(self._url, dbname=database))

    def _execute(self, statement: sql.SQL, *names: str) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute(statement.format(*map(sql.Identifier, names)))
        except psycopg.errors.InsufficientPrivilege as exc:
            raise errors.AccessDenied(
                f"the role of {describe(self._url)} may not create databases for tests: run `ALTER ROLE … CREATEDB`, or unset "
                "PGSTORE_TEST_URL to have a server of their own"
            ) from exc
        except psycopg.Error as exc:
            raise map_error(exc) from exc


_CREATE: Final = sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'")
_DROP: Final = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
