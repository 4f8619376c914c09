"""The bytes of files: streams against COPY of the same chunks, writes in place by what they add to the log, memory."""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

import pgstore
from pgstore import NetworkFileSystem, Volume
from tests.benchmarks.harness import Contest, Limit
from tests.benchmarks.peers import in_process, peak_growth_megabytes

MIB = 1024 * 1024
SIZE = 128 * MIB
BIG = 2048 * MIB


def contests(url: str) -> Iterator[Contest | Limit]:
    with pgstore.Client(url) as client, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        data = os.urandom(SIZE)
        for cls in (Volume, NetworkFileSystem):
            store = cls.from_name(f"benchmark-{cls.__name__}", create_if_missing=True, client=client)
            yield from writing(store, connection, data)
            yield from reading(store, connection, data)
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("rows of 64 KiB", {}),
            ("rows of 16 KiB", {"chunk_size": 16 * 1024}),
            ("large objects", {"storage": "large_object"}),
        ]
        for label, options in kinds:
            with NetworkFileSystem.ephemeral(client=client, **options) as nfs:
                yield from log_written(label, nfs, connection, data)
    yield Limit("memory to write and read 2 GiB", lambda: in_process(memory, url, BIG), 100, "MB", rounds_max=1)


# ----------------------------------------------------------------------------------------------------------- streams


def copied_in(connection: psycopg.Connection[Any], data: bytes, chunk: int) -> Callable[[], float]:
    """The reference of writing: the same chunks by COPY into a bare table like `chunk`."""
    connection.execute("CREATE TEMPORARY SEQUENCE IF NOT EXISTS numbers")
    connection.execute("DROP TABLE IF EXISTS public.bare_chunk")
    connection.execute(
        "CREATE TABLE public.bare_chunk (store_id bigint, id bigint, data bytea, PRIMARY KEY (store_id, id))"
    )
    connection.execute("ALTER TABLE public.bare_chunk ALTER COLUMN data SET STORAGE EXTERNAL")
    number = 0

    def copy() -> float:
        nonlocal number
        with connection.cursor().copy("COPY public.bare_chunk FROM STDIN (FORMAT binary)") as writer:
            writer.set_types(["int8", "int8", "bytea"])
            for start in range(0, len(data), chunk):
                number += 1
                writer.write_row((1, number, data[start : start + chunk]))
        return len(data) / 1e6

    return copy


def writing(store: Any, connection: psycopg.Connection[Any], data: bytes) -> Iterator[Contest]:
    chunk = store._chunk_bytes
    reference = copied_in(connection, data, chunk)

    def opened() -> float:
        with store.open("opened", "wb") as file:
            for start in range(0, len(data), MIB):
                file.write(data[start : start + MIB])
        return len(data) / 1e6

    def put() -> float:
        store.put_file(io.BytesIO(data), "put")
        return len(data) / 1e6

    for name, ours in (("put_file", put), ("open, write 1 MiB", opened)):
        yield Contest(f"{store._display_name}: {name}", ours, reference, 0.9, "MB/s", "COPY in", rounds_max=5)


def reading(store: Any, connection: psycopg.Connection[Any], data: bytes) -> Iterator[Contest]:
    store.put_file(io.BytesIO(data), "put")
    store_id = int(store.hydrate().object_id[3:])
    ((blob_id,),) = connection.execute(
        "SELECT i.blob_id FROM pgstore.inode i WHERE i.store_id = %s AND i.ino = %s ORDER BY version_to DESC LIMIT 1",
        [store_id, store.stat("put").ino],
    )
    chunks = f"""
        COPY (SELECT c.data
                FROM pgstore.extent e
               CROSS JOIN LATERAL (SELECT k.data FROM pgstore.chunk k
                                    WHERE k.store_id = {store_id} AND k.id = e.chunk_id LIMIT 1) c
               WHERE e.store_id = {store_id} AND e.blob_id = {blob_id}
               ORDER BY e.position) TO STDOUT (FORMAT binary)
    """

    def copied() -> float:
        size = 0
        with connection.cursor().copy(chunks.encode()) as reader:
            for block in reader:
                size += len(block)
        return size / 1e6

    def got() -> float:
        with tempfile.TemporaryDirectory() as folder:
            store.get_file("put", Path(folder, "file"))
        return SIZE / 1e6

    def got_and_dropped() -> float:
        with open(os.devnull, "wb", buffering=0) as sink:
            store.get_file("put", sink)
        return SIZE / 1e6

    def read(length: int) -> Callable[[], float]:
        def ours() -> float:
            with store.open("put", "rb") as file:
                while file.read(length):
                    pass
            return SIZE / 1e6

        return ours

    def iterated() -> float:
        return sum(map(len, store.read_file("put"))) / 1e6

    for name, ours, goal in [
        ("get_file to /dev/null", got_and_dropped, 0.8),
        ("get_file to a local file", got, None),
        ("open, read 1 MiB", read(MIB), 0.6),
        ("open, read 64 KiB", read(64 * 1024), 0.6),
        ("open, read all", read(-1), 0.6),
        ("read_file", iterated, 0.6),
    ]:
        yield Contest(f"{store._display_name}: {name}", ours, copied, goal, "MB/s", "COPY out", rounds_max=7)


# ----------------------------------------------------------------------------------------------------- writes in place


def log_written(label: str, nfs: Any, connection: psycopg.Connection[Any], data: bytes) -> Iterator[Limit | Contest]:
    """How many bytes of WAL, and of the database, a byte costs."""

    def position() -> float:
        ((value,),) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return float(value)

    def database_size() -> int:
        ((value,),) = connection.execute("SELECT pg_database_size(current_database())")
        return int(value)

    def sequential() -> float:
        before = position()
        with nfs.open(f"file{before}", "wb") as file:
            file.write(data)
        return (position() - before) / len(data)

    def room() -> float:
        before = database_size()
        with nfs.open(f"room{before}", "wb") as file:
            file.write(data)
        return (database_size() - before) / len(data)

    rng = random.Random(1)

    def at_random() -> float:
        with nfs.open("file", "wb") as file:
            file.write(data)
        connection.execute("CHECKPOINT")
        before, writes = position(), 1000
        with nfs.open("file", "r+b", buffering=0) as file:
            for _ in range(writes):
                file.seek(rng.randrange(len(data) // 4096) * 4096)
                file.write(data[:4096])
        return (position() - before) / writes / 4096

    def one_write() -> float:
        with nfs.open("file", "r+b", buffering=0) as file:
            for _ in range(300):
                file.seek(rng.randrange(len(data) // 4096) * 4096)
                file.write(data[:4096])
        return 300

    def one_read() -> float:
        with nfs.open("file", "rb", buffering=0) as file:
            for _ in range(300):
                file.seek(rng.randrange(len(data) // 4096) * 4096)
                file.read(4096)
        return 300

    def select_1() -> float:
        for _ in range(1000):
            connection.execute("SELECT 1", prepare=True)
        return 1000

    most = 5 if label == "large objects" else 40
    yield Limit(f"NFS, {label}: WAL per byte, in order", sequential, 1.10, rounds_max=1)
    yield Limit(f"NFS, {label}: room per byte", room, 1.40 if label == "large objects" else 1.06, rounds_max=1)
    yield Limit(f"NFS, {label}: WAL per byte, 4 KiB at random", at_random, most, rounds_max=1)
    yield Contest(f"NFS, {label}: write 4 KiB at random", one_write, select_1, reference_name="select 1", rounds_max=7)
    yield Contest(f"NFS, {label}: read 4 KiB at random", one_read, select_1, reference_name="select 1", rounds_max=7)


# ------------------------------------------------------------------------------------------------------------- memory


def memory(url: str, size: int) -> float:
    """The most that a process grows by, in MB, while it writes, reads and downloads a file of *size* bytes of each kind."""
    piece = bytes(range(256)) * 4096

    def there_and_back(store: Any) -> None:
        with store.open("file", "wb") as file:
            for _ in range(size // len(piece)):
                file.write(piece)
        count = 0
        with store.open("file", "rb") as file:
            while part := file.read(len(piece)):
                assert part == piece
                count += len(part)
        assert count == size, count
        with open(os.devnull, "wb", buffering=0) as sink:
            store.get_file("file", sink)

    with (
        pgstore.Client(url) as client,
        Volume.ephemeral(client=client) as volume,
        NetworkFileSystem.ephemeral(client=client) as nfs,
    ):
        volume.hydrate()
        nfs.hydrate()
        return max(peak_growth_megabytes(partial(there_and_back, store)) for store in (volume, nfs))
