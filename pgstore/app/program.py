"""How a worker loads what the user has written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Program:
    """How a worker loads what the user has written."""

    kind: Literal["script", "module", "none"]
    """A script is `__main__` in the caller; "none": the function is pickled, and nothing is loaded."""
    name: str
    """The dotted name of the module; of a script that of its file, without `.py`."""
    path: str | None
    """Of the file."""
