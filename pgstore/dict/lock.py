"""Locks between processes: one holder a key, by lease.

A row of `dict_lock` is a lease: it ends at a time by the server's clock, and its holder renews it from the background while
it works. A killed holder stops renewing, and the next who waits has the lock within the lease. Each acquisition has a token
that no other has, so a holder that was away for too long cannot release, or renew, what is another's by now.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import zlib
from functools import partial
from types import TracebackType
from typing import Any, Final

from pgstore import errors
from pgstore.client.listener import waits
from pgstore.client.notifications import notifying
from pgstore.client.undo import on_rollback
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Autonomous, Listen, Op, Query, Rows, Topic, Wait, operation
from pgstore.core.statement import Statement
from pgstore.core.threads import going_on, start
from pgstore.dict.arguments import check_ttl
from pgstore.dict.base import DictBase, K, V
from pgstore.serializers import key_text

LEASE_SECONDS: Final = 30.0


class _Hold:
    """One acquisition of a lock, by one of the threads or tasks that share the object."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.stop = threading.Event()
        self.renewer: asyncio.Task[None] | None = None

    def stop_renewing(self) -> None:
        self.stop.set()
        renewer = self.renewer
        if renewer is not None and not renewer.get_loop().is_closed():
            renewer.get_loop().call_soon_threadsafe(renewer.cancel)


def _owner() -> object:
    """The task or thread that is running."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return task or threading.current_thread()


class Lock:
    """
    A lock on a key of a Dict; see `Dict.lock`. For `with` and `async with`, or `acquire` and `release`.

    Threads and tasks may share the object, as one of `threading.Lock`: it has one holder among them, too.
    """

    def __init__(self, store: DictBase[Any, Any], key: Any, timeout: float | None, ttl: float) -> None:
        self._store = store
        self._key = key
        self._text = key_text(key)
        self._timeout = timeout
        self._lease = ttl
        self._holds: dict[object, _Hold] = {}  # by owner; several only where a lease ended unnoticed
        self._blocks: dict[object, _Hold] = {}  # of `with`

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
        return self._hold()[1].token

    def _hold(self) -> tuple[object, _Hold]:
        """What the caller holds, else the latest holder: another thread may release the lock."""
        owner = _owner()
        hold = self._holds.get(owner)
        if hold is not None:
            return owner, hold
        for last in reversed(list(self._holds.items())):
            return last
        raise errors.InvalidError(f"{self!r} is not held")

    @operation
    def acquire(self, *, block: bool = True) -> Op[bool]:
        """
        Take the lock; wait for it if *block*.

        Returns:
            True; False if it was not free and *block* is false.

        Raises:
            LockTimeout: it was not free within the timeout.
        """
        owner = _owner()
        if owner in self._holds:
            raise errors.InvalidError(f"{self!r} is held already, by this thread or task")
        # Outside of a transaction: a lock that others could see only after its commit would be none.
        yield Autonomous(self._take(owner, block))
        return owner in self._holds

    def _take(self, owner: object, block: bool) -> Op[None]:
        yield from self._note(owner)
        token = yield from self._acquire(block)
        if token is not None:
            self._holds[owner] = _Hold(token)

    def _note(self, owner: object) -> Op[None]:
        """A client of one connection has no other for the lock: then it is taken, or lost, with the transaction."""
        yield from on_rollback(partial(self._restore, owner, self._holds.get(owner)))

    def _restore(self, owner: object, hold: _Hold | None) -> None:
        if hold is None:
            self._holds.pop(owner, None)
        else:
            self._holds[owner] = hold

    _LEFT: Final = Statement(
        """
        SELECT extract(epoch FROM expires_at - statement_timestamp())::double precision
          FROM pgstore.dict_lock
         WHERE store_id = $1
           AND key = $2
        """,
        "int8 text",
        read_only=True,
    )

    def _acquire(self, block: bool) -> Op[int | None]:
        deadline = Deadline.after(self._timeout, block=block)
        try:
            with bounded_by(deadline, self._late):
                return (yield from self._acquire_by(deadline, block))
        except errors.LockTimeout:
            if block:
                raise
            return None

    def _late(self, exc: errors.TimedOut) -> errors.LockTimeout:
        return errors.LockTimeout(f"{self!r} was not taken: {exc}")

    def _acquire_by(self, deadline: Deadline, block: bool) -> Op[int | None]:
        store_id = yield from self._store._resolve_id()
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
                left = (yield Query(self._LEFT, store_id, self._text)) or [(0.0,)]
                yield Wait(ticket, min(seconds, deadline.remaining(), max(left[0][0], 0.001)))
        finally:
            ticket.close()
        raise AssertionError("unreachable")

    # Of two who want a free lock one inserts, or takes the expired row; the other waits for that statement and then finds it taken.
    _ACQUIRE: Final = Statement(
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

    def _try(self, store_id: int) -> Op[int | None]:
        def give_back(rows: Rows) -> list[Query]:
            return [Query(self._RELEASE, store_id, self._text, rows[0][0])]

        rows = yield Query(self._ACQUIRE, store_id, self._text, self._lease, undo=give_back)
        if rows:
            token: int = rows[0][0]
            return token
        yield from self._store._check_exists(store_id)
        return None

    # By the token, so that a late holder deletes nothing of the next one.
    _RELEASE: Final = Statement(
        "DELETE FROM pgstore.dict_lock WHERE store_id = $1 AND key = $2 AND token = $3", "int8 text int8"
    )

    @operation
    def release(self) -> Op[bool]:
        """Give the lock up. Returns False if the lease had ended, and somebody else may have held it since."""
        owner, hold = self._hold()
        store_id = yield from self._store._resolve_id()
        query = Query(self._RELEASE, store_id, self._text, hold.token)

        def release() -> Op[int]:
            yield from self._note(owner)
            return (yield from notifying(query, self._topic(store_id)))  # type: ignore[no-any-return]

        released = bool((yield Autonomous(release())))
        if self._holds.get(owner) is hold:
            del self._holds[owner]  # not before: who was interrupted can try again
        return released

    @operation
    def renew(self) -> Op[bool]:
        """Let the lease begin anew. Returns False if it had ended and the lock is somebody else's."""
        return (yield from self._renewed(self.token))

    # By the token, so that a late holder prolongs nothing of the next one. Where somebody takes the lock at the same time, because
    # it had expired, this waits for them and then finds another token.
    _RENEW: Final = Statement(
        """
        UPDATE pgstore.dict_lock
           SET expires_at = statement_timestamp() + $4 * interval '1 second'
         WHERE store_id = $1
           AND key = $2
           AND token = $3
        """,
        "int8 text int8 float8",
    )

    def _renewed(self, token: int) -> Op[bool]:
        store_id = yield from self._store._resolve_id()
        return bool((yield Autonomous(_one(Query(self._RENEW, store_id, self._text, token, self._lease)))))

    def _topic(self, store_id: int) -> Topic:
        return Topic(store_id, f"lock/{zlib.crc32(self._text.encode()):08x}")

    def __enter__(self) -> Lock:
        self.acquire()
        try:
            owner, hold = self._hold()
            self._blocks[owner] = hold
            start(threading.Thread(target=self._keep, args=(hold,), name="pgstore-lock", daemon=True))
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._left_block()
        hold.stop.set()
        if hold in self._holds.values():
            self.release()

    def _left_block(self) -> _Hold:
        owner = _owner()
        return self._blocks.pop(owner) if owner in self._blocks else self._blocks.popitem()[1]

    async def __aenter__(self) -> Lock:
        await self.acquire.aio()
        owner, hold = self._hold()
        self._blocks[owner] = hold
        # In a context of its own: the transaction around the lock, if any, belongs to this task alone.
        hold.renewer = asyncio.get_running_loop().create_task(self._keep_async(hold), context=contextvars.Context())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._left_block()
        assert hold.renewer is not None
        hold.renewer.cancel()
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await asyncio.wait([hold.renewer])
                if hold in self._holds.values():
                    await self.release.aio()
                break
            except asyncio.CancelledError as exc:
                cancelled = exc  # first the lock, which nobody could have until its lease ends
        if cancelled is not None:
            raise cancelled

    def stop_renewing(self) -> None:
        """Let the lease end by itself, if nobody releases it. From any thread."""
        for hold in list(self._holds.values()):
            hold.stop_renewing()

    def _keep(self, hold: _Hold) -> None:
        held = True
        while held and not hold.stop.wait(self._lease / 3):
            with going_on("the renewal of a lock"):
                renewed = self._renewed(hold.token)
                if self._bound is None:
                    held = self._runner.run_in_background(renewed)
                else:
                    held = self._runner.run(renewed, self._bound)

    async def _keep_async(self, hold: _Hold) -> None:
        held = True
        while held:
            await asyncio.sleep(self._lease / 3)
            with going_on("the renewal of a lock", asyncio.get_running_loop()):
                held = await self._runner.run_async(self._renewed(hold.token), self._bound)

    def __repr__(self) -> str:
        return f"<lock on key {self._key!r} of {self._store!r}>"


def _one(query: Query) -> Op[Any]:
    return (yield query)


class Locking(DictBase[K, V]):
    """`lock`."""

    def lock(self, key: K, *, timeout: float | None = None, ttl: float = LEASE_SECONDS) -> Lock:
        """
        Return a lock on *key*, for `with` and `async with`: one holder among all processes.

        It has nothing to do with the entry under *key*, nor with transactions, and is not reentrant: a holder that takes it again
        waits for itself. While a `with` block runs its lease is renewed. A killed holder loses it after *ttl* seconds, and so does
        one that was paused for longer, without noticing: after a pause check `renew()`, or pass `token` as a fencing token.

        Args:
            timeout: wait at most so many seconds, then raise `LockTimeout`, a `TimeoutError`; None: for ever.
            ttl: the lease, in seconds.
        """
        Deadline.after(timeout)
        seconds = check_ttl(ttl)
        if seconds == float("inf"):
            raise errors.InvalidError("a lock needs a lease that ends, or a killed holder would keep it for ever")
        return Lock(self, key, timeout, seconds)
