"""What migrating does: one schema, whichever way and however often and by however many at once it is asked for."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import alembic
import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from pgstore import errors, migrate
from pgstore.migrate import run
from tests.migration import baseline
from tests.migration.conftest import HEAD, ROOT

OLDEST_CODE = "0001"
MIGRATE = "import sys; from pgstore import migrate; print(migrate.upgrade(*sys.argv[1:]))"


def test_the_code_is_written_for_the_newest_revision():
    """
    A revision that nobody names would be applied to no database; two heads could not be applied at all.
    """
    config = Config()
    config.set_main_option("script_location", str(migrate.migration_directory()))

    assert ScriptDirectory.from_config(config).get_heads() == [migrate.SCHEMA_REVISION]


def test_revisions_are_numbered_in_order():
    """
    Clients compare them as text to tell older from newer.
    """
    config = Config()
    config.set_main_option("script_location", str(migrate.migration_directory()))

    newest_first = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]

    assert newest_first == [f"{number:04}" for number in range(len(newest_first), 0, -1)]
    assert migrate.OLDEST_SCHEMA_REVISION in newest_first


def test_the_revisions_give_what_schema_sql_describes(each_cluster):
    """
    sql/schema.sql is what people read, the revisions are what they get.
    """
    migrated, described = each_cluster.database(), each_cluster.database()

    migrate.upgrade(migrated)
    each_cluster.psql(described, (ROOT / "sql" / "schema.sql").read_text())

    options = ("--no-owner", "--no-privileges")
    assert each_cluster.dump(described, *options) == each_cluster.dump(migrated, *options)


@pytest.mark.skipif(
    HEAD != "0001", reason="the schema has changed since: what people read is that of the newest revision"
)
def test_the_first_revision_is_the_schema_as_it_is_described():
    """
    With the reasons, which no database has.
    """
    assert baseline.BASELINE.read_text() == baseline.baseline(), "run `python -m tests.migration.baseline`"


def test_the_script_gives_what_upgrade_gives(each_cluster):
    """
    Where programs may not change the schema, a DBA runs the script, and the programs must not notice the difference.
    """
    migrated, scripted = each_cluster.database(), each_cluster.database()
    roles = each_cluster.roles()

    migrate.upgrade(migrated, roles=roles)
    printed = each_cluster.psql(scripted, migrate.sql(roles=roles))

    assert "WARNING" not in printed
    assert each_cluster.dump(migrated) == each_cluster.dump(scripted)
    assert migrate.upgrade(scripted, roles=roles) == migrate.Report(HEAD, HEAD, tuple(roles), ())


def test_the_script_starts_from_the_revision_asked_for(cluster, next_revision):
    """
    The DBA of a database in use gets the difference, and is stopped before applying the wrong one.
    """
    migrated, scripted, elsewhere = cluster.database(), cluster.database(), cluster.database()
    roles = cluster.roles()
    for url in migrated, scripted:
        migrate.upgrade(url, roles=roles)
    next_revision()

    migrate.upgrade(migrated, roles=roles)
    script = migrate.sql(roles=roles, from_revision=HEAD)
    cluster.psql(scripted, script)

    assert cluster.dump(migrated) == cluster.dump(scripted)
    with pytest.raises(RuntimeError, match=f"starts from revision {HEAD}, the database is at revision 9999"):
        cluster.psql(scripted, script)
    with pytest.raises(RuntimeError, match=f"starts from revision {HEAD}, the database is at nothing"):
        cluster.psql(elsewhere, script)
    with pytest.raises(RuntimeError, match="starts from nothing, the database is at revision 9999"):
        cluster.psql(scripted, migrate.sql(roles=roles))
    with pytest.raises(errors.InvalidError, match=f"no revision '0815', there are {HEAD}, 9999"):
        migrate.sql(from_revision="0815")


def test_upgrading_again_changes_nothing(cluster):
    """
    Deployments run it each time.
    """
    url, roles = cluster.database(), cluster.roles()
    first = migrate.upgrade(url, roles=roles)
    look = "SELECT i.id, i.xmin, r.xmin, r.version_num FROM pgstore.installation i, pgstore.schema_revision r"
    rows, dump = cluster.execute(url, look), cluster.dump(url)

    second = migrate.upgrade(url, roles=roles)

    assert first == migrate.Report(None, HEAD, tuple(roles), ())
    assert second == migrate.Report(HEAD, HEAD, tuple(roles), ())
    assert (cluster.execute(url, look), cluster.dump(url)) == (rows, dump)


def test_an_upgrade_keeps_the_data(cluster, next_revision):
    """
    The point of migrations.
    """
    url, roles = cluster.database(), cluster.roles()
    migrate.upgrade(url, roles=roles)
    cluster.execute(url, "INSERT INTO pgstore.dict_entry (store_id, key, codec, integer_value) VALUES (7, 'a', 'i', 1)")
    newest = next_revision()

    report = migrate.upgrade(url, roles=roles)

    assert (report.before, report.after) == (HEAD, newest)
    assert cluster.execute(url, "SELECT pgstore.dict_size(7), novelty FROM pgstore.dict_entry") == [(1, None)]
    assert cluster.execute(
        url,
        "SELECT column_default FROM information_schema.columns WHERE table_name = 'novelty' AND column_name = 'share'",
    ) == [("'100 %'::text",)]


def test_a_new_installation_says_who_may_use_it(cluster):
    """
    Clients decide by this row, and recognise their database by it.
    """
    one, other = cluster.database(), cluster.database()

    for url in one, other:
        migrate.upgrade(url, roles=None)

    ids = [cluster.execute(url, "SELECT id, oldest_code_revision FROM pgstore.installation") for url in (one, other)]
    assert [[revision for _, revision in rows] for rows in ids] == [[OLDEST_CODE], [OLDEST_CODE]]
    assert ids[0] != ids[1]


def test_ten_processes_at_once_make_one_schema(cluster, environ):
    """
    A deployment starts all its workers together.
    """
    url, roles = cluster.database(), cluster.roles()
    code = f"import sys; from pgstore import migrate; print(migrate.upgrade(sys.argv[1], roles=migrate.{roles}).before)"

    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, url],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    outcomes = [(*process.communicate(timeout=100), process.returncode) for process in processes]

    assert sorted(outcomes) == [(f"{HEAD}\n", "", 0)] * 9 + [("None\n", "", 0)]
    assert cluster.execute(url, "SELECT version_num FROM pgstore.schema_revision") == [(HEAD,)]
    assert cluster.execute(url, "SELECT count(*) FROM pgstore.installation") == [(1,)]


def test_databases_of_one_cluster_migrate_at_once(each_cluster, environ):
    """
    They share the roles, which only one of them can create.
    """
    urls, roles = [each_cluster.database() for _ in range(5)], each_cluster.roles()
    login = each_cluster.login("CREATEROLE")
    for url in urls:
        name = url.rpartition("/")[2]
        each_cluster.execute(url, f'GRANT CREATE ON DATABASE "{name}" TO "{login}"')
    code = f"import sys; from pgstore import migrate; print(migrate.upgrade(sys.argv[1], roles=migrate.{roles}))"

    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, url.replace("postgres@", f"{login}@")],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for url in urls
    ]
    outcomes = [process.communicate(timeout=100) for process in processes]

    assert outcomes == [(f"{migrate.Report(None, HEAD, tuple(roles), ())}\n", "")] * 5
    for url in urls:
        owners = each_cluster.execute(url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'pgstore'")
        assert owners == [(roles.owner,)]


def test_four_threads_at_once_make_one_schema(cluster):
    """
    alembic keeps its state in the process; the first use of a client may well happen in several threads.
    """
    url, roles, start = cluster.database(), cluster.roles(), threading.Barrier(4)

    def run(_):
        start.wait()
        return migrate.upgrade(url, roles=roles).before

    with ThreadPoolExecutor(4) as threads:
        befores = list(threads.map(run, range(4)))

    assert [before for before in befores if before != HEAD] == [None]


def test_migrating_works_through_a_pooler(cluster, pgbouncer):
    """
    The application's URL often leads through one, and it is the only URL the application has.
    """
    url, roles = cluster.database(), cluster.roles()

    first = migrate.upgrade(pgbouncer.url(url), roles=roles)
    second = migrate.upgrade(pgbouncer.url(url), roles=roles)

    assert (first.before, second.before) == (None, HEAD)
    assert second.roles_granted == tuple(roles)


def test_defaults_of_the_database_do_no_harm(cluster):
    """
    Sessions may be read-only, serializable, impatient and looking elsewhere by default.
    """
    url, roles = cluster.database(), cluster.roles()
    name = url.rpartition("/")[2]
    for setting in [
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "statement_timeout = 1",
        "search_path = public",
        "client_encoding = latin1",
    ]:
        with psycopg.connect(
            url, autocommit=True, options="-c statement_timeout=0 -c default_transaction_read_only=off"
        ) as c:
            c.execute(f'ALTER DATABASE "{name}" SET {setting}'.encode())

    # Our look at the server comes before anything can be set.
    report = migrate.upgrade(psycopg.conninfo.make_conninfo(url, options="-c statement_timeout=5000"), roles=roles)

    assert (report.before, report.after) == (None, HEAD)


@pytest.mark.parametrize("authorization", ["", "AUTHORIZATION CURRENT_USER"])
def test_an_existing_empty_schema_is_used(cluster, authorization):
    """
    A DBA who gives nobody CREATE on the database makes the schema instead.
    """
    url, login = cluster.database(), cluster.login()
    if authorization:
        cluster.execute(url, f'CREATE SCHEMA pgstore AUTHORIZATION "{login}"')
    else:
        cluster.execute(url, "CREATE SCHEMA pgstore")
        cluster.execute(url, f'GRANT USAGE, CREATE ON SCHEMA pgstore TO "{login}"')

    report = migrate.upgrade(url.replace("postgres@", f"{login}@"), roles=None)

    assert (report.before, report.after) == (None, HEAD)


def test_an_interrupt_is_told_also_where_the_server_is_slow_to_cancel(cluster, monkeypatch):
    """
    Not the error of a rollback on a connection that is still at work: it would be exit code 1 and a line about nothing.
    """

    def interrupted(bound, connection, place, roles):
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_migrate", interrupted)

    with pytest.raises(KeyboardInterrupt):
        migrate.upgrade(cluster.database())


def test_migrating_is_silent(cluster, caplog, capfd):
    """
    It happens inside other people's programs, whose output and logging are theirs.
    """
    url, roles = cluster.database(), cluster.roles()
    caplog.set_level(logging.DEBUG)
    names = [None, "alembic", "alembic.runtime.migration", "sqlalchemy", "sqlalchemy.engine", "psycopg"]
    before = [(len(logging.getLogger(n).handlers), logging.getLogger(n).filters[:]) for n in names]
    caplog.clear()

    migrate.upgrade(url, roles=roles)
    migrate.sql(roles=roles)

    assert [
        record for record in caplog.records if record.name.partition(".")[0] in ("alembic", "sqlalchemy", "pgstore")
    ] == []
    assert tuple(capfd.readouterr()) == ("", "")
    assert [(len(logging.getLogger(n).handlers), logging.getLogger(n).filters[:]) for n in names] == before


THEIR_ENV = """
import sqlalchemy
from alembic import context

engine = sqlalchemy.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
THEIR_REVISION = """
import pgstore.migrate
import sqlalchemy
from alembic import context, op

revision, down_revision = "theirs", None


def upgrade():
    op.create_table("before", sqlalchemy.Column("id", sqlalchemy.Integer))
    pgstore.migrate.upgrade(context.config.get_main_option("pgstore.url"), roles=None)
    op.create_table("after", sqlalchemy.Column("id", sqlalchemy.Integer))
    assert context.get_bind() is op.get_bind()
"""
THEIR_PROGRAM = """
import sys
from alembic import command
from alembic.config import Config

config = Config()
config.set_main_option("script_location", sys.argv[1])
config.set_main_option("pgstore.url", sys.argv[2])
config.set_main_option("sqlalchemy.url", sys.argv[2].replace("postgresql:", "postgresql+psycopg:"))
command.upgrade(config, "head")
"""


def test_a_revision_of_the_host_application_migrates_too(cluster, environ, tmp_path):
    """
    alembic is at one place at a time in a process, and must go on with theirs after ours.
    """
    url = cluster.database()
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(THEIR_ENV)
    (tmp_path / "versions" / "theirs.py").write_text(THEIR_REVISION)

    subprocess.run([sys.executable, "-c", THEIR_PROGRAM, tmp_path, url], env=environ, check=True)

    tables = cluster.execute(url, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    assert tables == [("after",), ("alembic_version",), ("before",)]
    assert cluster.execute(url, "SELECT version_num FROM pgstore.schema_revision") == [(HEAD,)]


def test_knowing_the_revision_costs_no_alembic(environ):
    """
    Every program imports this module, few of them migrate, and alembic with SQLAlchemy takes a third of a second.
    """
    code = "import sys, pgstore.migrate; print({n.partition('.')[0] for n in sys.modules} & {'alembic', 'sqlalchemy'})"

    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_alembic_is_the_package():
    """
    The folder alembic/ of this checkout must never hide it: it has no __init__.py.
    """
    assert alembic.__file__ is not None
    assert not alembic.__file__.startswith(str(ROOT / "alembic"))
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_an_installed_package_finds_its_files(monkeypatch, tmp_path):
    """
    Beside an installed pgstore lies alembic itself, which has no revisions of ours.
    """
    package = tmp_path / "site-packages" / "pgstore"
    for folder, file in [
        ("pgstore/_migrations", "env.py"),
        ("pgstore/_sql", "schema.sql"),
        ("alembic", "env.py"),
        ("sql", "schema.sql"),
    ]:
        (package.parent / folder).mkdir(parents=True)
        (package.parent / folder / file).touch()
    monkeypatch.setattr(migrate.directories, "__file__", str(package / "migrate" / "directories.py"))

    assert (migrate.migration_directory(), migrate.sql_directory()) == (package / "_migrations", package / "_sql")

    (package / "_sql" / "schema.sql").unlink()
    with pytest.raises(errors.ConfigurationError, match=r"not completely installed: .*_sql/schema.sql is missing"):
        migrate.sql_directory()


def test_a_checkout_finds_its_files_although_it_was_built(monkeypatch, tmp_path):
    """
    A stale copy in the package must not win over the folder that is being edited.
    """
    for folder, file in [("pgstore/_sql", "schema.sql"), ("sql", "schema.sql"), (".", "pyproject.toml")]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / file).touch()
    monkeypatch.setattr(migrate.directories, "__file__", str(tmp_path / "pgstore" / "migrate" / "directories.py"))

    assert tmp_path / "sql" == migrate.sql_directory()


def test_the_first_revision_has_no_way_back(cluster):
    """
    A step back that drops all data is no step back.
    """
    config = Config()
    config.set_main_option("script_location", str(migrate.migration_directory()))
    script = ScriptDirectory.from_config(config).get_revision("0001")

    with pytest.raises(NotImplementedError, match="DROP SCHEMA pgstore CASCADE deletes pgstore and its data"):
        script.module.downgrade()
