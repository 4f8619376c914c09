"""Jobs of a worker: inputs that it was given, run one after the other on the main thread, or several at once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import inspect
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from pgstore import errors
from pgstore.app import pickles
from pgstore.app.context import CURRENT_CALL
from pgstore.app.pickles import Outcome
from pgstore.app.spec import Input, WorkerSpec
from pgstore.app.worker.target import Target
from pgstore.client import default_client
from pgstore.core import observation, threads
from pgstore.core.operation import Op

AHEAD_MAX: Final = 100  # items of a generator that nobody has taken yet
_OURS: Final = (f"{Path(__file__).parents[2]}/", "<frozen importlib")  # code that leads to the program's


class Jobs:
    """
    Runs inputs of *target*, and tells of their outcomes. Several at once run on threads of their own.

    Args:
        send: takes a message for the parent.
    """

    def __init__(self, target: Target, send: Callable[..., None]) -> None:
        self._target = target
        self._spec = target.spec
        self._send = send
        self._at_once = target.spec.inputs_at_once
        self._process = os.getpid()
        self._running: dict[int, Running] = {}
        self._main: Running | None = None  # what the main thread may be interrupted in
        self._loop: asyncio.Runner | None = None
        self._loop_lock = threading.Lock()
        self._shared_loop: asyncio.AbstractEventLoop | None = None

    def begin(self, number: int, given: Input) -> None:
        """Run what is *given*, known to the parent by *number*; return when it has ended, or at once where several may run."""
        running = self._running[number] = Running(number, given)
        if self._at_once == 1:
            self._run(running)
        else:
            threads.start(threading.Thread(target=self._run, args=(running,), name="pgstore-job", daemon=True))

    def wait(self) -> None:
        """Wait for all jobs to end."""
        for running in list(self._running.values()):
            running.ended.wait()

    # --------------------------------------------------------------------------------------------------------- running

    def _run(self, running: Running) -> None:
        running.thread = threading.get_ident()
        CURRENT_CALL.set(running.input.call_id)
        for prefix in ("MODAL", "PGSTORE"):
            os.environ[f"{prefix}_FUNCTION_CALL_ID"] = running.input.call_id
        observer = observation.observer
        tell_ended = None if observer is None else observer.job(self._spec.name, running.input.trace)
        outcome = self._outcome(running)
        is_last = self._spec.is_transactional and outcome.is_error and self._target.spoil()
        if not is_last:
            try:
                # After a transaction, too: the mounts then learn what has become of what they have handed over to it.
                default_client().run(self._target.committing())
            except Exception as exc:  # noqa: BLE001 - it is that of the call
                outcome = outcome if self._spec.is_transactional else failure(exc, self._spec)
                is_last = self._target.spoil()  # the next call would fail with the same
        if tell_ended is not None:
            tell_ended(outcome.error[0] if outcome.is_error else None)
        CURRENT_CALL.set(None)
        del self._running[running.number]
        flush()
        running.ended.set()
        self._send("done", running.number, outcome, is_last)

    def _outcome(self, running: Running) -> Outcome:
        """Call the function; one in a transaction with what it has written, and the end of its call, as parts of that."""
        given = running.input
        try:
            function = self._target.callable_of(given.method)
            args, kwargs = pickles.loads(given.arguments, f"the arguments of {self._spec.name}")
            call = partial(function, *args, **kwargs)
            if inspect.iscoroutinefunction(function):
                return self._interruptibly(running, lambda: self._awaited(running, self._outcome_async(running, call)))  # type: ignore[no-any-return]
            with self._transaction():
                outcome = self._result(self._interruptibly(running, lambda: self._called(running, call)))
                if self._spec.is_transactional:
                    default_client().run(self._completing(running, outcome))
            return outcome
        except BaseException as exc:  # noqa: BLE001 - it is the caller's
            return failure(exc, self._spec)

    async def _outcome_async(self, running: Running, call: Callable[[], Any]) -> Outcome:
        async with self._transaction():
            with self._ends_forks():  # before the transaction ends
                outcome = self._result(await call())
            if self._spec.is_transactional:
                await default_client().run_async(self._completing(running, outcome))
        return outcome

    def _result(self, value: Any) -> Outcome:
        return Outcome(pickles.dumps(value, f"the result of {self._spec.name}", self._spec.program))

    def _transaction(self) -> Any:
        return default_client().transaction() if self._spec.is_transactional else contextlib.nullcontext()

    def _completing(self, running: Running, outcome: Outcome) -> Op[None]:
        yield from self._target.committing()
        if running.input.completion is not None:
            yield from pickle.loads(running.input.completion).complete(outcome)

    def _interruptibly(self, running: Running, call: Callable[[], Any]) -> Any:
        if threading.current_thread() is threading.main_thread():
            self._main = running
        try:
            with self._ends_forks():
                return call()
        finally:
            self._main = None

    def _called(self, running: Running, call: Callable[[], Any]) -> Any:
        value = call()
        if inspect.iscoroutine(value):
            return self._awaited(running, value)
        if not running.input.is_generator:
            return value
        if inspect.isasyncgen(value):
            return self._awaited(running, self._stream(running, value))
        try:
            for each in value:
                running.room.acquire()
                self._tell_item(running, each)
                if running.is_closing:
                    break
        finally:
            if (close := getattr(value, "close", None)) is not None:  # an iterator that is no generator has none
                close()
        return None

    async def _stream(self, running: Running, values: Any) -> None:
        async with contextlib.aclosing(values):
            async for value in values:
                if not running.room.acquire(blocking=False):
                    await asyncio.to_thread(running.room.acquire)
                self._tell_item(running, value)
                if running.is_closing:
                    break

    def _tell_item(self, running: Running, value: Any) -> None:
        what = f"what {self._spec.name} yields"
        self._send("item", running.number, pickles.dumps(value, what, self._spec.program))

    @contextlib.contextmanager
    def _ends_forks(self) -> Iterator[None]:
        """End a process that the function has forked and that comes out of it: the call, and its transaction, are not its own."""
        raised: BaseException | None = None
        try:
            yield
        except BaseException as exc:
            raised = exc
            raise
        finally:
            if os.getpid() != self._process:
                if raised is not None and not isinstance(raised, SystemExit):
                    traceback.print_exception(type(raised), raised, _of_the_program(raised.__traceback__))
                flush()
                os._exit(raised is not None)

    # --------------------------------------------------------------------------------------------- asynchronous functions

    def _awaited(self, running: Running, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The result of *coroutine*, on an event loop that stays: objects that live on it are used by the next job, too."""

        async def body() -> Any:
            running.task = asyncio.current_task()
            running.loop = asyncio.get_running_loop()
            with self._ends_forks():
                return await coroutine

        if self._at_once == 1:
            if self._loop is None:
                self._loop = asyncio.Runner()
            return self._loop.run(body(), context=contextvars.copy_context())
        with self._loop_lock:
            if self._shared_loop is None:
                self._shared_loop = asyncio.new_event_loop()
                threads.start(threading.Thread(target=self._shared_loop.run_forever, name="pgstore-loop", daemon=True))
        return asyncio.run_coroutine_threadsafe(body(), self._shared_loop).result()

    def run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine that belongs to no job, on the loop of the jobs."""
        return self._awaited(Running(0, Input("", None, b"")), coroutine)

    def taken(self, number: int) -> None:
        """An item of job *number* has been taken by who reads them."""
        if (running := self._running.get(number)) is not None:
            running.room.release()

    # ----------------------------------------------------------------------------------------------------- interrupting

    def interrupt(self, number: int, how: str) -> None:
        """End what is done for job *number*; see `runner.process`. Called in another thread than the job's."""
        running = self._running.get(number)
        if running is None:
            return
        if how == "close":
            running.is_closing = True
        running.room.release()  # it may be waiting for its reader
        if how == "close":
            return
        running.exception = errors.InputCancellation if how == "cancel" else KeyboardInterrupt
        if running.task is not None and running.loop is not None:
            running.loop.call_soon_threadsafe(running.task.cancel)
        elif self._at_once == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _raise_in(running.thread, running.exception)

    def interrupt_all(self) -> None:
        for number in list(self._running):
            self.interrupt(number, "end")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGINT, in the main thread. Between two jobs nothing is to be interrupted."""
        running = self._main
        if running is not None:
            self._main = None
            raise running.exception("interrupted")


class Running:
    """An input that is being run."""

    def __init__(self, number: int, given: Input) -> None:
        self.number = number
        self.input = given
        self.ended = threads.Signal()
        self.is_closing = False
        self.room = threading.Semaphore(AHEAD_MAX)
        self.exception: type[BaseException] = KeyboardInterrupt
        self.task: asyncio.Task[Any] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0


def _raise_in(thread: int, exception: type[BaseException]) -> None:
    """Have *thread* raise, at its next line of Python: no signal reaches a thread but the main one."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))


def failure(exc: BaseException, spec: WorkerSpec) -> Outcome:
    """The outcome where *exc* was raised, which is shown from the user's first line on."""
    try:
        return pickles.failed(exc, spec.program, spec.name, _of_the_program(exc.__traceback__))
    except BaseException as own:  # noqa: BLE001 - what its class does to be shown or pickled is the program's code, too
        kind = f"{spec.name} has raised {type(exc).__qualname__}"
        text = f"{kind}, which cannot be shown or brought here: that raises {type(own).__qualname__}"
        return pickles.failed_here(errors.ExecutionError(text))


def flush() -> None:
    """Have all be written that was printed: the program may have put anything in the place of the streams, or closed them."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):
            stream.flush()  # type: ignore[union-attr]


def _of_the_program(trace: TracebackType | None) -> TracebackType | None:
    """*trace* from the program's first line on. None: it does not come to any."""
    steps = []
    while trace is not None:
        steps.append((trace, trace.tb_frame.f_code.co_filename))
        trace = trace.tb_next
    called = max((number for number, (_, file) in enumerate(steps, 1) if file == __file__), default=0)
    return next((step for step, file in steps[called:] if not file.startswith(_OURS)), None)
