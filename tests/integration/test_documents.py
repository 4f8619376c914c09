"""The code blocks of the documents are run as they stand there: SQL by psql, commands by a shell."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import pgstore
from tests.fixtures.documents import ROOT, blocks_of

DOCUMENTS = ["sql/README.md"]
BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
RUN_HERE = [block for block in BLOCKS if block.run_by is None]


def fill(url):
    """Make what the queries of sql/README.md ask about, in the database of *url*."""
    with pgstore.Client(url) as client:
        settings = pgstore.Dict.persist("settings", client=client)
        settings.update({"greeting": "hello", "limits": {"cpu": 2, "queues": ["fast", "slow"]}, ("a", 1): 2.5})
        settings.put("token", "secret", ttl=3600)
        pgstore.Dict.persist("settings", environment_name="staging", client=client)["greeting"] = "hi"
        tasks = pgstore.Queue.persist("tasks", max_attempts=1, client=client)
        tasks.put_many([{"order": number, "text": "a lamp"} for number in range(5)])
        tasks.put({"order": 5}, partition="later")
        tasks.get(lease=60).nack()  # a dead letter, for it may be attempted once
        tasks.get(lease=3600)
        tasks.put({"order": 6}, delay=3600)
        models = pgstore.Volume.persist("models", client=client)
        models.put_file(io.BytesIO(b'{"layers": 6}'), "v1/config.json")
        models.put_file(io.BytesIO(b'{"layers": 12}'), "v1/config.json")
        models.put_file(io.BytesIO(os.urandom(300_000)), "v1/weights.bin")
        models.put_file(io.BytesIO(b"# TODO: train\n"), "v1/train.py")
        models.copy_files(["v1/weights.bin"], "v1/weights-again.bin")
        shared = pgstore.NetworkFileSystem.persist("shared", client=client)
        shared.write_file("notes.txt", io.BytesIO(b"hello\n"))


@pytest.fixture(scope="module")
def filled_database(server, migrated_template):
    """The URL of a database with something in every kind of store. Roles that its users make go with it."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        roles_before = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
    url = server.create_database(template=migrated_template)
    fill(url)

    yield url

    server.drop_database(url)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")} - roles_before
        for role in sorted(roles):
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def environ(server, filled_database, empty_database, tmp_path):
    """The environment of a reader: the programs of the server and of pgstore, a database, and another that is empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG"))}
    programs = [Path(sys.executable).parent, server.bin_dir]
    return {
        **kept,
        "PATH": ":".join([*map(str, programs), kept["PATH"]]),
        "PGSTORE_URL": filled_database,
        "OTHER_URL": empty_database,
        "PGSTORE_SERVER_DIR": str(tmp_path / "server"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }


COMMANDS = {
    "sql": ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"],
    "sh": ["bash", "-e", "-u", "-o", "pipefail", "-s"],
}


def run(block, environ, folder, url):
    """Run *block* against *url*, and return what it printed."""
    command = COMMANDS[block.language]
    done = subprocess.run(
        [*command, url] if block.language == "sql" else command,
        input=block.text,
        env={**environ, "PGSTORE_URL": url},
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, re.findall("(?m)^.*(?:ERROR|Error).*$", done.stderr)) == (0, []), done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "block", [block for block in RUN_HERE if block.language in COMMANDS], ids=lambda block: block.id
)
def test_what_a_document_shows_can_be_run(block, environ, tmp_path):
    """
    Views and commands change; their description must follow.
    """
    run(block, environ, tmp_path, environ["OTHER_URL" if block.needs_empty_database else "PGSTORE_URL"])


def test_a_block_that_another_test_runs_names_one_that_there_is():
    """
    A test that was renamed no longer runs it.
    """
    named = [block.run_by.partition("::") for block in BLOCKS if block.run_by]

    assert [(file, name) for file, _, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []


def test_every_kind_of_block_is_run_by_something():
    """
    A language that nobody runs would be left out silently.
    """
    assert {block.language for block in RUN_HERE} <= {*COMMANDS, "text"}
