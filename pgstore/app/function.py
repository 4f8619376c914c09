"""Function: what `app.function` makes of a function of the program. Its calls run in workers.

A function says what its workers are like (`WorkerSpec`, made when it is first called: an App's defaults may still be set before);
the runner has the workers.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from pgstore import errors
from pgstore.app import context, pickles
from pgstore.app.calls import FunctionCall
from pgstore.app.calls.queue import packed
from pgstore.app.calls.run import queue_of, run_of
from pgstore.app.calls.targets import Target, app_name
from pgstore.app.definition import Defined, Definition
from pgstore.app.forms import Forms, two_forms
from pgstore.app.mapping import Arguments, mapped, mapped_async, zipped, zipped_async
from pgstore.app.marks import marks_of
from pgstore.app.mount_rules import is_mounted
from pgstore.app.options import AppDefaults, Options
from pgstore.app.pickles import Outcome
from pgstore.app.runner import runner
from pgstore.app.runner.task import Task
from pgstore.app.spec import Input, WorkerSpec
from pgstore.app.waiting import (
    NEXT,
    Steps,
    Tell,
    check_may_wait,
    check_not_on_loop,
    stream,
    stream_async,
    take_back,
    wait,
    wait_async,
)
from pgstore.app.warn import warn_once
from pgstore.client import Client, default_client
from pgstore.core import observation
from pgstore.core.operation import Call, Op, operation

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)  # what a call in a worker gives
L_co = TypeVar("L_co", covariant=True)  # what one here gives: of an asynchronous function a coroutine
AnyIterable = Iterable[Any] | AsyncIterable[Any]


class Function(Defined, Generic[P, R_co, L_co]):
    """
    A function that runs in workers, made by `@app.function()`. Each method has a form for asynchronous code: `f.remote.aio(…)`.

    Arguments and results are copies, made by pickle. Handles of stores, other functions and calls may be among them.

    *Errors* of the function arrive as what they are, with a note that has the traceback of the worker. A worker that died is a
    `RemoteError`; a function that ran longer than its `timeout`, a `FunctionTimeoutError`. An exception that cannot be pickled is
    an `ExecutionError`, a result that cannot be, a `SerializationError`.
    """

    def __init__(self, definition: Definition, options: Options, app: AppDefaults) -> None:
        super().__init__(definition, options, app)
        self._web = marks_of(definition.raw).web
        if self.is_generator and options.retries is not None:
            raise errors.InvalidError(f"{self.name} is a generator, which cannot be run again; leave retries= out")
        if self.is_generator and options.transactional:
            raise errors.InvalidError(
                f"{self.name} is a generator, which cannot be transactional: it ends after its results"
            )

    # ---------------------------------------------------------------------------------------------------------- calls

    @two_forms
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Forms[R_co, Coroutine[Any, Any, R_co]]:
        """
        Run the function in a worker, and return what it returns.

        Raises:
            InvalidError: it is a generator or for the web, or a transaction that has written something is open here.
        """
        self._check_returns("remote")

        async def awaited() -> R_co:
            return await wait_async(self._submit(args, kwargs))  # type: ignore[no-any-return]

        return Forms(lambda: wait(self._submit(args, kwargs)), awaited)

    @two_forms
    def remote_gen(self, /, *args: P.args, **kwargs: P.kwargs) -> Forms[Generator[Any], AsyncGenerator[Any]]:
        """
        Run the generator in a worker, and yield what it yields as it does. The end of the loop ends it there.

        It runs at most about a hundred values ahead of the loop.

        Raises:
            InvalidError: the function is no generator.
        """
        if not self.is_generator:
            raise errors.InvalidError(f"{self.name} is no generator. Use `.remote(...)` instead.")
        check_may_wait(f"{self.name}.remote_gen(…)")
        start = partial(self._streamed, args, kwargs)
        return Forms(lambda: stream(start), lambda: stream_async(start))

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> L_co:
        """Run the function here, with the files and the environment of this process. An asynchronous one gives its coroutine."""
        if not self._sees_mounts():
            warn_once(f"local {self.name}", f"{self.name} runs here and will not see its mounts", UserWarning)
        return self._run_here(args, kwargs)  # type: ignore[no-any-return]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> L_co:
        """Run the function here. One that has mounts is refused outside of a worker that has them."""
        if not self._sees_mounts():
            paths = ", ".join(path for path, _ in self._spec.mounts)
            raise errors.InvalidError(
                f"{self.name}(…) would run here, where {paths} is not mounted; use {self.name}.remote(…), or .local(…)"
            )
        return self._run_here(args, kwargs)  # type: ignore[no-any-return]

    @two_forms
    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> Forms[FunctionCall, Coroutine[Any, Any, FunctionCall]]:
        """
        Start the function, and return its call without waiting. It is a row in the database.

        In `pgstore.transaction()` the call is part of the transaction: it exists if and only if that commits. In a run
        (`app.run()`, `pgstore run`) this process has it run, and the end of the run waits for it; else a `pgstore worker` does.
        """
        self._check_returns("spawn")

        async def spawned() -> FunctionCall:
            return (await self._spawn.aio([self._pickled(args, kwargs)]))[0]

        return Forms(lambda: self._spawn([self._pickled(args, kwargs)])[0], spawned)

    # ----------------------------------------------------------------------------------------------------- many calls

    @two_forms
    def map(
        self,
        /,
        *iterables: AnyIterable,
        kwargs: dict[str, Any] = {},  # noqa: B006 - Modal's signature
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Forms[Generator[Any], AsyncGenerator[Any]]:
        """
        Call the function for each element of `zip(*iterables)`, and yield the results.

        Nothing runs before the first result is asked for; from then on the elements are read while results are taken, at most
        1,000 ahead. An exception is raised as soon as it is known, also before earlier results: calls that have not begun are then
        given up, and those that run end by themselves.

        Args:
            iterables: `map.aio` takes asynchronous ones as well.
            kwargs: for every call.
            order_outputs: yield in the order of the elements; else as calls end.
            return_exceptions: yield an exception in place of the result.
            wrap_returned_exceptions: without a meaning; exceptions are yielded as they are.
        """
        return self._mapped("map", iterables, kwargs, order_outputs, return_exceptions)

    @two_forms
    def starmap(
        self,
        input_iterator: AnyIterable,
        /,
        *,
        kwargs: dict[str, Any] = {},  # noqa: B006
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Forms[Generator[Any], AsyncGenerator[Any]]:
        """`map`, but each element has the arguments of one call."""
        return self._mapped("starmap", (input_iterator,), kwargs, order_outputs, return_exceptions)

    @two_forms
    def for_each(
        self,
        /,
        *iterables: AnyIterable,
        kwargs: dict[str, Any] = {},  # noqa: B006
        ignore_exceptions: bool = False,
    ) -> Forms[None, Coroutine[Any, Any, None]]:
        """Call the function for each element of `zip(*iterables)`. Raises the first exception, unless they are ignored."""
        results = self._mapped("for_each", iterables, kwargs, False, ignore_exceptions)

        def taken() -> None:
            for _ in results.blocking():
                pass

        async def taken_async() -> None:
            async for _ in results.aio():
                pass

        return Forms(taken, taken_async)

    @two_forms
    def spawn_map(
        self,
        *iterables: AnyIterable,
        kwargs: dict[str, Any] = {},  # noqa: B006
    ) -> Forms[list[FunctionCall], Coroutine[Any, Any, list[FunctionCall]]]:
        """`spawn` the function for each element of `zip(*iterables)`, all or none, and return the calls."""
        self._check_returns("spawn_map")
        what = f"{self.name}.spawn_map"

        async def spawned() -> list[FunctionCall]:
            inputs = [self._pickled(args, kwargs) async for args in zipped_async(iterables, what)]
            return await self._spawn.aio(inputs)

        return Forms(lambda: self._spawn([self._pickled(args, kwargs) for args in zipped(iterables, what)]), spawned)

    # ------------------------------------------------------------------------------------------------- what is known

    @property
    def is_generator(self) -> bool:
        """Whether it yields."""
        return self._definition.is_generator

    def get_raw_f(self) -> Callable[P, L_co]:
        """Return the function as the program has defined it."""
        return self._definition.raw  # type: ignore[no-any-return]

    def get_web_url(self) -> str | None:
        """Return None: functions for the web are not served."""
        return None

    # ----------------------------------------------------------------------------------------------------- underneath

    @property
    def _spec(self) -> WorkerSpec:
        """What its workers are like; the same object for all calls."""
        # In one step: of two that are made at the same time one is used.
        return self.__dict__.get("_worker_spec") or self.__dict__.setdefault("_worker_spec", self._make_spec())  # type: ignore[no-any-return]

    _method: str | None = None  # of a class

    def _pickled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        return pickles.dumps((args, kwargs), f"the arguments of {self.name}", self._definition.program)

    @property
    def _runner(self) -> Client:  # of operations
        return default_client()

    _bound: Any = None

    @operation
    def _spawn(self, inputs: list[bytes]) -> Op[list[FunctionCall]]:
        """Spawn a call for each of *inputs*, all or none."""
        app = app_name(self._app.name, self._definition.program.name)
        run = yield Call(lambda: run_of(app))
        parameters = None if self._method is None else self._spec.parameters
        given = [packed(each, parameters) for each in inputs]
        ids = yield from queue_of(app, self._runner).spawn.op(self.name, given, run)
        return [FunctionCall(each) for each in ids]

    def _targets(self) -> Iterable[Target]:
        if not self.is_generator and self._web is None:
            yield Target(self.name, lambda parameters: self._spec, self._options)

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], **how: Any) -> Task:
        options, call_id = self._options, f"fc-{uuid.uuid4().hex}"
        given = Input(
            call_id, self._method, self._pickled(args, kwargs), self.is_generator, options.timeout, options.retries
        )
        told = None if observation.observer is None else observation.observer.call(self.name)
        if told is None:
            return runner().submit(self._spec, given, **how)
        trace, tell_ended = told
        task = runner().submit(self._spec, replace(given, trace=trace), **how)
        task.add_done_callback(lambda ended: tell_ended(_failure_of(ended)))
        return task

    def _mapped(
        self,
        what: str,
        iterables: tuple[AnyIterable, ...],
        kwargs: dict[str, Any],
        ordered: bool,
        return_exceptions: bool,
    ) -> Forms[Generator[Any], AsyncGenerator[Any]]:
        self._check_returns(what)
        name = f"{self.name}.{what}"

        def make(element: Arguments) -> Future[Outcome]:
            return self._submit(tuple(element[0]) if what == "starmap" else element, kwargs)

        def blocking() -> Generator[Any]:
            check_not_on_loop(name)
            return mapped(make, zipped(iterables, name), ordered=ordered, return_exceptions=return_exceptions)

        def aio() -> AsyncGenerator[Any]:
            elements = zipped_async(iterables, name)
            return mapped_async(make, elements, ordered=ordered, return_exceptions=return_exceptions)

        return Forms(blocking, aio)

    def _streamed(self, args: tuple[Any, ...], kwargs: dict[str, Any], tell: Tell) -> Steps:
        future = self._submit(args, kwargs, on_item=tell)
        future.add_done_callback(lambda ended: tell(None))
        try:
            while (item := (yield NEXT)) is not None:
                future.taken()
                yield pickles.loads(item, f"what {self.name} yields")
            future.result().value()
        finally:
            take_back(future)

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._definition.raw(*args, **kwargs)

    def _sees_mounts(self) -> bool:
        """Whether this process has all mounts of the function where the function has them."""
        return all(is_mounted(store, path, context.mounted) for path, store in self._spec.mounts)

    def _check_returns(self, what: str) -> None:
        """Raise `InvalidError` where the function, or the place of the call, is none for *what*."""
        if self._web is not None:
            raise errors.InvalidError(f"{self.name} is a function for the web (@{self._web}), which has no .{what}(…)")
        if self.is_generator:
            raise errors.InvalidError(
                f"{self.name} is a generator, which has no .{what}(…). Use `.remote_gen(...)` instead."
            )
        if what.startswith("spawn"):
            context.check_not_loading(f"{self.name}.{what}(…)")
        else:
            check_may_wait(f"{self.name}.{what}(…)")


def _failure_of(ended: Future[Outcome]) -> str | None:
    """What the error is called with which a call has ended."""
    if ended.cancelled():
        return "cancelled"
    outcome = ended.result()
    return outcome.error[0] if outcome.is_error else None
