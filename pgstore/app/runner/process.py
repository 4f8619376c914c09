"""One worker as the program sees it: a process, and a thread here that listens to it until it has ended."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol

from pgstore import errors
from pgstore.app import context
from pgstore.app.channel import Channel, Closed
from pgstore.app.pickles import Outcome, failed_here
from pgstore.app.runner.launch import launch, make_directory
from pgstore.app.runner.mounts import Mounts, remove_unused
from pgstore.app.runner.output import Output
from pgstore.app.runner.task import TIMEOUT_GRACE_SECONDS, Task
from pgstore.app.spec import WorkerSpec
from pgstore.client import default_client
from pgstore.core import threads
from pgstore.core.threads import Signal
from pgstore.mount import recovery

_LOG: Final = logging.getLogger("pgstore")
EXIT_SECONDS: Final = 30.0  # for what a class does in `exit`, and for what was written to be committed
LOOK_SECONDS: Final = 0.2  # between looks whether a commit has ended
CUT_OFF_SECONDS: Final = 1.0  # for the end of a process whose socket has been closed
_NEVER: Final = float("inf")


class Owner(Protocol):
    """Who has started a worker, and is told of it by the worker's thread: a `Pool`."""

    spec: WorkerSpec

    def ready(self, process: Process) -> None: ...

    def done(self, process: Process, number: int, outcome: Outcome) -> None:
        """It has done the task of this *number*."""

    def could_not_start(self, process: Process, outcome: Outcome) -> None: ...

    def retire(self, process: Process) -> None:
        """It is to be given nothing more."""

    def idle(self, process: Process) -> None:
        """It has had nothing to do for long."""

    def ended(self, process: Process, how: str) -> None: ...


class Process:
    """A worker of *pool*."""

    def __init__(self, pool: Owner) -> None:
        self.id = f"ta-{uuid.uuid4().hex[:22]}"
        self.pool = pool
        self.spec: WorkerSpec = pool.spec
        # The pool's lock is over these.
        self.running: dict[int, Task] = {}
        self.is_ready = self.is_retired = False
        self.given = 0  # inputs, until now
        self.idle_since = 0.0

        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._has_failed = False  # to start
        self._is_cut_off = False
        self._cut_off_at: float | None = None
        self._kill_at: float | None = None
        self._commits = 0  # under way
        self._is_patient = True  # while there are
        self._has_said_so = False
        self._ready_by: float | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = Signal()
        self._directory = ""
        self._made: list[str] = []  # directories on the machine; see `mounts.remove_unused`
        self._claimed: list[str] = []
        self._mounts: Mounts | None = None
        self._settings = default_client().settings  # as they are now
        self._channel: Channel | None = None
        self._outputs: list[Output] = []
        self._thread = threading.Thread(target=self._run, name="pgstore-worker", daemon=True)

    def start(self) -> None:
        threads.start(self._thread)

    def has_ended(self, seconds: float) -> bool:
        """Wait until it has, at most so many *seconds*."""
        return self._ended.wait(seconds)

    # ----------------------------------------------------------------------------------------------- what the pool wants

    def give(self, task: Task) -> None:
        """Have it do *task*, which is in `running`."""
        task.taken = partial(self._send, "taken", task.number)
        self._send("run", task.number, task.input)
        if task.deadline is not None:
            self._rouse()

    def interrupt(self, task: Task, why: str) -> None:
        """Have it end what it does for *task*: a generator is closed, what else it is is interrupted."""
        self._send("interrupt", task.number, "close" if task.input.is_generator else why)
        self._rouse()

    def end(self) -> None:
        """Have it end when it has done what it was given."""
        self._send("end")
        self._rouse()

    def kill_in(self, seconds: float) -> None:
        """Kill it after so many *seconds*, unless it is committing what was written: then once it has."""
        self._kill_at = min(self._kill_at or _NEVER, time.monotonic() + seconds)
        self._rouse()

    def kill(self) -> None:
        """Kill it at once. What it has not committed is discarded; the log says of what."""
        self._is_patient = False
        if self.is_committing and self._mounts is not None:
            _LOG.warning(
                "what the worker of %s has not committed is discarded: %s", self.spec.name, self._mounts.said()
            )
        self.kill_in(0)

    @property
    def is_committing(self) -> bool:
        return self._commits > 0

    def _send(self, *message: Any) -> None:
        if self._channel is not None:
            with contextlib.suppress(Closed):  # its thread notices that it has ended
                self._channel.send(*message)

    def _rouse(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    # ------------------------------------------------------------------------------------------------------- its thread

    def _run(self) -> None:
        how = "could not be started"
        try:
            self._launch()
            how = self._listen()
        except Exception as exc:  # noqa: BLE001 - whoever waits is told
            self._fail(failed_here(exc))
            if self.pid:
                self._reap()
        finally:
            if not (self.is_ready or self._has_failed):
                self._fail(
                    failed_here(errors.RemoteError(f"the worker of {self.spec.name} {how} while it was starting"))
                )
            self.pool.ended(self, how)
            self._close()
            self._ended.set()

    def _fail(self, outcome: Outcome) -> None:
        self._has_failed = True
        self.pool.could_not_start(self, outcome)

    def _launch(self) -> None:
        self._mounts = Mounts(self.spec, lambda: self.pool.retire(self))
        self._mounts.start_daemon()
        self._directory = make_directory()
        process, self._channel = launch(self.spec, self.id, self._directory, self._settings, self._mounts.told())
        assert process.stdout is not None
        assert process.stderr is not None
        self._outputs = [Output(process.stdout, "stdout"), Output(process.stderr, "stderr")]
        self._process, self.pid = process, process.pid
        self._mounts.find_stores()
        if self.is_retired:  # meanwhile
            self.end()

    def _listen(self) -> str:
        """Do what the worker asks for, until it has ended. Returns how that was."""
        channel = self._channel
        assert channel is not None
        ended = os.pidfd_open(self.pid)
        poll = select.poll()
        for each in (channel.fileno(), ended, self._wake, *(output.fileno() for output in self._outputs)):
            poll.register(each, select.POLLIN)
        outputs = {output.fileno(): output for output in self._outputs}
        startup = self.spec.startup_timeout
        self._ready_by = None if startup is None else time.monotonic() + startup
        has_ended = False
        try:
            while not has_ended:
                for descriptor, _ in poll.poll(self._milliseconds()):
                    if descriptor == channel.fileno():
                        if not self._hear(channel):
                            poll.unregister(descriptor)
                            self._cut_off_at = time.monotonic() + CUT_OFF_SECONDS
                    elif descriptor == ended:
                        has_ended = True
                    elif descriptor == self._wake:
                        os.eventfd_read(self._wake)
                    elif not outputs[descriptor].read():
                        poll.unregister(descriptor)
                self._keep_to_deadlines()
            while select.select([channel], [], [], 0)[0] and self._hear(channel):
                pass
            self._drain()
        finally:
            os.close(ended)
        return self._reap()

    def _hear(self, channel: Channel) -> bool:
        """Take a message. False: there will be none."""
        try:
            message, descriptors = channel.receive()
        except Closed:
            return False
        kind, *values = message
        if kind == "done":
            number, outcome, is_last = values
            self._drain()
            if is_last:
                self.pool.retire(self)
            self.pool.done(self, number, outcome)
        elif kind == "item":
            number, item = values
            self._drain()
            on_item = self.running[number].on_item
            if on_item is not None:
                with threads.going_on(f"handing on what {self.spec.name} yields"):
                    on_item(item)
        elif kind == "ready":
            self._ready_by = None
            self.pool.ready(self)
        elif kind == "failed":
            self._drain()
            self._fail(*values)
        elif kind == "ask":
            self._begin_answer(*values, *descriptors)
        elif kind == "committing":
            self._commits += values[0]
            self._rouse()
        elif kind == "made":
            self._made, self._claimed = values
        return True

    def _begin_answer(self, number: int, verb: str, arguments: tuple[Any, ...], *descriptors: int) -> None:
        answer = partial(self._answer, number, verb, *arguments, *descriptors)
        try:
            threads.start(threading.Thread(target=answer, name="pgstore-answer", daemon=True))
        except RuntimeError:  # the interpreter begins to end, and starts no more of them (atexit)
            answer()

    def _answer(self, number: int, verb: str, *arguments: Any) -> None:
        assert self._mounts is not None
        answers: dict[str, Callable[..., Any]] = {
            **context.ANSWERS,
            "url": self._settings.configured_url,
            "serve": self._mounts.serve,
            "mount": self._mounts.call,
            "credentials of mount": self._mounts.credentials,
        }
        try:
            answer = Outcome(pickle.dumps(answers[verb](*arguments)))
        except Exception as exc:  # noqa: BLE001 - whoever asks is told
            answer = failed_here(exc)
        self._send("answer", number, answer)

    def _drain(self) -> None:
        """Hand on what it has printed until now."""
        for output in self._outputs:
            output.drain()

    # -------------------------------------------------------------------------------------------------------- deadlines

    def _deadlines(self) -> Iterator[tuple[float | None, Callable[[], None]]]:
        """What is to be done, and when."""
        for task in list(self.running.values()):
            yield task.deadline, partial(self._end_time_of, task)
            yield task.kill_at, partial(self._kill_for, task)
        if self.is_retired and not self.running and self._kill_at is None:
            self._kill_at = time.monotonic() + EXIT_SECONDS
        yield self._kill_at, self._kill_when_committed
        yield self._cut_off_at, self._cut_off
        yield self._ready_by, self._fail_to_start
        if self.is_ready and not self.running and not self.is_retired:
            yield self.idle_since + self.spec.scaledown_window, partial(self.pool.idle, self)

    def _milliseconds(self) -> float | None:
        """Until something is to be done. None: it is not known that there is anything."""
        at = min((each for each, _ in self._deadlines() if each is not None), default=None)
        return None if at is None or at == _NEVER else max(0.0, at - time.monotonic()) * 1000 + 1

    def _keep_to_deadlines(self) -> None:
        now = time.monotonic()
        for at, do in self._deadlines():
            if at is not None and at <= now:
                do()

    def _end_time_of(self, task: Task) -> None:
        task.interrupted("timeout", TIMEOUT_GRACE_SECONDS)
        self.interrupt(task, "timeout")

    def _kill_for(self, task: Task) -> None:
        task.kill_at, self._kill_at = None, time.monotonic()

    def _kill_when_committed(self) -> None:
        if self.is_committing and self._is_patient:
            self._kill_at = time.monotonic() + LOOK_SECONDS
            self._say_committing()
        else:
            self._kill()

    def _cut_off(self) -> None:
        self._cut_off_at, self._is_cut_off = None, True
        self._kill()

    def _fail_to_start(self) -> None:
        self._ready_by = None
        seconds = self.spec.startup_timeout
        text = f"the worker of {self.spec.name} was not ready within its startup_timeout of {seconds:g} s"
        self._fail(failed_here(errors.FunctionTimeoutError(text)))
        self._kill()

    def _say_committing(self) -> None:
        if not self._has_said_so:
            self._has_said_so = True
            _LOG.warning(
                "what the worker of %s has written is still being committed; Ctrl-C discards it", self.spec.name
            )

    def _kill(self) -> None:
        self._kill_at = _NEVER
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    # -------------------------------------------------------------------------------------------------------------- end

    def _reap(self) -> str:
        """Take what has ended from the table of processes, and say how it has."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it has started and left, while the number is still its
        assert self._process is not None
        code = self._process.wait()
        if code >= 0:
            return f"has ended with exit code {code} before its time"
        if self._is_cut_off and code == -signal.SIGKILL:
            return "has closed the descriptor by which it gives its results, and was ended"
        advice = "; out of memory?" if code == -signal.SIGKILL else ""
        return f"was killed by signal {-code} ({signal.Signals(-code).name}){advice}"

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        for output in self._outputs:
            output.close()
        if self._mounts is not None:
            self._mounts.close()
        for path in self._claimed:
            recovery.empty(path)
        remove_unused(self._made)
        shutil.rmtree(self._directory, ignore_errors=True)
