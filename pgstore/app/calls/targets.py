"""What calls can be of in this process: functions of Apps, by the names that rows have."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pgstore.app.options import Options
from pgstore.app.runner import parallelism
from pgstore.app.spec import WorkerSpec
from pgstore.core.names import NAME_CHARS_MAX


@dataclass(frozen=True)
class Target:
    """
    A function that calls can be of.

    Args:
        name: as the App has it: "f", "Class.method".
        spec: of its workers; of a class, from the `parameters` of a call.
    """

    name: str
    spec: Callable[[bytes | None], WorkerSpec]
    options: Options
    method: str | None = None

    @property
    def slots(self) -> int:
        """How many calls are taken at once."""
        return (self.options.max_containers or parallelism()) * self.options.inputs_at_once


_offered: Final[dict[str, dict[str, Target]]] = {}


def offer(app: str, target: Target) -> None:
    """Calls of *target* can be run here. Of two of one name the later is meant."""
    _offered.setdefault(app, {})[target.name] = target


def targets(app: str) -> list[Target]:
    """All of *app*."""
    return list(_offered.get(app, {}).values())


def apps() -> list[str]:
    """The Apps that have any."""
    return list(_offered)


def app_name(name: str | None, program: str) -> str:
    """What rows call the App *name*; one without a name is called as its program is."""
    return name or re.sub(r"[^A-Za-z0-9._-]", "-", program)[-NAME_CHARS_MAX:] or "app"
