"""A run of a program: this process takes the calls that are spawned in it, and they end with it.

To spawn without a run is to leave the call to a `pgstore worker`, which is what a web process wants. What the workers of a run
spawn belongs to it: they ask, once for each App. A program that calls functions without `app.run()` has a run as soon as one of its
workers spawns.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
import threading
from collections.abc import Callable
from typing import Final

from pgstore.app import context
from pgstore.app.calls.dispatcher import Dispatcher, Runner
from pgstore.app.calls.queue import CallQueue
from pgstore.app.calls.targets import targets
from pgstore.app.runner import runner
from pgstore.client import Client, default_client

_LOOK_SECONDS: Final = 1.0  # between looks whether calls of the run have ended, beside each that ends here


class Run:
    """
    A run.

    Args:
        is_detached: calls do not end with the run, and any worker of the App may take them: `pgstore worker` is such a run.
    """

    def __init__(self, *, is_detached: bool = False, runner: Callable[[], Runner] = runner) -> None:
        self._is_detached = is_detached
        self._runner = runner
        self._lock = threading.RLock()
        self._session: int | None = None
        self._before: Run | None = None
        self._dispatchers: dict[str, tuple[CallQueue, Dispatcher]] = {}

    def begin(self) -> None:
        """Have calls that are spawned from now on be those of this run."""
        global _current
        self._before, _current = _current, self

    def end(self, exc: BaseException | None) -> None:
        """Wait until all calls of the run have ended; where *exc*, which has ended it, is a Ctrl-C, cancel them."""
        global _current
        try:
            if isinstance(exc, KeyboardInterrupt):
                self.cancel()
            else:
                self.finish()
        finally:
            _current = self._before

    def takes(self, app: str) -> int | None:
        """
        See that calls of *app* are taken. Blocks; outside of any transaction.

        Returns:
            what `CallQueue.spawn` is to be told as its run.
        """
        with self._lock:
            if app not in self._dispatchers:
                client = default_client()
                if self._session is None and not self._is_detached:
                    self._session = client.run_in_background(client.session.current())
                queue = queue_of(app, client)
                self._dispatchers[app] = queue, Dispatcher(queue, self._runner(), self._session)
            self._dispatchers[app][1].serve(targets(app))
            return self._session

    @property
    def running(self) -> int:
        """How many calls run here."""
        return sum(dispatcher.running for _, dispatcher in self._all())

    def stop(self, seconds: float | None = None) -> None:
        """Take nothing more, and wait for what runs; see `Dispatcher.stop`."""
        for _, dispatcher in self._all():
            dispatcher.stop(seconds)

    def finish(self) -> None:
        """Wait until all calls of the run have ended, those that they spawn included. Detached: until those have that run here."""
        try:
            while waiting := [dispatcher for queue, dispatcher in self._all() if self._has_calls(queue)]:
                waiting[0].wait_for_end(_LOOK_SECONDS)
            self.stop()
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> None:
        """
        Cancel the calls of the run that have not ended, and say how many they are.

        Detached: wait for those that run here, which nobody else can take over; another Ctrl-C stops them.
        """
        session = self._session
        cancelled = 0 if session is None else sum(queue.cancel_run(session) for queue, _ in self._all())
        if cancelled:
            sys.stderr.write(f"pgstore: {cancelled} spawned calls were cancelled\n")
        try:
            self.stop(None if self._is_detached else 0)
        except KeyboardInterrupt:
            self.stop(0)

    def _has_calls(self, queue: CallQueue) -> bool:
        return self._session is not None and queue.unended(self._session) > 0

    def _all(self) -> list[tuple[CallQueue, Dispatcher]]:
        with self._lock:
            return list(self._dispatchers.values())


def queue_of(app: str, client: Client) -> CallQueue:
    """The calls of *app*: one handle for a client, which knows its store."""
    key = (CallQueue, client.environment, app)
    queue = client.shared.get(key)
    if queue is None:
        queue = client.shared.setdefault(key, CallQueue.from_name(app, create_if_missing=True, client=client))
    return queue  # type: ignore[no-any-return]


_current: Run | None = None
_implicit: Run | None = None
_lock: Final = threading.RLock()


def run_of(app: str) -> int | None:
    """The session of the run that calls of *app* belong to that are spawned here; None: any worker takes them. Blocks."""
    if not context.is_local():
        return _asked(app)
    return None if _current is None else _current.takes(app)


@functools.cache
def _asked(app: str) -> int | None:
    assert context.ask is not None, "the worker has set it"
    return context.ask("run", app)  # type: ignore[no-any-return]


def _answer(app: str) -> int | None:
    """What a worker of this process is told of what it spawns."""
    global _implicit
    if _current is not None or not context.is_local():
        return run_of(app)
    with _lock:
        if _implicit is None:
            _implicit = Run()
            atexit.register(_at_exit, _implicit)
    return _implicit.takes(app)


def _at_exit(run: Run) -> None:
    if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
        run.cancel()
    else:
        with contextlib.suppress(KeyboardInterrupt):  # nobody could handle it any more, and its calls are cancelled
            run.finish()


context.ANSWERS["run"] = _answer
