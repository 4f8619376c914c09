"""What `pgstore top` costs the server: the share of a core that its backend takes, with 1,000 stores and some million rows.

The processor time of the backend is that of /proc/PID/stat, so the server must run on this machine. While it is watched, programs
put and get, so that counters move and queues are looked into as often as the view ever does.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import psycopg

import pgstore
from pgstore.admin.live import Live
from tests.benchmarks.harness import Limit

STORES: Final = {"dict": 400, "queue": 350, "volume": 150, "nfs": 50, "app": 50}
DICT_ENTRIES: Final = 2_000_000
QUEUE_ITEMS: Final = 1_000_000
FILES: Final = 400_000
INTERVAL_SECONDS: Final = 2.0
SECONDS: Final = 60  # of watching
SHARE_MAX: Final = 1.0  # per cent of a core


def contests(url: str) -> Iterator[Limit]:
    with psycopg.connect(url, autocommit=True) as connection:
        fill(connection)
        connection.execute("VACUUM ANALYZE")
    yield Limit("1,000 stores, at rest: of a core", partial(share_of_core, url, 0), SHARE_MAX, "%", 1)
    yield Limit("1,000 stores, 40 queues in use: of a core", partial(share_of_core, url, 2), SHARE_MAX, "%", 1)


def fill(connection: psycopg.Connection[Any]) -> None:
    """Make the stores. A few have most of the rows, as stores do: the n-th has a share of about 1/n."""
    for kind, number in STORES.items():
        connection.execute(
            "INSERT INTO pgstore.store (environment, kind, name) SELECT 'main', %s, %s || n FROM generate_series(1, %s) AS n",
            [kind, f"{kind}-", number],
        )
    connection.execute(
        "INSERT INTO pgstore.file_system (store_id) SELECT id FROM pgstore.store WHERE kind IN ('volume', 'nfs')"
    )
    # The store of row n: harmonic shares, by a number drawn evenly and raised.
    pick = (
        "WITH s AS (SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM pgstore.store WHERE kind = ANY (%s)), "
        "r AS (SELECT n, floor(power(random(), 4) * (SELECT count(*) FROM s))::bigint AS place FROM generate_series(1, %s) AS n) "
    )
    connection.execute(
        pick + "INSERT INTO pgstore.dict_entry (store_id, key, codec, value) "
        "SELECT id, 'key-' || n, 'p', decode(repeat('80', 100), 'hex') FROM r JOIN s USING (place)",
        [["dict"], DICT_ENTRIES],
    )
    connection.execute(
        pick + "INSERT INTO pgstore.queue_item (store_id, payload) "
        "SELECT id, decode(repeat('80', 100), 'hex') FROM r JOIN s USING (place)",
        [["queue", "app"], QUEUE_ITEMS],
    )
    connection.execute(
        pick + "INSERT INTO pgstore.inode (store_id, ino, kind, mode, size_bytes, mtime_ns, ctime_ns) "
        "SELECT id, n, 'f', 420, 100, 0, 0 FROM r JOIN s USING (place)",
        [["volume", "nfs"], FILES],
    )


def share_of_core(url: str, programs: int) -> float:
    """Watch for a minute; returns the per cent of a core that the server's backend took."""
    ended = threading.Event()
    working = [threading.Thread(target=_work, args=(url, number, ended)) for number in range(programs)]
    for each in working:
        each.start()
    try:
        with pgstore.Client(url, auto_migrate=False, connections_max=1) as client:
            live = Live(client)
            live.sample()
            pid = _backend_of(client)
            before, began = _cpu_seconds(pid), time.monotonic()
            while time.monotonic() - began < SECONDS:
                time.sleep(INTERVAL_SECONDS)
                live.sample()
            return 100 * (_cpu_seconds(pid) - before) / (time.monotonic() - began)
    finally:
        ended.set()
        for each in working:
            each.join()


def _work(url: str, number: int, ended: threading.Event) -> None:
    with pgstore.Client(url) as client:
        queues = [pgstore.Queue.persist(f"busy-{number}-{n}", client=client) for n in range(20)]
        while not ended.is_set():
            for queue in queues:
                queue.put_many(list(range(20)))
                with contextlib.suppress(pgstore.errors.QueueEmpty):
                    queue.get_many(15, block=False)
            time.sleep(0.05)


def _backend_of(client: pgstore.Client) -> int:
    with client.transaction() as tx:
        row = tx.connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process of this machine (proc_pid_stat(5), fields 14 and 15)."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
