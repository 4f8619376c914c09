"""Fixtures for tests of programs that use pgstore. Where pgstore is installed pytest finds them by itself.

    def test_a_visit_is_counted(pgstore_transaction):
        visits = pgstore.Dict.from_name("visits", create_if_missing=True)

        count_visit("/")

        assert visits["/"] == 1

- `pgstore_transaction`: all that the default client does in the test is part of one transaction, which is rolled back after it,
  within a millisecond or two. It yields the `Transaction`, whose `connection` is for SQL of the test's own.
- `pgstore_client`: the default client, on a fresh database; it takes a few tenths of a second. For tests of what a rollback would
  hide.
- `pgstore_url`: the URL of an empty database for the whole run, for settings of the program under test, and for clients of its own.

The database is on the server of `PGSTORE_TEST_URL`, whose role must be allowed to create databases; else on a server that is
started for the run and removed after it, by the programs that `pgstore.embedded` finds: those of the machine, or of the extra
`embedded`. Each worker of pytest-xdist has its own.

The first two fixtures set the default client, and `PGSTORE_URL` for processes that the test starts. It is the same client in all
tests, so stores that a program keeps in globals work in each; what they hold is that of the test. A store that was given
`client=`, and a program that calls `pgstore.configure`, use what they name: give them `pgstore_url`, or `pgstore_client`.

What `pgstore_transaction` does for a test:

- Blocking calls and those that are awaited take part, from any thread and task, also with pytest-asyncio and anyio. A block of
  `pgstore.transaction()` is a savepoint. `Queue.get` finds what another thread or task puts while it waits.
- A statement that fails undoes itself alone, as it would without the fixture.
- Nobody else sees what was done: not another process (a worker that runs a function, a mount), not a connection of the program's
  own, and not a transaction that is joined by `pgstore.transaction(connection=…)`. Waiting for a worker raises `InvalidError`.
- What tells of commits tells of none: `Dict.watch` waits for ever.
- While one thread or task has a block open, what another does raises `TransactionScopeError`.
- `put(durable=False)` is an `InvalidError`, as in any transaction.

Take `pgstore_client` where one of these matters.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # nothing else: this is imported by every run of pytest
    from pgstore.client import Client
    from pgstore.client.transaction import Transaction
    from pgstore.migrate.scratch import ScratchDatabases


@pytest.fixture(scope="session")
def _pgstore_databases() -> Iterator[ScratchDatabases]:
    from pgstore.embedded import throw_away_server
    from pgstore.migrate.scratch import ScratchDatabases

    given = os.environ.get("PGSTORE_TEST_URL")
    with (
        contextlib.nullcontext(given) if given else throw_away_server() as server,
        ScratchDatabases(server) as databases,
    ):
        yield databases


@pytest.fixture(scope="session")
def pgstore_url(_pgstore_databases: ScratchDatabases) -> str:
    """The URL of a database for the whole run, which has the schema pgstore and at first no stores."""
    return _pgstore_databases.create()


class _Current:
    """The one client of the run, and where it leads just now."""

    def __init__(self) -> None:
        from pgstore.client import Client

        self.url = ""
        self.client = Client(lambda: self.url)

    @contextlib.contextmanager
    def on(self, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
        """Have it lead to *url*, as the default client."""
        from pgstore.client.default import replaced

        if url != self.url:
            self.client.close()  # connections to where it led before
            self.url = url
        monkeypatch.setenv("PGSTORE_URL", url)
        with replaced(self.client):
            yield self.client


@pytest.fixture(scope="session")
def _pgstore_current(_pgstore_databases: ScratchDatabases) -> Iterator[_Current]:
    current = _Current()  # after the databases, so that it is closed before they go
    yield current
    if current.url:
        current.client.close()


@pytest.fixture
def pgstore_client(
    _pgstore_databases: ScratchDatabases, _pgstore_current: _Current, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """The default client of this test, on a database of its own."""
    url = _pgstore_databases.create()
    with _pgstore_current.on(url, monkeypatch) as client:
        try:
            yield client
        finally:
            client.close()
            _pgstore_databases.drop(url)


@pytest.fixture
def pgstore_transaction(
    request: pytest.FixtureRequest, _pgstore_current: _Current, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transaction]:
    """A transaction that all of the default client's operations in this test are part of; rolled back after it."""
    from pgstore.client.enclosing import enclosed

    with contextlib.ExitStack() as stack:
        if "pgstore_client" in request.fixturenames:
            client: Any = request.getfixturevalue("pgstore_client")
        else:
            client = stack.enter_context(_pgstore_current.on(request.getfixturevalue("pgstore_url"), monkeypatch))
        yield stack.enter_context(enclosed(client))
