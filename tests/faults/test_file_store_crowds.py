"""Processes that edit one tree at once: only documented errors, nothing broken, and one winner where there can be one only."""

from __future__ import annotations

import ast
import collections
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from pgstore import NetworkFileSystem, Volume
from tests.fixtures.trees import assert_sound, content, paths, put

PROLOGUE = """
import collections, contextlib, io, random, sys, time, traceback
import pgstore
from pgstore import errors

kind, url, name, number, *rest = sys.argv[1:]
client = pgstore.Client(url)
store = getattr(pgstore, kind).from_name(name, client=client)
store.exists("/")
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=[Volume, NetworkFileSystem], ids=lambda kind: kind.__name__)
def store(request, client, store_name, database):
    store = request.param.from_name(store_name, create_if_missing=True, client=client).hydrate()
    yield store
    assert_sound(database, store)


def crowd(database, store, count, program, *args):
    """Run *program* in so many processes, which begin together; what each printed as its last line, evaluated."""
    text = textwrap.dedent(PROLOGUE) + textwrap.dedent(program)
    command = [sys.executable, "-c", text, type(store).__name__, database, store.name]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [
        subprocess.Popen([*command, str(number), *map(str, args)], text=True, **pipes) for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = []
        for process in processes:
            out, err = process.communicate(timeout=90)
            assert process.returncode == 0, err
            assert not err, err
            results.append(ast.literal_eval(out.splitlines()[-1]))
        return results
    finally:
        for process in processes:
            process.kill()
            process.communicate()


# Few names, so that everybody meets everybody.
EDITS = """
    rng = random.Random(int(number))
    DOCUMENTED = (errors.FileMissing, errors.FileExists, errors.IsADirectory, errors.NotADirectory, errors.DirectoryNotEmpty,
                  errors.LinkLoop, errors.InvalidError)
    outcomes = collections.Counter()

    def path():
        return "/".join(rng.choice("abc") for _ in range(rng.randint(1, 4)))

    def batch():
        where = path()
        with store.batch_upload() as uploads:
            for name in "abc":
                uploads.put_file("/dev/null", f"{where}/{name}")

    EDITS = [
        lambda: store.put_file(io.BytesIO(b"x" * rng.choice([1, 100, 70_000])), path()),
        lambda: store.mkdir(path()),
        lambda: store.mkdir(path(), exist_ok=True),
        lambda: store.remove_file(path()),
        lambda: store.remove_file(path(), recursive=True),
        lambda: store.rmdir(path()),
        lambda: store.move(path(), path()),
        lambda: store.move(path(), path()),
        lambda: store.link(path(), path()),
        lambda: store.symlink(rng.choice(["a", "../b", "/c"]), path()),
        lambda: store.chmod(path(), 0o700),
        lambda: store.setxattr(path(), "user.x", b"1"),
        lambda: store.copy_files([path()], path(), recursive=True),
        batch,
    ]

    def edit():
        try:
            rng.choice(EDITS)()
            outcomes["done"] += 1
        except errors.ConflictError:
            raise
        except DOCUMENTED:
            outcomes["refused"] += 1

    def together():
        try:
            with client.transaction():
                for _ in range(4):
                    edit()
        except (errors.ConflictError, errors.SerializationConflict):
            outcomes["conflicts"] += 1

    end = time.monotonic() + float(rest[0])
    while time.monotonic() < end:
        if sum(1 for _ in store.iterdir("/", recursive=True)) > 200:  # copies of copies
            for name in "abc":
                with contextlib.suppress(errors.FileMissing, errors.IsADirectory):
                    store.remove_file(name, recursive=True)
        (together if rng.random() < 0.3 else edit)()
    print(dict(outcomes))
"""


def test_a_crowd_that_edits_one_tree_breaks_nothing(database, store):
    """
    Every edit there is, below a few names, single and in transactions. Single ones meet no conflict, for they look again.
    """
    results = crowd(database, store, 4, EDITS, 5)

    total: collections.Counter[str] = collections.Counter()
    for result in results:
        total.update(result)
    assert total["done"] > 40, total
    assert_sound(database, store)


def test_one_of_many_makes_a_directory(database, store):
    """
    In a directory that is there, and in one that all of them make with it.
    """
    store.mkdir("there")
    won = crowd(
        database, store, 8,
        """
        won = []
        for turn in range(6):
            for path in (f"top{turn}", f"there/{turn}", f"new{turn}/below/{turn}"):
                try:
                    store.mkdir(path)
                    won.append(path)
                except FileExistsError:
                    pass
        print(won)
        """,
    )  # fmt: skip

    counts = collections.Counter(path for paths in won for path in paths)
    assert len(counts) == 18
    assert set(counts.values()) == {1}


def test_one_of_many_uploads_without_force(database, store):
    won = crowd(
        database, store, 6,
        """
        won = []
        for turn in range(6):
            try:
                with store.batch_upload() as batch:
                    batch.put_file(io.BytesIO(number.encode()), f"d{turn}/e/f")
                won.append((f"d{turn}/e/f", number))
            except (FileExistsError, errors.ConflictError):
                pass
        print(won)
        """,
    )  # fmt: skip

    winners = dict(pair for pairs in won for pair in pairs)
    assert sum(map(len, won)) == len(winners) == 6
    for path, number in winners.items():
        assert content(store, path) == number.encode()


@pytest.mark.parametrize("lock", ["mkdir", "link", "open"])
def test_lock_files_exclude(database, client, store_name, lock):
    """
    The ways in which programs lock without locks: whoever makes the name has it, until it is removed.
    """
    store = NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()
    put(store, "count", b"0")
    crowd(
        database, store, 4,
        """
        import os
        take = {
            "mkdir": lambda: store.mkdir("lock"),
            "link": lambda: store.link(f"mine{number}", "lock"),
            "open": lambda: store.open("lock", "xb").close(),
        }[rest[0]]
        release = (lambda: store.rmdir("lock")) if rest[0] == "mkdir" else (lambda: store.remove_file("lock"))
        store.put_file(io.BytesIO(), f"mine{number}")
        done = 0
        while done < 8:
            try:
                take()
            except FileExistsError:
                time.sleep(0.005)
                continue
            value = int(b"".join(store.read_file("count")))
            store.write_file("count", io.BytesIO(b"%d" % (value + 1)))
            release()
            done += 1
        print(done)
        """,
        lock,
    )  # fmt: skip

    assert content(store, "count") == b"32"
    assert not store.exists("lock")
    assert_sound(database, store)


def test_each_job_that_is_claimed_by_renaming_is_one_workers(database, store):
    """
    As with maildir: a file moved from `new` to a worker's directory was moved by nobody else.
    """
    jobs = {f"new/{number}" for number in range(30)}
    with store.batch_upload() as batch:
        for job in jobs:
            batch.put_file("/dev/null", job)
    claimed = crowd(
        database, store, 4,
        """
        claimed = []
        while jobs := [entry.path for entry in store.listdir("new")]:
            job = random.choice(jobs)
            try:
                store.move(job, f"worker{number}/{job.removeprefix('new/')}", replace=False)
                claimed.append(job)
            except FileNotFoundError:
                pass
        print(claimed)
        """,
    )  # fmt: skip

    assert sorted(job for mine in claimed for job in mine) == sorted(jobs)
    assert len([path for path in paths(store) if not path.endswith("/")]) == 30


def test_names_come_and_go_in_deep_directories_made_by_all(database, store):
    """
    Each makes, fills and removes the same deep directories; nobody's file is lost while its maker has not removed it.
    """
    lost = crowd(
        database, store, 4,
        """
        lost = []
        end = time.monotonic() + 5
        turn = 0
        while time.monotonic() < end:
            turn += 1
            mine = f"a/b/c{turn % 2}/{number}.{turn}"
            store.put_file(io.BytesIO(b"x"), mine)
            if not store.exists(mine):
                lost.append(mine)
            store.remove_file(mine)
            for directory in (f"a/b/c{turn % 2}", "a/b", "a"):
                try:
                    store.rmdir(directory)
                except (errors.DirectoryNotEmpty, errors.FileMissing):
                    pass
        print(lost)
        """,
    )  # fmt: skip

    assert lost == [[]] * 4
