"""Reading objects: in order, in parts, elsewhere, all of one state."""

from __future__ import annotations

import random
import threading

import pytest

from pgstore import errors
from pgstore.buckets import parallel, reading
from pgstore.buckets.memory import MemoryBucket
from pgstore.buckets.reading import Reader, pieces

MIB = 1 << 20
DATA = random.Random(1).randbytes(5 * MIB + 123)


class Counting(MemoryBucket):
    """Counts requests, and how many bytes are read at a time."""

    def __init__(self):
        super().__init__()
        self.requests = []
        self.now = self.most = 0
        self._count = threading.Lock()

    def stream(self, key, offset, tag):
        self.requests.append(("stream", offset))
        yield from super().stream(key, offset, tag)

    def read_into(self, key, buffer, offset, tag):
        with self._count:
            self.requests.append(("range", offset, len(buffer)))
            self.now += 1
            self.most = max(self.most, self.now)
        super().read_into(key, buffer, offset, tag)
        with self._count:
            self.now -= 1


@pytest.fixture
def bucket():
    return Counting()


@pytest.fixture
def small_parts(monkeypatch):
    """Objects are large from 512 KiB on, and each connection is slow."""
    monkeypatch.setattr(reading, "PART_BYTES", 256 << 10)
    monkeypatch.setattr(reading, "LARGE_BYTES", 512 << 10)
    monkeypatch.setattr(reading, "MEASURED_BYTES", MIB)
    monkeypatch.setattr(reading, "FAST", float("inf"))


def reader_of(bucket, data=DATA):
    return Reader(bucket, bucket.put("k", data), "k")


def test_reading_in_order_takes_one_request(bucket):
    reader = reader_of(bucket)

    parts = [reader.read_at(offset, 100_000) for offset in range(0, len(DATA) + 100_000, 100_000)]

    assert b"".join(parts) == DATA
    assert parts[-1] == b""
    assert bucket.requests == [("stream", 0)]


def test_a_fast_connection_stays_alone(bucket):
    """
    Memory answers at once: nothing is won by more requests.
    """
    info = bucket.put("k", bytes(40 * MIB))

    assert sum(map(len, pieces(bucket, info))) == 40 * MIB
    assert bucket.requests == [("stream", 0)]


def test_a_large_object_comes_in_parts_where_connections_are_slow(bucket, small_parts):
    info = bucket.put("k", DATA)

    assert b"".join(pieces(bucket, info)) == DATA
    assert b"".join(pieces(bucket, info, 1000)) == DATA[1000:]

    ranges = [request for request in bucket.requests if request[0] == "range"]
    assert len(ranges) > 15
    assert all(length <= 256 << 10 for _, _, length in ranges)
    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


def test_reading_in_order_in_parts_gives_what_is_there(bucket, small_parts):
    reader = reader_of(bucket)

    assert b"".join(reader.read_at(offset, 64 << 10) for offset in range(0, len(DATA), 64 << 10)) == DATA
    assert any(request[0] == "range" for request in bucket.requests)


def test_parts_that_nobody_takes_give_their_budget_back(bucket, small_parts):
    info = bucket.put("k", DATA)
    stream = pieces(bucket, info)
    while not any(request[0] == "range" for request in bucket.requests):
        next(stream)

    stream.close()

    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


def test_without_budget_one_part_is_under_way(bucket, small_parts, monkeypatch):
    monkeypatch.setattr(parallel.shared(), "budget", parallel.Budget(0))
    info = bucket.put("k", DATA)

    assert b"".join(pieces(bucket, info)) == DATA
    assert bucket.most == 1


def test_a_read_elsewhere_takes_what_it_needs(bucket):
    """
    And a little more, for those that follow near it.
    """
    reader = reader_of(bucket)

    assert reader.read_at(len(DATA) - 8, 100) == DATA[-8:]
    assert reader.read_at(3 * MIB, 10) == DATA[3 * MIB : 3 * MIB + 10]
    assert reader.read_at(3 * MIB + 1000, 10) == DATA[3 * MIB + 1000 : 3 * MIB + 1010]
    assert reader.read_at(MIB, MIB) == DATA[MIB : 2 * MIB]

    assert bucket.requests == [
        ("range", len(DATA) - 8, 8),
        ("range", 3 * MIB, reading.RANDOM_BYTES_MIN),
        ("range", MIB, MIB),
    ]


def test_reading_on_from_elsewhere_becomes_a_stream(bucket):
    reader = reader_of(bucket)
    at = 2 * MIB

    for offset in range(at, 3 * MIB, 64 << 10):
        assert reader.read_at(offset, 64 << 10) == DATA[offset : offset + (64 << 10)]

    assert bucket.requests == [("range", at, 128 << 10), ("stream", at + (128 << 10))]


def test_reads_a_little_out_of_order_are_of_one_stream(bucket):
    """
    A kernel that reads ahead asks with several threads.
    """
    reader = reader_of(bucket)
    offsets = list(range(0, len(DATA), 64 << 10))
    for at in range(2, len(offsets) - 4, 4):
        offsets[at : at + 4] = offsets[at : at + 4][::-1]

    for offset in offsets:
        assert reader.read_at(offset, 64 << 10) == DATA[offset : offset + (64 << 10)]

    assert bucket.requests == [("stream", 0)]


def test_many_threads_read_what_is_there(bucket, small_parts):
    reader = reader_of(bucket)
    wrong = []

    def read(seed):
        choice = random.Random(seed)
        at = 0
        for _ in range(60):
            at = at if choice.random() < 0.7 else choice.randrange(len(DATA))
            length = choice.randrange(1, 200_000)
            if reader.read_at(at, length) != DATA[at : at + length]:
                wrong.append((seed, at, length))
            at = min(at + length, len(DATA))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    reader.close()
    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_object_that_is_not_there_any_more_is_stale(bucket, change):
    """
    Nobody gets bytes of two states.
    """
    reader = reader_of(bucket)
    first = reader.read_at(0, 10)
    reader.close()
    reader = Reader(bucket, reader.info, "k")

    bucket.delete(["k"])
    if change == "replaced":
        bucket.put("k", bytes(len(DATA)))

    for offset in (0, MIB):
        with pytest.raises(errors.StaleFile):
            reader.read_at(offset, 10)
    assert first == DATA[:10]


def test_a_stream_that_ends_early_is_an_error(bucket):
    """
    Also where a provider does not notice.
    """

    class Short(MemoryBucket):
        def stream(self, key, offset, tag):
            yield b"12"

    bucket = Short()
    info = bucket.put("k", b"1234")

    with pytest.raises(errors.FileFailed, match="ended after 2 of 4 bytes"):
        list(pieces(bucket, info))


def test_the_last_piece_waits_for_the_checksum():
    """
    A provider compares it when the stream ends: whoever got all bytes knows that they are right.
    """

    class Damaged(MemoryBucket):
        def stream(self, key, offset, tag):
            yield from super().stream(key, offset, tag)
            raise errors.FileFailed("the checksum differs")

    bucket = Damaged()
    reader = Reader(bucket, bucket.put("k", DATA), "k")

    with pytest.raises(errors.FileFailed, match="checksum"):
        reader.read_at(0, len(DATA))


def test_a_closed_reader_reads_nothing(bucket):
    reader = reader_of(bucket)
    reader.read_at(0, 1)

    reader.close()
    reader.close()

    with pytest.raises(ValueError, match="closed"):
        reader.read_at(0, 1)


def test_an_empty_object_takes_no_request(bucket):
    reader = reader_of(bucket, b"")

    assert reader.read_at(0, 10) == b""
    assert list(reader.pieces()) == []
    assert bucket.requests == []
