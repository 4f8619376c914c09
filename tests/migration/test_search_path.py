"""Whatever others create in a schema of the search_path, pgstore does not call it: no statement, view, function or script.

The shadows (tests/fixtures/shadows.py) are what would be called wherever a statement leaves room for it. Each of them raises.
"""

from __future__ import annotations

import gc
import importlib
import io
import itertools
import pkgutil
import re
import subprocess
import sys

import psycopg
import pytest

import pgstore
from pgstore import errors, migrate
from pgstore.core.search_path import fault_of
from pgstore.core.statement import Statement
from pgstore.dict import scan
from pgstore.queue import put, take
from tests.fixtures.everything import BY_HAND, open_files, read_everything, use_everything, use_queue
from tests.fixtures.shadows import Shadows
from tests.migration.conftest import ROOT, url_as

UTILITY = re.compile(r"(SET|BEGIN|COMMIT|LOCK|VACUUM|FETCH|CLOSE|LISTEN|UNLISTEN)\b")
CHECKS = {path.stem: path.read_text() for path in sorted((ROOT / "sql" / "checks").glob("*.sql"))}
SCRIPTS = [(ROOT / "sql" / "schema.sql").read_text(), (ROOT / "sql" / "admin" / "roles.sql").read_text()]


def statements():
    """Every statement of the package, of all forms."""
    for module in pkgutil.walk_packages(pgstore.__path__, "pgstore."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    yes_no = [False, True]
    terms = ["delayed", "keyed", "ordered", "async_commit", "bounded", "notify", "repeatable", "timed"]
    made = [
        *(
            put.put_with_options(**dict(zip(terms, form, strict=True)))[0]
            for form in itertools.product(yes_no, repeat=len(terms))
        ),
        *(
            take.take_with_options(leased=a, async_commit=b, notify=c)
            for a, b, c in itertools.product(yes_no, repeat=3)
        ),
        *(
            scan.page("", low=low, high=high, reverse=reverse)
            for low, high, reverse in itertools.product(["", ">", ">="], ["", "<", "<="], yes_no)
        ),
    ]
    found = {*made, *(each for each in gc.get_objects() if isinstance(each, Statement))}
    texts = {(text.decode(), each.types) for each in found for text in (each.sql, each.portable_sql)}
    return sorted((re.sub(r"^DECLARE \w+ NO SCROLL CURSOR FOR", "", text), types) for text, types in texts)


def all_sql():
    return [*(text for text, _ in statements()), *CHECKS.values(), *SCRIPTS, migrate.GRANTEES]


@pytest.fixture(scope="module")
def shadowed(server, migrated_template):
    """The URL of a migrated database, of a superuser, and its shadows."""
    url = server.create_database(template=migrated_template)
    with psycopg.connect(url, autocommit=True, options="-c search_path=pg_catalog") as connection:
        shadows = Shadows(connection)
        shadows.make(all_sql())
        yield url, shadows
    server.drop_database(url)


@pytest.fixture
def url(shadowed):
    """The URL of the database with shadows, none of which must be called in the test."""
    url, shadows = shadowed
    shadows.forget()
    yield url
    assert not shadows.called()


def test_no_statement_and_no_check_can_mean_what_stands_in_public(shadowed):
    """
    In no branch, and whether it is prepared, joined, pooled or typed into psql.
    """
    _, shadows = shadowed
    texts = [(text, types) for text, types in statements() if not UTILITY.match(text)]
    texts += [(text.strip().rstrip(";"), ()) for text in (*CHECKS.values(), migrate.GRANTEES)]

    matched = {" ".join(text.split()): shadows.matched_by(text, types) for text, types in texts}

    assert {text: names for text, names in matched.items() if names} == {}
    assert len(matched) > 300


@pytest.mark.parametrize(
    "careless",
    [
        "SELECT 'a'::text || current_database()",
        "SELECT count(id) FROM pgstore.store",
        "SELECT 1 FROM unnest($1) AS u (id)",
        "SELECT 1 FROM pgstore.inode i WHERE i.ino = $2",
        "SELECT CASE i.kind WHEN 'f' THEN 1 END FROM pgstore.inode i",
        "SELECT nullif(d.name, '\\x00') FROM pgstore.dirent d",
        "SELECT nextval('pgstore.chunk_id_seq')",
        "SELECT concat_ws('/', 1::bigint, 1, 1.5)",
        "SELECT s.options ->> 'ttl' FROM pgstore.store s",
        "SELECT $2 * 2.5",
    ],
)
def test_a_statement_that_leaves_room_is_found(shadowed, careless):
    """
    A test that finds nothing is worth nothing.
    """
    _, shadows = shadowed

    assert shadows.matched_by(careless, ["int8[]", "int8"])


def test_a_shadow_that_is_called_is_noticed(server, migrated_template):
    """
    Also where whoever called it goes on.
    """
    url = server.create_database(template=migrated_template)
    try:
        with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url, autocommit=True) as by_a_user:
            shadows = Shadows(connection)
            shadows.make(["count(x)"])
            by_a_user.execute("SELECT count(*) FROM pgstore.store")
            assert not shadows.called()
            with pytest.raises(psycopg.errors.RaiseException, match="shadow called: count on"):
                by_a_user.execute("SELECT count(1)")
            assert shadows.called()
    finally:
        server.drop_database(url)


# -------------------------------------------------------------------------------------------------------- all the stores


@pytest.fixture(params=["writer", "owner", "superuser"])
def login(request, cluster, url):
    """The URL of the database for a member of the role."""
    if request.param == "superuser":
        return url
    name = cluster.login()
    cluster.grant(f"pgstore_{request.param}", name)
    return url_as(url, name)


def test_stores_call_nobody_else(call, login, store_name):
    """
    In sessions of pgstore's own, whoever it logs in as.
    """
    client = call.client(login)

    use_everything(call, client, store_name)


def test_files_locks_and_ephemeral_stores_call_nobody_else(url, store_name):
    """
    Sessions, pins and leases have statements of their own.
    """
    with pgstore.Client(url) as client:
        open_files(client, store_name)


def test_a_reader_calls_nobody_else(call, url, cluster, store_name):
    """
    A dashboard, say.
    """
    use_everything(call, call.client(url), store_name)
    name = cluster.login()
    cluster.grant("pgstore_reader", name)
    client = call.client(url_as(url, name))

    read_everything(call, client, store_name)


@pytest.fixture
def direct():
    """Calls operations in the blocking form."""
    from tests.fixtures.clients import Call

    return Call("blocking")


def test_a_transaction_whose_connection_was_handed_out_calls_nobody_else(direct, login, store_name):
    """
    The session has the caller's search_path again.
    """
    with pgstore.Client(login) as client, client.transaction() as tx:
        assert tx.connection.execute("SHOW search_path").fetchone() == ('"$user", public',)

        use_everything(direct, client, store_name)


def test_a_joined_transaction_calls_nobody_else(direct, login, store_name):
    """
    The session is the caller's.
    """
    with pgstore.Client(login) as client, psycopg.connect(login) as connection:
        with client.transaction(connection=connection):
            use_everything(direct, client, store_name)
        connection.commit()


def test_behind_a_pooler_nobody_else_is_called(call, pgbouncer, url, store_name):
    """
    Nothing can be set there that stays.
    """
    client = call.client(pgbouncer.url(url))

    use_everything(call, client, store_name)


def test_sql_by_hand_calls_nobody_else(direct, login, url, store_name):
    """
    Functions have a search_path of their own, and views mean what they meant when they were made.
    """
    with pgstore.Client(url) as client:
        store = pgstore.Dict.from_name(f"{store_name}-dict", create_if_missing=True, watch=True, client=client)
        store.update({"a": {1: b"x"}, "b": "é\\\0\ud800", "c": 1.5, "d": 2**70, "e": {1, 2}})
        use_queue(direct, client, f"{store_name}-queue")
        for kind, name in ((pgstore.Volume, "volume"), (pgstore.NetworkFileSystem, "nfs")):
            files = kind.from_name(f"{store_name}-{name}", create_if_missing=True, client=client)
            files.put_file(io.BytesIO(b"small"), "/small")
            files.put_file(io.BytesIO(b"x" * 100_000), "/d/large")
    with psycopg.connect(login, autocommit=True) as connection:
        for statement in BY_HAND:
            connection.execute(statement.format(name=store_name).encode())


def pgstore_command(url, *arguments):
    command = [sys.executable, "-c", "from pgstore.cli import main; main()", "--url", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("arguments", [["status"], ["check"], ["check", "--repair"], ["migrate"], ["gc"]], ids=" ".join)
def test_commands_call_nobody_else(url, store_name, arguments):
    """
    They are run as the administrator, whose rights are worth having.
    """
    with pgstore.Client(url) as client:
        open_files(client, store_name)

    done = pgstore_command(url, *arguments)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("options", [[], ["-1"]], ids=["by itself", "in a transaction"])
def test_the_script_of_roles_calls_nobody_else(url, server, options):
    """
    Run by hand, in a session that nobody has prepared, which it leaves as it was.
    """
    command = [str(server.bin_dir / "psql"), "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", *options, "-d", url]
    script = str(ROOT / "sql" / "admin" / "roles.sql")

    done = subprocess.run(
        [*command, "-f", script, "-c", "SHOW search_path"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.strip()) == (0, '"$user", public'), done.stderr


@pytest.mark.parametrize("how", ["upgrade", "script"])
def test_a_first_migration_calls_nobody_else(cluster, how):
    """
    The shadows were there before pgstore.
    """
    url = cluster.database()
    with psycopg.connect(url, autocommit=True, options="-c search_path=pg_catalog") as connection:
        shadows = Shadows(connection)
        shadows.make(all_sql())
        roles = cluster.roles()

        if how == "upgrade":
            migrate.upgrade(url, roles=roles)
        else:
            cluster.psql(url, migrate.sql(roles=roles))

        assert not shadows.called()


# ------------------------------------------------------------------------------------- a path that nothing can help with


@pytest.mark.parametrize(
    ("path", "is_safe"),
    [
        ("", True),
        ('"$user", public', True),
        ("pg_catalog, public", True),
        ("pg_catalog", True),
        ('"PG_CATALOG", public', True),
        ("public, pg_catalog_2", True),
        ('"a, pg_catalog"', True),
        ("public, pg_catalog", False),
        ("public,PG_CATALOG", False),
        ('"$user", "pg_catalog"', False),
        ('"a""b", pg_catalog', False),
        ("pg_temp, pg_catalog", False),
    ],
)
def test_a_path_is_safe_if_pg_catalog_is_first_in_it(sql, path, is_safe):
    """
    Where it is not named, PostgreSQL puts it first.
    """
    assert (fault_of(path) is None) == is_safe


@pytest.fixture
def looking_into_public(own_database, cluster):
    """The URL of a database whose sessions have such a path."""
    name = own_database.rpartition("/")[2]
    cluster.execute(own_database, f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
    with psycopg.connect(own_database, autocommit=True) as connection:
        shadows = Shadows(connection)
        shadows.make([])
        # With what is first in public now, these would be called even by exact statements.
        for name, result in [("pg_backend_pid", "int"), ("current_database", "name"), ("current_setting", "text")]:
            argument = "text" if name == "current_setting" else ""
            connection.execute(_TRAP.format(name=name, argument=argument, result=result).encode())
        yield own_database
        assert not shadows.called()


_TRAP = """
CREATE FUNCTION public.{name}({argument}) RETURNS {result} LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_catalog.nextval('public.shadows_called'); RAISE EXCEPTION 'shadow called'; END $$
"""


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
def test_a_session_that_looks_into_public_first_is_refused(call, looking_into_public, request, pooled):
    """
    The message says what was found, and what to do. Nothing was called before.
    """
    url = request.getfixturevalue("pgbouncer").url(looking_into_public) if pooled else looking_into_public
    store = pgstore.Dict.from_name("any", create_if_missing=True, client=call.client(url))

    with pytest.raises(errors.ConfigurationError, match="names pg_catalog after 'public'.*name pg_catalog first"):
        call(store.put, "a", 1)


def test_a_migration_refuses_such_a_session_too(looking_into_public):
    """
    It would be one of an administrator's.
    """
    with pytest.raises(errors.ConfigurationError, match="names pg_catalog after 'public'"):
        migrate.upgrade(looking_into_public)


def test_such_a_connection_is_not_joined(looking_into_public, url):
    """
    Its session is the caller's, who may set a path at any time.
    """
    with (
        pgstore.Client(url) as client,
        psycopg.connect(looking_into_public) as connection,
        pytest.raises(errors.InvalidError, match="connection to join has the search_path.*names pg_catalog after"),
        client.transaction(connection=connection),
    ):
        pass


# ------------------------------------------------------------------------------------------- whose path a statement has


def test_the_callers_own_sql_has_their_path(sql, database, store_name):
    """
    Also after a nested block was undone in which they got hold of the connection, and what they set stays set.
    """
    table = f"t{abs(hash(store_name))}"
    sql(f"CREATE TABLE public.{table} ()".encode())
    with pgstore.Client(database) as client, client.transaction() as tx:
        pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)["a"] = 1
        with pytest.raises(ZeroDivisionError), client.transaction() as inner:
            inner.connection.execute(f"SELECT FROM {table}".encode())
            raise ZeroDivisionError

        tx.connection.execute(f"SELECT FROM {table}".encode())
        tx.connection.execute("SET LOCAL search_path = pg_temp")
        with pytest.raises(ZeroDivisionError), client.transaction():
            raise ZeroDivisionError
        assert tx.connection.execute("SHOW search_path").fetchone() == ("pg_temp",)


def test_sessions_of_pgstores_own_look_nowhere_else(database):
    """
    A second lock on the door.
    """
    with pgstore.Client(database) as client, client.transaction() as tx:
        pgstore.Dict.from_name("any", create_if_missing=True, client=client).len()
        assert tx.root.connection.pgconn.exec_(b"SHOW search_path").get_value(0, 0) == b"pg_catalog, pg_temp"
