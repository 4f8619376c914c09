"""Completion in a shell: what Tab makes of a line."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time

import pytest
import typer

import pgstore
from pgstore.cli import app, completion
from tests.fixtures.terminal import terminal


@pytest.fixture
def shell(tmp_path):
    """What a person types in a bash with completion, and Tab: the words of a line that it makes of it."""
    program = tmp_path / "pgstore"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pgstore "$@"\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG", "DATABASE"))}
    environ = {**kept, "PATH": f"{tmp_path}:{kept['PATH']}", "PGSTORE_SERVER_DIR": str(tmp_path / "server")}
    environ |= {"TERM": "dumb", "INPUTRC": "/dev/null"}
    script = subprocess.run(
        [str(program)], env={**environ, "_PGSTORE_COMPLETE": "source_bash"}, check=True, capture_output=True, text=True
    ).stdout
    (tmp_path / "rc").write_text(f"PS1='ready$ '\nbind 'set enable-bracketed-paste off'\n{script}\n")
    command = ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"]

    def words(line):
        bash.type(
            f"{line}\t\x01printf '<%s>' \x05 end\r"
        )  # Ctrl-A, Ctrl-E: to either end, so that they are printed, not run
        return [word for word in re.findall("<(.*?)>", bash.read_until("<end>")) if word not in ("%s", "end")]

    with terminal(command, columns=500, env=environ, cwd=tmp_path) as bash:
        bash.read_until("ready$ ")
        yield words


@pytest.fixture
def stored(client):
    """An environment of its own, so that nobody else's names begin alike."""
    environment = "completed"
    stores = {pgstore.Volume: "models-of-cats", pgstore.NetworkFileSystem: "notes", pgstore.Dict: "models-in-a-dict"}
    for kind, name in stores.items():
        kind.persist(name, client=client, environment_name=environment).hydrate()
    yield environment
    for kind, name in stores.items():
        kind.objects.delete(name, client=client, environment_name=environment)


def test_tab_completes_commands_options_and_names_of_stores(shell, database, stored):
    """
    By a real bash, which divides a URL at each of its colons. Only stores of the kind that the command is about come.
    """
    options = f"pgstore --url {database} --env {stored}"

    assert shell("pgstore worke") == ["pgstore", "worker"]
    assert shell("pgstore secret rot") == ["pgstore", "secret", "rotate"]
    assert shell("pgstore gc --dry") == ["pgstore", "gc", "--dry-run"]
    assert shell(f"{options} gc mod") == [*options.split(), "gc", "models-of-cats"]
    assert shell(f"pgstore --url {database} dict delete -e {stored} mod")[-1] == "models-in-a-dict"
    assert shell(f"{options} mount nfs no") == [*options.split(), "mount", "nfs", "notes"]
    assert shell(f"pgstore --url={database} --env compl")[-1] == "completed"
    assert shell(f"{options} calls --app mod")[-1] == "mod"


def completed(*options, env=None, of="volume", beginning="mod"):
    """The names that are offered after *options* of `pgstore` and, after the command, `--env` *env*."""
    command = typer.main.get_command(app)
    outer = command.make_context("pgstore", [*options, "gc"], resilient_parsing=True)
    inner = typer.Context(command, parent=outer)
    inner.params = {"env": env}
    return completion.names(of)(inner, beginning)


def test_the_environment_of_the_command_goes_before_that_of_pgstore(database, stored, monkeypatch):
    """
    As when the command is run.
    """
    monkeypatch.setenv("PGSTORE_URL", database)

    assert completed("-e", stored, env="other") == []
    assert completed("-e", "other", env=stored) == ["models-of-cats"]
    assert completed("-e", stored) == ["models-of-cats"]
    assert completed("-e", "other") == []
    monkeypatch.setenv("PGSTORE_ENVIRONMENT", stored)
    assert completed() == ["models-of-cats"]


@pytest.mark.parametrize("url", ["nonsense", " ", "postgresql://me@127.0.0.1:1/app"])
def test_completion_is_silent_where_there_is_no_database(url, capfd):
    """
    An error in the middle of a line that is being typed helps nobody.
    """
    assert completed("--url", url) == []
    assert capfd.readouterr() == ("", "")


def test_completion_starts_no_embedded_server(tmp_path, monkeypatch):
    """
    Tab must not make a database.
    """
    for name in ("PGSTORE_URL", "DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGSTORE_SERVER_DIR", str(tmp_path / "server"))

    assert completed() == []
    assert not (tmp_path / "server").exists()


def test_completion_gives_up_after_a_second(monkeypatch):
    """
    A server that says nothing must not hold the prompt.
    """
    monkeypatch.setattr(completion, "SECONDS_MAX", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()

        assert completed("--url", f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/app") == []

    assert time.monotonic() - started < 2  # which is the least that libpq waits
