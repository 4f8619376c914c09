"""Drills with Volumes and NetworkFileSystems: contents that prove themselves, renames, appends.

Each path has one writer at a time, so what a reader may find is known. A content is a text that its writer has never written
before, repeated, with a checksum.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pgstore
from tests.chaos.drills.drill import LATE_SECONDS, Auditor, Drill
from tests.chaos.hand import Hand
from tests.chaos.journal import Entry, Log

Store = Any  # a Volume or a NetworkFileSystem
SIZES = (100, 5_000, 70_000, 600_000)  # in the row of the inode, and in one chunk or several
PIECE_BYTES = 200_000
LARGE_BYTES = 9_000_000  # written in several batches, each a commit of its own


def _store(kind: str, name: str, client: pgstore.Client) -> Store:
    store_class: Any = pgstore.Volume if kind == "volume" else pgstore.NetworkFileSystem
    return store_class.from_name(name, create_if_missing=True, client=client)


def content(token: str, size: int) -> bytes:
    """A content that can be told from any other, and a whole one from a torn one."""
    head = f"{token}|{size}|".encode()
    body = (head * (size // len(head) + 1))[:size]
    return head + body + hashlib.sha256(head + body).digest()


def token_of(data: bytes) -> str:
    """Whose content *data* is, or what is wrong with it."""
    try:
        token, size, _ = data[:200].split(b"|", 2)
        if content(token.decode(), int(size)) == data:
            return token.decode()
    except ValueError:
        pass
    return f"torn: {len(data)} bytes, {data[:60]!r}"


class Writes(Drill):
    """
    What is read is one of the written contents, as a whole, and no older one than the last that was answered before.

    In a Volume some are written in one transaction with an entry of a Dict, and the two never come apart.
    """

    weight: ClassVar[int] = 3

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = f"{kind} writes"
        self._store_name = f"{kind}-writes"

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _store(self.kind, self._store_name, client).hydrate()
        pgstore.Dict.from_name(self._store_name, create_if_missing=True, client=client).hydrate()

    async def step(self, hand: Hand) -> None:
        store = _store(self.kind, self._store_name, hand.client)
        choice = hand.rng.random()
        if choice < 0.5:
            await self._read(hand, store)
            return
        path = f"/{hand.place}/{hand.rng.randrange(2)}"
        token = hand.token()
        data = content(token, hand.rng.choice(SIZES))
        facts = {"path": path, "token": token}
        if choice < 0.75:
            await hand.do(self.name, "write", facts, store.put_file, io.BytesIO(data), path)
        elif choice < 0.85 and self.kind == "volume":
            if choice < 0.77:
                data = content(token, LARGE_BYTES)
            await hand.attempt(self.name, "write", facts, lambda: self._through_a_file(hand, store, path, data))
        else:
            twins = pgstore.Dict.from_name(self._store_name, client=hand.client)
            path = f"/{hand.place}/twin"

            async def both() -> None:
                async with hand.transaction():
                    await hand.call(store.put_file, io.BytesIO(data), path)
                    await hand.call(twins.put, path, token)

            await hand.attempt(self.name, "write", {**facts, "path": path}, both)

    async def _read(self, hand: Hand, store: Store) -> None:
        async def read() -> list[str]:
            entries = [
                entry for entry in await hand.call(store.listdir, "/", recursive=True) if entry.path.count("/") == 1
            ]
            if not entries:
                return []
            path = "/" + hand.rng.choice(entries).path
            return [path, token_of(b"".join(await hand.collect(store.read_file(path))))]

        await hand.attempt(self.name, "read", {}, read)

    async def _through_a_file(self, hand: Hand, store: Store, path: str, data: bytes) -> None:
        if hand.is_async:
            async with store.open.aio(path, "wb") as file:
                for start in range(0, len(data), PIECE_BYTES):
                    await file.write(data[start : start + PIECE_BYTES])
        else:
            with store.open(path, "wb") as file:
                for start in range(0, len(data), PIECE_BYTES):
                    file.write(data[start : start + PIECE_BYTES])

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        store = _store(self.kind, self._store_name, auditor.client)
        writes: dict[str, list[Entry]] = defaultdict(list)
        for entry in log.of(self.name, "write"):
            writes[entry.facts["path"]].append(entry)
        for entry in log.of(self.name, "read"):
            if entry.was_done and entry.answer:
                path, token = entry.answer
                if fault := _fault(token, writes[path], entry.began, entry.ended):
                    yield f"{fault}: {entry}"
        now = max((entry.began for entry in log.entries), default=0.0) + 1.0
        twins = pgstore.Dict.from_name(self._store_name, client=auditor.client)
        for path, entries in writes.items():
            if not store.exists(path):
                if any(entry.was_done for entry in entries):
                    yield f"lost: {path}, the last write of which was answered: {entries[-1]}"
                continue
            token = token_of(b"".join(store.read_file(path)))
            if fault := _fault(token, entries, now, now):
                yield f"{fault}: {path} has {token}, its last writes are {'; '.join(map(str, entries[-3:]))}"
            if path.endswith("/twin") and twins.get(path) != token:
                yield f"{path} has {token}, its entry {twins.get(path)}: they were written together"


def _fault(token: str, writes: list[Entry], began: float, ended: float) -> str | None:
    """What is wrong with finding *token* between *began* and *ended*. *writes* of its path, one after the other."""
    entry = next((entry for entry in writes if entry.facts["token"] == token), None)
    if entry is None:
        return "a content that nobody wrote"
    if entry.was_not_done:
        return "refused and done"
    if entry.began > ended:
        return "read before it was written"
    later = [write for write in writes if write.was_done and write.began > entry.began and write.ended < began]
    if not later:
        return None
    if entry.is_in_doubt and later[0].began < min(entry.ended, entry.began + LATE_SECONDS) + LATE_SECONDS:
        return None  # it may have taken effect after the later one
    return "older than one that was answered before"


class Renames(Drill):
    """A file that is renamed back and forth is there under one of its names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = f"{kind} renames"
        self._store_name = f"{kind}-renames"

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _store(self.kind, self._store_name, client).mkdir("/there")

    async def step(self, hand: Hand) -> None:
        store = _store(self.kind, self._store_name, hand.client)
        here, there = f"/{hand.place}", f"/there/{hand.place}"
        outcome, found = await hand.attempt(self.name, "look", {"place": hand.place}, lambda: self._look(hand, store))
        if outcome != "ok":
            return
        if not found:
            facts = {"place": hand.place}
            await hand.do(self.name, "make", facts, store.put_file, io.BytesIO(content(hand.place, 70_000)), here)
        else:
            source, target = (here, there) if found == ["here"] else (there, here)
            await hand.do(self.name, "rename", {"place": hand.place}, store.move, source, target)

    async def _look(self, hand: Hand, store: Store) -> list[str]:
        async with hand.transaction():
            names = {"here": f"/{hand.place}", "there": f"/there/{hand.place}"}
            return [name for name, path in names.items() if await hand.call(store.exists, path)]

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        store = _store(self.kind, self._store_name, auditor.client)
        for place in {entry.facts["place"] for entry in log.of(self.name, "make") if entry.was_done}:
            found = [path for path in (f"/{place}", f"/there/{place}") if store.exists(path)]
            if len(found) != 1:
                yield f"the file of {place} is at {found}"
                continue
            if token_of(b"".join(store.read_file(found[0]))) != place:
                yield f"the file of {place} has another content"


class Appends(Drill):
    """
    Lines that are appended to files of a NetworkFileSystem are there at most once, and whole; and after `close` they are there.

    Before that a crash of the server may take them, and then close must not say that they are there.
    """

    name = "nfs appends"

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _store("nfs", "nfs-appends", client).hydrate()

    async def step(self, hand: Hand) -> None:
        store = _store("nfs", "nfs-appends", hand.client)
        opening = hand.token()
        lines = [f"{hand.token()} {'x' * hand.rng.choice((10, 3000))}\n" for _ in range(3)]
        facts = {"path": f"/{hand.rng.randrange(3)}", "opening": opening}

        async def append() -> None:
            if hand.is_async:
                async with store.open.aio(facts["path"], "ab", buffering=0) as file:
                    for line in lines:
                        await hand.attempt(
                            self.name, "append", {**facts, "line": line}, partial(file.write, line.encode())
                        )
            else:
                with store.open(facts["path"], "ab", buffering=0) as file:
                    for line in lines:
                        await hand.attempt(self.name, "append", {**facts, "line": line}, partial(_write, file, line))

        await hand.attempt(self.name, "open", facts, append)

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        store = _store("nfs", "nfs-appends", auditor.client)
        entries = log.of(self.name, "append")
        closed = {entry.facts["opening"] for entry in log.of(self.name, "open") if entry.was_done}
        for path in {entry.facts["path"] for entry in entries}:
            text = b"".join(store.read_file(path)).decode() if store.exists(path) else ""
            found = Counter(text.splitlines(keepends=True))
            for line in found:
                if not re.fullmatch(r"\S+ x+\n", line):
                    yield f"a torn line in {path}: {line[:80]!r}"
            for entry in entries:
                if entry.facts["path"] != path:
                    continue
                times = found.pop(entry.facts["line"], 0)
                if times > 1:
                    yield f"doubled: {entry}"
                if entry.was_done and entry.facts["opening"] in closed and not times:
                    yield f"lost: {entry}"
                if entry.was_not_done and times:
                    yield f"refused and done: {entry}"
            if found:
                yield f"lines of {path} that nobody has written: {[line[:80] for line in found]}"


async def _write(file: Any, line: str) -> Any:
    return file.write(line.encode())
