"""The command line as its users meet it: another process, its output and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import pgstore
from pgstore import cli as cli_module
from pgstore import migrate
from tests.fixtures.processes import free_port

COMMANDS = [
    [],
    ["migrate"],
    ["status"],
    ["top"],
    ["psql"],
    ["roles"],
    ["roles", "grant"],
    ["roles", "revoke"],
    ["demo"],
    ["gc"],
    ["check"],
    ["backup"],
    ["restore"],
    ["mount"],
    ["unmount"],
    ["mounts"],
    ["run"],
    ["worker"],
    *([noun, *verb] for noun in ("volume", "nfs") for verb in ([], ["list"], ["delete"])),
    ["dict"],
    *(
        ["dict", verb]
        for verb in ("list", "create", "delete", "clear", "info", "len", "keys", "items", "get", "contains")
    ),
    *(["dict", verb] for verb in ("put", "increment", "pop", "rm", "watch")),
    ["queue"],
    *(["queue", verb] for verb in ("list", "create", "delete", "clear", "info", "len", "stats", "partitions", "peek")),
    *(["queue", verb] for verb in ("items", "put", "get", "watch", "dead", "revive", "discard")),
    ["bucket"],
    ["calls"],
    ["calls", "get"],
    ["calls", "cancel"],
    ["secret"],
    ["secret", "create"],
    ["secret", "list"],
    ["secret", "delete"],
    ["secret", "rotate"],
    ["server"],
    ["server", "start"],
    ["server", "stop"],
    ["server", "status"],
    ["server", "url"],
]


class Cli:
    """Runs `pgstore` with no configuration but the one it is given."""

    def __init__(self, folder: Path):
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG", "DATABASE"))
        }
        self.environ = {**kept, "PGSTORE_SERVER_DIR": str(folder / "server"), "NO_COLOR": "1", "COLUMNS": "80"}
        self.command = [sys.executable, "-c", "from pgstore.cli import main; main()"]
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments, **variables):
        process = subprocess.Popen(
            [*self.command, *arguments],
            env={**self.environ, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def close(self):
        """End what a failed test left behind."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def __call__(self, *arguments, **variables):
        """Run to the end; returns exit code, output and what was complained about."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=90)
        return process.returncode, out, err

    def fails(self, *arguments, code=1, **variables):
        """Run what has to fail; returns its one line."""
        found, _, err = self(*arguments, **variables)
        assert code == found, err
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        return err


@pytest.fixture
def cli(tmp_path):
    cli = Cli(tmp_path)
    yield cli
    cli.close()


def change(url, *statements):
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


# --- help and usage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command, capsys):
    """
    Nobody should need the README to call a command.
    """
    code = cli_module.run([*command, "--help"])

    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "Example:\n" in out
    assert " ".join(["pgstore", *command]) in out.partition("Example:\n")[2]


@pytest.mark.parametrize("listed", cli_module.COMMANDS, ids=lambda listed: listed.name)
def test_the_list_of_commands_says_of_each_what_its_own_help_says(listed):
    """
    The list is made without importing the commands.
    """
    found = listed.make_context(listed.name, [], resilient_parsing=True).command

    assert " ".join(found.help.split("\n\n")[0].split()) == listed.help


def test_the_version_tells_the_schema_revision(cli):
    """
    Both are asked for in bug reports.
    """
    code, out, _ = cli("--version")

    assert code == 0
    assert f"pgstore {pgstore.__version__}, schema revision {migrate.SCHEMA_REVISION}\n" == out


@pytest.mark.parametrize("command", [[], ["server"]], ids=["pgstore", "pgstore server"])
def test_no_command_is_a_usage_error_with_the_help(cli, command):
    """
    A script that forgot the command must not go on.
    """
    code, out, _ = cli(*command)

    assert code == 2
    assert "Commands:" in out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["migrat"], "migrat"),
        (["status", "--url", "x"], "stands before the command"),
        (["status", "surplus"], "surplus"),
        (["demo", "--workers", "0"], "--workers"),
        (["--env"], "requires an argument"),
        (["--env", "two words", "status"], "two words"),
        (["--env", "x" * 65, "status"], "65 characters"),
        (["--url", "", "status"], "--url is empty"),
        (["migrate", "--from", "0001"], "--sql"),
        (["migrate", "--sql", "--from", "7777"], "7777"),
        (["migrate", "--sql", "--reader-role", ""], "role name"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_code_2(cli, arguments, hint):
    """
    Scripts tell a wrong call from a failed one by the code.
    """
    assert hint in cli.fails(*arguments, code=2)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["status", "migrate", "demo"])
def command(request):
    return request.param


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://host/database",
        "postgresql://me:secret@1@host/database",
        "postgresql://me:secret/1@host/database",
        "postgresql://me:secret%zz@host/database",
    ],
)
def test_a_wrong_url_is_named_without_its_password(cli, command, url):
    """
    A password in a log is a password lost.
    """
    line = cli.fails("--url", url, command)

    assert "URL" in line
    assert "secret" not in line


def test_a_server_that_is_down(cli, command):
    """
    The most frequent mistake; the line says where one looked.
    """
    port = free_port()

    line = cli.fails("--url", f"postgresql://me:secret@127.0.0.1:{port}/app", command)

    assert f"me@127.0.0.1:{port}/app" in line
    assert "is it running?" in line
    assert "secret" not in line


def test_an_unknown_host(cli, command):
    """
    A typing error in a host's name takes no timeout.
    """
    assert "host of me@nowhere.invalid/app is unknown" in cli.fails(
        "--url", "postgresql://me@nowhere.invalid/app", command
    )


def test_a_database_that_does_not_exist(cli, command, server):
    """
    The line says how to make one.
    """
    assert "createdb" in cli.fails("--url", server.url("missing"), command)


@pytest.fixture(scope="module")
def guarded(server):
    """A role that has to give a password, which is `right`."""
    server.execute(sql.SQL("CREATE ROLE guarded LOGIN PASSWORD 'right'"))
    rules = Path(server.get_data_directory(), "pg_hba.conf")
    before = rules.read_text()
    rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{before}")
    server.execute(sql.SQL("SELECT pg_reload_conf()"))
    yield f"postgresql://guarded:wrong@127.0.0.1:{server.port}/shared"
    rules.write_text(before)
    server.execute(sql.SQL("SELECT pg_reload_conf()"))


def test_a_wrong_password(cli, command, database, guarded):
    """
    Neither the wrong one nor the right one is repeated.
    """
    line = cli.fails("--url", guarded, command)

    assert "check user and password" in line
    assert "wrong" not in line


@pytest.fixture(scope="module")
def stranger(server):
    """A role without any rights."""
    server.execute(sql.SQL("CREATE ROLE stranger LOGIN"))
    return "stranger"


def as_role(url, role):
    return url.replace("postgres@", f"{role}@")


@pytest.mark.parametrize("command", ["status", "demo"])
def test_a_role_without_rights_is_told_what_to_grant(cli, command, database, stranger):
    """
    The line can be handed to the administrator.
    """
    assert 'GRANT pgstore_writer TO "stranger"' in cli.fails("--url", as_role(database, stranger), command)


def test_a_role_that_may_not_migrate(cli, database, stranger):
    """
    Migrating is for the owner.
    """
    assert "GRANT" in cli.fails("--url", as_role(database, stranger), "migrate")


@pytest.mark.parametrize("command", ["migrate", "demo"])
def test_a_role_that_may_not_create_the_schema(cli, command, empty_database, stranger):
    """
    Nothing is half written.
    """
    line = cli.fails("--url", as_role(empty_database, stranger), command)

    assert "GRANT CREATE ON DATABASE" in line
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstore'").fetchone() == (0,)


def test_a_database_that_is_not_utf8(cli, command, server):
    """
    Text would come back as other text.
    """
    server.execute(sql.SQL("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"))
    try:
        line = cli.fails("--url", server.url("ascii"), command)
    finally:
        server.drop_database(server.url("ascii"))

    assert "SQL_ASCII" in line
    assert "UTF8" in line


def test_a_schema_from_a_newer_pgstore(cli, command, own_database):
    """
    The line says which side has to move.
    """
    change(
        own_database,
        "UPDATE pgstore.schema_revision SET version_num = '9999'",
        "UPDATE pgstore.installation SET oldest_code_revision = '9999'",
    )

    assert "9999" in cli.fails("--url", own_database, command)


def test_status_does_not_count_what_it_cannot_read(cli, own_database):
    """
    "none" would be a lie about a database full of stores.
    """
    change(
        own_database,
        "UPDATE pgstore.schema_revision SET version_num = '9999'",
        "UPDATE pgstore.installation SET oldest_code_revision = '9999'",
    )

    _, text, _ = cli("--url", own_database, "status")
    _, report, _ = cli("--url", own_database, "status", "--json")

    assert "stores" not in text
    assert json.loads(report)["stores"] is None


@pytest.mark.parametrize("command", ["status", "demo"])
def test_an_outdated_schema(cli, command, own_database):
    """
    Upgraded by a command, never unasked.
    """
    change(own_database, "UPDATE pgstore.schema_revision SET version_num = '0000'")

    assert "pgstore migrate" in cli.fails("--url", own_database, command)


def test_a_directory_that_is_missing(cli, database):
    """
    Found before anything is stored.
    """
    assert "missing" in cli.fails("--url", database, "demo", "missing", code=2)


def test_a_directory_for_the_embedded_server_that_cannot_be_one(cli):
    """
    The line names the variable to change.
    """
    assert "PGSTORE_SERVER_DIR" in cli.fails("server", "start", PGSTORE_SERVER_DIR="/dev/null")


def test_the_traceback_is_there_for_those_who_ask(cli):
    """
    A one-line error is of no use to who mends pgstore.
    """
    code, _, err = cli("--url", "nonsense", "status", PGSTORE_DEBUG="1")

    assert code == 1
    assert "Traceback" in err
    assert "\nerror: " in err


# --- migrate and status -----------------------------------------------------------------------------------------------


def test_migrate_tells_what_it_did_and_did_not(cli, empty_database):
    """
    Run at each deploy, it is read in logs.
    """
    first = cli("--url", empty_database, "migrate")
    second = cli("--url", empty_database, "migrate")

    assert 0 == first[0] == second[0]
    assert f"from nothing to revision {migrate.SCHEMA_REVISION}" in first[1]
    assert "pgstore_reader, pgstore_writer, pgstore_owner" in first[1]
    assert "nothing to migrate" in second[1]


def test_migrate_without_roles(cli, empty_database):
    """
    Where roles are made by other means.
    """
    code, out, _ = cli("--url", empty_database, "migrate", "--no-roles")

    assert code == 0
    assert "no roles" in out
    with psycopg.connect(empty_database) as connection:
        assert connection.execute(
            "SELECT coalesce(bool_or(has_schema_privilege(rolname, 'pgstore', 'USAGE')), false) "
            "FROM pg_roles WHERE rolname IN ('pgstore_reader', 'pgstore_writer')"
        ).fetchone() == (False,)


def test_the_printed_migration_needs_no_database_and_does_the_same(cli, empty_database):
    """
    For a DBA who runs nothing unread.
    """
    code, script, _ = cli("migrate", "--sql")
    assert code == 0

    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(script.encode())

    assert "nothing to migrate" in cli("--url", empty_database, "migrate")[1]


def test_status_changes_nothing(cli, empty_database):
    """
    To look is not to use.
    """
    code, out, _ = cli("--url", empty_database, "status")

    assert code == 0
    assert "schema    none" in out
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstore'").fetchone() == (0,)


@pytest.fixture
def filled(own_database):
    with pgstore.Client(own_database) as client:
        one = pgstore.Dict.persist("one", client=client)
        one.update({"a": 1, "b": b"x" * 2000})
        pgstore.Dict.persist("two", client=client)["c"] = 2
        pgstore.Queue.persist("three", environment_name="staging", client=client).put_many([1, 2, 3])
    return own_database


def test_status_counts_stores_by_kind_and_environment(cli, filled):
    """
    What is where, at a glance.
    """
    code, out, _ = cli("status", PGSTORE_URL=filled)

    assert code == 0
    assert "from PGSTORE_URL" in out
    assert ["main", "dict", "2", "3", "2.0", "KiB"] in [line.split() for line in out.splitlines()]
    assert ["staging", "queue", "1", "3"] in [line.split()[:4] for line in out.splitlines()]


def test_status_as_json_of_one_environment(cli, filled):
    """
    For monitoring.
    """
    code, out, _ = cli("--env", "staging", "status", "--json", DATABASE_URL=filled)

    report = json.loads(out)
    assert code == 0
    assert report["source"] == "DATABASE_URL"
    assert migrate.SCHEMA_REVISION == report["schema_found"] == report["schema_needed"]
    assert {"pgstore_reader", "pgstore_writer"} <= set(report["roles"])
    assert [tuple(s.values())[:4] for s in report["stores"]] == [("staging", "queue", 1, 3)]


def test_a_reader_learns_what_it_may_and_what_to_grant(cli, filled, server):
    """
    A list of roles alone reads as if they were the reader's own.
    """
    server.execute(sql.SQL("CREATE ROLE status_reader LOGIN IN ROLE pgstore_reader"))
    url = as_role(filled, "status_reader")

    refused = cli.fails("--url", url, "dict", "put", "one", "a", "2")

    assert "status_reader may read\n" in cli("--url", url, "status")[1]
    assert json.loads(cli("--url", url, "status", "--json")[1])["may"] == "read"
    assert 'GRANT pgstore_writer TO "status_reader"' in refused
    assert json.loads(cli("--url", filled, "status", "--json")[1])["may"] == "do everything, and migrate"


# --- demo -------------------------------------------------------------------------------------------------------------


def test_the_demo_shows_equal_sums_and_leaves_its_calls_alone(cli, own_database):
    """
    The second thing a newcomer runs, in the environment that was asked for.
    """
    code, out, err = cli("--url", own_database, "--env", "trial", "demo")

    assert (code, err) == (0, "")
    assert "all but committed" in out
    assert "The totals agree" in out
    assert re.findall(r"^ trial +(\w+) +(\d+) ", cli("--url", own_database, "status")[1], re.MULTILINE) == [
        ("app", "1")
    ]


# --- the embedded server ----------------------------------------------------------------------------------------------


def test_the_embedded_server_from_start_to_stop(cli):
    """
    The whole life of a database without a word of configuration.
    """
    before = cli("server", "status")
    status_before = cli.fails("status")
    code, url, err = cli("server", "start")
    try:
        assert (code, err) == (0, "")
        assert (0, url, "") == cli("server", "url")
        assert cli("migrate")[0] == 0
        status = cli("status")
        running = cli("server", "status")
    finally:
        stopped = cli("server", "stop")

    assert before[0] == 1
    assert "state      not running\n" in before[1]
    assert "pgstore server start" in status_before
    assert "from the embedded server" in status[1]
    assert running[0] == 0
    assert "state      running\n" in running[1]
    assert stopped == (0, "stopped\n", "")
    assert cli("server", "stop") == (0, "it was not running\n", "")


# --- signals and pipes ------------------------------------------------------------------------------------------------


def test_a_closed_pipe_is_no_error_to_talk_about(cli):
    """
    `pgstore migrate --sql | head` shows the head and nothing else.
    """
    process = cli.start("migrate", "--sql")
    process.stdout.close()
    process.stdout = None

    _, err = process.communicate(timeout=30)

    assert err == ""


def test_ctrl_c_ends_quietly(cli, own_database):
    """
    Whoever interrupts knows that they did.
    """
    with psycopg.connect(own_database) as blocker:
        blocker.execute("SELECT pg_advisory_xact_lock(%s)", [migrate.transaction.LOCK_KEY])
        process = cli.start("--url", own_database, "migrate")
        wait_for_lock(own_database)

        process.send_signal(signal.SIGINT)

        out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (130, "", "")


def wait_for_lock(url):
    deadline = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone():
            assert time.monotonic() < deadline, "the migration does not wait for the lock"
            time.sleep(0.01)


def test_importing_pgstore_imports_no_command_line():
    """
    Programs do not pay for what only commands need.
    """
    code = "import sys, pgstore; pgstore.Client; print([name for name in ('typer', 'rich', 'click') if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
