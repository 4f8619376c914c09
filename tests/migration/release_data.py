"""What the dump of a release holds: a little of every kind, as that release writes it; and all of it, as this code reads it.

`write` is for the present code alone. `read` reads what any release has written, so it asks for no more than is there: what a later
release adds is another key of its result. Times lie years ahead, for a dump stays in use.
"""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import io
import uuid
from typing import Any, Final

import psycopg

import pgstore
from pgstore.app import pickles
from pgstore.app.calls.queue import CallQueue, packed
from pgstore.app.spec import Program

SIGNING_KEY: Final = b"released" * 4
SECRET_KEY: Final = "cmVsZWFzZWRyZWxlYXNlZHJlbGVhc2VkcmVsZWFzZWQ="
YEARS: Final = 9 * 365 * 86400.0
LARGE: Final = bytes(range(256)) * 260  # above 64 KiB: not in the inode's row

KEYS_AND_VALUES: Final[dict[Any, Any]] = {
    "text": "ü € \\ \n",
    "none": None,
    "integer": 2**62,
    "too large for a column": 2**80,
    "float": 0.1,
    "infinite": float("inf"),
    "bytes": bytes(range(256)),
    "nested": {"a": [1, (2, 3), {4}]},
    "time": dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC),
    1: "integer key",
    decimal.Decimal("2.5"): "number key",
    (1, "a", None): "tuple key",
    b"\x00\xff": "bytes key",
    uuid.UUID(int=7): "uuid key",
    "": "empty key",
    "k" * 1100: "long key",
}


def write(url: str) -> None:
    """Fill a migrated database. `PGSTORE_SECRET_KEY` is SECRET_KEY."""
    with pgstore.Client(url) as client, pgstore.Client(url, signing_keys=[SIGNING_KEY]) as signing:
        _write_dicts(client, signing)
        _write_queues(client, signing)
        for storage in ("rows", "large_object"):
            _write_files(client, storage, pgstore.Volume)
            _write_files(client, storage, pgstore.NetworkFileSystem)
        pgstore.Secret.objects.create("token", {"A": "1", "B": "zwei"}, client=client)
        calls = CallQueue.from_name("app", create_if_missing=True, client=client)
        arguments = pickles.dumps(((1,), {"a": 2}), "the arguments", Program("none", "", None))
        calls.spawn("f", [packed(arguments)] * 2)


def _write_dicts(client: pgstore.Client, signing: pgstore.Client) -> None:
    def made(name: str, client: pgstore.Client = client, **options: Any) -> pgstore.Dict[Any, Any]:
        return pgstore.Dict.from_name(name, create_if_missing=True, client=client, **options)

    entries = made("entries")
    entries.update(KEYS_AND_VALUES)
    entries.put("expires", "in years", ttl=YEARS)
    made("entries", environment_name="staging")["only"] = "in staging"
    made("json", serializer="json").update({"list": [1, 2.5, None, "ü"], "number": 7})
    made("code", serializer="cloudpickle")["plain"] = [1, 2]
    made("signed", signing)["a"] = ["signed"]
    watched = made("watched", watch=True, json_projection=True)
    watched.update({"a": {"b": [1]}, "c": 1})
    del watched["c"]


def _write_queues(client: pgstore.Client, signing: pgstore.Client) -> None:
    def made(name: str, client: pgstore.Client = client, **options: Any) -> pgstore.Queue[Any]:
        return pgstore.Queue.from_name(name, create_if_missing=True, client=client, **options)

    queue = made("queue")
    queue.put_many(list(range(6)))
    queue.put_many(["a", {"b": (2, 3)}], partition="p")
    queue.put("once", idempotency_key="key", ordered=True)
    queue.put("later", delay=YEARS)
    queue.put("lapses", partition="short", partition_ttl=YEARS)
    assert queue.get_many(2) == [0, 1]
    assert queue.get(lease=YEARS).item == 2
    bounded = made("bounded", maxsize=5, max_attempts=1)
    bounded.put_many([1, 2])
    bounded.get(lease=60).nack(reason="as an example")
    made("signed", signing).put(["signed"])
    with psycopg.connect(client.connection_url(), autocommit=True) as connection:
        connection.execute("SELECT pgstore.queue_put('queue', '{\"from\": \"SQL\"}')")


def _write_files(client: pgstore.Client, storage: str, kind: type[Any]) -> None:
    # Small chunks, so that a file of this size has several. Large objects have one size.
    chunk_size = {"chunk_size": 16384} if storage == "rows" else {}
    name = f"{kind.__name__}-{storage}"
    store = kind.from_name(name, create_if_missing=True, storage=storage, client=client, **chunk_size)
    store.put_file(io.BytesIO(b"small"), "/small")
    store.put_file(io.BytesIO(LARGE), "/d/large")
    store.mkdir("/d/e", parents=True)
    store.symlink("large", "/d/link")
    store.link("/small", "/d/hard")
    store.chmod("/small", 0o640)
    store.chown("/small", 12, 34)
    store.utime("/small", mtime_ns=1_234_567_890_123_456_789)
    store.setxattr("/small", "user.a", b"\0\xff")
    store.copy_files(["/d/large"], "/d/e")
    store.put_file(io.BytesIO(b"name"), "/d/ü \\ \n")
    if storage == "rows":  # pg_dump writes the holes of large objects out, as zeros
        with store.open("/sparse", "wb") as file:
            file.write(b"start")
            file.truncate(3 * 1024 * 1024)
    if kind is pgstore.Volume:
        store.put_file(io.BytesIO(b"smaller"), "/small")  # a version before this has the old one
        store.remove_file("/d/e/large")
    else:
        with store.open("/d/e/large", "r+b") as file:  # whose bytes are those of /d/large so far
            file.write(b"other")


def read(url: str) -> dict[str, Any]:
    """All that is there, as what JSON can hold. `PGSTORE_SECRET_KEY` is SECRET_KEY."""
    with (
        pgstore.Client(url, auto_migrate=False) as client,
        pgstore.Client(url, auto_migrate=False, signing_keys=[SIGNING_KEY]) as signing,
    ):
        stores = [(pgstore.Volume, "volume"), (pgstore.NetworkFileSystem, "nfs")]
        return {
            "dicts": _dicts(client, signing),
            "queues": _queues(client, signing),
            "files": {
                f"{name} in {storage}": _files(kind.from_name(f"{kind.__name__}-{storage}", client=client))
                for kind, name in stores
                for storage in ("rows", "large_object")
            },
            "secrets": dict(pgstore.Secret.from_name("token", client=client)._values()),
            "views": _views(url),
        }


def _dicts(client: pgstore.Client, signing: pgstore.Client) -> dict[str, Any]:
    handles: dict[str, pgstore.Dict[Any, Any]] = {
        name: pgstore.Dict.from_name(name, client=client) for name in ("entries", "json", "code", "watched")
    }
    handles["staging"] = pgstore.Dict.from_name("entries", environment_name="staging", client=client)
    handles["signed"] = pgstore.Dict.from_name("signed", client=signing)
    return {name: sorted([repr(key), repr(value)] for key, value in handle.items()) for name, handle in handles.items()}


def _queues(client: pgstore.Client, signing: pgstore.Client) -> dict[str, Any]:
    queue: pgstore.Queue[Any] = pgstore.Queue.from_name("queue", client=client)
    bounded: pgstore.Queue[Any] = pgstore.Queue.from_name("bounded", client=client)
    signed: pgstore.Queue[Any] = pgstore.Queue.from_name("signed", client=signing)
    return {
        "items": [repr(item) for item in queue.iterate()],
        "partitions": [repr([*queue.iterate(partition=name)]) for name in ("p", "short")],
        "bounded": [repr(item) for item in bounded.iterate()],
        "dead": [[repr(letter.item), letter.attempts, letter.reason] for letter in bounded.dead_letters()],
        "signed": [repr(item) for item in signed.iterate()],
        "total": queue.len(total=True),
    }


def _files(store: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"now": _tree(store)}
    if isinstance(store, pgstore.Volume):
        numbers = sorted(version.version for version in store.versions())
        found["versions"] = {str(number): _tree(store.at(number)) for number in numbers}
    return found


def _tree(store: Any) -> list[Any]:
    found = []
    for entry in store.listdir("/", recursive=True):
        stat = store.stat(entry.path, follow_symlinks=False)
        kind, contents, attributes = stat.type.name, None, {}
        if kind == "FILE":
            contents = hashlib.sha256(b"".join(store.read_file(entry.path))).hexdigest()
        elif kind == "SYMLINK":
            contents = store.readlink(entry.path)
        if kind != "SYMLINK":
            attributes = {name: store.getxattr(entry.path, name).hex() for name in store.listxattr(entry.path)}
        numbers = [stat.size, stat.mode, stat.uid, stat.gid, stat.mtime_ns, stat.link_count, stat.version]
        found.append([entry.path, kind, numbers, contents, attributes])
    return sorted(found)


_VIEWS: Final = {
    "dict_items": "SELECT environment, name, key, value::text, codec::text FROM pgstore.dict_items ORDER BY 1, 2, 3",
    "queue_items": "SELECT name, partition, item::text, attempts FROM pgstore.queue_items ORDER BY name, partition, id",
    "queue_stats": "SELECT name, depth, leased, delayed, dead FROM pgstore.queue_stats ORDER BY name",
    "files": 'SELECT volume, path, type, size, link_target FROM pgstore.files ORDER BY volume, path COLLATE "C"',
    "calls": "SELECT app, function, state, attempts FROM pgstore.calls ORDER BY id",
    "store_sizes": "SELECT environment, kind, name, entries FROM pgstore.store_sizes ORDER BY 1, 2, 3",
}


def _views(url: str) -> dict[str, Any]:
    with psycopg.connect(url) as connection:
        return {
            name: [list(row) for row in connection.execute(statement.encode())] for name, statement in _VIEWS.items()
        }
