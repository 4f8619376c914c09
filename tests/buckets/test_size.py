"""Large objects and many: how much memory and how many requests they take."""

from __future__ import annotations

import tracemalloc

import pytest

from pgstore.buckets import parallel
from pgstore.buckets.base import ObjectInfo, Upload
from pgstore.buckets.memory import MemoryBucket
from pgstore.buckets.reading import Reader
from pgstore.buckets.tree import Tree
from tests.buckets.test_files import mount_of
from tests.fixtures.buckets import MemoryPlace

GIB = 1 << 30
MIB = 1 << 20


class Endless(MemoryBucket):
    """Has one object of 1 GiB, of which there are no bytes until they are read, and takes others without keeping them."""

    def __init__(self):
        super().__init__()
        self.info = ObjectInfo("k", GIB, "1", 0)
        self.put_bytes = 0

    def stream(self, key, offset, tag):
        while offset < GIB:
            yield bytes(min(MIB, GIB - offset))
            offset += MIB

    def read_into(self, key, buffer, offset, tag):
        pass  # it is all zeros

    def begin_upload(self, key, *, if_missing=False):
        return Counted(self)


class Counted(Upload):
    def __init__(self, bucket):
        self._bucket = bucket

    def put_part(self, number, data):
        self._bucket.put_bytes += len(data)

    def complete(self):
        return self._bucket.info

    def abort(self):
        pass


@pytest.fixture
def traced():
    """The most memory, in bytes, that Python's objects took since the fixture was made."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("is_slow", [False, True])
def test_reading_a_gibibyte_takes_a_few_parts_of_memory(traced, monkeypatch, is_slow):
    """
    By one stream, and in parts.
    """
    monkeypatch.setattr("pgstore.buckets.reading.FAST", float("inf") if is_slow else 0.0)
    bucket = Endless()

    size = sum(map(len, Reader(bucket, bucket.info, "k").pieces()))

    assert size == GIB
    assert traced() < parallel.BUDGET_BYTES + 4 * parallel.PART_BYTES if is_slow else traced() < 8 * MIB
    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


def test_writing_a_gibibyte_takes_a_few_parts_of_memory(traced):
    bucket = Endless()
    writer = Tree(bucket, "", False).create("a")
    piece = bytes(MIB)

    for _ in range(1024):
        writer.write(piece)
    writer.close()

    assert bucket.put_bytes == GIB
    assert traced() < parallel.BUDGET_BYTES + 4 * parallel.PART_BYTES


def test_many_open_files_share_the_memory(traced, monkeypatch):
    """
    Twenty-four that are read at a time, as by copytree in threads, each behind a slow connection.
    """
    monkeypatch.setattr("pgstore.buckets.reading.FAST", float("inf"))
    bucket = Endless()
    readers = [Reader(bucket, bucket.info, "k") for _ in range(24)]

    for offset in range(0, 24 * MIB, 2 * MIB):
        for reader in readers:
            assert len(reader.read_at(offset, 2 * MIB)) == 2 * MIB

    assert traced() < parallel.BUDGET_BYTES + 24 * 4 * parallel.PART_BYTES
    for reader in readers:
        reader.close()
    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


class Hundred(MemoryBucket):
    """100,000 keys in 100 directories, made when they are listed; requests are counted."""

    def __init__(self):
        super().__init__()
        self.keys = sorted(f"d{n % 100:02}/file-{n:06}.csv" for n in range(100_000))
        self._objects = {key: (ObjectInfo(key, 1, "1", 0), b"1") for key in self.keys}
        self.pages = 0

    def list(self, prefix="", **options):
        for page in super().list(prefix, **options):
            self.pages += 1
            yield page


def test_a_hundred_thousand_keys_take_a_page_for_each_thousand():
    place = MemoryPlace()
    place._bucket = bucket = Hundred()
    mount = mount_of(place)

    assert sum(entry.size for entry in mount.iterdir("/", recursive=True)) == 100_000
    assert bucket.pages == 100
    assert len(mount.listdir("d42")) == 1000
    assert bucket.pages == 101
    assert [entry.path for entry in mount.glob("d07/file-0000*.csv")] == ["d07/file-000007.csv"]
    assert bucket.pages == 102


def test_a_listing_is_given_while_it_comes():
    """
    The first entry takes the first page, and no memory for the others.
    """
    place = MemoryPlace()
    place._bucket = bucket = Hundred()

    first = next(mount_of(place).iterdir("/", recursive=True))

    assert first.path == "d00"
    assert bucket.pages == 1
