"""Completion of names in shells: what stands before the cursor says which database and which environment they are of.

An argument is completed by what its `autocompletion=` is given:

    name: Annotated[str, typer.Argument(autocompletion=names("dict"))]

For the groups `dict`, `queue`, `volume` and `nfs` the argument `Name` of `stores` has it already.

The shell waits for it with every Tab, so it gives up after a second, and says nothing of what went wrong.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import typer

from pgstore.cli.target import Target

SECONDS_MAX: Final = 1.0
VARIABLE: Final = "_PGSTORE_COMPLETE"  # set by the scripts that typer gives the shells

Completer = Callable[[typer.Context, str], list[str]]


def names(*kinds: str) -> Completer:
    """
    What completes the name of a store.

    Args:
        kinds: `dict`, `queue`, `volume`, `nfs`, `app` and `secret`, or several of them.
    """

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        def ask() -> list[str]:
            from pgstore.admin import names as admin

            target = _target(context)
            return admin.names(target.running_url, target.environment, kinds, incomplete)

        return _answer(ask)

    return complete


def names_of_group(context: typer.Context, incomplete: str) -> list[str]:
    """Completes the name of a store of the kind by which the group of commands is called, as in `pgstore dict get NAME`."""
    group: Any = context.parent
    return names(group.info_name)(context, incomplete)


def environments(context: typer.Context, incomplete: str) -> list[str]:
    """Completes the name of an environment."""

    def ask() -> list[str]:
        from pgstore.admin import names as admin

        return admin.environments(_target(context).running_url, incomplete)

    return _answer(ask)


def join_words(variables: MutableMapping[str, str]) -> None:
    """
    Join in *variables*, which are the process's, what bash has divided.

    For bash a word ends at each of `:`, `=` and `@` (COMP_WORDBREAKS): of `--url postgresql://me@host/app` come eight. The last of
    them is what it replaces, so what click then completes, the part after `=`, is what bash expects.
    """
    if variables.get(VARIABLE) != "complete_bash":
        return
    words = variables.get("COMP_WORDS", "").split("\n")
    with contextlib.suppress(ValueError, IndexError):
        current = int(variables["COMP_CWORD"])
        joined: list[str] = []
        glued = False
        for word in words[: current + 1]:
            parts = bool(re.fullmatch("[:=@]+", word))
            if joined and (glued or parts or word.startswith("@")):
                joined[-1] += word
            else:
                joined.append(word)
            glued = parts
        variables["COMP_WORDS"] = "\n".join(joined)
        variables["COMP_CWORD"] = str(len(joined) - 1)


def _target(context: typer.Context) -> Target:
    """What the options say that stand on the line already; the command's own `--env` goes before that of `pgstore`."""
    url = env = None
    level: Any = context
    while level is not None:
        url, env = url or level.params.get("url"), env or level.params.get("env")
        level = level.parent
    return Target(url, env)


def _answer(ask: Callable[[], list[str]]) -> list[str]:
    """What *ask* returns; nothing if that fails or takes longer than a second."""
    found: list[str] = []

    def run() -> None:
        with contextlib.suppress(Exception):
            found.extend(ask())

    # Aside, for libpq waits two seconds at least for a server that is silent, and for the name of a host as long as that takes.
    from pgstore.core import threads

    asking = threading.Thread(target=run, daemon=True)
    threads.start(asking)
    asking.join(SECONDS_MAX)
    return list(found)
