"""What a worker runs: a function or an object of the program, which it loads."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Callable, Coroutine
from types import FunctionType, ModuleType
from typing import Any, Final

from pgstore import errors
from pgstore.app import as_modal
from pgstore.app.spec import Program

_ABSENT: Final = object()


def load(program: Program, qualname: str, pickled: bytes | None) -> Any:
    """
    The function or class of this name in *program*, or the one that was *pickled*.

    Raises:
        BaseException: what the program raises.
        ExecutionError: it has no such name.
    """
    as_modal.install_in_worker()
    if pickled is not None:
        return pickle.loads(pickled)
    found: Any = _module(program)
    for part in qualname.split("."):
        found = getattr(found, part, _ABSENT)
        if found is _ABSENT:
            raise errors.ExecutionError(
                f"there is no {qualname!r} in {program.path or program.name}, as a worker loads it: a function must be defined "
                "at the top of its module, whatever `__name__` and is_local() are"
            )
    return found


def _module(program: Program) -> ModuleType:
    """The module of *program*, which is `__main__` here, too: what the caller has pickled may be of its `__main__`."""
    if program.kind == "module":
        module = importlib.import_module(program.name)
        sys.modules["__main__"] = module
        return module
    assert program.path is not None
    spec = importlib.util.spec_from_file_location(program.name, program.path)
    if spec is None or spec.loader is None:
        raise errors.ExecutionError(f"{program.path} is no Python file that a worker could load")
    module = importlib.util.module_from_spec(spec)
    sys.modules[program.name] = sys.modules["__main__"] = module
    spec.loader.exec_module(module)
    return module


class Target:
    """
    A function that a worker runs, or an object whose methods it runs.

    Args:
        loaded: what the program has at its name.
        run: runs a coroutine to its end.
    """

    def __init__(self, loaded: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._function = loaded
        self._instance: Any = None
        self._run = run

    @classmethod
    def of_class(cls, loaded: Any, arguments: dict[str, Any], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> Target:
        """Make an object with these *arguments*, and have it enter."""
        from pgstore.app.cls import instantiate

        target = cls(loaded, run)
        target._instance = instantiate(loaded, arguments)
        target._hook("enter")
        return target

    def callable_of(self, method: str | None) -> Callable[..., Any]:
        """What a call runs."""
        if method is not None:
            from pgstore.app.cls import method_of

            return method_of(self._instance, method)
        if isinstance(self._function, FunctionType):
            return self._function
        return self._function.get_raw_f()  # type: ignore[no-any-return]

    def exit(self) -> None:
        """Have the object exit, if it is one."""
        if self._instance is not None:
            self._hook("exit")

    def _hook(self, which: str) -> None:
        from pgstore.app.cls import hooks

        for hook in hooks(self._instance, which):
            made = hook()
            if inspect.iscoroutine(made):
                self._run(made)
