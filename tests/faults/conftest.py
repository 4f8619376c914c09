"""What tests of faults look with: the server's own tables, and events instead of guesses about time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgstore.client import waiting as waiting_module
from pgstore.client.tickets import SLOTS
from pgstore.client.waking import LOCK_CLASS, SLOT_CLASS
from pgstore.queue import take as take_module


class Eye:
    """Looks at a database past pgstore."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._lock = threading.Lock()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            cursor = self._connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self._connection.close()

    def value(self, query: str, *values: Any) -> Any:
        return self.rows(query, *values)[0][0]

    def items(self) -> int:
        """How many items all queues of the database hold."""
        count: int = self.value("SELECT count(*) FROM pgstore.queue_item")
        return count

    def waiting(self) -> int:
        """How many topics are waited for, over all clients of the database."""
        return len(self.locks(LOCK_CLASS))

    def slots(self) -> list[int]:
        """Who waits and has a slot of the topic."""
        return self.locks(SLOT_CLASS, SLOT_CLASS + SLOTS - 1)

    def locks(self, first: int, last: int | None = None) -> list[int]:
        """Who has an advisory lock of two integers, of which the first is *first*, or up to *last*."""
        query = (
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid BETWEEN %s AND %s AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return [pid for (pid,) in self.rows(query, first, first if last is None else last)]

    def backends(self) -> list[int]:
        """The backends of all others in the database."""
        return [
            pid
            for (pid,) in self.rows(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
        ]

    def terminate_all(self) -> int:
        """End the backends of all others in the database; return how many there were."""
        pids = self.backends()
        for pid in pids:
            self.rows("SELECT pg_terminate_backend(%s)", pid)
        until(lambda: not set(pids) & set(self.backends()))
        return len(pids)


@pytest.fixture
def eye(own_database) -> Iterator[Eye]:
    """A look at this test's own database."""
    eye = Eye(own_database)
    yield eye
    eye.close()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for *condition* to hold and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.01)
    return value


def look_rarely(monkeypatch: Any) -> None:
    """Who waits looks by himself once a minute only: what wakes him earlier is a notification."""
    for module in (take_module, waiting_module):
        monkeypatch.setattr(module, "waits", lambda: itertools.repeat(60.0))
        monkeypatch.setattr(module, "pause_seconds", lambda waiting: 60.0)


class Background:
    """A call on a thread of its own; `result` waits for it."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: list[Any] = []
        self._error: BaseException | None = None
        self._call = lambda: function(*args, **kwargs)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._call())
        except BaseException as exc:
            self._error = exc

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, seconds: float = 30.0) -> Any:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still running after {seconds} s"
        if self._error is not None:
            raise self._error
        return self._outcome[0]
