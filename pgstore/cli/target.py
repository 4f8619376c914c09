"""Which database a command is about."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import typer

from pgstore import errors
from pgstore.config import ConnectionString, Settings, variable_of
from pgstore.core.names import check_name


@dataclass(frozen=True)
class Target:
    """The options that stand before every command."""

    given_url: str | None
    given_environment: str | None

    def __post_init__(self) -> None:
        if self.given_url is not None and not self.given_url.strip():
            raise errors.InvalidError("--url is empty: is the variable set that it should come from?")
        if self.given_url is not None:
            object.__setattr__(self, "given_url", ConnectionString(self.given_url))
        if self.given_environment is not None:
            check_name(self.given_environment, "environment")

    @cached_property
    def source(self) -> str:
        """What decided: an option, a variable, or nothing at all."""
        if self.given_url is not None:
            return "--url"
        for variable in ("PGSTORE_URL", "DATABASE_URL"):
            if variable_of(variable):
                return variable
        return "the embedded server" if self.is_embedded else "libpq's variables (PGHOST …)"

    @property
    def is_embedded(self) -> bool:
        return Settings(url=self.given_url).configured_url() is None

    @cached_property
    def url(self) -> str:
        """The URL of the database; an embedded server is running after this."""
        url = Settings(url=self.given_url).configured_url()
        return start_embedded() if url is None else url

    @property
    def running_url(self) -> str:
        """
        The URL of the database, for commands that only look.

        Raises:
            StoreUnavailable: it is that of the embedded server, which does not run, and is not started to be looked at.
        """
        url = Settings(url=self.given_url).configured_url()
        if url is not None:
            return url
        from pgstore import embedded

        server = embedded.Server()
        if not server.status().running:
            raise errors.StoreUnavailable(
                f"no database is configured, and the embedded server in {server.directory} is not running: "
                "run `pgstore server start`, or give --url or PGSTORE_URL"
            )
        return server.url

    @property
    def environment(self) -> str:
        return check_name(Settings(environment=self.given_environment).effective_environment, "environment")

    def environ(self) -> dict[str, str]:
        """The environment variables of a program that is to use the same database."""
        environ = dict(os.environ)
        if self.given_url is not None:
            environ["PGSTORE_URL"] = self.given_url
        if self.given_environment is not None:
            environ["PGSTORE_ENVIRONMENT"] = self.given_environment
        return environ


def target(context: typer.Context, env: str | None = None) -> Target:
    """The target of the command that is running; *env*, an option after the verb, goes before the one that stands before it."""
    found = context.obj
    assert isinstance(found, Target), "the callback of `pgstore` runs first"
    return found if env is None else Target(found.given_url, env)


def start_embedded() -> str:
    """Start the embedded server if it is not running, and return its URL."""
    from pgstore import embedded  # half a second, for those who need it

    server = embedded.Server()
    with _shown(f"starting the embedded server in {server.directory}"):
        return server.start()


@contextlib.contextmanager
def _shown(doing: str) -> Iterator[None]:
    """On a terminal, say what takes so long."""
    from rich.console import Console

    with Console(stderr=True).status(doing):
        yield
