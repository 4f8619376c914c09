"""What the log "pgstore" says: which database was chosen and why, and what is retried or lost."""

from __future__ import annotations

import logging

import psycopg
import pytest

import pgstore
from pgstore import errors

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"


@pytest.fixture(autouse=True)
def _from_info_on(caplog):
    caplog.set_level(logging.INFO, "pgstore")


@pytest.fixture
def said(caplog):
    """The messages of a level, such as "INFO"."""
    return lambda level: [record.getMessage() for record in caplog.records if record.levelname == level]


@pytest.fixture
def name_of_database(database):
    with psycopg.connect(database) as connection:
        return connection.info.dbname


def test_which_database_was_chosen_is_said_once_with_the_setting_that_names_it(
    call, database, name_of_database, store_name, said, monkeypatch
):
    """
    Two settings disagree, and stores seem to be empty: the log says which one counts.
    """
    monkeypatch.delenv("PGSTORE_URL", raising=False)
    for setting, url in (
        ("given as url", database),
        ("given by the function passed as url", lambda: database),
        ("given in PGSTORE_URL", None),
        ("given in DATABASE_URL", None),
    ):
        if url is None:
            monkeypatch.setenv(setting.removeprefix("given in "), database)
        client = call.client(url)
        for _ in range(2):
            call(pgstore.Dict.persist(store_name, client=client).len)
        monkeypatch.delenv("PGSTORE_URL", raising=False)

        (message,) = said("INFO")[-1:]
        assert message.endswith(setting)
        assert f"/{name_of_database}, " in message

    assert len(said("INFO")) == 4
    assert said("WARNING") == []


def test_no_password_is_said(database, store_name, caplog):
    with pytest.raises(errors.Error):
        pgstore.Dict.persist(store_name, client=pgstore.Client("postgresql://joe:hush@127.0.0.1:1/shop")).len()

    assert "joe@127.0.0.1:1/shop" in caplog.text
    assert "hush" not in caplog.text


def test_a_connection_that_broke_and_is_replaced_is_warned_of(call, database, store_name, sql, said):
    client = call.client(f"{database}?application_name={store_name}")
    store = pgstore.Dict.persist(store_name, client=client)
    call(store.put, "k", 1)

    sql(TERMINATE, store_name)
    assert call(store.get, "k") == 1

    (message,) = said("WARNING")
    assert message.startswith("a connection broke and is replaced")


def test_a_connection_that_is_replaced_before_a_transaction_is_warned_of(database, store_name, sql, said):
    with pgstore.Client(f"{database}?application_name={store_name}") as client:
        store = pgstore.Dict.persist(store_name, client=client)
        store["k"] = 1

        sql(TERMINATE, store_name)
        with client.transaction():
            store["k"] = 2

    (message,) = said("WARNING")
    assert message.startswith("a connection broke and is replaced, before its transaction had begun")


def test_a_transaction_that_is_run_again_is_warned_of(call, client, said):
    attempts = []

    def work():
        attempts.append(1)
        if len(attempts) < 3:
            raise errors.SerializationConflict("somebody else was quicker")

    async def work_async():
        work()

    if call.form == "aio":
        call.run(client.run_transaction_async(work_async))
    else:
        client.run_transaction(work)

    assert said("WARNING") == [
        f"a transaction is run again, after attempt {number} of 10: somebody else was quicker" for number in (1, 2)
    ]


def test_another_history_is_warned_of(own_database, said):
    """
    Restored from a backup, say: numbers that were remembered mean other things now.
    """
    with pgstore.Client(f"{own_database}?application_name=before") as client:
        store = pgstore.Dict.persist("entries", client=client)
        store["k"] = 1
        with psycopg.connect(own_database, autocommit=True) as connection:
            connection.execute("UPDATE pgstore.installation SET id = gen_random_uuid()")
            connection.execute(TERMINATE, ["before"])

        assert store["k"] == 1

    assert any("another history" in message for message in said("WARNING"))
