"""PostgreSQL's client programs, such as pg_dump: which of those on this machine fits a server, and how one is run on a database.

They are looked for where those of the embedded server are: in the directory that PGSTORE_PGBIN names, where packages of systems
install them, in PATH, in the wheel of the extra `embedded`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgstore import errors
from pgstore.connection.handshake import conninfo
from pgstore.embedded.binaries import candidates, is_executable, major_of, version_of

# What would stand on a command line for everybody to see, and has no variable of libpq's.
_UNPASSABLE: Final = ("sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
# Which of several servers is meant is settled once there is a connection.
_OF_SEVERAL: Final = ("target_session_attrs", "load_balance_hosts")


@dataclass(frozen=True)
class Program:
    """A program of PostgreSQL's."""

    path: Path
    version: str
    """Such as `15.14`."""

    @property
    def major(self) -> int:
        return major_of(self.version)


def find_program(name: str, server_major: int) -> Program:
    """
    Return the program *name* for a server of *server_major*: of the same major version, else of the next newer one.

    Raises:
        ConfigurationError: there is none, or only older ones.
    """
    found = list(_found(name))
    fitting = [program for program in found if program.major >= server_major]
    if fitting:
        return min(fitting, key=lambda program: program.major)
    seen = ", ".join(f"{program.version} in {program.path.parent}" for program in found)
    raise errors.ConfigurationError(
        f"the server is PostgreSQL {server_major}, and {name} must not be older; "
        + (f"found: {seen}" if seen else "none was found")
        + f": run `apt install postgresql-client-{server_major}`, or `pip install 'pgstore[embedded]'` (which has version 18), or "
        f"set PGSTORE_PGBIN to the directory of a newer {name}"
    )


def _found(name: str) -> Iterator[Program]:
    seen = set()
    for _, directory in candidates():
        path = directory / name
        if not is_executable(path) or path.resolve() in seen:
            continue
        seen.add(path.resolve())
        if (version := version_of(path)) is not None:
            yield Program(path, version)


def same_server(url: str, connection: psycopg.Connection[Any]) -> tuple[str, dict[str, str]]:
    """
    The connection string and the environment with which a program reaches the server of *connection*, which was opened by *url*.

    The string may stand on a command line: the password is in the environment.

    Raises:
        ConfigurationError: *url* has another secret, which cannot be passed on unseen.
    """
    given = {name: value for name, value in conninfo_to_dict(conninfo(url)).items() if name not in _OF_SEVERAL}
    for name in _UNPASSABLE:
        if name in given:
            raise errors.ConfigurationError(
                f"the URL sets {name}, which programs of PostgreSQL take from a command line only, where others see it: use a key "
                "without a passphrase, or a password file (passfile=)"
            )
    info = connection.info
    given |= {"host": info.host, "port": str(info.port), "hostaddr": info.hostaddr or None}
    given["password"] = None
    environ = {**os.environ, "LC_MESSAGES": "C"}
    if info.password:
        environ["PGPASSWORD"] = info.password
    return make_conninfo("", **given), environ
