"""Waiting for a put: no put goes unseen, nobody is told what nobody waits for, and waiting costs next to nothing."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import psycopg
import pytest

import pgstore
from pgstore import connection
from pgstore.client import listener
from pgstore.client.listener import AsyncTicket, BlockingTicket
from pgstore.client.pauses import pause_seconds, waits
from pgstore.core import operation
from pgstore.errors import InvalidError
from pgstore.queue import take as take_module
from pgstore.queue.state import PartitionState
from pgstore.serializers import dumps
from tests.faults.conftest import Background, look_rarely, until

PROMPT = 5.0  # far below the time after which a waiter would look by itself; a busy machine needs some of it


@pytest.fixture
def client(own_database):
    client = pgstore.Client(f"{own_database}?application_name=waiter")
    yield client
    client.close()


@pytest.fixture
def queue(client):
    queue = pgstore.Queue.persist("queue", client=client)
    queue.hydrate()
    return queue


@pytest.fixture
def elsewhere(own_database):
    with pgstore.Client(own_database) as client:
        yield pgstore.Queue.persist("queue", client=client).hydrate()


@pytest.fixture
def deaf_otherwise(monkeypatch):
    """Waiters look by themselves once a minute only: what wakes them earlier is a notification."""
    look_rarely(monkeypatch)


def before(monkeypatch, owner, name, action):
    """Run *action* before the first call of a method, blocking or not."""
    original = getattr(owner, name)
    done: list[int] = []

    def call(self, *args, **kwargs):
        if not done:
            done.append(1)
            action()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, call)


# ------------------------------------------------------------------------------------------------------ lost wake-ups


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_put_between_the_look_and_the_wait_wakes(call, queue, elsewhere, deaf_otherwise, monkeypatch):
    """
    The waiter has seen an empty queue and is about to sleep: it is registered already.
    """
    ticket = BlockingTicket if call.form == "blocking" else AsyncTicket
    before(monkeypatch, ticket, "wait", lambda: elsewhere.put("item"))
    began = time.monotonic()

    assert call(queue.get) == "item"
    assert time.monotonic() - began < PROMPT


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_put_between_the_registration_and_the_look_is_seen(call, queue, elsewhere, deaf_otherwise, monkeypatch):
    put: list[int] = []
    original = operation.Query

    def query(statement, *values, **options):
        if statement is pgstore.Queue._LOOK and values[3] is not None and not put:
            put.append(1)
            elsewhere.put("item")
        return original(statement, *values, **options)

    monkeypatch.setattr(take_module, "Query", query)
    began = time.monotonic()

    assert call(queue.get) == "item"
    assert time.monotonic() - began < PROMPT


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_a_put_before_the_registration_is_found_by_the_second_look(call, queue, elsewhere, deaf_otherwise, monkeypatch):
    """
    Nobody was registered, so nobody is told.
    """
    kind = listener.BlockingListener if call.form == "blocking" else listener.AsyncListener
    before(monkeypatch, kind, "register", lambda: elsewhere.put("item"))
    began = time.monotonic()

    assert call(queue.get) == "item"
    assert time.monotonic() - began < PROMPT


def test_a_waiting_get_is_woken_by_every_kind_of_put(call, queue, elsewhere, deaf_otherwise, eye):
    def put_in_transaction():
        with elsewhere._runner.transaction():
            elsewhere.put("item")

    def put_in_joined_transaction():
        with psycopg.connect(eye.url) as connection, elsewhere._runner.transaction(connection=connection):
            elsewhere.put("item")

    for put in (
        lambda: elsewhere.put("item"),
        lambda: elsewhere.put_many(["item"]),
        put_in_transaction,
        put_in_joined_transaction,
    ):
        getting = Background(call, queue.get)
        until(eye.waiting)
        put()
        assert getting.result(PROMPT) == "item"


def test_eight_waiters_and_eight_puts_all_make_progress(client, queue, elsewhere, deaf_otherwise, eye):
    getting = [Background(queue.get) for _ in range(8)]
    until(lambda: sum(len(entry.idle) for entry in client._blocking.listener.registry._entries.values()) == 8)

    for number in range(8):
        elsewhere.put(number)

    assert sorted(each.result(PROMPT) for each in getting) == list(range(8))


def _id(queue):
    return queue.object_id.removeprefix("qu-")


def test_a_waiter_whose_queue_is_deleted_is_told(call, queue, elsewhere, eye, monkeypatch):
    monkeypatch.setattr(take_module, "pause_seconds", lambda waiting: 0.05)
    getting = Background(call, queue.get)
    until(eye.waiting)

    pgstore.Queue.objects.delete("queue", client=elsewhere._runner)

    with pytest.raises(pgstore.NotFoundError):
        getting.result()


# -------------------------------------------------------------------------------------------------------------- costs


def heard(connection, eye):
    """What was notified up to now."""
    eye.rows("SELECT pg_notify('pgstore', 'now')")
    payloads = []
    for note in connection.notifies(timeout=30):
        if note.payload == "now":
            break
        payloads.append(note.payload)
    return payloads


def test_a_put_notifies_only_if_somebody_waits(call, queue, elsewhere, eye):
    """
    A notification makes all commits of the database wait for each other.
    """
    with psycopg.connect(eye.url, autocommit=True) as connection:
        for channel in ("pgstore", *(f"pgstore_{number}" for number in range(256))):
            connection.execute(f"LISTEN {channel}")

        elsewhere.put("a")
        with elsewhere._runner.transaction():
            elsewhere.put_many(["b"])
        assert heard(connection, eye) == []

        assert len(call(queue.get_many, 2)) == 2
        getting = Background(call, queue.get)
        until(eye.slots)
        elsewhere.put("c", partition="other")
        assert heard(connection, eye) == []
        elsewhere.put("d")
        assert heard(connection, eye) == [f"0 1 0 {_id(queue)}/"]
        assert getting.result() == "d"


def test_waits_grow_until_a_look_is_rare():
    """
    One for whom nothing is settled, since nothing can be heard, costs at most 0.2 looks a second after its first minute.
    """
    times = list(itertools.takewhile(lambda at: at < 600, itertools.accumulate(waits())))

    assert len([at for at in times if at < 60]) < 40
    assert len([at for at in times if at >= 60]) <= 0.2 * (600 - 60)
    assert times[5] < 0.05


@pytest.mark.parametrize("waiting", [0, 1, 2, 5, 20, 50, 64])
def test_all_who_wait_look_some_times_a_second_together(waiting):
    """
    One of few looks within a second, in case another was told of an item and is no more.
    """
    seconds = [pause_seconds(waiting) for _ in range(100)]

    assert waiting / (sum(seconds) / 100) <= 13
    assert max(seconds) <= (1 if waiting <= 5 else 6)


def test_each_look_of_a_waiter_is_one_statement_and_the_listener_sends_none(call, queue, monkeypatch):
    looks: list[float] = []
    statements = []

    def often(waiting):
        looks.append(0.02)
        return 0.02

    monkeypatch.setattr(take_module, "pause_seconds", often)
    for kind in (connection.BlockingConnection, connection.AsyncConnection):
        original = kind.execute

        def execute(self, query, original=original):
            statements.append(query.statement)
            return original(self, query)

        monkeypatch.setattr(kind, "execute", execute)

    with contextlib.suppress(pgstore.errors.QueueEmpty):
        call(queue.get, timeout=0.5)

    overhead = 12  # settling in: the first looks, LISTEN for all and for one, the registration
    known = [statement for statement in statements if statement is pgstore.Queue._BRING_BACK]
    assert len(looks) > 2
    assert len(known) == 1  # what is due and where the mark is, in one statement, asked once
    assert len(statements) - len(known) <= len(looks) + overhead


# -------------------------------------------------------------------------------------------------------- transactions


def transactions_open(eye):
    return eye.value(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiter' AND state LIKE 'idle in transaction%%'"
    )


def get_in_transaction(call, client, queue, *first, then=lambda: None):
    """Do *first*, then get an item in one transaction."""
    if call.form == "blocking":
        with client.transaction():
            for operation, *args in first:
                operation(*args)
            item = queue.get()
            then()
        return item

    async def work():
        async with client.transaction():
            for operation, *args in first:
                await operation.aio(*args)
            item = await queue.get.aio()
            then()
        return item

    return call.run(work())


def test_waiting_in_a_transaction_that_has_changed_nothing_holds_none_open(
    call, client, queue, elsewhere, deaf_otherwise, eye
):
    """
    An open transaction keeps vacuum from the whole database, for as long as the queue stays empty.
    """
    entries = pgstore.Dict.persist("entries", client=client)
    entries["k"] = 1
    getting = Background(get_in_transaction, call, client, queue, (entries.get, "k"))
    until(eye.waiting)
    until(lambda: not transactions_open(eye))

    elsewhere.put("item")

    assert getting.result(PROMPT) == "item"
    assert eye.items() == 0


def test_waiting_in_a_transaction_that_has_written_wakes_as_well(call, client, queue, elsewhere, deaf_otherwise, eye):
    entries = pgstore.Dict.persist("entries", client=client)
    entries.hydrate()
    getting = Background(get_in_transaction, call, client, queue, (entries.put, "k", 2))
    until(eye.waiting)
    until(lambda: transactions_open(eye) == 1)  # not in the moment of a look

    elsewhere.put("item")

    assert getting.result(PROMPT) == "item"
    assert entries["k"] == 2


def test_an_item_got_by_waiting_in_a_transaction_that_fails_is_given_back(call, client, queue, elsewhere, eye):
    def fail():
        raise LookupError

    getting = Background(get_in_transaction, call, client, queue, then=fail)
    until(eye.waiting)
    elsewhere.put("item")

    with pytest.raises(LookupError):
        getting.result()
    assert call(queue.get) == "item"


def test_waiting_in_a_joined_transaction_wakes(client, queue, elsewhere, deaf_otherwise, eye):
    with psycopg.connect(eye.url) as connection:

        def get():
            with client.transaction(connection=connection):
                return queue.get()

        getting = Background(get)
        until(eye.waiting)
        elsewhere.put("item")
        assert getting.result(PROMPT) == "item"
        connection.rollback()

    assert queue.get(block=False) == "item"


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_waiting_in_a_joined_transaction_with_a_fixed_snapshot_is_refused(client, queue, eye, level):
    """
    It would never see the item that it waits for.
    """
    with psycopg.connect(eye.url) as connection:
        connection.isolation_level = level
        with client.transaction(connection=connection):
            assert queue.get(block=False) is None
            with pytest.raises(InvalidError, match="READ COMMITTED"):
                queue.get(timeout=60)


def test_a_listener_that_starts_and_stops_all_the_time_loses_nobody(own_database):
    """
    Threads register and leave while topics are taken off the list: nobody is left unregistered or registered for ever.
    """
    with pgstore.Client(own_database, connections_max=5) as client:
        queue = pgstore.Queue.persist("queue", client=client)
        queue.hydrate()
        stop = threading.Event()

        def come_and_go(number):
            while not stop.is_set():
                with contextlib.suppress(pgstore.errors.QueueEmpty):
                    queue.get(timeout=0.001 * number, partition=f"p{number % 3}")

        crowd = [Background(come_and_go, number) for number in range(6)]
        getting = [Background(queue.get, partition=f"p{number % 3}") for number in range(3)]
        registry = client._blocking.listener.registry

        def registered():
            return [entry for entry in list(registry._entries.values()) if entry.is_registered]

        until(lambda: len(registered()) == 3)
        for number in range(3):
            queue.put(number, partition=f"p{number}")
        until(lambda: not queue.len(total=True))
        stop.set()
        for each in crowd:
            each.result()
        for number, each in enumerate(getting):
            if each.running:  # another one took the item
                queue.put(number, partition=f"p{number}")
            each.result()
        until(lambda: not registered(), 10.0)


@pytest.mark.parametrize(
    ("take", "failure"),
    [
        (lambda queue: queue.get(block=False), KeyboardInterrupt),
        (lambda queue: queue.get(block=False, lease=600), KeyboardInterrupt),
        (lambda queue: queue.get_many(2, block=False), pgstore.DeserializationError),
    ],
    ids=["get", "lease", "damaged"],
)
def test_what_a_taker_puts_back_wakes_who_went_to_sleep_meanwhile(
    monkeypatch, deaf_otherwise, queue, elsewhere, eye, take, failure
):
    """
    Nobody else will tell them: the put was announced before they came.
    """
    items = [dumps("item", "item")] + ([b"\x80"] if failure is pgstore.DeserializationError else [])

    def take_and_put_back():
        for item in items:
            eye.rows("INSERT INTO pgstore.queue_item (store_id, payload) SELECT id, %s FROM pgstore.store", item)
        if failure is KeyboardInterrupt:
            before(monkeypatch, PartitionState, "note", press_ctrl_c)
        with pytest.raises(failure):
            take(elsewhere)

    def press_ctrl_c():
        raise KeyboardInterrupt

    with pytest.raises(pgstore.errors.QueueEmpty):
        queue.get(timeout=0.01)  # from now on the client listens: one that begins to lets everybody look again
    before(monkeypatch, BlockingTicket, "wait", take_and_put_back)
    began = time.monotonic()
    item = queue.get(timeout=30)

    assert item == "item"
    assert time.monotonic() - began < PROMPT


def test_a_client_whose_listening_thread_never_began_is_closed_like_any_other():
    """
    Ctrl-C may come between the making of the thread and its start.
    """
    waiting = listener.BlockingListener(lambda: pytest.fail("nobody listens"))
    waiting._thread = threading.Thread(target=pytest.fail)

    waiting.close()
