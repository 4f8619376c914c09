"""`pgstore run --as-modal`: in the program and in its workers, `import modal` means pgstore."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

from pgstore import errors

VARIABLE: Final = "PGSTORE_AS_MODAL"  # set for workers


def install() -> None:
    """
    Have modules named `modal…` be those of pgstore. To be called before the program is loaded.

    Raises:
        InvalidError: Modal's own package has been imported.
    """
    found = sys.modules.get("modal")
    if found is not None and found is not sys.modules["pgstore"]:
        raise errors.InvalidError("--as-modal: the package modal has been imported already, and is not pgstore")
    os.environ[VARIABLE] = "1"
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def install_in_worker() -> None:
    """`install`, where the program was started so."""
    if os.environ.get(VARIABLE) == "1":
        install()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        is_modal = fullname == "modal" or fullname.startswith("modal.")
        return importlib.util.spec_from_loader(fullname, self) if is_modal else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # The import takes what stands here in place of the new module: the same as pgstore's, so that its classes are the same.
        sys.modules[module.__name__] = _ours(module.__name__)


def _ours(name: str) -> Any:
    """What stands in pgstore for Modal's module *name*; for one that is not offered, what refuses to be used."""
    place = name.removeprefix("modal").removeprefix(".")
    try:
        return importlib.import_module(f"pgstore.{place}" if place else "pgstore")
    except ModuleNotFoundError as exc:
        if exc.name != f"pgstore.{place}":
            raise
        try:
            return getattr(sys.modules["pgstore"], place)
        except AttributeError:
            raise ModuleNotFoundError(f"pgstore has nothing that stands for {name}", name=name) from None
