"""What examples/README.md says of frameworks, where it is theirs to keep: when they leave blocks, and where they connect."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import pgstore

DJANGO_TESTS = Path(__file__).with_name("django_tests.py")


@pytest.fixture
def visits(client, store_name):
    return pgstore.Dict.persist(store_name, client=client).hydrate()


@pytest.fixture
def visits_elsewhere(client_elsewhere, store_name):
    return pgstore.Dict.from_name(store_name, client=client_elsewhere)


@pytest.mark.parametrize(("scope", "committed"), [("function", b"True"), ("request", b"False")])
def test_a_dependency_of_a_function_commits_before_the_response(client, visits, visits_elsewhere, scope, committed):
    """
    Else a client is told 200 of what may yet fail. "request" is FastAPI's default.
    """

    async def one_transaction() -> AsyncIterator[None]:
        async with client.transaction():
            yield

    app = FastAPI()

    @app.get("/", dependencies=[Depends(one_transaction, scope=scope)])
    async def visit() -> StreamingResponse:
        await visits.put.aio("k", 1)
        return StreamingResponse(str("k" in visits_elsewhere) for _ in range(1))  # on a thread, as it is sent

    with TestClient(app) as browser:
        assert browser.get("/").content == committed


def test_an_endpoint_on_a_thread_takes_part_by_using(client, visits):
    """
    FastAPI enters a `def` dependency on one thread and runs a `def` endpoint on another.
    """

    def one_transaction() -> Iterator[pgstore.Transaction]:
        with client.transaction() as tx:
            yield tx

    lent = Depends(one_transaction, scope="function")
    app = FastAPI()

    @app.get("/{key}")
    def visit(key: str, tx: Any = lent) -> None:
        visits.using(tx).put(key, 1)
        if key == "bad":
            raise ValueError

    with TestClient(app, raise_server_exceptions=False) as browser:
        assert [browser.get(f"/{key}").status_code for key in ("good", "bad")] == [200, 500]
    assert visits.keys() == ["good"]


def test_a_dependency_joins_the_session_that_it_lends(client, database, store_name):
    """
    The rows of an endpoint, by SQLAlchemy, and what its stores did are one COMMIT, which the dependency makes.
    """
    engine = create_async_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    mails = pgstore.Queue.persist(store_name, client=client).hydrate()

    async def one_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            async with client.transaction(connection=session):
                yield session
            await session.commit()

    lent = Depends(one_session, scope="function")
    app = FastAPI()

    @app.get("/{number}")
    async def order(number: int, session: Any = lent) -> None:
        await session.execute(text("INSERT INTO framework_order VALUES (:number)"), {"number": number})
        await mails.put.aio(number)
        if number == 2:
            raise HTTPException(422)

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE framework_order (number integer)")
        try:
            with TestClient(app) as browser:
                assert [browser.get(f"/{number}").status_code for number in (1, 2)] == [200, 422]
                assert browser.portal is not None
                browser.portal.call(engine.dispose)  # on its event loop
            assert connection.execute("SELECT number FROM framework_order").fetchall() == [(1,)]
            assert mails.get_many(10) == [1]
        finally:
            connection.execute("DROP TABLE framework_order")


def test_a_file_is_streamed_when_its_view_has_ended(client, store_name):
    """
    No transaction is open while a slow client reads, and what it reads is one state of the file.
    """
    files = pgstore.Volume.persist(store_name, client=client)
    files.write_bytes("f", b"old" * 1_000_000)
    app = FastAPI()

    @app.get("/")
    async def download() -> StreamingResponse:
        return StreamingResponse(files.read_file("f"))

    with TestClient(app) as browser:
        assert browser.get("/").content == b"old" * 1_000_000


def test_djangos_tests_run_in_djangos_test_database(own_database):
    """
    It is another than its settings name. What a `TestCase` joins is rolled back, and the database can be removed at the end.
    """
    environ = {**os.environ, "PGSTORE_URL": own_database, "PYTHONWARNINGS": "error"}

    done = subprocess.run(
        [sys.executable, DJANGO_TESTS], check=False, env=environ, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
