"""What both kinds of connection share: the calls, and how results and errors are read."""

from __future__ import annotations

import abc
import contextlib
import inspect
import os
import select
from collections.abc import Generator, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq.abc import PGresult
from psycopg.types.json import set_json_loads

from pgstore import errors
from pgstore.connection import protocol
from pgstore.connection.protocol import READ
from pgstore.core import clock, limit
from pgstore.core.error_mapping import QUERY_CANCELED, map_error, timed_out
from pgstore.core.operation import CopyIn, CopyOut, Many, Query, putting_back
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps, is_interrupt
from pgstore.serializers import parse_json

T = TypeVar("T")

# A copy: what a program registers globally for its own types must not change what pgstore reads.
ADAPTERS: Final = AdaptersMap(psycopg.adapters)
set_json_loads(parse_json, ADAPTERS)

# An interrupted statement is given this long to end by itself before the server is asked to cancel it: cancelling would abort
# the transaction that it is part of. Whoever tidies up gives a server up that is silent for the second.
GRACE_SECONDS: Final = 0.25
SETTLE_SECONDS: Final = 10.0

# A call whose time is over (`core.limit`) asks the server to cancel, and then waits so long for its answer.
CANCEL_SECONDS: Final = 1.0

# A client that was connected before waits this long for a server that restarts or fails over.
RECONNECT_SECONDS: Final = 10.0
_SENT_MAX: Final = 2

# A server that ends the connection so (an administrator's order or a restart, idle for too long) does it between statements or
# rolls the present one back: what it has not answered is not done. A crash, 57P02, may come at any moment. Behind a pooler nobody
# knows whose words they are.
_ENDED_BEFORE: Final = ("57P01", "57P05")
_ENDS: Final = ("FATAL", "PANIC")

_TUPLES_OK: Final = pq.ExecStatus.TUPLES_OK
_COMMAND_OK: Final = pq.ExecStatus.COMMAND_OK
FATAL: Final = pq.ExecStatus.FATAL_ERROR
_CONNECTION_OK: Final = pq.ConnStatus.OK
_IDLE: Final = pq.TransactionStatus.IDLE

BEGIN: Final = Statement("BEGIN ISOLATION LEVEL READ COMMITTED")
COMMIT: Final = Statement("COMMIT")
CURRENT_XID: Final = Statement("SELECT pg_current_xact_id_if_assigned()::text")


class BrokenConnection(Exception):
    """The connection is gone. *sent*: the server may have received the call."""

    def __init__(self, cause: BaseException | None, sent: bool) -> None:
        super().__init__(str(cause).strip() if cause else "the server closed the connection")
        self.sent = sent


class LastWords:
    """
    Whether a server has ended the connection of its own accord, and has said so while nothing was under way.

    libpq takes that for a notice, which it tells and forgets, perhaps when it reads the last answer, and before the end of the
    stream has arrived. What is sent after those words is not done.
    """

    def __init__(self) -> None:
        self.were_heard = False

    def hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized in _ENDS:
            self.were_heard = True


class Silence(Exception):
    """The time of the call is over, and nothing has come from the server."""


def cancel_seconds() -> float:
    """How long the call has for each step of `Connection.time_out`."""
    return limit.ending(CANCEL_SECONDS)


class RetryBudget:
    """How often a call is tried again on another connection, while a server restarts or fails over."""

    def __init__(self) -> None:
        self._until = clock.monotonic() + RECONNECT_SECONDS
        self._sent = 0

    def spend(self, broken: BrokenConnection) -> None:
        """Raise `StoreUnavailable` if it is enough. Something that was received again and again may be what breaks the server."""
        self._sent += broken.sent
        if limit.is_spent():
            raise errors.StoreUnavailable(
                f"the connection broke, and the time of the call is over: {broken}"
            ) from broken
        if self._sent > _SENT_MAX or clock.monotonic() > self._until:
            raise errors.StoreUnavailable(f"the connection broke again and again: {broken}") from broken


class Connection(abc.ABC):
    """What both kinds share: the calls, and how results and errors are read."""

    def __init__(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], *, pooled: bool) -> None:
        self.driver_connection = connection
        self.pgconn = connection.pgconn
        self.pooled = pooled
        self.prepared: set[Statement] | None = None if pooled else set()
        self.identity: str | None = None  # which cluster and timeline answers, where that can be known
        self.xid: str | None = None  # the number of the transaction under way, if that is known
        self.exposed = False  # the caller has got hold of the connection and may run statements of their own
        self.used_at = clock.monotonic()
        self._pid = os.getpid()
        self.permit: Any = None  # the pool's: the right to be open
        self.reserve = 0  # the pool's: which of its reserve, 0: none
        self.slot = 0  # the pool's: the thread that had it last
        self.is_waiting = False  # its transaction waits for something that another one brings
        self.leads_astray = False  # to a server that is read-only: a standby, which was the primary or stood in for it
        self.epoch = 0  # the pool's: how often the history had changed when it was opened
        self._last_words = LastWords()
        connection.add_notice_handler(self._last_words.hear)
        self._transformer = Transformer(_context(connection))
        self._loading: Statement | None = None  # whose columns the transformer is set for
        poller = select.poll()
        poller.register(self.pgconn.socket, select.POLLIN)
        self._poll = poller.poll

    # ------------------------------------------------------------------------------------------------------- calls

    def execute(self, query: Query) -> Any:
        return self._drive(self._execute(query), query)

    def execute_many(self, many: Many) -> Any:
        return self._drive(self._execute_many(many), many)

    def begin_with(self, request: Query | Many, *, tell_xid: bool = False) -> Any:
        """BEGIN and the transaction's first statements, in one round trip. *tell_xid*: and note the `xid`, if one was assigned."""
        return self._drive(self._in_transaction(request, begin=True, tell_xid=tell_xid), request)

    def tell_xid_with(self, request: Query | Many) -> Any:
        """Statements of a transaction that has begun; and note the `xid`, if one was assigned."""
        return self._drive(self._in_transaction(request, begin=False, tell_xid=True), request)

    def commit_with(self, queries: Sequence[Query]) -> Any:
        """*queries* and COMMIT in one round trip. Result: True, or False where the server rolled back."""
        return self._drive(self._commit_with(queries))

    def command(self, sql: str) -> Any:
        """Run SQL without parameters or results, such as SAVEPOINT."""
        return self._drive(self._command(sql.encode()))

    def copy_in(self, copy: CopyIn) -> Any:
        return self._drive(self._copy_in(copy))

    def copy_out(self, copy: CopyOut) -> Any:
        return self._drive(self._copy_out(copy))

    # ------------------------------------------------------------------------------------------------ tidying up
    #
    # For both kinds of connection by polling, on a thread that no interrupt reaches (`core.uninterrupted`): an event loop that is
    # being closed carries nothing out any more.

    @abc.abstractmethod
    def release_socket(self) -> None:
        """Leave the socket to another thread."""

    @abc.abstractmethod
    def _cancel(self, seconds: float) -> None:
        """Ask the server to cancel the call that is under way, waiting for at most *seconds*."""

    def time_out(self, io: protocol.Io[T], taking: Query | Many | None, seconds: float) -> T:
        """
        The time of the call is over: have the server cancel it. Result: that of the call, if it was done all the same.

        Raises `TimedOut`: it was cancelled; `BrokenConnection`: the server does not answer any more, and is given up.

        Args:
            seconds: to wait for the server to take the order, and then again to obey.
        """
        try:
            with contextlib.suppress(psycopg.Error):
                self._cancel(seconds)
            result = self._finish(io, silence=seconds)
        except errors.StatementFailed as exc:
            if exc.sqlstate == QUERY_CANCELED:
                raise timed_out() from exc
            raise
        except errors.Error:
            raise
        except BaseException:
            self.close()
            raise
        if isinstance(taking, Query):  # of `Many` it is noted where the answers are read
            _note_taken([taking], [result])
        return result  # type: ignore[no-any-return]

    def end(self, io: protocol.Io[Any], taking: Query | Many | None) -> None:
        """Bring an interrupted call to its end, and put back what it took."""
        try:
            if inspect.getgeneratorstate(io) != inspect.GEN_CLOSED:
                result = self._finish(io, cancel=True)
                if taking is not None:
                    _note_taken(*(([taking], [result]) if isinstance(taking, Query) else (taking.queries, result)))
                    self.put_back(putting_back(taking))
        except (errors.Error, BrokenConnection):
            return
        except BaseException:
            self.close()

    def put_back(self, queries: Sequence[Query]) -> None:
        """Run *queries*, which undo something, all or none."""
        self._check_alive()
        alone = len(queries) > 1 and self.pgconn.transaction_status == _IDLE
        for query in (Query(BEGIN), *queries, Query(COMMIT)) if alone else queries:
            self._finish(self._execute(query))

    def _finish(self, io: protocol.Io[Any], *, cancel: bool = False, silence: float = SETTLE_SECONDS) -> Any:
        socket = self.pgconn.socket
        poller = select.poll()
        silent_since = clock.monotonic()
        cancelled = not cancel
        try:
            wanted = io.send(None)
            while True:
                poller.register(socket, select.POLLIN if wanted == READ else select.POLLIN | select.POLLOUT)
                if poller.poll(50):
                    silent_since = clock.monotonic()
                    wanted = io.send(None)
                elif clock.monotonic() - silent_since > silence:
                    io.throw(BrokenConnection(TimeoutError("the server does not answer"), sent=True))
                elif clock.monotonic() - silent_since > GRACE_SECONDS and not cancelled:
                    self._cancel(SETTLE_SECONDS)
                    cancelled = True
        except StopIteration as done:
            return done.value

    # ------------------------------------------------------------------------------------------- one body for both

    @abc.abstractmethod
    def wait_idle(self, seconds: float) -> Any:
        """Wait until something arrives unasked for, at most *seconds*."""

    @abc.abstractmethod
    def _drive(self, io: protocol.Io[T], taking: Query | Many | None = None) -> Any:
        """Run *io* to its end. *taking*: the query whose rows it returns, which are put back if the caller is interrupted."""

    def _execute(self, query: Query) -> protocol.Io[Any]:
        call = (query.statement, query.statement.pack(query.values))
        self._check_alive()
        if self.prepared is not None and query.statement not in self.prepared:
            yield from self._prepare(query.statement)
        with self._watching():
            if self.prepared is None:
                result = yield from protocol.run_unprepared(self.pgconn, call)
            else:
                result = yield from protocol.run_prepared(self.pgconn, self.prepared, call)
                if result.status == FATAL and self._forgot_statement(result):
                    result = yield from protocol.run_prepared(self.pgconn, self.prepared, call)
            return self.read(result, query.statement, is_first=True)

    def _prepare(self, statement: Statement) -> protocol.Io[None]:
        """Give *statement* its name. That changes nothing, so a call that breaks here counts as not sent."""
        self._check_alive()
        assert self.prepared is not None
        try:
            with self._watching():
                self.read((yield from protocol.prepare(self.pgconn, self.prepared, statement)))
        except BrokenConnection as exc:
            exc.sent = False
            raise

    def _forgot_statement(self, result: PGresult) -> bool:
        """Whether the server dropped our prepared statements: DISCARD ALL, or DEALLOCATE by someone who used the connection."""
        if result.error_field(pq.DiagnosticField.SQLSTATE) != b"26000" or self.pgconn.transaction_status != _IDLE:
            return False
        assert self.prepared is not None
        self.prepared.clear()
        self._loading = None
        return True

    def _execute_many(self, many: Many) -> protocol.Io[list[Any]]:
        self._check_alive()
        answers: list[list[PGresult]] = []
        unfinished: list[PGresult] = []
        with self._watching(), self._noting(many.queries, answers):
            yield from protocol.pipeline(self.pgconn, self.prepared, [self._calls(many.queries)], answers, unfinished)
            if unfinished and len(unfinished) <= len(many.queries):
                self.read(unfinished[-1], is_first=True)  # before all had been done
            results = self._read_group(answers)
            _note_taken(many.queries, results)
            return results

    def _in_transaction(self, request: Query | Many, *, begin: bool, tell_xid: bool) -> protocol.Io[Any]:
        self._check_alive()
        answers: list[list[PGresult]] = []
        queries = request.queries if isinstance(request, Many) else [request]
        calls = self._calls(queries)
        if begin:
            calls.insert(0, (BEGIN, []))
        if tell_xid:
            calls.append((CURRENT_XID, []))
        with self._watching(), self._noting(queries, answers, before=int(begin)):
            yield from protocol.pipeline(self.pgconn, self.prepared, [calls], answers)
            results = self._read_group(answers)
            if tell_xid:
                self.xid = results.pop()[0][0]
            if begin:
                del results[0]
            _note_taken(queries, results)
            return results if isinstance(request, Many) else results[0]

    @contextlib.contextmanager
    def _noting(
        self, queries: Sequence[Query], answers: list[list[PGresult]], *, before: int = 0
    ) -> Generator[None, None, None]:
        """
        Note what was taken also where an interrupt comes between the arrival of the answers and the note of it.

        *before*: the number of answers that come before those of *queries*.
        """
        try:
            yield
        except BaseException as exc:
            arrived = answers[0][before : before + len(queries)] if answers and is_interrupt(exc) else []
            if len(arrived) == len(queries) and any(query.undo is not None for query in queries):  # fewer: one failed
                with contextlib.suppress(errors.Error, BrokenConnection):
                    _note_taken(queries, [self.read(result) for result in arrived])
            raise

    def _commit_with(self, queries: Sequence[Query]) -> protocol.Io[bool]:
        self._check_alive()
        answers: list[list[PGresult]] = []
        with self._watching():
            yield from protocol.pipeline(self.pgconn, self.prepared, [[*self._calls(queries), (COMMIT, [])]], answers)
            self._read_group(answers)
            return answers[0][-1].command_status == b"COMMIT"

    def _command(self, sql: bytes) -> protocol.Io[None]:
        self._check_alive()
        with self._watching():
            self.read((yield from protocol.simple(self.pgconn, sql)))

    def _copy_in(self, copy: CopyIn) -> protocol.Io[int]:
        self._check_alive()
        with self._watching():
            rows: int = self.read((yield from protocol.copy_in(self.pgconn, copy.sql.encode(), copy.data)))
            return rows

    def _copy_out(self, copy: CopyOut) -> protocol.Io[None]:
        self._check_alive()
        with self._watching():
            result = yield from protocol.simple(self.pgconn, copy.sql.encode())
            if result.status != pq.ExecStatus.COPY_OUT:
                self.read(result)
            failure: BaseException | None = None
            while (block := (yield from protocol.copy_out_block(self.pgconn))) is not None:
                if failure is None:
                    try:
                        copy.consume(block)
                    except BaseException as exc:
                        failure = exc  # what is left has to be read before the connection can be used again
            self.read((yield from protocol.fetch(self.pgconn)))
            if failure is not None:
                raise failure

    # ------------------------------------------------------------------------------------- shared with the caller

    def expose(self) -> None:
        """The caller gets the connection. What they or psycopg do may drop prepared statements: rely on none until it is back."""
        self.exposed = True
        self.prepared = None

    def recover(self, settings: Sequence[Query]) -> Steps[None]:
        """The caller has done with the connection: undo what outlives their transaction, such as settings and temporary tables."""
        self.exposed = False
        if not self.pooled:  # behind a pooler the session is not ours to reset
            # By psycopg, which then forgets what it has prepared.
            yield self.driver_connection.execute("DISCARD ALL")
            yield self.execute_many(Many(settings))
            self.prepared = set()

    # ------------------------------------------------------------------------------------------ results and errors

    @staticmethod
    def _calls(queries: Sequence[Query]) -> list[protocol.Call]:
        return [(query.statement, query.statement.pack(query.values)) for query in queries]

    def _read_group(self, answers: list[list[PGresult]]) -> list[Any]:
        if not answers:
            raise self._broken(None)
        return [self.read(result) for result in answers[0]]

    def read(self, result: PGresult, statement: Statement | None = None, *, is_first: bool = False) -> Any:
        """
        Rows as tuples, or the number of rows affected; raises the error that a result is.

        *statement*: what it is of; *is_first*: it is all that was answered to a call that ends with a commit of its own.
        """
        status = result.status
        if status == _TUPLES_OK:
            # Finding the loaders of the columns costs more than loading a row, and those of one prepared statement stay the same.
            again = statement is not None and statement is self._loading
            self._transformer.set_pgresult(result, set_loaders=not again, format=pq.Format.BINARY)
            self._loading = statement
            return self._transformer.load_rows(0, result.ntuples, tuple)
        if status == _COMMAND_OK:
            return result.command_tuples or 0
        exc = psycopg.errors.error_from_result(result)
        if (
            self.pgconn.status != _CONNECTION_OK
            or exc.diag.severity_nonlocalized in _ENDS
            or (exc.sqlstate or "").startswith("08")
        ):
            was_refused = is_first and not self.pooled and exc.sqlstate in _ENDED_BEFORE
            raise self._broken(exc, sent=not was_refused) from exc
        if exc.sqlstate == "0A000" and exc.diag.source_function == "RevalidateCachedQuery":
            # A migration has changed what a prepared statement gives, and the server runs it no more. Nothing was done.
            raise BrokenConnection(exc, sent=False) from exc
        if exc.sqlstate == "25006":
            self.leads_astray = True
        raise map_error(exc, login=self.pgconn.user.decode("utf-8", "replace")) from exc

    @contextlib.contextmanager
    def _watching(self) -> Generator[None, None, None]:
        """From here on the server may have received the call."""
        try:
            yield
        except psycopg.Error as exc:
            raise self._broken(exc) from exc

    def _broken(self, exc: BaseException | None, *, sent: bool = True) -> BrokenConnection:
        """*sent*: the server may have received the call, for all that *exc* says."""
        # Behind a pooler nobody knows whose words they were.
        return BrokenConnection(exc, sent=sent and (self.pooled or not self._last_words.were_heard))

    def _check_alive(self) -> None:
        """Notice a connection that was closed while idle, so that the call can safely go to another."""
        pgconn = self.pgconn
        try:
            # The server's last words come first, the end of the stream on the next read.
            for _ in range(4):
                if pgconn.status != _CONNECTION_OK or not self._poll(0):
                    break
                pgconn.consume_input()
                pgconn.is_busy()
                if self._last_words.were_heard:  # then it takes the server a moment to close the connection
                    raise BrokenConnection(None, sent=False)
        except psycopg.Error as exc:
            raise BrokenConnection(exc, sent=False) from exc
        if pgconn.status != _CONNECTION_OK:
            raise BrokenConnection(None, sent=False)

    @property
    def clean(self) -> bool:
        """Whether the connection can be used by the next one who asks: alive, nothing under way, in no transaction."""
        return (
            self.pgconn.status == _CONNECTION_OK and self.pgconn.transaction_status == _IDLE and not self.leads_astray
        )

    def close(self) -> None:
        # Not connection.close(), which is a coroutine in one of the two: this closes the socket and is the same for both.
        self.pgconn.finish()

    def __del__(self) -> None:
        # Lost by an interrupt between two lines, or with an event loop that was closed; not the parent's, in a forked child.
        if getattr(self, "_pid", None) == os.getpid():
            self.pgconn.finish()


def _note_taken(queries: Sequence[Query], results: Sequence[Any]) -> None:
    """Note what was taken where an interrupt finds it (see `Query`)."""
    for query, rows in zip(queries, results, strict=True):
        if query.undo is not None:
            query.taken = rows


class _Context:
    """What a Transformer wants to know."""

    def __init__(self, connection: Any) -> None:
        self.adapters = ADAPTERS
        self.connection = connection


def _context(connection: Any) -> Any:
    return _Context(connection)
