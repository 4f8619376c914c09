"""The schema is replaced by a backup of an hour ago while a program uses it: what it knows from since then harms nothing."""

from __future__ import annotations

import contextlib
import io
import os

import pytest

import pgstore
from pgstore import errors
from pgstore.admin.backup import backup
from pgstore.admin.check import run_checks
from pgstore.admin.restore import restore
from pgstore.queue import watermark
from tests.faults.conftest import Background, Eye, until

MIB = 1024 * 1024


@pytest.fixture
def worker(call, own_database):
    """The client of a program that runs on."""
    return call.client(own_database)


@pytest.fixture
def others(own_database):
    """Another program, which connects when the database has been replaced."""
    with pgstore.Client(own_database) as client:
        yield client


def test_a_program_goes_on_in_what_was_restored(call, own_database, worker, others, tmp_path, monkeypatch):
    monkeypatch.setattr(watermark, "ADVANCE_ITEMS", 1)
    monkeypatch.setattr("pgstore.queue.watermark.FRESH_SECONDS", 1e6)
    entries = pgstore.Dict.from_name("entries", create_if_missing=True, watch=True, client=worker)
    queue = pgstore.Queue.persist("queue", client=worker)
    volume = pgstore.Volume.persist("volume", client=worker)
    nfs = pgstore.NetworkFileSystem.from_name("nfs", create_if_missing=True, storage="large_object", client=worker)
    large = os.urandom(2 * MIB)
    call(entries.put, "k", "before")
    call(queue.put_many, ["first", "second"])
    call(volume.put_file, io.BytesIO(b"before"), "file")
    call(nfs.put_file, io.BytesIO(large), "file")
    backup(own_database, str(tmp_path / "backup"))

    call(entries.put, "k", "lost")
    scratch = pgstore.Dict.persist("scratch", client=worker)
    call(scratch.put, "k", "lost")
    for number in range(20):
        call(queue.put, number)
        call(queue.get)
    lease = call(queue.get, lease=600)
    call(volume.put_file, io.BytesIO(b"lost"), "file")
    writing = volume.open("new", "wb", buffering=0)
    in_place = nfs.open("file", "r+b", buffering=0)
    in_place.write(b"lost")
    waiting = Background(pgstore.Queue.persist("awaited", client=worker).get)
    eye = Eye(own_database)
    until(lambda: eye.waiting() == 1)
    watching = Background(next, entries.watch(timeout=30))
    until(lambda: eye.waiting() == 2)
    ephemeral = pgstore.Dict.ephemeral(client=worker)
    call(ephemeral.put, "k", 1)

    restore(own_database, str(tmp_path / "backup"), replace=True)
    theirs = pgstore.Queue.persist("theirs", client=others)
    theirs.put("theirs")
    their_lease = theirs.get(lease=600)

    assert watching.result().kind == "reset"
    assert call(entries.get, "k") == "before"
    assert call(scratch.get, "k") is None
    assert [call(queue.get, block=False) for _ in range(3)] == ["first", "second", None]
    with pytest.raises(errors.LeaseLost):
        call(lease.ack)
    with pytest.raises(errors.StaleFile):
        writing.write(b"x")
    with pytest.raises(errors.StaleFile):
        in_place.write(b"x")
    for file in (writing, in_place):
        with contextlib.suppress(pgstore.Error):
            file.close()
    with pytest.raises(pgstore.NotFoundError, match="ephemeral"):
        call(ephemeral.get, "k")
    assert b"".join(call.iterate(volume.read_file("file"))) == b"before"
    assert b"".join(call.iterate(nfs.read_file("file"))) == large
    pgstore.Queue.persist("awaited", client=others).put("came")
    assert waiting.result() == "came"
    their_lease.ack()
    call(volume.put_file, io.BytesIO(b"after"), "file")
    assert run_checks(own_database).is_healthy
    assert eye.value("SELECT count(*) FROM pg_largeobject_metadata") == 2  # those that were replaced are gone
    eye.close()


def test_a_put_that_waits_for_the_restore_is_in_what_was_restored(own_database, others, tmp_path):
    """
    Neither lost nor done twice, though its connection is ended and its table another one.
    """
    queue = pgstore.Queue.persist("queue", client=others)
    queue.put("before")
    pgstore.Dict.persist("large", client=others)["k"] = os.urandom(2 * MIB)
    file = str(tmp_path / "backup")
    backup(own_database, file, compression="none")
    queue.put("lost")
    eye = Eye(own_database)
    put: list[Background] = []

    def put_meanwhile(done, total):
        if done > 2 * MIB and not put:  # which is behind the first block, so that the old tables are gone by now
            put.append(Background(queue.put, "during"))
            until(lambda: eye.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    restore(own_database, file, replace=True, tell=put_meanwhile)

    put[0].result()
    assert queue.get_many(10) == ["before", "during"]
    eye.close()
