"""Writing objects: in one request or in parts, whole or not at all."""

from __future__ import annotations

import gc
import random
import threading
import time

import pytest

from pgstore import errors
from pgstore.buckets import parallel
from pgstore.buckets.base import Limits
from pgstore.buckets.memory import MemoryBucket, _MemoryUpload
from pgstore.buckets.writing import PARTS_UNDER_WAY_MAX, Writer, part_bytes

KIB = 1 << 10


class Recording(MemoryBucket):
    """Notes requests; `fails` names those that fail."""

    def __init__(self, fails=()):
        super().__init__()
        self.requests = []
        self.fails = fails
        self.gate = threading.Event()
        self.gate.set()

    def put(self, key, data, *, if_missing=False):
        self.note("put")
        return super().put(key, data, if_missing=if_missing)

    def begin_upload(self, key, *, if_missing=False):
        self.note("begin")
        return RecordingUpload(self, key, if_missing)

    def note(self, what):
        self.requests.append(what)
        if what in self.fails:
            raise errors.StoreUnavailable("not now")


class RecordingUpload(_MemoryUpload):
    _bucket: Recording

    def put_part(self, number, data):
        self._bucket.gate.wait()
        self._bucket.note(f"part {number}")
        super().put_part(number, data)

    def complete(self):
        self._bucket.note("complete")
        data = b"".join(self._parts[number] for number in sorted(self._parts))
        return MemoryBucket.put(self._bucket, self._key, data, if_missing=self._if_missing)

    def abort(self):
        self._bucket.note("abort")
        super().abort()


def writer_of(bucket, **options):
    return Writer(bucket, "k", "k", lambda info: info, first_part_bytes=KIB, **options)


def contents(bucket):
    info = bucket.head("k")
    return None if info is None else b"".join(bucket.stream("k", 0, info.tag))


@pytest.mark.parametrize("size", [0, 1, KIB - 1, KIB])
def test_one_part_is_one_request(size):
    bucket, data = Recording(), random.Random(1).randbytes(size)
    writer = writer_of(bucket)

    writer.write(data)
    info = writer.close()

    assert bucket.requests == ["put"]
    assert contents(bucket) == data
    assert info == bucket.head("k")


@pytest.mark.parametrize("step", [1, 700, KIB, 5000])
def test_more_are_put_in_parts_while_they_are_written(step):
    bucket, data = Recording(), random.Random(1).randbytes(7 * KIB + 5)
    writer = writer_of(bucket)

    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
    assert contents(bucket) is None
    writer.close()

    assert contents(bucket) == data
    assert bucket.requests[0] == "begin"
    assert bucket.requests[-1] == "complete"
    assert len(bucket.requests) == 10
    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


def test_all_parts_but_the_last_are_full():
    bucket = Recording()
    writer = writer_of(bucket)
    for _ in range(4):
        writer.write(bytes(KIB))
    upload = writer._upload
    writer.close()

    assert [len(upload._parts[number]) for number in sorted(upload._parts)] == [KIB] * 4


def test_what_was_given_may_be_changed_afterwards():
    bucket = Recording()
    writer = writer_of(bucket)
    data = bytearray(b"a" * 3 * KIB)

    writer.write(data)
    data[:] = b"b" * len(data)
    writer.close()

    assert contents(bucket) == b"a" * 3 * KIB


def test_few_parts_are_held_at_a_time():
    """
    A writer that is faster than its connections waits.
    """
    bucket = Recording()
    bucket.gate.clear()
    writer = writer_of(bucket)

    thread = threading.Thread(target=lambda: [writer.write(bytes(KIB)) for _ in range(50)])
    thread.start()
    for _ in range(100):
        time.sleep(0.001)
        assert writer.size_bytes <= (PARTS_UNDER_WAY_MAX + 2) * KIB
    bucket.gate.set()
    thread.join()
    writer.close()

    assert contents(bucket) == bytes(50 * KIB)


def test_without_budget_one_part_is_under_way(monkeypatch):
    monkeypatch.setattr(parallel.shared(), "budget", parallel.Budget(0))
    bucket = Recording()
    writer = writer_of(bucket)

    for number in range(20):
        writer.write(bytes([number]) * KIB)
        assert len(writer._tasks) <= 1
    writer.close()

    assert contents(bucket) == b"".join(bytes([number]) * KIB for number in range(20))


def test_aborting_leaves_what_was_there():
    bucket = Recording()
    MemoryBucket.put(bucket, "k", b"before")
    writer = writer_of(bucket)
    writer.write(bytes(5 * KIB))

    writer.abort()
    writer.abort()

    assert contents(bucket) == b"before"
    assert bucket.requests.count("abort") == 1
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        writer.close()


@pytest.mark.parametrize("failing", ["put", "begin", "part 2", "complete"])
def test_after_a_failure_nothing_is_kept(failing):
    bucket = Recording(fails={failing})
    MemoryBucket.put(bucket, "k", b"before")
    writer = writer_of(bucket)

    with pytest.raises(errors.StoreUnavailable):
        for _ in range(1 if failing == "put" else 5):
            writer.write(bytes(KIB))
        writer.close()
    with pytest.raises(OSError, match="an earlier write"):
        writer.close()
    writer.abort()

    assert contents(bucket) == b"before"
    assert bucket.requests.count("abort") == (failing in ("part 2", "complete"))
    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


@pytest.mark.parametrize("parts", [1, 3])
def test_an_exclusive_writer_does_not_replace(parts):
    bucket = Recording()
    writer = writer_of(bucket, if_missing=True)
    writer.write(bytes(parts * KIB))
    MemoryBucket.put(bucket, "k", b"other")

    with pytest.raises(FileExistsError):
        writer.close()

    assert contents(bucket) == b"other"


def test_a_writer_that_is_dropped_leaves_no_parts():
    """
    They would cost for ever, and nobody sees them.
    """
    bucket = Recording()
    writer = writer_of(bucket)
    writer.write(bytes(3 * KIB))

    del writer
    gc.collect()

    give_up = time.monotonic() + 10
    while "abort" not in bucket.requests and time.monotonic() < give_up:
        time.sleep(0.001)
    assert bucket.requests[-1] == "abort"
    assert contents(bucket) is None


def test_an_object_above_the_limit_is_refused():
    bucket = Recording()
    bucket.limits = Limits(part_bytes_min=1, part_bytes_max=KIB, parts_max=100, object_bytes_max=2 * KIB)
    writer = writer_of(bucket)
    writer.write(bytes(2 * KIB))

    with pytest.raises(errors.FileTooLarge):
        writer.write(b"x")

    writer.close()
    assert contents(bucket) == bytes(2 * KIB)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(5 << 20, 5 << 30, 10_000, 5 << 40),
        Limits(1, 4000 << 20, 50_000, 50_000 * 4000 << 20),
        Limits(256 << 10, 5 << 30, 10_000, 5 << 40),
    ],
    ids=["S3", "Azure", "GCS"],
)
def test_the_largest_object_fits_into_the_parts_that_a_provider_allows(limits):
    sizes = [part_bytes(limits, number) for number in range(1, limits.parts_max + 1)]

    assert sum(sizes) >= min(limits.object_bytes_max, 5 << 40)
    assert min(sizes) >= limits.part_bytes_min
    assert max(sizes) <= limits.part_bytes_max
    assert sizes == sorted(sizes)
