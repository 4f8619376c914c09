"""Tests of a program that uses pgstore, as its authors write them; run by a pytest of their own (test_pytest_plugin.py)."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading

import psycopg
import pytest

import pgstore

# As programs have them: made once, when the module is imported.
entries = pgstore.Dict.from_name("entries", create_if_missing=True)
items = pgstore.Queue.from_name("items", create_if_missing=True)
volume = pgstore.Volume.from_name("files", create_if_missing=True)

FRESH_URLS: list[str] = []


@pytest.fixture(params=["asyncio"])
def anyio_backend(request):
    return request.param


# --------------------------------------------------------------------------------------------------- pgstore_transaction


@pytest.mark.parametrize("number", range(30))
def test_that_does_nothing(pgstore_transaction, number):
    """For how long the fixture takes."""


@pytest.mark.parametrize("time", ["the first time", "again"])
def test_what_a_test_did_is_gone_in_the_next(pgstore_transaction, time):
    assert (len(entries), len(items)) == (0, 0)
    assert [entry.path for entry in volume.listdir("/")] == []

    entries["k"] = time
    items.put(time)
    volume.write_text("file", time)

    assert (time, time, time) == (entries["k"], items.get(), volume.read_text("file"))


@pytest.fixture(scope="session")
def committed(pgstore_url):
    """What is there before the tests, by another client."""
    with pgstore.Client(pgstore_url) as client:
        pgstore.Queue.from_name("jobs", create_if_missing=True, client=client).put_many(range(50))
        pgstore.Volume.from_name("data", create_if_missing=True, client=client).write_text("file", "committed")


@pytest.mark.parametrize("time", ["the first time", "again"])
def test_what_was_committed_before_is_there_in_each_test(committed, pgstore_transaction, time):
    jobs = pgstore.Queue.from_name("jobs")
    data = pgstore.Volume.from_name("data")

    with jobs.get(lease=60) as lease:
        assert lease.item == 0
    assert list(range(1, 50)) == jobs.get_many(100)
    assert len(jobs) == 0
    assert data.read_text("file") == "committed"
    data.remove_file("file")
    assert not data.exists("file")


def test_a_block_that_raises_undoes_itself_alone(pgstore_transaction):
    entries["k"] = "before"

    with pytest.raises(ZeroDivisionError), pgstore.transaction():
        entries["k"] = "undone"
        _ = 1 / 0

    assert entries["k"] == "before"


def test_blocks_within_blocks_are_kept(pgstore_transaction):
    with pgstore.transaction():
        entries["outer"] = 1
        with pgstore.transaction():
            entries["inner"] = 2

    assert dict(entries.items()) == {"outer": 1, "inner": 2}


def test_a_statement_that_fails_undoes_itself_alone(pgstore_transaction):
    entries["k"] = 1
    with pytest.raises(pgstore.Error):
        entries.increment("k", 2**63 - 1)  # beyond what the server's numbers have

    entries["other"] = 2

    assert dict(entries.items()) == {"k": 1, "other": 2}


def test_sql_of_the_test_sees_what_the_stores_did(pgstore_transaction):
    entries["k"] = 1

    with pgstore_transaction.connection.cursor() as cursor:
        cursor.execute("SELECT key FROM pgstore.dict_entry")
        assert cursor.fetchall() == [("k",)]


def test_nobody_else_sees_what_the_test_did(pgstore_transaction, pgstore_url):
    entries["k"] = 1

    with psycopg.connect(pgstore_url) as connection:
        assert connection.execute("SELECT count(*) FROM pgstore.dict_entry").fetchone() == (0,)


def test_a_get_finds_what_another_thread_puts_while_it_waits(pgstore_transaction):
    thread = threading.Timer(0.05, items.put, ["late"])
    thread.start()

    assert items.get(timeout=10) == "late"
    thread.join()


def test_a_get_of_an_empty_queue_times_out(pgstore_transaction):
    with pytest.raises(queue.Empty):
        items.get(timeout=0.02)


def test_what_another_thread_does_beside_an_open_block_is_an_error(pgstore_transaction):
    failures = []

    def other():
        try:
            entries["k"] = 2
        except pgstore.TransactionScopeError as exc:
            failures.append(str(exc))

    with pgstore.transaction():
        entries["k"] = 1
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    assert entries["k"] == 1
    assert "use the fixture `pgstore_client`" in failures[0]


def test_a_wait_for_a_worker_is_refused(pgstore_transaction):
    app = pgstore.App("in-a-test")

    @app.function(serialized=True)
    def twice(x):
        return 2 * x

    entries["k"] = 1
    with pytest.raises(pgstore.InvalidError, match="in a transaction that has written something"):
        twice.remote(1)


async def awaited():
    await entries.put.aio("k", 1)
    entries["by a blocking call"] = 2

    async with pgstore.transaction():
        await entries.put.aio("k", 3)
    with pytest.raises(ZeroDivisionError):
        async with pgstore.transaction():
            await entries.put.aio("k", 4)
            _ = 1 / 0
    putting = asyncio.get_running_loop().create_task(put_later())
    got = await items.get.aio(timeout=10)
    await putting
    await asyncio.gather(*(volume.write_bytes.aio(f"f{i}", bytes(i * 200_000)) for i in range(3)))

    assert (got, await entries.get.aio("k"), await entries.get.aio("by a blocking call")) == ("late", 3, 2)
    assert [len(await volume.read_bytes.aio(f"f{i}")) for i in range(3)] == [0, 200_000, 400_000]


async def put_later():
    await asyncio.sleep(0.02)
    await items.put.aio("late")


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
@pytest.mark.anyio
async def test_an_asynchronous_test_of_anyio_takes_part(pgstore_transaction):
    await awaited()


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
@pytest.mark.asyncio
async def test_an_asynchronous_test_of_pytest_asyncio_takes_part(pgstore_transaction):
    await awaited()


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_loop_of_the_test_takes_part(pgstore_transaction):
    asyncio.run(awaited())


def test_after_asynchronous_tests_nothing_is_left(pgstore_transaction):
    assert (len(entries), len(items)) == (0, 0)


def test_a_task_beside_an_open_block_gets_an_error(pgstore_transaction):
    async def main():
        async with pgstore.transaction():
            await entries.put.aio("k", 1)
            with pytest.raises(pgstore.TransactionScopeError):
                await asyncio.get_running_loop().create_task(entries.put.aio("k", 2))

    asyncio.run(main())

    assert entries["k"] == 1


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_transaction_to_others(pgstore_transaction):
    async def main():
        waiting = asyncio.get_running_loop().create_task(items.get.aio())
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await items.put.aio("kept")
        return await items.get.aio()

    assert asyncio.run(main()) == "kept"


def test_locks_and_iterators_and_ephemeral_stores_take_part(pgstore_transaction):
    with entries.lock("l"):
        entries.update({"a": 1, "b": 2})
    with pgstore.Dict.ephemeral() as passing:
        passing["k"] = 1

        assert passing.items() == [("k", 1)]
    assert sorted(entries) == ["a", "b"]


def test_an_entry_expires_in_the_test(pgstore_transaction):
    entries.put("k", 1, ttl=0.03)
    assert "k" in entries
    threading.Event().wait(0.05)

    assert "k" not in entries


# ---------------------------------------------------------------------------------------------------- pgstore_client


@pytest.mark.parametrize("time", ["the first time", "again"])
def test_a_fresh_database_has_nothing_of_another_test(pgstore_client, time):
    assert len(entries) == 0
    entries["k"] = time

    assert time == entries["k"]
    assert pgstore.default_client() is pgstore_client
    FRESH_URLS.append(os.environ["PGSTORE_URL"])
    assert len(FRESH_URLS) == len(set(FRESH_URLS))


def test_a_process_that_the_test_starts_has_the_same_database(pgstore_client):
    entries["k"] = "shared"
    program = "import pgstore; print(pgstore.Dict.from_name('entries')['k'])"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert ran.stdout.strip() == "shared"


def test_threads_have_transactions_of_their_own(pgstore_client):
    with pgstore.transaction():
        entries["k"] = 1
        thread = threading.Thread(target=entries.put, args=("other", 2))
        thread.start()
        thread.join()

    assert dict(entries.items()) == {"k": 1, "other": 2}


def test_the_transaction_can_be_on_the_fresh_database(pgstore_client, pgstore_transaction):
    entries["k"] = 1

    with psycopg.connect(os.environ["PGSTORE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM pgstore.store").fetchone() == (0,)


def test_the_database_of_the_run_is_as_it_was(pgstore_transaction, pgstore_url):
    assert os.environ["PGSTORE_URL"] == pgstore_url
    assert len(entries) == 0


# ------------------------------------------------------------------------------------------------------- pgstore_url


def test_a_client_of_the_tests_own_uses_the_url(pgstore_url):
    with pgstore.Client(pgstore_url) as client:
        assert client.run_transaction(lambda: len(pgstore.Dict.objects.list(client=client))) == 0
