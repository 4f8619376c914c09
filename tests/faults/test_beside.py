"""What an operation in a transaction does beside it, on another connection: it never waits for that very transaction."""

from __future__ import annotations

import contextlib
import io
import threading

import psycopg
import pytest

import pgstore
from tests.faults.conftest import Background
from tests.fixtures.clients import Call
from tests.fixtures.everything import use_everything

SECONDS = 20  # in which all is done that does not wait for ever


@pytest.fixture(params=[1, 10], ids=["one connection", "ten connections"])
def client(request, own_database):
    with pgstore.Client(own_database, connections_max=request.param) as client:
        yield client


@pytest.fixture(params=["own", "joined"])
def transaction(request, own_database, client):
    """A call that begins a transaction, of the client's own or of the caller's."""

    @contextlib.contextmanager
    def begin():
        if request.param == "own":
            with client.transaction():
                yield
            return
        with psycopg.connect(own_database) as connection, client.transaction(connection):
            yield

    return begin


def in_time(function, *args):
    Background(function, *args).result(SECONDS)


def test_a_store_that_a_transaction_has_made_is_found_in_it(client, transaction):
    def work():
        with transaction():
            pgstore.Dict.objects.create("d", client=client)
            entries = pgstore.Dict.persist("d", client=client)
            entries["k"] = 1
            assert entries["k"] == 1

    in_time(work)

    assert pgstore.Dict.from_name("d", client=client)["k"] == 1


def test_a_name_that_a_transaction_has_given_is_found_in_it(client, transaction):
    pgstore.Volume.persist("old", client=client).put_file(io.BytesIO(b"1"), "a")

    def work():
        with transaction():
            used = pgstore.Volume.from_name("old", client=client)
            used.put_file(io.BytesIO(b"2"), "b")
            pgstore.Volume.rename("old", "new", client=client)
            assert pgstore.Volume.persist("new", client=client).exists("a")
            assert used.exists("b")

    in_time(work)

    assert len(pgstore.Volume.from_name("new", client=client).listdir("/")) == 2


def test_a_store_that_a_transaction_has_deleted_is_made_again_in_it(client, transaction):
    pgstore.Dict.persist("d", client=client)["k"] = 1

    def work():
        with transaction():
            assert pgstore.Dict.from_name("d", client=client)["k"] == 1
            pgstore.Dict.objects.delete("d", client=client)
            with pytest.raises(pgstore.NotFoundError):
                pgstore.Dict.from_name("d", client=client).get("k")
            again = pgstore.Dict.persist("d", client=client)
            assert again.get("k") is None
            again["k"] = 2

    in_time(work)

    assert pgstore.Dict.from_name("d", client=client)["k"] == 2


@pytest.mark.parametrize("change", ["next_version", "put_file"])
@pytest.mark.parametrize("version", [0, 1])
def test_an_old_version_is_read_by_a_transaction_that_makes_a_new_one(client, transaction, change, version):
    """
    The pin that keeps the old one needs a lock which the transaction may have.
    """
    volume = pgstore.Volume.persist("v", client=client).hydrate()
    if version:
        volume.put_file(io.BytesIO(b"1"), "a")
    old = volume.at(version)

    def work():
        with transaction():
            if change == "next_version":
                volume.next_version()
            else:
                volume.put_file(io.BytesIO(b"2"), "b")
            assert len(old.listdir("/")) == version

    in_time(work)

    assert len(old.listdir("/")) == version
    assert sum(pin == version for (pin,) in _pins(client)) == 1


def _pins(client):
    with client.transaction() as tx:
        return tx.connection.execute("SELECT version FROM pgstore.version_pin").fetchall()


@pytest.mark.parametrize("kind", [pgstore.Volume, pgstore.NetworkFileSystem])
def test_an_open_file_is_read_by_a_transaction_that_removes_it(client, transaction, kind, monkeypatch):
    """
    After a minute it is pinned, which must not wait for the removal.
    """
    monkeypatch.setattr("pgstore.fs.retention.file_pin.PIN_AFTER_SECONDS", 0.0)
    store = kind.persist("f", client=client)
    for path in ("d/a", "b"):
        store.put_file(io.BytesIO(b"1" * 300_000), path)

    def work():
        with store.open("d/a", "rb") as below, store.open("b", "rb") as beside, transaction():
            store.remove_file("d", recursive=True)
            store.remove_file("b")
            assert len(below.read()) == len(beside.read()) == 300_000

    in_time(work)

    assert store.listdir("/") == []


@pytest.mark.parametrize("connections_max", [1, 3])
def test_all_operations_go_on_in_transactions_that_hold_all_connections(own_database, eye, connections_max):
    """
    What they need beside the transaction, the pool has in reserve: two connections more at most.
    """
    url = f"{own_database}?application_name=only"
    begun = threading.Barrier(connections_max)
    most = []

    with pgstore.Client(url, connections_max=connections_max) as client:

        def work(number):
            with client.transaction():
                pgstore.Dict.persist(f"first-{number}", client=client)["k"] = 1
                begun.wait(SECONDS)
                use_everything(Call("blocking"), client, f"all-{number}")
                most.append(eye.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'only'"))

        working = [Background(work, number) for number in range(connections_max)]
        for each in working:
            each.result(3 * SECONDS)

    assert max(most) <= connections_max + 2
