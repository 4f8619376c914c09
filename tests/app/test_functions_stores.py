"""Functions and stores: mounts that code sees or not, handles in arguments, and transactions that a call would wait for."""

from __future__ import annotations

import asyncio

import pytest

import pgstore
from tests.app.stores_program import app, use, variable, write

pytestmark = pytest.mark.usefixtures("default_client")

VOLUME = pgstore.Volume.persist("tests-app-stores")


@pytest.fixture(autouse=True)
def _run(default_client):
    with app.run():
        yield


def test_in_a_worker_that_has_its_mounts_a_function_is_called_plainly():
    assert use.remote("call the other here") == ("plain", "local")
    assert [b"".join(VOLUME.read_file(name)) for name in "ab"] == [b"plain", b"local"]
    with pytest.raises(pgstore.InvalidError, match="/data-of-tests is not mounted"):
        write("c", "nowhere")


def test_handles_travel_in_arguments_and_results_ephemeral_ones_too():
    with pgstore.Dict.ephemeral() as entries:
        back = use.remote("put", entries, "key", entries)

        assert back["key"]["key"] is not None
        assert entries.contains("key")


def test_an_early_exception_leaves_what_was_written_before_it():
    write.remote("kept", "kept")
    with pytest.raises(FileNotFoundError):
        use.remote("read", "missing")
    assert use.remote("read", "kept") == "kept"


def test_a_function_that_a_worker_calls_has_the_secrets_that_the_program_knows_and_the_worker_does_not():
    assert use.remote("call", variable, "OF_THE_PROGRAM") == "known"


# ----------------------------------------------------------------------------------------------------------- transactions


@pytest.fixture
def entries(store_name):
    return pgstore.Dict.from_name(store_name, create_if_missing=True)


WAITING = [
    lambda: write.remote("t", "x"),
    lambda: list(write.map(["t"], ["x"])),
    lambda: list(write.starmap([("t", "x")])),
    lambda: write.for_each(["t"], ["x"]),
]


@pytest.mark.parametrize("wait", WAITING)
def test_a_transaction_that_has_written_does_not_wait_for_a_worker(entries, wait):
    """
    The worker could not see what was written, and may wait for the locks of who waits for it.
    """
    with pytest.raises(pgstore.InvalidError, match="transaction that has written"), pgstore.transaction():
        entries["k"] = 1
        wait()

    assert not entries.contains("k")


def test_so_does_an_asynchronous_one(entries):
    async def waiting():
        async with pgstore.transaction():
            await entries.put.aio("k", 1)
            await write.remote.aio("t", "x")

    with pytest.raises(pgstore.InvalidError, match="transaction that has written"):
        asyncio.run(waiting())


def test_a_transaction_that_has_only_read_may_wait(entries):
    with pgstore.transaction():
        assert entries.get("k") is None
        assert write.remote("t", "read") == "read"
