"""Definition: where a function or class of the program is to be found, here and in workers; Defined: what both have alike."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from pgstore import errors
from pgstore.app import context, pickles
from pgstore.app.calls.targets import Target, app_name, offer
from pgstore.app.options import AppDefaults, Options
from pgstore.app.spec import Program, WorkerSpec
from pgstore.cloud_bucket_mount import CloudBucketMount


@dataclass(frozen=True, eq=False)
class Definition:
    """
    A function or class as the program has it.

    Args:
        raw: the function or class itself.
        name: in its App.
        is_serialized: it travels by value; else by the name that it has in its module.
        is_generator_anyway: though it is not written as one.
    """

    raw: Any
    name: str
    is_serialized: bool
    is_generator_anyway: bool | None = None

    @property
    def is_generator(self) -> bool:
        """Whether it yields; what was said comes before what is written."""
        is_written_so = inspect.isgeneratorfunction(self.raw) or inspect.isasyncgenfunction(self.raw)
        return is_written_so if self.is_generator_anyway is None else self.is_generator_anyway

    @functools.cached_property
    def program(self) -> Program:
        """How a worker loads the module that has it."""
        module_name = self.raw.__module__
        module = sys.modules.get(module_name)
        path = getattr(module, "__file__", None)
        if self.is_serialized:
            return Program("none", module_name, None)
        if module_name != "__main__" or path is None:
            return Program("module", module_name, path)
        spec = getattr(module, "__spec__", None)  # of `python -m`
        return Program("script", Path(path).stem if spec is None else spec.name, os.path.abspath(path))


def is_interactive(module_name: str) -> bool:
    """Whether it is typed in, or given by `-c` or a pipe: there is no file that a worker could load."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return module_name == "__main__" and (path is None or not os.path.isfile(path))


class Defined(ABC):
    """A function or class of an App: what its workers are like, and how it travels."""

    _is_of_app = True

    def __init__(self, definition: Definition, options: Options, app: AppDefaults) -> None:
        functools.update_wrapper(self, definition.raw, updated=())  # type: ignore[arg-type]
        self._definition = definition
        self._options = options
        self._app = app

    @property
    def name(self) -> str:
        """The name in its App."""
        return self._definition.name

    @property
    def app(self) -> AppDefaults:
        """The App that it belongs to."""
        return self._app

    @classmethod
    def from_name(cls, app_name: str, name: str, **options: Any) -> NoReturn:
        """Refused: nothing is deployed here."""
        raise errors.NotOffered(
            f"pgstore has nothing deployed to look {name!r} up among: import it from the file of the App {app_name!r}"
        )

    lookup = from_name

    def __repr__(self) -> str:
        return f"<pgstore.{type(self).__name__} {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._definition.is_serialized:
            return recall, self._key
        raw = pickles.dumps_by_value(self._definition.raw, self.name)
        return _of_value, (
            type(self),
            raw,
            self.name,
            self._definition.is_generator_anyway,
            self._options,
            self._app.name,
        )

    @property
    def _key(self) -> tuple[str, str, str | None]:
        """What `recall` finds it by."""
        return self._definition.program.name, self.name, self._app.name

    @abstractmethod
    def _targets(self) -> Iterable[Target]:
        """What spawned calls can be of."""

    def _make_spec(self, parameters: bytes | None = None) -> WorkerSpec:
        """What its workers are like."""
        definition, options = self._definition, self._options.with_defaults(self._app)
        return WorkerSpec(
            name=definition.name,
            program=definition.program,
            qualname=definition.raw.__qualname__,
            pickled=pickles.dumps_by_value(definition.raw, definition.name) if definition.is_serialized else None,
            mounts=options.mounts,
            credentials=self._credentials,
            environment=self._environment,
            workdir=None if options.image is None else options.image._workdir,
            max_workers=options.max_containers,
            scaledown_window=options.scaledown_window,
            single_use=options.single_use_containers,
            inputs_at_once=options.inputs_at_once,
            startup_timeout=options.startup_timeout,
            is_transactional=options.transactional,
            parameters=parameters,
        )

    def _environment(self) -> dict[str, str]:
        """The environment variables of its workers."""
        if context.ask is not None and _known.get(self._key) is self:
            # The program's own process decides: a module may make a secret of what only that has.
            return context.ask("environment", *self._key)  # type: ignore[no-any-return]
        options = self._options.with_defaults(self._app)
        variables = {} if options.image is None else dict(options.image._environment)
        for secret in options.secrets:
            variables.update(secret._values())
        return variables

    def _credentials(self, path: str) -> dict[str, str]:
        """The variables of the secret of the bucket that its workers have at *path*."""
        if context.ask is not None and _known.get(self._key) is self:  # as for `_environment`
            return context.ask("credentials", path, *self._key)  # type: ignore[no-any-return]
        bucket = dict(self._options.with_defaults(self._app).mounts)[path]
        assert isinstance(bucket, CloudBucketMount)
        return bucket._secret_values()


context.ANSWERS["credentials"] = lambda path, *key: recall(*key)._credentials(path)
context.ANSWERS["environment"] = lambda *key: recall(*key)._environment()


# By program, name and App: the name that one has in its module may be another's by now.
_known: Final[dict[tuple[str, str, str | None], Any]] = {}


def remember(thing: Defined) -> None:
    """Have pickles find the function or class *thing* again, and those who run spawned calls what they are calls of."""
    _known[thing._key] = thing
    for target in thing._targets():
        offer(app_name(thing._app.name, thing._definition.program.name), target)


def recall(program: str, name: str, app_name: str | None) -> Any:
    """The function or class that was remembered so."""
    if (program, name, app_name) not in _known:
        importlib.import_module(program)
    try:
        return _known[program, name, app_name]
    except KeyError:
        raise errors.DeserializationError(f"{program!r}, as it is here, has no function {name!r}") from None


def _of_value(
    kind: type[Defined], raw: bytes, name: str, is_generator: bool | None, options: Options, app_name: str | None
) -> Defined:
    """What was pickled by value."""
    return kind(Definition(pickles.loads(raw, name), name, True, is_generator), options, AppDefaults(app_name))
