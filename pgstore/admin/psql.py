"""How psql is run on the database of a URL."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgstore.admin.connecting import connected
from pgstore.admin.programs import find_program, same_server

_PATH: Final = "SELECT pg_catalog.current_setting('search_path'), pg_catalog.pg_backend_pid()"


def psql_command(url: str, arguments: Sequence[str] = ()) -> tuple[Path, list[str], dict[str, str]]:
    """
    The program, its arguments and its environment. The password is in the environment, which others cannot see.

    The schema is the last of the search_path, so that `SELECT * FROM queue_stats` finds it; where a pooler in transaction mode
    stands between, which takes no such settings, names need the schema.

    Raises:
        ConfigurationError: there is no psql, or only older ones than the server.
        StoreUnavailable, AccessDenied: there is no connection.
    """
    with connected(url, autocommit=True) as connection:
        program = find_program("psql", connection.info.server_version // 10_000)
        string, environ = same_server(url, connection)
        row = connection.execute(_PATH).fetchone()
        assert row is not None, "a SELECT without FROM has a row"
        path, pid = row
        if pid == connection.info.backend_pid:  # else a pooler
            string = _with_path(string, path)
    del environ["LC_MESSAGES"]  # who reads is a person
    environ |= {name: value for name, value in os.environ.items() if name == "LC_MESSAGES"}
    return program.path, ["psql", f"--dbname={string}", *arguments], environ


def _with_path(string: str, path: str) -> str:
    """The connection string *string* with the schema at the end of *path*, a search_path."""
    given = conninfo_to_dict(string)
    options = str(given.get("options") or os.environ.get("PGOPTIONS", ""))
    wanted = f"{path}, pgstore" if path.strip() else "pgstore"
    # Options are divided at white space, unless a backslash stands before it (libpq, "options").
    escaped = re.sub(r"([\\\s])", r"\\\1", wanted)
    return make_conninfo(string, options=f"{options} -csearch_path={escaped}".strip())
