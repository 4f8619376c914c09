"""The public API as users type it. Checked by mypy, never run."""

from __future__ import annotations

import io
from typing import Any, assert_type

import pgstore
from pgstore import (
    CloudBucketMount,
    DeadLetter,
    Dict,
    DictEntry,
    DictInfo,
    FileEntry,
    FileStat,
    Lease,
    NetworkFileSystem,
    NetworkFileSystemInfo,
    Queue,
    QueueInfo,
    Volume,
    VolumeInfo,
)
from pgstore.fs.io.async_file_object import AsyncBinaryFile, AsyncTextFile
from pgstore.fs.io.file_object import BinaryRandom, BinaryReader, BinaryWriter, RawFile, TextFile


def blocking() -> None:
    d = Dict.from_name("d", create_if_missing=True)
    assert_type(d, Dict)
    assert_type(d.hydrate(), Dict)
    assert_type(d.put("k", 1, skip_if_exists=True), bool)
    assert_type(d.get("k"), Any | None)
    assert_type(d.contains("k"), bool)
    assert_type(Dict.contains(d, "k"), bool)
    assert_type(d.len(), int)
    assert_type(d.keys(), list[Any])
    assert_type(d.items(), list[tuple[Any, Any]])
    assert_type(d.info(), DictInfo)
    assert_type(d.update({"a": 1}, b=2), None)
    assert_type(Dict.objects.list(), list[Dict])
    assert_type(Dict.objects.create("d"), None)

    q = Queue.ephemeral()
    with q as same:
        assert_type(same, Queue)
    assert_type(q.get_many(3, timeout=1.0), list[Any])
    assert_type(q.len(total=True), int)
    assert_type(q.peek(2), list[Any])
    for item in q.iterate(timeout=1):
        assert_type(item, Any)
    assert_type(q.dead_letters(), list[DeadLetter])
    with Lease.__new__(Lease) as lease:
        assert_type(lease.attempt, int)
        assert_type(lease.extend(5), None)
    assert_type(q.info(), QueueInfo)

    v = Volume.persist("v")
    assert_type(v.exists("/a"), bool)
    assert_type(v.listdir("/"), list[FileEntry])
    assert_type(v.info(), VolumeInfo)
    for piece in v.read_file("a"):
        assert_type(piece, bytes)
    assert_type(v.stat("a"), FileStat)
    assert_type(v.move("a", "b"), None)
    assert_type(v.read_only(), Volume)
    for path, folders, names in v.walk():
        assert_type((path, folders, names), tuple[str, list[str], list[str]])
    assert_type(v.open("a"), TextFile)
    assert_type(v.open("a", "rb"), BinaryReader)
    assert_type(v.open("a", "wb"), BinaryWriter)
    assert_type(v.open("a", "rb", 0), RawFile)
    with v.open("a", "w", newline="") as text:
        assert_type(text, TextFile)
        assert_type(text.fsync(), None)
    with v.open("a", "rb") as binary:
        assert_type(binary.read(), bytes)
    with v.batch_upload(force=True) as batch:
        batch.put_file("a", "b")

    n = NetworkFileSystem.persist("n")
    assert_type(n.open("a", "r+b"), BinaryRandom)
    assert_type(n.info(), NetworkFileSystemInfo)
    assert_type(n.write_file("a", io.BytesIO()), int)
    assert_type(NetworkFileSystem.objects.list(), list[NetworkFileSystem])

    b = CloudBucketMount.from_s3_bucket("b", read_only=False)
    assert_type(b, CloudBucketMount)
    assert_type(b.listdir("/"), list[FileEntry])
    assert_type(b.stat("a"), FileStat)
    assert_type(b.open("a", "wb"), BinaryWriter)
    assert_type(b.read_bytes("a"), bytes)
    for found in b.glob("*"):
        assert_type(found, FileEntry)
    b.put_file("a")  # type: ignore[call-arg]

    with pgstore.transaction() as tx:
        assert_type(tx, pgstore.Transaction)
        assert_type(d.using(tx), Dict)
    assert_type(pgstore.run_transaction(lambda tx: 5), int)
    assert_type(pgstore.run_transaction(lambda: 5), int)
    with d.lock("k") as lock, d.mutate("k") as entry:
        assert_type((lock, entry), tuple[pgstore.Lock, pgstore.Mutation])
    assert_type(d.watch(), pgstore.Watcher)

    d.put()  # type: ignore[call-arg]
    d.put.nothing  # type: ignore[attr-defined]
    d.get("k", wrong=1)  # type: ignore[call-overload]
    q.get(timeout="1")  # type: ignore[call-overload]


def generic() -> None:
    """What a Dict and a Queue hold, where the program says so."""
    d: Dict[str, int] = Dict.from_name("d", create_if_missing=True)
    assert_type(d, Dict[str, int])
    assert_type(d["a"], int)
    assert_type(d.get("a"), int | None)
    assert_type(d.get("a", "nothing"), int | str)
    assert_type(d.pop("a"), int | None)
    assert_type(d.pop("a", 0), int)
    assert_type(d.setdefault("a", 1), int)
    assert_type(d.popitem(), tuple[str, int])
    assert_type(d.pop_many(["a"]), dict[str, int])
    assert_type(d.get_many(["a"]), dict[str, int])
    assert_type(d.get_entry("a"), DictEntry[int] | None)
    assert_type(d.keys(), list[str])
    assert_type(d.values(), list[int])
    assert_type(d.items(), list[tuple[str, int]])
    assert_type(d.hydrate(), Dict[str, int])
    for key in d:
        assert_type(key, str)
    for pair in d.iterate_items(limit=3):
        assert_type(pair, tuple[str, int])
    with d.mutate("a", 0) as entry:
        assert_type(entry.value, int)
    d["a"] = 1
    d.update({"a": 1})
    d.put("a", "1")  # type: ignore[arg-type]
    d[1] = 1  # type: ignore[index]
    assert_type(Dict[str, int].from_name("d"), Dict[str, int])
    assert_type(Dict.put(d, "a", 1), bool)

    q: Queue[bytes] = Queue.ephemeral()
    assert_type(q.get(), bytes)
    assert_type(q.get(block=False), bytes | None)
    assert_type(q.get(timeout=1, partition="p"), bytes)
    assert_type(q.get(lease=60), Lease[bytes])
    assert_type(q.get(lease=60, renew=True), Lease[bytes])
    assert_type(q.get(False, lease=60), Lease[bytes] | None)
    assert_type(q.get_many(5), list[bytes])
    assert_type(q.get_many(5, lease=60), list[Lease[bytes]])
    assert_type(q.peek(), list[bytes])
    assert_type(q.dead_letters()[0].item, bytes)
    for item in q.iterate():
        assert_type(item, bytes)
    with q.get(lease=60) as lease:
        assert_type(lease.item, bytes)
    q.put(b"a")
    q.put_many([b"a"])
    q.put(1)  # type: ignore[arg-type]

    untyped = Queue.from_name("q")
    assert_type(untyped, Queue[Any])
    assert_type(untyped.get(), Any)
    assert_type(untyped.get(lease=60), Lease[Any])
    assert_type(Queue.objects.list(), list[Queue[Any]])


async def generic_asynchronous() -> None:
    d: Dict[str, int] = Dict.from_name("d")
    assert_type(await d.get.aio("a"), int | None)
    assert_type(await d.get.aio("a", 0), int)
    assert_type(await d.items.aio(), list[tuple[str, int]])
    async for key in d.iterate_keys():
        assert_type(key, str)
    q: Queue[bytes] = Queue.from_name("q")
    assert_type(await q.get.aio(), bytes)
    assert_type(await q.get.aio(lease=60), Lease[bytes])
    assert_type(await q.get_many.aio(5), list[bytes])
    assert_type(await q.get_many.aio(5, lease=60), list[Lease[bytes]])
    async for item in q.iterate():
        assert_type(item, bytes)


async def asynchronous() -> None:
    d = await Dict.from_name("d").hydrate.aio()
    assert_type(d, Dict)
    assert_type(await d.put.aio("k", 1), bool)
    assert_type(await Dict.put.aio(d, "k", 1), bool)
    assert_type(await d.keys.aio(), list[Any])
    assert_type(await Dict.objects.list.aio(), list[Dict])
    async with pgstore.transaction() as tx:
        assert_type(tx, pgstore.Transaction)
    async for key, _ in d.iterate_items.aio(prefix="k"):
        assert_type(key, Any)
    async with Volume.persist("v").open.aio("a") as text:
        assert_type(text, AsyncTextFile)
        assert_type(await text.read(), str)
        async for line in text:
            assert_type(line, str)
    bucket = CloudBucketMount("b")
    assert_type(await bucket.exists.aio("a"), bool)
    async for entry in bucket.iterdir("/"):
        assert_type(entry, FileEntry)
    binary = await Volume.persist("v").open.aio("a", "rb")
    assert_type(binary, AsyncBinaryFile)
    assert_type(await binary.read(5), bytes)
    async for entry in Volume.persist("v").iterdir("/"):
        assert_type(entry, FileEntry)
    await d.put.aio("k")  # type: ignore[call-arg]


app = pgstore.App("typing")


@app.function(timeout=5, volumes={"/data": Volume.from_name("v")})
def area(width: int, height: float = 1.0) -> float:
    return width * height


@app.function()
async def later(name: str) -> int:
    return len(name)


@app.cls(gpu="T4")
class Model:
    size: int = pgstore.parameter(default=1)

    @pgstore.enter()
    def load(self) -> None: ...

    @pgstore.method()
    def predict(self, x: int) -> str:
        return str(x)


@app.local_entrypoint()
def main(n: int = 1) -> None: ...


def functions() -> None:
    assert_type(area.remote(1, height=2.0), float)
    assert_type(area.local(1), float)
    assert_type(area(1), float)
    area.remote("wide")  # type: ignore[arg-type]
    assert_type(later.remote("x"), int)
    for each in area.map([1, 2], order_outputs=False):
        assert_type(each, Any)
    assert_type(area.for_each([1]), None)
    assert_type(Model().predict.remote(1), str)
    assert_type(main(2), None)
    with app.run() as running:
        assert_type(running, pgstore.App)


async def functions_async() -> None:
    assert_type(await area.remote.aio(1), float)
    assert_type(await later.remote.aio("x"), int)
    assert_type(await later.local("x"), int)
    async for each in area.map.aio([1]):
        assert_type(each, Any)
    assert_type(await area.for_each.aio([1]), None)
    assert_type(await Model().predict.remote.aio(1), str)


@app.function(secrets=[pgstore.Secret.from_name("a", required_keys=["KEY"]), pgstore.Secret.from_dict({"B": None})])
def secretive() -> None: ...


async def secrets() -> None:
    secret = pgstore.Secret.from_dotenv(__file__)
    assert_type(secret, pgstore.Secret)
    assert_type(secret.info(), pgstore.SecretInfo)
    assert_type(await secret.update.aio({"KEY": "value"}), None)
    assert_type(pgstore.Secret.objects.create("a", {"KEY": "value"}, allow_existing=True), None)
    assert_type(pgstore.Secret.objects.list(max_objects=1), list[pgstore.Secret])
    assert_type(await pgstore.Secret.objects.list.aio(), list[pgstore.Secret])
    pgstore.Secret.from_dict({"KEY": 1})  # type: ignore[dict-item]
    pgstore.Secret.objects.delete()  # type: ignore[call-arg]
