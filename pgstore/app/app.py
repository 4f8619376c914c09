"""App: the functions, classes and entrypoints of a program, and the time in which they run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final, Generic, NoReturn, ParamSpec, Protocol, TypeVar, Unpack, dataclass_transform, overload

from pgstore import errors
from pgstore.app import context
from pgstore.app.calls.run import Run as CallsOfRun
from pgstore.app.cls import Cls, parameter
from pgstore.app.definition import Defined, Definition, is_interactive, remember
from pgstore.app.function import Function
from pgstore.app.image import Image
from pgstore.app.marks import check_parentheses, marks_of
from pgstore.app.mount_rules import check_mounts, check_volumes
from pgstore.app.options import AppDefaults, FunctionOptions, Options, check_image, check_secrets, checked
from pgstore.app.runner.runner import close as close_runner
from pgstore.app.warn import warn_once
from pgstore.client import default_client
from pgstore.core.names import check_name
from pgstore.secret import Secret

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


class FunctionDecorator(Protocol):
    """What makes a `Function` of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Function[P, R, R]: ...


class LocalEntrypoint(Generic[P, R]):
    """A function of the program's own process, which `pgstore run` starts. Calling it runs it."""

    def __init__(self, raw: Callable[P, R], name: str, app: App) -> None:
        functools.update_wrapper(self, raw, updated=())
        self.name = name
        self.app = app
        self._raw = raw

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._raw(*args, **kwargs)

    def get_raw_f(self) -> Callable[P, R]:
        """Return the function as the program has defined it."""
        return self._raw

    def __repr__(self) -> str:
        return f"<pgstore local entrypoint {self.name}>"


class App(AppDefaults):
    """
    The functions of a program: `@app.function()` makes one that runs in workers, on this machine.

    Programs for Modal run with `import pgstore as modal`; `pgstore run --as-modal FILE` runs a file that says `import modal`,
    as it is. This one is run by `python count.py`, or by `pgstore run count.py --words 5`, which makes options of the
    parameters; `pgstore run count.py::count --name one.txt` runs the function alone.

    ```python
    from pathlib import Path

    import pgstore

    app = pgstore.App("count")
    texts = pgstore.Volume.persist("count-texts")


    @app.function(volumes={"/texts": texts})
    def count(name: str) -> int:
        return len(Path("/texts", name).read_text().split())


    @app.local_entrypoint()
    def main(words: int = 3) -> None:
        texts.write_text("one.txt", "word " * words)
        print(count.remote("one.txt"))


    if __name__ == "__main__":
        with app.run():
            main()
    ```

    **Workers** are fresh interpreters, each with a file system of its own: Volumes, NetworkFileSystems and buckets are at the
    paths that the function names, for any user, and nothing appears outside. Two programs with `/data` never meet. An idle
    worker takes the next call, so its globals stay, and its Volume at the version that it has, until `volume.reload()`; after a
    minute it goes. `PGSTORE_PARALLELISM` is how many workers a function may have, by default as many as there are CPUs. Where
    the machine forbids mounts, `PGSTORE_MOUNT_MODE=sync`, or `pgstore run --mode sync`, copies files instead.

    **A call ends with its commit.** When a function returns or raises, what it wrote to its Volumes is committed before the
    caller gets the result, and if that fails, so does the call. Exceptions arrive as what they are, with a note that has the
    worker's traceback. A worker that was killed is a `RemoteError` within two seconds, and what it had not committed is gone.

    **Spawned calls are rows.** `spawn` in `pgstore.transaction()` is part of it: the call exists if and only if your rows do. A
    run waits for its calls. Those that a web process has spawned without a run are done by `pgstore worker FILE`, on any
    machine, again after its death as often as `retries=` says; `pgstore calls` and the view `pgstore.calls` show them.
    `FunctionCall.from_id(id).get()` has the result, anywhere, for seven days. With `transactional=True` the call's end and all
    that it did are one commit as well.

    **The end.** Ctrl-C, and the end of the program that started them, end all workers and mounts. Nothing is left.

    **What this machine cannot do** is accepted, refused or warned of (`LocalRunWarning`): `cpu=`, `region=` and packages of an
    `Image` are silent, its `env` and `workdir` count, `gpu=` warns once, what promises isolation is refused, schedules and web
    functions are not served. There is no limit of time unless `timeout=` sets one. `/tmp` is the machine's: two workers that
    use one name there share it (`PGSTORE_PRIVATE_TMP=1` gives each its own).

    Args:
        name: 1 to 64 of A-Z a-z 0-9 . _ -. Spawned calls are found by it.
        image, secrets, volumes: for all functions. Their own secrets are applied after these, and their own Volumes take the place
            of those at the same path.
        include_source, tags: without a meaning here.

    Raises:
        InvalidError: an argument cannot be what it is given as.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        image: Image | None = None,
        secrets: Collection[Secret] = (),
        volumes: Mapping[Any, Any] = {},
        include_source: bool | None = True,
        tags: dict[str, str] | None = None,
    ) -> None:
        checked_name = None if name is None else check_name(name, "App")
        super().__init__(checked_name, check_image(image), check_secrets(secrets), check_volumes(volumes))
        check_mounts(self.volumes)
        self._functions: dict[str, Function[..., Any, Any]] = {}
        self._classes: dict[str, Cls] = {}
        self._entrypoints: dict[str, LocalEntrypoint[..., Any]] = {}

    @property
    def _is_running(self) -> bool:
        return self in _running

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, check_image(value) if name == "image" else value)

    # ------------------------------------------------------------------------------------------------------- decorators

    def function(
        self,
        _warn_parentheses_missing: object = None,
        *,
        name: str | None = None,
        serialized: bool = False,
        is_generator: bool | None = None,
        **options: Unpack[FunctionOptions],
    ) -> FunctionDecorator:
        """
        Make a `Function` of a function, to be run in workers.

        Args:
            name: in the App; default: its own. Of two with one name the later is meant.
            serialized: it travels by value, with what it refers to, and need not be at the top of a module.
            is_generator: it is a generator though it is not written as one.
            image: its `env` and `workdir` count; nothing is installed.
            secrets, env: environment variables of the workers; later ones win.
            volumes, network_file_systems, cloud_bucket_mounts: by the absolute path that each is mounted at in the workers. A
                CloudBucketMount may be in *volumes*, too, and at several paths; its secret adds nothing to the environment.
            timeout: seconds that a call may run; None: without end.
            startup_timeout: seconds until a worker is ready; None: without end.
            retries: how often a call that failed is made again: a number, or `Retries`.
            max_containers: workers at once, up to `PGSTORE_PARALLELISM`, or the number of CPUs.
            scaledown_window: seconds that an idle worker is kept.
            single_use_containers: a new worker for each call.
            transactional: the function runs in a transaction of its worker, in which Dict and Queue operations, spawned calls, the
                changes of its mounted Volumes and the end of a spawned call are committed together, or not at all.
            schedule: kept; nothing runs by it here.

        Modal's options of machines (`cpu`, `memory`, `region` …) are accepted; `gpu` warns once. What promises isolation
        (`block_network` …) is refused.

        Raises:
            InvalidError: an option cannot be; or what is decorated is no function of a module.
            TypeError: it is a class, for which there is `app.cls`.
        """
        check_parentheses(_warn_parentheses_missing, "app.function()")

        def decorate(raw: Any) -> Any:
            if isinstance(raw, type):
                raise TypeError(f"{raw.__name__} is a class, and @app.function is for functions; use @app.cls()")
            definition = _definition(raw, name, serialized, "function", is_generator)
            made: Function[..., Any, Any] = Function(definition, self._checked(options, definition), self)
            if made._options.schedule is not None:
                _check_needs_nothing(raw, made.name)
            return self._added(self._functions, made)

        return decorate

    @dataclass_transform(field_specifiers=(parameter,), kw_only_default=True)
    def cls(
        self, _warn_parentheses_missing: object = None, *, serialized: bool = False, **options: Unpack[FunctionOptions]
    ) -> Callable[[C], C]:
        """
        Make a class whose methods run in workers; each worker has one object of it. Options: see `function`.

        `@pgstore.method()` marks the methods that can be called, `@pgstore.enter()` and `@pgstore.exit()` those that a worker runs
        when it begins and ends, `pgstore.parameter()` what objects are made with.
        """
        check_parentheses(_warn_parentheses_missing, "app.cls()")

        def decorate(raw: Any) -> Any:
            if not isinstance(raw, type):
                raise TypeError(f"{raw!r} is no class, and @app.cls is for classes; use @app.function()")
            definition = _definition(raw, None, serialized, "cls")
            return self._added(self._classes, Cls(definition, self._checked(options, definition), self))

        return decorate

    def local_entrypoint(
        self, _warn_parentheses_missing: object = None, *, name: str | None = None
    ) -> Callable[[Callable[P, R]], LocalEntrypoint[P, R]]:
        """Have `pgstore run FILE` run a function, in the program's own process, with arguments from the command line."""
        check_parentheses(_warn_parentheses_missing, "app.local_entrypoint()")
        if name is not None and not isinstance(name, str):
            raise errors.InvalidError(f"the name of a local entrypoint is {name!r}, expected a str")

        def decorate(raw: Callable[P, R]) -> LocalEntrypoint[P, R]:
            own = name or raw.__qualname__
            if own in self._entrypoints:
                raise errors.InvalidError(
                    f"the App has two local entrypoints of the name {own!r}; give one another with name="
                )
            made = LocalEntrypoint(raw, own, self)
            self._entrypoints[own] = made
            return made

        return decorate

    def _checked(self, options: FunctionOptions, definition: Definition) -> Options:
        marks = marks_of(definition.raw)
        at_once = {} if marks.inputs_at_once is None else {"inputs_at_once": marks.inputs_at_once}
        return checked({**options, **at_once}, definition.name, self)

    def _added(self, things: dict[str, Any], thing: Defined) -> Any:
        name = thing.name
        if name in things:
            warn_once(f"two {name}", f"two functions of the App are {name!r}; the later is meant", UserWarning)
        things[name] = thing
        remember(thing)
        return thing

    # ---------------------------------------------------------------------------------------------------------- running

    def run(
        self,
        *,
        name: str | None = None,
        detach: bool = False,
        interactive: bool = False,
        environment_name: str | None = None,
        client: Any = None,
        show_progress: bool | None = None,
    ) -> Run:
        """
        Return a context manager, for `with` and `async with`, at whose end spawned calls have ended and all workers are gone.

        Args:
            detach: spawned calls go on after the end: `pgstore worker` runs them.
            environment_name: has to be that of the default client, whose stores the functions use.
            name, interactive, client, show_progress: without a meaning here.

        Raises:
            InvalidError: the App is running, or a worker is importing the program.
        """
        if environment_name not in (None, default_client().environment):
            raise errors.InvalidError(
                f"environment_name is {environment_name!r}, and that of the program's client {default_client().environment!r}; use "
                "pgstore.configure(environment=…), or PGSTORE_ENVIRONMENT, before"
            )
        return Run(self, detach=detach)

    @property
    def registered_functions(self) -> dict[str, Function[..., Any, Any]]:
        """The functions by name."""
        return dict(self._functions)

    @property
    def registered_classes(self) -> dict[str, Cls]:
        """The classes by name."""
        return dict(self._classes)

    @property
    def registered_entrypoints(self) -> dict[str, LocalEntrypoint[..., Any]]:
        """The local entrypoints by name."""
        return dict(self._entrypoints)

    @classmethod
    def lookup(cls, *args: Any, **options: Any) -> NoReturn:
        """Refused: nothing is deployed here."""
        raise errors.NotOffered(
            "pgstore deploys nothing: import an App from its file; `pgstore worker FILE` runs its spawned calls on any machine"
        )

    deploy = lookup

    def __repr__(self) -> str:
        return f"<pgstore.App {self.name or '(no name)'}>"


class Run:
    """The time in which an App runs."""

    def __init__(self, app: App, *, detach: bool) -> None:
        self._app = app
        self._calls = CallsOfRun(is_detached=detach)

    def __enter__(self) -> App:
        context.check_not_loading("app.run()")
        if self._app._is_running:
            raise errors.InvalidError(
                "App is already running and can't be started again: a local entrypoint, and what `pgstore run` starts, is run by it"
            )
        _running.add(self._app)
        self._calls.begin()
        return self._app

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        try:
            self._calls.end(exc)
        finally:
            _running.discard(self._app)
            if not _running:
                close_runner()

    async def __aenter__(self) -> App:
        return self.__enter__()

    async def __aexit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        await asyncio.to_thread(self.__exit__, kind, exc, trace)


_running: Final[set[App]] = set()


def enable_output(show_progress: bool = True) -> contextlib.nullcontext[None]:
    """Return a context manager without effect: what functions print is seen anyway."""
    return contextlib.nullcontext()


# ----------------------------------------------------------------------------------------------------------------- checks


def _definition(
    raw: Any, name: str | None, serialized: bool, decorator: str, is_generator: bool | None = None
) -> Definition:
    """What is decorated. Raises `InvalidError` if no worker could find it."""
    if isinstance(raw, (staticmethod, classmethod)) or not callable(raw):
        raise errors.InvalidError(
            f"@app.{decorator} is for functions, not for {raw!r}; for methods there is @pgstore.method()"
        )
    serialized = serialized or is_interactive(raw.__module__)
    qualname = raw.__qualname__
    if not serialized and ("<locals>" in qualname or "<lambda>" in qualname):
        raise errors.InvalidError(
            f"@app.{decorator} is for what is at the top of a module, unless serialized=True is set, and {qualname!r} is not; "
            "a decorator between has to use functools.wraps"
        )
    if "." in qualname.rpartition("<locals>.")[2]:
        raise errors.InvalidError(
            f"@app.{decorator} cannot be used within a class, as on {qualname!r}: decorate the class with @app.cls() and "
            "the method with @pgstore.method()"
        )
    if name is not None:
        check_name(name, "function")
    return Definition(raw, name or qualname.rpartition("<locals>.")[2], serialized, is_generator)


def _check_needs_nothing(raw: Callable[..., Any], name: str) -> None:
    """Raise `InvalidError` unless the function can be called without arguments."""
    try:
        inspect.signature(raw).bind()
    except TypeError as exc:
        raise errors.InvalidError(f"{name} has a schedule, so it cannot need arguments: {exc}") from None
