"""Function: what `app.function` makes of a function of the program. Its calls run in workers.

A function says what its workers are like (`WorkerSpec`, made when it is first called: an App's defaults may still be set before);
the runner has the workers. A `Definition` says where the function itself is to be found, here and there.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import os
import queue
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Generic, NoReturn, ParamSpec, Protocol, Self, TypeVar, Unpack

from pgstore import errors
from pgstore.app import calls, context, pickles
from pgstore.app.calls import FunctionCall
from pgstore.app.calls.targets import Target, app_name, offer
from pgstore.app.forms import two_forms
from pgstore.app.mapping import Arguments, mapped, mapped_async, zipped, zipped_async
from pgstore.app.marks import NO_MARKS, Marks, served
from pgstore.app.options import AppDefaults, FunctionOptions, Options, checked, is_mounted
from pgstore.app.spec import Input, Outcome, Program, WorkerSpec
from pgstore.app.waiting import check_may_wait, check_not_on_loop, from_threads, submit, take_back, wait, wait_async
from pgstore.app.warn import warn_once

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)  # what a call in a worker gives
L_co = TypeVar("L_co", covariant=True)  # what one here gives: of an asynchronous function a coroutine


@dataclass(frozen=True, eq=False)
class Definition:
    """
    A function or class as the program has it.

    Args:
        raw: the function or class itself.
        name: in its App.
        is_serialized: it travels by value; else by the name that it has in its module.
    """

    raw: Any
    name: str
    is_serialized: bool

    @functools.cached_property
    def program(self) -> Program:
        """Where workers find it."""
        return Program("none", self.raw.__module__, None) if self.is_serialized else program_of(self.raw.__module__)


def program_of(module_name: str) -> Program:
    """How a worker loads the module of this name."""
    module = sys.modules.get(module_name)
    path = getattr(module, "__file__", None)
    if module_name != "__main__" or path is None:
        return Program("module", module_name, path)
    spec = getattr(module, "__spec__", None)  # of `python -m`
    return Program("script", Path(path).stem if spec is None else spec.name, os.path.abspath(path))


def is_interactive(module_name: str) -> bool:
    """Whether it is typed in, or given by `-c` or a pipe: there is no file that a worker could load."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return module_name == "__main__" and (path is None or not os.path.isfile(path))


# By program, name and App: the name that one has in its module may be another's by now.
_known: Final[dict[tuple[str, str, str | None], Any]] = {}


def remember(thing: Any, definition: Definition, app: AppDefaults) -> None:
    """Have pickles find the function or class *thing* again, and those who run spawned calls what they are calls of."""
    _known[definition.program.name, definition.name, app.name] = thing
    for target in thing._targets():
        offer(app_name(app.name, definition.program.name), target)


def reference(thing: Any, definition: Definition, app: AppDefaults) -> tuple[str, str, str | None] | None:
    """What `recall` finds *thing* by; None: it is not what its program has by that name."""
    key = (definition.program.name, definition.name, app.name)
    return key if _known.get(key) is thing else None


def recall(program: str, name: str, app_name: str | None) -> Any:
    """The function or class that `reference` was made of."""
    if (program, name, app_name) not in _known:
        importlib.import_module(program)
    try:
        return _known[program, name, app_name]
    except KeyError:
        raise errors.DeserializationError(f"{program!r}, as it is here, has no function {name!r}") from None


class Function(Generic[P, R_co, L_co]):
    """
    A function that runs in workers, made by `@app.function()`. Each method has a form for asynchronous code: `f.remote.aio(…)`.

    Arguments and results are copies, made by pickle. Handles of stores, other functions and calls may be among them.

    *Errors* of the function arrive as what they are, with a note that has the traceback of the worker. A worker that died is a
    `RemoteError`; a function that ran longer than its `timeout`, a `FunctionTimeoutError`. An exception that cannot be pickled is
    an `ExecutionError`, a result that cannot be, a `SerializationError`.
    """

    _is_of_app = True

    def __init__(
        self,
        definition: Definition,
        options: Options,
        app: AppDefaults,
        *,
        is_generator: bool | None = None,
        marks: Marks = NO_MARKS,
    ) -> None:
        functools.update_wrapper(self, definition.raw, updated=())
        self._definition = definition
        self._options = options
        self._app = app
        self._is_generator = _generates(definition.raw) if is_generator is None else is_generator
        self._marks = marks
        if self._is_generator and options.retries is not None:
            raise errors.InvalidError(f"{self.name} is a generator, which cannot be run again; leave retries= out")
        if self._is_generator and options.transactional:
            raise errors.InvalidError(
                f"{self.name} is a generator, which cannot be transactional: it ends after its results"
            )

    # ---------------------------------------------------------------------------------------------------------- calls

    async def _remote_async(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        self._check_returns("remote")
        return await wait_async(self._submit(args, kwargs))  # type: ignore[no-any-return]

    @two_forms(_remote_async)
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """
        Run the function in a worker, and return what it returns.

        Raises:
            InvalidError: it is a generator or for the web, or a transaction that has written something is open here.
        """
        self._check_returns("remote")
        return wait(self._submit(args, kwargs))  # type: ignore[no-any-return]

    def _remote_gen_async(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any]:
        self._check_generates()
        return self._stream_async(args, kwargs)

    @two_forms(_remote_gen_async)
    def remote_gen(self, /, *args: P.args, **kwargs: P.kwargs) -> Generator[Any]:
        """
        Run the generator in a worker, and yield what it yields as it does. The end of the loop ends it there.

        Raises:
            InvalidError: the function is no generator.
        """
        self._check_generates()
        return self._stream(args, kwargs)

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

    def _spawn_async(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, FunctionCall]:
        self._check_returns("spawn")
        return calls.spawn.aio(self, args, kwargs)

    @two_forms(_spawn_async)
    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> FunctionCall:
        """
        Start the function, and return its call without waiting. It is a row in the database.

        In `pgstore.transaction()` the call is part of the transaction: it exists if and only if that commits. In a run
        (`app.run()`, `pgstore run`) this process has it run, and the end of the run waits for it; else a `pgstore worker` does.
        """
        self._check_returns("spawn")
        return calls.spawn(self, args, kwargs)

    # ----------------------------------------------------------------------------------------------------- many calls

    def _map_async(
        self,
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] = {},  # noqa: B006 - Modal's signature
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncGenerator[Any]:
        elements = zipped_async(iterables, f"{self.name}.map")
        return self._mapped_async("map", elements, kwargs, order_outputs, return_exceptions)

    @two_forms(_map_async)
    def map(
        self,
        /,
        *iterables: Iterable[Any],
        kwargs: dict[str, Any] = {},  # noqa: B006
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Generator[Any]:
        """
        Call the function for each element of `zip(*iterables)`, and yield the results.

        Nothing runs before the first result is asked for; from then on the elements are read while results are taken, at most
        1,000 ahead. An exception is raised as soon as it is known, also before earlier results: calls that have not begun are then
        given up, and those that run end by themselves.

        Args:
            kwargs: for every call.
            order_outputs: yield in the order of the elements; else as calls end.
            return_exceptions: yield an exception in place of the result.
            wrap_returned_exceptions: without a meaning; exceptions are yielded as they are.
        """
        elements = zipped(iterables, f"{self.name}.map")
        return self._mapped("map", elements, kwargs, order_outputs, return_exceptions)

    def _starmap_async(
        self,
        input_iterator: Iterable[Iterable[Any]] | AsyncIterable[Iterable[Any]],
        /,
        *,
        kwargs: dict[str, Any] = {},  # noqa: B006
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncGenerator[Any]:
        elements = zipped_async((input_iterator,), f"{self.name}.starmap")
        unpacked = (tuple(arguments) async for (arguments,) in elements)
        return self._mapped_async("starmap", unpacked, kwargs, order_outputs, return_exceptions)

    @two_forms(_starmap_async)
    def starmap(
        self,
        input_iterator: Iterable[Iterable[Any]],
        /,
        *,
        kwargs: dict[str, Any] = {},  # noqa: B006
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Generator[Any]:
        """`map`, but each element has the arguments of one call."""
        elements = zipped((input_iterator,), f"{self.name}.starmap")
        unpacked = (tuple(arguments) for (arguments,) in elements)
        return self._mapped("starmap", unpacked, kwargs, order_outputs, return_exceptions)

    async def _for_each_async(
        self,
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] = {},  # noqa: B006
        ignore_exceptions: bool = False,
    ) -> None:
        elements = zipped_async(iterables, f"{self.name}.for_each")
        async for _ in self._mapped_async("for_each", elements, kwargs, False, ignore_exceptions):
            pass

    @two_forms(_for_each_async)
    def for_each(
        self,
        /,
        *iterables: Iterable[Any],
        kwargs: dict[str, Any] = {},  # noqa: B006
        ignore_exceptions: bool = False,
    ) -> None:
        """Call the function for each element of `zip(*iterables)`. Raises the first exception, unless they are ignored."""
        elements = zipped(iterables, f"{self.name}.for_each")
        for _ in self._mapped("for_each", elements, kwargs, False, ignore_exceptions):
            pass

    async def _spawn_map_async(
        self,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] = {},  # noqa: B006
    ) -> list[FunctionCall]:
        self._check_returns("spawn_map")
        elements = [arguments async for arguments in zipped_async(iterables, f"{self.name}.spawn_map")]
        return await calls.spawn_many.aio(self, elements, kwargs)

    @two_forms(_spawn_map_async)
    def spawn_map(self, *iterables: Iterable[Any], kwargs: dict[str, Any] = {}) -> list[FunctionCall]:  # noqa: B006
        """`spawn` the function for each element of `zip(*iterables)`, all or none, and return the calls."""
        self._check_returns("spawn_map")
        return calls.spawn_many(self, list(zipped(iterables, f"{self.name}.spawn_map")), kwargs)

    # ------------------------------------------------------------------------------------------------------ variations

    def with_options(self, **options: Unpack[FunctionOptions]) -> Self:
        """
        Return the function with other options, as `app.function` takes them, and workers of its own.

        *volumes* and *secrets* take the place of those that it has.
        """
        return self._varied(checked(options, self.name, self._app, self._options))

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Self:
        """Return the function with workers that run up to *max_inputs* calls at once."""
        return self._varied(checked({"inputs_at_once": max_inputs}, self.name, self._app, self._options))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Self:
        """Return the function, which has to be `@pgstore.batched(…)`, with workers of its own."""
        if not self._marks.is_batched:
            raise errors.InvalidError(f"{self.name} takes no batches; decorate it with @pgstore.batched(…)")
        return self._varied(self._options)

    def _varied(self, options: Options) -> Self:
        varied = type(self).__new__(type(self))
        varied.__dict__.update(self.__dict__, _options=options)
        varied.__dict__.pop("_worker_spec", None)
        return varied

    # ------------------------------------------------------------------------------------------------- what is known

    @property
    def name(self) -> str:
        """The name of the function in its App."""
        return self._definition.name

    @property
    def app(self) -> AppDefaults:
        """The App that it belongs to."""
        return self._app

    @property
    def is_generator(self) -> bool:
        """Whether it yields."""
        return self._is_generator

    @property
    def web_url(self) -> str | None:
        """Of a function for the web; None: it is not served."""
        return None

    def get_web_url(self) -> str | None:
        """Return None: functions for the web are not served."""
        return None

    def _served(self) -> Callable[..., Any]:
        """What a worker runs for a call."""
        return served(self._definition.raw, self._marks)

    def get_raw_f(self) -> Callable[P, L_co]:
        """Return the function as the program has defined it."""
        return self._definition.raw  # type: ignore[no-any-return]

    def hydrate(self, client: Any = None) -> Self:
        """Return the function; there is nothing to look up."""
        return self

    def update_autoscaler(self, **limits: Any) -> None:
        """Accepted, and without effect: workers are started as they are needed."""

    def keep_warm(self, warm_pool_size: int) -> None:
        """Accepted, and without effect: workers are started as they are needed."""

    def get_current_stats(self) -> SimpleNamespace:
        """Return Modal's figures, which are all 0 here: nothing waits for machines."""
        return SimpleNamespace(backlog=0, num_total_runners=0, num_running_inputs=0)

    @property
    def info(self) -> SimpleNamespace:
        """Where the function comes from: `function_name`, `module_name`, `file` and `raw_f`."""
        program = self._definition.program
        raw = self._definition.raw
        return SimpleNamespace(function_name=self.name, module_name=program.name, file=program.path, raw_f=raw)

    @classmethod
    def from_name(cls, app_name: str, name: str, **options: Any) -> NoReturn:
        """Refused: pgstore has no deployed functions."""
        raise errors.NotOffered(
            f"pgstore has no deployed functions to look {name!r} up among: import it from the file of the App {app_name!r}"
        )

    lookup = from_name

    def __repr__(self) -> str:
        return f"<pgstore.Function {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._definition.is_serialized:
            raw = pickles.dumps_by_value(self._definition.raw, self.name)
            return _of_value, (raw, self.name, self._options, self._app.name, self._is_generator)
        if (known := reference(self, self._definition, self._app)) is not None:
            return recall, known
        return _varied_again, (self._definition.program.name, self.name, self._app.name, self._options)

    # ----------------------------------------------------------------------------------------------------- underneath

    @property
    def _spec(self) -> WorkerSpec:
        """What its workers are like; the same object for all calls."""
        # In one step: of two that are made at the same time one is used.
        return self.__dict__.get("_worker_spec") or self.__dict__.setdefault("_worker_spec", spec_of(self))  # type: ignore[no-any-return]

    _method: str | None = None  # of a class

    # What spawned calls need: see `calls.spawning.Spawned`.

    @property
    def call_name(self) -> tuple[str, str]:
        """The names of its App and of itself, as rows have them."""
        return app_name(self._app.name, self._definition.program.name), self.name

    @property
    def parameters(self) -> bytes | None:
        """Of a method: the pickled arguments of its object."""
        return None

    def pickled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The arguments of a call."""
        return pickles.dumps((args, kwargs), f"the arguments of {self.name}", self._definition.program)

    def _targets(self) -> Iterable[Target]:
        if not self._is_generator and self._marks.web is None:
            yield target_of(self.name, self._options, lambda parameters: self._spec)

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], **how: Any) -> Future[Outcome]:
        options, call_id = self._options, f"fc-{uuid.uuid4().hex}"
        given = Input(
            call_id, self._method, self.pickled(args, kwargs), self._is_generator, options.timeout, options.retries
        )
        return submit(self._spec, given, **how)

    def _mapped(
        self, what: str, elements: Iterable[Arguments], kwargs: dict[str, Any], ordered: bool, return_exceptions: bool
    ) -> Generator[Any]:
        self._check_returns(what)
        check_not_on_loop(f"{self.name}.{what}")
        make = functools.partial(self._submit, kwargs=kwargs)
        return mapped(make, elements, ordered=ordered, return_exceptions=return_exceptions)

    def _mapped_async(
        self,
        what: str,
        elements: AsyncIterable[Arguments],
        kwargs: dict[str, Any],
        ordered: bool,
        return_exceptions: bool,
    ) -> AsyncGenerator[Any]:
        self._check_returns(what)
        make = functools.partial(self._submit, kwargs=kwargs)
        return mapped_async(make, elements, ordered=ordered, return_exceptions=return_exceptions)

    def _stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Generator[Any]:
        arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        future = self._submit(args, kwargs, on_item=arrived.put)
        future.add_done_callback(lambda ended: arrived.put(None))
        try:
            while (item := arrived.get()) is not None:
                yield pickles.loads(item, f"what {self.name} yields")
            wait(future)
        finally:
            take_back(future)

    async def _stream_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[Any]:
        arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        tell = from_threads(arrived)
        future = self._submit(args, kwargs, on_item=tell)
        future.add_done_callback(lambda ended: tell(None))
        try:
            while (item := await arrived.get()) is not None:
                yield pickles.loads(item, f"what {self.name} yields")
            await wait_async(future)
        finally:
            take_back(future)

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._definition.raw(*args, **kwargs)

    def _sees_mounts(self) -> bool:
        """Whether this process has all mounts of the function where the function has them."""
        return all(is_mounted(store, path, context.mounted) for path, store in self._spec.mounts)

    def _check_returns(self, what: str) -> None:
        """Raise `InvalidError` where the function, or the place of the call, is none for *what*."""
        if self._marks.web is not None:
            raise errors.InvalidError(
                f"{self.name} is a function for the web (@{self._marks.web}), which has no .{what}(…)"
            )
        if self._is_generator:
            raise errors.InvalidError(
                f"{self.name} is a generator, which has no .{what}(…). Use `.remote_gen(...)` instead."
            )
        if what.startswith("spawn"):
            context.check_not_loading(f"{self.name}.{what}(…)")
            self._check_options_are_known()
        else:
            check_may_wait(f"{self.name}.{what}(…)")

    def _check_options_are_known(self) -> None:
        """Raise `InvalidError` for options of `with_options`: the row of a call names the function, and any worker may take it."""
        own = self._defined
        definition = own._definition
        known = _known.get((definition.program.name, definition.name, own._app.name))
        if known is not None and known._options != own._options:
            raise errors.InvalidError(
                f"{self.name} has other options than it was defined with, and spawned calls have those: use .remote(…), or "
                "give the options to @app.function or @app.cls"
            )

    @property
    def _defined(self) -> Defined:
        """What was defined with options: the function, or the class of a method."""
        return self

    def _check_generates(self) -> None:
        if not self._is_generator:
            raise errors.InvalidError(f"{self.name} is no generator. Use `.remote(...)` instead.")
        check_may_wait(f"{self.name}.remote_gen(…)")


class Defined(Protocol):
    """A function or class."""

    _definition: Definition
    _options: Options
    _app: AppDefaults


def spec_of(thing: Defined, **of_class: Any) -> WorkerSpec:
    """What workers of *thing* are like."""
    definition, options = thing._definition, thing._options.with_defaults(thing._app)
    return WorkerSpec(
        name=definition.name,
        program=definition.program,
        qualname=definition.raw.__qualname__,
        pickled=pickles.dumps_by_value(definition.raw, definition.name) if definition.is_serialized else None,
        mounts=options.mounts,
        environment=functools.partial(environment_of, thing),
        workdir=None if options.image is None else options.image._workdir,
        max_workers=options.max_containers,
        scaledown_window=options.scaledown_window,
        single_use=options.single_use_containers,
        inputs_at_once=options.inputs_at_once,
        startup_timeout=options.startup_timeout,
        is_transactional=options.transactional,
        **of_class,
    )


def environment_of(thing: Defined) -> dict[str, str]:
    """The environment variables of workers of *thing*."""
    known = reference(thing, thing._definition, thing._app)
    if known is not None and context.ask is not None:
        # The program's own process decides: a module may make a secret of what only that has.
        return context.ask("environment", *known)  # type: ignore[no-any-return]
    options = thing._options.with_defaults(thing._app)
    variables = {} if options.image is None else dict(options.image._environment)
    for secret in options.secrets:
        variables.update(secret._values())
    return variables


context.ANSWERS["environment"] = lambda *known: environment_of(recall(*known))


def target_of(
    name: str, options: Options, spec: Callable[[bytes | None], WorkerSpec], method: str | None = None
) -> Target:
    """What spawned calls of the function or method *name* are calls of."""
    slots = None if options.max_containers is None else options.max_containers * options.inputs_at_once
    return Target(name, spec, method, options.timeout, options.retries, slots, options.transactional)


def _generates(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _of_value(
    raw: bytes, name: str, options: Options, app_name: str | None, is_generator: bool
) -> Function[..., Any, Any]:
    """A function that was pickled by value."""
    definition = Definition(pickles.loads(raw, name), name, is_serialized=True)
    return Function(definition, options, AppDefaults(app_name), is_generator=is_generator)


def _varied_again(program: str, name: str, app_name: str | None, options: Options) -> Function[..., Any, Any]:
    """A function that was pickled with other options than it was defined with."""
    return recall(program, name, app_name)._varied(options)  # type: ignore[no-any-return]
