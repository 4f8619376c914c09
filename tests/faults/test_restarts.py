"""The server stops, crashes and comes back: clients wait for it, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import threading
import time
from functools import partial

import pytest

import pgstore
from pgstore.admin.check import run_checks
from pgstore.errors import OutcomeUnknown, StaleFile
from pgstore.fs.content.blobs import BATCH_BYTES
from pgstore.fs.tree.new_rows import _ReservedInodes
from tests.faults.conftest import Background, Eye, until
from tests.fixtures.pgbouncer import PgBouncer, program
from tests.fixtures.proxy import Proxy
from tests.fixtures.server import migrate


@pytest.fixture
def url(own_server):
    url: str = own_server.create_database()
    migrate(url)
    return url


@pytest.mark.slow
def test_clients_wait_for_a_server_that_restarts(own_server, url):
    """
    Calls made while it is down, of every kind, come back with their results; a get that was waiting before goes on waiting.
    """
    with pgstore.Client(url) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        queue = pgstore.Queue.persist("queue", client=client)
        entries["k"] = 1
        queue.put("warm")
        queue.get()
        waiting = Background(queue.get)
        loop_waiting = Background(asyncio.run, queue.get.aio(partition="aio"))
        eye = Eye(url)
        until(lambda: eye.waiting() == 2)
        eye.close()

        def in_transaction():
            with client.transaction():
                entries["tx"] = entries["k"]

        async def on_a_loop():
            await entries.put.aio("aio", 1)
            return await entries.get.aio("k")

        own_server.terminate(signal.SIGINT)
        calls = [
            Background(entries.get, "k"),
            Background(entries.put, "l", 1),
            Background(queue.put, "other", partition="other"),
            Background(in_transaction),
            Background(asyncio.run, on_a_loop()),
        ]
        assert all(call.running for call in calls)
        own_server.start()

        assert [call.result() for call in calls] == [1, True, None, None, 1]
        assert sorted(entries.keys()) == ["aio", "k", "l", "tx"]
        queue.put("item")
        queue.put("item", partition="aio")
        assert waiting.result() == "item"
        assert loop_waiting.result() == "item"


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_crash_and_nothing_is_doubled(own_server, url):
    """
    Puts by several threads while the server is killed again and again; each item says which it is.
    """
    acknowledged, unknown = [], []
    stop = threading.Event()
    with pgstore.Client(url, connections_max=3) as client:
        queue = pgstore.Queue.persist("queue", client=client)
        queue.hydrate()

        def put(item, tx):
            queue.put(item)

        def produce(producer):
            number = 0
            while not stop.is_set():
                item = (producer, number)
                number += 1
                try:
                    if number % 2:
                        queue.put(item)
                    else:
                        client.run_transaction(partial(put, item))
                    acknowledged.append(item)
                except OutcomeUnknown:
                    unknown.append(item)

        def a_hundred_more():
            enough = len(acknowledged) + 100
            until(lambda: len(acknowledged) > enough)

        producers = [Background(produce, number) for number in range(5)]
        for _ in range(2):
            a_hundred_more()
            own_server.kill()
            own_server.start()
        a_hundred_more()
        stop.set()
        for each in producers:
            each.result()

        there = []
        while items := queue.get_many(1000, block=False):
            there += items

    assert len(there) == len(set(there))
    assert set(acknowledged) <= set(there) <= set(acknowledged) | set(unknown)
    assert len(unknown) <= 10


@pytest.mark.slow
def test_after_a_crash_the_outcome_of_a_commit_is_not_guessed(own_server, url):
    """
    The numbers of transactions that a crash undid are given to others: asked about ours, the server would answer for another.
    """
    with Proxy(own_server.port) as proxy, pgstore.Client(proxy.url(url)) as client, pgstore.Client(url) as other:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        others = pgstore.Dict.persist("others", client=other)
        others["k"] = 1

        sending = threading.Event()

        def commit():
            with client.transaction():
                entries["k"] = 2
                proxy.stall("client")  # COMMIT does not get through
                sending.set()

        committing = Background(commit)
        sending.wait(30)
        own_server.kill()
        own_server.start()
        for number in range(20):
            others[number] = number
        proxy.cut()
        proxy.resume()

        with pytest.raises(OutcomeUnknown):
            committing.result()
        assert entries["k"] == 1


def test_closing_does_not_wait_for_a_server_that_is_gone(own_server, url):
    """
    What was taken is then not told.
    """
    client = pgstore.Client(url)
    queue = pgstore.Queue.persist("queue", client=client)
    queue.put_many(range(3))
    queue.get()
    own_server.kill()
    began = time.monotonic()

    client.close()

    assert time.monotonic() - began < 3.0


@pytest.fixture
def lazy_server(own_server):
    """A server whose crash takes all that nobody has waited for."""
    own_server.forget()
    yield own_server
    own_server.remember()


@pytest.mark.slow
def test_a_file_that_is_written_in_place_says_if_a_crash_may_have_taken_what_was_written(lazy_server, url, call):
    """
    Writes do not wait for the disk, fsync and close do: they must not answer for what is gone. The next ones are about the next.
    """
    lost = pytest.raises(OutcomeUnknown, match="may be lost")
    with pgstore.Client(url) as client:
        nfs = pgstore.NetworkFileSystem.from_name("n", create_if_missing=True, client=client)

        def write():
            with lost, nfs.open("file", "wb", buffering=0) as file:
                file.write(b"a")
                lazy_server.crash()
            with nfs.open("file", "ab", buffering=0) as file:
                file.write(b"b")
                lazy_server.crash()
                with lost:
                    file.fsync()
                file.write(b"c")

        async def write_async():
            with lost:
                async with nfs.open.aio("file", "wb", buffering=0) as file:
                    await file.write(b"a")
                    lazy_server.crash()
            async with nfs.open.aio("file", "ab", buffering=0) as file:
                await file.write(b"b")
                lazy_server.crash()
                with lost:
                    await file.fsync()
                await file.write(b"c")

        write() if call.form == "blocking" else call.run(write_async())
        assert b"".join(nfs.read_file("file")) == b"c"


@pytest.mark.slow
def test_a_file_of_a_volume_is_not_made_of_what_a_crash_has_taken(lazy_server, url, call):
    """
    Its batches do not wait for the disk. A lost one would be read as zeros.
    """
    batch = b"x" * BATCH_BYTES
    with pgstore.Client(url) as client:
        volume = pgstore.Volume.from_name("v", create_if_missing=True, client=client)
        volume.put_file(io.BytesIO(b"before"), "file")

        def write():
            with pytest.raises(StaleFile, match="crashed"), volume.open("file", "wb") as file:
                file.write(batch + batch)
                volume.put_file(io.BytesIO(b"what was written before this is on the disk"), "other")
                file.write(batch)
                lazy_server.crash()
                file.write(batch)

        async def write_async():
            with pytest.raises(StaleFile, match="crashed"):
                async with volume.open.aio("file", "wb") as file:
                    await file.write(batch + batch)
                    await volume.put_file.aio(io.BytesIO(b"what was written before this is on the disk"), "other")
                    await file.write(batch)
                    lazy_server.crash()
                    await file.write(batch)

        write() if call.form == "blocking" else call.run(write_async())
        assert b"".join(volume.read_file("file")) == b"before"


@pytest.mark.slow
def test_behind_a_pooler_writes_are_on_the_disk_when_they_are_answered(lazy_server, url):
    """
    Its connections outlive the server, whose crash would go unnoticed.
    """
    batch = b"x" * BATCH_BYTES
    with PgBouncer(program(), lazy_server.port) as pooler, pgstore.Client(pooler.url(url)) as client:
        nfs = pgstore.NetworkFileSystem.from_name("n", create_if_missing=True, client=client)
        volume = pgstore.Volume.from_name("v", create_if_missing=True, client=client)
        with nfs.open("file", "wb", buffering=0) as live, volume.open("file", "wb") as staged:
            live.write(b"a")
            staged.write(batch + batch)
            live.write(b"b")
            lazy_server.crash()
            staged.write(batch)

        assert b"".join(nfs.read_file("file")) == b"ab"
        assert b"".join(volume.read_file("file")) == batch * 3


@pytest.mark.slow
def test_numbers_that_a_lost_transaction_has_drawn_are_not_used_after_a_crash(lazy_server, url):
    """
    The sequence gives them out again.
    """
    with pgstore.Client(url) as client, pgstore.Client(url) as other:
        ours = pgstore.Volume.from_name("v", create_if_missing=True, client=client)
        theirs = pgstore.Volume.from_name("v", client=other)
        ours.put_file(io.BytesIO(b"0"), "first")
        client.session.hook(_ReservedInodes).of(int(ours.object_id.removeprefix("vo-"))).clear()
        with contextlib.suppress(ZeroDivisionError), client.transaction():
            ours.put_file(io.BytesIO(b"lost"), "lost")
            raise ZeroDivisionError
        lazy_server.crash()

        for volume in (theirs, ours):
            for number in range(3):
                volume.put_file(io.BytesIO(b"%d" % number), f"{id(volume)}-{number}")
            with volume.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"3"), f"{id(volume)}-3")

        assert len(ours.listdir("/")) == 9
        assert run_checks(url).is_healthy
