"""Several who read and write files of a bucket at a time, and those who are stopped in between."""

from __future__ import annotations

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgstore import errors
from pgstore.buckets import parallel, writing
from pgstore.buckets.memory import MemoryBucket, _MemoryUpload
from tests.buckets.test_files import keys, mount_of, put, read
from tests.fixtures.buckets import MemoryPlace

SIZE = 700_000


@pytest.fixture
def small_parts(place, monkeypatch):
    """Objects of some hundred kilobytes are put in parts."""
    monkeypatch.setattr(writing, "PART_BYTES", 300_000)
    monkeypatch.setattr(writing.Writer.__init__, "__kwdefaults__", {"if_missing": False, "first_part_bytes": 300_000})
    if place.location.provider == "s3" and not isinstance(place, MemoryPlace):
        bucket = place.open()
        monkeypatch.setattr(bucket, "limits", bucket.limits._replace(part_bytes_min=300_000))


def test_of_two_writers_the_last_to_close_wins(place, small_parts):
    """
    But that Azure keeps the parts of one alone, and drops those of the other, which is told.
    """
    mount = mount_of(place)
    files = [mount.open("a", "wb") for _ in range(2)]
    for number, file in enumerate(files):
        file.write(bytes([number]) * SIZE)

    files[0].close()
    if place.location.provider == "azure":
        with pytest.raises(errors.StaleFile, match="put it again"):
            files[1].close()
    else:
        files[1].close()

    assert read(mount, "a") == bytes([place.location.provider != "azure"]) * SIZE


def test_readers_and_writers_of_one_file_never_see_two_states(place, small_parts):
    """
    A reader has all of one state, or an error that says that there is another.
    """
    mount = mount_of(place)
    put(mount, "a", bytes([0]) * SIZE)
    stop = threading.Event()
    mixed: list[bytes] = []
    whole = stale = 0

    def write():
        for number in range(1, 7):
            put(mount, "a", bytes([number]) * SIZE)
        stop.set()

    def look():
        nonlocal whole, stale
        while True:
            ended = stop.is_set()
            try:
                data = read(mount, "a")
            except errors.StaleFile:
                stale += 1
            else:
                whole += 1
                if data != data[:1] * SIZE:
                    mixed.append(data)
            if ended:
                return

    with ThreadPoolExecutor(4) as pool:
        for task in [pool.submit(write), *(pool.submit(look) for _ in range(3))]:
            task.result()

    assert not mixed
    assert whole
    assert read(mount, "a") == b"\6" * SIZE


def test_many_tasks_put_and_get_at_a_time(place):
    mount = mount_of(place)

    async def work():
        await asyncio.gather(*(mount.write_bytes.aio(f"d/{n}", bytes([n]) * n) for n in range(40)))
        found = await asyncio.gather(*(mount.read_bytes.aio(f"d/{n}") for n in range(40)))
        return found, [entry.path async for entry in mount.iterdir("d")]

    found, paths = asyncio.run(work())

    assert found == [bytes([n]) * n for n in range(40)]
    assert len(paths) == 40


# ----------------------------------------------------------------------------------------------------------- cancelling


class Gated(MemoryBucket):
    """Requests that change something wait at a gate; those that came there are noted."""

    def __init__(self):
        super().__init__()
        self.arrived = threading.Event()
        self.gate = threading.Event()
        self.aborted = 0

    def _wait(self):
        self.arrived.set()
        assert self.gate.wait(20)

    def put(self, key, data, *, if_missing=False):
        self._wait()
        return super().put(key, data, if_missing=if_missing)

    def begin_upload(self, key, *, if_missing=False):
        return GatedUpload(self, key, if_missing)


class GatedUpload(_MemoryUpload):
    _bucket: Gated

    def put_part(self, number, data):
        self._bucket._wait()
        super().put_part(number, data)

    def abort(self):
        self._bucket.aborted += 1
        super().abort()


@pytest.fixture
def gated(monkeypatch):
    place = MemoryPlace()
    place._bucket = Gated()
    return place


async def _arrival(bucket):
    assert await asyncio.to_thread(bucket.arrived.wait, 20)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_cancelled_upload_leaves_nothing_half_made(gated, parts):
    """
    What was under way is waited for, and then given up: afterwards nothing of it goes on.
    """
    mount, bucket = mount_of(gated), gated.open()

    async def work():
        task = asyncio.create_task(mount.put_file.aio(io.BytesIO(bytes(parts * parallel.PART_BYTES)), "a"))
        await _arrival(bucket)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        bucket.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())

    info = bucket.head("a")
    assert info is None or (parts == 1 and info.size_bytes == parallel.PART_BYTES)  # it was under way
    assert bucket.aborted == (parts > 1)
    assert parallel.shared().budget.free_bytes == parallel.BUDGET_BYTES


def test_an_event_loop_goes_on_while_requests_are_under_way(gated):
    mount, bucket = mount_of(gated), gated.open()

    async def work():
        task = asyncio.create_task(mount.write_bytes.aio("a", b"1"))
        await _arrival(bucket)
        assert await mount.exists.aio("a") is False
        bucket.gate.set()
        return await task

    assert asyncio.run(work()) == 1
    assert keys(gated) == ["a"]


def test_a_call_that_is_cancelled_before_its_turn_is_not_made(gated):
    """
    So many calls may be under way; the others wait, and one that nobody wants any more is dropped.
    """
    mount, bucket = mount_of(gated), gated.open()

    async def work():
        tasks = [asyncio.create_task(mount.write_bytes.aio(f"f{n}", b"1")) for n in range(64)]
        await _arrival(bucket)
        await asyncio.sleep(0.05)
        late = asyncio.create_task(mount.write_bytes.aio("late", b"1"))
        await asyncio.sleep(0.01)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        bucket.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())

    assert len(keys(gated)) == 64
    assert "late" not in keys(gated)


def test_the_end_of_the_event_loop_ends_an_upload(gated):
    """
    `asyncio.run` cancels what is left.
    """
    mount, bucket = mount_of(gated), gated.open()
    tasks = []  # the event loop alone would not keep it

    async def work():
        task = asyncio.create_task(mount.put_file.aio(io.BytesIO(bytes(3 * parallel.PART_BYTES)), "a"))
        await _arrival(bucket)
        tasks.append(asyncio.create_task(open_gate_when_cancelled()))
        await asyncio.sleep(0)  # a task that has not begun does nothing at its end
        return task

    async def open_gate_when_cancelled():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)  # the upload hears of its end first
            bucket.gate.set()

    task = asyncio.run(work())

    assert task.cancelled()
    assert keys(gated) == []
    assert bucket.aborted == 1


def test_an_asynchronous_file_that_is_left_by_cancelling_is_given_up(gated):
    mount, bucket = mount_of(gated), gated.open()
    bucket.gate.set()

    async def write():
        async with mount.open.aio("a", "wb") as file:
            await file.write(bytes(2 * parallel.PART_BYTES))
            await asyncio.sleep(60)

    async def work():
        task = asyncio.create_task(write())
        await _arrival(bucket)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())

    assert keys(gated) == []
    assert bucket.aborted == 1
