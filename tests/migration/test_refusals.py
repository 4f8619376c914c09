"""What migrating refuses, what it says then, and that it leaves nothing behind."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from pathlib import Path

import psycopg
import pytest

from pgstore import errors, migrate
from tests.migration.conftest import HEAD, url_as

HAS_SCHEMA = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstore'"


def test_a_role_without_rights_is_told_what_to_grant(each_cluster):
    """
    The message is run as it stands by somebody who has never heard of pgstore.
    """
    url, login, roles = each_cluster.database(), each_cluster.login(), each_cluster.roles()

    with pytest.raises(errors.AccessDenied) as refusal:
        migrate.upgrade(url_as(url, login), roles=roles)

    database = url.rpartition("/")[2]
    grant = f'GRANT CREATE ON DATABASE "{database}" TO "{login}"'
    assert str(refusal.value) == f"role {login!r} may not create the schema pgstore in database {database!r}: {grant}"
    assert each_cluster.execute(url, HAS_SCHEMA) == [(0,)]
    each_cluster.execute(url, grant)
    assert migrate.upgrade(url_as(url, login), roles=roles) == migrate.Report(None, HEAD, (), tuple(roles))


def test_a_role_without_rights_on_the_schema_is_told_what_to_grant(cluster):
    """
    The same where the schema was made for somebody else.
    """
    url, login = cluster.database(), cluster.login()
    cluster.execute(url, "CREATE SCHEMA pgstore")

    with pytest.raises(errors.AccessDenied) as refusal:
        migrate.upgrade(url_as(url, login), roles=None)

    grant = str(refusal.value).partition(": ")[2]
    assert grant == f'GRANT USAGE, CREATE ON SCHEMA "pgstore" TO "{login}"'
    cluster.execute(url, grant)
    assert migrate.upgrade(url_as(url, login), roles=None).after == HEAD


def test_a_stranger_to_an_installed_schema_is_told_what_to_grant(cluster):
    """
    Not even the revision is for everybody to read.
    """
    url, login, roles = cluster.database(), cluster.login(), cluster.roles()
    migrate.upgrade(url, roles=roles)

    with pytest.raises(errors.AccessDenied) as refusal:
        migrate.upgrade(url_as(url, login), roles=roles)

    grant = str(refusal.value).partition(": ")[2]
    assert grant == f'GRANT "{roles.owner}" TO "{login}"'
    cluster.execute(url, grant)
    assert migrate.upgrade(url_as(url, login), roles=roles).before == HEAD


def test_a_reader_finds_a_finished_schema_and_no_right_to_change_an_old_one(cluster, next_revision):
    """
    A program that migrates at each start runs with its normal login as long as there is nothing to do.
    """
    url, login, roles = cluster.database(), cluster.login(), cluster.roles()
    migrate.upgrade(url, roles=roles)
    cluster.grant(roles.reader, login)

    report = migrate.upgrade(url_as(url, login), roles=roles)
    next_revision()
    with pytest.raises(errors.AccessDenied) as refusal:
        migrate.upgrade(url_as(url, login), roles=roles)

    assert report == migrate.Report(HEAD, HEAD, tuple(roles), ())
    assert str(refusal.value).endswith(f'which belongs to {roles.owner!r}: GRANT "{roles.owner}" TO "{login}"')


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_in_another_encoding_is_refused(cluster, encoding):
    """
    Keys are any text, and text outside UTF8 databases is not.
    """
    url = cluster.database(f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")

    with pytest.raises(
        errors.DatabaseUnsuitable, match=f"has encoding {encoding}, pgstore needs UTF8: CREATE DATABASE"
    ):
        migrate.upgrade(url)
    with pytest.raises(RuntimeError, match="pgstore needs PostgreSQL 14 or later and a UTF8 database"):
        cluster.psql(url, migrate.sql())

    assert cluster.execute(url, HAS_SCHEMA) == [(0,)]


def test_an_old_server_is_refused(cluster, monkeypatch):
    """
    Its statements would fail one by one, later.
    """
    monkeypatch.setattr(migrate.revisions, "OLDEST_SERVER", 990000)

    with pytest.raises(
        errors.DatabaseUnsuitable, match=r"the server is PostgreSQL \d+\.\d+.*, pgstore needs 99 or later"
    ):
        migrate.upgrade(cluster.database())


def test_the_schema_of_a_newer_pgstore_is_refused(cluster):
    """
    An old program must not touch what it does not know.
    """
    url = cluster.database()
    migrate.upgrade(url, roles=None)
    cluster.execute(url, "UPDATE pgstore.schema_revision SET version_num = '0815'")

    with pytest.raises(
        errors.SchemaTooNew, match=f"is at revision 0815, the newest this pgstore knows is {HEAD}: install"
    ):
        migrate.upgrade(url, roles=None)

    assert cluster.execute(url, "SELECT version_num FROM pgstore.schema_revision") == [("0815",)]


@pytest.mark.parametrize(
    ("relation", "definition"),
    [
        ("orders", "TABLE pgstore.orders (id bigint)"),
        ("schema_revision", "TABLE pgstore.schema_revision (version_num varchar(32) PRIMARY KEY)"),
        ("schema_revision", "VIEW pgstore.schema_revision AS SELECT (1 / 0)::text AS version_num"),
    ],
)
def test_a_schema_of_somebody_else_is_refused(cluster, relation, definition):
    """
    The name is a likely one, and a schema laid out for a superuser to step into must not run anything.
    """
    url = cluster.database()
    cluster.execute(url, "CREATE SCHEMA pgstore")
    cluster.execute(url, f"CREATE {definition}")

    with pytest.raises(errors.SchemaError, match=f"holds '{relation}', which no migration made: rename or drop it"):
        migrate.upgrade(url)


@pytest.mark.parametrize("how", ["upgrade", "script"])
@pytest.mark.parametrize(
    ("thing", "definition"),
    [
        ("function", "FUNCTION pgstore.dict_put(text, text, json) RETURNS text LANGUAGE sql AS 'SELECT 1::text'"),
        ("operator", "OPERATOR pgstore.+ (FUNCTION = pg_catalog.textcat, LEFTARG = text, RIGHTARG = text)"),
        ("type", "DOMAIN pgstore.key AS text"),
    ],
)
def test_a_schema_with_somebody_elses_functions_is_refused(cluster, thing, definition, how):
    """
    Whoever may create schemas could lay one out in which they match calls better than ours.
    """
    url, stranger, roles = cluster.database(), cluster.login(), cluster.roles()
    cluster.execute(url, f'CREATE SCHEMA pgstore AUTHORIZATION "{stranger}"')
    cluster.execute(url_as(url, stranger), f"CREATE {definition}")

    if how == "upgrade":
        with pytest.raises(errors.SchemaError, match=f"holds the {thing} pgstore.*, which no migration made: drop the"):
            migrate.upgrade(url, roles=roles)
    else:
        with pytest.raises(RuntimeError, match="holds what no migration made"):
            cluster.psql(url, migrate.sql(roles=roles))

    assert cluster.execute(url, "SELECT to_regclass('pgstore.store') IS NULL") == [(True,)]


def test_a_failure_leaves_nothing_half_made(cluster, monkeypatch):
    """
    Everything is one transaction: the schema, its contents, the revision and the rights.
    """
    url, roles = cluster.database(), cluster.roles()
    monkeypatch.setattr(migrate.run, "roles_script", lambda: "SELECT 1 / 0")

    with pytest.raises(errors.StatementFailed, match="division by zero"):
        migrate.upgrade(url, roles=roles)

    assert cluster.execute(url, HAS_SCHEMA) == [(0,)]


def test_an_interrupt_leaves_nothing_half_made(cluster, monkeypatch):
    """
    Ctrl-C comes at any moment.
    """
    url = cluster.database()

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(migrate.run, "roles_script", interrupt)

    with pytest.raises(KeyboardInterrupt):
        migrate.upgrade(url)

    assert cluster.execute(url, HAS_SCHEMA) == [(0,)]


def test_waiting_for_another_migration_ends(cluster, monkeypatch):
    """
    One that hangs must not take all others with it, unexplained.
    """
    url = cluster.database()
    monkeypatch.setattr(migrate.transaction, "_LOCK_WAIT_SECONDS", 0.1)

    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [migrate.transaction.LOCK_KEY])
        with pytest.raises(errors.StoreUnavailable, match=r"another migration of database '\w+' has been running"):
            migrate.upgrade(url)


def test_a_login_without_rights_that_holds_the_lock_is_named(cluster, monkeypatch):
    """
    Every login may hold an advisory lock; whoever operates the database has to know whom to end.
    """
    url = cluster.database()
    monkeypatch.setattr(migrate.transaction, "_STRANGER_WAIT_SECONDS", 1)

    with psycopg.connect(url_as(url, cluster.login())) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [migrate.transaction.LOCK_KEY])
        with pytest.raises(
            errors.StoreUnavailable, match=rf"process {other.info.backend_pid} of role .*may not migrate"
        ):
            migrate.upgrade(url)


def test_waiting_for_a_busy_table_ends(cluster, monkeypatch, next_revision):
    """
    While DDL waits for a long transaction, everybody else waits for the DDL.
    """
    url = cluster.database()
    migrate.upgrade(url, roles=None)
    next_revision()
    monkeypatch.setattr(migrate.transaction, "_TABLE_WAIT_SECONDS", 0.1)

    with psycopg.connect(url) as other:
        other.execute("SELECT FROM pgstore.dict_entry")
        with pytest.raises(errors.TransactionFailed, match="lock timeout; nothing was changed"):
            migrate.upgrade(url, roles=None)

    assert cluster.execute(url, "SELECT version_num FROM pgstore.schema_revision") == [(HEAD,)]


def test_a_lost_connection_is_reported_as_such(cluster, caplog):
    """
    Not as what SQLAlchemy stumbles over when it then tries to roll back.
    """
    url = cluster.database()
    caught: list[BaseException] = []

    def run():
        try:
            migrate.upgrade(url)
        except BaseException as exc:
            caught.append(exc)

    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [migrate.transaction.LOCK_KEY])
        thread = threading.Thread(target=run)
        thread.start()
        ended = False
        while not ended:
            ended = bool(
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'pgstore migrate' AND wait_event_type = 'Lock'"
                ).fetchall()
            )
            time.sleep(0.01)
        thread.join()

    assert [type(exc) for exc in caught] == [errors.StoreUnavailable]
    assert "terminating connection due to administrator command" in str(caught[0])
    assert caplog.records == []


def test_a_standby_is_refused(own_server):
    """
    With several hosts in a URL any may answer.
    """
    own_server.terminate(signal.SIGINT)
    (Path(own_server.get_data_directory()) / "standby.signal").touch()
    own_server.start()

    with pytest.raises(errors.ConfigurationError, match="the server is a standby"):
        migrate.upgrade(own_server.url())


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:Geheim@localhost/db",
        "postgresql+psycopg://me:Geheim@localhost/db",
        "postgresql://me:x@Geheim@localhost/db",
        "postgresql://me:Geheim/x@localhost/db",
        "postgresql://me:Geheim%zz@localhost/db",
        "host=localhost password=x Geheim",
        "host=localhost pasword=Geheim",
    ],
)
def test_an_unreadable_url_is_refused_without_repeating_it(url):
    """
    What libpq stumbles over is often the password.
    """
    with pytest.raises(errors.ConfigurationError, match="the database URL") as refusal:
        migrate.upgrade(url)

    assert "Geheim" not in "".join(traceback.format_exception(refusal.value)).replace(url, "")


def test_a_server_that_is_not_there_is_unavailable():
    """
    A deployment may try again.
    """
    with pytest.raises(errors.StoreUnavailable) as refusal:
        migrate.upgrade("postgresql://me:Geheim@127.0.0.1:1/db?connect_timeout=5")

    assert "Geheim" not in str(refusal.value)


def test_a_database_that_is_not_there_is_a_mistake_in_the_configuration(server):
    """
    Trying again does not help.
    """
    with pytest.raises(errors.ConfigurationError, match="does not exist"):
        migrate.upgrade(server.url("nowhere"))


def test_a_wrong_password_is_a_matter_of_access(own_server):
    """
    And it is not told to whoever reads the log.
    """
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE ada LOGIN PASSWORD 'right'")
    access = Path(own_server.get_data_directory()) / "pg_hba.conf"
    access.write_text(f"host all ada all scram-sha-256\n{access.read_text()}")
    own_server.restart()

    with pytest.raises(errors.AccessDenied, match="password authentication failed") as refusal:
        migrate.upgrade(own_server.url().replace("postgres@", "ada:Geheim@"))

    assert "Geheim" not in str(refusal.value)


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32, "null\0"])
def test_a_role_name_that_postgres_would_cut_is_refused(name):
    """
    Of 64 bytes it silently drops the last.
    """
    with pytest.raises(errors.InvalidError, match="role name"):
        migrate.Roles(reader=name)
