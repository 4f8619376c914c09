"""What a rollback undoes: in the database, where a block joins a caller's transaction, and in objects that the program holds."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import pgstore
from pgstore import errors
from pgstore.errors import StatementFailed, TransactionFailed

KIB = 1024


class Oops(Exception):
    """What a caller's code raises."""


@pytest.fixture
def entries(client, store_name):
    return pgstore.Dict.persist(store_name, client=client).hydrate()


@pytest.fixture
def tasks(client, store_name):
    return pgstore.Queue.persist(store_name, client=client).hydrate()


@pytest.fixture
def tasks_elsewhere(client_elsewhere, store_name):
    return pgstore.Queue.persist(store_name, client=client_elsewhere)


@pytest.fixture
def volume(client, store_name):
    return pgstore.Volume.from_name(store_name, create_if_missing=True, client=client, chunk_size=8 * KIB).hydrate()


@pytest.fixture
def nfs(client, store_name):
    return pgstore.NetworkFileSystem.from_name(f"{store_name}-n", create_if_missing=True, client=client).hydrate()


@pytest.fixture
def connection(database):
    """A connection of the caller's."""
    with psycopg.connect(database) as connection:
        yield connection
        connection.rollback()


def content(store, path):
    return b"".join(store.read_file(path))


# ------------------------------------------------------------------------------------------------------ joined blocks


def test_a_joined_block_that_raises_undoes_what_it_did_and_nothing_before(
    client, entries, tasks, volume, nfs, connection
):
    """
    The caller who catches the exception and commits means the rest of their work.
    """
    with client.transaction(connection=connection):
        entries["before"] = 1

    with pytest.raises(Oops), client.transaction(connection=connection):
        entries["half"] = 1
        tasks.put("half")
        with volume.open("half", "wb") as file:
            file.write(b"half")
        nfs.mkdir("half")
        raise Oops
    with client.transaction(connection=connection):
        entries["after"] = 1
    connection.commit()

    assert entries.keys() == ["after", "before"]
    assert tasks.len() == 0
    assert not volume.exists("half")
    assert not nfs.exists("half")


def test_an_asynchronous_joined_block_that_raises_undoes_itself(client, entries, tasks, database):
    async def work():
        async with await psycopg.AsyncConnection.connect(database) as connection:
            async with client.transaction(connection=connection):
                await entries.put.aio("before", 1)
            with pytest.raises(Oops):
                async with client.transaction(connection=connection):
                    await tasks.put.aio("half")
                    await entries.put.aio("half", 1)
                    raise Oops
        await client.aclose()

    asyncio.run(work())

    assert (entries.keys(), tasks.len()) == (["before"], 0)


def test_a_savepoint_in_a_joined_block_goes_with_the_block(client, entries, connection):
    """
    The inner block has ended well; the outer one has not.
    """
    with pytest.raises(Oops), client.transaction(connection=connection):
        with client.transaction():
            entries["inner"] = 1
        raise Oops
    connection.commit()

    assert entries.keys() == []


def test_joined_blocks_stand_in_each_other(client, entries, connection):
    with client.transaction(connection=connection):
        entries["outer"] = 1
        with pytest.raises(Oops), client.transaction(connection=connection):
            entries["inner"] = 1
            raise Oops
        entries["outer again"] = 1
    connection.commit()

    assert entries.keys() == ["outer", "outer again"]


def test_a_failed_statement_in_a_joined_block_leaves_the_callers_transaction_usable(client, entries, connection):
    connection.execute("CREATE TEMPORARY TABLE mine (a integer)")
    connection.execute("INSERT INTO mine VALUES (1)")

    with pytest.raises(psycopg.errors.DivisionByZero), client.transaction(connection=connection) as tx:
        entries["half"] = 1
        tx.connection.execute("SELECT 1 / 0")

    assert connection.execute("SELECT a FROM mine").fetchall() == [(1,)]
    connection.commit()
    assert entries.keys() == []


def test_a_failure_that_was_swallowed_in_a_joined_block_is_told_at_its_end(client, entries, connection):
    """
    Else psycopg's `commit()` would silently roll everything back.
    """
    with pytest.raises(TransactionFailed), client.transaction(connection=connection) as tx:
        entries["half"] = 1
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            tx.connection.execute("SELECT 1 / 0")
    with client.transaction(connection=connection):
        entries["after"] = 1
    connection.commit()

    assert entries.keys() == ["after"]


def test_the_first_write_of_a_joined_block_may_fail(client, entries, connection, sql, store_name):
    table = f'public."refusing-{store_name}"'
    sql(f"CREATE TABLE {table} (a integer CHECK (a > 0))".encode())

    with pytest.raises(psycopg.errors.CheckViolation), client.transaction(connection=connection) as tx:
        tx.connection.execute(f"INSERT INTO {table} VALUES (0)".encode())
    with pytest.raises(StatementFailed), client.transaction(connection=connection):
        client.run(_refused())
    with client.transaction(connection=connection):
        entries["after"] = 1
    connection.commit()
    sql(f"DROP TABLE {table}".encode())

    assert entries.keys() == ["after"]


def _refused():
    from pgstore.core.operation import Query
    from pgstore.core.statement import Statement

    yield Query(Statement("SELECT 1 / 0"))


def test_a_joined_block_that_only_reads_sets_no_savepoint(client, entries, connection, monkeypatch):
    from pgstore.client.guard import Guard

    entries["a"] = 1
    monkeypatch.setattr(Guard, "set", None)
    monkeypatch.setattr(Guard, "set_with", None)

    with client.transaction(connection=connection):
        assert entries["a"] == 1
        assert entries.keys() == ["a"]


def test_a_caller_may_end_the_transaction_within_a_joined_block(client, entries, connection):
    with client.transaction(connection=connection):
        entries["committed"] = 1
        connection.commit()
    with client.transaction(connection=connection):
        entries["committed too"] = 1
        connection.commit()
        connection.execute("SELECT 1")  # another transaction, which is the caller's alone
    connection.execute("SELECT 1")
    with client.transaction(connection=connection):
        entries["undone"] = 1
        connection.rollback()
        entries["kept"] = 1
    connection.commit()

    assert entries.keys() == ["committed", "committed too", "kept"]


def test_a_joined_block_works_in_a_transaction_of_an_autocommit_connection(client, entries, database):
    with psycopg.connect(database, autocommit=True) as connection:
        with connection.transaction():
            with pytest.raises(Oops), client.transaction(connection=connection):
                entries["half"] = 1
                raise Oops
            with client.transaction(connection=connection):
                entries["kept"] = 1

    assert entries.keys() == ["kept"]


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "pgstore_test_joined_rows"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def engine(database):
    engine = sqlalchemy.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


def test_a_session_forgets_the_objects_of_a_joined_block_that_raised(client, entries, engine):
    """
    They are undone with the block, so the session must not take them for stored.
    """
    with Session(engine) as session:
        session.add(Row(id=1))
        with pytest.raises(Oops), client.transaction(connection=session):
            entries["half"] = 1
            session.add(Row(id=2))
            session.flush()
            raise Oops
        session.add(Row(id=2))
        session.add(Row(id=3))
        session.commit()

        assert session.scalars(sqlalchemy.select(Row.id).order_by(Row.id)).all() == [1, 2, 3]
    assert entries.keys() == []


def test_a_failed_flush_in_a_joined_block_leaves_the_session_usable(client, entries, engine):
    with Session(engine) as session:
        session.execute(sqlalchemy.insert(Row).values(id=1))
        with pytest.raises(sqlalchemy.exc.IntegrityError), client.transaction(connection=session):
            entries["half"] = 1
            session.add(Row(id=1))
            session.flush()
        with client.transaction(connection=session):
            entries["kept"] = 1
        session.commit()

        assert session.scalars(sqlalchemy.select(Row.id)).all() == [1]
    assert entries.keys() == ["kept"]


def test_an_asynchronous_session_undoes_a_joined_block_that_raised(client, entries, database):
    async def work():
        engine = create_async_engine(database.replace("postgresql:", "postgresql+psycopg:"))
        async with AsyncSession(engine) as session:
            with pytest.raises(Oops):
                async with client.transaction(connection=session):
                    await entries.put.aio("half", 1)
                    raise Oops
            async with client.transaction(connection=session):
                await entries.put.aio("kept", 1)
            await session.commit()
        async with engine.connect() as connection:
            with pytest.raises(Oops):
                async with client.transaction(connection=connection):
                    await entries.put.aio("half", 1)
                    raise Oops
            await connection.commit()
        await engine.dispose()
        await client.aclose()

    asyncio.run(work())

    assert entries.keys() == ["kept"]


# ------------------------------------------------------------------------------------------------------------- leases


@pytest.mark.parametrize("way", ["ack", "nack", "nack later"])
@pytest.mark.parametrize("block", ["transaction", "savepoint", "joined"])
def test_a_lease_that_was_settled_in_a_block_that_raised_is_held_again(
    client, tasks, tasks_elsewhere, connection, way, block
):
    """
    The exception leaves the block of the lease as well, which gives the item back.
    """
    tasks.put("work")
    opened = client.transaction(connection=connection) if block == "joined" else client.transaction()

    with pytest.raises(Oops), contextlib.ExitStack() as stack:
        lease = stack.enter_context(tasks.get(lease=60))
        with client.transaction() if block == "savepoint" else contextlib.nullcontext(), opened:
            lease.ack() if way == "ack" else lease.nack(delay=60 if way == "nack later" else 0)
            raise Oops

    assert tasks_elsewhere.get(timeout=5) == "work"


def test_an_asynchronous_lease_too(call, client, tasks, tasks_elsewhere):
    if call.form == "blocking":
        pytest.skip("of the other form only")
    tasks.put("work")

    async def work():
        async with await tasks.get.aio(lease=60) as lease, client.transaction():
            await lease.ack.aio()
            raise Oops

    with pytest.raises(Oops):
        call.run(work())

    assert call(tasks_elsewhere.get, timeout=5) == "work"


def test_a_lease_goes_on_being_renewed_after_an_ack_that_was_undone(client, tasks, tasks_elsewhere):
    tasks.put("work")
    lease = tasks.get(lease=1, renew=True)

    with pytest.raises(Oops), client.transaction():
        lease.ack()
        time.sleep(0.5)  # a renewal comes and finds nothing to do
        raise Oops
    time.sleep(1.5)

    assert tasks_elsewhere.get(block=False) is None
    lease.ack()


def test_what_was_acknowledged_in_a_transaction_that_committed_stays_so(client, tasks):
    tasks.put("work")

    with tasks.get(lease=60) as lease:
        with client.transaction():
            with pytest.raises(Oops), client.transaction():
                lease.nack()
                raise Oops
            lease.ack()

    assert tasks.len() == 0
    with pytest.raises(pgstore.LeaseLost):
        lease.ack()


# -------------------------------------------------------------------------------------------------------------- locks


def test_a_client_of_one_connection_holds_no_lock_that_was_undone(database, client_elsewhere, store_name):
    """
    Its lock is a part of the transaction, for it has no connection to be apart on.
    """
    with pgstore.Client(database, connections_max=1) as client:
        store = pgstore.Dict.persist(store_name, client=client).hydrate()
        lock = store.lock("k", timeout=5)
        with pytest.raises(Oops), client.transaction():
            store["a"] = 1
            lock.acquire()
            raise Oops
        with pytest.raises(pgstore.InvalidError, match="is not held"):
            lock.release()

        lock.acquire()
        with pytest.raises(Oops), client.transaction():
            store["a"] = 1
            lock.release()
            raise Oops
        assert not pgstore.Dict.from_name(store_name, client=client_elsewhere).lock("k").acquire(block=False)
        assert lock.release()


# ---------------------------------------------------------------------------------------------------------- iterators


def test_an_iterator_goes_on_after_the_savepoint_that_it_began_in(client, entries):
    """
    The server ends its cursor with the savepoint.
    """
    entries.update({f"k{number:03}": number for number in range(200)})

    with client.transaction():
        keys = entries.iterate_keys()
        with pytest.raises(Oops), client.transaction():
            seen = [next(keys) for _ in range(60)]
            raise Oops
        seen += list(keys)

    assert seen == entries.keys()


def test_an_iterator_made_outside_goes_on_in_and_after_transactions(client, entries):
    entries.update({f"k{number:03}": number for number in range(300)})
    keys = entries.iterate_keys()

    seen = [next(keys) for _ in range(10)]
    for _ in range(2):
        with client.transaction():
            seen += [next(keys) for _ in range(50)]
    with pytest.raises(Oops), client.transaction():
        seen += [next(keys) for _ in range(50)]
        raise Oops
    seen += list(keys)

    assert seen == entries.keys()


# --------------------------------------------------------------------------------------------------------- open files


def test_a_file_written_in_place_is_where_it_was_after_a_rollback(client, nfs):
    with nfs.open("f", "w+b") as file:
        file.write(b"one")
        file.flush()
        with pytest.raises(Oops), client.transaction():
            file.write(b"two")
            file.flush()
            file.seek(0)
            assert file.read() == b"onetwo"
            raise Oops
        assert file.tell() == 3
        file.write(b"three")
        file.seek(0)
        assert file.read() == b"onethree"

    assert content(nfs, "f") == b"onethree"


@pytest.mark.parametrize("mode", ["wb", "w+b", "ab", "w"])
def test_a_savepoint_takes_a_file_with_it(client, nfs, mode):
    def data(text):
        return text if mode == "w" else text.encode()

    with nfs.open("f", mode) as file:
        file.write(data("one"))
        file.flush()
        with client.transaction():
            file.write(data("two"))
            file.flush()
            with pytest.raises(Oops), client.transaction():
                file.write(data("three"))
                file.flush()
                file.write(data("more"))
                raise Oops
            file.write(data("four"))
            file.flush()

    assert content(nfs, "f") == b"onetwofour"


def test_an_unbuffered_file_and_truncate_go_back_too(client, nfs):
    with nfs.open("f", "w+b", buffering=0) as file:
        file.write(b"one")
        with pytest.raises(Oops), client.transaction():
            file.write(b"two")
            file.truncate(1)
            raise Oops
        file.write(b"three")

    assert content(nfs, "f") == b"onethree"


def test_a_detached_file_is_not_in_the_way_of_a_rollback(client, nfs, entries):
    """
    The layer that was taken off cannot begin anew. What else the block did is undone all the same.
    """
    text = nfs.open("f", "w+")
    text.write("one")
    text.flush()
    with pytest.raises(Oops), client.transaction():
        entries["a"] = 1
        text.write("two")
        text.flush()
        raw = text.detach().detach()
        del text
        raise Oops
    raw.write(b"three")
    raw.close()

    assert "a" not in entries
    assert content(nfs, "f") == b"onethree"


def test_what_was_read_in_a_transaction_that_was_undone_is_not_shown_again(client, nfs):
    """
    Reading ahead saw what has never been committed.
    """
    with nfs.open("f", "wb") as file:
        file.write(b"old" * 10_000)
    with nfs.open("f", "rb", buffering=16) as reader:
        with pytest.raises(Oops), client.transaction():
            with nfs.open("f", "r+b") as file:
                file.write(b"new" * 10_000)
            assert reader.read(3) == b"new"
            raise Oops
        reader.seek(3000)
        assert reader.read(3000) == b"old" * 1000


def test_a_file_closed_in_a_transaction_that_was_undone_stays_closed(client, nfs):
    with pytest.raises(Oops), client.transaction():
        file = nfs.open("f", "wb")
        file.write(b"x")
        file.close()
        raise Oops

    assert file.closed
    assert not nfs.exists("f")


@pytest.mark.parametrize("size", [10, 5 * 1024 * KIB])
def test_new_contents_written_in_a_savepoint_that_was_undone_are_not_kept(client, volume, size):
    """
    What was stored in it is gone: closing the file must not make one with holes.
    """
    with client.transaction():
        file = volume.open("f", "wb")
        file.write(b"a" * 5 * 1024 * KIB)
        file.flush()
        with pytest.raises(Oops), client.transaction():
            file.write(b"b" * size)
            file.flush()
            raise Oops
        with pytest.raises(errors.InvalidError, match="undone"):
            file.close()

    assert file.closed
    assert not volume.exists("f")


def test_what_a_file_holds_is_given_up_where_its_close_was_undone(client, volume, sql):
    with pytest.raises(Oops), client.transaction():
        with volume.open("f", "wb") as file:
            file.write(b"x" * 100 * KIB)
        raise Oops
    file = volume.open("g", "wb")
    file.write(b"x" * 100 * KIB)
    with pytest.raises(Oops), client.transaction():
        file.close()
        raise Oops
    client.run(client.session.keep())

    assert not volume.exists("g")
    assert sql(
        "SELECT count(*) FROM pgstore.blob b WHERE b.store_id = %s AND b.session_id IS NOT NULL",
        int(volume.object_id.removeprefix("vo-")),
    ) == [(0,)]


def test_asynchronous_files_go_back_too(call, client, nfs, volume):
    if call.form == "blocking":
        pytest.skip("of the other form only")

    async def work():
        async with nfs.open.aio("f", "w+") as file:
            await file.write("one")
            await file.flush()
            with pytest.raises(Oops):
                async with client.transaction():
                    await file.write("two")
                    await file.flush()
                    await file.write("more")
                    raise Oops
            await file.write("three")
            await file.seek(0)
            assert await file.read() == "onethree"
        async with client.transaction():
            file = await volume.open.aio("f", "wb")
            await file.write(b"a" * 5 * 1024 * KIB)
            with pytest.raises(Oops):
                async with client.transaction():
                    await file.write(b"b" * 1024 * KIB)
                    raise Oops
            with pytest.raises(errors.InvalidError, match="undone"):
                await file.close()

    call.run(work())
