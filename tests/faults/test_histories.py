"""The database is replaced under its name while programs run: by a backup, by a schema made anew, behind a pooler.

Numbers that were given out since the backup are then given out again. What a client remembers must lead to nothing of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading

import psycopg
import pytest
from psycopg import sql

import pgstore
from pgstore import migrate
from pgstore.client.waking import LOCK_CLASS
from pgstore.queue import watermark
from pgstore.queue.state import client_queues
from tests.faults.conftest import Background, Eye, until

KINDS = [pgstore.Dict, pgstore.Queue, pgstore.Volume, pgstore.NetworkFileSystem]


class Replaceable:
    """A database that a backup can be made of, and put in its place."""

    def __init__(self, server, url):
        self.url = url
        self._server = server
        self._name = url.rpartition("/")[2]
        self._backup = f"{self._name}_backup"

    def back_up(self):
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(ended, [self._name])
        self._server.create_database(self._backup, template=self._name)

    def restore(self):
        self._server.drop_database(self.url)
        self._server.create_database(self._name, template=self._backup)

    def drop_backup(self):
        self._server.drop_database(self._server.url(self._backup))


@pytest.fixture
def database(server, own_database):
    """Not the one that all tests share."""
    replaceable = Replaceable(server, own_database)
    yield replaceable
    replaceable.drop_backup()


@pytest.fixture
def worker(call, database):
    """The client of a program that runs on while the database is replaced."""
    return call.client(database.url)


@pytest.fixture
def others(database):
    """Another program, which connects when the database has been replaced."""
    with pgstore.Client(database.url) as client:
        yield client


def write(call, store, what):
    """Store *what*, in whatever the store holds."""
    match store:
        case pgstore.Dict():
            call(store.put, "k", what)
        case pgstore.Queue():
            call(store.put, what)
        case _:
            call(store.put_file, io.BytesIO(what.encode()), "k")


def look(call, store):
    """What the store holds, or None."""
    match store:
        case pgstore.Dict():
            return call(store.get, "k")
        case pgstore.Queue():
            return call(store.get, block=False)
        case _:
            return contents(call, store, "k").decode() if call(store.exists, "k") else None


def contents(call, store, path):
    pieces = store.read_file(path)
    return b"".join(pieces if call is plainly else call.iterate(pieces))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def any_kind(request):
    return request.param


@pytest.fixture(params=[pgstore.Dict, pgstore.Volume], ids=lambda kind: kind.__name__)
def kind(request):
    """Those of which the operations find the store in different ways."""
    return request.param


def plainly(operation, *args, **kwargs):
    return operation(*args, **kwargs)


# ------------------------------------------------------------------------------------------------------------- handles


@pytest.mark.parametrize("first", [look, write])
def test_a_handle_does_not_reach_the_store_that_has_its_number_in_a_backup(
    call, database, worker, others, any_kind, first
):
    """
    The worker's store was made after the backup; by number it would be the next one that is made after the restore.
    """
    any_kind.persist("old", client=worker).hydrate()
    database.back_up()
    scratch = any_kind.persist("scratch", client=worker)
    write(call, scratch, "the worker's")
    database.restore()
    payroll = any_kind.persist("payroll", client=others)
    write(plainly, payroll, "payroll")

    seen = first(call, scratch, "overwritten") if first is write else first(call, scratch)

    assert seen is None
    assert look(plainly, payroll) == "payroll"
    assert any_kind.from_name("scratch", client=others).hydrate().object_id == scratch.object_id
    assert scratch.object_id != payroll.object_id


def test_a_handle_that_makes_nothing_says_that_its_store_is_not_there(call, database, worker, kind):
    database.back_up()
    kind.persist("scratch", client=worker).hydrate()
    scratch = kind.from_name("scratch", client=worker)
    look(call, scratch)
    database.restore()

    for _ in range(2):
        with pytest.raises(pgstore.NotFoundError, match="scratch"):
            look(call, scratch)


def test_a_store_of_the_backup_is_used_on_without_an_error(call, database, worker, kind):
    store = kind.persist("store", client=worker)
    write(call, store, "before")
    database.back_up()
    write(call, store, "lost")
    database.restore()

    assert look(call, store) == "before"
    write(call, store, "after")
    assert look(call, store) == "after"


def test_a_store_that_was_made_anew_under_its_name_is_found_by_it(call, database, worker, others, kind):
    """
    As after a failover that lost a deletion and what came then: the name is what the handle was made for.
    """
    database.back_up()
    store = kind.persist("store", client=worker)
    write(call, store, "the worker's")
    database.restore()
    write(plainly, kind.persist("store", client=others), "another")

    assert look(call, store) == "another"


def test_what_cannot_be_read_twice_is_not_put_as_nothing(call, database, worker):
    """
    An operation is repeated on the store that has the name now only if its arguments can be given again.
    """
    database.back_up()
    queue = pgstore.Queue.persist("queue", client=worker)
    call(queue.put, "lost")
    database.restore()

    with pytest.raises(pgstore.NotFoundError, match="another history"):
        call(queue.put_many, iter(range(3)))

    call(queue.put_many, iter(range(3)))
    assert call(queue.get_many, 10) == [0, 1, 2]


def test_transactions_find_stores_anew_too(database, kind):
    with pgstore.Client(database.url) as worker, pgstore.Client(database.url) as others:
        database.back_up()
        store = kind.persist("store", client=worker)
        write(plainly, store, "the worker's")
        database.restore()
        payroll = kind.persist("payroll", client=others)
        write(plainly, payroll, "payroll")

        with worker.transaction():
            assert look(plainly, store) is None
            write(plainly, store, "in a transaction")

        assert look(plainly, store) == "in a transaction"
        assert look(plainly, payroll) == "payroll"


def test_a_joined_connection_to_the_new_database_is_not_refused_by_what_is_remembered(database, kind):
    """
    The connections of the client's own are older, and may not have been used since.
    """
    with pgstore.Client(database.url) as worker, pgstore.Client(database.url) as others:
        database.back_up()
        store = kind.persist("store", client=worker)
        write(plainly, store, "the worker's")
        database.restore()
        payroll = kind.persist("payroll", client=others)
        write(plainly, payroll, "payroll")

        with psycopg.connect(database.url) as connection, worker.transaction(connection):
            assert look(plainly, store) is None
            write(plainly, store, "joined")

        assert look(plainly, store) == "joined"
        assert look(plainly, payroll) == "payroll"


def test_an_ephemeral_store_of_another_history_is_gone_and_not_made_again(call, database, worker, kind):
    database.back_up()
    store = kind.ephemeral(client=worker)
    write(call, store, "the worker's")
    database.restore()

    for _ in range(2):
        with pytest.raises(pgstore.NotFoundError, match="ephemeral"):
            write(call, store, "more")
    fresh = kind.ephemeral(client=worker)
    write(call, fresh, "fresh")
    assert look(call, fresh) == "fresh"


def test_a_handle_made_by_id_leads_to_that_id_or_nowhere(call, database, worker, others, kind):
    kind.persist("old", client=worker).hydrate()
    database.back_up()
    store = kind.from_id(kind.persist("scratch", client=worker).hydrate().object_id, client=worker)
    look(call, store)
    database.restore()
    kind.persist("payroll", client=others).hydrate()

    with pytest.raises(pgstore.NotFoundError, match="there is no"):
        look(call, store)


def test_a_schema_that_was_made_anew_under_open_connections_is_noticed(call, database, worker, others, kind):
    """
    No connection breaks, and the sequences begin again.
    """
    store = kind.persist("store", client=worker)
    write(call, store, "before")
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA pgstore CASCADE")
    migrate.upgrade(database.url)
    payroll = kind.persist("payroll", client=others)
    write(plainly, payroll, "payroll")
    backend = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgstore'"
    )
    eye = Eye(database.url)
    assert eye.value(backend) >= 2
    eye.close()

    assert look(call, store) is None
    write(call, store, "after")

    assert look(call, store) == "after"
    assert look(plainly, payroll) == "payroll"


def test_a_pooler_that_leads_elsewhere_unnoticed_leads_to_no_other_store(call, database, pgbouncer, others, kind):
    """
    The connection to the pooler stays, so that nothing tells the client.
    """
    worker = call.client(pgbouncer.url(database.url))
    kind.persist("old", client=worker).hydrate()
    pgbouncer_pauses(pgbouncer)
    database.back_up()
    scratch = kind.persist("scratch", client=worker)
    write(call, scratch, "the worker's")
    pgbouncer_pauses(pgbouncer)
    database.restore()
    payroll = kind.persist("payroll", client=others)
    write(plainly, payroll, "payroll")

    assert look(call, scratch) is None
    write(call, scratch, "after")

    assert look(call, scratch) == "after"
    assert look(plainly, payroll) == "payroll"


def pgbouncer_pauses(pgbouncer):
    """Let the pooler give its connections to the server up, and keep those of its clients."""
    with psycopg.connect(pgbouncer.url("/pgbouncer"), autocommit=True, prepare_threshold=None) as connection:
        connection.execute("RECONNECT")


def test_a_forked_child_finds_the_stores_of_its_own_connections(database):
    """
    The child opens a connection of its own, perhaps to another history than the parent knew.
    """
    with pgstore.Client(database.url) as worker, pgstore.Client(database.url) as others:
        database.back_up()
        store = pgstore.Dict.persist("store", client=worker)
        store["k"] = "the worker's"
        database.restore()
        payroll = pgstore.Dict.persist("payroll", client=others)
        payroll["k"] = "payroll"

        child = os.fork()
        if not child:
            try:
                store["k"] = "the child's"
            finally:
                os._exit(0)
        os.waitpid(child, 0)

        assert payroll["k"] == "payroll"
        assert pgstore.Dict.from_name("store", client=others)["k"] == "the child's"


def test_listed_handles_keep_the_history_in_which_they_were_listed(call, database, worker, others):
    database.back_up()
    pgstore.Dict.persist("scratch", client=worker).hydrate()
    (scratch,) = call(pgstore.Dict.objects.list, client=worker)
    database.restore()
    payroll = pgstore.Dict.persist("payroll", client=others)
    payroll["k"] = "payroll"

    with pytest.raises(pgstore.NotFoundError, match="scratch"):
        call(scratch.get, "k")


def test_connections_to_the_old_history_are_given_up(server, own_database):
    """
    Else some threads would go on with the old server, if it lives, while others are with the new one.
    """
    with pgstore.Client(own_database) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        before = client._blocking.pool.acquire()
        client._blocking.pool.release(before)
        with psycopg.connect(own_database, autocommit=True) as connection:
            connection.execute("UPDATE pgstore.installation SET id = gen_random_uuid()")

        Background(entries.get, "k").result()  # on a thread, and a connection, of its own

        after = client._blocking.pool.acquire()
        client._blocking.pool.release(after)
        assert after is not before
        assert entries["k"] == 1


def test_who_waits_listens_where_the_client_is_now(own_database, eye):
    """
    The listening connection may lead to the old server, as long as that lives: what is put into the new one is not told there.
    """
    listening = "SELECT min(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND mode = 'ShareLock'"
    with pgstore.Client(own_database) as client:
        queue = pgstore.Queue.persist("queue", client=client)
        waiting = Background(queue.get)
        before = until(lambda: eye.value(listening, LOCK_CLASS))
        eye.rows("UPDATE pgstore.installation SET id = gen_random_uuid()")

        Background(queue.len).result()  # on a connection of its own

        until(lambda: eye.value(listening, LOCK_CLASS) not in (None, before))
        queue.put("item")
        assert waiting.result() == "item"


# ------------------------------------------------------------------------------------------ what else is remembered


def test_ids_of_stores_and_sessions_do_not_come_again(own_database):
    """
    Not even if the sequences begin again; and they still grow.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        seen: dict[str, list[int]] = {"store": [], "session": []}
        for number in range(3):
            if number == 2:
                connection.execute("ALTER SEQUENCE pgstore.store_id_seq RESTART")
                connection.execute("ALTER SEQUENCE pgstore.session_id_seq RESTART")
            pgstore.Dict.persist(f"d{number}", client=client).hydrate()
            with pgstore.Client(own_database) as other:
                other.run(other.session.current())
                for table, ids in seen.items():
                    rows = connection.execute(f"SELECT id FROM pgstore.{table} ORDER BY id").fetchall()
                    ids.append(next(row[0] for row in rows if row[0] not in ids))

    for first, second, third in seen.values():
        assert (first >> 20, second >> 20, third >> 20) == (1, 2, 1)
        assert first != third


def test_a_session_is_not_taken_for_anothers_that_has_its_number(call, database, worker, others):
    """
    Its end deletes the ephemeral stores of the session: those of others must not be among them.
    """
    database.back_up()
    write(call, pgstore.Dict.ephemeral(client=worker), "the worker's")
    database.restore()
    theirs = pgstore.Dict.ephemeral(client=others)
    theirs["k"] = 1
    call(pgstore.Dict.persist("any", client=worker).len)

    worker.close()

    assert theirs["k"] == 1


def test_an_ephemeral_store_made_after_the_restore_belongs_to_a_session_that_is_there(call, database, worker):
    """
    One that nobody can find dead would never be swept.
    """
    database.back_up()
    write(call, pgstore.Dict.ephemeral(client=worker), "before")
    database.restore()
    call(pgstore.Dict.persist("any", client=worker).len)
    fresh = pgstore.Dict.ephemeral(client=worker)
    write(call, fresh, "after")

    eye = Eye(database.url)
    orphans = "SELECT count(*) FROM pgstore.store s WHERE s.session_id NOT IN (SELECT id FROM pgstore.session)"
    assert eye.value(orphans) == 0
    eye.close()


def test_a_mark_of_the_old_history_passes_over_nothing(call, database, worker, monkeypatch):
    """
    Items of the backup lie below the watermark that the client has raised since; the first get after the restore finds them.
    """
    monkeypatch.setattr(watermark, "ADVANCE_ITEMS", 1)
    monkeypatch.setattr("pgstore.queue.watermark.FRESH_SECONDS", 1e6)
    queue = pgstore.Queue.persist("queue", client=worker)
    call(queue.put_many, ["first", "second"])
    database.back_up()
    for number in range(20):
        call(queue.put, number)
        call(queue.get)
    (knows,) = client_queues(worker).queue(int(queue.object_id[3:]))._partitions.values()
    assert knows.value > 2
    database.restore()

    assert [call(queue.get, block=False) for _ in range(3)] == ["first", "second", None]


def test_a_waiting_get_goes_on_in_the_new_history(call, database, worker, others):
    """
    It waits for items of a name, and the store of that name is another one now.
    """
    queue = pgstore.Queue.persist("queue", client=worker)
    call(queue.put, "lost")
    call(queue.get)
    eye = Eye(database.url)

    def replace_and_put():
        until(lambda: eye.waiting() == 1)
        eye.rows(
            "WITH gone AS (DELETE FROM pgstore.store WHERE name = 'queue') "
            "UPDATE pgstore.installation SET id = gen_random_uuid()"
        )
        pgstore.Queue.persist("queue", client=others).put("item")

    replacing = Background(replace_and_put)

    assert call(queue.get, timeout=30) == "item"

    replacing.result()
    eye.close()


@pytest.mark.parametrize("end", ["ack", "nack", "extend"])
def test_a_lease_ends_no_other_that_has_its_number(call, database, worker, others, end):
    """
    The queue is in the backup, so its id is the same; numbers of leases are given out again.
    """
    queue = pgstore.Queue.persist("queue", client=worker)
    call(queue.hydrate)
    database.back_up()
    call(queue.put, "the worker's")
    mine = call(queue.get, lease=60)
    database.restore()
    elsewhere = pgstore.Queue.from_name("queue", client=others)
    elsewhere.put("another")
    theirs = elsewhere.get(lease=60)
    assert theirs._row[0] == mine._row[0]

    with pytest.raises(pgstore.errors.LeaseLost):
        call(getattr(mine, end))

    theirs.extend()
    theirs.ack()


def test_a_renewal_prolongs_no_other_lease_that_has_its_number(call, database, worker, others):
    queue = pgstore.Queue.persist("queue", client=worker)
    call(queue.hydrate)
    database.back_up()
    call(queue.put, "the worker's")
    mine = call(queue.get, lease=1, renew=True)
    database.restore()
    elsewhere = pgstore.Queue.from_name("queue", client=others)
    elsewhere.put("another")
    theirs = elsewhere.get(lease=600)
    assert theirs._row[0] == mine._row[0]

    until(lambda: mine.is_lost)

    eye = Eye(database.url)
    left = "SELECT extract(epoch FROM due_at - statement_timestamp()) FROM pgstore.queue_deferred"
    assert eye.value(left) > 500
    eye.close()


def test_owed_counts_are_not_told_to_another_history(call, database, worker):
    queue = pgstore.Queue.persist("queue", client=worker)
    call(queue.put_many, [1, 2, 3])
    database.back_up()
    assert call(queue.get_many, 3) == [1, 2, 3]
    database.restore()
    call(queue.len)

    worker.close()

    eye = Eye(database.url)
    assert eye.rows("SELECT gets FROM pgstore.queue_count") == []
    eye.close()


def test_a_watcher_is_told_that_it_may_have_missed_something(call, database, worker, others):
    entries = pgstore.Dict.persist("entries", client=worker)
    watched = pgstore.Dict.from_name("watched", create_if_missing=True, watch=True, client=worker)
    call(entries.hydrate)
    call(watched.hydrate)
    database.back_up()
    with watched.watch(timeout=10) as changes:
        watched_now = iter_one(call, changes, lambda: watched.put("lost", 1))
        assert watched_now.key == "lost"
        database.restore()
        call(entries.len)  # the client learns of it

        assert iter_one(call, changes, None).kind == "reset"
        elsewhere = pgstore.Dict.from_name("watched", client=others)
        assert iter_one(call, changes, lambda: elsewhere.put("new", 1)).key == "new"


def iter_one(call, changes, change):
    """The next change; *change* makes it once the watcher waits."""
    timer = threading.Timer(0.3, change) if change else None
    if timer:
        timer.start()
    if call.form == "blocking":
        return next(changes)
    return call.run(anext(changes))


def test_a_version_is_pinned_anew(call, database, worker):
    volume = pgstore.Volume.persist("volume", client=worker)
    call(volume.put_file, io.BytesIO(b"one"), "file")
    database.back_up()
    old = volume.at(1)
    assert contents(call, old, "file") == b"one"
    database.restore()

    for _ in range(2):  # the first of which learns of it
        assert contents(call, old, "file") == b"one"

    eye = Eye(database.url)
    assert eye.value("SELECT count(*) FROM pgstore.version_pin p JOIN pgstore.session s ON s.id = p.session_id") == 1
    eye.close()


def test_an_open_file_of_another_history_is_stale(call, database, worker, others):
    """
    Its inode, and the chunks of a large one, may be others' there.
    """
    large = os.urandom(300_000)
    volume = pgstore.Volume.persist("volume", client=worker)
    nfs = pgstore.NetworkFileSystem.persist("nfs", client=worker)
    call(volume.hydrate)
    call(nfs.hydrate)
    database.back_up()
    call(volume.put_file, io.BytesIO(large), "large")
    call(nfs.put_file, io.BytesIO(b"mine"), "file")
    reading = volume.open("large", "rb", buffering=0)
    writing = volume.open("new", "wb", buffering=0)
    written = volume.open("newer", "wb", buffering=0)
    written.write(b"mine")
    in_place = nfs.open("file", "r+b", buffering=0)
    database.restore()
    theirs = pgstore.NetworkFileSystem.from_name("nfs", client=others)
    theirs.put_file(io.BytesIO(b"theirs"), "another")
    call(volume.exists, "large")  # the client learns of it

    for attempt in (lambda: reading.read(10), lambda: writing.write(b"x"), written.close, lambda: in_place.write(b"x")):
        with pytest.raises(pgstore.errors.StaleFile, match="before the database was replaced"):
            attempt()

    for file in (reading, writing, in_place):
        with contextlib.suppress(pgstore.Error):
            file.close()
    assert contents(plainly, theirs, "another") == b"theirs"


def test_inodes_that_were_reserved_in_another_history_are_not_made(call, database, worker, others):
    """
    They were drawn from a sequence that has gone back: others are given the same numbers.
    """
    volume = pgstore.Volume.persist("volume", client=worker)
    call(volume.put_file, io.BytesIO(b"0"), "zero")
    database.back_up()
    call(volume.put_file, io.BytesIO(b"1"), "one")
    database.restore()
    elsewhere = pgstore.Volume.from_name("volume", client=others)
    for number in range(40):
        elsewhere.put_file(io.BytesIO(b"theirs"), f"theirs/{number}")
    call(volume.exists, "zero")

    for number in range(40):
        call(volume.put_file, io.BytesIO(b"mine"), f"mine/{number}")

    assert {contents(plainly, elsewhere, f"theirs/{number}") for number in range(40)} == {b"theirs"}
    assert {contents(plainly, elsewhere, f"mine/{number}") for number in range(40)} == {b"mine"}


def test_event_loops_find_stores_anew_each(database):
    """
    A loop's connections are its own; a thread elsewhere may be the first to learn of the other history.
    """
    with pgstore.Client(database.url) as worker, pgstore.Client(database.url) as others:
        database.back_up()
        store = pgstore.Dict.persist("store", client=worker)

        async def work():
            await store.put.aio("k", "the worker's")
            await asyncio.to_thread(database.restore)
            await asyncio.to_thread(pgstore.Dict.persist("payroll", client=others).put, "k", "payroll")
            await asyncio.to_thread(pgstore.Dict.persist("any", client=worker).len)
            return await asyncio.gather(*[store.get.aio("k") for _ in range(5)])

        assert asyncio.run(work()) == [None] * 5
        assert pgstore.Dict.from_name("payroll", client=others)["k"] == "payroll"


def test_history_is_that_of_schema_database_and_timeline(own_server):
    """
    A restart is no other history; a promoted standby's timeline is.
    """
    url = own_server.create_database()
    with pgstore.Client(url) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        entries["k"] = 1
        history = client.history
        assert history is not None
        assert history.cluster is not None
        own_server.restart()
        assert entries["k"] == 1
        assert client.history is history
        own_server.kill()
        own_server.start()
        assert entries["k"] == 1
        assert client.history is history
        system, timeline = history.cluster.split("/")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone() == (int(system),)
        assert timeline == "00000001"


def test_a_role_that_may_not_read_the_cluster_is_no_other_history(server, own_database):
    """
    Managed servers may keep it to themselves; schema and database tell as much as can be known.
    """
    with psycopg.connect(own_database, autocommit=True) as connection:
        revoke = sql.SQL("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        connection.execute(revoke)
        connection.execute("CREATE ROLE kept_out LOGIN")
        connection.execute("GRANT pgstore_writer TO kept_out")
    url = own_database.replace("postgres@", "kept_out@")
    try:
        with pgstore.Client(url) as client:
            entries = pgstore.Dict.persist("entries", client=client)
            entries["k"] = 1
            history = client.history
            assert history is not None
            assert history.cluster is None
            assert Background(entries.get, "k").result() == 1
            assert client.history is history
    finally:
        server.drop_database(own_database)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("DROP ROLE kept_out")
