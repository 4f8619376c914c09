"""Settings: what `configure` or a `Client` was given, else the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from pgstore.errors import ConfigurationError

DEFAULT_ENVIRONMENT = "main"
SIGNING_KEY_BYTES_MIN, SIGNING_KEY_BYTES_MAX = 16, 64  # BLAKE2b takes no more
_URL_VARIABLES = ("PGSTORE_URL", "DATABASE_URL")
_OFF = ("0", "false", "no", "off")  # of a variable that turns something off
_LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGUSER")


class ConnectionString(str):
    """A URL or libpq connection string. It may hold a password: `repr`, by which tracebacks print it too, shows nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<connection string>"


class _Secret(bytes):
    """Bytes that nobody should see: `repr`, by which tracebacks print local variables, shows nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


def hidden(value: Any) -> Any:
    """The same URL or key, or list of them, not to be seen in a traceback. What is neither comes back as it is."""
    if isinstance(value, str):
        return ConnectionString(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _Secret(value)
    if type(value) in (list, tuple):
        return type(value)(map(hidden, value))
    return value


@dataclass(frozen=True)
class Settings:
    """How a client connects and behaves; None: by the environment or the default."""

    url: str | Callable[[], str] | None = field(default=None, repr=False)  # a function is asked for each connection
    listen_url: str | None = field(default=None, repr=False)  # for waiting, where `url` leads through a pooler
    environment: str | None = None
    connections_max: int = 10
    auto_migrate: bool | None = None
    signing_keys: tuple[bytes, ...] = field(default=(), repr=False)  # the first signs, any is accepted
    telemetry: bool | None = None  # None: where the program has set OpenTelemetry up

    def __post_init__(self) -> None:
        telemetry: object = self.telemetry
        if telemetry is not None and not isinstance(telemetry, bool):
            raise ConfigurationError(f"telemetry is {telemetry!r}, expected True, False or None")
        most: object = self.connections_max
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ConfigurationError(f"connections_max is {most!r}, expected a number of 1 or more")
        for given in self.signing_keys:
            key: object = given
            if not isinstance(key, bytes) or not SIGNING_KEY_BYTES_MIN <= len(key) <= SIGNING_KEY_BYTES_MAX:
                raise ConfigurationError(
                    f"a signing key must be {SIGNING_KEY_BYTES_MIN} to {SIGNING_KEY_BYTES_MAX} random bytes, "
                    "such as os.urandom(32)"
                )
        for name in ("url", "listen_url"):
            value = getattr(self, name)
            if value is None or (name == "url" and callable(value)):
                continue
            if not isinstance(value, str):  # which is not shown: it may be a URL as bytes
                found = "bytes" if isinstance(value, bytes) else type(value).__name__
                raise ConfigurationError(
                    f"{name} must be a str such as 'postgresql://user@host/database', not of type {found}"
                )
            if not value.strip():
                raise ConfigurationError(f"{name} is empty: is the variable set that it should come from?")
            object.__setattr__(self, name, ConnectionString(value))

    def configured_url(self) -> str | None:
        """
        The connection URL: as given, else `PGSTORE_URL`, `DATABASE_URL`, or what libpq reads by itself (`PGHOST` …).

        None means that nothing is configured: the embedded server is used.
        """
        if callable(self.url):
            return _libpq_url(_told_by(self.url))
        if self.url is not None:
            return _libpq_url(self.url)
        for variable in _URL_VARIABLES:
            if value := variable_of(variable):
                return _libpq_url(value)
        return "" if _libpq_variables() else None

    @property
    def url_setting(self) -> str:
        """What `configured_url` goes by, for the end of a message."""
        if self.url is not None:
            return "given by the function passed as url" if callable(self.url) else "given as url"
        for variable in _URL_VARIABLES:
            if os.environ.get(variable):
                return f"given in {variable}"
        variables = ", ".join(_libpq_variables())
        return f"given in {variables}" if variables else "that of the embedded server, for no setting names another"

    @property
    def effective_environment(self) -> str:
        return self.environment or variable_of("PGSTORE_ENVIRONMENT") or DEFAULT_ENVIRONMENT

    @property
    def may_migrate(self) -> bool:
        """Whether a missing schema may be created on first use."""
        if self.auto_migrate is not None:
            return self.auto_migrate
        return variable_of("PGSTORE_AUTO_MIGRATE") not in _OFF

    @property
    def may_be_observed(self) -> bool:
        """Whether OpenTelemetry may be told of what the client does."""
        if self.telemetry is not None:
            return self.telemetry
        return variable_of("PGSTORE_TELEMETRY") not in _OFF


def warns_of_blocking_calls() -> bool:
    """Whether calls that block an event loop are warned of where the program has not said: `PGSTORE_ASYNC_WARNINGS`."""
    return variable_of("PGSTORE_ASYNC_WARNINGS") not in _OFF


def _libpq_variables() -> list[str]:
    """Those that are set of the variables by which libpq finds a server."""
    return [variable for variable in _LIBPQ_VARIABLES if os.environ.get(variable)]


def _told_by(function: Callable[[], str]) -> str:
    """The URL for one more connection, which may hold a password that is good for a few minutes only."""
    url: object = function()
    if not isinstance(url, str) or not url.strip():  # which is not shown: it may be a URL as bytes
        raise ConfigurationError(
            f"the function given as url must return a str such as 'postgresql://user@host/database', not {type(url).__name__}"
            + (" without contents" if isinstance(url, str) else "")
        )
    return url


def variable_of(name: str) -> str | None:
    """
    The environment variable *name*; None: it is not set.

    Raises:
        ConfigurationError: it is set to nothing, as by a secret that is missing where a program is deployed. What it should have
            said nobody knows: the data would land where nobody looks for them.
    """
    value = os.environ.get(name)
    if value is not None and not value.strip():
        raise ConfigurationError(f"the environment variable {name} is set, but empty: give it a value, or unset it")
    return value


def _libpq_url(url: str) -> str:
    """`DATABASE_URL` often carries SQLAlchemy's driver name, which libpq does not know."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme.startswith(("postgresql+", "postgres+")):
        return ConnectionString(f"postgresql://{rest}")
    return ConnectionString(url)


def as_url(conninfo: str) -> str:
    """The libpq connection string *conninfo* as a URL, the form that other libraries understand as well."""
    if conninfo.startswith(("postgresql://", "postgres://")):
        return ConnectionString(conninfo)
    from psycopg.conninfo import conninfo_to_dict  # which takes longer to import than all that only reads settings

    given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    user, password, database = (quote(given.pop(name, ""), safe="") for name in ("user", "password", "dbname"))
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    path = f"/{database}" if login or database or given else ""
    rest = f"?{urlencode(given, quote_via=quote)}" if given else ""  # libpq reads host and port there, too
    return ConnectionString(f"postgresql://{login}{path}{rest}")
