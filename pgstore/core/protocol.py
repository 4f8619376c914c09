"""libpq without waiting: generators that yield when they need the socket.

Each yields READ or READ_WRITE and is resumed when the socket is ready for it; who waits, a `poll` or an event loop, is the
caller's. Results come back as libpq's; a result that is an error is returned, not raised, so that a connection is always read to
the end of what was sent on it.

psycopg's own generators do the same. These exist because they send prepared statements with parameters packed by `Statement`,
several in one message, and because an interrupted one can be driven to its end.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, TypeAlias, TypeVar

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from pgstore.core.statement import Statement

T = TypeVar("T")
READ: Final = 1
READ_WRITE: Final = 3
Io: TypeAlias = Generator[int, None, T]

_COPY_IN: Final = pq.ExecStatus.COPY_IN
_COPY_OUT: Final = pq.ExecStatus.COPY_OUT
_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_FATAL: Final = pq.ExecStatus.FATAL_ERROR
_COMMAND_OK: Final = pq.ExecStatus.COMMAND_OK
_CONNECTION_OK: Final = pq.ConnStatus.OK

Call: TypeAlias = tuple[Statement, Sequence[bytes | None]]


def fetch(pgconn: PGconn, last: PGresult | None = None) -> Io[PGresult]:
    """The last result of the one message that was sent, or the first that is an error. *last*: one that was read already."""
    yield from _flush(pgconn)
    while True:
        result = None
        while pgconn.is_busy():
            yield READ
            if (result := read_more(pgconn)) is not None:
                break
        if result is None:
            result = pgconn.get_result()
        if result is None:
            assert last is not None, "a message without a result"
            return last
        if result.status == _FATAL and is_end(result):
            if last is not None and last.status != _FATAL:
                raise psycopg.errors.error_from_result(result)  # nobody knows whether what was done has come to stay
            return result if last is None else last
        if last is None or last.status != _FATAL:
            last = result
        if result.status in (_COPY_IN, _COPY_OUT):
            return result


def read_more(pgconn: PGconn) -> PGresult | None:
    """Take in what has arrived. At the end of the stream: what the server said before it closed the connection."""
    try:
        pgconn.consume_input()
    except psycopg.Error:
        if (words := pgconn.get_result()) is not None:
            return words
        raise
    return None


def is_end(result: PGresult) -> bool:
    """Whether the server ends the connection with it."""
    return result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) in (b"FATAL", b"PANIC")


def _flush(pgconn: PGconn) -> Io[None]:
    # A server that cannot send its results stops reading: read while writing, or both sides wait for ever.
    while pgconn.flush():
        yield READ_WRITE
        pgconn.consume_input()


def simple(pgconn: PGconn, sql: bytes) -> Io[PGresult]:
    """Run *sql*, which may be several statements, by the simple protocol."""
    pgconn.send_query(sql)
    return (yield from fetch(pgconn))


def prepare(pgconn: PGconn, prepared: set[Statement], statement: Statement) -> Io[PGresult]:
    """Give a statement its name on this connection."""
    try:
        pgconn.send_prepare(statement.name, statement.sql, statement.oids)
        result = yield from fetch(pgconn)
        if result.status == _COMMAND_OK and statement.name:
            prepared.add(statement)
    except BaseException:
        pgconn.finish()  # Ctrl-C between two lines: nobody knows any more whether the server has the name
        raise
    return result


def run_prepared(pgconn: PGconn, prepared: set[Statement], call: Call) -> Io[PGresult]:
    """Run a statement under its name, giving it the name first if this connection does not know it."""
    statement, values = call
    if statement not in prepared:
        result = yield from prepare(pgconn, prepared, statement)
        if result.status != _COMMAND_OK:
            return result
    pgconn.send_query_prepared(statement.name, values, statement.formats, 1)
    return (yield from fetch(pgconn))


def run_unprepared(pgconn: PGconn, call: Call) -> Io[PGresult]:
    """Run a statement without a name: the only way through a pooler that gives each transaction another connection."""
    statement, values = call
    pgconn.send_query_params(statement.unset_sql, values, statement.oids, statement.formats, 1)
    return (yield from fetch(pgconn))


def pipeline(
    pgconn: PGconn,
    prepared: set[Statement] | None,
    groups: Sequence[Sequence[Call]],
    answers: list[list[PGresult]],
    unfinished: list[PGresult] | None = None,
) -> Io[None]:
    """
    Send all calls at once, in *groups*: an error skips the rest of its group, and the server answers after each group.

    *prepared* is None where statements must not be given names. *answers* receives the results of each group as they arrive, an
    error being the last of its group: what was answered before a connection broke is known. Outside a transaction a group is
    all or nothing; *unfinished* receives what came of the one that the connection broke in.
    """
    pgconn.enter_pipeline_mode()
    try:
        named: list[
            Statement | None
        ] = []  # per result to come; a statement where the result is that of giving it its name
        seen: set[Statement] = set()
        for group in groups:
            for statement, values in group:
                if prepared is None:
                    pgconn.send_query_params(statement.unset_sql, values, statement.oids, statement.formats, 1)
                else:
                    if statement not in prepared and (statement not in seen or not statement.name):
                        pgconn.send_prepare(statement.name, statement.sql, statement.oids)
                        named.append(statement)
                        seen.add(statement)
                    pgconn.send_query_prepared(statement.name, values, statement.formats, 1)
                named.append(None)
            pgconn.pipeline_sync()
        yield from _pipeline_answers(pgconn, prepared, named, len(groups), answers, unfinished)
    except BaseException:
        pgconn.finish()  # Ctrl-C between two lines: nobody knows any more which answers are still to come
        raise
    if pgconn.status == _CONNECTION_OK:
        pgconn.exit_pipeline_mode()


def _pipeline_answers(
    pgconn: PGconn,
    prepared: set[Statement] | None,
    named: Sequence[Statement | None],
    groups: int,
    answers: list[list[PGresult]],
    unfinished: list[PGresult] | None,
) -> Io[None]:
    yield from _flush(pgconn)
    group: list[PGresult] = []
    position = 0
    while len(answers) < groups:
        result = None
        while pgconn.is_busy():
            yield READ
            if (result := read_more(pgconn)) is not None:
                break
        if result is None:
            result = pgconn.get_result()
        if result is None:
            if pgconn.status != _CONNECTION_OK:
                return
            continue  # the end of one call's results
        if result.status == _SYNC:
            answers.append(_until_error(group))
            group = []
            continue
        if result.status == _FATAL and is_end(result):
            if unfinished is not None:
                unfinished.extend([*group, result])
            pgconn.finish()
            return
        if position == len(named):
            group.append(result)  # the connection broke: an error that belongs to no call
            continue
        statement = named[position]
        position += 1
        if statement is not None and result.status == _COMMAND_OK:
            assert prepared is not None
            if statement.name:
                prepared.add(statement)
        elif statement is None or result.status == _FATAL:
            group.append(result)


def _until_error(group: list[PGresult]) -> list[PGresult]:
    for index, result in enumerate(group):
        if result.status == _FATAL:
            return group[: index + 1]
    return group


def copy_in(pgconn: PGconn, sql: bytes, blocks: Sequence[bytes]) -> Io[PGresult]:
    """Run `COPY … FROM STDIN`, sending *blocks*."""
    result = yield from simple(pgconn, sql)
    if result.status != _COPY_IN:
        return result
    for block in blocks:
        while not pgconn.put_copy_data(block):
            yield READ_WRITE
        yield from _flush(pgconn)
    while not pgconn.put_copy_end():
        yield READ_WRITE
    return (yield from fetch(pgconn))


def copy_out_block(pgconn: PGconn) -> Io[memoryview | None]:
    """The next block of a `COPY … TO STDOUT` that is under way, None at its end (then `fetch` has its result)."""
    while True:
        size, data = pgconn.get_copy_data(1)
        if size > 0:
            return data
        if size < 0:
            return None
        yield READ
        pgconn.consume_input()
