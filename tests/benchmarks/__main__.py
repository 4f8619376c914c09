"""`python -m tests.benchmarks <area> [--url URL] [--rounds N]`: hold an area's contests and print the table."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pkgutil
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
from rich.console import Console

from tests.benchmarks.harness import hold_all, table
from tests.fixtures.server import Server, migrate

NO_AREAS = {
    "__main__",
    "app_functions",
    "bucket_load",
    "bucket_server",
    "harness",
    "mount_figures",
    "mount_load",
    "mount_peers",
    "peers",
    "queue_peers",
}


def main() -> None:
    """Read the command line and do what it says."""
    folder = Path(__file__).parent
    areas = sorted({module.name for module in pkgutil.iter_modules([str(folder)])} - NO_AREAS)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("area", choices=areas, help="a module in tests/benchmarks")
    parser.add_argument(
        "--url", help="the database to use; default: a server of its own with fsync on, removed afterwards"
    )
    parser.add_argument("--rounds", type=int, default=15, help="how often each candidate runs (default 15)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only contests whose name contains TEXT")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="repeats the order of a run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="give one of the area's sizes, a number in capitals in its module, another value",
    )
    arguments = parser.parse_args()

    area = importlib.import_module(f"tests.benchmarks.{arguments.area}")
    for setting in arguments.set:
        name, _, number = setting.partition("=")
        if not isinstance(getattr(area, name, None), int):
            parser.error(f"--set {setting}: {area.__name__} has no number {name}")
        setattr(area, name, int(number))
    with database(arguments.url, getattr(area, "SERVER_OPTIONS", "")) as url:
        title = f"{arguments.area}: {machine(url)}; {arguments.rounds} rounds, --seed {arguments.seed}"
        contests = area.contests(url)
        with contextlib.closing(contests):
            results = hold_all(contests, rounds=arguments.rounds, seed=arguments.seed, only=arguments.only)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file or a pipe has no width of its own, and 80 columns would fold the figures
    console.print(table(title, results))


@contextlib.contextmanager
def database(url: str | None, options: str) -> Iterator[str]:
    """Give *url*, or the migrated database of a durable server, run with *options*, that ends with this block."""
    if url:
        yield url
        return
    with Server(durable=True, options=options) as server:
        url = server.create_database("benchmarks")
        migrate(url)
        yield url


def machine(url: str) -> str:
    """Say what the figures were measured on."""
    with psycopg.connect(url) as connection:
        settings = [
            f"{name} {connection.execute(f'SHOW {name}').fetchone()[0]}"  # type: ignore[index]
            for name in ("fsync", "synchronous_commit")
        ]
        version = connection.info.parameter_status("server_version")
    return f"PostgreSQL {version}, {', '.join(settings)}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
