"""A pipeline over two Volumes, a Queue and a Dict, in which every call of a function is one transaction.

    python examples/pipeline.py [DIR] [--workers 4] [--kill] [--sleep SECONDS] [--limit N] [--pattern '*.py'] [--keep]

The files of DIR go to a Volume, and for each of them a call is spawned, in one transaction. Workers make the calls: each reads its
file, counts lines and words, writes a report to another Volume, adds to counters in a Dict, and puts the file's name into a Queue.
All that and the call's own end commit together or not at all, so a worker may die at any moment: the server undoes what it had
begun, and another worker makes the call again. `--kill` shows that. In the end SQL adds everything up, and the sums must be those
of the files. Without a database, pgstore starts one of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import keyword
import os
import re
import secrets
import signal
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import print as show
from rich.progress import Progress
from rich.table import Table

import pgstore

app = pgstore.App("pipeline")


@dataclass
class Stores:
    """The stores of one run. Handles can be pickled: calls receive this as it is."""

    files: pgstore.Volume
    reports: pgstore.Volume
    counters: pgstore.Dict
    done: pgstore.Queue

    @classmethod
    def create(cls, run: str) -> Stores:
        stores = cls(
            files=pgstore.Volume.persist(f"{run}-files"),
            reports=pgstore.Volume.persist(f"{run}-reports"),
            counters=pgstore.Dict.persist(f"{run}-counters"),
            done=pgstore.Queue.persist(f"{run}-done"),
        )
        for store in vars(stores).values():
            store.hydrate()  # now: inside the calls' transactions, each would wait for the one that creates it
        return stores


def analyse(text: bytes) -> dict[str, Any]:
    """Count the lines and words of *text*, and its most frequent identifiers."""
    names = Counter(name.decode() for name in re.findall(rb"[A-Za-z_]\w{2,}", text))
    top = {name: count for name, count in names.most_common(40) if not keyword.iskeyword(name)}
    return {"lines": text.count(b"\n"), "words": len(text.split()), "top": top}


@app.function(transactional=True, retries=pgstore.Retries(max_retries=2, initial_delay=0))
def report_on(stores: Stores, path: str, sleep_seconds: float, trap: str) -> None:
    worker = f"worker-{os.getpid()}"
    report = analyse(b"".join(stores.files.read_file(path)))
    stores.reports.put_file(io.BytesIO(json.dumps(report).encode()), f"{path}.json")
    for what, count in {"files": 1, "lines": report["lines"], "words": report["words"]}.items():
        stores.counters.increment(
            f"{worker}/{what}", count
        )  # its own: others would wait for the end of this transaction
    stores.done.put(path)
    time.sleep(sleep_seconds)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(trap)  # whoever takes the trap away is caught in it
        print(f"{worker} is killed, with {path} all but committed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)  # it cannot tidy up, nor tell anybody


def select(directory: Path, pattern: str, limit: int | None) -> list[Path]:
    """The files below *directory*, without what is installed or compiled there. What cannot be read is an error."""
    skipped = {"site-packages", "dist-packages", "__pycache__"}
    walk = os.walk(directory, onerror=lambda exc: sys.exit(f"error: {exc}"))
    found = (Path(folder, name) for folder, _, names in walk for name in names if Path(name).match(pattern))
    wanted = (path for path in sorted(found) if not skipped.intersection(path.relative_to(directory).parts))
    return [path for path in wanted if path.is_file()][:limit]


def upload(
    stores: Stores, directory: Path, files: list[Path], sleep_seconds: float, trap: str, progress: Progress
) -> list[str]:
    """Put the files and spawn their calls in one transaction: no worker sees a call before its file."""
    calls = []
    with pgstore.transaction():
        for file in progress.track(files, description="upload"):
            path = file.relative_to(directory).as_posix()
            stores.files.put_file(file, path)
            calls.append(report_on.spawn(stores, path, sleep_seconds, trap).object_id)
    return calls


def follow(stores: Stores, total: int, trap: str | None, progress: Progress) -> None:
    """Wait for all calls; with *trap*, set it when half of them have ended."""
    for number in progress.track(range(total), description="process"):
        if trap and number == total // 2:
            Path(trap).touch()
        stores.done.get(timeout=60)


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
CALLS = """
SELECT function, state, attempts, count(*)
  FROM pgstore.calls
 WHERE call_id = ANY (%s)
 GROUP BY 1, 2, 3
 ORDER BY 3
"""
SIZES = "SELECT name, kind, entries, size_bytes FROM pgstore.store_sizes WHERE name = ANY (%s) ORDER BY store_id"


def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with pgstore.transaction() as tx:
        return list(tx.connection.execute(statement, values))


def summarise(stores: Stores, calls: list[str], files: list[Path]) -> bool:
    """Show what SQL finds, and beside it what the files themselves say. Returns whether that is the same."""
    workers = sql(COUNTED, stores.counters.name)
    direct = [analyse(file.read_bytes()) for file in files]
    totals = {
        "counters in the Dict": workers[-1][1:],
        "reports in the Volume": sql(REPORTED, stores.reports.name)[0],
        "the files themselves": (len(direct), sum(d["lines"] for d in direct), sum(d["words"] for d in direct)),
    }
    show(table("Work", "worker files lines words", workers))
    show(table("Calls", "function state attempts calls", sql(CALLS, calls)))
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
    parser = argparse.ArgumentParser(
        description="Analyse the files of a directory, each by a call that is one transaction."
    )
    parser.add_argument("directory", nargs="?", type=Path, default=sysconfig.get_path("stdlib"), metavar="DIR")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="workers at once (4)")
    parser.add_argument("--kill", action="store_true", help="kill a worker in the middle of a call")
    parser.add_argument("--sleep", type=float, default=0, metavar="SECONDS", help="in the transaction of every call")
    parser.add_argument("--limit", type=int, metavar="N", help="take no more files than that")
    parser.add_argument("--pattern", default="*", metavar="GLOB", help="take files of such names")
    parser.add_argument("--keep", action="store_true", help="keep the stores, to look at them with SQL")
    options = parser.parse_args()
    files = select(options.directory, options.pattern, options.limit)
    if not files:
        parser.exit(2, f"error: there is no file {options.pattern!r} in {options.directory}\n")

    os.environ["PGSTORE_PARALLELISM"] = str(options.workers)
    stores = Stores.create(f"pipeline-{secrets.token_hex(3)}")
    try:
        with tempfile.TemporaryDirectory() as folder, Progress() as progress, app.run():
            trap = os.path.join(folder, "trap")
            calls = upload(stores, options.directory, files, options.sleep, trap, progress)
            follow(stores, len(files), trap if options.kill else None, progress)
        same = summarise(stores, calls, files)
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
