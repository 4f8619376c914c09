"""Connections that break: what was surely not done is done again, what may have been done is not, and the caller is told."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import pgstore
from pgstore import connection
from pgstore.client import executor
from pgstore.core.operation import Many, Query, operation
from pgstore.errors import OutcomeUnknown, StatementFailed, StoreUnavailable
from pgstore.queue.put import PUT_WITHOUT_NOTIFY
from tests.faults.conftest import Background, until
from tests.fixtures.clients import Call


@pytest.fixture
def client(own_database, proxy, monkeypatch):
    """A client whose connections all lead through the proxy, and are looked at before every use."""
    monkeypatch.setattr(connection.blocking, "_FRESH_SECONDS", -1.0)
    client = pgstore.Client(proxy.url(own_database))
    yield client
    client.close()


@pytest.fixture
def stores(client, call):
    """A Dict with one entry and an empty Queue, whose statements are prepared on the connection in use."""
    entries = pgstore.Dict.persist("entries", client=client)
    queue = pgstore.Queue.persist("queue", client=client)
    for _ in range(2):
        call(entries.put, "k", 1)
        call(entries.get, "k")
        call(queue.put, "warm")
        call(queue.get)
    return entries, queue


class QueueOfPairs(pgstore.Queue):
    """Puts by several statements in one round trip, as files are made."""

    @operation
    def put_twice(self, item):
        store_id = yield from self._resolve_id()
        yield Many([Query(PUT_WITHOUT_NOTIFY, store_id, "", self._encode(item))] * 2)


def transact(call: Call, client: pgstore.Client, *steps):
    """Run *steps*, each an operation with its arguments or a plain function, in one transaction."""
    if call.form == "blocking":
        with client.transaction() as tx:
            for step in steps:
                step[0](*step[1:]) if isinstance(step, tuple) else step(tx)
        return

    async def work():
        async with client.transaction() as tx:
            for step in steps:
                if isinstance(step, tuple):
                    await step[0].aio(*step[1:])
                else:
                    step(tx)

    call.run(work())


# ------------------------------------------------------------------------------------------------- single statements


def test_after_an_idle_connection_was_cut_reads_and_writes_just_work(call, proxy, stores, eye):
    """
    Firewalls drop idle connections every day; a write that was never sent can safely be sent.
    """
    entries, queue = stores

    assert proxy.cut() == 1
    assert call(entries.get, "k") == 1
    assert proxy.cut() == 1
    call(queue.put, "item")
    assert proxy.cut() == 1
    assert call(queue.get) == "item"

    assert eye.items() == 0


def test_a_read_whose_answer_is_lost_is_repeated(call, proxy, stores):
    entries, _ = stores

    proxy.cut_after(from_server=0)
    assert call(entries.get, "k") == 1
    proxy.wait_for_cut()
    proxy.cut_after(from_client=0)
    assert call(entries.len) == 1
    proxy.wait_for_cut()


def test_several_reads_whose_answer_is_lost_are_repeated_together(call, client, proxy, stores):
    _, queue = stores
    call(queue.put, "item")

    def read():
        store_id = yield from queue._resolve_id()
        return (yield Many([Query(pgstore.Queue._LEN, store_id, "", 5), Query(pgstore.Queue._LEN_TOTAL, store_id, 5)]))

    proxy.cut_after(from_server=0)
    found = client.run(read()) if call.form == "blocking" else call.run(client.run_async(read()))
    proxy.wait_for_cut()

    assert found == [[(1,)], [(1,)]]


def test_a_read_that_is_cut_while_it_runs_is_repeated(call, proxy, stores):
    entries, _ = stores

    proxy.stall("server")
    sent = proxy.bytes_from["client"]
    reading = Background(call, entries.get, "k")
    until(lambda: proxy.bytes_from["client"] > sent)
    proxy.cut()
    proxy.resume()

    assert reading.result() == 1


def test_a_write_whose_answer_is_lost_is_not_repeated(call, proxy, stores, eye, caplog):
    """
    The row is there: sent again, the item would be delivered twice.
    """
    _, queue = stores

    proxy.cut_after(from_server=0)
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        call(queue.put, "item")

    assert eye.items() == 1
    assert call(queue.get) == "item"
    assert "whether a write has happened is unknown" in caplog.text


def test_a_write_that_was_lost_on_its_way_is_reported_as_unknown(call, proxy, stores, eye):
    """
    The client cannot tell this from the case above, and must not guess.
    """
    _, queue = stores

    proxy.cut_after(from_client=0)
    with pytest.raises(OutcomeUnknown):
        call(queue.put, "item")

    assert eye.items() == 0
    call(queue.put, "next")
    assert eye.items() == 1


def test_a_write_is_repeated_if_only_its_preparation_was_lost(call, proxy, stores, eye):
    """
    Giving a statement its name changes nothing, so the write is known not to have been sent.
    """
    _, queue = stores

    proxy.cut_after(from_server=0)
    call(queue.put_many, ["a", "b"])  # used for the first time
    proxy.wait_for_cut()

    assert eye.items() == 2


def test_a_commit_that_fails_after_the_rows_came_is_an_error(call, stores, eye):
    """
    The server sends rows before it commits, and commits when it has sent them: a constraint that is checked only then may refuse.
    """
    entries, queue = stores
    call(queue.put, "item")
    eye.rows(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON pgstore.queue_item DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse();
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON pgstore.dict_entry DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse();
        """
    )

    for _ in range(2):
        with pytest.raises(StatementFailed, match="not today"):
            call(queue.get)
        with pytest.raises(StatementFailed, match="not today"):
            call(entries.put, "k", 2)

    assert eye.items() == 1
    assert call(entries.get, "k") == 1


def test_programs_outlive_a_migration_that_changes_the_type_of_a_column(call, client, stores, eye):
    """
    The server refuses what was prepared before, for good: "cached plan must not change result type".
    """
    entries, _ = stores
    eye.rows("DROP VIEW pgstore.dict_items, pgstore.store_sizes")

    def migrate(kind):
        eye.rows(f"ALTER TABLE pgstore.dict_entry ALTER COLUMN value TYPE {kind}")

    found = []
    call(entries.put, "k", "value")
    call(entries.get, "k")
    migrate("bytea")
    found.append(call(entries.get, "k"))
    transact(call, client, (entries.get, "k"))
    migrate("pgstore.stored_value")
    transact(call, client, (entries.get, "k"), (entries.put, "other", 2))
    found += [call(entries.get, "k"), call(entries.get, "other")]

    assert found == ["value", "value", 2]


def test_a_transaction_that_meets_a_migration_gives_up_what_idles_too(client, stores, eye):
    """
    What other threads have prepared is as old, and each of it would fail one more transaction.
    """
    entries, queue = stores
    entries.put("k", "value")
    used, finish = threading.Event(), threading.Event()

    def use():
        entries.get("k")
        used.set()
        finish.wait(20)

    def idle():
        return sum(len(slot.free) for slot in client.executor(blocking=True).pool._slots)

    thread = threading.Thread(target=use)
    thread.start()
    assert used.wait(20)
    entries.get("k")
    eye.rows("DROP VIEW pgstore.dict_items, pgstore.store_sizes")
    with pytest.raises(StoreUnavailable, match="cached plan"), client.transaction():
        queue.put("item")
        assert idle() == 1
        eye.rows("ALTER TABLE pgstore.dict_entry ALTER COLUMN value TYPE bytea")
        entries.get("k")

    assert idle() == 0
    assert eye.items() == 0
    assert entries.get("k") == "value"
    finish.set()
    thread.join()


# ------------------------------------------------------------------------------------------------------ transactions


def test_a_transaction_that_loses_its_connection_commits_nothing(call, client, proxy, stores, eye):
    entries, queue = stores

    with pytest.raises(StoreUnavailable, match="nothing of which was committed") as caught:
        transact(call, client, (queue.put, "item"), lambda tx: proxy.cut(), (entries.put, "k", 2))

    assert not isinstance(caught.value, OutcomeUnknown)
    assert eye.items() == 0
    assert call(entries.get, "k") == 1


def test_a_transaction_that_had_done_nothing_yet_takes_another_connection(call, client, proxy, stores, eye):
    entries, queue = stores

    proxy.cut()
    transact(call, client, (queue.put, "a"), (entries.put, "k", 2))
    proxy.cut_after(from_server=0)
    transact(call, client, (queue.put, "b"), (entries.put, "k", 3))

    assert eye.items() == 2
    assert call(entries.get, "k") == 3


def test_a_nested_transaction_may_be_the_first_to_need_a_connection(client, proxy, own_database):
    """
    Its savepoint needs a BEGIN, and that has nothing to lose.
    """
    entries = pgstore.Dict.persist("entries", client=client)
    entries["k"] = 1

    proxy.cut()
    with client.transaction(), client.transaction():
        entries["k"] = 2
    proxy.cut()
    with client.transaction() as tx:
        assert tx.connection.execute("SELECT 1").fetchone() == (1,)

    assert entries["k"] == 2


def test_a_commit_whose_answer_is_lost_is_found_to_have_happened(call, client, proxy, stores, eye):
    """
    No error: the work is done, and whoever did it again would do it twice.
    """
    entries, _ = stores

    transact(call, client, (entries.put, "k", 2), (entries.put, "l", 2), lambda tx: proxy.cut_after(from_server=0))
    proxy.wait_for_cut()

    assert call(entries.items) == [("k", 2), ("l", 2)]


def test_what_is_said_of_a_lost_commit_is_true(call, client, proxy, stores, eye):
    """
    A commit that also wakes somebody is sent in two pieces, so that a cut may fall between them.
    """
    _, queue = stores
    committed = 0

    for _ in range(10):
        try:
            transact(call, client, (queue.put, "item"), lambda tx: proxy.cut_after(from_server=0))
            committed += 1
        except OutcomeUnknown:
            raise
        except StoreUnavailable:
            pass
        proxy.wait_for_cut()
        assert eye.items() == committed


def test_it_is_found_also_if_the_first_write_came_late(call, client, proxy, stores):
    """
    The transaction's number is asked for with its first write, wherever that stands.
    """
    entries, _ = stores

    transact(call, client, (entries.get, "k"), (entries.put, "k", 2), lambda tx: proxy.cut_after(from_server=0))
    proxy.wait_for_cut()

    assert call(entries.get, "k") == 2


def test_it_is_found_also_if_several_statements_were_the_first_to_write(call, client, proxy, eye):
    """
    Their number comes back in the same round trip.
    """
    queue = QueueOfPairs.persist("queue", client=client)
    call(queue.put_twice, "warm")

    transact(call, client, (queue.put_twice, "item"), lambda tx: proxy.cut_after(from_server=0))
    proxy.wait_for_cut()

    assert eye.items() == 4


def test_it_is_found_also_for_sql_of_the_callers(client, proxy, own_database, eye):
    """
    pgstore sees nothing of what they write, so it asks before it commits.
    """
    eye.rows("CREATE TABLE mine (n integer)")
    reads = pgstore.Dict.persist("entries", client=client)
    reads.get("k")

    with client.transaction() as tx:
        tx.connection.execute("INSERT INTO mine VALUES (1)")
        # The answer to the question passes, that to COMMIT does not.
        original = tx.root.connection.commit_with
        tx.root.connection.commit_with = lambda *args: (proxy.cut_after(from_server=0), original(*args))[1]
    proxy.wait_for_cut()

    assert eye.value("SELECT count(*) FROM mine") == 1


def test_a_commit_that_never_arrived_is_found_not_to_have_happened(call, client, proxy, stores, eye):
    entries, queue = stores

    with pytest.raises(StoreUnavailable, match="rolled back") as caught:
        transact(call, client, (queue.put, "item"), (entries.put, "k", 2), lambda tx: proxy.cut_after(from_client=0))

    assert not isinstance(caught.value, OutcomeUnknown)
    assert eye.items() == 0
    assert call(entries.get, "k") == 1


def test_a_lost_commit_of_a_transaction_that_only_read_is_no_error(call, client, proxy, stores):
    entries, queue = stores

    transact(call, client, (entries.get, "k"), (queue.get, False), lambda tx: proxy.cut_after(from_server=0))
    proxy.wait_for_cut()


def test_a_lost_commit_is_unknown_if_the_server_cannot_be_asked(call, client, proxy, stores, eye, monkeypatch, caplog):
    """
    Not merely unavailable: that would say that nothing was done, and the caller would do it again.
    """
    entries, _ = stores
    monkeypatch.setattr(executor, "RECONNECT_SECONDS", 0.0)

    def lose(tx):
        proxy.refuse()
        proxy.cut_after(from_server=0)

    with pytest.raises(OutcomeUnknown, match="cannot be found out"):
        transact(call, client, (entries.put, "k", 2), lose)
    proxy.accept()

    assert call(entries.get, "k") == 2
    assert "whether a transaction was committed is unknown" in caplog.text


def test_run_transaction_does_it_again_after_a_lost_connection_and_not_after_an_unknown_outcome(
    client, proxy, monkeypatch
):
    entries = pgstore.Dict.persist("entries", client=client)
    attempts = []

    def work(tx):
        attempts.append(1)
        entries["attempts"] = len(attempts)
        if len(attempts) == 1:
            proxy.cut()
        entries["last"] = len(attempts)

    client.run_transaction(work)
    assert entries.items() == [("attempts", 2), ("last", 2)]
    monkeypatch.setattr(executor, "RECONNECT_SECONDS", 0.0)

    def lose(tx):
        work(tx)
        proxy.refuse()
        proxy.cut_after(from_server=0)

    with pytest.raises(OutcomeUnknown):
        client.run_transaction(lose)
    proxy.accept()
    assert entries.items() == [("attempts", 3), ("last", 3)]


def test_run_transaction_also_repeats_what_the_callers_own_sql_ran_into(client, own_database):
    """
    psycopg's errors come out of their statements, and mean the same.
    """
    attempts = []

    def work(tx):
        attempts.append(1)
        if len(attempts) < 3:
            tx.connection.execute("DO $$ BEGIN RAISE 'again' USING ERRCODE = '40P01'; END $$")
        return len(attempts)

    assert client.run_transaction(work) == 3


# ----------------------------------------------------------------------------------------------- terminated backends


def test_after_all_backends_were_terminated_operations_work(call, client, stores, eye):
    entries, queue = stores

    assert eye.terminate_all()
    assert call(entries.get, "k") == 1
    assert eye.terminate_all()
    call(queue.put, "item")
    assert eye.terminate_all()
    assert call(queue.get) == "item"


def test_a_waiting_get_outlives_its_backends_and_loses_nothing(call, client, stores, eye):
    """
    The listening connection is gone too: it is made again, and what came meanwhile is looked for.
    """
    _, queue = stores
    getting = Background(call, queue.get)
    until(eye.waiting)

    assert eye.terminate_all() >= 2
    with pgstore.Client(eye.url) as other:
        pgstore.Queue.persist("queue", client=other).put("item")

    assert getting.result() == "item"
    assert eye.items() == 0


def test_a_waiting_get_is_woken_again_once_it_listens_again(call, client, stores, eye):
    _, queue = stores
    getting = Background(call, queue.get)
    until(eye.waiting)
    eye.terminate_all()
    until(eye.waiting)

    with pgstore.Client(eye.url) as other:
        pgstore.Queue.persist("queue", client=other).put("item")

    assert getting.result(5.0) == "item"


# ------------------------------------------------------------------------------------------------------- open files


@pytest.mark.parametrize("side", ["from_client", "from_server"])
def test_a_file_that_is_written_survives_lost_connections(call, client, proxy, side):
    """
    Contents that nobody sees yet have ids of their own: whether a part of them arrived is found out, and it is sent again.
    """
    volume = pgstore.Volume.from_name("v", create_if_missing=True, client=client)
    data = os.urandom(23 * 1024 * 1024)

    async def write():
        async with volume.open.aio("file", "wb") as file:
            for start in range(0, len(data), 1024 * 1024):
                if start % (5 * 1024 * 1024) == 0 and start:
                    proxy.cut_after(**{side: 0 if side == "from_server" else 3_000_000})
                await file.write(data[start : start + 1024 * 1024])

    if call.form == "aio":
        call.run(write())
    else:
        with volume.open("file", "wb") as file:
            for start in range(0, len(data), 1024 * 1024):
                if start % (5 * 1024 * 1024) == 0 and start:
                    proxy.cut_after(**{side: 0 if side == "from_server" else 3_000_000})
                file.write(data[start : start + 1024 * 1024])

    assert proxy.connections_cut >= 3
    assert b"".join(call.iterate(volume.read_file("file"))) == data


@pytest.mark.parametrize("side", ["from_client", "from_server"])
@pytest.mark.parametrize(
    "options",
    [{}, {"partition_ttl": 60}, {"delay": 0.001, "ordered": True}, {"durable": False}],
    ids="+".join,
)
def test_a_put_with_a_key_is_done_once_whether_the_request_or_the_answer_was_lost(
    call, stores, proxy, eye, side, options
):
    _, queue = stores
    call(queue.put, "warm", idempotency_key="warm", **options)
    assert call(queue.get) == "warm"

    proxy.cut_after(**{side: 0})
    call(queue.put, "item", idempotency_key="k", **options)
    proxy.wait_for_cut()

    assert call(queue.get, timeout=20) == "item"
    assert eye.items() == 0


@pytest.mark.parametrize("side", ["from_client", "from_server"])
@pytest.mark.parametrize("size", [0, 60, 150, 300, 450])
@pytest.mark.parametrize("kind", ["bounded", "several statements"])
def test_a_put_with_a_key_in_a_transaction_of_its_own_is_done_once_wherever_it_was_cut(
    call, client, proxy, eye, monkeypatch, side, size, kind
):
    monkeypatch.setattr("pgstore.queue.put.BATCH_ITEMS", 2)
    queue = pgstore.Queue.persist("b", client=client, maxsize=10 if kind == "bounded" else None)
    call(queue.put_many, [1, 2, 3], idempotency_key="warm")
    assert call(queue.get_many, 5) == [1, 2, 3]

    proxy.cut_after(**{side: size})
    call(queue.put_many, ["a", "b", "c"], idempotency_key="k")

    assert eye.items() == 3
    proxy.cut_after()
    assert call(queue.get_many, 10) == ["a", "b", "c"]


@pytest.mark.parametrize("side", ["from_client", "from_server"])
def test_a_small_file_is_put_once_whether_the_request_or_the_answer_was_lost(call, client, proxy, side):
    """
    Its inode has a number of its own, by which the second call finds whether the first has done it.
    """
    volume = pgstore.Volume.from_name("v", create_if_missing=True, client=client)
    call(volume.put_file, io.BytesIO(b"0"), "file")

    proxy.cut_after(**{side: 0})
    call(volume.put_file, io.BytesIO(b"1"), "file")
    proxy.wait_for_cut()

    assert b"".join(call.iterate(volume.read_file("file"))) == b"1"
    contents = [b"".join(volume.at(version.version).read_file("file")) for version in volume.versions()]
    assert contents == [b"1", b"0"]


def test_a_file_that_is_read_survives_lost_connections(call, client, proxy):
    """
    Also one that is read by COPY, which begins again.
    """
    volume = pgstore.Volume.from_name("v", create_if_missing=True, client=client)
    data = os.urandom(23 * 1024 * 1024)
    call(volume.put_file, io.BytesIO(data), "file")
    target = io.BytesIO()

    proxy.cut_after(from_server=5_000_000)
    call(volume.get_file, "file", target)
    assert target.getvalue() == data
    proxy.cut_after(from_server=5_000_000)
    assert b"".join(call.iterate(volume.read_file("file"))) == data

    assert proxy.connections_cut == 2


def test_a_write_in_place_whose_answer_is_lost_is_not_done_again(call, client, proxy):
    """
    Another may have written there meanwhile, or appended.
    """
    nfs = pgstore.NetworkFileSystem.from_name("n", create_if_missing=True, client=client)
    with nfs.open("file", "ab", buffering=0) as file:
        file.write(b"a" * 100_000)
        proxy.cut_after(from_server=0)
        with pytest.raises(OutcomeUnknown):
            file.write(b"b")

    assert len(b"".join(nfs.read_file("file"))) in (100_000, 100_001)


@pytest.mark.parametrize("kind", ["entry", "item", "items", "pair"])
def test_what_a_server_that_was_told_to_end_has_not_answered_is_done_again(
    call, client, stores, proxy, eye, own_database, kind
):
    """
    Its last words arrive after the statement was sent, and say that it was not done.
    """
    entries, queue = stores
    pairs = QueueOfPairs.from_name("queue", client=client)
    writes = {
        "entry": (lambda number: call(entries.increment, "n"), lambda: entries["n"]),
        "item": (lambda number: call(queue.put, number), queue.len),
        "items": (lambda number: call(queue.put_many, [number]), queue.len),
        "pair": (lambda number: call(pairs.put_twice, number), lambda: queue.len() // 2),
    }
    write, count = writes[kind]
    write(0)
    for number in range(1, 4):
        proxy.delay_seconds = 0.1
        eye.terminate_all()
        write(number)
        proxy.delay_seconds = 0.0

    assert count() == 4


def test_what_is_sent_after_the_last_words_of_a_server_is_done_again(call, client, stores, proxy, eye):
    """
    They arrive between two statements, and the end of the connection a moment later, when the next was sent already.
    """
    entries, queue = stores
    writes = (
        lambda: call(queue.put, "item"),
        lambda: call(entries.increment, "n"),
        lambda: transact(call, client, (queue.put, "item"), (entries.increment, "n")),
    )
    proxy.hides_ends = True
    for write in writes:
        said = proxy.bytes_from["server"]
        eye.terminate_all()
        until(lambda: proxy.bytes_from["server"] > said)  # noqa: B023
        write()

    assert eye.items() == 2
    assert entries["n"] == 2


def test_a_connection_may_break_wherever_it_is_being_set_up(call, client, stores, proxy):
    """
    Each step of it is tried again, like the call that wants the connection.
    """
    entries, _ = stores
    size = proxy.bytes_from["server"]
    proxy.cut()
    call(entries.get, "k")
    size = proxy.bytes_from["server"] - size
    for left in range(0, size, max(1, size // 25)):
        proxy.cut()
        proxy.cut_after(from_server=left)
        try:
            call(entries.get, "k")
        except pgstore.Error:
            continue
    proxy.cut_after()
    assert call(entries.get, "k") == 1


# ------------------------------------------------------------------------------------------- connections of the caller's


def join_by_psycopg(url):
    return psycopg.connect(url)


def join_by_sqlalchemy(url):
    connection = sqlalchemy.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool
    ).connect()
    connection.begin()
    return connection


def join_by_a_session(url):
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    session = Session(engine)
    session.execute(sqlalchemy.text("SELECT 1"))
    return session


@pytest.mark.parametrize("moment", ["joining", "first write", "later write", "leaving", "leaving an inner block"])
@pytest.mark.parametrize("connect", [join_by_psycopg, join_by_sqlalchemy, join_by_a_session])
def test_a_connection_of_the_callers_that_breaks_is_told_by_an_error_of_ours(own_database, eye, connect, moment):
    """
    Whatever statement notices it: programs that handle `StoreUnavailable` need not know what their connection is made of.
    """
    with pgstore.Client(own_database) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        connection = connect(own_database)

        def use():
            with client.transaction(connection=connection):
                if moment == "first write":
                    eye.terminate_all()
                entries["k"] = 1
                with client.transaction():
                    if moment == "later write":
                        eye.terminate_all()
                    entries["l"] = 1
                    if moment == "leaving an inner block":
                        eye.terminate_all()
                if moment == "leaving":
                    eye.terminate_all()

        entries.hydrate()
        if moment == "joining":
            eye.terminate_all()
        with pytest.raises(StoreUnavailable):
            use()
        with contextlib.suppress(Exception):
            connection.close()

        assert entries.items() == []


@pytest.mark.parametrize("moment", ["joining", "write", "leaving"])
def test_an_asynchronous_connection_of_the_callers_that_breaks_is_told_by_an_error_of_ours(own_database, eye, moment):
    async def use(client, entries):
        connection = await psycopg.AsyncConnection.connect(own_database)
        try:
            await entries.hydrate.aio()
            if moment == "joining":
                eye.terminate_all()
            async with client.transaction(connection=connection):
                if moment == "write":
                    eye.terminate_all()
                await entries.put.aio("k", 1)
                if moment == "leaving":
                    eye.terminate_all()
        finally:
            await connection.close()

    with pgstore.Client(own_database) as client:
        entries = pgstore.Dict.persist("entries", client=client)

        with pytest.raises(StoreUnavailable):
            asyncio.run(use(client, entries))

        assert entries.items() == []
