"""A pool: the workers of one kind, and the tasks that wait for them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import Final

from pgstore import errors
from pgstore.app.pickles import Outcome, failed_here
from pgstore.app.runner.process import Process
from pgstore.app.runner.task import CANCEL_GRACE_SECONDS, Task
from pgstore.app.spec import WorkerSpec
from pgstore.config import variable_of
from pgstore.core import threads

_LOG: Final = logging.getLogger("pgstore")
PARALLELISM: Final = "PGSTORE_PARALLELISM"


class Pool:
    """Workers for *spec*. They are started when tasks wait, as many as there may be, and end when they have been idle for long."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self._workers_max = min(spec.max_workers or parallelism(), parallelism())
        self._lock = threading.RLock()
        self._waiting: deque[Task] = deque()
        self._delayed: set[Task] = set()  # which are tried again later
        self._workers: set[Process] = set()
        self._is_closed = False

    def add(self, task: Task) -> None:
        with self._lock:
            self._delayed.discard(task)
            if task.done():  # cancelled, before it was to be tried again
                return
            if not self._is_closed:
                self._waiting.append(task)
        self._go_on()
        if self._is_closed:
            task.settle(_at_end(task))

    # ------------------------------------------------------------------------------------------- which worker does what

    def _go_on(self) -> None:
        with self._lock:
            given = self._give()
            starting = self._start()
        for process, task in given:
            process.give(task)
        for process in starting:
            process.start()

    def _give(self) -> list[tuple[Process, Task]]:
        """Have workers that are free take what waits."""
        given = []
        while self._waiting:
            task = self._waiting[0]
            if task.attempts == 0 and task.cancelled():
                self._waiting.popleft()
                continue
            process = next((each for each in self._workers if self._is_free_for(task, each)), None)
            if process is None:
                break
            self._waiting.popleft()
            if task.attempts == 0 and not task.set_running_or_notify_cancel():
                continue
            task.begin()
            process.running[task.number] = task
            process.given += 1
            given.append((process, task))
        return given

    def _is_free_for(self, task: Task, process: Process) -> bool:
        if not process.is_ready or process.is_retired or len(process.running) >= self.spec.inputs_at_once:
            return False
        return process.given == 0 or not (self.spec.single_use or task.needs_fresh_worker)

    def _start(self) -> list[Process]:
        """Make workers for what still waits."""
        if not self._waiting or self._is_closed:
            return []
        workers = [process for process in self._workers if not process.is_retired]
        if len(workers) >= self._workers_max and (self.spec.single_use or self._waiting[0].needs_fresh_worker):
            idle = next((each for each in workers if each.is_ready and each.given and not each.running), None)
            if idle is not None:
                self.retire(idle)
                workers.remove(idle)
        starting = sum(not process.is_ready for process in workers)
        wanted = -(-len(self._waiting) // self.spec.inputs_at_once) - starting
        new = [Process(self) for _ in range(min(wanted, self._workers_max - len(workers)))]
        self._workers.update(new)
        return new

    # ----------------------------------------------------------------------------------------- what workers tell of theirs

    def ready(self, process: Process) -> None:
        with self._lock:
            process.is_ready = True
            process.idle_since = time.monotonic()
        self._go_on()

    def done(self, process: Process, number: int, outcome: Outcome) -> None:
        with self._lock:
            task = process.running.pop(number)
            process.idle_since = time.monotonic()
            is_to_be_repeated = outcome.is_error and task.may_be_repeated
            was_closed = task.input.is_generator and task.why == "cancel"  # which ends a generator as any loop does
            if self.spec.single_use or (task.why is not None and not was_closed) or is_to_be_repeated:
                self.retire(process)
        self._go_on()
        self._end(task, outcome)

    def could_not_start(self, process: Process, outcome: Outcome) -> None:
        """A worker could not. What waits is left to others, if there are any; else it fails."""
        with self._lock:
            process.is_retired = True
            others = sum(not each.is_retired for each in self._workers)
            if others:
                self._workers_max = others  # else one would be started in vain again and again
                _LOG.warning(
                    "no more than %d workers of %s, since another could not start: %s",
                    others,
                    self.spec.name,
                    ": ".join(outcome.error),
                )
                return
            failing = [task for task in self._waiting if task.attempts or task.set_running_or_notify_cancel()]
            self._waiting.clear()
            for task in failing:
                task.begin()
        for task in failing:
            self._end(task, outcome)

    def ended(self, process: Process, how: str) -> None:
        with self._lock:
            process.is_retired = True
            self._workers.discard(process)
            tasks = list(process.running.values())
            process.running.clear()
        for task in tasks:
            self._end(task, failed_here(errors.RemoteError(f"the worker of {self.spec.name} {how}")))
        self._go_on()

    def idle(self, process: Process) -> None:
        with self._lock:
            if not process.running and process.is_ready:
                self.retire(process)

    def retire(self, process: Process) -> None:
        """Give it nothing more."""
        with self._lock:
            if not process.is_retired:
                process.is_retired = True
                process.end()

    def _end(self, task: Task, outcome: Outcome) -> None:
        if outcome.is_error and task.may_be_repeated:
            assert task.input.retries is not None
            with self._lock:
                self._delayed.add(task)
            timer = threading.Timer(task.input.retries.delay(task.attempts), self.add, [task])
            timer.daemon = True
            threads.start(timer)
            _LOG.info("%s failed in attempt %d, and is tried again", self.spec.name, task.attempts)
        else:
            task.settle(task.explained(outcome))

    # ------------------------------------------------------------------------------------------------------- cancelling

    def cancel(self, task: Task, *, kill: bool) -> None:
        with self._lock:
            task.why = task.why or "cancel"
            process = next((each for each in self._workers if task.number in each.running), None)
            if process is not None:
                task.interrupted("cancel", CANCEL_GRACE_SECONDS)
                process.interrupt(task, "cancel")
                if kill:
                    process.kill()
            elif task in self._waiting:
                self._waiting.remove(task)
            self._delayed.discard(task)
        if process is None:
            task.settle(_at_end(task))

    def close(self, grace_seconds: float) -> list[Process]:
        """End all workers, and return those that are still there: whatever they do is interrupted."""
        with self._lock:
            self._is_closed = True
            waiting, left = [*self._waiting, *self._delayed], list(self._workers)
            self._waiting.clear()
            self._delayed.clear()
            for process in left:
                for task in process.running.values():
                    task.interrupted("end", grace_seconds)
                    process.interrupt(task, "end")
                self.retire(process)
                process.kill_in(grace_seconds if process.is_ready else 0)
        for task in waiting:
            task.settle(_at_end(task))
        return left


def _at_end(task: Task) -> Outcome:
    task.why = task.why or "end"
    return task.explained(Outcome(b"", is_error=True))


def parallelism() -> int:
    """How many workers of a function there are at most."""
    given = variable_of(PARALLELISM)
    if given is None:
        return len(os.sched_getaffinity(0))
    if not given.isdecimal() or int(given) < 1:
        raise errors.ConfigurationError(f"{PARALLELISM} is {given!r}, expected a number of 1 or more")
    return int(given)
