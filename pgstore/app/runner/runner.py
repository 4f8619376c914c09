"""The runner of this process: it has inputs done by workers, and ends them all with the process."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from pgstore import errors
from pgstore.app import context, pickles
from pgstore.app.pickles import Outcome
from pgstore.app.runner.pool import Pool
from pgstore.app.runner.process import LOOK_SECONDS
from pgstore.app.runner.task import Task
from pgstore.app.spec import Input, WorkerSpec
from pgstore.mount import mount  # which registers with `atexit` before the runner does, and so ends after it
from pgstore.mount.daemon import caller

END_SECONDS: Final = 5.0  # for what is interrupted at the end
_KILL_SECONDS: Final = 2.0


class Runner:
    """Has inputs done by workers. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pools: dict[WorkerSpec, Pool] = {}
        self._is_closed = False

    def submit(self, spec: WorkerSpec, given: Input, *, on_item: Callable[[bytes], None] | None = None) -> Task:
        """
        Have a worker of *spec* do what is *given*.

        A failure is an outcome, too. As long as no worker has begun, the future can be cancelled.

        Args:
            on_item: called, in some thread, with each pickled item that a generator yields. Call `taken` of the task for each.
        """
        task = Task(spec, given, on_item)
        self._pool(spec).add(task)
        return task

    def cancel(self, future: Future[Outcome], *, kill: bool = False) -> None:
        """
        End what is done for *future*, which then has the outcome that it was cancelled. A generator is closed.

        A function that runs is interrupted, and after ten seconds its worker is killed; with *kill* at once.
        """
        assert isinstance(future, Task)
        if not future.done():
            self._pool(future.spec).cancel(future, kill=kill)

    def _pool(self, spec: WorkerSpec) -> Pool:
        pool = self._pools.get(spec)
        if pool is None:
            with self._lock:
                if self._is_closed:
                    raise errors.InvalidError("the program is ending: no function can be called any more")
                pool = self._pools.get(spec)
                if pool is None:
                    pickles.share_main(spec.program)
                    pool = self._pools[spec] = Pool(spec)
        return pool

    def close(self) -> None:
        """
        End all workers. What they do is interrupted, and after five seconds they are killed, or when they have committed what was
        written. Ctrl-C meanwhile kills them at once.

        When it returns there is no process, mount or directory of theirs any more.
        """
        with self._lock:
            self._is_closed = True
            pools = list(self._pools.values())
        left = [process for pool in pools for process in pool.close(END_SECONDS)]
        give_up = time.monotonic() + END_SECONDS + _KILL_SECONDS
        try:
            while left and (time.monotonic() < give_up or any(process.is_committing for process in left)):
                if left[-1].has_ended(LOOK_SECONDS):
                    left.pop()
        except KeyboardInterrupt:  # once more
            for process in left:
                process.kill()
            if not mount.open_mounts:  # it serves nobody else, and may be waiting for the server
                caller.kill()
            for process in left:
                process.has_ended(_KILL_SECONDS)
            raise


_runner: Runner | None = None
_lock = threading.RLock()
_is_ending = False


def runner() -> Runner:
    """
    The runner of this process, which is made when it is first needed.

    Raises:
        InvalidError: this is a worker that is loading the program, or the program is ending.
        ConfigurationError: this is not Linux.
    """
    global _runner
    if sys.platform != "linux":
        raise errors.ConfigurationError(
            "workers need Linux (namespaces, pidfd): call the function with .local(…), which runs here"
        )
    if context.is_loading:
        raise errors.InvalidError(
            "a function is called while a worker loads the program: each worker would start workers; "
            "call it in a function, in a local entrypoint, or below `if __name__ == '__main__':`"
        )
    with _lock:
        if _runner is None or (_runner._is_closed and not _is_ending):
            _runner = Runner()
        return _runner


def close() -> None:
    """End the runner of this process, if there is one; a call makes another."""
    with _lock:
        ending = _runner
    if ending is not None:
        ending.close()


def _at_exit() -> None:
    global _is_ending
    _is_ending = True
    close()


def _after_fork_in_child() -> None:
    global _runner, _lock
    _lock = threading.RLock()
    _runner = None


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
