"""Where a client connects: what it was given, PGSTORE_URL, DATABASE_URL, libpq's variables, the embedded server."""

from __future__ import annotations

import re
import traceback
from functools import partial
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

import pgstore
from pgstore import migrate
from pgstore.admin.check import run_checks
from pgstore.config import ConnectionString, Settings, as_url
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


@pytest.mark.parametrize(
    "conninfo",
    [
        "",
        "dbname=shop",
        "host='/tmp/a b' port=5433 dbname=x/y user='me@home' password='p:/@% '",
        "host=one,two port=1,2 user=u sslmode=require",
        "password=x",
        "service=shop",
    ],
)
def test_the_url_for_other_libraries_says_what_libpqs_pairs_say(conninfo):
    """
    Django, SQLAlchemy and psql are to log in as pgstore does; most of them read nothing but URLs.
    """
    url = pgstore.Client(conninfo).connection_url() if conninfo else as_url(conninfo)

    assert url.startswith("postgresql://")
    assert conninfo_to_dict(url) == conninfo_to_dict(conninfo)
    assert make_url(str(url)).get_backend_name() == "postgresql"
    assert repr(url) == "<connection string>"  # it may hold a password


def test_the_url_for_other_libraries_is_the_one_in_use(monkeypatch):
    """
    A framework that is given another database than pgstore cannot share a transaction with it.
    """
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://u:p@h/d?sslmode=require")
    assert pgstore.Client().connection_url() == "postgresql://u:p@h/d?sslmode=require"

    assert pgstore.Client(lambda: "postgresql://u:token@h/d").connection_url() == "postgresql://u:token@h/d"

    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("PGHOST", "libpq")
    assert pgstore.Client().connection_url() == "postgresql://"  # whoever reads it reads libpq's variables as well

    with pytest.raises(ConfigurationError, match="%40 for @"):
        pgstore.Client("postgresql://u:p@1@h/d").connection_url()


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


PASSWORDS = {
    "a URL": "postgresql://joe:hush@db:5433/shop",
    "an option of a URL": "postgresql://joe@db:5433/shop?password=hush",
    "a connection string": "host=db port=5433 user=joe dbname=shop password=hush",
    "SQLAlchemy's URL": "postgresql+psycopg://joe:hush@db:5433/shop",
    "percent-encoded": "postgresql://joe:%68ush@db:5433/shop",
    "a URL that is misread": "postgresql://joe:hush/1@db:5433/shop",
    "a string that cannot be read": "host=db password='hush",
}


@pytest.mark.parametrize("url", PASSWORDS.values(), ids=PASSWORDS)
def test_nothing_that_is_printed_of_a_client_shows_its_password(url):
    """
    Settings stand in logs, in the representation of what has them, and in tracebacks that show local variables.
    """
    for settings in (Settings(url), Settings("host=db", listen_url=url)):
        shown = f"{settings!r} {settings} {vars(settings)} {settings.configured_url()!r}"
        assert "hush" not in shown
        assert "%68ush" not in shown
    client = pgstore.Client(url)
    handle = pgstore.Dict.from_name("x", client=client)
    for shown in (repr(client), repr(handle), repr(vars(handle)), repr(client.transaction()), repr(vars(client))):
        assert "hush" not in shown
        assert "%68ush" not in shown
    assert client.settings.url == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://joe:hush@db:5433/shop", "joe@db:5433/shop"),
        ("postgresql://joe@db", "joe@db:5432/joe"),
        ("host=/run/pg user=joe dbname=shop", "joe@/run/pg:5432/shop"),
        ("postgresql://joe@one,two:5433/shop", "joe@one:5432,two:5433/shop"),
    ],
)
def test_a_client_shows_host_port_and_database(monkeypatch, url, shown):
    """
    Also where they come from the environment, or from libpq.
    """
    for variable in ("PGSTORE_URL", "DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(variable, raising=False)
    assert repr(pgstore.Client()) == "pgstore.Client('embedded server')"
    assert repr(pgstore.Client(lambda: url)) == "pgstore.Client(<function>)"
    assert repr(pgstore.Client(url)) == f"pgstore.Client({shown!r})"

    monkeypatch.setenv("DATABASE_URL", url)
    assert repr(pgstore.Client()) == f"pgstore.Client({shown!r})"
    monkeypatch.setenv("PGSTORE_URL", "")
    assert repr(pgstore.Client()) == "pgstore.Client(<unusable settings>)"


@pytest.mark.parametrize("name", ["url", "listen_url"])
@pytest.mark.parametrize("url", [b"postgresql://joe:hush@db", ["postgresql://joe:hush@db"], {"password": "hush"}])
def test_a_url_of_a_wrong_type_is_refused_by_its_type(name, url):
    """
    A URL as bytes is a URL all the same, with a password.
    """
    with pytest.raises(ConfigurationError, match=f"{name} .* of type {type(url).__name__}") as caught:
        pgstore.Client(**{name: url})

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", PASSWORDS.values(), ids=PASSWORDS)
def test_an_error_of_connecting_knows_no_password_whatever_is_asked_of_it(monkeypatch, url):
    """
    Reports of errors go to others: their causes, what came before them, their attributes and the variables of pgstore's frames.
    """
    url = url.replace("@db:5433", "@127.0.0.1:1").replace("host=db port=5433", "host=127.0.0.1 port=1")
    for given, password in ((url, ""), ("postgresql://joe@127.0.0.1:1/shop", "hush")):
        monkeypatch.setenv("PGPASSWORD", password)
        client = pgstore.Client(given)
        for attempt in (
            pgstore.Dict.from_name("x", client=client).len,
            partial(migrate.upgrade, given),
            partial(run_checks, ConnectionString(given), {}),
        ):
            with pytest.raises(pgstore.Error) as caught:
                attempt()
            assert "hush" not in "".join(traceback.format_exception(caught.value))
            for error in chain(caught.value):
                assert "hush" not in f"{error!r} {error} {error.args} {vars(error)}"
                assert "hush" not in shown_frames(error)


@pytest.mark.parametrize("make", [pgstore.Client, pgstore.configure])
@pytest.mark.parametrize(
    "wrong",
    [
        {"connections_max": 0},
        {"environment": "no name"},
        {"signing_keys": [b"hush"]},
        {"signing_keys": bytearray(b"hush" * 5)},
        {"url": b"postgresql://joe:hush@db"},
        {"listen_url": b"postgresql://joe:hush@db"},
    ],
    ids=repr,
)
def test_a_client_that_cannot_be_made_shows_no_secret_it_was_given(make, wrong):
    """
    A report of this error goes to others, too, with what pgstore's functions were called with.
    """
    given = {
        "url": "postgresql://joe:hush@db",
        "listen_url": "postgresql://joe:hush@pooler",
        "signing_keys": [b"hush" * 5],
        **wrong,
    }

    with pytest.raises(pgstore.Error) as caught:
        make(**given)

    assert "hush" not in f"{caught.value!r} {shown_frames(caught.value)}"


def chain(error):
    """The error, and all that led to it."""
    found, left = [], [error]
    while left:
        one = left.pop()
        if one is not None and one not in found:
            found.append(one)
            left += [one.__cause__, one.__context__]
    return found


def shown_frames(error):
    """The variables of pgstore's and psycopg's frames, as a report of the error would show them."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if "/tests/" not in frame.f_code.co_filename]
    return " ".join(repr(value) for frame in frames for value in frame.f_locals.values())


INTERNAL = {
    "PGSTORE_AS_MODAL",
    "PGSTORE_IS_REMOTE",
    "PGSTORE_COMPLETE",
}  # set by pgstore itself, or by a shell's completion


def test_every_environment_variable_is_in_the_docstring_of_pgstore():
    """
    Else nobody finds it.
    """
    package = Path(pgstore.__file__).parent
    read = {name for path in package.rglob("*.py") for name in re.findall(r"\bPGSTORE_[A-Z_]+\b", path.read_text())}
    told = set(re.findall(r"(?m)^(PGSTORE_[A-Z_]+) ", pgstore.__doc__ or ""))

    assert told == {name for name in read if not name.endswith("_")} - INTERNAL
