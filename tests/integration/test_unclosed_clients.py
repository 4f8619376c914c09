"""Clients that a program does not close: nothing is lost, nothing is warned of, and what nobody can use any more is let go."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg

PROGRAM = """
import asyncio, gc, os, time
import psycopg, pgstore

url = os.environ["PGSTORE_URL"]

def count():
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()[0]

def of_a_function():
    client = pgstore.Client(url)
    entries = pgstore.Dict.from_name("entries", create_if_missing=True, client=client)
    entries["k"] = 1
    with entries.lock("l"):
        pgstore.Queue.from_name("items", create_if_missing=True, client=client).put(1)
    print("in use", count() > 0)

of_a_function()
gc.collect()
until = time.monotonic() + 20
while count() and time.monotonic() < until:
    time.sleep(0.01)
print("left", count())

async def of_a_loop():
    client = pgstore.Client(url)
    entries = pgstore.Dict.from_name("entries", create_if_missing=True, client=client)
    return await entries.get.aio("k")

print("awaited", asyncio.run(of_a_loop()))
files = pgstore.Volume.from_name("files", create_if_missing=True)  # of the default client, until the end
files.write_text("a", "text")
file = files.open("a")
passing = pgstore.Dict.ephemeral()
passing["k"] = file.read()
waiting = iter(pgstore.Queue.from_name("items").iterate())
print("read", passing["k"], next(waiting))
"""


def test_clients_that_are_not_closed_are_warned_of_by_nobody_and_let_go(own_database):
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM],
        env=os.environ | {"PGSTORE_URL": own_database},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == ["in use True", "left 0", "awaited 1", "read text 1"]
    with psycopg.connect(own_database) as connection:
        assert connection.execute("SELECT count(*) FROM pgstore.store WHERE name IS NULL").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pgstore.session").fetchone() == (0,)
