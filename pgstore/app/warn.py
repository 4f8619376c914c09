"""Warnings about what a program asks for and this machine does not do: each kind once, in the program's own process."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Final

from pgstore.app.context import is_local
from pgstore.errors import LocalRunWarning

_PACKAGE: Final = f"{Path(__file__).parents[1]}/"
_said: set[str] = set()


def warn_once(kind: str, message: str, category: type[Warning] = LocalRunWarning) -> None:
    """Warn of *message* at the line of the program that led here, unless something of the same *kind* was said before."""
    # A worker imports the program as well, and would say all of it again.
    if kind in _said or not is_local():
        return
    warnings.warn(message, category, stacklevel=_level_of_program())
    _said.add(kind)  # after it: where warnings are errors, each place that asks for it has one


def forget() -> None:
    """Let everything be said again."""
    _said.clear()


def _level_of_program() -> int:
    """How many frames up the program stands, as `warn_once` counts them."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level
