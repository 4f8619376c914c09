"""Mounts, as programs see them (`mount_figures`), and what they rest on: bytes read ahead, staged and uploaded, against the bare
statements that this comes down to.

`get_file` and `open` read large files in the same way, over several connections; a link with delay shows what that is for.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

import pgstore
from pgstore.fs.content import blobs
from pgstore.fs.content.block_cache import BlockCache
from pgstore.mount.contents.open_file import ContentsFile
from tests.benchmarks.harness import Contest, Limit, Skipped
from tests.benchmarks.mount_figures import figures
from tests.fixtures.proxy import Proxy
from tests.fixtures.staged import StagedFiles

MIB = 1 << 20
SIZE_MIB = 256  # of a file that is written and read
LINK_MIB = 96  # of one that is read over a link with delay
DELAY_SECONDS = 0.005
SERVER_OPTIONS = "-c max_wal_size=4GB -c shared_buffers=256MB"


def contests(url: str) -> Iterator[Contest | Limit | Skipped]:
    """Hold what is promised of mounts, and of contents behind them."""
    yield from figures(url)
    data = os.urandom(16 * MIB)
    with pgstore.Client(url) as client, tempfile.TemporaryDirectory() as folder:
        yield from downloads(url, client, data)
        for kind, chunk_size in (("volume", 256 * 1024), ("nfs", 64 * 1024)):
            files = StagedFiles(url, client, kind, "r", Path(folder), chunk_size=chunk_size)
            yield from staging(files, data)
            yield writing(files, data, chunk_size)
            yield reading(files, data)


def downloads(url: str, client: pgstore.Client, data: bytes) -> Iterator[Contest]:
    """get_file of a file above 64 MiB."""
    with pgstore.Volume.ephemeral(client=client) as volume:
        with volume.open("file", "wb") as file:
            for _ in range(max(LINK_MIB, 80) // 16):
                file.write(data)
        size = volume.stat("file").size
        store_id = int(volume.hydrate().object_id[3:])
        copy = f"""
            COPY (SELECT c.data FROM pgstore.extent e
                   CROSS JOIN LATERAL (SELECT k.data FROM pgstore.chunk k
                                        WHERE k.store_id = {store_id} AND k.id = e.chunk_id LIMIT 1) c
                   WHERE e.store_id = {store_id} ORDER BY e.position) TO STDOUT (FORMAT binary)
        """

        def got(through: Any) -> Callable[[], float]:
            def ours() -> float:
                with open(os.devnull, "wb", buffering=0) as sink:
                    through.get_file("file", sink)
                return size / 1e6

            return ours

        def copied(at: str) -> Callable[[], float]:
            def reference() -> float:
                with psycopg.connect(at) as connection, connection.cursor().copy(copy.encode()) as reader:
                    return sum(len(block) for block in reader) / 1e6

            return reference

        ((blob_id,),) = sql(url, "SELECT id FROM pgstore.blob WHERE store_id = %s", store_id)
        buffer = bytearray(blobs.COPY_BYTES)

        def in_turn() -> float:
            """As files of up to 64 MiB are read."""
            with open(os.devnull, "wb", buffering=0) as sink:
                for start in range(0, size, len(buffer)):
                    end = min(size, start + len(buffer))
                    for piece in client.run(blobs.copy_blob(store_id, blob_id, start, end, buffer)):
                        sink.write(piece[1])
            return size / 1e6

        yield Contest("get_file, loopback", got(volume), in_turn, 0.9, "MB/s", "by one connection")
        with Proxy(urlsplit(url).port or 5432) as proxy, pgstore.Client(proxy.url(url)) as far:
            proxy.delay_seconds = DELAY_SECONDS
            name = pgstore.Volume.from_id(volume.object_id, client=far)
            yield Contest(
                "get_file, a link of 5 ms",
                got(name),
                copied(proxy.url(url)),
                2.5,
                "MB/s",
                "COPY, one connection",
                rounds_max=3,
            )


def sql(url: str, statement: Any, *values: Any) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement, values).fetchall()


def staging(files: StagedFiles, data: bytes) -> Iterator[Limit]:
    """Writes of 4 KiB into the stage, in order and at random."""
    piece = data[:4096]

    def per_write(places: list[int]) -> Callable[[], float]:
        def ours() -> float:
            contents = files.create()
            file = ContentsFile(contents, os.O_RDWR)
            begun = time.perf_counter()
            for place in places:
                file.write(place * 4096, piece)
            seconds = time.perf_counter() - begun
            files.keep(contents)
            contents.release()
            return seconds / len(places) * 1e6

        return ours

    in_order = list(range(10_000))
    at_random = [place * 7919 % 10_000 for place in in_order]
    yield Limit(f"{files.kind}: write 4 KiB in order", per_write(in_order), 40, "µs", rounds_max=3)
    yield Limit(f"{files.kind}: write 4 KiB at random", per_write(at_random), 50, "µs", rounds_max=3)


def writing(files: StagedFiles, data: bytes, chunk_size: int) -> Contest:
    """Write, fsync and close, against the same chunks inserted into a bare table."""
    numbers = itertools.count()
    connection = psycopg.connect(files.url, autocommit=True)
    connection.execute("DROP TABLE IF EXISTS public.bare_chunk")
    connection.execute(
        "CREATE TABLE public.bare_chunk (store_id bigint, id bigint, data bytea, PRIMARY KEY (store_id, id))"
    )
    connection.execute("ALTER TABLE public.bare_chunk ALTER COLUMN data SET STORAGE EXTERNAL")

    def ours() -> float:
        contents = files.create()
        file = ContentsFile(contents, os.O_RDWR)
        for at in range(SIZE_MIB):
            file.write(at * MIB, memoryview(data)[at % 16 * MIB : (at % 16 + 1) * MIB])
        file.sync()
        file.flush()
        file.release()
        contents.release()
        return SIZE_MIB * MIB / 1e6

    def inserted() -> float:
        for _ in range(SIZE_MIB // 4):
            with connection.pipeline(), connection.transaction():
                for start in range(0, 4 * MIB, chunk_size):
                    connection.execute(
                        "INSERT INTO public.bare_chunk VALUES (1, %b, %b)",
                        [next(numbers), data[start : start + chunk_size]],
                    )
        return SIZE_MIB * MIB / 1e6

    name = f"{files.kind}: write, fsync, close"
    return Contest(name, ours, inserted, 0.7, "MB/s", "bare chunk insert", rounds_max=3)


def reading(files: StagedFiles, data: bytes) -> Contest:
    """A file read in order with nothing in the cache, against its chunks read by four connections."""
    contents = files.create()
    for at in range(SIZE_MIB):
        contents.write(at * MIB, memoryview(data)[at % 16 * MIB : (at % 16 + 1) * MIB])
    files.keep(contents)
    ino = contents.ino
    contents.release()
    ((blob_id, positions),) = files.sql(
        "SELECT i.blob_id, (SELECT max(position) + 1 FROM pgstore.extent e WHERE e.blob_id = i.blob_id) "
        "FROM pgstore.inode i WHERE i.store_id = %s AND i.ino = %s",
        files.store_id,
        ino,
    )

    def ours() -> float:
        files.shared.reading.cache = BlockCache()
        contents = files.again(ino)
        file = ContentsFile(contents, os.O_RDONLY)
        done = sum(sum(map(len, file.read(at * MIB, MIB))) for at in range(SIZE_MIB))
        file.release()
        contents.release()
        return done / 1e6

    def bare() -> float:
        step = -(-4 * MIB * positions // (SIZE_MIB * MIB))
        starts = iter(range(0, positions, step))
        done: list[int] = []

        def work() -> None:
            with psycopg.connect(files.url, autocommit=True) as connection:
                while (start := next(starts, None)) is not None:
                    rows = connection.execute(
                        "SELECT c.data FROM pgstore.extent e JOIN pgstore.chunk c "
                        "ON c.store_id = e.store_id AND c.id = e.chunk_id "
                        "WHERE e.store_id = %s AND e.blob_id = %s AND e.position >= %s AND e.position < %s",
                        [files.store_id, blob_id, start, start + step],
                        prepare=True,
                        binary=True,
                    ).fetchall()
                    done.append(sum(len(row[0]) for row in rows))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / 1e6

    return Contest(
        f"{files.kind}: read in order, cold", ours, bare, 0.7, "MB/s", "bare reader, 4 connections", rounds_max=5
    )
