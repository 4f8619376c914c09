"""A bucket in memory: what `Bucket` promises, in its simplest form. The others are held to the same."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from pgstore import errors
from pgstore.buckets.base import PAGE_KEYS, Bucket, Bytes, Limits, ObjectInfo, Page, Upload

PIECE_BYTES: Final = 1 << 20


class MemoryBucket(Bucket):
    limits = Limits(part_bytes_min=1, part_bytes_max=1 << 40, parts_max=10_000, object_bytes_max=1 << 40)

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._tags = itertools.count(1)

    @property
    def shown(self) -> str:
        return f"memory://{self._name}"

    def head(self, key: str) -> ObjectInfo | None:
        with self._lock:
            found = self._objects.get(key)
        return None if found is None else found[0]

    def read_into(self, key: str, buffer: memoryview, offset: int, tag: str) -> None:
        buffer[:] = self._read(key, tag)[offset : offset + len(buffer)]

    def stream(self, key: str, offset: int, tag: str) -> Iterator[Bytes]:
        data = memoryview(self._read(key, tag))
        for start in range(offset, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]

    def put(self, key: str, data: Bytes, *, if_missing: bool = False) -> ObjectInfo:
        kept = bytes(data)
        with self._lock:
            if if_missing and key in self._objects:
                raise errors.FileExists(f"there is an object {key!r} in {self.shown}", key)
            info = ObjectInfo(key, len(kept), str(next(self._tags)), time.time_ns())
            self._objects[key] = info, kept
        return info

    def begin_upload(self, key: str, *, if_missing: bool = False) -> Upload:
        return _MemoryUpload(self, key, if_missing)

    def list(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", page_keys: int = PAGE_KEYS
    ) -> Iterator[Page]:
        with self._lock:
            keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
            found = [self._objects[key][0] for key in keys]
        listed: dict[str, ObjectInfo | None] = {}
        for info in found:
            end = info.key.find(delimiter, len(prefix)) if delimiter else -1
            if end < 0:
                listed[info.key] = info
            else:
                listed[info.key[: end + len(delimiter)]] = None
        shown = list(listed)
        for start in range(0, len(shown), page_keys):
            names = shown[start : start + page_keys]
            infos = [listed[name] for name in names]
            prefixes = [name for name, info in zip(names, infos, strict=True) if info is None]
            yield Page([info for info in infos if info is not None], prefixes)

    def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)

    def copy(self, source: str, target: str, *, tag: str | None = None, if_missing: bool = False) -> ObjectInfo:
        with self._lock:
            found = self._objects.get(source)
        if found is None:
            raise errors.FileMissing(f"there is no object {source!r} in {self.shown}", source)
        return self.put(target, self._read(source, tag or found[0].tag), if_missing=if_missing)

    def close(self) -> None:
        pass  # it has no connections

    def _read(self, key: str, tag: str) -> bytes:
        with self._lock:
            found = self._objects.get(key)
        if found is None or found[0].tag != tag:
            raise errors.StaleFile(f"object {key!r} of {self.shown} was replaced or deleted since it was opened", key)
        return found[1]


class _MemoryUpload(Upload):
    def __init__(self, bucket: MemoryBucket, key: str, if_missing: bool) -> None:
        self._bucket = bucket
        self._key = key
        self._if_missing = if_missing
        self._parts: dict[int, bytes] = {}

    def put_part(self, number: int, data: Bytes) -> None:
        self._parts[number] = bytes(data)

    def complete(self) -> ObjectInfo:
        data = b"".join(self._parts[number] for number in sorted(self._parts))
        return self._bucket.put(self._key, data, if_missing=self._if_missing)

    def abort(self) -> None:
        self._parts.clear()
