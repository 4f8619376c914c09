"""What ours is compared with, started for the length of a block: Redis, pgbench, and processes that work side by side."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.benchmarks.harness import Turn
from tests.fixtures.processes import mortal
from tests.fixtures.server import default_bin_dir

BOOT_SECONDS_MAX = 10


def missing(*modules: str, program: str | None = None) -> str:
    """Say what of these is not installed; empty if all are there."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if program is not None and shutil.which(program) is None:
        absent.append(program)
    return f"not installed: {', '.join(absent)}" if absent else ""


def by_socket(url: str) -> str:
    """Return *url* through the server's Unix socket where it has one on this machine, as Redis is reached by its own."""
    with psycopg.connect(url) as connection:
        folder, port = connection.execute(
            "SELECT split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port')"
        ).fetchone() or ("", "")
        identity = _identity(connection)
    candidate = make_conninfo(url, host=folder, port=port)
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(candidate) as connection:
        if folder and _identity(connection) == identity:
            return candidate
    return url


def _identity(connection: psycopg.Connection[Any]) -> Any:
    return connection.execute("SELECT pg_postmaster_start_time(), current_database()").fetchone()


# -------------------------------------------------------------------------------------------------------------- Redis


@contextlib.contextmanager
def redis_server(appendfsync: str) -> Iterator[str]:
    """Run a Redis that logs every write and syncs the log as *appendfsync* says; gives the path of its Unix socket."""
    with tempfile.TemporaryDirectory(prefix="pgstore-redis-") as folder:
        socket = f"{folder}/redis.sock"
        options = f"--port 0 --unixsocket {socket} --dir {folder} --appendonly yes --appendfsync {appendfsync}"
        command = mortal(["redis-server", *options.split(), "--save", ""], signal_name="TERM")
        with open(f"{folder}/log", "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + BOOT_SECONDS_MAX
            while not Path(socket).exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"redis-server did not start:\n{Path(folder, 'log').read_text()}")
                time.sleep(0.01)
            yield socket
        finally:
            process.terminate()
            process.wait()


# ------------------------------------------------------------------------------------------------------------ pgbench


class Pgbench:
    """One client of pgbench that runs *script*, prepared, for *seconds* at a time."""

    def __init__(self, url: str, script: str, folder: Path, seconds: int = 1) -> None:
        self._path = folder / f"{len(list(folder.iterdir()))}.sql"
        self._path.write_text(script)
        self._url = url
        self._seconds = seconds

    def run(self) -> Turn:
        given = conninfo_to_dict(self._url)
        target = make_conninfo(
            self._url, options=f"{given.get('options', '')} -c plan_cache_mode=force_generic_plan".strip()
        )
        command = [str(default_bin_dir() / "pgbench"), "-n", "-M", "prepared", "-c", "1", "-T", str(self._seconds)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, "-f", str(self._path), target], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rate = re.search(r"tps = ([\d.]+)", done.stdout)
        amount = re.search(r"transactions actually processed: (\d+)", done.stdout)
        if done.returncode or rate is None or amount is None:
            raise RuntimeError(f"pgbench failed: {done.stdout}{done.stderr}")
        # The time that it took to connect is not in the rate.
        cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Turn(int(amount[1]), int(amount[1]) / float(rate[1]), cpu_seconds)


# ---------------------------------------------------------------------------------------------------------- processes

Work = Callable[[], object]


class Crew:
    """
    Processes that each call the same thing again and again, all in the same stretch of time.

    *make_work* is a function at the top of a module; each process calls it once with *arguments* for what it repeats.
    """

    def __init__(self, size: int, make_work: Callable[..., Work], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._members = []
        for _ in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_labour, args=(make_work, arguments, there), daemon=True)
            process.start()
            self._members.append((process, here))
        for _, pipe in self._members:
            pipe.recv()

    def work(self, seconds: float) -> list[Turn]:
        """Let all work for *seconds*; what each has done."""
        begin = time.monotonic() + 0.02
        for _, pipe in self._members:
            pipe.send((begin, begin + seconds))
        turns = [pipe.recv() for _, pipe in self._members]
        for turn in turns:
            if isinstance(turn, BaseException):
                raise turn
        return turns

    def close(self) -> None:
        for process, pipe in self._members:
            pipe.send(None)
            process.join()


def together(turns: list[Turn]) -> Turn:
    """What a crew has done as one."""
    return Turn(
        sum(turn.amount for turn in turns),
        max(turn.wall_seconds for turn in turns),
        sum(turn.cpu_seconds for turn in turns),
    )


def _labour(make_work: Callable[..., Work], arguments: tuple[Any, ...], pipe: Any) -> None:
    work = make_work(*arguments)
    pipe.send("ready")
    while (stretch := pipe.recv()) is not None:
        begin, end = stretch
        time.sleep(max(0.0, begin - time.monotonic()))
        done, cpu_began = 0, time.process_time()
        try:
            while time.monotonic() < end:
                work()
                done += 1
        except Exception as exc:
            pipe.send(exc)
        else:
            pipe.send(Turn(done, time.monotonic() - begin, time.process_time() - cpu_began))


def in_process(function: Callable[..., float], *arguments: Any) -> float:
    """Call *function* in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_growth_megabytes(work: Callable[[], object]) -> float:
    """How much more memory this process had during *work* than before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def peak_megabytes() -> float:
    """The most memory that this process has had. Not `ru_maxrss`: a child begins with its parent's."""
    return _status("VmHWM") / 1024


def _status(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])
