"""Connections of psycopg, for SQL that is no operation of a store: catalogs, dumps, checks. Their errors are pgstore's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg

from pgstore.connection.handshake import conninfo
from pgstore.core.error_mapping import check_conninfo, map_connect_error, map_error

# For what takes as long as it takes, whatever the login has set for itself. Not every server has all of them.
NO_TIMEOUTS: Final[LiteralString] = """
SELECT set_config(s.name, '0', true)
  FROM pg_settings s
 WHERE s.name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""


@contextlib.contextmanager
def connected(url: str, **settings: Any) -> Iterator[psycopg.Connection[Any]]:
    """
    A connection to the database of *url*, committed at the end of the block, rolled back after an error, and closed.

    Args:
        settings: those of `psycopg.connect`.

    Raises:
        StoreUnavailable, AccessDenied, ConfigurationError: there is no connection. Errors of psycopg in the block are mapped, too.
    """
    check_conninfo(url)
    try:
        connection = psycopg.connect(conninfo(url), **settings)
    except psycopg.Error as exc:
        failure = map_connect_error(exc, url)
    else:
        try:
            with connection:
                yield connection
        except psycopg.Error as exc:
            raise map_error(exc) from exc
        return
    raise failure
