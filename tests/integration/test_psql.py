"""`pgstore psql`: the database in use, its views in sight, its password in nobody's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from pgstore import errors
from pgstore.admin import programs
from pgstore.admin.psql import psql_command


def psql(url, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "pgstore", "--url", url, "psql", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )


def run(url, *arguments, **variables):
    """Run psql as `pgstore psql` does, in fewer processes."""
    program, command, environ = psql_command(url, arguments)
    return subprocess.run(
        [program, *command[1:]], check=True, capture_output=True, text=True, timeout=60, env={**environ, **variables}
    ).stdout.strip()


def test_the_command_becomes_psql(database):
    """
    Options that are not ours are psql's, and so are its output and its exit code.
    """
    found = psql(database, "-X", "-A", "-t", "-c", "SELECT count(*) >= 0 FROM queue_stats")
    wrong = psql(database, "--", "-X", "-c", "SELECT 1/0")

    assert (found.returncode, found.stdout, found.stderr) == (0, "t\n", "")
    assert wrong.returncode == 1
    assert "division by zero" in wrong.stderr


def test_the_path_of_the_login_stays_before_the_schema(database):
    """
    A table of the user's own is found as ever.
    """
    assert run(database, "-XAtc", "SHOW search_path") == '"$user", public, pgstore'
    assert run(f"{database}?options=-csearch_path%3Dpg_catalog", "-XAtc", "SHOW search_path") == "pg_catalog, pgstore"


def test_other_options_of_the_session_stay(database, monkeypatch):
    """
    From the URL, or from PGOPTIONS.
    """
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=4321")

    assert run(database, "-XAtc", "SHOW statement_timeout; SHOW search_path").splitlines()[0] == "4321ms"
    assert "pgstore" in run(database, "-XAtc", "SHOW search_path")


def test_the_password_is_in_no_argument(database):
    """
    Every user of the machine sees arguments.
    """
    _, command, environ = psql_command(database.replace("postgres@", "postgres:geheim@"))

    assert not [word for word in command if "geheim" in word]
    assert environ["PGPASSWORD"] == "geheim"


def test_a_pooler_that_takes_no_options_is_not_given_any(pgbouncer, database):
    """
    It would refuse the connection.
    """
    assert run(pgbouncer.url(database), "-XAtc", "SELECT count(*) >= 0 FROM pgstore.queue_stats") == "t"


def test_a_closed_pipe_ends_psql(database):
    """
    As where a shell started it: Python ignores SIGPIPE, and so would what it starts.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "pgstore", "--url", database, "psql", "-XAtc", "SELECT generate_series(1, 1000000)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()

        assert process.wait(30) != 0


def test_without_psql_or_with_an_older_one_the_line_says_what_to_do(database, monkeypatch, tmp_path):
    """
    The client tools are a package of their own on most systems.
    """
    monkeypatch.setattr(programs, "candidates", lambda: iter([]))
    with pytest.raises(errors.ConfigurationError, match=r"none was found.*postgresql-client"):
        psql_command(database)

    old = tmp_path / "psql"
    old.write_text("#!/bin/sh\necho 'psql (PostgreSQL) 9.6.1'\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(programs, "candidates", lambda: iter([("system", tmp_path)]))
    with pytest.raises(errors.ConfigurationError, match=r"found: 9\.6\.1"):
        psql_command(database)
