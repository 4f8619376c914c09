"""A server whose disk is full: every store says so, also to whoever tells errors apart by errno."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import pgstore
from pgstore.fsspec import VolumeFileSystem
from tests.fixtures.processes import give_away

TABLES = ["queue_item", "dict_entry", "inode", "chunk"]
LARGE = os.urandom(5_000_000)  # which cannot be compressed


@pytest.fixture
def client(server, own_database):
    """A client of a database whose rows are on a disk of 4 MB."""
    disk = Path(tempfile.mkdtemp(prefix="pgstore-disk-"))  # where the server's user may look
    mounted = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mounted, check=False, capture_output=True).returncode != 0:
        disk.rmdir()
        pytest.skip("a disk can only be mounted by root")
    give_away(disk)
    name = sql.Identifier(f"small_{disk.name}")
    try:
        server.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(name, str(disk)))
        with psycopg.connect(own_database, autocommit=True) as connection:
            for table in TABLES:
                connection.execute(
                    sql.SQL("ALTER TABLE pgstore.{} SET TABLESPACE {}").format(sql.Identifier(table), name)
                )
        with pgstore.Client(own_database) as client:
            yield client
        server.drop_database(own_database)
        server.execute(sql.SQL("DROP TABLESPACE {}").format(name))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


def _write(store, path):
    with store.open(path, "wb") as file:
        file.write(LARGE)


def _in_transaction(client, queue):
    with client.transaction():
        queue.put(LARGE)


def _joined(client, queue, url):
    with psycopg.connect(url) as connection, client.transaction(connection):
        queue.put(LARGE)


def test_a_full_disk_of_the_server_says_so(client, own_database):
    queue = pgstore.Queue.persist("q", client=client)
    entries = pgstore.Dict.persist("d", client=client)
    volume = pgstore.Volume.persist("v", client=client)
    live = pgstore.NetworkFileSystem.persist("n", client=client)
    files = VolumeFileSystem(client=client)
    queue.put("before")
    entries["before"] = 1
    volume.put_file(io.BytesIO(b"before"), "before")
    live.put_file(io.BytesIO(b"before"), "before")
    uses = {
        "put": lambda: queue.put(LARGE),
        "put_many": lambda: queue.put_many([LARGE]),
        "put with a key": lambda: queue.put(LARGE, idempotency_key="k"),
        "own transaction": lambda: _in_transaction(client, queue),
        "joined transaction": lambda: _joined(client, queue, own_database),
        "entries": lambda: entries.update({"large": LARGE}),
        "put_file": lambda: volume.put_file(io.BytesIO(LARGE), "f"),
        "an open file": lambda: _write(volume, "f"),
        "an open file in place": lambda: _write(live, "f"),
        "a file in place": lambda: live.put_file(io.BytesIO(LARGE), "f"),
        "fsspec": lambda: files.pipe_file("v/f", LARGE),
    }

    for what, use in uses.items():
        with pytest.raises(pgstore.Error, match="the disk of the server is full") as caught:
            use()
        assert isinstance(caught.value, OSError), what
        assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, os.strerror(errno.ENOSPC)), what

    assert (queue.get(), len(queue), len(entries)) == ("before", 0, 1)
    assert [entry.path for entry in volume.listdir("/")] == ["before"]
    assert b"".join(live.read_file("before")) == b"before"
