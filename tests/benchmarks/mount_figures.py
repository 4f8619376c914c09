"""Figures of mounts, as programs see them: ours beside ext4 on the same disk, sshfs over a loopback, and rclone.

A workload is run by all of them in turns, a round after the other, and each round is measured once: contests of several references
share it.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg

import pgstore
from tests.benchmarks.files import FILL
from tests.benchmarks.harness import Contest, Limit, Skipped, Turn
from tests.benchmarks.mount_peers import Caller, Lane, Load, Ours, lanes, why_not

MIB = 1 << 20
ROUNDS = 3
SIZE_MIB = 256  # of the file that is written and read
SMALL_WRITES = 4096
FILES = 1000
STATS = 500
LISTED = 10_000
MILLION = 1_000_000
GIT_FILES = 400
OPENS = 10_000
NAMES = 200

Events = Iterator[Contest | Limit | Skipped]


class Race:
    """
    One workload of all *lanes*.

    Args:
        run: does it once. It is given the lane and the round, and may do unmeasured things around what it returns.
    """

    def __init__(self, lanes: dict[str, Lane], run: Callable[[Lane, int], Turn]) -> None:
        self.lanes = lanes
        self._run = run
        self._turns: list[dict[str, Turn]] = []
        self._rng = random.Random(1)

    def turn(self, name: str, number: int) -> Turn:
        while len(self._turns) <= number:
            drawn = self._rng.sample(list(self.lanes.values()), k=len(self.lanes))
            self._turns.append({lane.name: self._run(lane, len(self._turns)) for lane in drawn})
        return self._turns[number][name]

    def of(self, name: str) -> Callable[[], Turn]:
        """The turns of a lane, one after the other; the first is given twice, for it is the warm-up of a contest, too."""
        numbers = itertools.chain((0,), itertools.count())
        return lambda: self.turn(name, next(numbers))

    def contest(self, what: str, ours: str, reference: str, unit: str, goal: float | None = None) -> Contest | Skipped:
        name = f"{what}, {ours}"
        if reference not in self.lanes:
            return Skipped(f"{name} : {reference}", why_not(reference))
        return Contest(name, self.of(ours), self.of(reference), goal, unit, reference, ROUNDS)

    def all(self, what: str, unit: str, **goals: float) -> Events:
        """Ours against each of the others; *goals* as `nfs_sshfs=2`."""
        for ours, reference in itertools.product(("nfs", "volume"), ("ext4", "sshfs", "rclone")):
            yield self.contest(what, ours, reference, unit, goals.get(f"{ours}_{reference}"))

    def limit(self, what: str, ours: str, most: float, unit: str) -> Limit:
        numbers = itertools.count()
        return Limit(f"{what}, {ours}", lambda: self.turn(ours, next(numbers)).value(unit), most, unit, ROUNDS)


def figures(url: str) -> Events:
    """All, with a mount of each kind."""
    with tempfile.TemporaryDirectory(prefix="pgstore-figures-") as name, pgstore.Client(url) as client:
        folder = Path(name)
        for kind in (pgstore.NetworkFileSystem, pgstore.Volume):
            kind.from_name(
                "nfs" if kind is pgstore.NetworkFileSystem else "volume", create_if_missing=True, client=client
            ).hydrate()
        yield from starting(url, folder)
        with lanes(folder, url) as running:
            yield from many_files(running)
            yield from listings(running, url)
            yield from large_files(running, url)
            yield from programs(running)
        yield from two_mounts(url, folder)
        yield from memory(url, folder)


# ------------------------------------------------------------------------------------------------------------- starting


def starting(url: str, folder: Path) -> Events:
    """Until programs find the files, with a new daemon and its connection; and the end of a mount with nothing to commit."""
    (folder / "start").mkdir()

    def measure(kind: str, name: str, *, ready: bool) -> float:
        caller = Caller(url)
        try:
            begun = caller.ask("mount", kind, name, str(folder / "start"))[0]
            ended = caller.ask("close", str(folder / "start"))[0]
        finally:
            caller.end()
        return float(begun if ready else ended) * 1e3

    for kind, name in (("NetworkFileSystem", "nfs"), ("Volume", "volume")):
        yield Limit(f"ready, {name}", partial(measure, kind, name, ready=True), 400, "ms", ROUNDS)
        yield Limit(f"unmount, {name}", partial(measure, kind, name, ready=False), 100, "ms", ROUNDS)


# ------------------------------------------------------------------------------------------------------ names and files


def settle(lane: Lane) -> None:
    """Have a Volume commit: what follows is not to pay for what came before."""
    if isinstance(lane, Ours) and lane.name == "volume":
        lane.commit()


def many_files(lanes: dict[str, Lane]) -> Events:
    def creating(lane: Lane, number: int) -> Turn:
        turn = lane.run("create", f"created {number}", FILES)
        settle(lane)
        return turn

    race = Race(lanes, creating)
    yield from race.all("create", "/s", nfs_sshfs=2)
    yield race.limit("create, one", "volume", 400, "µs")

    def writing(lane: Lane, number: int) -> Turn:
        turn = lane.run("write_files", f"written {number}", FILES)
        settle(lane)
        return turn

    race = Race(lanes, writing)
    yield from race.all("4 KiB file written", "/s", nfs_sshfs=1.5)
    yield race.limit("4 KiB file written, one", "volume", 1000, "µs")

    def files_to_read(lane: Lane) -> str:
        if not (lane.path / "files").exists():
            lane.run("write_files", "files", FILES)
            settle(lane)
        return "files"

    def reading_cold(lane: Lane, _: int) -> Turn:
        name = files_to_read(lane)
        lane.again()
        return lane.run("read_files", name, FILES)

    def reading(lane: Lane, _: int) -> Turn:
        name = files_to_read(lane)
        lane.run("read_files", name, FILES)
        return lane.run("read_files", name, FILES)

    race = Race(lanes, reading_cold)
    yield from race.all("4 KiB file read, cold", "/s")
    for ours in ("nfs", "volume"):
        yield race.limit("4 KiB file read, cold, one", ours, 833, "µs")
    race = Race(lanes, reading)
    yield from race.all("4 KiB file read, warm", "/s")
    for ours in ("nfs", "volume"):
        yield race.limit("4 KiB file read, warm, one", ours, 250, "µs")

    def asking(lane: Lane, _: int) -> Turn:
        return lane.run("stat_files", files_to_read(lane), STATS)

    yield from Race(lanes, asking).all("stat, warm", "/s", nfs_ext4=0.5, volume_ext4=0.5)

    race = Race(lanes, lambda lane, _: lane.run("missing", "", STATS))
    yield from race.all("missing name, again", "/s")
    yield race.limit("missing name, again, one", "volume", 10, "µs")

    def renaming(lane: Lane, number: int) -> Turn:
        lane.run("create", f"renamed {number}", FILES)
        return lane.run("rename_files", f"renamed {number}", FILES)

    race = Race(lanes, renaming)
    yield from race.all("rename", "/s")
    yield race.limit("rename, one", "volume", 333, "µs")
    yield race.limit("rename, one", "nfs", 1429, "µs")

    def removing(lane: Lane, number: int) -> Turn:
        if not (lane.path / f"renamed {number}").exists():
            renaming(lane, number)
        return lane.run("unlink_files", f"renamed {number}", FILES)

    race = Race(lanes, removing)
    yield from race.all("unlink", "/s")
    yield race.limit("unlink, one", "volume", 333, "µs")
    yield race.limit("unlink, one", "nfs", 1429, "µs")


def listings(lanes: dict[str, Lane], url: str) -> Events:
    """`ls -l` of a directory that was there before."""

    def directory(lane: Lane) -> str:
        if not (lane.path / "listed").exists():
            if isinstance(lane, Ours):
                (lane.path / "listed").mkdir()
                lane.commit()
                fill(url, lane.name, "listed", LISTED)
            else:
                lane.run("create", "listed", LISTED)
        return "listed"

    def first(lane: Lane, _: int) -> Turn:
        name = directory(lane)
        lane.again()
        return lane.run("list_long", name)

    def again(lane: Lane, number: int) -> Turn:
        first(lane, number)
        return lane.run("list_long", lane.name and "listed")

    for what, run, most in (("first", first, 250), ("again", again, 100)):
        race = Race(lanes, run)
        yield from race.all(f"ls -l of {LISTED}, {what}", "ms")
        for ours in ("nfs", "volume"):
            yield race.limit(f"ls -l of {LISTED}, {what}, alone", ours, most, "ms")


def fill(url: str, store: str, directory: str, entries: int) -> None:
    """Put as many files into *directory*, which is at the root."""
    with psycopg.connect(url, autocommit=True) as connection:
        ((store_id, ino),) = connection.execute(
            """
            SELECT s.id, d.ino
              FROM pgstore.store s
              JOIN pgstore.dirent d ON d.store_id = s.id
             WHERE s.name = %s
               AND d.parent = 1
               AND d.name::bytea = %s
            """,
            [store, directory.encode()],
        ).fetchall()
        # As many in one directory as there are: then none of them is a directory itself.
        connection.execute(FILL, {"entries": entries, "width": entries, "store_id": store_id, "top": ino})
        connection.execute("ANALYZE pgstore.dirent, pgstore.inode")


# ---------------------------------------------------------------------------------------------------------- large files


def large_files(lanes: dict[str, Lane], url: str) -> Events:
    def writing(lane: Lane, _: int) -> Turn:
        lane.run("remove", "large")
        settle(lane)
        turn = lane.run("write_large", "large", SIZE_MIB)
        settle(lane)
        return turn

    race = Race(lanes, writing)
    yield from race.all("write, fsync, close", "MB/s")
    for ours, chunk in (("nfs", 64 * 1024), ("volume", 256 * 1024)):
        bare = bare_insert(url, chunk)
        yield Contest(
            f"write, fsync, close, {ours}", race.of(ours), bare, 0.7, "MB/s", "bare chunk insert", rounds_max=ROUNDS
        )

    def small(lane: Lane, number: int) -> Turn:
        turn = lane.run("write_small_pieces", "pieces", SMALL_WRITES)
        lane.load.turn("close_all")
        settle(lane)
        return turn

    race = Race(lanes, small)
    yield from race.all("4 KiB writes in order", "MB/s", nfs_rclone=5, volume_rclone=5)
    for ours in ("nfs", "volume"):
        yield race.limit("4 KiB writes in order, one MB", ours, 10, "ms")

    def file(lane: Lane) -> str:
        if not (lane.path / "large").exists():
            writing(lane, 0)
        return "large"

    def cold(lane: Lane, _: int) -> Turn:
        name = file(lane)
        lane.again()
        return lane.run("read_large_cold", name)

    def warm(lane: Lane, _: int) -> Turn:
        name = file(lane)
        lane.run("read_large", name)
        return lane.run("read_large", name)

    race = Race(lanes, cold)
    yield from race.all("read in order, cold", "MB/s", nfs_sshfs=2, volume_sshfs=2)
    for ours in ("nfs", "volume"):
        bare = bare_reader(url, ours, "large")
        yield Contest(
            f"read in order, cold, {ours}", race.of(ours), bare, 0.7, "MB/s", "bare reader, 4 connections", ROUNDS
        )
    yield from Race(lanes, warm).all("read in order, warm", "MB/s", nfs_ext4=0.6, volume_ext4=0.6)


def bare_insert(url: str, chunk_size: int) -> Callable[[], float]:
    """Chunks into a table of their own, 4 MiB in a transaction and a pipeline."""
    numbers = itertools.count()
    data = random.randbytes(16 * MIB)

    def insert() -> float:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS public.bare_chunk")
            connection.execute(
                "CREATE TABLE public.bare_chunk (store_id bigint, id bigint, data bytea, PRIMARY KEY (store_id, id))"
            )
            connection.execute("ALTER TABLE public.bare_chunk ALTER COLUMN data SET STORAGE EXTERNAL")
            for _ in range(SIZE_MIB // 4):
                with connection.pipeline(), connection.transaction():
                    for start in range(0, 4 * MIB, chunk_size):
                        connection.execute(
                            "INSERT INTO public.bare_chunk VALUES (1, %b, %b)",
                            [next(numbers), data[start : start + chunk_size]],
                        )
        return SIZE_MIB * MIB / 1e6

    return insert


def bare_reader(url: str, store: str, name: str) -> Callable[[], float]:
    """The chunks of a file at the root, by four connections."""
    find = """
        SELECT s.id, i.blob_id, (SELECT max(position) + 1 FROM pgstore.extent e WHERE e.store_id = s.id AND e.blob_id = i.blob_id)
          FROM pgstore.store s
          JOIN pgstore.dirent d ON d.store_id = s.id AND d.parent = 1 AND d.name::bytea = %s AND d.version_to > 1::bigint << 62
          JOIN pgstore.inode i ON i.store_id = s.id AND i.ino::bigint = d.ino AND i.version_to > 1::bigint << 62
         WHERE s.name = %s
    """

    def read() -> float:
        with psycopg.connect(url) as connection:
            ((store_id, blob_id, positions),) = connection.execute(find, [name.encode(), store]).fetchall()
        step = -(-4 * MIB * positions // (SIZE_MIB * MIB))
        starts = iter(range(0, positions, step))
        done: list[int] = []

        def work() -> None:
            with psycopg.connect(url, autocommit=True) as connection:
                while (start := next(starts, None)) is not None:
                    rows = connection.execute(
                        "SELECT c.data FROM pgstore.extent e JOIN pgstore.chunk c "
                        "ON c.store_id = e.store_id AND c.id = e.chunk_id "
                        "WHERE e.store_id = %s AND e.blob_id = %s AND e.position >= %s AND e.position < %s",
                        [store_id, blob_id, start, start + step],
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

    return read


# ------------------------------------------------------------------------------------------------------------- programs


def programs(lanes: dict[str, Lane]) -> Events:
    def git(lane: Lane, number: int) -> Turn:
        return lane.run("git", f"git {number}", GIT_FILES)

    def git_without_links(lane: Lane, number: int) -> Turn:
        return lane.run("git", f"git without links {number}", GIT_FILES, "--no-hardlinks")

    what = f"git init, add, commit, gc, clone of {GIT_FILES} files"
    race = Race({name: lane for name, lane in lanes.items() if name in ("ext4", "nfs", "volume")}, git)
    for ours in ("nfs", "volume"):
        yield race.contest(what, ours, "ext4", "s", 5)
    # By sshfs a file and its link have different inodes, which git takes for an attack. rclone has no links, nor git's names.
    race = Race({name: lane for name, lane in lanes.items() if name != "rclone"}, git_without_links)
    for ours, reference in itertools.product(("nfs", "volume"), ("ext4", "sshfs")):
        yield race.contest(f"{what}, no links", ours, reference, "s")


# ----------------------------------------------------------------------------------------------------------- two mounts


def two_mounts(url: str, folder: Path) -> Events:
    """What one program closes, the next one opens, through another mount in another process."""
    one, other = (Ours(folder, url, "NetworkFileSystem", "nfs", path) for path in ("one", "other"))

    def started() -> None:
        for lane in (one, other):
            if lane.caller is None:
                lane.start()

    def stale_opens() -> float:
        started()
        stale = 0
        for number in range(OPENS):
            text = f"state {number} " + "x" * (number % 7)
            one.load.ask("replace", [str(one.path / "shared"), text])
            stale += other.load.ask("read_text", [str(other.path / "shared")])[0] != text
        return stale

    def delay() -> float:
        started()
        delays = []
        for number in range(NAMES):
            for verb, is_there in (("make_name", True), ("remove_name", False)):
                other.load.send("wait_for_name", [str(other.path / f"seen {number}"), is_there])
                done = one.load.ask(verb, [str(one.path / f"seen {number}")])[0]
                delays.append(max(0.0, other.load.answer()[0] - done))
        return statistics.quantiles(delays, n=100)[98] * 1e3

    try:
        yield Limit("two mounts: a name is there, or gone, p99", delay, 50, "ms", 1)
        yield Limit(f"two mounts: stale opens of {OPENS}", stale_opens, 0, "", 1)
    finally:
        one.end()
        other.end()


# --------------------------------------------------------------------------------------------------------------- memory


def memory(url: str, folder: Path) -> Events:
    for kind, name in (("NetworkFileSystem", "nfs"), ("Volume", "volume")):
        lane = Ours(folder, url, kind, name, f"memory of {name}")

        def idle(lane: Ours = lane) -> float:
            lane.start()
            return lane.memory_megabytes()

        def listed(lane: Ours = lane) -> float:
            if lane.caller is None:
                lane.start()
            if not (lane.path / "million").exists():
                (lane.path / "million").mkdir()
                lane.commit()
                fill(url, lane.name, "million", MILLION)
            lane.again()
            lane.run("list_names", "million", MILLION)
            return lane.memory_megabytes()

        def further(lane: Ours = lane, kind: str = kind, name: str = name) -> float:
            if lane.caller is None:
                lane.start()
            before = lane.memory_megabytes()
            paths = [folder / f"further {name} {number}" for number in range(5)]
            assert lane.caller is not None
            with Working() as load:
                for path in paths:
                    path.mkdir()
                    lane.caller.ask("mount", kind, name, str(path))
                    load.turn("write_files", str(path / path.name), 10)
                grown = (lane.memory_megabytes() - before) / len(paths)
            for path in paths:
                lane.caller.ask("close", str(path))
            return grown

        try:
            yield Limit(f"memory of the daemon, {name}", idle, 150, "MB", 1)
            yield Limit(f"memory for each further mount, {name}", further, 20, "MB", 1)
            yield Limit(f"memory with a million names listed, {name}", listed, 150, "MB", 1)
        finally:
            lane.end()


class Working(Load):
    """A process that works, for the length of a block."""

    def __enter__(self) -> Working:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
