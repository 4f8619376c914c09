"""Collection beside everything else, without a time of grace, and after crashes: nothing is lost, and nothing is left."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import psycopg
import pytest

import pgstore
from pgstore.admin.check import run_checks
from pgstore.fs.retention.collection import Collection
from tests.faults.conftest import Background, until

RACE_SECONDS = float(os.environ.get("PGSTORE_TEST_RACE_SECONDS", "8"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# What the processes have in common: files that tell by themselves whether all their bytes are there.
COMMON = """
    import hashlib, io, json, os, random, sys, time
    import pgstore
    from pgstore import errors
    from pgstore.fs.retention.collection import Collection

    url, kind, seconds, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    client = pgstore.Client(url)
    store = getattr(pgstore, kind).from_name("s", client=client).hydrate()
    until = time.monotonic() + seconds
    counts = {}

    def count(what):
        counts[what] = counts.get(what, 0) + 1

    def body():
        rest = os.urandom(chance.choice([100, 70_000, 150_000]))
        return hashlib.sha256(rest).digest() + rest

    def check(data, what):
        assert hashlib.sha256(data[32:]).digest() == data[:32], f"{what}: {len(data)} bytes are not what was written"
"""
# Writers that adopt (copies share contents), replace and drop; each other's files as well, so that those may be gone.
WRITER = """
    while time.monotonic() < until:
        path = f"{seed}/{chance.randrange(5)}"
        other = f"{chance.randrange(1, 4)}/{chance.randrange(5)}"
        if other == path:
            continue
        what = chance.choice(["put", "put", "copy", "copy", "move", "remove", "read", "restore" if kind == "Volume" else "read"])
        try:
            if what == "put":
                store.put_file(io.BytesIO(body()), path)
            elif what == "copy":
                store.copy_files([other], path)
                check(b"".join(store.read_file(path)), path)
            elif what == "move":
                store.move(other, path)
            elif what == "remove":
                store.remove_file(path)
            elif what == "restore" and chance.random() < 0.2:
                store.restore(chance.choice(store.versions()).version)
            else:
                data = b"".join(store.read_file(path))
                check(data, path)
            count(what)
        except (errors.FileMissing, errors.StaleFile, errors.VersionGone) as exc:
            count(type(exc).__name__)  # another writer was quicker, and there is no time of grace
        except errors.InvalidError as exc:
            assert "are the same file" in str(exc)  # moved from one to the other between two looks
            count("moved meanwhile")
    print(json.dumps(counts))
"""
COLLECTOR = """
    while time.monotonic() < until:
        found = client.run(Collection(int(store.object_id[3:]), grace_seconds=0).run())
        for name, value in vars(found).items():
            counts[name] = counts.get(name, 0) + value
    print(json.dumps(counts))
"""
# Readers of old versions, which are pinned: all of it, again and again.
READER = """
    while time.monotonic() < until:
        newest = store.versions(limit=1)
        if not newest:
            continue
        old = store.at(newest[0].version)
        try:
            first = sorted((entry.path, entry.size) for entry in old.iterdir("/", recursive=True))
        except errors.VersionGone:
            count("came too late")
            continue
        for _ in range(3):
            assert first == sorted((entry.path, entry.size) for entry in old.iterdir("/", recursive=True))
            for path, size in first:
                if size:
                    check(b"".join(old.read_file(path)), path)
                    count("read")
        del old
        client.run(client.session.keep())  # its pin is given back in the background
    print(json.dumps(counts))
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(COMMON) + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            found.append(json.loads(out))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return found


def assert_nothing_is_left(url, store):
    """After a last collection every row is one that a file needs, and no check finds anything."""
    store_id = int(store.object_id[3:])
    store._runner.run(Collection(store_id, grace_seconds=0).run())
    with psycopg.connect(url) as connection:
        for query in (
            "SELECT 'blob', id FROM pgstore.blob b WHERE NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.blob_id = b.id)",
            "SELECT 'chunk', id FROM pgstore.chunk c WHERE NOT EXISTS (SELECT FROM pgstore.extent e WHERE e.chunk_id = c.id)",
            "SELECT 'blob_candidate', blob_id FROM pgstore.blob_candidate",
            "SELECT 'chunk_candidate', chunk_id FROM pgstore.chunk_candidate",
            "SELECT 'inode', ino FROM pgstore.inode i WHERE ino > 1 AND ino NOT IN (SELECT ino FROM pgstore.dirent)",
            "SELECT 'large object', oid FROM pg_largeobject_metadata WHERE oid NOT IN (SELECT large_object FROM pgstore.chunk)",
        ):
            assert connection.execute(query).fetchall() == []
    assert run_checks(url).is_healthy


@pytest.mark.parametrize("kind", ["Volume", "NetworkFileSystem"])
@pytest.mark.parametrize("storage", ["rows", "large_object"])
def test_writers_readers_and_collectors_race_and_nothing_is_lost(own_database, kind, storage):
    """
    Three writers that adopt and drop, two collectors, a reader of old versions: no error reaches any of them that the absence of a
    time of grace does not explain, and every byte read is checked.
    """
    options = {"storage": storage, **({"chunk_size": 4096} if storage == "rows" else {})}
    with pgstore.Client(own_database) as client:
        if kind == "Volume":
            options["keep"] = 1
        store = getattr(pgstore, kind).from_name("s", create_if_missing=True, client=client, **options).hydrate()
        with client.transaction():
            for number in range(1, 4):
                store.mkdir(f"{number}")
        codes = [*[WRITER] * 3, *[COLLECTOR] * 2, *[READER] * (kind == "Volume")]

        found = finish([start(code, own_database, kind, RACE_SECONDS, seed) for seed, code in enumerate(codes, 1)])

        written = sum(each.get("put", 0) for each in found)
        adopted = sum(each.get("copy", 0) for each in found)
        removed = sum(each.get("blobs", 0) for each in found)
        print(kind, storage, found)
        assert min(written, adopted, removed) > 20
        if kind == "Volume":
            assert found[-1].get("read", 0) > 20
        assert_nothing_is_left(own_database, store)


UPLOADER = """
    number = 0
    print("ready", flush=True)
    while True:
        number += 1
        data = number.to_bytes(4, "big") + os.urandom(chance.choice([1_000, 300_000, 12_000_000]))
        how = chance.randrange(3)
        if how == 0:
            store.put_file(io.BytesIO(hashlib.sha256(data).digest() + data), "f")
        elif how == 1:
            with store.open("f", "wb") as file:
                file.write(hashlib.sha256(data).digest())
                for start in range(0, len(data), 1_000_000):
                    file.write(data[start : start + 1_000_000])
        else:
            with client.transaction():
                store.put_file(io.BytesIO(hashlib.sha256(data).digest() + data), "f")
                store.put_file(io.BytesIO(data), f"d/{number}")
        print(number, flush=True)
"""


@pytest.mark.parametrize("storage", ["rows", "large_object"])
def test_an_upload_that_is_killed_leaves_the_old_file_or_the_new_one(own_database, storage):
    """
    At twelve moments; and what was written of it is found by collection once the session counts as dead.
    """
    chance = random.Random(7)
    with pgstore.Client(own_database) as client:
        volume = pgstore.Volume.from_name("s", create_if_missing=True, client=client, keep=1, storage=storage).hydrate()
        for attempt in range(12):
            process = start(UPLOADER, own_database, "Volume", 0, attempt)
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                time.sleep(chance.uniform(0.05, 0.6))
            finally:
                process.send_signal(signal.SIGKILL)
                out, _ = process.communicate()
            acknowledged = int(out.split()[-1]) if out.split() else 0
            until(lambda: others(own_database, client) == 0)
            if volume.exists("f"):
                data = b"".join(volume.read_file("f"))
                assert hashlib.sha256(data[32:]).digest() == data[:32]
                if acknowledged:
                    assert int.from_bytes(data[32:36], "big") in (acknowledged, acknowledged + 1)
        with psycopg.connect(own_database) as connection:
            connection.execute("UPDATE pgstore.session SET heartbeat_at = heartbeat_at - interval '1 hour'")

        assert_nothing_is_left(own_database, volume)

        live = [b"".join(volume.read_file(e.path)) for e in volume.iterdir("/", recursive=True) if e.size]
        with psycopg.connect(own_database) as connection:
            ((blobs,),) = connection.execute("SELECT count(*) FROM pgstore.blob").fetchall()
        assert blobs <= len(live)


def others(url, client):
    """How many connections uploads still have."""
    with psycopg.connect(url) as connection:
        ((count,),) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND state <> 'idle' AND backend_type = 'client backend'"
        ).fetchall()
    return count


def test_collectors_that_are_killed_leave_nothing_half_done(own_database):
    """
    Each transaction leaves a state from which any other can go on.
    """
    with pgstore.Client(own_database) as client:
        volume = pgstore.Volume.from_name("s", create_if_missing=True, client=client, keep=1, chunk_size=4096).hydrate()
        chance = random.Random(3)
        for _ in range(6):
            for number in range(10):
                volume.put_file(io.BytesIO(os.urandom(400_000)), f"{number}")
            volume.copy_files(["1"], "copy")
            process = start("print('ready', flush=True)" + COLLECTOR, own_database, "Volume", 60, 1)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
            process.communicate()
            assert len(b"".join(volume.read_file("copy"))) == 400_000
        assert_nothing_is_left(own_database, volume)
        assert sorted(entry.path for entry in volume.listdir("/")) == sorted([*map(str, range(10)), "copy"])


@pytest.mark.parametrize("storage", ["rows", "large_object"])
def test_a_store_may_be_deleted_while_it_is_collected(own_database, storage):
    """
    Neither waits for ever, fails or leaves rows behind.
    """
    with pgstore.Client(own_database) as client:
        for attempt in range(5):
            volume = pgstore.Volume.from_name(
                "s", create_if_missing=True, client=client, keep=1, chunk_size=4096
            ).hydrate()
            for _ in range(10):
                volume.put_file(io.BytesIO(os.urandom(400_000)), "f")
            store_id = int(volume.object_id[3:])
            collectors = [Background(client.run, Collection(store_id, grace_seconds=0).run()) for _ in range(2)]
            time.sleep(0.02 * attempt)
            pgstore.Volume.objects.delete("s", client=client)
            for collector in collectors:
                collector.result()
            with psycopg.connect(own_database) as connection:
                for table in (
                    "inode",
                    "dirent",
                    "blob",
                    "extent",
                    "chunk",
                    "blob_candidate",
                    "chunk_candidate",
                    "volume_version",
                ):
                    assert connection.execute(f"SELECT count(*) FROM pgstore.{table}").fetchall() == [(0,)], table
        assert run_checks(own_database).is_healthy
