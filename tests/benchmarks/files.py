"""Volume and NetworkFileSystem beside the database's own speed (COPY, bare statements, large objects), a local directory, Redis.

All go through the Unix socket where the server has one. "Local" is the file system that the server's data is on. The sizes are
the module's numbers in capitals; `--set ENTRIES=10000` changes them, and `--set SPARSE_GIB=10 --set REAL_MIB=2048` makes the big
files as big as they are promised to work.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import itertools
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import psycopg
from psycopg.conninfo import make_conninfo

import pgstore
from tests.benchmarks import peers
from tests.benchmarks.harness import Contest, Limit, Skipped, Turn
from tests.fixtures.server import migrate

SERVER_OPTIONS = "-c shared_buffers=512MB -c max_wal_size=4GB"  # so that no checkpoint falls into every other turn

FILE_MIB = 256  # of the one large file
SMALL_FILES = 10_000
SMALL_BYTES = 4096
ENTRIES = 1_000_000  # of the large directory, and of the deep tree
SPARSE_GIB = 1
REAL_MIB = 256
UPLOADED = 100_000  # files of one put_directory whose memory is looked at
CHANGES = 1000  # of 4 KiB each, at random in the large file
MEMORY_MB_MAX = 100

MIB = 1 << 20
DIRECTORIES = 100  # of the small files

Offer = Contest | Limit | Skipped


def contests(url: str) -> Iterator[Offer]:
    with Field(url) as field:
        yield from writing(field)
        yield from reading(field)
        yield from small_files(field)
        yield from points(field)
        yield from costs(field)
        yield from changing(field)
        yield from large_directory(field)
        yield from deep_tree(field)
        yield from large_files(field)


class Field:
    """What the contests are held on, each part made on first use: `--only` sets up no more than it needs."""

    def __init__(self, url: str) -> None:
        self.url = peers.by_socket(url)
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count()

    def __enter__(self) -> Field:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pgstore-benchmark-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def place(self) -> Path:
        """A path in the temporary folder that nothing has."""
        return self.folder / f"{next(self._numbers)}"

    @contextlib.contextmanager
    def apart(self) -> Iterator[Field]:
        """The same on a new database, where no free space is left from before."""
        name = f"benchmark_files_{os.getpid()}_{next(self._numbers)}"
        self.connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            url = make_conninfo(self.url, dbname=name)
            migrate(url)
            with Field(url) as field:
                yield field
        finally:
            self.connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    # ---------------------------------------------------------------------------------------------------------- ours

    @functools.cached_property
    def client(self) -> pgstore.Client:
        return self._stack.enter_context(pgstore.Client(self.url))

    def volume(self, what: str) -> pgstore.Volume:
        """A new Volume, gone when all is over."""
        name = f"benchmark-files-{what}-{next(self._numbers)}"
        volume = pgstore.Volume.from_name(name, create_if_missing=True, client=self.client).hydrate()
        self._stack.callback(pgstore.Volume.objects.delete, name, allow_missing=True, client=self.client)
        return volume

    def network(self, what: str, **options: Any) -> pgstore.NetworkFileSystem:
        """A new NetworkFileSystem, gone when all is over."""
        name = f"benchmark-files-{what}-{next(self._numbers)}"
        kind = pgstore.NetworkFileSystem
        store = kind.from_name(name, create_if_missing=True, client=self.client, **options).hydrate()
        self._stack.callback(kind.objects.delete, name, allow_missing=True, client=self.client)
        return store

    def delete(self, store: Any) -> None:
        type(store).objects.delete(store.name, client=self.client)

    # ------------------------------------------------------------------------------------------------------ the bytes

    @functools.cached_property
    def large(self) -> Path:
        path = self.place()
        with path.open("wb") as file:
            for _ in range(FILE_MIB):
                file.write(os.urandom(MIB))
        return path

    @functools.cached_property
    def small(self) -> Path:
        folder = self.place()
        for number in range(SMALL_FILES):
            path = folder / f"{number % DIRECTORIES:02}" / f"{number:05}.bin"
            if number < DIRECTORIES:
                path.parent.mkdir(parents=True)
            path.write_bytes(os.urandom(SMALL_BYTES))
        return folder

    # --------------------------------------------------------------------------------------------------- the database

    @functools.cached_property
    def connection(self) -> psycopg.Connection[Any]:
        connection = self._stack.enter_context(psycopg.connect(self.url, autocommit=True))
        connection.execute("SET plan_cache_mode = force_generic_plan")
        return connection

    @functools.cached_property
    def table(self) -> str:
        """The name of a table such as `chunk` is, with the bytes of the large file."""
        create_table(self)
        copy_in(self)
        self._stack.callback(self.connection.execute, f"DROP TABLE {TABLE}".encode())
        return TABLE

    @functools.cached_property
    def objects(self) -> list[int]:
        """Large objects with the bytes of the large file."""
        oids = large_objects_in(self)
        self._stack.callback(large_objects_out, self, oids)
        return oids

    @functools.cached_property
    def redis(self) -> Any:
        import redis

        client = redis.Redis(unix_socket_path=self._redis_socket)
        self._stack.callback(client.close)
        with self.large.open("rb") as file:
            for number in range(FILE_MIB):
                client.set(f"k{number}", file.read(MIB))
        return client

    @functools.cached_property
    def plain_redis(self) -> Any:
        """The same read without hiredis, as `pip install redis` leaves it."""
        import redis
        from redis._parsers import _RESP2Parser

        pool = redis.ConnectionPool(
            connection_class=redis.UnixDomainSocketConnection, path=self._redis_socket, parser_class=_RESP2Parser
        )
        assert self.redis.dbsize() == FILE_MIB
        client = redis.Redis(connection_pool=pool)
        self._stack.callback(client.close)
        return client

    @functools.cached_property
    def _redis_socket(self) -> str:
        return self._stack.enter_context(peers.redis_server("everysec"))


def timed(work: Callable[[], object], amount: float, *, after: Callable[[], object] | None = None) -> Turn:
    """The turn of *work* alone; *after* tidies up."""
    cpu_began, began = time.process_time(), time.perf_counter()
    work()
    turn = Turn(amount, time.perf_counter() - began, time.process_time() - cpu_began)
    if after is not None:
        after()
    return turn


class Sink(io.RawIOBase):
    """A file that forgets what is written into it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


# ------------------------------------------------------------------------------------------------------ the large file


def writing(field: Field) -> Iterator[Offer]:
    def ours() -> Turn:
        volume = field.volume("write")
        return timed(lambda: volume.put_file(field.large, "file"), FILE_MIB, after=lambda: field.delete(volume))

    def copy() -> Turn:
        create_table(field)
        return timed(lambda: copy_in(field), FILE_MIB)

    def large_objects() -> Turn:
        oids: list[int] = []
        return timed(
            lambda: oids.extend(large_objects_in(field)), FILE_MIB, after=lambda: large_objects_out(field, oids)
        )

    def local() -> Turn:
        path = field.place()
        return timed(lambda: copied(field.large, path), FILE_MIB, after=path.unlink)

    name = f"put_file of {FILE_MIB} MiB"
    yield Contest(name, ours, copy, 0.9, "MB/s", "COPY BINARY into a logged table", 7)
    yield Contest(name, ours, large_objects, 1.8, "MB/s", "large objects of 1 MiB, one transaction", 5)
    yield Contest(name, ours, local, None, "MB/s", "a local copy + fsync", 5)


TABLE = "public.benchmark_chunk"


def create_table(field: Field) -> None:
    field.connection.execute(
        f"""
        DROP TABLE IF EXISTS {TABLE};
        CREATE TABLE {TABLE} (store_id bigint, id bigint, data bytea, PRIMARY KEY (store_id, id));
        ALTER TABLE {TABLE} ALTER COLUMN data SET STORAGE EXTERNAL
        """.encode()
    )


def copy_in(field: Field) -> None:
    """COPY the large file into the table as one transaction, a row a MiB."""
    head = struct.Struct("!h iq iq i").pack
    with field.large.open("rb") as file, field.connection.cursor() as cursor:
        with cursor.copy(f"COPY {TABLE} FROM STDIN (FORMAT binary)".encode()) as stream:
            stream.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for number in itertools.count():
                if not (data := file.read(MIB)):
                    break
                stream.write(head(3, 8, 1, 8, number, len(data)) + data)
            stream.write(b"\xff\xff")


def large_objects_in(field: Field) -> list[int]:
    oids = []
    with field.large.open("rb") as file, field.connection.transaction(), field.connection.cursor(binary=True) as cursor:
        while data := file.read(MIB):
            cursor.execute("SELECT lo_from_bytea(0, %b)", [data], prepare=True)
            oids.append(cursor.fetchall()[0][0])
    return oids


def large_objects_out(field: Field, oids: list[int]) -> None:
    field.connection.execute("SELECT lo_unlink(o) FROM unnest(%s::oid[]) o", [oids])


def copied(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    sync(target)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def reading(field: Field) -> Iterator[Offer]:
    @functools.cache
    def volume() -> pgstore.Volume:
        volume = field.volume("read")
        volume.put_file(field.large, "file")
        return volume

    def ours() -> float:
        return sum(map(len, volume().read_file("file"))) / MIB

    def copy_out() -> float:
        sent = 0
        with field.connection.cursor() as cursor:
            with cursor.copy(f"COPY {field.table} (data) TO STDOUT (FORMAT binary)".encode()) as stream:
                for block in stream:
                    sent += len(block)
        return sent / MIB

    def by_large_objects() -> float:
        got = 0
        with field.connection.cursor(binary=True) as cursor:
            for oid in field.objects:
                cursor.execute("SELECT lo_get(%s)", [oid], prepare=True)
                got += len(cursor.fetchall()[0][0])
        return got / MIB

    def by_redis() -> float:
        return sum(len(field.redis.get(f"k{number}")) for number in range(FILE_MIB)) / MIB

    def by_plain_redis() -> float:
        return sum(len(field.plain_redis.get(f"k{number}")) for number in range(FILE_MIB)) / MIB

    def into_nothing() -> float:
        volume().get_file("file", cast("BinaryIO", Sink()))
        return FILE_MIB

    def into_file() -> Turn:
        path = field.place()
        return timed(lambda: volume().get_file("file", path), FILE_MIB, after=path.unlink)

    def copy_into_file() -> Turn:
        path = field.place()

        def work() -> None:
            with path.open("wb", buffering=0) as file, field.connection.cursor() as cursor:
                with cursor.copy(f"COPY {field.table} (data) TO STDOUT (FORMAT binary)".encode()) as stream:
                    for block in stream:
                        file.write(block)

        return timed(work, FILE_MIB, after=path.unlink)

    name = f"read_file of {FILE_MIB} MiB"
    yield Contest(name, ours, copy_out, 0.6, "MB/s", "COPY BINARY out")
    yield Contest(name, ours, by_large_objects, 2.0, "MB/s", "lo_get of 1 MiB each", 7)
    if why := peers.missing("redis", program="redis-server"):
        yield Skipped(f"{name} : Redis", why)
    else:
        yield Contest(name, ours, by_redis, 1.5, "MB/s", "Redis GET of 1 MiB each, hiredis")
        yield Contest(name, ours, by_plain_redis, 1.5, "MB/s", "Redis GET of 1 MiB each, redis-py alone")
    yield Contest("get_file into a file object", into_nothing, copy_out, 0.8, "MB/s", "COPY BINARY out")
    yield Contest("get_file into a path", into_file, copy_into_file, 0.8, "MB/s", "COPY BINARY out, into a path")


# -------------------------------------------------------------------------------------------------------- small files


def small_files(field: Field) -> Iterator[Offer]:
    @functools.cache
    def volume() -> pgstore.Volume:
        return field.volume("small")

    @functools.cache
    def filled() -> pgstore.Volume:
        volume = field.volume("small")
        volume.put_directory(field.small, "/")
        return volume

    def ours() -> Turn:
        place = str(field.place())
        return timed(lambda: volume().put_directory(field.small, place), SMALL_FILES)

    def local() -> Turn:
        place = field.place()

        def work() -> None:
            copy_directory(field.small, place)
            syncfs(place)

        return timed(work, SMALL_FILES)

    yield Contest(
        f"put_directory of {SMALL_FILES:,} × {SMALL_BYTES:,} bytes",
        *(ours, local, 1.0, "files/s", "writing them into a local directory, one syncfs", 9),
    )

    def ours_back() -> Turn:
        place = field.place()
        return timed(lambda: filled().get_directory("/", place), SMALL_FILES)

    def local_back() -> Turn:
        place = field.place()
        return timed(lambda: copy_directory(field.small, place), SMALL_FILES)

    yield Contest(
        "get_directory of them", ours_back, local_back, 0.5, "files/s", "copying them from a local directory", 9
    )

    @functools.cache
    def durable() -> pgstore.Volume:
        return field.volume("durable")

    data = os.urandom(SMALL_BYTES)
    source = field.place()
    source.write_bytes(data)
    folder = field.place()
    folder.mkdir()

    def one_by_one() -> float:
        for _ in range(50):
            durable().put_file(source, f"{next(field._numbers)}")
        return 50

    def one_by_one_locally() -> float:
        for _ in range(50):
            with (folder / f"{next(field._numbers)}").open("wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
        return 50

    yield Contest("put_file of 4 KiB", one_by_one, one_by_one_locally, 0.5, "files/s", "open + write + fsync")


def copy_directory(source: Path, target: Path) -> None:
    """As quickly as Python does it: no metadata beside the names."""
    target.mkdir()
    for folder in os.scandir(source):
        os.mkdir(target / folder.name)
        for entry in os.scandir(folder.path):
            fd = os.open(entry.path, os.O_RDONLY)
            data = os.read(fd, SMALL_BYTES + 1)
            os.close(fd)
            fd = os.open(target / folder.name / entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(fd, data)
            os.close(fd)


def syncfs(path: Path) -> None:
    subprocess.run(["sync", "--file-system", str(path)], check=True)


def points(field: Field) -> Iterator[Offer]:
    @functools.cache
    def volume() -> pgstore.Volume:
        volume = field.volume("points")
        volume.put_directory(field.small, "/top")
        return volume

    drawn = random.Random(1).sample(range(SMALL_FILES), min(SMALL_FILES, 1000))
    paths = [f"top/{number % DIRECTORIES:02}/{number:05}.bin" for number in drawn]

    def ours() -> float:
        read = volume().read_file
        for path in paths:
            b"".join(read(path))
        return len(paths)

    def select_1() -> float:
        cursor = field.connection.cursor(binary=True)
        for _ in range(len(paths)):
            cursor.execute("SELECT 1", prepare=True)
            cursor.fetchone()
        return len(paths)

    yield Contest("read_file of 4 KiB, two directories down", ours, select_1, 0.4, "files/s", "SELECT 1 by psycopg")


# -------------------------------------------------------------------------------------------------- what writing costs


def costs(field: Field) -> Iterator[Offer]:
    def large(apart: Field) -> None:
        apart.volume("cost").put_file(field.large, "file")

    def small(apart: Field) -> None:
        apart.volume("cost").put_directory(field.small, "/")

    def measured(figure: Callable[[Field], float], work: Callable[[Field], object], size: int) -> Callable[[], float]:
        def measure() -> float:
            with field.apart() as apart:
                apart.volume("first")  # connections, catalogs
                before = figure(apart)
                work(apart)
                return (figure(apart) - before) / size

        return measure

    name = f"put_file of {FILE_MIB} MiB"
    yield Limit(f"{name}: WAL per byte", measured(wal_bytes, large, FILE_MIB * MIB), 1.10, "", 3)
    yield Limit(f"{name}: space per byte", measured(space_bytes, large, FILE_MIB * MIB), 1.06, "", 1)
    name = f"put_directory of {SMALL_FILES:,} × {SMALL_BYTES:,} bytes"
    yield Limit(f"{name}: space per byte", measured(space_bytes, small, SMALL_FILES * SMALL_BYTES), 1.5, "", 1)


def changing(field: Field) -> Iterator[Offer]:
    """What it costs the log to change 4 KiB in the middle of a file, beginning after a checkpoint, which is when it costs most."""

    def measured(**options: Any) -> Callable[[], float]:
        def measure() -> float:
            store = field.network("change", **options)
            with store.open("file", "wb") as file, field.large.open("rb") as source:
                while data := source.read(MIB):
                    file.write(data)
            field.connection.execute("CHECKPOINT")
            before = wal_bytes(field)
            data = os.urandom(4096)
            draw = random.Random(1).randrange
            with store.open("file", "r+b", buffering=0) as file:
                for _ in range(CHANGES):
                    file.seek(draw(FILE_MIB * MIB // 4096) * 4096)
                    file.write(data)
            cost = (wal_bytes(field) - before) / (CHANGES * 4096)
            field.delete(store)
            return cost

        return measure

    name = f"4 KiB written at random into {FILE_MIB} MiB: WAL per byte"
    yield Limit(f"{name}, rows of 64 KiB", measured(), 40, "", 1)
    yield Limit(f"{name}, rows of 16 KiB", measured(chunk_size=16384), 40, "", 1)
    yield Limit(f"{name}, large objects", measured(storage="large_object"), 5, "", 1)

    def appended() -> float:
        store = field.network("append")
        before = wal_bytes(field)
        with store.open("file", "wb") as file, field.large.open("rb") as source:
            while data := source.read(MIB):
                file.write(data)
        cost = (wal_bytes(field) - before) / (FILE_MIB * MIB)
        field.delete(store)
        return cost

    yield Limit(f"{FILE_MIB} MiB written in order into a NetworkFileSystem: WAL per byte", appended, 1.10, "", 1)


def wal_bytes(field: Field) -> float:
    return one(field, "SELECT pg_current_wal_insert_lsn() - '0/0'")


def space_bytes(field: Field) -> float:
    return one(
        field,
        """
        SELECT sum(pg_total_relation_size(c.oid))
          FROM pg_class c
         WHERE c.relnamespace = 'pgstore'::regnamespace AND c.relkind = 'r'
        """,
    )


def one(field: Field, statement: str) -> float:
    ((value,),) = field.connection.execute(statement.encode()).fetchall()
    return float(value)


# -------------------------------------------------------------------------------------------------------- a million

# A tree in which every directory has %(width)s entries, the first ones directories themselves.
FILL = """
WITH base AS (
     SELECT setval('pgstore.inode_seq', nextval('pgstore.inode_seq') + %(entries)s + 1) - %(entries)s - 1 AS ino
), entry AS MATERIALIZED (
     SELECT b.ino + i AS ino,
            CASE WHEN i <= %(width)s THEN %(top)s ELSE b.ino + (i - 1) / %(width)s END AS parent,
            convert_to('entry ' || lpad(i::text, 8, '0'), 'UTF8') AS name,
            CASE WHEN i * %(width)s < %(entries)s THEN 'd' ELSE 'f' END::"char" AS kind
       FROM base b
      CROSS JOIN generate_series(1, %(entries)s::bigint) AS s (i)
), names AS (
     INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
     SELECT %(store_id)s, parent, name, ino, kind
       FROM entry
)
INSERT INTO pgstore.inode (store_id, ino, kind, mode, mtime_ns, ctime_ns, parent)
SELECT %(store_id)s, ino, kind, 420, 0, 0, CASE kind WHEN 'd' THEN parent END
  FROM entry
"""


def fill(field: Field, volume: pgstore.Volume, width: int) -> None:
    """Put as many entries below directory `top`."""
    volume.put_file(io.BytesIO(b""), "top/first")
    store_id = int(volume.object_id.partition("-")[2])
    ((top,),) = field.connection.execute(
        "SELECT ino FROM pgstore.dirent WHERE store_id = %s AND name = 'top'", [store_id]
    ).fetchall()
    field.connection.execute(FILL, {"entries": ENTRIES, "width": width, "store_id": store_id, "top": top})
    field.connection.execute("VACUUM (ANALYZE) pgstore.dirent, pgstore.inode")


def large_directory(field: Field) -> Iterator[Offer]:
    yield from _million(field, deep=False)


def deep_tree(field: Field) -> Iterator[Offer]:
    yield from _million(field, deep=True)


def _million(field: Field, *, deep: bool) -> Iterator[Offer]:
    @functools.cache
    def volume() -> pgstore.Volume:
        volume = field.volume("million")
        fill(field, volume, 10 if deep else ENTRIES)
        volume.mkdir("empty")
        return volume

    def listed() -> float:
        turn = timed(lambda: consume(volume().iterdir("top", recursive=deep)), ENTRIES)
        return turn.value("µs")

    def named() -> float:
        turn = timed(lambda: consume(volume().walk("top")), ENTRIES)
        return turn.value("µs")

    def renaming(name: str) -> Callable[[], float]:
        def candidate() -> float:
            for _ in range(10):
                volume().move(name, f"{name} moved")
                volume().move(f"{name} moved", name)
            return 20

        return candidate

    def remembered(what: str) -> Callable[[], float]:
        return lambda: peak(field, volume(), what)

    what = f"{ENTRIES:,} entries, {'ten to a directory' if deep else 'one directory'}"
    yield Limit(f"{what}: iterdir, per entry", listed, 1e6 / 300_000, "µs", 5)
    yield Limit(f"{what}: names by walk, per entry", named, 1e6 / 300_000, "µs", 5)
    yield Contest(f"{what}: move", renaming("top"), renaming("empty"), 2.0, "ms", "of an empty directory")
    yield Limit(f"{what}: peak memory of iterdir", remembered("list"), MEMORY_MB_MAX, "MB", 1)
    walked = MEMORY_MB_MAX if deep else 1.5 * MEMORY_MB_MAX  # it gives the names of a directory as one list
    yield Limit(f"{what}: peak memory of walk", remembered("walk"), walked, "MB", 1)
    yield Limit(f"{what}: peak memory of 10,000 × stat", remembered("stat"), MEMORY_MB_MAX, "MB", 1)
    yield Limit(f"{what}: peak memory of move", remembered("move"), MEMORY_MB_MAX, "MB", 1)
    yield Limit(f"{what}: peak memory of remove_file", remembered("remove"), MEMORY_MB_MAX, "MB", 1)


def consume(iterator: Iterable[object]) -> None:
    collections.deque(iterator, maxlen=0)


def large_files(field: Field) -> Iterator[Offer]:
    @functools.cache
    def sparse() -> Path:
        path = field.place()
        with path.open("wb") as file:
            file.write(b"first")
            file.seek(SPARSE_GIB << 29)
            file.write(b"middle")
            file.truncate(SPARSE_GIB << 30)
        return path

    @functools.cache
    def real() -> Path:
        path = field.place()
        with path.open("wb") as file:
            for _ in range(REAL_MIB):
                file.write(os.urandom(MIB))
        return path

    @functools.cache
    def many() -> Path:
        folder = field.place()
        for number in range(UPLOADED):
            path = folder / f"{number % DIRECTORIES:02}" / f"{number:06}"
            if number < DIRECTORIES:
                path.parent.mkdir(parents=True)
            path.write_bytes(b"x" * 500)
        return folder

    for name, source, what in (
        (f"a sparse file of {SPARSE_GIB} GiB", sparse, "file"),
        (f"a file of {REAL_MIB} MiB", real, "file"),
        (f"a directory of {UPLOADED:,} files", many, "directory"),
    ):

        def remembered(source: Callable[[], Path] = source, what: str = what) -> float:
            return peak(field, field.volume("large"), f"{what} {source()}")

        yield Limit(f"{name}: peak memory, there and back", remembered, MEMORY_MB_MAX, "MB", 1)


def peak(field: Field, volume: pgstore.Volume, what: str) -> float:
    """The peak memory, in MB, of a process that does nothing but this."""
    code = f"from tests.benchmarks.files import alone; alone({field.url!r}, {volume.name!r}, {what!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def alone(url: str, name: str, what: str) -> None:
    """Do *what* and print this process's peak memory in MB."""
    with pgstore.Client(url) as client:
        volume = pgstore.Volume.from_name(name, client=client)
        match what.split(maxsplit=1):
            case ["list"]:
                assert sum(1 for _ in volume.iterdir("top", recursive=True)) > ENTRIES
            case ["walk"]:
                assert sum(len(names) for _, _, names in volume.walk("top")) > ENTRIES // 2
            case ["stat"]:
                for entry in itertools.islice(volume.iterdir("top", recursive=True), 10_000):
                    volume.stat(entry.path)
            case ["move"]:
                volume.move("top", "elsewhere")
                volume.move("elsewhere", "top")
            case ["remove"]:
                volume.remove_file("top", recursive=True)
            case ["file", path]:
                volume.put_file(path, "file")
                volume.get_file("file", f"{path}.back")
                os.unlink(f"{path}.back")
            case ["directory", path]:
                volume.put_directory(path, "/")
                volume.get_directory("/", f"{path}.back")
                shutil.rmtree(f"{path}.back")
    print(peers.peak_megabytes())
