"""Where a client connects: what it was given, PGSTORE_URL, DATABASE_URL, libpq's variables, the embedded server."""

from __future__ import annotations

import pytest

from pgstore.config import Settings
from pgstore.errors import ConfigurationError

VARIABLES = ("PGSTORE_URL", "DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGUSER")


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch):
    for name in (*VARIABLES, "PGSTORE_ENVIRONMENT", "PGSTORE_AUTO_MIGRATE"):
        monkeypatch.delenv(name, raising=False)


def test_without_any_configuration_it_is_the_embedded_servers_turn():
    assert Settings().configured_url() is None


def test_each_source_yields_to_the_one_before(monkeypatch):
    monkeypatch.setenv("PGHOST", "libpq")
    assert Settings().configured_url() == ""  # libpq reads its variables itself

    monkeypatch.setenv("DATABASE_URL", "postgresql://database")
    assert Settings().configured_url() == "postgresql://database"

    monkeypatch.setenv("PGSTORE_URL", "postgresql://pgstore")
    assert Settings().configured_url() == "postgresql://pgstore"

    assert Settings("postgresql://given").configured_url() == "postgresql://given"


def test_sqlalchemys_driver_name_in_a_url_is_understood(monkeypatch):
    """
    DATABASE_URL is often written for SQLAlchemy.
    """
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://u@h/d")

    assert Settings().configured_url() == "postgresql://u@h/d"


def test_the_environment_is_main_unless_told_otherwise(monkeypatch):
    assert Settings().effective_environment == "main"
    monkeypatch.setenv("PGSTORE_ENVIRONMENT", "staging")
    assert Settings().effective_environment == "staging"
    assert Settings(environment="dev").effective_environment == "dev"


def test_the_schema_is_made_on_first_use_unless_forbidden(monkeypatch):
    assert Settings().may_migrate
    monkeypatch.setenv("PGSTORE_AUTO_MIGRATE", "0")
    assert not Settings().may_migrate
    assert Settings(auto_migrate=True).may_migrate


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigurationError, match="connections_max"):
        Settings(connections_max=0)
    with pytest.raises(ConfigurationError, match="url must be a str"):
        Settings(url=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["PGSTORE_URL", "DATABASE_URL", "PGSTORE_ENVIRONMENT", "PGSTORE_AUTO_MIGRATE"])
@pytest.mark.parametrize("value", ["", " "])
def test_a_variable_that_is_set_to_nothing_is_an_error(monkeypatch, name, value):
    """
    A secret is missing where the program is deployed; taken for "not set", its data would land where nobody looks for them.
    """
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"{name} is set, but empty"):
        _ = (Settings().configured_url(), Settings().effective_environment, Settings().may_migrate)


def test_so_is_a_url_of_nothing():
    with pytest.raises(ConfigurationError, match="url is empty"):
        Settings("")
    with pytest.raises(ConfigurationError, match="listen_url is empty"):
        Settings("postgresql://", listen_url=" ")
