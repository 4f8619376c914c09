"""Names of what is stored, for whoever is typing one: one short query, and nothing is opened, made or started for it."""

from __future__ import annotations

from typing import Final

from pgstore.connection.handshake import connect
from pgstore.core.operation import Query
from pgstore.core.statement import Statement

NAMES_MAX: Final = 500  # more nobody reads

# By the index store_name, whose second column has volume for nfs; a reader of secrets sees these columns alone.
NAMES = Statement(
    """
    SELECT s.name
      FROM pgstore.store s
     WHERE s.environment = $1
       AND s.kind = ANY ($2)
       AND starts_with(s.name, $3)
     UNION
    SELECT x.name
      FROM pgstore.secret x
     WHERE x.environment = $1
       AND 'secret'::text = ANY ($2)
       AND starts_with(x.name, $3)
     ORDER BY 1
     LIMIT $4
    """,
    "text text[] text int8",
    read_only=True,
)
ENVIRONMENTS = Statement(
    """
    SELECT DISTINCT s.environment
      FROM pgstore.store s
     WHERE starts_with(s.environment, $1)
     ORDER BY 1
     LIMIT $2
    """,
    "text int8",
    read_only=True,
)


def names(url: str, environment: str, kinds: tuple[str, ...], beginning: str = "") -> list[str]:
    """
    The first 500 names in *environment* that start with *beginning*.

    Args:
        kinds: of `store.kind`, and `secret`.

    Raises:
        StoreUnavailable, ConfigurationError, AccessDenied: there is no connection, or no right to look.
    """
    return _column(url, Query(NAMES, environment, list(kinds), beginning, NAMES_MAX))


def environments(url: str, beginning: str = "") -> list[str]:
    """The first 500 environments with stores whose names start with *beginning*. Raises as `names`."""
    return _column(url, Query(ENVIRONMENTS, beginning, NAMES_MAX))


def _column(url: str, query: Query) -> list[str]:
    connection = connect(url)
    try:
        return [name for (name,) in connection.execute(query)]
    finally:
        connection.close()
