"""The foundation: what a call costs beside the driver itself, and what commits cost beside silent ones."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy

import pgstore
from pgstore import embedded
from pgstore.dict.entries import Entries
from tests.benchmarks import peers
from tests.benchmarks.harness import Contest, Turn
from tests.fixtures.processes import give_away, unprivileged

KEYS = 20_000
VALUE = {"id": 1, "name": "x" * 20, "tags": ["a", "b"], "score": None}
CLIENTS = 8


def contests(url: str) -> Iterator[Contest]:
    url = peers.by_socket(url)
    with pgstore.Client(url) as client:
        yield from reading(client, url)
        yield from committing(client, url)
    yield from serving()


# ----------------------------------------------------------------------------------------------------------- reading


def reading(client: pgstore.Client, url: str) -> Iterator[Contest]:
    store = pgstore.Dict.persist("benchmark-core", client=client)
    store.update({f"k{i}": VALUE for i in range(KEYS)})
    store_id = int(store.hydrate().object_id.removeprefix("di-"))
    keys = [f"k{i}" for i in random.Random(1).sample(range(KEYS), 4000)]

    def ours() -> float:
        get = store.get
        for key in keys:
            get(key)
        return len(keys)

    connection = psycopg.connect(url, autocommit=True)
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.execute("ANALYZE pgstore.dict_entry")
    cursor = connection.cursor(binary=True)
    statement = Entries._GET.sql.decode().replace("$1", "%(store_id)s").replace("$2", "%(key)s")

    def by_cursor() -> float:
        for key in keys:
            cursor.execute(statement, {"store_id": store_id, "key": key}, prepare=True)
            pickle.loads(cursor.fetchone()[1])  # type: ignore[index]
        return len(keys)

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    held = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    entry = sqlalchemy.table(
        "dict_entry", *map(sqlalchemy.column, ("store_id", "key", "codec", "value", "expires_at")), schema="pgstore"
    )
    alive = sqlalchemy.or_(entry.c.expires_at.is_(None), entry.c.expires_at > sqlalchemy.func.statement_timestamp())
    select = sqlalchemy.select(entry.c.codec, entry.c.value).where(
        entry.c.store_id == sqlalchemy.bindparam("store_id"), entry.c.key == sqlalchemy.bindparam("key"), alive
    )

    def by_core() -> float:
        for key in keys:
            pickle.loads(held.execute(select, {"store_id": store_id, "key": key}).one()[1])
        return len(keys)

    yield Contest("Dict.get", ours, by_cursor, 1.0, "op/s", "reused binary cursor, prepared, + loads")
    yield Contest("Dict.get", ours, by_core, 2.5, "op/s", "SQLAlchemy Core, held connection, + loads")
    connection.close()
    held.close()
    store.clear()


# -------------------------------------------------------------------------------------------------------- committing


def committing(client: pgstore.Client, url: str) -> Iterator[Contest]:
    pgstore.Queue.objects.create("benchmark-core", allow_existing=True, client=client)
    context = multiprocessing.get_context("spawn")
    crews = [[_start(context, url, notify) for _ in range(CLIENTS)] for notify in (True, False)]

    def candidate(crew: list[tuple[Any, Connection]]) -> float:
        for _, pipe in crew:
            pipe.send(100)
        return sum(pipe.recv() for _, pipe in crew)

    yield Contest(
        f"{CLIENTS} clients, transaction of Queue.put + commit",
        lambda: candidate(crews[0]),
        lambda: candidate(crews[1]),
        0.75,
        "op/s",
        "the same without any notify",
    )
    for process, pipe in crews[0] + crews[1]:
        pipe.send(0)
        process.join()


def _start(context: Any, url: str, notify: bool) -> tuple[Any, Connection]:
    here, there = context.Pipe()
    process = context.Process(target=_commit_on_demand, args=(url, notify, there), daemon=True)
    process.start()
    return process, here


def _commit_on_demand(url: str, notify: bool, pipe: Connection) -> None:
    from pgstore.client.notifications import Notifications

    if not notify:
        Notifications.with_commit = lambda self: []  # type: ignore[method-assign]
    with pgstore.Client(url) as client:
        queue = pgstore.Queue.from_name("benchmark-core", client=client)
        while amount := pipe.recv():
            for _ in range(amount):
                with client.transaction():
                    queue.put("item")
            pipe.send(amount)


# ----------------------------------------------------------------------------------------------------------- serving


def serving() -> Iterator[Contest]:
    programs = embedded.find_binaries()
    with tempfile.TemporaryDirectory(prefix="pgs-") as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o755)  # the bare server's user must get to its data
        numbers = itertools.count()

        def first() -> float:
            server = embedded.Server(Path(folder, f"f{next(numbers)}"), programs)
            server.start()
            stack.callback(server.stop, immediate=True)
            return 1

        def bare_first() -> float:
            data = _initialise(programs.directory, Path(folder, f"b{next(numbers)}"))
            _start_bare(programs.directory, data)
            stack.callback(_stop, programs.directory, data)
            return 1

        yield Contest("embedded server, first start", first, bare_first, 3.0, "s", "initdb + pg_ctl start")

        again = embedded.Server(Path(folder, "again"), programs)
        again.start()
        bare = _initialise(programs.directory, Path(folder, "bare"))
        _start_bare(programs.directory, bare)
        stack.callback(again.stop, immediate=True)
        stack.callback(_stop, programs.directory, bare)

        def later() -> Turn:
            again.stop()
            return _timed(again.start)

        def bare_later() -> Turn:
            _stop(programs.directory, bare)
            return _timed(lambda: _start_bare(programs.directory, bare))

        yield Contest("embedded server, later start", later, bare_later, 1.5, "s", "pg_ctl start")


def _timed(call: Callable[[], object]) -> Turn:
    """The turn of *call* alone: what came before it does not count."""
    cpu_began, began = time.process_time(), time.perf_counter()
    call()
    return Turn(1, time.perf_counter() - began, time.process_time() - cpu_began)


def _initialise(programs: Path, data: Path) -> Path:
    data.mkdir()
    give_away(data)
    _run(programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
    return data


def _start_bare(programs: Path, data: Path) -> None:
    _run(programs / "pg_ctl", "-D", data, "-l", data / "log", "-o", f"-h '' -k {data}", "-w", "start")


def _stop(programs: Path, data: Path) -> None:
    _run(programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, cwd="/", **unprivileged())
