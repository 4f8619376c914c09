"""Whose transaction it is, what happens in it after an error, and what a joined connection looks like afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import itertools
import signal
import sys
import threading
import warnings
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

import pgstore
from pgstore.client import session
from pgstore.client.listener import BlockingListener
from pgstore.client.waiters import Registry
from pgstore.connection.spin_wait import SpinWait
from pgstore.core.operation import Listen, Topic
from pgstore.core.steps import run_blocking
from pgstore.errors import InvalidError, StatementFailed, TransactionFailed, TransactionScopeError
from pgstore.fs.retention import pins
from pgstore.fs.retention.pins import Pins, pins_of
from tests.faults.conftest import Background

# What is done by the other form than the one that fits is what the tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")


@pytest.fixture
def client(own_database):
    client = pgstore.Client(own_database)
    yield client
    client.close()


@pytest.fixture
def entries(client):
    return pgstore.Dict.persist("entries", client=client).hydrate()


@pytest.fixture
def refusing(entries, eye):
    """The server refuses the value 13, at once."""
    eye.rows("ALTER TABLE pgstore.dict_entry ADD CHECK (integer_value IS DISTINCT FROM 13)")
    return entries


# --------------------------------------------------------------------------------------------------------- whose it is


def test_a_block_entered_in_one_context_and_left_in_another_commits(client, entries):
    """
    Fixtures that are asynchronous generators are resumed in another context: there, ContextVar.reset would raise.
    """
    tx = client.transaction()
    contextvars.copy_context().run(tx.__enter__)
    entries.using(tx)["k"] = 1
    assert client.pin() is None
    contextvars.copy_context().run(tx.__exit__, None, None, None)

    assert entries["k"] == 1

    async def main():
        tx = client.transaction()
        await tx.__aenter__()
        await entries.put.aio("l", 1)
        await contextvars.copy_context().run(asyncio.ensure_future, tx.__aexit__(None, None, None))
        await entries.put.aio("m", 1)  # not in it any more

    asyncio.run(main())
    assert entries.keys() == ["k", "l", "m"]


@pytest.mark.parametrize("failure", [None, ValueError("out of stock")])
def test_a_block_that_had_lost_its_context_says_that_nothing_took_part_in_it(client, entries, failure):
    """
    A framework runs the two halves of a generator, and what is between them, each in a copy of the context.
    """

    @contextlib.contextmanager
    def dependency():
        with client.transaction():
            yield

    block = dependency()
    contextvars.copy_context().run(block.__enter__)
    contextvars.copy_context().run(entries.put, "k", 1)
    with pytest.raises(TransactionScopeError, match=r"store\.using\(tx\)") as raised:
        contextvars.copy_context().run(block.__exit__, failure and type(failure), failure, None)

    assert raised.value.__context__ is failure
    assert client.pin() is None
    assert entries["k"] == 1


def test_an_asynchronous_block_that_had_lost_its_context_says_so_too(client, entries):
    async def work():
        tx = client.transaction()
        await asyncio.create_task(tx.__aenter__())
        await entries.put.aio("k", 1)
        with pytest.raises(TransactionScopeError, match=r"store\.using\(tx\)"):
            await asyncio.create_task(tx.__aexit__(None, None, None))
        await client.aclose()

    asyncio.run(work())


def test_a_block_that_had_lost_its_context_says_nothing_where_something_took_part_or_was_interrupted(client, entries):
    def leave(*failure, use=lambda tx: None):
        tx = client.transaction()
        contextvars.copy_context().run(tx.__enter__)
        use(tx)
        contextvars.copy_context().run(tx.__exit__, *(failure or (None, None, None)))

    def read_and_wait(tx):
        entries.using(tx).get("k")
        run_blocking(tx.root.restart_if_unused())
        assert not tx.root.begun

    leave(use=lambda tx: entries.using(tx).get("k"))
    leave(use=read_and_wait)
    leave(use=lambda tx: tx.connection.execute("SELECT 1"))
    leave(GeneratorExit, GeneratorExit(), None)
    leave(KeyboardInterrupt, KeyboardInterrupt(), None)
    with client.transaction():
        pass


def test_a_blocking_transaction_in_a_task_is_not_the_childrens(client, entries):
    async def main():
        with client.transaction():
            entries["k"] = 1
            with pytest.raises(TransactionScopeError):
                await asyncio.create_task(asyncio.to_thread(entries.get, "k"))
            with pytest.raises(TransactionScopeError):
                await asyncio.to_thread(entries.get, "k")

    asyncio.run(main())
    assert entries["k"] == 1


def test_using_waits_for_its_turn_in_both_forms(client, entries):
    """
    One connection carries one call at a time; what is handed to threads and tasks queues.
    """
    with client.transaction() as tx:
        bound = entries.using(tx)
        crowd = [Background(bound.put, number, number) for number in range(10)]
        for each in crowd:
            each.result()
        assert entries.len() == 10

    async def main():
        async with client.transaction() as tx:
            bound = entries.using(tx)
            await asyncio.gather(*(bound.put.aio(number, number) for number in range(20)))
            task = asyncio.create_task(bound.put.aio("late", 1))
        # The task has not run yet: the transaction has ended under it.
        with pytest.raises(InvalidError, match="not open"):
            await task
        with pytest.raises(TransactionScopeError):
            async with client.transaction() as tx:
                await asyncio.to_thread(entries.using(tx).get, "k")

    asyncio.run(main())
    assert entries.len() == 20


def test_an_inner_block_is_entered_while_another_task_uses_the_transaction(client, entries):
    """
    Its savepoint waits for its turn, or two statements would meet on one connection.
    """

    async def work():
        async with client.transaction() as tx:

            async def put_many():
                for number in range(20):
                    await entries.using(tx).put.aio(number, 1)

            other = asyncio.create_task(put_many())
            while not other.done():
                async with client.transaction():
                    await entries.put.aio("k", 1)
            await other
        await client.aclose()

    asyncio.run(work())

    assert len(entries) == 21


def test_a_transaction_is_rolled_back_if_it_is_cancelled_while_another_task_uses_it(client, entries):
    """
    Leaving the block has to wait for the other task's call, and must not forget why it waits.
    """

    async def main():
        async with asyncio.timeout(20):
            started = asyncio.Event()

            async def hold():
                async with client.transaction() as tx:
                    await entries.put.aio("k", 1)
                    await tx.root.async_lock.acquire()  # a call of another task's
                    started.set()
                    asyncio.get_running_loop().call_later(0.05, tx.root.async_lock.release)

            task = asyncio.create_task(hold())
            await started.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await entries.contains.aio("k") is False
            assert not client.executor(blocking=False).pool._waiters

    asyncio.run(main())


def test_entering_twice_does_not_end_what_is_open(client, entries):
    with client.transaction() as tx:
        entries["k"] = 1
        with pytest.raises(InvalidError, match="once"), tx:
            pass
        entries["l"] = 1
    assert entries.keys() == ["k", "l"]


# --------------------------------------------------------------------------------------------------------- after errors


def test_after_an_error_of_the_server_a_transaction_says_that_it_failed(call, client, refusing):
    """
    The first error says why, all that follow say that it is over, and leaving normally is one of them.
    """
    entries = refusing

    def blocking():
        with client.transaction():
            entries["k"] = 1
            with pytest.raises(StatementFailed):
                entries["bad"] = 13
            with pytest.raises(TransactionFailed):
                entries.get("k")
            with pytest.raises(TransactionFailed):
                entries["k"] = 2

    async def asynchronous():
        async with client.transaction():
            await entries.put.aio("k", 1)
            with pytest.raises(StatementFailed):
                await entries.put.aio("bad", 13)
            with pytest.raises(TransactionFailed):
                await entries.get.aio("k")

    with pytest.raises(TransactionFailed):
        blocking() if call.form == "blocking" else call.run(asynchronous())
    assert call(entries.len) == 0


def test_the_very_first_statement_of_a_transaction_may_fail(client, refusing):
    with pytest.raises(StatementFailed), client.transaction():
        refusing["bad"] = 13
    with client.transaction():
        refusing["k"] = 1
    assert refusing.items() == [("k", 1)]


def test_an_error_in_an_inner_block_leaves_the_outer_one_usable(client, refusing):
    """
    Also where it was swallowed inside, so that only the end of the inner block notices.
    """
    with client.transaction():
        refusing["a"] = 1
        with pytest.raises(StatementFailed), client.transaction():
            refusing["bad"] = 13
        refusing["b"] = 1
        with pytest.raises(TransactionFailed), client.transaction():
            refusing["c"] = 1
            with contextlib.suppress(StatementFailed):
                refusing["bad"] = 13
        refusing["d"] = 1
        with client.transaction(), client.transaction():
            refusing["e"] = 1
    assert refusing.keys() == ["a", "b", "d", "e"]


def test_an_error_of_ours_leaves_the_transaction_usable(client, entries, monkeypatch):
    """
    A value that is refused here was never sent.
    """
    with client.transaction():
        entries["a"] = 1
        with pytest.raises(pgstore.SerializationError):
            entries["bad"] = threading.Lock()
        with pytest.raises(TypeError):
            entries[object()] = 1
        with pytest.raises(KeyError):
            entries["absent"]
        entries["b"] = 1
    assert entries.keys() == ["a", "b"]


def test_serialization_failures_name_themselves_and_the_transaction_is_over(client, entries, eye):
    eye.rows(
        """
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'again' USING ERRCODE = '40001'; END $$;
        CREATE TRIGGER again BEFORE INSERT ON pgstore.dict_entry FOR EACH ROW WHEN (NEW.key = 'bad') EXECUTE FUNCTION again();
        """
    )
    with pytest.raises(TransactionFailed), client.transaction():
        with pytest.raises(pgstore.errors.SerializationConflict, match="run_transaction"):
            entries["bad"] = 1
        entries["k"] = 1
    assert entries.len() == 0


def test_what_the_caller_sets_in_a_transaction_is_gone_after_it(client, entries):
    """
    The connection goes back to others: settings, roles, temporary tables and statements of the caller's do not go with it.
    """
    with client.transaction() as tx:
        first = tx.connection.info.backend_pid
        tx.connection.execute("SET search_path = pg_temp")
        tx.connection.execute("SET statement_timeout = '1h'")
        tx.connection.execute("CREATE TEMP TABLE mine (n integer)")
        for _ in range(3):
            tx.connection.execute("SELECT 1", prepare=True)
    entries["k"] = 1

    with client.transaction() as tx:
        connection = tx.connection
        assert connection.info.backend_pid == first
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
        assert connection.execute("SELECT to_regclass('pg_temp.mine')").fetchone() == (None,)
        assert connection.execute("SHOW default_transaction_isolation").fetchone() == ("read committed",)
        assert connection.execute("SELECT 1", prepare=True).fetchone() == (1,)


def test_a_connection_lent_on_an_event_loop_can_be_used_by_both_in_turn(client, entries):
    """
    psycopg waits for the same socket, and takes our reader off the loop.
    """

    async def main():
        for _ in range(3):
            async with asyncio.timeout(20), client.transaction() as tx:
                await entries.put.aio("k", 1)
                connection = await tx.get_connection()
                for number in range(3):
                    await connection.execute("SELECT 1")
                    await entries.put.aio("k", number)
        return await entries.get.aio("k")

    assert asyncio.run(main()) == 2


# -------------------------------------------------------------------------------------------------------------- joined


def settings_of(connection):
    return connection.execute("SELECT name, setting FROM pg_settings ORDER BY name").fetchall()


def test_a_joined_connection_is_left_as_it_was(client, entries, own_database):
    with psycopg.connect(own_database) as connection:
        connection.execute("CREATE TEMP TABLE mine (n integer)")
        connection.commit()
        before = settings_of(connection)
        connection.commit()

        for _ in range(8):
            with client.transaction(connection=connection):
                entries["k"] = 1
                entries.get("k")
                pgstore.Queue.persist("queue", client=client).put("item")
            connection.commit()

        assert settings_of(connection) == before
        names = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
        assert not [name for (name,) in names if name.startswith("pgstore")]
        assert connection.autocommit is False
        assert connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_joined_connection_must_speak_utf8(client, own_database, encoding):
    """
    The server would take our UTF-8 for something else and store other text, without an error.
    """
    with warnings.catch_warnings(), psycopg.connect(own_database, client_encoding=encoding) as connection:
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidError, match="client_encoding"), client.transaction(connection=connection):
            pass


def test_our_own_connections_speak_utf8_whatever_the_environment_says(call, own_database, eye, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    client = pgstore.Client(own_database)
    entries = pgstore.Dict.persist("entries", client=client)

    call(entries.put, "Grüße", 1)

    assert eye.value("SELECT key FROM pgstore.dict_entry") == "Grüße"
    assert call(entries.keys) == ["Grüße"]
    if call.form == "aio":
        call.run(client.aclose())
    client.close()


def test_what_a_caller_has_registered_on_the_connection_does_not_matter(client, entries, own_database):
    class Shouting(psycopg.adapt.Loader):
        def load(self, data):
            raise AssertionError("not for pgstore's rows")

    class Dumping(psycopg.adapt.Dumper):
        def dump(self, obj):
            raise AssertionError("not for pgstore's parameters")

    with psycopg.connect(own_database, row_factory=dict_row) as connection:
        binary = type("Binary", (Shouting,), {"format": psycopg.pq.Format.BINARY})
        for name in ("bytea", "int8", "text", "timestamptz"):
            connection.adapters.register_loader(name, binary)
            connection.adapters.register_loader(name, Shouting)
        for kind in (str, bytes, int):
            connection.adapters.register_dumper(kind, Dumping)
        with client.transaction(connection=connection):
            entries["k"] = {"a": 1}
            entries[1, "x"] = 2
            assert entries.items() == [((1, "x"), 2), ("k", {"a": 1})]
        connection.commit()
    assert entries.len() == 2


def test_a_session_that_commits_in_the_middle_goes_on_in_its_next_transaction(client, entries, own_database):
    engine = sqlalchemy.create_engine(own_database.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        with client.transaction(connection=session):
            entries["kept"] = 1
            session.commit()
            entries["undone"] = 1
            session.rollback()
            entries["kept too"] = 1
        session.commit()
    engine.dispose()

    assert entries.keys() == ["kept", "kept too"]


def test_other_drivers_are_refused_by_name(client, own_database):
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        with (
            pytest.raises(InvalidError, match=r"sqlite3.*postgresql\+psycopg"),
            client.transaction(connection=connection),
        ):
            pass
    engine.dispose()

    async def main():
        engine = create_async_engine(own_database.replace("postgresql://", "postgresql+asyncpg://"))
        async with engine.connect() as connection:
            with pytest.raises(InvalidError, match=r"asyncpg.*postgresql\+psycopg"):
                async with client.transaction(connection=connection):
                    pass
        await engine.dispose()

    pytest.importorskip("asyncpg")
    asyncio.run(main())


def test_a_connection_to_another_database_is_refused(client, entries, database):
    """
    The store's id means another store there, or none.
    """
    with psycopg.connect(database) as connection:
        with pytest.raises(InvalidError, match="another database"), client.transaction(connection=connection):
            pass


def test_a_joined_connection_that_breaks_is_reported_as_such(client, entries, own_database, proxy):
    with psycopg.connect(proxy.url(own_database)) as connection:
        with pytest.raises(pgstore.StoreUnavailable), client.transaction(connection=connection):
            entries["k"] = 1
            proxy.cut()
            entries["k"] = 2
        with pytest.raises(InvalidError, match="closed"), client.transaction(connection=connection):
            pass
    assert entries.len() == 0


# --------------------------------------------------------------------------------------------------------- generators


def rows_in_a_transaction(client, entries):
    with client.transaction():
        yield from entries.iterate_items()


@pytest.mark.parametrize("around", [iter, enumerate, lambda rows: (row for row in rows)])
def test_who_loops_over_a_generator_does_not_write_into_its_transaction(client, entries, around):
    """
    What the loop's body does would be undone where the loop is left early.
    """
    entries.update({"a": 1, "b": 2})

    with pytest.raises(pgstore.TransactionScopeError, match="the generator 'rows_in_a_transaction'"):
        for _ in around(rows_in_a_transaction(client, entries)):
            entries["written"] = 1

    entries["after"] = 1
    assert entries.keys() == ["a", "after", "b"]


def test_nor_opens_a_block_or_an_iterator_in_it(client, entries):
    entries["a"] = 1

    with pytest.raises(pgstore.TransactionScopeError, match="using"):
        for _ in rows_in_a_transaction(client, entries):
            with client.transaction():
                pass
    with pytest.raises(pgstore.TransactionScopeError, match="using"):
        for _ in rows_in_a_transaction(client, entries):
            entries.iterate_keys()


def test_taking_part_in_the_transaction_of_a_generator_has_to_be_said(client, entries):
    entries["a"] = 1

    def rows():
        with client.transaction() as tx:
            for item in entries.items():
                yield tx, item

    for tx, (key, value) in rows():
        entries.using(tx)[key] = value + 1

    assert entries["a"] == 2


def test_a_generator_that_is_a_context_manager_lends_its_transaction(client, entries):
    """
    That is what it is for: `contextlib.contextmanager`, a fixture, a dependency of a framework.
    """

    @contextlib.contextmanager
    def unit_of_work():
        with client.transaction():
            yield

    with unit_of_work():
        entries["a"] = 1
    with pytest.raises(KeyError), unit_of_work():
        entries["b"] = 1
        raise KeyError
    fixture: Any = inspect.unwrap(unit_of_work)()
    next(fixture)
    entries["c"] = 1
    next(fixture, None)

    assert entries.keys() == ["a", "c"]


def test_asynchronous_generators_too(client, entries):
    async def rows():
        async with client.transaction():
            async for item in entries.iterate_items():
                yield item

    @contextlib.asynccontextmanager
    async def unit_of_work():
        async with client.transaction():
            yield

    async def work():
        await entries.put.aio("a", 1)
        async with contextlib.aclosing(rows()) as looped:
            with pytest.raises(pgstore.TransactionScopeError, match="the generator 'rows'"):
                async for _ in looped:
                    await entries.put.aio("written", 1)
        async with unit_of_work():
            await entries.put.aio("b", 1)
        await client.aclose()

    asyncio.run(work())

    assert entries.keys() == ["a", "b"]


def test_an_asynchronous_generator_that_is_closed_in_an_inner_block_leaves_the_outer_one_usable(client, entries):
    async def rows():
        async with client.transaction():
            await entries.put.aio("inner", 1)
            yield

    async def work():
        async with client.transaction():
            await entries.put.aio("before", 1)
            async with contextlib.aclosing(rows()) as looped:
                async for _ in looped:
                    break
            await entries.put.aio("after", 1)
        await client.aclose()

    asyncio.run(work())

    assert entries.keys() == ["after", "before"]


@pytest.mark.parametrize("joined", ["psycopg", "sqlalchemy"])
def test_an_asynchronous_generator_that_is_closed_in_a_joined_block_undoes_it(client, entries, own_database, joined):
    """
    Else the caller would commit half of what the generator was about to do.
    """

    async def rows(connection):
        async with client.transaction(connection=connection):
            await entries.put.aio("inner", 1)
            yield

    async def work():
        engine = create_async_engine("postgresql+psycopg://", async_creator=connect)
        opened: Any = await connect() if joined == "psycopg" else engine.connect()
        async with opened as connection:
            async with client.transaction(connection=connection):
                await entries.put.aio("before", 1)
            async with contextlib.aclosing(rows(connection)) as looped:
                async for _ in looped:
                    break
            await connection.commit()
        await engine.dispose()
        await client.aclose()

    async def connect():
        return await psycopg.AsyncConnection.connect(own_database)

    asyncio.run(work())

    assert entries.keys() == ["before"]


def test_what_a_closed_asynchronous_generator_did_to_objects_is_undone_too(client):
    queue = pgstore.Queue.persist("queue", client=client)
    queue.put("item")

    async def rows(lease):
        async with client.transaction():
            await lease.ack.aio()
            yield

    async def work():
        lease = await queue.get.aio(lease=60)
        async with contextlib.aclosing(rows(lease)) as looped:
            async for _ in looped:
                break
        await lease.nack.aio(0)
        await client.aclose()

    asyncio.run(work())

    assert queue.get(block=False) == "item"


def test_a_task_in_an_inner_block_that_is_left_over_of_an_event_loop_gives_its_connection_up(client, entries):
    """
    Nothing can be awaited there any more, so what the outer block did goes as well.
    """
    written = asyncio.Event()

    async def hold():
        async with client.transaction(), client.transaction():
            await entries.put.aio("k", 1)
            written.set()
            await asyncio.sleep(3600)

    loop = asyncio.new_event_loop()
    task = loop.create_task(hold())
    loop.run_until_complete(written.wait())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own reproach, to the log
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del task, loop
        gc.collect()

    entries["k"] = 2  # nobody has it locked
    assert entries["k"] == 2


# ---------------------------------------------------------------------------------- signal handlers and finalisers


@pytest.fixture
def interrupting(monkeypatch):
    """Calls a function, once, while a statement is under way on a connection, as a signal handler or a finaliser comes in."""
    pending = []

    def interrupt(function):
        pending.append(function)

    def look(spin, *args):
        if pending:
            pending.pop()()
        return catch(spin, *args)

    catch = SpinWait.catch
    monkeypatch.setattr(SpinWait, "catch", look)
    return interrupt


def test_a_signal_handler_cannot_come_between_a_statement_and_its_answer(client, entries, interrupting):
    """
    Its statement would be sent on a connection that is at work: the program would hang, or lose its transaction.
    """
    refused = []

    def handler(call):
        def handle():
            with pytest.raises(TransactionScopeError, match="signal handler") as raised:
                call()
            refused.append(raised.value)

        return handle

    with client.transaction() as tx:
        for number, call in enumerate(
            [
                lambda: entries.put("handler", 1),
                lambda: list(entries.iterate_keys()),
                lambda: client.transaction().__enter__(),
                lambda: entries.using(tx).put("handler", 1),
                lambda: tx.connection,
            ]
        ):
            interrupting(handler(call))
            entries[f"k{number}"] = number
            assert entries[f"k{number}"] == number

    assert len(refused) == 5
    assert entries.keys() == [f"k{number}" for number in range(5)]


def coming_in(function, work):
    """Call *work* for each line of *function*, and once more before that line is run, as a signal handler would."""
    code = inspect.unwrap(function).__code__
    for at in itertools.count():
        lines = itertools.count()
        reached = False

        def trace(frame, event, argument, at=at, lines=lines):
            nonlocal reached
            if frame.f_code is not code or reached:
                return None
            if event == "line" and next(lines) == at:
                reached = True
                work()
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)
        yield
        if not reached:
            return


@pytest.mark.parametrize(
    "function",
    [
        session.Session.current,
        session.Session.beat,
        Pins.keep,
        BlockingListener.register,
        Registry.add,
        Registry.remove,
    ],
    ids=lambda function: function.__qualname__,
)
def test_a_signal_handler_does_not_wait_for_what_it_has_interrupted(client, entries, function):
    """
    It comes in where its own thread has one of the client's locks in hand.
    """
    files = pgstore.NetworkFileSystem.persist("files", client=client).hydrate()
    root = pins.inode_of(int(files.object_id[3:]), 1)

    def use():
        client.session._id = None
        client.run(client.session.current())
        client.run(pins_of(client.session).keep(root))
        client.session._id = -1  # which was swept
        client.run(client.session.beat())
        client.executor(blocking=True).listener.register(Listen(Topic(1, "x"))).close()

    for _ in coming_in(function, use):
        pass


def test_a_signal_handler_and_what_it_has_interrupted_get_one_default_client(monkeypatch, database):
    monkeypatch.setenv("PGSTORE_URL", database)
    made: list[pgstore.Client] = []

    for _ in coming_in(pgstore.client.default_client, lambda: made.append(pgstore.client.default_client())):
        assert len(set(made)) == 1
        made.clear()
        monkeypatch.setattr("pgstore.client.default._default", None)


def test_between_two_statements_a_signal_handler_takes_part(client, entries):
    before = signal.signal(signal.SIGUSR1, lambda *_: entries.put("handler", 1))
    try:
        with client.transaction():
            entries["a"] = 1
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert entries.keys() == ["a", "handler"]


def test_outside_of_transactions_a_signal_handler_has_a_connection_of_its_own(client, entries, interrupting):
    interrupting(lambda: entries.put("handler", 1))

    entries["a"] = 1

    assert entries.keys() == ["a", "handler"]
