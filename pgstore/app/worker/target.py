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
from pgstore.app import as_modal, context, pickles
from pgstore.app.mount_rules import mount_key
from pgstore.app.spec import Program, WorkerSpec
from pgstore.app.worker.mounts import Mounts
from pgstore.client import default_client
from pgstore.core.operation import Op

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
    What a worker runs, a function or the methods of an object, and what becomes of what that has written to *mounts*.

    Args:
        tell: takes a message for the parent.
    """

    def __init__(self, spec: WorkerSpec, mounts: Mounts, tell: Callable[..., None]) -> None:
        self.spec = spec
        self._mounts = mounts
        self._tell = tell
        self._loaded: Any = None
        self._instance: Any = None
        self.is_spoiled = self._has_ended = False

    def begin(self, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """Load it; of a class make an object, and have it enter. *run* runs a coroutine to its end."""
        context.is_loading = True
        try:
            self._loaded = load(self.spec.program, self.spec.qualname, self.spec.pickled)
        finally:
            context.is_loading = False
        for mount in self._mounts.all:
            context.mounted[mount.path] = mount_key(mount.store)
        if self.spec.parameters is not None:
            from pgstore.app.cls import instantiate

            arguments = pickles.loads(self.spec.parameters, f"the parameters of {self.spec.name}")
            self._instance = instantiate(self._loaded, arguments)
            self._run_hooks("enter", run)

    def callable_of(self, method: str | None) -> Callable[..., Any]:
        """What a call runs."""
        if method is not None:
            from pgstore.app.cls import method_of

            return method_of(self._instance, method)
        if isinstance(self._loaded, FunctionType):
            return self._loaded
        return self._loaded.get_raw_f()  # type: ignore[no-any-return]

    def committing(self) -> Op[None]:
        """Bring what was written to the mounts into the stores; in a transaction as a part of it."""
        if not self._mounts.written:
            return
        self._tell("committing", 1)  # it is not killed meanwhile, if it can be helped
        try:
            yield from self._mounts.committing()
        finally:
            self._tell("committing", -1)

    def spoil(self) -> bool:
        """What was written to the mounts is to be dropped. Returns whether the parent has to end the worker for that."""
        self.is_spoiled = bool(self._mounts.written)
        return self.is_spoiled

    def end(self, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """Have the object exit, if it is one."""
        if self._instance is not None:
            self._run_hooks("exit", run)
        self._has_ended = True

    def commit_rest(self) -> None:
        """Commit what was written since the last call, if all has gone well."""
        if self._has_ended and not self.is_spoiled:
            default_client().run(self.committing())

    def _run_hooks(self, which: str, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        from pgstore.app.cls import hooks

        for hook in hooks(self._instance, which):
            made = hook()
            if inspect.iscoroutine(made):
                run(made)
