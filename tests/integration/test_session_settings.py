"""Settings of a session, a role or a database that change what SQL means, is taken for, or looks like: pgstore works the same."""

from __future__ import annotations

import subprocess
import sys

import psycopg
import pytest

import pgstore
from pgstore import errors, migrate
from tests.fixtures.clients import Call
from tests.fixtures.everything import BY_HAND, open_files, use_everything
from tests.migration.conftest import ROOT, Cluster, url_as

SETTINGS = {
    "standard_conforming_strings": "off",
    "escape_string_warning": "on",
    "backslash_quote": "off",
    "plpgsql.extra_errors": "all",
    "plpgsql.extra_warnings": "all",
    "bytea_output": "escape",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "xmloption": "document",
    "check_function_bodies": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "client_min_messages": "error",
}
ODD = {
    "each": SETTINGS,
    **{name: {name: SETTINGS[name]} for name in ("standard_conforming_strings", "plpgsql.extra_errors")},
}


def options(settings):
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())


@pytest.fixture
def cluster(server):
    """The server from its administrator's chair."""
    cluster = Cluster(server)
    yield cluster
    cluster.close()


@pytest.fixture(params=["server", "server18"])
def each_cluster(request):
    """The same of each of two servers."""
    cluster = Cluster(request.getfixturevalue(request.param))
    yield cluster
    cluster.close()


@pytest.fixture
def stores(client, store_name):
    """What `BY_HAND` reads, for the name."""
    return fill(client, store_name)


def fill(client, store_name):
    entries = pgstore.Dict.from_name(f"{store_name}-dict", create_if_missing=True, watch=True, client=client)
    values = ["pl\\ain", "nul\x00x", "\ud800", b"\\by\x00", "é", "a\\nb", {"k\\": 1}, 1.1, 2.5e-7, {1, 2}, {"a": [0.1]}]
    entries.update({f"k\\{number}": value for number, value in enumerate(values)})
    for more in ("", "-bounded"):
        pgstore.Queue.from_name(f"{store_name}-queue{more}", create_if_missing=True, client=client).put(["\\", 0.1])
    for kind, name in ((pgstore.Volume, "volume"), (pgstore.NetworkFileSystem, "nfs")):
        files = kind.from_name(f"{store_name}-{name}", create_if_missing=True, client=client)
        with files.open("/small", "wb") as file:
            file.write(b"\\x41 small \\")
        with files.open("/d/\\ é", "wb") as file:
            file.write(b"x" * 300_000)
    return store_name


# Of this test's stores only. What hangs on the time of the call, or on the form in which a session prints, is left out.
LOOKS = [
    "SELECT key, value, size_bytes FROM pgstore.dict_items WHERE name = '{name}-dict' ORDER BY key",
    "SELECT pgstore.dict_get('{name}-dict', (SELECT min(key) FROM pgstore.dict_items WHERE name = '{name}-dict'))",
    "SELECT item FROM pgstore.queue_items WHERE name = '{name}-queue'",
    "SELECT path, type, size FROM pgstore.files WHERE volume = '{name}-volume' ORDER BY path",
    "SELECT path, size, extract(epoch FROM mtime) FROM pgstore.list_directory('{name}-nfs', '/d')",
    "SELECT sha256(pgstore.read_file('{name}-nfs', '/small'))",
    """
    SELECT length(pgstore.read_file(f.store_id, f.ino))
      FROM pgstore.files f
     WHERE f.volume = '{name}-volume' AND f.size > 99
    """,
]


@pytest.mark.parametrize("settings", ODD.values(), ids=ODD)
def test_views_and_functions_show_what_they_show_elsewhere(database, stores, settings):
    """
    Their callers are old applications, too.
    """
    shown = []
    for connection_options in ("", options(settings)):
        with psycopg.connect(database, autocommit=True, options=connection_options) as connection:
            shown.append(
                [connection.execute(look.format(name=stores).encode(), binary=True).fetchall() for look in LOOKS]
            )

    assert shown[0] == shown[1]


@pytest.mark.parametrize("settings", ODD.values(), ids=ODD)
def test_functions_that_write_do_so(database, stores, settings):
    """
    No function may rest on a check that a session can turn on.
    """
    with psycopg.connect(database, autocommit=True, options=options(settings)) as connection:
        for statement in BY_HAND:
            connection.execute(statement.format(name=stores).encode())


@pytest.fixture
def odd(cluster, database):
    """The URL of the database for a writer whose sessions have all the settings."""
    return as_odd_writer(cluster, database)


def as_odd_writer(cluster, database):
    name = cluster.login()
    cluster.grant("pgstore_writer", name)
    for setting, value in SETTINGS.items():
        cluster.execute(database, f'ALTER ROLE "{name}" SET {setting} = {value if "," in value else repr(value)}')
    return url_as(database, name)


def test_stores_work_in_odd_sessions(call, odd, store_name):
    """
    Those of a role, in sessions of pgstore's own.
    """
    use_everything(call, call.client(odd), store_name)


def test_files_and_locks_work_in_odd_sessions(odd, store_name):
    """
    The functions that write into files are the largest.
    """
    with pgstore.Client(odd) as client:
        open_files(client, store_name)


def test_stores_work_in_a_joined_odd_session(odd, store_name):
    """
    Nothing is set there, but the isolation that a Volume asks for.
    """
    with pgstore.Client(odd) as client, psycopg.connect(odd) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        with client.transaction(connection=connection):
            use_everything(Call("blocking"), client, store_name)
        connection.commit()


@pytest.mark.parametrize("how", ["upgrade", "script", "roles by hand"])
@pytest.mark.parametrize("settings", ODD.values(), ids=ODD)
def test_a_migration_gives_the_same_schema(each_cluster, settings, how):
    """
    To the letter.
    """
    roles = each_cluster.roles()
    usual, url = each_cluster.database(), each_cluster.database()
    migrate.upgrade(usual, roles=roles)
    odd = psycopg.conninfo.make_conninfo(url, options=options(settings | {"default_transaction_read_only": "on"}))

    if how == "upgrade":
        migrate.upgrade(odd, roles=roles)
    elif how == "script":
        each_cluster.psql(odd, migrate.sql(roles=roles))
    else:
        migrate.upgrade(url, roles=roles)
        script = "".join(f"SET pgstore.{kind} = '{getattr(roles, kind)}';\n" for kind in ("reader", "writer", "owner"))
        each_cluster.psql(
            odd, f"SET default_transaction_read_only = off;\n{script}{(ROOT / 'sql/admin/roles.sql').read_text()}"
        )

    assert each_cluster.dump(url) == each_cluster.dump(usual)


@pytest.fixture
def careful(cluster, database):
    """The URL of the database for a writer whose transactions are read-only by default."""
    name = cluster.login()
    cluster.grant("pgstore_writer", name)
    cluster.execute(database, f'ALTER ROLE "{name}" SET default_transaction_read_only = on')
    return url_as(database, name)


def test_a_role_that_is_read_only_by_default_writes(call, careful, store_name):
    """
    The default is a guard against slips in SQL typed by hand.
    """
    client = call.client(careful)

    use_everything(call, client, store_name)


def test_a_transaction_of_such_a_role_writes(careful, store_name):
    """
    Also after its connection was handed out, and with it again afterwards.
    """
    with pgstore.Client(careful) as client:
        store = pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)
        with client.transaction() as tx:
            tx.connection.execute("SELECT 1")
            store["a"] = 1
        store["b"] = 2

        assert dict(store.items()) == {"a": 1, "b": 2}


def test_where_it_cannot_write_the_error_names_the_reason(careful, store_name):
    """
    In a joined transaction, which is as its owner began it.
    """
    with (
        pgstore.Client(careful) as client,
        psycopg.connect(careful) as connection,
        pytest.raises(errors.AccessDenied, match="default_transaction_read_only"),
        client.transaction(connection=connection),
    ):
        pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)["a"] = 1


def test_checks_are_run_by_hand_in_an_odd_session(server, database):
    """
    `psql -f`, as `pgstore check` says.
    """
    odd = psycopg.conninfo.make_conninfo(database, options=options(SETTINGS))
    for path in sorted((ROOT / "sql" / "checks").glob("*.sql")):
        command = [str(server.bin_dir / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-d", odd, "-f", str(path)]

        done = subprocess.run(command, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["status"], ["check"], ["gc"]], ids=" ".join)
def test_commands_work_in_odd_sessions(cluster, own_database, store_name, arguments):
    """
    They show what the server gives them as text.
    """
    with pgstore.Client(own_database) as client:
        fill(client, store_name)
    odd = as_odd_writer(cluster, own_database)
    command = [sys.executable, "-c", "from pgstore.cli import main; main()", "--url", odd, *arguments]

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.returncode == 0, done.stdout + done.stderr


def test_where_a_primary_is_looked_for_the_error_names_the_reason(careful, store_name):
    """
    libpq takes the session of such a role for one of a standby.
    """
    port = psycopg.conninfo.conninfo_to_dict(careful)["port"]
    several = psycopg.conninfo.make_conninfo(careful, host="127.0.0.1,127.0.0.1", port=f"{port},{port}")

    with (
        pgstore.Client(several) as client,
        pytest.raises(errors.StoreUnavailable, match="has the role not set default_transaction_read_only"),
    ):
        pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)["a"] = 1
