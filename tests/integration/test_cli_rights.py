"""`pgstore dict` and `pgstore queue` for a role that may only read, and without a server: one line, and nothing half done."""

from __future__ import annotations

import pytest
from psycopg import sql

import pgstore
from tests.fixtures.processes import free_port

READS = [
    "dict items it",
    "dict get it a",
    "dict len it",
    "queue peek it 2",
    "queue items it",
    "queue list",
    "queue stats it",
]
READS += ["queue watch it --timeout 0", "queue dead it"]
WRITES = [
    "dict put it a b",
    "dict pop it a",
    "dict rm it a",
    "dict increment it a",
    "dict clear it -y",
    "dict delete it -y",
]
WRITES += [
    "dict create new",
    "queue create new",
    "queue put it a",
    "queue get it",
    "queue clear it -y",
    "queue revive it -a",
]


@pytest.fixture(scope="module")
def reader(server):
    """A role that may only read."""
    server.execute(sql.SQL("CREATE ROLE looks_on LOGIN IN ROLE pgstore_reader"))
    return "looks_on"


def test_a_role_that_may_only_read_reads_and_is_told_what_it_may_not(commands, client, database, reader):
    made = {"environment_name": commands.environment, "create_if_missing": True, "client": client}
    store, queue = pgstore.Dict.from_name("it", **made), pgstore.Queue.from_name("it", **made)
    store["a"] = 1
    queue.put(1)
    commands.url = database.replace("postgres@", f"{reader}@")

    for command in READS:
        code, _, err = commands(*command.split())
        assert (code, err) == (0, ""), command
    for command in WRITES:
        assert "pgstore_writer" in commands.fails(*command.split()), command
    assert (store.items(), queue.peek(2)) == ([("a", 1)], [1])


@pytest.mark.parametrize("command", ["dict get it a", "queue list", "queue get it --block"])
def test_a_server_that_is_down_is_one_line(commands, command):
    commands.url = f"postgresql://me:secret@127.0.0.1:{free_port()}/app"

    line = commands.fails(*command.split())

    assert "is it running?" in line
    assert "secret" not in line
