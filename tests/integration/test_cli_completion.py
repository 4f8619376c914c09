"""Completion in a shell: what Tab makes of a line."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pytest
import typer

import pgstore
from pgstore.cli import app, completion

SECONDS_MAX = 30.0


class Shell:
    """A bash that a person types in, with completion as `pgstore --show-completion` gives it."""

    def __init__(self, folder):
        program = folder / "pgstore"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pgstore "$@"\n')
        program.chmod(0o755)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG", "DATABASE"))
        }
        environ = {**kept, "PATH": f"{folder}:{kept['PATH']}", "PGSTORE_SERVER_DIR": str(folder / "server")}
        environ |= {"TERM": "dumb", "COLUMNS": "500", "INPUTRC": "/dev/null"}
        script = subprocess.run(
            [str(program)],
            env={**environ, "_PGSTORE_COMPLETE": "source_bash"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        (folder / "rc").write_text(f"PS1='ready$ '\nstty cols 500\nbind 'set enable-bracketed-paste off'\n{script}\n")
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--rcfile", str(folder / "rc"), "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            cwd=folder,
            start_new_session=True,
        )
        os.close(theirs)
        self.read_until("ready$ ")

    def read_until(self, awaited):
        seen = ""
        deadline = time.monotonic() + SECONDS_MAX
        while awaited not in seen:
            assert select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))[0], seen
            seen += os.read(self.terminal, 65536).decode()
        return seen

    def words(self, line):
        """Type *line*, and Tab; returns the words that then stand there. They are printed, not run."""
        os.write(self.terminal, f"{line}\t\x01printf '<%s>' \x05 end\r".encode())  # Ctrl-A, Ctrl-E: to either end
        return [word for word in re.findall("<(.*?)>", self.read_until("<end>")) if word not in ("%s", "end")]

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path)
    yield shell
    shell.close()


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

    assert shell.words("pgstore worke") == ["pgstore", "worker"]
    assert shell.words("pgstore secret rot") == ["pgstore", "secret", "rotate"]
    assert shell.words("pgstore gc --dry") == ["pgstore", "gc", "--dry-run"]
    assert shell.words(f"{options} gc mod") == [*options.split(), "gc", "models-of-cats"]
    assert shell.words(f"pgstore --url {database} dict delete -e {stored} mod")[-1] == "models-in-a-dict"
    assert shell.words(f"{options} mount nfs no") == [*options.split(), "mount", "nfs", "notes"]
    assert shell.words(f"pgstore --url={database} --env compl")[-1] == "completed"
    assert shell.words(f"{options} calls --app mod")[-1] == "mod"


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
