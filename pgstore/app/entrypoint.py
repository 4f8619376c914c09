"""`pgstore run`: a reference is loaded as a module, one of what it can run is chosen, and its parameters become options.

Nothing here prints; `cli.run_command` does, and has the exit codes.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pgstore import errors
from pgstore.app.app import App, LocalEntrypoint
from pgstore.app.cls import Cls
from pgstore.app.function import Function
from pgstore.app.parameters import Parameters


@dataclass(frozen=True)
class Reference:
    """What to run: `FILE.py`, `FILE.py::name`, or, with *is_module*, `package.module::name`."""

    text: str
    is_module: bool = False

    @property
    def place(self) -> str:
        return self.text.partition("::")[0]

    @property
    def name(self) -> str:
        """Of what to run; "": it was left out."""
        return self.text.partition("::")[2]

    def check(self) -> None:
        """Raise `InvalidError` for what cannot be loaded."""
        path, name = Path(self.place), Path(self.place).stem
        if self.is_module:
            if path.suffix == ".py":
                wrong = f"-m takes the name of a module, not of a file: leave -m out, or write {_dotted(path)}"
            else:
                return
        elif not path.exists() and ":" in self.place:
            wrong = f"there is no file {self.place!r}. Did you mean '::' instead of ':'?"
        elif path.suffix != ".py":
            wrong = f"{self.place!r} is no file that ends in .py; a module takes -m, as in `pgstore run -m {self.text}`"
        elif not path.is_file():
            wrong = f"there is no file {self.place!r}"
        elif "." in name or name in sys.modules:
            why = (
                "the name of a module has no dots" if "." in name else "there is one of this name, which it would hide"
            )
            wrong = f"{path.name!r} cannot be loaded as the module {name!r}: {why}; rename the file"
        else:
            return
        raise errors.InvalidError(wrong)

    def load(self) -> ModuleType:
        """Import the module, with the directory of the file first on `sys.path`, the current one next. Raises what it raises."""
        sys.path.insert(0, str(Path.cwd()))
        if self.is_module:
            return importlib.import_module(self.place)
        path = Path(self.place).resolve()
        sys.path.insert(0, str(path.parent))
        try:
            return _loaded(path.stem, path)
        except ImportError as exc:
            if "attempted relative import with no known parent package" in str(exc):
                exc.add_note(
                    f"The file is part of a package: run it as a module, `pgstore run -m {_dotted(Path(self.place))}"
                    f"{self.text[len(self.place) :]}`, from the directory that has the package"
                )
            raise


def _loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a file that ends in .py has a loader"
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).lstrip(".")


# ------------------------------------------------------------------------------------------------------ what can be run


@dataclass(frozen=True)
class Runnable:
    """
    Something that can be run; of its names the first is shown.

    Args:
        method: where *thing* is a class, the name of the method: both have parameters.
    """

    names: Sequence[str]
    thing: Function[..., Any, Any] | LocalEntrypoint[..., Any] | Cls
    method: str | None = None

    @property
    def app(self) -> App:
        app = self.thing.app
        assert isinstance(app, App), "what was found in a module is as the program has made it"
        return app

    @property
    def parameters(self) -> Parameters:
        """What it is called with; of a method the class's parameters, too."""
        if isinstance(self.thing, Cls):
            return Parameters.of_class(self.thing) + Parameters.of(self.function, bound=True)
        return Parameters.of(self.function)

    @property
    def function(self) -> Callable[..., Any]:
        """As the program has defined it."""
        if isinstance(self.thing, Cls):
            assert self.method is not None
            return self.thing._methods[self.method].raw
        return self.thing.get_raw_f()

    def check(self) -> None:
        """Raise `InvalidError` for what can be called, but not from a command line."""
        if isinstance(self.thing, Function) and self.thing.is_generator:
            raise errors.InvalidError(
                f"{self.names[0]} is a generator, which `pgstore run` does not run: call its .remote_gen(…)"
            )
        if isinstance(self.thing, Function) and self.thing._web is not None:
            raise errors.InvalidError(f"{self.names[0]} is a function for the web, which `pgstore run` does not run")


def runnables(module: ModuleType) -> list[Runnable]:
    """What *module* and its Apps can run. Names in the module come first, then those in an App: `app.f`."""
    members = vars(module)
    named = list(members.items())
    for app_name, app in members.items():
        if isinstance(app, App):
            registered = (app.registered_entrypoints, app.registered_functions, app.registered_classes)
            named += [(f"{app_name}.{name}", thing) for things in registered for name, thing in things.items()]
    names: dict[tuple[Any, str | None], list[str]] = {}
    for name, thing in named:
        if isinstance(thing, (Function, LocalEntrypoint)):
            names.setdefault((thing, None), []).append(name)
        elif isinstance(thing, Cls):
            for method in thing._methods:
                names.setdefault((thing, method), []).append(f"{name}.{method}")
    return [Runnable(found, thing, method) for (thing, method), found in names.items()]


def choose(found: Sequence[Runnable], name: str) -> Runnable:
    """
    The runnable *name*; without a name the only entrypoint, else the only function or method.

    Raises:
        ExecutionError: there is none, or no only one. It lists what there is.
    """
    if exact := [each for each in found if name in each.names]:
        return exact[0]
    # An App or a class: one of its own.
    among = [each for each in found if not name or any(its.startswith(f"{name}.") for its in each.names)]
    entrypoints = [each for each in among if isinstance(each.thing, LocalEntrypoint)]
    for candidates in (entrypoints, among):
        if len(candidates) == 1:
            return candidates[0]
    if name and not among:
        said = f"there is no {name!r}. "
    else:
        said = "" if among else "there is nothing with @app.function() or @app.local_entrypoint(). "
    listed = ", ".join(each.names[0] for each in among or found)
    raise errors.ExecutionError(f"{said}Specify a function or local entrypoint to run{': ' if listed else ''}{listed}")


# ---------------------------------------------------------------------------------------------------------- running it


def run(
    chosen: Runnable,
    args: Sequence[str],
    kwargs: Mapping[str, Any],
    *,
    detach: bool = False,
    started: Callable[[str], object] = lambda call_id: None,
) -> None:
    """
    Run an entrypoint here, or a function in a worker, to its end; that of the App's run comes after it.

    Args:
        detach: calls that an entrypoint spawned are not waited for; a function is spawned, and goes on when this is interrupted.
        started: told the id of the call that was spawned.
    """
    thing = chosen.thing
    with chosen.app.run(detach=detach):
        if isinstance(thing, LocalEntrypoint):
            result = thing(*args, **kwargs)
            if inspect.iscoroutine(result):
                asyncio.run(result)
            return
        if isinstance(thing, Cls):
            of_class = Parameters.of_class(thing).names
            instance = thing(**{key: value for key, value in kwargs.items() if key in of_class})
            function = getattr(instance, str(chosen.method))
            kwargs = {key: value for key, value in kwargs.items() if key not in of_class}
        else:
            function = thing
        if not detach:
            function.remote(*args, **kwargs)
            return
        call = function.spawn(*args, **kwargs)
        started(call.object_id)
        call.get()
