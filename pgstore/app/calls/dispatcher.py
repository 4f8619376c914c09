"""Dispatcher: takes the calls of an App and has the Runner of this process run them.

One thread with an event loop: for each function a task that waits for calls as long as there is room for one, and one task for each
call that runs. So a function whose workers are all busy keeps no other waiting, and what it cannot take yet other machines can. A
call is this process's by the lease of its item, which goes on as long as the process lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextvars import Context
from typing import Any, Final, Protocol, TypeVar

from pgstore import errors
from pgstore.app.calls.ending import KILLED, cancelling_topic, error_of
from pgstore.app.calls.queue import CallQueue, StartedCall, partition_of
from pgstore.app.calls.targets import Target
from pgstore.app.pickles import Outcome, failed_here
from pgstore.app.spec import Input, WorkerSpec
from pgstore.client.waiting import WAITERS, until
from pgstore.core.clock import Deadline
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.core.threads import Signal, start

T = TypeVar("T")
_LOG: Final = logging.getLogger("pgstore")
LEASE_SECONDS: Final = 15.0  # after which the calls of a process that was killed are another's
_AGAIN_SECONDS: Final = 1.0  # after the database could not be reached
_JOIN_SECONDS: Final = 0.2  # a signal may have come to another thread, and who waits for ever does not hear of it
_ENDING_SECONDS: Final = 60.0  # for which an outcome is tried to be written


class Runner(Protocol):
    """What runs inputs in workers: `app.runner.Runner`."""

    def submit(self, spec: WorkerSpec, input: Input) -> Future[Outcome]: ...  # noqa: A002

    def cancel(self, future: Future[Outcome], *, kill: bool = False) -> None: ...


class Dispatcher:
    """
    What takes the calls of an App, from `start` to `stop`.

    Args:
        run: the session of the run whose calls it takes; None: those that are any worker's.
    """

    def __init__(self, queue: CallQueue, runner: Runner, run: int | None = None) -> None:
        self._queue = queue
        self._runner = runner
        self._run = run
        self._targets: dict[str, Target] = {}
        self._running: dict[int, tuple[StartedCall, Future[Outcome]]] = {}
        self._thread = threading.Thread(target=self._work, name="pgstore-calls", daemon=True)
        self._outage: errors.Error | None = None
        self._news = Signal()  # a call has ended
        self._ready = Signal()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()

    @property
    def running(self) -> int:
        """How many calls run."""
        return len(self._running)

    def serve(self, targets: Iterable[Target]) -> None:
        """Take calls of *targets*, too. Begins with the first."""
        new = [target for target in targets if target.name not in self._targets]
        self._targets.update((target.name, target) for target in new)
        if not self._ready.is_set():
            start(self._thread)
            self._ready.wait()
        assert self._loop is not None
        for target in new:
            # In no transaction of the caller's, whose context would else be that of the task.
            self._loop.call_soon_threadsafe(self._begin, self._serve(target), context=Context())

    def wait_for_end(self, seconds: float) -> None:
        """Wait until a call has ended, at most so long."""
        self._news.wait(seconds)
        self._news.clear()

    def stop(self, seconds: float | None = None) -> None:
        """
        Take nothing more, and wait for what runs.

        Args:
            seconds: after which it is cancelled, and counts as an attempt; None: never.
        """
        if self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        deadline = Deadline.after(seconds)
        while self._thread.is_alive() and not deadline.passed():
            self._thread.join(min(_JOIN_SECONDS, deadline.remaining()))
        while self._thread.is_alive():
            for _, future in tuple(self._running.values()):
                self._runner.cancel(future)
            self._thread.join(_JOIN_SECONDS)

    # ------------------------------------------------------------------------------------------------- on the event loop

    def _work(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        hearing = self._loop.create_task(self._hear())
        self._ready.set()
        await self._stopping.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)
        hearing.cancel()
        await asyncio.wait({hearing})

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _LOG.error("a part of what takes calls has failed", exc_info=exc)

    async def _serve(self, target: Target) -> None:
        """Take calls of *target* as long as there is room for them."""
        slots = asyncio.Semaphore(target.slots)
        partition = partition_of(target.name, self._run)
        retries = target.options.retries
        queue = self._queue.with_attempts(1 + (retries.max_retries if retries else 0))
        while not self._stopping.is_set():
            await slots.acquire()
            call: StartedCall | None = None
            try:
                lease = await self._until_stopped(queue.get.aio(partition=partition, lease=LEASE_SECONDS, renew=True))
                call = None if lease is None else queue.begun(target.name, lease)
                if lease is not None and call is None:
                    with contextlib.suppress(errors.LeaseLost):  # it ended with the call
                        await lease.ack.aio()
                self._outage = None
            except errors.Error as exc:
                self._say(exc)
                await self._until_stopped(asyncio.sleep(_AGAIN_SECONDS))
            except Exception as exc:  # noqa: BLE001 - the next one may be better
                _LOG.error("a call of %s could not be begun", target.name, exc_info=exc)
                await self._until_stopped(asyncio.sleep(_AGAIN_SECONDS))
            if call is None:
                slots.release()
            else:
                self._begin(self._do(target, call, slots))

    def _say(self, exc: errors.Error) -> None:
        """Once for each outage: it is tried again every second."""
        if self._outage is None:
            _LOG.warning("calls of %r are not taken now: %s", self._queue.name, exc)
        self._outage = exc

    async def _until_stopped(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """What *waiting* gives; None if it is time to stop, and it gives nothing."""
        waits = asyncio.ensure_future(waiting)
        stops = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({waits, stops}, return_when=asyncio.FIRST_COMPLETED)
        stops.cancel()
        if not waits.done():
            waits.cancel()
            await asyncio.wait({waits})  # it may have taken something before that
        return None if waits.cancelled() else waits.result()

    async def _do(self, target: Target, call: StartedCall, slots: asyncio.Semaphore) -> None:
        """Run *call* and write down how it ended."""
        number = call.ending.number
        try:
            outcome = await self._outcome(target, call)
            await self._end(target, call, outcome)
        finally:
            self._running.pop(number, None)
            slots.release()
            self._news.set()

    async def _outcome(self, target: Target, call: StartedCall) -> Outcome:
        if call.error is not None:
            return failed_here(call.error)
        try:
            spec = target.spec(call.parameters)
            given = Input(
                call.ending.name,
                target.method,
                call.arguments,
                timeout=target.options.timeout,
                completion=pickle.dumps(call.ending) if target.options.transactional else None,
                is_repeated=call.attempts > 1,
            )
            future = self._runner.submit(spec, given)
        except Exception as exc:  # noqa: BLE001 - so may be what the parameters of a class come to when they are loaded
            return failed_here(exc)
        self._running[call.ending.number] = call, future
        try:
            return await asyncio.wrap_future(future)
        except Exception as exc:  # noqa: BLE001 - of the Runner, which is closed, perhaps: the call has failed
            return failed_here(exc)

    async def _end(self, target: Target, call: StartedCall, outcome: Outcome) -> None:
        deadline = Deadline.after(_ENDING_SECONDS)
        while True:
            try:
                return await self._write(target, call, outcome)
            except errors.ValueTooLarge as exc:
                outcome = failed_here(exc)
            except errors.LeaseLost:  # it was cancelled, or is another's
                return None
            except errors.StoreUnavailable as exc:
                if deadline.passed():
                    _LOG.error(
                        "how %s ended could not be written, and it may be begun again: %s", call.ending.name, exc
                    )
                    return None
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _write(self, target: Target, call: StartedCall, outcome: Outcome) -> None:
        client = self._queue._runner
        retries = target.options.retries
        may_repeat = retries is not None and call.attempts <= retries.max_retries and call.error is None
        if retries is not None and may_repeat and outcome.is_error:
            await self._queue.give_back.aio(call, retries.delay(call.attempts), error_of(outcome))
            return
        await client.run_async(call.ending.end(client, outcome))

    # ------------------------------------------------------------------------------------------------------- cancelling

    CANCELLED: Final = Statement(
        "SELECT id, state FROM pgstore.spawned_call WHERE store_id = $1 AND id = ANY ($2) AND state IN ('c', 'k')",
        "int8 int8[]",
        read_only=True,
    )

    async def _hear(self) -> None:
        """Stop the workers of calls that were cancelled, or are another's by now."""
        while True:
            try:
                await self._queue._runner.run_async(self._cancel())
            except errors.Error as exc:
                self._say(exc)
                await asyncio.sleep(_AGAIN_SECONDS)

    def _cancel(self) -> Op[None]:
        store_id = yield from self._queue._resolve_id()
        topic = cancelling_topic(store_id)

        def attempt() -> Op[Rows | None]:
            if not self._running:
                return None
            rows: Rows = yield Query(self.CANCELLED, store_id, list(self._running))
            rows += [(number, "") for number, (call, _) in tuple(self._running.items()) if call.lease.is_lost]
            return rows or None

        rows = yield from until(topic, attempt, Deadline.after(None), lambda key, slot: Query(WAITERS, key, slot))
        for number, state in rows or ():
            if (running := self._running.pop(number, None)) is not None:
                self._runner.cancel(running[1], kill=state == KILLED)
