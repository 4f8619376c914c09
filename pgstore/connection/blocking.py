"""Connections for blocking calls: they wait for the socket by polling, or awake (`spin_wait`)."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat, starmap
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGresult

from pgstore import errors
from pgstore.connection import protocol
from pgstore.connection.base import FATAL, BrokenConnection, Connection, Silence, cancel_seconds
from pgstore.connection.protocol import READ
from pgstore.connection.spin_wait import SpinWait
from pgstore.core import clock, limit, meanwhile
from pgstore.core.operation import Many, Query
from pgstore.core.uninterrupted import run_uninterrupted

T = TypeVar("T")
_FRESH_SECONDS: Final = 0.002  # a connection used this recently is taken to be alive
_ACTIVE: Final = pq.TransactionStatus.ACTIVE


class BlockingConnection(Connection):
    """A connection driven by polling."""

    driver_connection: psycopg.Connection[Any]

    def __init__(self, connection: psycopg.Connection[Any], *, pooled: bool) -> None:
        super().__init__(connection, pooled=pooled)
        writer = select.poll()
        writer.register(self.pgconn.socket, select.POLLIN | select.POLLOUT)
        self._poll_write = writer.poll
        self._spin_wait = SpinWait()
        # `for result in self._results: break`, not `result = get_result()`: Ctrl-C may come between a call and the storing of
        # what it returned, but not between the two halves of a loop's step.
        self._results: Iterator[PGresult | None] = starmap(self.pgconn.get_result, repeat(()))

    def execute(self, query: Query) -> Any:
        """Run a query: the one path that has to be quick, so it is written out."""
        statement = query.statement
        if clock.monotonic() - self.used_at > _FRESH_SECONDS and self._poll(0):
            self._check_alive()
        if self.prepared is not None and statement not in self.prepared:
            self._drive(self._prepare(statement))
        pgconn = self.pgconn
        values = statement.pack(query.values)
        result: PGresult | None = None
        is_free = limit.current() is None and meanwhile.current() is None
        wait: Callable[[], Any] = self._poll if is_free else self._wait
        try:
            if self.prepared is None:
                pgconn.send_query_params(statement.portable_sql, values, statement.oids, statement.formats, 1)
            else:
                pgconn.send_query_prepared(statement.name, values, statement.formats, 1)
            if not pgconn.flush():
                if not self._spin_wait.catch(pgconn, statement):
                    wait()
                    pgconn.consume_input()
                while pgconn.is_busy():
                    wait()
                    pgconn.consume_input()
                for result in self._results:  # noqa: B007
                    break
                while pgconn.is_busy():
                    wait()
                    pgconn.consume_input()
                # The commit comes after the rows, and may fail: a second result.
                if (more := pgconn.get_result()) is None:
                    assert result is not None
                    if result.status == FATAL and self._forgot_statement(result):
                        result = None
                        return self.execute(query)
                    rows = self.read(result, statement, is_first=True)
                    if query.undo is not None:
                        query.taken = rows
                    return rows
                result = more
        except (errors.Error, BrokenConnection):
            raise
        except psycopg.Error as exc:
            words = result or pgconn.get_result()
            if words is not None and words.status == FATAL:  # the server's last; else they are of what was done
                return self.read(words, is_first=True)  # which raises
            raise self._broken(exc) from exc
        except BaseException as exc:
            # Twice: a second interrupt may come before the first has set about tidying up. What was done is not done again.
            io = None
            try:
                io = self._rest(result)
                if type(exc) is Silence:
                    return self._time_out(io, query)
                self._settle(io, query)
            except (errors.Error, BrokenConnection):
                raise
            except BaseException:
                self._settle(io or self._rest(result), query)
                raise
            raise
        return self._drive(self._rest(result), query)

    def _rest(self, result: PGresult | None) -> protocol.Io[Any]:
        """What is still to come of a call, after *result*."""
        if result is None and self.pgconn.transaction_status != _ACTIVE:
            return None  # interrupted before it was sent
        with self._watching():
            rest = yield from protocol.fetch(self.pgconn, result)
            return self.read(rest)

    def _drive(self, io: protocol.Io[T], taking: Query | Many | None = None) -> T:
        try:
            wanted = next(io)
            if taking is not None and wanted == READ and self._catch(taking):
                wanted = io.send(None)
            return self._drive_on(io, wanted)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except (errors.Error, BrokenConnection):
            raise
        except BaseException as exc:
            try:
                if type(exc) is Silence:
                    return self._time_out(io, taking)  # type: ignore[no-any-return]
                self._settle(io, taking)
            except (errors.Error, BrokenConnection):
                raise
            except BaseException:  # as in `execute`
                self._settle(io, taking)
                raise
            raise

    def _catch(self, request: Query | Many) -> bool:
        first = request if isinstance(request, Query) else request.queries[0]
        with contextlib.suppress(psycopg.Error):  # which whoever reads the answer gets too
            return self._spin_wait.catch(self.pgconn, first.statement)
        return False

    def _drive_on(self, io: protocol.Io[T], wanted: int) -> T:
        try:
            while True:
                self._wait(wanted)
                wanted = io.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _wait(self, wanted: int = READ) -> None:
        """Wait for the socket, as long as the call may."""
        attention = meanwhile.current()
        if attention is not None:
            events = select.POLLIN if wanted == READ else select.POLLIN | select.POLLOUT
            has_come = attention.wait_for(self.pgconn.socket, events, _milliseconds())
            if has_come:
                return
            if has_come is False:
                raise Silence
        if not (self._poll if wanted == READ else self._poll_write)(_milliseconds()):
            raise Silence

    def _time_out(self, io: protocol.Io[Any], taking: Query | Many | None) -> Any:
        return run_uninterrupted(partial(self.time_out, io, taking, cancel_seconds()))

    def wait_idle(self, seconds: float) -> None:
        select.select([self.pgconn.socket], [], [], seconds)

    def _settle(self, io: protocol.Io[Any], taking: Query | Many | None) -> None:
        """Bring an interrupted call to its end, and undo it, whatever interrupts there are meanwhile."""
        run_uninterrupted(partial(self.end, io, taking))

    def release_socket(self) -> None:
        pass  # it waits for the socket only in its calls

    def _cancel(self, seconds: float) -> None:
        self.driver_connection.cancel_safe(timeout=seconds)


def _milliseconds() -> float | None:
    seconds = limit.wait_seconds()
    return None if seconds is None else seconds * 1000
