"""A pipeline over two Volumes, a Queue and a Dict, in which every task is one transaction.

    python examples/pipeline.py [DIR] [--workers 4] [--kill] [--sleep SECONDS] [--limit N] [--pattern '*.py'] [--keep]

The files of DIR go to a Volume, and a task for each to a Queue. Worker processes take a task, read its file, count lines and
words, write a report to another Volume and add to counters in a Dict. All that commits together or not at all, so a worker may die
at any moment: the server undoes what it had begun, its task is back in the queue, and another worker does it. `--kill` shows that.
In the end SQL adds everything up, and the sums must be those of the files. Without a database, pgstore starts one of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import keyword
import multiprocessing
import os
import queue
import re
import secrets
import signal
import sys
import sysconfig
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich import print as show
from rich.progress import Progress
from rich.table import Table

import pgstore

spawn = multiprocessing.get_context("spawn")


@dataclass
class Stores:
    """The stores of one run. Handles can be pickled: workers receive this as it is."""

    files: pgstore.Volume
    tasks: pgstore.Queue
    reports: pgstore.Volume
    counters: pgstore.Dict

    @classmethod
    def create(cls, run: str) -> Stores:
        stores = cls(
            files=pgstore.Volume.persist(f"{run}-files"),
            tasks=pgstore.Queue.persist(f"{run}-tasks"),
            reports=pgstore.Volume.persist(f"{run}-reports"),
            counters=pgstore.Dict.persist(f"{run}-counters"),
        )
        for store in vars(stores).values():
            store.hydrate()  # now: inside the workers' transactions, each would wait for the one that creates it
        return stores


def analyse(text: bytes) -> dict[str, Any]:
    """Count the lines and words of *text*, and its most frequent identifiers."""
    names = Counter(name.decode() for name in re.findall(rb"[A-Za-z_]\w{2,}", text))
    top = {name: count for name, count in names.most_common(40) if not keyword.iskeyword(name)}
    return {"lines": text.count(b"\n"), "words": len(text.split()), "top": top}


def do_task(stores: Stores, path: str, worker: str) -> None:
    report = analyse(b"".join(stores.files.read_file(path)))
    stores.reports.put_file(io.BytesIO(json.dumps(report).encode()), f"{path}.json")
    # Every worker has counters of its own: nobody else changes them between this `get` and the commit.
    for what, count in {"files": 1, "lines": report["lines"], "words": report["words"]}.items():
        key = f"{worker}/{what}"
        stores.counters[key] = stores.counters.get(key, 0) + count


def work(stores: Stores, worker: str, sleep_seconds: float, parent: Connection | None) -> None:
    """Do tasks until a None comes. With *parent*: stop in the middle of the first one, and tell which."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    with contextlib.suppress(queue.Empty):  # after a minute without a task: the parent is gone
        while True:
            with pgstore.transaction():
                path = stores.tasks.get(timeout=60)
                if path is None:
                    return
                do_task(stores, path, worker)
                time.sleep(sleep_seconds)
                if parent is not None:
                    parent.send(path)
                    parent.recv()  # no answer comes: all is done but the commit, and here this process is killed


def select(directory: Path, pattern: str, limit: int | None) -> list[Path]:
    """The files below *directory*, without what is installed or compiled there. What cannot be read is an error."""
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    walk = os.walk(directory, onerror=lambda exc: sys.exit(f"error: {exc}"))
    found = (Path(folder, name) for folder, _, names in walk for name in names if Path(name).match(pattern))
    wanted = (path for path in sorted(found) if not skipped.intersection(path.relative_to(directory).parts))
    return [path for path in wanted if path.is_file()][:limit]


def upload(stores: Stores, directory: Path, files: list[Path], progress: Progress) -> None:
    """Put the files and their tasks in one transaction: no worker sees a task before its file."""
    with pgstore.transaction():
        paths = [file.relative_to(directory).as_posix() for file in files]
        for file, path in zip(progress.track(files, description="upload"), paths, strict=True):
            stores.files.put_file(file, path)
        stores.tasks.put_many(paths)


def start(stores: Stores, number: int, sleep_seconds: float, parent: Connection | None = None) -> BaseProcess:
    worker = f"worker-{number}"
    process = spawn.Process(target=work, args=(stores, worker, sleep_seconds, parent), name=worker, daemon=True)
    process.start()
    return process


def run_workers(stores: Stores, total: int, options: argparse.Namespace, progress: Progress) -> None:
    """Do all tasks; with --kill, the first worker is held in the middle of one, and killed when half of the others are done."""
    bar = progress.add_task("process", total=total)
    ours, theirs = spawn.Pipe()
    workers = [start(stores, 1, options.sleep, theirs if options.kill else None)]
    its_task = ours.recv() if options.kill else None
    try:
        workers += [start(stores, number, options.sleep) for number in range(2, options.workers + 1)]
        while (done := sum(n for key, n in stores.counters.items() if key.endswith("/files"))) < total:
            progress.update(bar, completed=done)
            if its_task and done >= total // 2:
                workers[0].kill()  # SIGKILL: it cannot tidy up, nor tell anybody
                workers[0] = start(stores, options.workers + 1, options.sleep)
                progress.console.print(f"killed worker-1, with {its_task} all but committed; {workers[0].name} joins")
                its_task = None
            if any(worker.exitcode for worker in workers):
                sys.exit("error: a worker failed")
            time.sleep(0.05)
        progress.update(bar, completed=total)
        stores.tasks.put_many([None] * len(workers))
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.kill()  # whoever is left, after an error or Ctrl-C


# --- what SQL sees ----------------------------------------------------------------------------------------------------

COUNTED = """
SELECT coalesce(split_part(key, '/', 1), 'all'),
       sum(value::bigint) FILTER (WHERE key LIKE '%%/files')::bigint,
       sum(value::bigint) FILTER (WHERE key LIKE '%%/lines')::bigint,
       sum(value::bigint) FILTER (WHERE key LIKE '%%/words')::bigint
  FROM pgstore.dict_items
 WHERE name = %s
 GROUP BY ROLLUP (split_part(key, '/', 1))
 ORDER BY length(split_part(key, '/', 1)), 1
"""
# Small files live in the rows of their inodes, so that SQL can look into them.
REPORTS = """
SELECT convert_from(i.inline_data, 'UTF8')::jsonb AS report
  FROM pgstore.store s
  JOIN pgstore.inode i ON i.store_id = s.id
 WHERE s.kind = 'volume'
   AND s.name = %s
   AND i.kind = 'f'
   AND i.version_to = 9223372036854775807  -- what is there now
"""
REPORTED = f"""
SELECT count(*), sum((report ->> 'lines')::bigint)::bigint, sum((report ->> 'words')::bigint)::bigint
  FROM ({REPORTS}) reports
"""
FREQUENT = f"""
SELECT name, sum(count::bigint)::bigint, count(*)
  FROM ({REPORTS}) reports, jsonb_each_text(report -> 'top') AS top (name, count)
 GROUP BY name
 ORDER BY 2 DESC, 1
 LIMIT 8
"""
SIZES = "SELECT name, kind, entries, size_bytes FROM pgstore.store_sizes WHERE name = ANY (%s) ORDER BY store_id"


def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with pgstore.transaction() as tx:
        return list(tx.connection.execute(statement, values))


def summarise(stores: Stores, files: list[Path]) -> bool:
    """Show what SQL finds, and beside it what the files themselves say. Returns whether that is the same."""
    workers = sql(COUNTED, stores.counters.name)
    direct = [analyse(file.read_bytes()) for file in files]
    totals = {
        "counters in the Dict": workers[-1][1:],
        "reports in the Volume": sql(REPORTED, stores.reports.name)[0],
        "the files themselves": (len(direct), sum(d["lines"] for d in direct), sum(d["words"] for d in direct)),
    }
    show(table("Work", "worker files lines words", workers))
    show(table("Most frequent names", "name times reports", sql(FREQUENT, stores.reports.name)))
    show(table("Stores", "store kind entries bytes", sql(SIZES, [store.name for store in vars(stores).values()])))
    show(table("Totals", "source files lines words", [(source, *row) for source, row in totals.items()]))
    return len(set(totals.values())) == 1


def table(title: str, columns: str, rows: list[tuple[Any, ...]]) -> Table:
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(columns.split()):
        drawn.add_column(column, justify="right" if any(isinstance(row[index], int) for row in rows) else "left")
    for row in rows:
        drawn.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description="Analyse the files of a directory, each in one transaction.")
    parser.add_argument("directory", nargs="?", type=Path, default=sysconfig.get_path("stdlib"), metavar="DIR")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="worker processes (4)")
    parser.add_argument("--kill", action="store_true", help="kill a worker in the middle of a task")
    parser.add_argument("--sleep", type=float, default=0, metavar="SECONDS", help="in the transaction of every task")
    parser.add_argument("--limit", type=int, metavar="N", help="take no more files than that")
    parser.add_argument("--pattern", default="*", metavar="GLOB", help="take files of such names")
    parser.add_argument("--keep", action="store_true", help="keep the stores, to look at them with SQL")
    options = parser.parse_args()
    files = select(options.directory, options.pattern, options.limit)
    if not files:
        parser.exit(2, f"error: there is no file {options.pattern!r} in {options.directory}\n")

    stores = Stores.create(f"pipeline-{secrets.token_hex(3)}")
    try:
        with Progress() as progress:
            upload(stores, options.directory, files, progress)
            run_workers(stores, len(files), options, progress)
        same = summarise(stores, files)
    finally:
        for store in vars(stores).values() if not options.keep else ():
            type(store).objects.delete(store.name)
    if not same:
        sys.exit("error: the totals differ")
    show("The totals agree: nothing was lost, and nothing counted twice.")


if __name__ == "__main__":
    try:
        main()
    except pgstore.Error as exc:
        sys.exit(f"error: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
