"""Joined connections: a caller's connection or session, whose transaction pgstore joins.

Nothing about it is changed: no commit, no setting, no prepared statement of ours; the caller's prepare policy holds. The calls are
those of `connection.Connection`, through psycopg's cursors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import psycopg
from psycopg import pq
from psycopg.adapt import Dumper
from psycopg.rows import tuple_row

from pgstore import errors
from pgstore.connection import ADAPTERS, BrokenConnection
from pgstore.connection.alarm import Alarm
from pgstore.connection.joined_django import DjangoSource, is_of_django
from pgstore.core import limit
from pgstore.core.error_mapping import map_error
from pgstore.core.operation import CopyIn, CopyOut, Many, Query
from pgstore.core.statement import TYPES, Statement
from pgstore.core.steps import Steps, run_async


class _Packed(bytes):
    """A parameter in its binary format."""

    oid = 0


class _PackedDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


class _Absent:
    """A parameter that is NULL, of its type. Without one PostgreSQL takes `$1 * interval` for an operator on two intervals."""


class _AbsentDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: _Absent) -> None:
        return None


def _packed_type(name: str, oid: int) -> tuple[type[_Packed], _Absent]:
    packed, absent = type(f"Packed_{name}", (_Packed,), {"oid": oid}), type(f"Absent_{name}", (_Absent,), {})
    ADAPTERS.register_dumper(packed, type(f"Dumper_{name}", (_PackedDumper,), {"oid": oid}))
    ADAPTERS.register_dumper(absent, type(f"AbsentDumper_{name}", (_AbsentDumper,), {"oid": oid}))
    return packed, absent()


_PACKED: Final = {name: _packed_type(name, oid) for name, (oid, _) in TYPES.items()}


class _JoinedCursor(psycopg.RawCursor[tuple[Any, ...]]):
    """Speaks `$1`, and knows packed parameters whatever the caller has registered on the connection."""

    @property
    def adapters(self) -> Any:
        return ADAPTERS


class _JoinedAsyncCursor(psycopg.AsyncRawCursor[tuple[Any, ...]]):
    @property
    def adapters(self) -> Any:
        return ADAPTERS


class Source(Protocol):
    """Where the connection comes from: itself, or a SQLAlchemy session, which may hand out another after a commit."""

    is_async: bool
    sets_savepoint_at_once: bool  # rather than with the first write of the block

    def get(self) -> Any:
        """The psycopg connection, ready for a statement; awaitable where *is_async*."""

    def begin_nested(self) -> Any:
        """
        A savepoint that the framework knows of, with `is_active`, `commit` and `rollback`; None: there is no framework.

        Awaitable where *is_async*, and so are these.
        """

    @property
    def can_pipeline(self) -> bool:
        """Whether statements may be sent together."""


def _prepared(statement: Statement) -> bool | None:
    """
    None: psycopg decides, by how often it has seen the statement.

    One that takes arrays is planned each time. A plan made while its table was empty looks through all of it for each element, and
    nothing tells the server that the table has grown before the caller commits.
    """
    return False if statement.takes_arrays else None


class JoinedConnection:
    """
    Calls on a connection of the caller's, of either kind.

    They are steps (`core.steps`), for `yield from`: what psycopg's methods give is the value of a blocking connection, and
    to be awaited of an asynchronous one.
    """

    exposed = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cursor_type: type[Any] = _JoinedAsyncCursor if source.is_async else _JoinedCursor
        self._kept: Any = None  # a cursor for all calls: making it is a fourth of their cost

    def callers_connection(self) -> Steps[Any]:
        """The caller's psycopg connection."""
        return (yield self._source.get())

    def execute(self, query: Query) -> Steps[Any]:
        cursor = yield from self._cursor()
        try:
            if limit.current() is not None:
                with Alarm(cursor.connection):
                    yield _send(cursor, query)
            else:
                yield _send(cursor, query)
            rows = (yield cursor.fetchall()) if _has_rows(cursor) else cursor.rowcount
            return _noted(query, rows)
        except psycopg.Error as exc:
            raise _mapped(exc, cursor.connection) from exc

    def execute_many(self, many: Many) -> Steps[list[Any]]:
        results = []
        for query in many.queries:
            results.append((yield from self.execute(query)))  # noqa: PERF401 - a comprehension cannot yield
        return results

    def execute_after(self, sql: str, query: Query) -> Steps[Any]:
        """`command` and `execute` in one round trip."""
        cursor = yield from self._cursor()
        try:
            yield from self._pipelined(cursor, sql, query)
            rows = (yield cursor.fetchall()) if _has_rows(cursor) else cursor.rowcount
            return _noted(query, rows)
        except psycopg.Error as exc:
            raise _mapped(exc, cursor.connection) from exc

    def _pipelined(self, cursor: Any, sql: str, query: Query) -> Steps[None]:
        def steps(_: Any) -> Steps[None]:
            yield self._cursor_type(cursor.connection).execute(sql.encode(), prepare=False)
            yield _send(cursor, query)

        with Alarm(cursor.connection):
            yield from _within(cursor.connection.pipeline(), steps)

    def command(self, sql: str) -> Steps[None]:
        cursor = yield from self._cursor()
        try:
            yield cursor.execute(sql.encode(), prepare=False)
        except psycopg.Error as exc:
            raise _mapped(exc, cursor.connection) from exc

    def copy_in(self, copy: CopyIn) -> Steps[int]:
        def steps(stream: Any) -> Steps[None]:
            for block in copy.data:
                yield stream.write(block)

        cursor = yield from self._cursor()
        try:
            yield from _within(cursor.copy(copy.sql.encode()), steps)
            return int(cursor.rowcount)
        except psycopg.Error as exc:
            raise _mapped(exc, cursor.connection) from exc

    def copy_out(self, copy: CopyOut) -> Steps[None]:
        def steps(stream: Any) -> Steps[None]:
            while block := (yield stream.read()):
                copy.consume(bytes(block))

        cursor = yield from self._cursor()
        try:
            yield from _within(cursor.copy(copy.sql.encode()), steps)
        except psycopg.Error as exc:
            raise _mapped(exc, cursor.connection) from exc

    @property
    def is_idle(self) -> bool:
        """Whether there is no transaction: the caller has ended it."""
        connection = self._kept.connection
        return not connection.closed and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def _cursor(self) -> Steps[Any]:
        try:
            connection = yield self._source.get()
        except Exception as exc:
            if (error := error_of_framework(exc)) is exc:
                raise
            raise error from exc
        check_joinable(connection)
        cursor = self._kept
        if cursor is None or cursor.connection is not connection:
            cursor = self._kept = self._cursor_type(connection, row_factory=tuple_row)
        return cursor


def _within(manager: Any, body: Callable[[Any], Steps[None]]) -> Steps[None]:
    """Take the steps of *body* in the block of *manager*."""
    # By statements: between a block and its `__exit__` no interrupt comes, as it may between two steps.
    if hasattr(type(manager), "__aenter__"):
        yield _within_async(manager, body)
    else:
        with manager as value:
            yield from body(value)


async def _within_async(manager: Any, body: Callable[[Any], Steps[None]]) -> None:
    async with manager as value:
        await run_async(body(value))


def _parameters(query: Query) -> Sequence[Any]:
    statement = query.statement
    return [
        _PACKED[name][1] if value is None else _PACKED[name][0](value)
        for name, value in zip(statement.types, statement.pack(query.values), strict=True)
    ]


def _send(cursor: Any, query: Query) -> Any:
    """Run *query*; awaitable where the cursor's methods are."""
    statement = query.statement
    return cursor.execute(statement.portable_sql, _parameters(query), prepare=_prepared(statement), binary=True)


def _noted(query: Query, rows: Any) -> Any:
    if query.undo is not None:
        query.taken = rows
    return rows


def _has_rows(cursor: Any) -> bool:
    # Not cursor.description, which is made anew, a Column for each.
    return bool(cursor.pgresult.status == pq.ExecStatus.TUPLES_OK)


def _mapped(exc: psycopg.Error, connection: Any) -> Exception:
    if connection.closed or connection.pgconn.status != pq.ConnStatus.OK:
        return BrokenConnection(exc, sent=True)
    return map_error(exc)


def check_joinable(connection: Any) -> None:
    """Raise `InvalidError` where statements on *connection* would not be part of a transaction of the caller's."""
    if connection.closed:
        raise errors.InvalidError("the connection to join is closed")
    pgconn = connection.pgconn
    encoding = (pgconn.parameter_status(b"client_encoding") or b"").decode()
    if encoding != "UTF8":
        raise errors.InvalidError(
            f"the connection to join has the client_encoding {encoding}, pgstore needs UTF8: connect with client_encoding=utf8"
        )
    if pgconn.pipeline_status != pq.PipelineStatus.OFF:
        raise errors.InvalidError("the connection to join is in pipeline mode; leave it first")
    if connection.autocommit and pgconn.transaction_status == pq.TransactionStatus.IDLE:
        raise errors.InvalidError(
            "the connection to join is in autocommit mode and in no transaction; open one with `with connection.transaction():`"
        )


# ----------------------------------------------------------------------------------------------------------- sources


class _Direct:
    """A psycopg connection."""

    sets_savepoint_at_once = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.is_async = isinstance(connection, psycopg.AsyncConnection)

    def get(self) -> Any:
        return _awaited(self._connection) if self.is_async else self._connection

    def begin_nested(self) -> Any:
        return _awaited(None) if self.is_async else None

    @property
    def can_pipeline(self) -> bool:
        return psycopg.Pipeline.is_supported()


async def _awaited(value: Any) -> Any:
    return value


def error_of_framework(exc: Exception) -> Exception:
    """What an error of SQLAlchemy's or Django's own statements means; those of the flush of a caller's objects are the caller's."""
    original = exc.__cause__ if type(exc).__module__ == "django.db.utils" else getattr(exc, "orig", None)
    return map_error(original) if isinstance(original, psycopg.OperationalError) else exc


class _Sqlalchemy:
    """A SQLAlchemy Connection or Session. Asked anew for each statement: after a commit it may use another connection."""

    is_async = False
    can_pipeline = False
    sets_savepoint_at_once = False

    def __init__(self, subject: Any) -> None:
        self._subject = subject
        self._is_session = hasattr(subject, "flush")

    def get(self) -> Any:
        subject = self._subject
        if self._is_session:
            subject.flush()  # a row that the caller added must be there for what refers to it
            subject = subject.connection()
        elif not subject.in_transaction():
            subject.begin()
        return _driver_connection(subject.connection, psycopg.Connection)

    def begin_nested(self) -> Any:
        return self._subject.begin_nested()


class _SqlalchemyAsync:
    is_async = True
    can_pipeline = False
    sets_savepoint_at_once = False

    def __init__(self, subject: Any) -> None:
        self._subject = subject
        self._is_session = hasattr(subject, "flush")

    async def get(self) -> Any:
        subject = self._subject
        if self._is_session:
            await subject.flush()
            subject = await subject.connection()
        elif not subject.in_transaction():
            await subject.begin()
        return _driver_connection(await subject.get_raw_connection(), psycopg.AsyncConnection)

    async def begin_nested(self) -> Any:
        return await self._subject.begin_nested()


def _driver_connection(pooled: Any, expected: type) -> Any:
    driver = pooled.driver_connection
    if not isinstance(driver, expected):
        raise errors.InvalidError(
            f"the SQLAlchemy connection to join is of {type(driver).__module__}, not psycopg 3; "
            "use the dialect postgresql+psycopg"
        )
    return driver


def source_of(subject: Any) -> Source:
    """The source for what a caller passed as `connection=`."""
    if isinstance(subject, (psycopg.Connection, psycopg.AsyncConnection)):
        return _Direct(subject)
    if "sqlalchemy" in sys.modules:
        from sqlalchemy import Connection
        from sqlalchemy.orm import Session, scoped_session

        if isinstance(subject, (Connection, Session, scoped_session)):
            return _Sqlalchemy(subject)
        # Its asynchronous part wants greenlet, which may not be there; who has such an object has imported both.
        if "sqlalchemy.ext.asyncio" in sys.modules:
            from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

            if isinstance(subject, (AsyncConnection, AsyncSession, async_scoped_session)):
                return _SqlalchemyAsync(subject)
    if is_of_django(subject):
        return DjangoSource(subject)
    raise errors.InvalidError(
        f"cannot join a transaction of {type(subject).__module__}.{type(subject).__name__}; pass a psycopg Connection or "
        "AsyncConnection, a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession, or a connection of Django"
    )
