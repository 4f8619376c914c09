"""A drill: something that workers do with a store again and again, and the audit of it."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import psycopg

import pgstore
from tests.chaos.hand import Hand
from tests.chaos.journal import Log

LATE_SECONDS = 60.0
"""For so long after its connection was lost a statement may still take effect, for its backend does not know of the loss."""


class Auditor:
    """What an audit looks at a database with: a client that nothing disturbs any more, and SQL."""

    def __init__(self, client: pgstore.Client, connection: psycopg.Connection[Any]) -> None:
        self.client = client
        self._connection = connection

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []


class Drill(abc.ABC):
    """
    One drill.

    Class attributes:
        weight: how often it is done, in proportion to other drills.
    """

    name: str
    weight: ClassVar[int] = 1

    @abc.abstractmethod
    def prepare(self, client: pgstore.Client, connection: psycopg.Connection[Any]) -> None:
        """Make what the drill needs, while nothing is wrong yet."""

    @abc.abstractmethod
    async def step(self, hand: Hand) -> None:
        """Do it once."""

    @abc.abstractmethod
    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        """Where the database is not as the workers were told, a sentence each."""
