"""Where code runs: in the program's own process, or in a worker and there for which call."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from pgstore.errors import InvalidError

CURRENT_CALL: Final[ContextVar[str | None]] = ContextVar("pgstore_call", default=None)
"""The id of the call that the running code belongs to. The worker sets it."""

is_loading = False
"""Whether this is a worker that is importing the program. The worker sets it."""

variables: dict[str, tuple[str, str | None]] = {}
"""What the function of this worker has in its environment, by name: the value, and the one there was before. The worker sets it."""

mounted: dict[str, object] = {}
"""By path, what `mount_rules.mount_key` says of each store that this worker has mounted. The worker sets it."""


def inherited() -> dict[str, str]:
    """The environment for workers of this process: its own, but for what is its function's; that may be secret."""
    environment = dict(os.environ)
    for name, (value, before) in variables.items():
        if environment.get(name) == value:
            environment.pop(name)
            environment.update({} if before is None else {name: before})
    return environment


def is_local() -> bool:
    """Whether this is the program's own process; False in a worker, also while that imports the program."""
    return os.environ.get("PGSTORE_IS_REMOTE") != "1"


def current_function_call_id() -> str | None:
    """Return the id of the call that this code runs for, `fc-…`; None outside a worker."""
    return CURRENT_CALL.get()


def current_input_id() -> str | None:
    """Return the id of what the call was given, `in-…`; None outside a worker. Here each call has one input."""
    call_id = CURRENT_CALL.get()
    return None if call_id is None else f"in-{call_id.partition('-')[2]}"


def check_not_loading(what: str) -> None:
    """Raise `InvalidError` while a worker imports the program: each worker would start workers of its own."""
    if is_loading:
        raise InvalidError(
            f"{what} while a worker imports the program, which every worker does: move it into a function, a local entrypoint, or "
            "below `if __name__ == '__main__':`"
        )


# ------------------------------------------------------------------------------------ between a worker and who has started it

ask: Callable[..., Any] | None = None
"""In a worker: `ask(verb, …)` gives what the process that has started it answers. The worker sets it."""

ANSWERS: Final[dict[str, Callable[..., Any]]] = {}
"""What workers of this process may ask, by verb."""
