"""Handles: found lazily, made on demand, listed, deleted, ephemeral."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore import errors
from pgstore.client import session
from pgstore.core.operation import Call

KINDS = [pgstore.Dict, pgstore.Queue, pgstore.Volume]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def client_of_one(database):
    with pgstore.Client(database, connections_max=1) as client:
        yield client


def use(call, store):
    """The cheapest operation of a store."""
    if isinstance(store, pgstore.Volume):
        return call(store.listdir, "/")
    return call(store.len)


def test_making_a_handle_does_no_io(kind):
    kind.from_name("x", client=pgstore.Client("host=/nonexistent"))


def test_a_missing_store_is_not_found_on_first_use(call, client, kind, store_name):
    store = kind.from_name(store_name, client=client)

    with pytest.raises(pgstore.NotFoundError, match=store_name):
        use(call, store)
    with pytest.raises(pgstore.NotFoundError, match="create_if_missing"):
        call(store.hydrate)


def test_create_if_missing_makes_it_and_both_find_the_same(call, client, client_elsewhere, kind, store_name):
    made = kind.from_name(store_name, create_if_missing=True, client=client)
    use(call, made)

    found = kind.from_name(store_name, client=client_elsewhere)

    assert call(found.hydrate) is found
    assert found.object_id == made.object_id
    assert kind.persist(store_name, client=client).hydrate().object_id == made.object_id


def test_object_id_is_an_attribute_error_before_the_first_use(client, kind, store_name):
    store = kind.persist(store_name, client=client)

    with pytest.raises(AttributeError, match="hydrate"):
        _ = store.object_id


def test_from_id_leads_to_the_store_and_learns_its_name(call, client, kind, store_name):
    store = kind.persist(store_name, client=client).hydrate()

    same = kind.from_id(store.object_id, client=client)

    use(call, same)
    assert same.name == store_name
    for bad in ("", "xx-1", "di-", "di-x", f"{store.object_id}x", f"{store._id_prefix}-{'9' * 5000}", 5):
        with pytest.raises(pgstore.InvalidError, match="not the id"):
            kind.from_id(bad)
    missing = kind.from_id(f"{store._id_prefix}-999999999", client=client)
    with pytest.raises(pgstore.NotFoundError, match="999999999"):
        use(call, missing)


def test_info_tells_name_creation_and_creator(call, client, kind, store_name):
    store = kind.persist(store_name, client=client)

    info = call(store.info)

    assert info.name == store_name
    assert timedelta(0) <= datetime.now(UTC) - info.created_at < timedelta(minutes=5)
    assert info.created_at.tzinfo is not None
    assert info.created_by == "postgres"


def test_the_same_name_in_two_environments_is_two_stores(client, kind, store_name):
    first = kind.persist(store_name, environment_name="one", client=client).hydrate()
    second = kind.persist(store_name, environment_name="two", client=client).hydrate()

    assert first.object_id != second.object_id


def test_kinds_do_not_share_names(client, store_name):
    ids = {kind.persist(store_name, client=client).hydrate().object_id for kind in KINDS}

    assert len(ids) == len(KINDS)


def test_objects_create_list_and_delete(call, client, kind, store_name):
    environment = store_name[-40:]
    for name in ("a", "b", "c"):
        call(kind.objects.create, name, environment_name=environment, client=client)
    with pytest.raises(pgstore.AlreadyExistsError, match="'a'"):
        call(kind.objects.create, "a", environment_name=environment, client=client)
    call(kind.objects.create, "a", allow_existing=True, environment_name=environment, client=client)

    def names(**options):
        return [store.name for store in call(kind.objects.list, environment_name=environment, client=client, **options)]

    assert names() == ["c", "b", "a"]
    assert names(max_objects=2) == ["c", "b"]
    assert names(max_objects=0) == []
    second = call(kind.from_name("b", environment_name=environment, client=client).info)
    assert names(created_before=second.created_at) == ["a"]
    assert names(created_before="2001-01-01") == []
    with pytest.raises(pgstore.InvalidError, match="max_objects"):
        names(max_objects=-1)
    for no_time in ("yesterday", "0001-01-01", 5):
        with pytest.raises(pgstore.InvalidError, match="created_before"):
            names(created_before=no_time)

    call(kind.objects.delete, "b", environment_name=environment, client=client)
    assert names() == ["c", "a"]
    with pytest.raises(pgstore.NotFoundError, match="'b'"):
        call(kind.objects.delete, "b", environment_name=environment, client=client)
    call(kind.objects.delete, "b", allow_missing=True, environment_name=environment, client=client)


def test_a_handle_of_a_deleted_store_is_not_found_for_reads_and_writes(
    call, client, client_elsewhere, kind, store_name
):
    store = kind.persist(store_name, client=client)
    use(call, store)

    kind.objects.delete(store_name, client=client_elsewhere)

    with pytest.raises(pgstore.NotFoundError):
        use(call, store)
    attempts: list[Any]
    match store:
        case pgstore.Dict():
            attempts = [
                (store.put, "k", 1),
                (store.get, "k"),
                (store.pop, "k"),
                (store.update, {"a": 1}),
                (store.contains, 1),
                (store.clear,),
            ]
        case pgstore.Queue():
            attempts = [(store.put, 1), (store.put_many, [1, 2]), (store.get,), (store.get_many, 2)]
        case _:
            attempts = [(store.put_file, __file__, "x"), (store.exists, "x"), (store.remove_file, "x")]
    for operation, *arguments in attempts:
        with pytest.raises(pgstore.NotFoundError):
            call(operation, *arguments)


def test_deleting_a_store_deletes_what_it_held(client, store_name, sql):
    entries = pgstore.Dict.persist(store_name, client=client)
    entries.update({i: i for i in range(10)})
    queue = pgstore.Queue.persist(store_name, client=client)
    queue.put_many(range(10))
    volume = pgstore.Volume.persist(store_name, client=client)
    volume.put_directory("tests/fixtures", "/fixtures")
    ids = [int(store.object_id[3:]) for store in (entries, queue, volume)]

    for kind in KINDS:
        kind.objects.delete(store_name, client=client)

    for table in (
        "dict_entry",
        "queue_item",
        "inode",
        "dirent",
        "blob",
        "chunk",
        "extent",
        "file_system",
        "volume_version",
    ):
        assert sql(f"SELECT count(*) FROM pgstore.{table} WHERE store_id = ANY (%s)", ids) == [(0,)], table


def test_sql_deletes_a_store_and_says_whether_there_was_one(client, kind, store_name, sql):
    """
    What goes with a store is known to the database, whoever deletes it.
    """
    store = kind.persist(store_name, client=client)
    use(lambda operation, *arguments: operation(*arguments), store)
    delete = f"SELECT pgstore.store_delete({store.object_id[3:]})"

    assert sql(delete) == [(True,)]

    assert sql(delete) == [(False,)]
    with pytest.raises(pgstore.NotFoundError):
        use(lambda operation, *arguments: operation(*arguments), store)


def test_ten_creators_of_one_name_make_one_store(database, kind, store_name):
    found = []

    def create():
        with pgstore.Client(database) as client:
            found.append(kind.persist(store_name, client=client).hydrate().object_id)

    threads = [threading.Thread(target=create) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 10
    assert len(set(found)) == 1


def test_a_store_made_in_a_transaction_that_rolls_back_is_made_again_later(client, store_name):
    store = pgstore.Dict.persist(store_name, client=client)

    with pytest.raises(RuntimeError), client.transaction():
        store["k"] = 1
        raise RuntimeError

    assert store.get("k") is None
    store["k"] = 2
    assert store["k"] == 2


def test_a_store_made_in_a_transaction_is_known_after_its_commit(client, store_name):
    store = pgstore.Dict.persist(store_name, client=client)

    with client.transaction():
        store["k"] = 1

    assert store.object_id
    assert store["k"] == 1


def test_object_id_is_known_in_a_joined_transaction_and_after_it(client, database, kind, store_name):
    """
    The commit is the caller's, and pgstore never hears of it.
    """
    store = kind.persist(store_name, client=client)

    with psycopg.connect(database) as connection:
        with client.transaction(connection=connection):
            assert store.hydrate() is store
            object_id = store.object_id
            assert store.using(client.transaction()).object_id == object_id
        connection.commit()

    assert store.object_id == object_id
    assert kind.from_name(store_name, client=client).hydrate().object_id == object_id


def test_object_id_is_known_in_an_asynchronous_joined_transaction(client, database, kind, store_name):
    store = kind.persist(store_name, client=client)

    async def work():
        async with await psycopg.AsyncConnection.connect(database) as connection:
            async with client.transaction(connection=connection):
                await store.hydrate.aio()
                object_id = store.object_id
        await client.aclose()
        return object_id

    assert asyncio.run(work()) == store.hydrate().object_id


def test_object_id_of_a_store_made_in_a_joined_block_goes_with_the_block(client, database, kind, store_name):
    store = kind.persist(store_name, client=client)

    with psycopg.connect(database) as connection:
        with pytest.raises(RuntimeError), client.transaction(connection=connection):
            store.hydrate()
            raise RuntimeError
        with pytest.raises(AttributeError, match="hydrate"):
            _ = store.object_id
        with client.transaction(connection=connection):
            object_id = store.hydrate().object_id
        with pytest.raises(RuntimeError), client.transaction(connection=connection):
            store.hydrate()
            raise RuntimeError
        assert store.object_id == object_id


def test_object_id_of_a_store_made_in_a_transaction_goes_with_its_savepoint(client, kind, store_name):
    store = kind.from_name(store_name, client=client)

    with client.transaction():
        with pytest.raises(RuntimeError), client.transaction():
            kind.objects.create(store_name, client=client)
            object_id = store.hydrate().object_id
            raise RuntimeError
        with pytest.raises(AttributeError, match="hydrate"):
            _ = store.object_id
        kind.objects.create(store_name, client=client)
        assert store.hydrate().object_id != object_id


def test_object_id_is_known_where_the_transaction_has_the_only_connection(client_of_one, kind, store_name):
    store = kind.persist(store_name, client=client_of_one)

    with client_of_one.transaction():
        object_id = store.hydrate().object_id

    assert store.object_id == object_id


# ---------------------------------------------------------------------------------------------------------- ephemeral


def test_an_ephemeral_store_lives_as_long_as_its_block(client, kind):
    with kind.ephemeral(client=client) as store:
        use(lambda operation, *arguments: operation(*arguments), store)
        assert store.name is None
        assert store.info().name is None
        again = kind.from_id(store.object_id, client=client).hydrate()

    with pytest.raises(pgstore.NotFoundError, match="ephemeral"):
        use(lambda operation, *arguments: operation(*arguments), store)
    with pytest.raises(pgstore.NotFoundError):
        kind.from_id(again.object_id, client=client).hydrate()


def test_an_ephemeral_store_is_an_asynchronous_context_manager_too(client, kind):
    async def work():
        async with kind.ephemeral(client=client) as store:
            await store.info.aio()
        await client.aclose()
        return store.name

    assert asyncio.run(work()) is None


def test_a_task_that_fails_holds_up_neither_the_heartbeat_nor_other_tasks(client, database):
    """
    It is tried again a minute later; without a heartbeat for ten minutes everything of this process would be swept.
    """
    pgstore.Dict.ephemeral(client).hydrate()
    done = []

    def failing():
        done.append("tried")
        yield from ()
        raise errors.FileTooLarge("for ever")

    def working():
        done.append("done")
        yield from ()

    client.session.later(failing)
    client.session.later(working)
    with psycopg.connect(database, autocommit=True) as connection:
        age = "UPDATE pgstore.session SET heartbeat_at = heartbeat_at - interval '5 minutes' WHERE id = %s"
        connection.execute(age, [client.session.id])

        client.run(client.session.keep())

        beats = "SELECT heartbeat_at > now() - interval '1 minute' FROM pgstore.session WHERE id = %s"
        assert connection.execute(beats, [client.session.id]).fetchone() == (True,)
    assert done == ["tried", "done"]
    client.run(client.session.keep())
    assert done == ["tried", "done", "tried"]


def test_two_rounds_of_housekeeping_at_once_do_each_errand_once(client):
    """
    One may be that of a client which is being closed: an errand that is done twice takes the next one's place, which is lost.
    """
    pgstore.Dict.ephemeral(client).hydrate()
    begun, go_on = threading.Event(), threading.Event()
    done = []

    def slow():
        begun.set()
        yield Call(lambda: go_on.wait(20))
        done.append("slow")

    def quick():
        done.append("quick")
        yield from ()

    client.session.later(slow)
    client.session.later(quick)
    other = threading.Thread(target=lambda: client.run(client.session.keep()))
    other.start()
    begun.wait(20)

    client.run(client.session.keep())
    go_on.set()
    other.join()

    assert done == ["quick", "slow"]


def test_an_ephemeral_store_is_usable_at_once_and_goes_with_its_handle(client):
    store = pgstore.Dict.ephemeral(client=client)
    store["k"] = 1
    object_id = store.object_id

    del store
    gc.collect()
    client.run(client.session.keep())  # what the background thread does each minute

    with pytest.raises(pgstore.NotFoundError):
        pgstore.Dict.from_id(object_id, client=client).hydrate()


def test_ephemeral_stores_go_when_the_interpreter_exits(client, database):
    code = (
        "import pgstore, sys\n"
        "pgstore.configure(sys.argv[1])\n"
        "d = pgstore.Dict.ephemeral(); d['k'] = 1; print(d.object_id)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, database], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    with pytest.raises(pgstore.NotFoundError):
        pgstore.Dict.from_id(done.stdout.strip(), client=client).hydrate()


def test_after_a_crash_ephemeral_stores_are_swept_once_their_session_is_silent(client, client_elsewhere, sql):
    """
    A process that is killed cannot clean up; ten minutes without a heartbeat tell.
    """
    store = pgstore.Dict.ephemeral(client=client)
    store["k"] = 1
    sql("UPDATE pgstore.session SET heartbeat_at = now() - interval '9 minutes' WHERE id = %s", client.session._id)
    client_elsewhere.run(session.sweep())
    assert store["k"] == 1

    sql("UPDATE pgstore.session SET heartbeat_at = now() - interval '11 minutes' WHERE id = %s", client.session._id)
    client_elsewhere.run(session.sweep())

    with pytest.raises(pgstore.NotFoundError):
        store["k"] = 2
    client.run(client.session.keep())
    fresh = pgstore.Dict.ephemeral(client=client)  # a new session is started
    fresh["k"] = 1
    assert fresh["k"] == 1


def test_only_ephemeral_stores_are_context_managers(client, kind, store_name):
    with pytest.raises(pgstore.InvalidError, match="not ephemeral"), kind.persist(store_name, client=client):
        pass


# ------------------------------------------------------------------------------------------------- first use, clones

ALL_KINDS = [pgstore.Dict, pgstore.Queue, pgstore.Volume, pgstore.NetworkFileSystem]


@pytest.fixture(params=ALL_KINDS, ids=lambda kind: kind.__name__)
def any_kind(request):
    return request.param


def at_once(*calls):
    """The results of *calls*, begun by threads at the same time."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(number, function):
        barrier.wait()
        try:
            results[number] = function()
        except BaseException as exc:
            results[number] = exc

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def ephemerals(sql):
    """A call that gives the number of ephemeral stores of a client."""

    def count(client):
        return sql("SELECT count(*) FROM pgstore.store WHERE session_id = %s", client.session.id)[0][0]

    return count


@pytest.mark.parametrize("way", ["ephemeral", "persist"])
def test_threads_that_use_a_new_handle_first_make_one_store(client, any_kind, way, store_name, ephemerals):
    for number in range(3):
        store = (
            any_kind.ephemeral(client=client)
            if way == "ephemeral"
            else any_kind.persist(f"{store_name}-{number}", client=client)
        )
        clones = [store, store, store, store]

        found = at_once(*[lambda each=each: client.run(each._resolve_id()) for each in clones])

        assert len(set(found)) == 1, found
        assert store.object_id == f"{any_kind._id_prefix}-{found[0]}"
        assert ephemerals(client) == (way == "ephemeral")
        del store, clones
        gc.collect()
        if client.session.id is not None:
            client.run(client.session.keep())


def test_tasks_that_use_a_new_handle_first_make_one_store(client, any_kind, ephemerals):
    store = any_kind.ephemeral(client=client)

    async def work():
        await asyncio.gather(*[store.hydrate.aio() for _ in range(5)])
        await client.aclose()

    asyncio.run(work())

    assert ephemerals(client) == 1
    assert store.hydrate().object_id == store.object_id


def test_threads_and_event_loops_that_use_it_first_make_one_store(client, ephemerals):
    queue = pgstore.Queue.ephemeral(client=client)

    at_once(*[lambda n=n: queue.put(n) for n in range(2)], *[lambda n=n: asyncio.run(queue.put.aio(n)) for n in (2, 3)])

    assert sorted(queue.get_many(10)) == [0, 1, 2, 3]
    assert ephemerals(client) == 1


def test_a_first_use_that_fails_lets_the_next_try(client, any_kind, monkeypatch):
    store = any_kind.ephemeral(client=client)
    with monkeypatch.context() as patch, pytest.raises(errors.StatementFailed):
        patch.setattr(store, "_environment_name", None)
        patch.setattr(any_kind, "_kind", "no kind")
        store.hydrate()

    assert store.hydrate().object_id


def test_a_first_use_in_a_transaction_that_rolls_back_keeps_the_store(client, any_kind, ephemerals):
    """
    The store is made apart from a transaction of pgstore's own: only what is in it is undone.
    """
    store = any_kind.ephemeral(client=client)
    with pytest.raises(RuntimeError), client.transaction():
        store.hydrate()
        raise RuntimeError

    use(lambda operation, *arguments: operation(*arguments), store) if any_kind in KINDS else store.listdir("/")
    assert ephemerals(client) == 1


def test_a_client_of_one_connection_makes_it_anew_after_a_rollback(database, any_kind, store_name):
    """
    There it is made in the transaction, and goes with it.
    """
    with pgstore.Client(database, connections_max=1) as client:
        for store in (any_kind.ephemeral(client=client), any_kind.persist(store_name, client=client)):
            with pytest.raises(RuntimeError), client.transaction():
                store.hydrate()
                raise RuntimeError

            again = store.hydrate().object_id
            assert any_kind.from_id(again, client=client).hydrate().object_id == again


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_first_use_in_a_joined_transaction_ends_with_it(client, database, end):
    """
    The store belongs to the caller's transaction; the handle is of one store, before and after.
    """
    store = pgstore.Dict.ephemeral(client=client)
    with psycopg.connect(database) as connection:
        with client.transaction(connection) as tx:
            store["k"] = 1
            assert store.using(tx)["k"] == 1
        getattr(connection, end)()

    assert store.get("k") == (1 if end == "commit" else None)
    assert len(store) == (end == "commit")


def test_two_joined_transactions_that_use_it_first_make_one_store(client, database, ephemerals):
    """
    The second waits for the first, as it would for a store of a name.
    """
    queue = pgstore.Queue.ephemeral(client=client)
    with psycopg.connect(database) as first, psycopg.connect(database) as second:
        with client.transaction(first):
            queue.put(1)

        def join():
            with client.transaction(second):
                queue.put(2)
            second.commit()

        thread = threading.Thread(target=join)
        thread.start()
        first.commit()
        thread.join()

    assert sorted(queue.get_many(10)) == [1, 2]
    assert ephemerals(client) == 1


def test_ephemeral_stores_used_and_dropped_in_one_joined_transaction_are_not_mixed_up(client, database):
    """
    Of two handles the second may lie where the first has lain.
    """
    with psycopg.connect(database) as connection, client.transaction(connection):
        for number in range(20):
            store = pgstore.Dict.ephemeral(client=client)
            assert store.get("k") is None
            store["k"] = number
            del store
            gc.collect()


def variants(store, transaction):
    """All that can be made of a handle, and of what was made of it."""
    made = [store.using(transaction), store.using(transaction).using(transaction)]
    if isinstance(store, pgstore.Volume):
        made += [store.read_only(), store.with_mount_options(sub_path="a"), store.using(transaction).read_only()]
        made += [made[-1].using(transaction), store.at(0).using(transaction)]
    return made


@pytest.mark.parametrize("first", ["the handle", "a clone", "used before"])
@pytest.mark.parametrize("joined", [False, True], ids=["own", "joined"])
def test_all_that_is_made_of_a_handle_leads_to_one_store(client, database, any_kind, first, joined, ephemerals):
    store = any_kind.ephemeral(client=client)
    if first == "used before":
        store.hydrate()
    with psycopg.connect(database) as connection:
        with client.transaction(connection if joined else None) as tx:
            order = [store, *variants(store, tx)] if first != "a clone" else [*variants(store, tx), store]
            ids = {client.run(each._resolve_id(), each._bound) for each in order}
        connection.commit()

    assert len(ids) == 1
    assert ephemerals(client) == 1
    assert store.hydrate().object_id == f"{any_kind._id_prefix}-{ids.pop()}"


def test_an_ephemeral_store_lives_as_long_as_any_clone(client, any_kind, ephemerals):
    with client.transaction() as tx:
        store = any_kind.ephemeral(client=client)
        clone = store.using(tx).using(tx)
        clone.hydrate()
        del store
        gc.collect()
        client.run(client.session.keep())
        assert ephemerals(client) == 1
        del clone
    gc.collect()
    client.run(client.session.keep())
    assert ephemerals(client) == 0


def test_a_clone_that_was_used_first_ends_with_the_block_of_the_handle(client):
    volume = pgstore.Volume.ephemeral(client=client)
    reading = volume.read_only()
    with volume:
        assert reading.listdir("/") == []

    for each in (volume, reading):
        with pytest.raises(pgstore.NotFoundError, match="ephemeral"):
            each.listdir("/")


def test_a_clone_keeps_client_environment_and_options(client, store_name):
    entries = pgstore.Dict.from_name(
        store_name, environment_name="elsewhere", create_if_missing=True, serializer="json", ttl=60, client=client
    )

    with client.transaction() as tx:
        clone = entries.using(tx)
        clone["k"] = (1, 2)
        assert clone["k"] == [1, 2]

    assert clone._runner is client
    assert repr(clone) == repr(entries)
    assert entries["k"] == [1, 2]


def test_handles_that_were_given_no_client_and_their_clones_share_the_first_default(database, monkeypatch):
    """
    Which may be set anew between their first uses.
    """
    monkeypatch.setattr("pgstore.client.default._default", None)
    volume = pgstore.Volume.ephemeral()
    reading = volume.read_only()
    one = pgstore.configure(database)
    volume.hydrate()
    pgstore.configure("host=/nonexistent")

    assert reading.listdir("/") == []
    assert reading._runner is one
    one.close()


def test_an_id_that_no_store_can_have_is_refused(client):
    for number in (1 << 63, "9" * 30, "٣"):
        with pytest.raises(pgstore.InvalidError, match="not the id"):
            pgstore.Dict.from_id(f"di-{number}", client=client)


@pytest.mark.parametrize("connected", [True, False])
def test_a_handle_that_was_pickled_elsewhere_is_refused_on_first_use(
    call, client, database, empty_database, monkeypatch, store_name, connected
):
    """
    By its name it would find, or make, a store of this database that happens to have it.
    """
    travelling = pickle.dumps(pgstore.Dict.persist(store_name, client=client).hydrate())
    here = call.client(empty_database)
    monkeypatch.setattr("pgstore.client.default._default", here)
    if connected:
        pgstore.Dict.persist("any", client=here).hydrate()

    arrived = pickle.loads(travelling)
    for _ in range(2):
        with pytest.raises(pgstore.InvalidError, match="another database"):
            call(arrived.put, "k", 1)
    assert [store.name for store in pgstore.Dict.objects.list(client=here)] == ["any"] * connected

    monkeypatch.setattr("pgstore.client.default._default", call.client(database))
    assert call(pickle.loads(travelling).put, "k", 1)


# ----------------------------------------------------------------------------------------------- that were deleted

OF_DICTS = {
    "get": lambda store, call: call(store.get, "k"),
    "get_many": lambda store, call: call(store.get_many, ["k"]),
    "get_many of none": lambda store, call: call(store.get_many, []),
    "contains": lambda store, call: call(store.contains, "k"),
    "len": lambda store, call: call(store.len),
    "bool": lambda store, call: bool(store),
    "items": lambda store, call: call(store.items),
    "iterate": lambda store, call: list(store.iterate_keys()),
    "update": lambda store, call: call(store.update, {"k": 1}),
    "update of nothing": lambda store, call: call(store.update, {}),
    "pop": lambda store, call: call(store.pop, "k"),
    "pop_many": lambda store, call: call(store.pop_many, ["k"]),
    "pop_many of none": lambda store, call: call(store.pop_many, []),
    "popitem": lambda store, call: call(store.popitem),
    "clear": lambda store, call: call(store.clear),
    "touch": lambda store, call: call(store.touch, "k", 5),
    "increment": lambda store, call: call(store.increment, "k"),
    "setdefault": lambda store, call: call(store.setdefault, "k", 1),
    "lock": lambda store, call: call(store.lock("k", timeout=1).acquire),
    "watch": lambda store, call: next(store.watch(timeout=0.1)),
}
OF_QUEUES = {
    "get": lambda store, call: call(store.get, block=False),
    "get with a bound": lambda store, call: call(store.get, timeout=0.1),
    "get with a lease": lambda store, call: call(store.get, block=False, lease=5),
    "get_many": lambda store, call: call(store.get_many, 5, block=False),
    "put": lambda store, call: call(store.put, 1),
    "put_many": lambda store, call: call(store.put_many, [1]),
    "put_many of none": lambda store, call: call(store.put_many, []),
    "put with a delay": lambda store, call: call(store.put, 1, delay=5),
    "peek": lambda store, call: call(store.peek),
    "iterate": lambda store, call: list(store.iterate()),
    "len": lambda store, call: call(store.len),
    "len of all": lambda store, call: call(store.len, total=True),
    "clear": lambda store, call: call(store.clear),
    "dead_letters": lambda store, call: call(store.dead_letters),
    "revive": lambda store, call: call(store.revive),
    "discard": lambda store, call: call(store.discard),
}


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        *(pytest.param(pgstore.Dict, use, id=f"Dict-{name}") for name, use in OF_DICTS.items()),
        *(pytest.param(pgstore.Queue, use, id=f"Queue-{name}") for name, use in OF_QUEUES.items()),
    ],
)
@pytest.mark.parametrize("in_transaction", [False, True])
def test_nothing_of_a_deleted_store_looks_empty(call, client, client_elsewhere, store_name, kind, use, in_transaction):
    """
    A worker that polls would never notice, and never see what is put into the next store of the name.
    """
    options = {"watch": True} if kind is pgstore.Dict else {}
    store = kind.from_name(store_name, create_if_missing=True, client=client, **options).hydrate()
    kind.objects.delete(store_name, client=client_elsewhere)

    if in_transaction and call.form == "blocking":
        with client.transaction(), pytest.raises(pgstore.NotFoundError):
            use(store, call)
    else:
        with pytest.raises(pgstore.NotFoundError):
            use(store, call)


# -------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (pgstore.Dict, {"serializer": "json", "watch": True, "ttl": 60}),
        (pgstore.Queue, {"maxsize": 3, "max_attempts": 2}),
        (pgstore.Volume, {"keep": 3, "chunk_size": 8192}),
        (pgstore.NetworkFileSystem, {"storage": "large_object"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_all_ways_to_make_a_store_take_its_options(call, client, store_name, kind, options):
    call(kind.persist(store_name, client=client, **options).hydrate)
    call(kind.objects.create, f"{store_name}-b", client=client, **options)

    for name in (store_name, f"{store_name}-b"):
        kind.from_name(name, client=client, **options).hydrate()
    with pytest.raises(TypeError, match="colour"):
        kind.persist(store_name, client=client, colour="red")
