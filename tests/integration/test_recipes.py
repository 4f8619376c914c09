"""Recipes of sql/README.md, "Backup", that need servers of their own: their blocks are run as they stand there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import pgstore
from pgstore import migrate
from tests.faults.conftest import until
from tests.fixtures import inventory
from tests.fixtures.documents import ROOT, blocks_of
from tests.fixtures.processes import free_port, give_away, unprivileged
from tests.fixtures.server import Server

PUBLISHED_MIN = 150000  # FOR TABLES IN SCHEMA


def block(heading: str, number: int, **replaced: str) -> str:
    """The text of a block of sql/README.md, with places of ours in the place of its examples."""
    (found,) = (each.text for each in blocks_of("sql/README.md") if (each.heading, each.number) == (heading, number))
    for example, ours in replaced.items():
        assert example in found
        found = found.replace(example, ours)
    return found


def run(command: list[str], text: str, server: Server, *, as_server: bool = False, **variables: str) -> str:
    """Run a block; *as_server*: as the user whose the servers are."""
    programs = f"{Path(sys.executable).parent}:{server.bin_dir}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        input=text,
        env={"PATH": programs, "PYTHONPATH": str(ROOT), **variables},
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
        **(unprivileged() if as_server else {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_sql(server: Server, url: str, text: str) -> str:
    return run(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", url], text, server).strip()


def run_sh(server: Server, text: str, **options: str | bool) -> str:
    return run(["bash", "-e", "-u", "-o", "pipefail", "-s"], text, server, **options)  # type: ignore[arg-type]


@pytest.fixture
def secret_key(monkeypatch):
    monkeypatch.setenv("PGSTORE_SECRET_KEY", inventory.SECRET_KEY)


@pytest.fixture
def backups():
    """Where base backups and the log go, of the user whose the servers are."""
    folder = Path(tempfile.mkdtemp(prefix="pgstore-backups-"))
    (folder / "wal").mkdir()
    give_away(folder)
    yield folder
    if (folder / "log").exists():
        print((folder / "log").read_text())  # shown where the test has failed
    base = folder / "base"
    if (base / "postmaster.pid").exists():
        os.kill(int((base / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        until(lambda: not (base / "postmaster.pid").exists())
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_cluster_goes_back_to_a_point_in_time(secret_key, backups):
    """
    To the moment before an accident, from a base backup that is older than most of what was there.
    """
    heading, places = "Back to a point in time", {"/var/backups": str(backups)}
    with Server() as server:
        # Of the copy, too, where what stands on this server's command line is not.
        for setting in ("unix_socket_directories = '/tmp'", "max_connections = 200", "fsync = off"):
            server.execute(sql.SQL("ALTER SYSTEM SET " + setting))
        run_sql(server, server.url(), block(heading, 1, **places))
        server.restart()
        url = server.create_database("app")
        migrate.upgrade(url)
        run_sh(server, block(heading, 2, **places), as_server=True, PGSTORE_URL=url)
        inventory.fill(url)
        expected = inventory.inventory(url)
        with psycopg.connect(url, autocommit=True) as connection:
            ((moment,),) = connection.execute("SELECT (clock_timestamp() + interval '1 ms')::text")
            connection.execute("SELECT pg_sleep(0.01)")
            connection.execute("DELETE FROM pgstore.dict_entry")  # the accident
            ((name,),) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())")
        until((backups / "wal" / name).exists)
        port = str(free_port())

        recovery = block(heading, 3, **places, **{"2026-01-31 12:00:00+00": moment, "5433": port})
        run_sh(server, recovery, as_server=True)

        recovered = f"postgresql://postgres@127.0.0.1:{port}/app"
        until(lambda: run_sql(server, recovered, "SELECT pg_is_in_recovery()") == "f")
        run_sh(server, block(heading, 4), OTHER_URL=recovered)
        assert inventory.inventory(recovered)["python"] == expected["python"]
        assert {**inventory.rows_of(recovered), "sequences": None} == {**expected["sql"], "sequences": None}
        inventory.go_on(recovered)


@pytest.mark.slow
def test_a_database_moves_by_logical_replication(secret_key, server18):
    """
    What is written before the copy and after it comes, and numbers go on beyond those that the old server gave.
    """
    heading = "Moving to another server without a long pause"
    with Server(options="-c wal_level=logical") as server:
        url, target = server.create_database("app"), server18.create_database()
        with psycopg.connect(url) as connection:
            if connection.info.server_version < PUBLISHED_MIN:
                pytest.skip("publications of whole schemas are of PostgreSQL 15")
        for each in (url, target):
            migrate.upgrade(each)
        with inventory.client_of(url) as client:
            early = pgstore.Dict.persist("early", client=client)
            early.update({"stays": 1, "goes": 2})
        run_sql(server, url, block(heading, 1))
        run_sql(server18, target, block(heading, 2, **{"postgresql://replicator@old.example.org/app": url}))
        inventory.fill(url, large_objects=False)
        with inventory.client_of(url) as client:
            del pgstore.Dict.from_name("early", client=client)["goes"]

        copied = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
        until(lambda: run_sql(server18, target, copied) == "t")
        expected = inventory.inventory(url, large_objects=False)
        until(lambda: run_sql(server, url, block(heading, 3)) == "t")
        said = run_sh(server18, block(heading, 4), OTHER_URL=target)

        assert "sequences set 1,000,000 beyond what is in use" in said
        found = inventory.inventory(target, large_objects=False)
        assert found["python"] == expected["python"]
        assert {**found["sql"], "sequences": None} == {**expected["sql"], "sequences": None}
        for (name, number), (_, before) in zip(found["sql"]["sequences"], expected["sql"]["sequences"], strict=True):
            assert number >= (before or 0) + 1_000_000 - 1_000, name  # numbers that were drawn and are in no table
        with inventory.client_of(target) as client:
            assert dict(pgstore.Dict.from_name("early", client=client).items()) == {"stays": 1}
        inventory.go_on(target)
        server18.drop_database(target)
