"""Locks between processes: one holder a key, by lease.

A row of `dict_lock` is a lease: it ends at a time by the server's clock, and its holder renews it from the background while
it works. A killed holder stops renewing, and the next in line has the lock within the lease. Each acquisition has a token
that no other has, so a holder that was away for too long cannot release, or renew, what is another's by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import zlib
from functools import partial
from types import TracebackType
from typing import Any, Final

from pgstore import errors
from pgstore.client.announcements import announcing
from pgstore.client.listener import waits
from pgstore.client.undo import on_rollback
from pgstore.core.clock import Deadline
from pgstore.core.limit import within
from pgstore.core.operation import Apart, Listen, Op, Query, Rows, Topic, Wait, operation
from pgstore.core.statement import Statement
from pgstore.dict.base import DictBase, check_ttl
from pgstore.serializers import key_text

LEASE_SECONDS: Final = 30.0

# Of two who want a free lock one inserts, or takes the expired row; the other waits for that statement and then finds it taken.
ACQUIRE = Statement(
    """
    INSERT INTO pgstore.dict_lock AS l (store_id, key, expires_at)
    SELECT s.id, $2, statement_timestamp() + $3 * interval '1 second'
      FROM pgstore.store s
     WHERE s.id = $1
    ON CONFLICT (store_id, key) DO UPDATE
       SET token = excluded.token,
           acquired_at = excluded.acquired_at,
           expires_at = excluded.expires_at
     WHERE l.expires_at <= excluded.acquired_at
    RETURNING token
    """,
    "int8 text float8",
)
RENEW = Statement(
    """
    UPDATE pgstore.dict_lock
       SET expires_at = statement_timestamp() + $4 * interval '1 second'
     WHERE store_id = $1
       AND key = $2
       AND token = $3
    """,
    "int8 text int8 float8",
)
RELEASE = Statement("DELETE FROM pgstore.dict_lock WHERE store_id = $1 AND key = $2 AND token = $3", "int8 text int8")
LEFT = Statement(
    """
    SELECT extract(epoch FROM expires_at - statement_timestamp())::double precision
      FROM pgstore.dict_lock
     WHERE store_id = $1
       AND key = $2
    """,
    "int8 text",
    reads=True,
)


class Lock:
    """A lock on a key of a Dict; see `Dict.lock`. For `with` and `async with`, or `acquire` and `release`."""

    def __init__(self, store: Locking, key: Any, timeout: float | None, ttl: float) -> None:
        self._store = store
        self._key = key
        self._text = key_text(key)
        self._timeout = timeout
        self._lease = ttl
        self._token: int | None = None
        self._stop: threading.Event | None = None
        self._renewer: asyncio.Task[None] | None = None

    # What a runner wants to know.

    @property
    def _runner(self) -> Any:
        return self._store._runner

    @property
    def _bound(self) -> Any:
        return self._store._bound

    @property
    def token(self) -> int:
        """Grows with every acquisition: a fencing token, by which others can tell a late holder from the present one."""
        if self._token is None:
            raise errors.InvalidError(f"{self!r} is not held")
        return self._token

    @operation
    def acquire(self, *, block: bool = True) -> Op[bool]:
        """
        Take the lock; wait for it if *block*.

        Returns:
            True; False if it was not free and *block* is false.

        Raises:
            LockTimeout: it was not free within the timeout.
        """
        if self._token is not None:
            raise errors.InvalidError(f"{self!r} is held already")
        # Apart: a lock that others could see only after a commit would be none.
        yield Apart(self._take(block))
        return self._token is not None

    def _take(self, block: bool) -> Op[None]:
        yield from self._note()
        self._token = yield from self._acquire(block)

    def _note(self) -> Op[None]:
        """A client of one connection has none to be apart on: then the lock goes with the transaction, either way."""
        yield from on_rollback(partial(setattr, self, "_token", self._token))

    def _acquire(self, block: bool) -> Op[int | None]:
        deadline = Deadline.after(self._timeout, block=block)
        try:
            with within(deadline, self._late):
                return (yield from self._acquire_by(deadline, block))
        except errors.LockTimeout:
            if block:
                raise
            return None

    def _late(self, exc: errors.TimedOut) -> errors.LockTimeout:
        return errors.LockTimeout(f"{self!r} was not taken: {exc}")

    def _acquire_by(self, deadline: Deadline, block: bool) -> Op[int | None]:
        store_id = yield from self._store._locate()
        token = yield from self._try(store_id)
        if token is not None or not block:
            return token
        ticket = yield Listen(self._topic(store_id))
        try:
            for seconds in waits():
                token = yield from self._try(store_id)
                if token is not None:
                    return token
                if deadline.passed():
                    raise errors.LockTimeout(f"{self!r} was not free within {self._timeout} s")
                left = (yield Query(LEFT, store_id, self._text)) or [(0.0,)]
                yield Wait(ticket, min(seconds, deadline.remaining(), max(left[0][0], 0.001)))
        finally:
            ticket.close()
        raise AssertionError("unreachable")

    def _try(self, store_id: int) -> Op[int | None]:
        def give_back(rows: Rows) -> list[Query]:
            return [Query(RELEASE, store_id, self._text, rows[0][0])]

        rows = yield Query(ACQUIRE, store_id, self._text, self._lease, undo=give_back)
        if rows:
            token: int = rows[0][0]
            return token
        yield from self._store._check_exists(store_id)
        return None

    @operation
    def release(self) -> Op[bool]:
        """Give the lock up. Returns False if the lease had ended, and somebody else may have held it since."""
        token = self.token
        store_id = yield from self._store._locate()
        query = Query(RELEASE, store_id, self._text, token)

        def release() -> Op[int]:
            yield from self._note()
            return (yield from announcing(query, self._topic(store_id)))  # type: ignore[no-any-return]

        released = bool((yield Apart(release())))
        self._token = None  # not before: who was interrupted can try again
        return released

    @operation
    def renew(self) -> Op[bool]:
        """Let the lease begin anew. Returns False if it had ended and the lock is somebody else's."""
        store_id = yield from self._store._locate()
        return bool((yield Apart(_one(Query(RENEW, store_id, self._text, self.token, self._lease)))))

    def _topic(self, store_id: int) -> Topic:
        return Topic(store_id, f"lock/{zlib.crc32(self._text.encode()):08x}")

    def __enter__(self) -> Lock:
        self.acquire()
        try:
            self._stop = threading.Event()
            threading.Thread(target=self._keep, args=(self._stop,), name="pgstore-lock", daemon=True).start()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stop is not None
        self._stop.set()
        if self._token is not None:
            self.release()

    async def __aenter__(self) -> Lock:
        await self.acquire.aio()
        # In a context of its own: the transaction around the lock, if any, belongs to this task alone.
        self._renewer = asyncio.get_running_loop().create_task(self._keep_async(), context=contextvars.Context())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._renewer is not None
        self._renewer.cancel()
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await asyncio.wait([self._renewer])
                if self._token is not None:
                    await self.release.aio()
                break
            except asyncio.CancelledError as exc:
                cancelled = exc  # first the lock, which nobody could have until its lease ends
        if cancelled is not None:
            raise cancelled

    def stop_renewing(self) -> None:
        """Let the lease end by itself, if nobody releases it. From any thread."""
        if self._stop is not None:
            self._stop.set()
        renewer = self._renewer
        if renewer is not None and not renewer.get_loop().is_closed():
            renewer.get_loop().call_soon_threadsafe(renewer.cancel)

    def _keep(self, stop: threading.Event) -> None:
        while not stop.wait(self._lease / 3):
            with contextlib.suppress(errors.Error):
                if not self.renew():
                    return

    async def _keep_async(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            with contextlib.suppress(errors.Error):
                if not await self.renew.aio():
                    return

    def __repr__(self) -> str:
        return f"<lock on key {self._key!r} of {self._store!r}>"


def _one(query: Query) -> Op[Any]:
    return (yield query)


class Locking(DictBase):
    """`lock`."""

    def lock(self, key: Any, *, timeout: float | None = None, ttl: float = LEASE_SECONDS) -> Lock:
        """
        Return a lock on *key*, for `with` and `async with`: one holder among all processes.

        It is apart from the entry under *key*, and from transactions, and not reentrant: who holds it waits for themselves. While
        a `with` block runs its lease is renewed; a killed holder loses it after *ttl* seconds, and one that was away for so long
        without being told: what must not be done by two checks `renew()`, or hands on `token`.

        Args:
            timeout: wait at most so many seconds, then raise `LockTimeout`, a `TimeoutError`; None: for ever.
            ttl: the lease, in seconds.
        """
        Deadline.after(timeout)
        seconds = check_ttl(ttl)
        if seconds == float("inf"):
            raise errors.InvalidError("a lock needs a lease that ends, or a killed holder would keep it for ever")
        return Lock(self, key, timeout, seconds)
