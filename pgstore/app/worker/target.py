"""What a worker runs: a function or an object of the program, which it loads."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
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
    as_modal.install_in_worker()
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


def callable_of(target: Any) -> Callable[..., Any]:
    """The function behind what the program has at its name: the decorator has made a `Function` of it."""
    raw = getattr(target, "get_raw_f", None)
    return target if raw is None else raw()  # type: ignore[no-any-return]
