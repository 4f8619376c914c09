"""The public API as users type it. Checked by mypy, never run."""

from __future__ import annotations

import io
from typing import Any, assert_type

import pgstore
from pgstore import (
    DeadLetter,
    Dict,
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
    assert_type(d.get("k"), Any)
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
    d.get("k", wrong=1)  # type: ignore[call-arg]
    q.get(timeout="1")  # type: ignore[arg-type]


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
    binary = await Volume.persist("v").open.aio("a", "rb")
    assert_type(binary, AsyncBinaryFile)
    assert_type(await binary.read(5), bytes)
    async for entry in Volume.persist("v").iterdir("/"):
        assert_type(entry, FileEntry)
    await d.put.aio("k")  # type: ignore[call-arg]
