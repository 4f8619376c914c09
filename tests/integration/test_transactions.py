"""Transactions over all stores: ambient, nested, joined; whose they are; what they hold back until they commit."""

from __future__ import annotations

import asyncio
import contextvars
import io
import threading

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import pgstore
from pgstore import connection
from pgstore.client.executor import Executor
from pgstore.connection.base import Connection
from pgstore.core.operation import Many, Query, atomic
from pgstore.errors import SchemaMissing, StatementFailed, TransactionFailed
from pgstore.queue.put import PUT_WITHOUT_NOTIFY
from pgstore.serializers import dumps


@pytest.fixture
def stores(client, store_name):
    return (
        pgstore.Dict.persist(store_name, client=client).hydrate(),
        pgstore.Queue.persist(store_name, client=client).hydrate(),
    )


@pytest.fixture
def stores_elsewhere(client_elsewhere, store_name):
    return (
        pgstore.Dict.persist(store_name, client=client_elsewhere),
        pgstore.Queue.persist(store_name, client=client_elsewhere),
    )


class Oops(Exception):
    """What a caller's code raises."""


# ------------------------------------------------------------------------------------------------------------ ambient


def test_a_transaction_commits_all_stores_together(client, stores, stores_elsewhere):
    entries, queue = stores
    entries_elsewhere, queue_elsewhere = stores_elsewhere

    with client.transaction():
        entries["k"] = 1
        queue.put("item")
        assert entries["k"] == 1
        assert "k" not in entries_elsewhere
        assert queue_elsewhere.len() == 0

    assert entries_elsewhere["k"] == 1
    assert queue_elsewhere.get() == "item"


def test_an_exception_undoes_every_store_and_is_passed_on(client, stores):
    entries, queue = stores
    queue.put("old")

    with pytest.raises(Oops), client.transaction():
        entries["k"] = 1
        queue.put("new")
        assert queue.get() == "old"
        raise Oops

    assert "k" not in entries
    assert queue.get_many(10) == ["old"]


def test_asynchronous_transactions_do_the_same(client, stores):
    entries, queue = stores

    async def work():
        async with client.transaction():
            await entries.put.aio("kept", 1)
            await queue.put.aio("item")
        with pytest.raises(Oops):
            async with client.transaction():
                await entries.put.aio("undone", 1)
                assert await queue.get.aio() == "item"
                raise Oops
        await client.aclose()

    asyncio.run(work())

    assert entries.items() == [("kept", 1)]
    assert queue.get_many(10) == ["item"]


def test_a_callers_own_sql_commits_and_rolls_back_with_the_stores(client, stores, sql, store_name):
    entries, _ = stores
    sql("CREATE TABLE IF NOT EXISTS orders (id text)")

    with client.transaction() as tx:
        tx.connection.execute("INSERT INTO orders VALUES (%s)", [store_name])
        entries["k"] = 1
    with pytest.raises(Oops), client.transaction() as tx:
        entries["k"] = 2
        tx.connection.execute("INSERT INTO orders VALUES (%s)", [store_name])
        raise Oops

    assert sql("SELECT count(*) FROM orders WHERE id = %s", store_name) == [(1,)]
    assert entries["k"] == 1


def test_the_connection_works_on_after_the_caller_has_used_it(client, stores):
    """
    psycopg may have deallocated our prepared statements, and the caller may have changed settings.
    """
    entries, _ = stores
    entries["k"] = 1

    for _ in range(3):
        with client.transaction() as tx:
            tx.connection.execute("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1")
            tx.connection.execute("DEALLOCATE ALL")
            entries["k"] += 1
        assert entries["k"] > 1

    assert entries["k"] == 4


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "END"])
def test_nothing_more_is_done_in_a_block_that_sql_has_ended(client, stores, stores_elsewhere, ending):
    """
    Each statement after it would be committed by itself, where the block promises all or nothing.
    """
    _, queue = stores
    queue.put("item")

    with pytest.raises(pgstore.TransactionScopeError, match="within its block"):
        with client.transaction() as tx:
            tx.connection.execute(ending)
            for late in (queue.get, lambda: tx.connection, client.transaction().__enter__):
                with pytest.raises(pgstore.TransactionScopeError, match="The end of the block commits"):
                    late()

    assert queue.len() == 1
    assert not stores_elsewhere[0]


def test_a_block_ended_by_psycopgs_commit_says_that_it_cannot_be_undone(client, stores, caplog):
    entries, _ = stores

    with pytest.raises(Oops), client.transaction() as tx:
        entries["k"] = 1
        tx.connection.commit()
        raise Oops

    assert entries["k"] == 1
    assert "cannot be rolled back" in caplog.text


def test_nothing_more_is_done_in_an_asynchronous_block_that_sql_has_ended(client, stores):
    entries, _ = stores

    async def block():
        async with client.transaction() as tx:
            await (await tx.get_connection()).commit()
            await entries.put.aio("k", 1)

    with pytest.raises(pgstore.TransactionScopeError, match="within its block"):
        asyncio.run(block())

    assert entries.get("k") is None


def test_asynchronous_transactions_give_their_connection_too(client, stores):
    entries, _ = stores

    async def work():
        async with client.transaction() as tx:
            connection = await tx.get_connection()
            await entries.put.aio("k", 1)
            cursor = await connection.execute("SELECT count(*) FROM pgstore.dict_entry WHERE key = 'k'")
            assert (await cursor.fetchone())[0] >= 1
            await entries.put.aio("k", 2)
        await client.aclose()

    asyncio.run(work())

    assert entries["k"] == 2


def test_begin_is_sent_with_the_first_statement(client, stores):
    """
    A transaction that does nothing costs nothing, and one that waits first holds nothing open.
    """
    entries, _ = stores

    with client.transaction() as tx:
        assert not tx.root.begun
        entries.get("k")
        assert tx.root.begun


def test_begin_and_several_queries_that_write_are_one_round_trip(client, stores, monkeypatch):
    """
    With BEGIN goes all that is known then, and the transaction's number comes back: COMMIT is the second.
    """
    _, queue = stores
    trips = []
    original = connection.BlockingConnection._drive

    def drive(connection, io, taking=None):
        trips.append(io.__name__)
        return original(connection, io, taking)

    monkeypatch.setattr(connection.BlockingConnection, "_drive", drive)
    monkeypatch.setattr(connection.BlockingConnection, "execute", connection.Connection.execute)
    store_id = int(queue.object_id.removeprefix("qu-"))
    puts = [Query(PUT_WITHOUT_NOTIFY, store_id, "", dumps(item, "item")) for item in "ab"]

    def put():
        return (yield Many(puts))

    assert client.run(atomic(put())) == [1, 1]

    assert trips == ["_in_transaction", "_commit_with"]
    assert queue.get_many(3) == ["a", "b"]


# ------------------------------------------------------------------------------------------------------------- nested


def test_an_inner_block_is_a_savepoint(client, stores):
    entries, queue = stores

    with client.transaction():
        entries["outer"] = 1
        with pytest.raises(Oops), client.transaction():
            entries["inner"] = 1
            queue.put("undone")
            raise Oops
        with client.transaction():
            entries["kept"] = 1
            queue.put("kept")

    assert entries.keys() == ["kept", "outer"]
    assert queue.get_many(10) == ["kept"]


def test_an_inner_block_survives_an_error_of_the_server(client, stores):
    entries, _ = stores

    with client.transaction() as tx:
        entries["a"] = 1
        with pytest.raises(psycopg.errors.DivisionByZero), client.transaction():
            tx.connection.execute("SELECT 1 / 0")
        entries["b"] = 2

    assert entries.keys() == ["a", "b"]


def test_after_a_failed_statement_the_transaction_says_that_it_can_only_be_rolled_back(client, stores):
    entries, _ = stores

    with pytest.raises(TransactionFailed, match="rolled back"), client.transaction() as tx:
        entries["a"] = 1
        with pytest.raises(psycopg.errors.DivisionByZero):
            tx.connection.execute("SELECT 1 / 0")
        entries["b"] = 2

    assert "a" not in entries


def test_a_swallowed_error_does_not_commit_half_a_transaction(client, stores):
    entries, _ = stores

    with pytest.raises(TransactionFailed, match="rolled back"), client.transaction() as tx:
        entries["a"] = 1
        with pytest.raises(psycopg.errors.DivisionByZero):
            tx.connection.execute("SELECT 1 / 0")

    assert "a" not in entries


# --------------------------------------------------------------------------------------------------------- whose it is


def test_a_plain_new_thread_is_outside_the_transaction(client, stores):
    entries, _ = stores
    seen = []

    with client.transaction():
        entries["k"] = 1
        thread = threading.Thread(target=lambda: seen.append("k" in entries))
        thread.start()
        thread.join()

    assert seen == [False]


def test_a_copied_context_in_another_thread_is_refused(client, stores):
    entries, _ = stores
    seen = []

    def read():
        try:
            entries.get("k")
        except pgstore.TransactionScopeError as exc:
            seen.append(exc)

    with client.transaction():
        entries["k"] = 1
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(read,))
        thread.start()
        thread.join()

    assert "another thread or task" in str(seen[0])


def test_a_child_task_is_refused_and_using_lets_it_in(client, stores):
    entries, _ = stores

    async def work():
        async with client.transaction() as tx:
            with pytest.raises(pgstore.TransactionScopeError, match="another thread or task"):
                await asyncio.create_task(entries.put.aio("k", 1))
            await asyncio.gather(*(asyncio.create_task(entries.using(tx).put.aio(i, i)) for i in range(20)))
        await client.aclose()

    asyncio.run(work())

    assert entries.len() == 20


def test_using_works_from_threads_one_at_a_time(client, stores):
    entries, _ = stores

    with client.transaction() as tx:
        bound = entries.using(tx)
        threads = [threading.Thread(target=bound.put, args=(i, i)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert entries.len() == 20
    with pytest.raises(pgstore.InvalidError, match="not open"):
        bound.put("late", 1)


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_the_wrong_form_is_refused(client, stores):
    entries, _ = stores

    async def work():
        async with client.transaction():
            with pytest.raises(pgstore.TransactionScopeError, match="event loop"):
                entries.put("k", 1)
        with client.transaction():
            with pytest.raises(pgstore.TransactionScopeError, match="asynchronous call inside a blocking"):
                await entries.put.aio("k", 1)
        await client.aclose()

    asyncio.run(work())


def test_a_transaction_object_is_used_once(client):
    tx = client.transaction()
    with tx:
        pass
    with pytest.raises(pgstore.InvalidError, match="once"), tx:
        pass


def test_an_iterator_belongs_to_the_transaction_in_which_it_was_made(client, stores):
    entries, _ = stores
    with client.transaction():
        entries["k"] = 1
        inside = entries.iterate_keys()
        assert list(inside) == ["k"]
        late = entries.iterate_keys()

    with pytest.raises(pgstore.InvalidError, match="not open"):
        list(late)


# ---------------------------------------------------------------------------------------------------- run_transaction


def test_run_transaction_repeats_the_function_after_a_serialization_failure(client, stores, sql, store_name):
    entries, _ = stores
    attempts = []

    def work(tx):
        attempts.append(1)
        entries["k"] = len(attempts)
        if len(attempts) < 3:
            tx.connection.execute("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")
        return "done"

    def work_with_our_error(tx):
        try:
            return work(tx)
        except psycopg.errors.SerializationFailure as exc:
            raise pgstore.errors.SerializationConflict("again") from exc

    assert client.run_transaction(work_with_our_error) == "done"
    assert entries["k"] == 3


def test_run_transaction_repeats_the_function_after_a_conflict(client, client_elsewhere, store_name):
    """
    Another's commit came between, which says nothing about this one.
    """
    volume = pgstore.Volume.from_name(store_name, create_if_missing=True, client=client)
    elsewhere = pgstore.Volume.from_name(store_name, client=client_elsewhere)
    volume.put_file(io.BytesIO(b"1"), "d/old")
    calls = []

    def work(tx):
        calls.append(tx)
        volume.put_file(io.BytesIO(b"2"), "d/new")
        if len(calls) == 1:
            elsewhere.remove_file("d", recursive=True)

    client.run_transaction(work)

    assert len(calls) == 2
    assert volume.exists("d/new")


def test_run_transaction_takes_a_function_of_no_argument(call, client, stores):
    entries, _ = stores

    async def work():
        return await entries.put.aio("k", 1)

    if call.form == "blocking":
        assert client.run_transaction(lambda: entries.put("k", 1))
        assert client.run_transaction(lambda tx=None: tx) is not None
        with pytest.raises(TypeError):
            client.run_transaction(lambda one, two: None)
    else:
        assert call.run(client.run_transaction_async(work))

    assert entries["k"] == 1


def test_run_transaction_does_not_repeat_other_errors(client):
    attempts = []

    def work(tx):
        attempts.append(1)
        raise Oops

    with pytest.raises(Oops):
        client.run_transaction(work)
    assert attempts == [1]


# ------------------------------------------------------------------------------------------------------------- joined


def test_stores_join_a_psycopg_transaction(client, stores, database):
    entries, queue = stores

    with psycopg.connect(database) as connection:
        with client.transaction(connection=connection):
            entries["k"] = 1
            queue.put("item")
        assert "k" not in entries
        connection.rollback()
        assert queue.len() == 0
        with client.transaction(connection=connection):
            entries["k"] = 2
        connection.commit()

    assert entries["k"] == 2


def test_stores_join_an_asynchronous_psycopg_transaction(client, stores, database):
    entries, queue = stores

    async def work():
        async with await psycopg.AsyncConnection.connect(database) as connection:
            async with client.transaction(connection=connection):
                await entries.put.aio("undone", 1)
                await queue.put.aio("undone")
            await connection.rollback()
            async with client.transaction(connection=connection):
                await entries.put.aio("kept", 1)
                with pytest.raises(Oops):
                    async with client.transaction():
                        await entries.put.aio("inner", 1)
                        raise Oops
            await connection.commit()
        await client.aclose()

    asyncio.run(work())

    assert entries.items() == [("kept", 1)]
    assert queue.len() == 0


def test_a_connection_in_autocommit_is_joined_only_inside_a_transaction(client, stores, database):
    entries, _ = stores

    with psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(pgstore.InvalidError, match="autocommit"), client.transaction(connection=connection):
            pass
        with connection.transaction(), client.transaction(connection=connection):
            entries["k"] = 1

    assert entries["k"] == 1


@pytest.fixture
def engine(database):
    engine = sqlalchemy.create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


def test_stores_join_a_sqlalchemy_session(client, stores, engine, sql, store_name):
    entries, queue = stores
    table = sqlalchemy.Table(
        f"t-{store_name}", sqlalchemy.MetaData(), sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True)
    )
    table.create(engine)

    with Session(engine) as session:
        session.execute(table.insert().values(id=1))
        with client.transaction(connection=session):
            entries["k"] = 1
            queue.put("item")
        session.rollback()
        assert entries.len() == 0
        session.execute(table.insert().values(id=2))
        with client.transaction(connection=session):
            entries["k"] = 2
            session.commit()
            entries["after the commit"] = 3  # a new transaction of the session
        session.commit()

    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.select(table.c.id)).all() == [(2,)]
    assert dict(entries.items()) == {"k": 2, "after the commit": 3}


def test_stores_join_a_sqlalchemy_connection(client, stores, engine):
    entries, _ = stores

    with engine.connect() as connection:
        with client.transaction(connection=connection):
            entries["undone"] = 1
        connection.rollback()
    with engine.begin() as connection, client.transaction(connection=connection):
        entries["kept"] = 1

    assert entries.keys() == ["kept"]


def test_stores_join_an_asynchronous_sqlalchemy_session(client, stores, database):
    entries, queue = stores

    async def work():
        engine = create_async_engine(database.replace("postgresql:", "postgresql+psycopg:"))
        async with AsyncSession(engine) as session:
            async with client.transaction(connection=session):
                await entries.put.aio("undone", 1)
            await session.rollback()
            async with client.transaction(connection=session):
                await entries.put.aio("kept", 1)
                await queue.put.aio("item")
            await session.commit()
        await engine.dispose()
        await client.aclose()

    asyncio.run(work())

    assert entries.keys() == ["kept"]
    assert queue.get() == "item"


def test_what_was_begun_in_a_transaction_says_why_it_ended_with_it(client, store_name):
    """
    A view that returns an iterator has it read by its framework, when the transaction around the view has ended.
    """
    files = pgstore.Volume.persist(store_name, client=client)
    files.write_text("a", "text")

    with client.transaction() as tx:
        contents = files.read_file("a")
        file = files.open("a")
        used = files.using(tx)

    for read in (lambda: list(contents), file.read, lambda: used.read_text("a")):
        with pytest.raises(pgstore.InvalidError, match="ended> is not open any more.* begin it outside"):
            read()
    with pytest.raises(pgstore.InvalidError, match="enter it by `with`"):
        files.using(client.transaction()).read_text("a")


def test_a_connection_of_another_driver_is_refused_by_name(client):
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        with pytest.raises(pgstore.InvalidError, match="sqlite3"), client.transaction(connection=connection):
            pass
    engine.dispose()
    with pytest.raises(pgstore.InvalidError, match="builtins.str"):
        client.transaction(connection="postgresql://")


def test_a_connection_to_another_database_is_refused(client, stores, own_database):
    """
    Its store ids mean other stores there.
    """
    entries, _ = stores
    entries["k"] = 1
    other = pgstore.Client(own_database)
    other.run(pgstore.Dict.persist("x", client=other)._resolve_id())
    other.close()
    with psycopg.connect(own_database) as connection:
        connection.execute("UPDATE pgstore.installation SET id = gen_random_uuid()")
        with pytest.raises(pgstore.InvalidError, match="another database"), client.transaction(connection=connection):
            pass


@pytest.mark.parametrize("form", ["blocking", "aio"])
def test_joining_makes_the_schema_on_first_use(empty_database, form):
    """
    A web process may well join a transaction of its framework's before it does anything else.
    """

    def place_order():
        with psycopg.connect(empty_database) as connection:
            connection.execute("CREATE TABLE own (name text)")
            with client.transaction(connection=connection):
                queue.put("item")
            connection.execute("INSERT INTO own VALUES ('kept')")

    async def place_order_async():
        async with await psycopg.AsyncConnection.connect(empty_database) as connection:
            await connection.execute("CREATE TABLE own (name text)")
            async with client.transaction(connection=connection):
                await queue.put.aio("item")
            await connection.execute("INSERT INTO own VALUES ('kept')")

    with pgstore.Client(empty_database) as client:
        queue = pgstore.Queue.persist("first", client=client)
        place_order() if form == "blocking" else asyncio.run(place_order_async())

        assert queue.get() == "item"
        with client.transaction() as tx:
            assert tx.connection.execute("SELECT name FROM own").fetchall() == [("kept",)]


def test_a_schema_that_may_not_be_made_leaves_the_joined_transaction_usable(empty_database):
    """
    To look for tables that are missing would have ended it; and the caller may be able to do without.
    """
    client = pgstore.Client(empty_database, auto_migrate=False)
    with client, psycopg.connect(empty_database) as connection:
        connection.execute("CREATE TABLE own (name text)")

        with pytest.raises(SchemaMissing, match="pgstore migrate"), client.transaction(connection=connection):
            pass

        assert connection.execute("SELECT count(*) FROM own").fetchone() == (0,)


def test_a_connection_to_a_database_without_the_schema_is_told_from_the_clients(client, stores, empty_database):
    """
    Frameworks make databases for tests, and pgstore is not told of them.
    """
    entries, _ = stores
    entries["k"] = 1
    name = empty_database.rpartition("/")[2]
    with psycopg.connect(empty_database) as connection:
        with pytest.raises(SchemaMissing, match=f"'{name}', .* a connection to 'shared'"):
            with client.transaction(connection=connection):
                pass


def test_joining_asks_for_the_right_kind_of_with(client, database):
    with psycopg.connect(database) as connection:

        async def wrong():
            async with client.transaction(connection=connection):
                pass

        with pytest.raises(pgstore.InvalidError, match="use `with`"):
            asyncio.run(wrong())


def test_nothing_of_a_joined_connection_is_changed(client, stores, database):
    entries, queue = stores

    with psycopg.connect(database) as connection:
        # Those of plpgsql come with its first function.
        settings = (
            "SELECT name, setting FROM pg_settings WHERE name !~ '^(transaction_isolation|plpgsql)' ORDER BY name"
        )
        before = connection.execute(settings).fetchall()
        with client.transaction(connection=connection):
            for _ in range(10):
                entries["k"] = 1
                queue.put("item")
                queue.get()
        connection.commit()

        assert connection.execute(settings).fetchall() == before
        names = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
        assert not [name for (name,) in names if name.startswith("pgstore")]


def test_an_error_of_the_server_has_its_code(client, stores):
    entries, _ = stores
    with pytest.raises(StatementFailed) as caught, client.transaction() as tx:
        tx.connection.execute("SET LOCAL statement_timeout = '50ms'")
        with psycopg.connect(client.settings.url) as blocker:
            blocker.execute("LOCK TABLE pgstore.dict_entry")
            entries["k"] = 1
    assert caught.value.sqlstate == "57014"


def test_the_texts_of_statements_do_not_grow_with_the_transactions(client, store_name, monkeypatch):
    """
    A server that counts statements keeps a line for each text, and forgets those of others.
    """
    store = pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)
    store.update({f"k{number}": number for number in range(2000)})
    texts: set[str] = set()
    declare, command = Executor._declare, Connection.command

    def declared(executor, request, transaction):
        cursor = yield from declare(executor, request, transaction)
        texts.add(cursor.name)
        texts.add(cursor.fetch(1).statement.sql.decode())
        return cursor

    def commanded(connection, text):
        texts.add(text)
        return command(connection, text)

    monkeypatch.setattr(Executor, "_declare", declared)
    monkeypatch.setattr(Connection, "command", commanded)

    def work():
        with client.transaction():
            for _ in range(70):
                with client.transaction():
                    store.put("x", 1)
            list(store.iterate_keys())
            next(iter(store.iterate_items()))

    work()
    before = set(texts)
    for _ in range(5):
        work()

    assert texts == before


def test_a_function_as_url_is_asked_for_each_new_connection(call, database, sql):
    """
    Passwords that are tokens expire; the server shows a name in place of one here.
    """
    asked: list[str] = []

    def url():
        asked.append(f"token_{len(asked)}_secret")
        return f"{database}?application_name={asked[-1]}"

    client = pgstore.Client(url)
    store = pgstore.Dict.persist("tokens", client=client)
    assert not asked
    assert "secret" not in repr(client) + repr(client.settings)
    call(store.put, "k", 1)
    before = list(asked)
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, 'token')")
    assert call(store.get, "k") == 1
    assert len(asked) > len(before) >= 1
    if call.form == "aio":
        call.run(client.aclose())
    client.close()


def test_a_function_as_url_that_returns_none_is_told_of():
    with pytest.raises(pgstore.errors.ConfigurationError, match="given as url"):
        pgstore.Dict.persist("tokens", client=pgstore.Client(lambda: None)).hydrate()  # type: ignore[arg-type,return-value]


def test_a_connection_that_turns_out_to_be_read_only_is_given_up(client, database, store_name):
    """
    After a failover it leads to a standby, to which every call that was handed it would be a refusal.
    """
    store = pgstore.Dict.persist(store_name, client=client).hydrate()
    with pytest.raises(pgstore.errors.AccessDenied, match="read-only"), client.transaction() as tx:
        before = tx.connection.info.backend_pid
        tx.connection.execute("SET TRANSACTION READ ONLY")
        store["k"] = 1

    with client.transaction() as tx:
        assert tx.connection.info.backend_pid != before
        store["k"] = 1
