"""Commands whose modules are imported when they are called: each needs a part of the package, and all of it takes a second."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import typer
from typer.core import TyperCommand

from pgstore.cli import streams


class Later(TyperCommand):
    """
    A command, or a group of commands, as the help and the shell know it before it is called.

    Args:
        name: by which it is called.
        home: `module:function`, or `module:app` for a group, whose module is in `pgstore.cli`.
        help: the first sentence of its docstring.
        context_settings: of a function.
    """

    def __init__(self, name: str, home: str, help: str, context_settings: dict[str, Any] | None = None) -> None:
        super().__init__(name, help=help, rich_markup_mode=None)
        self._home = home
        self._settings = context_settings or {}

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself, which is invoked by it."""
        command = self._command  # loaded before Ctrl-C raises
        streams.raise_at_ctrl_c()
        return command.make_context(info_name, args, parent, **extra)

    @functools.cached_property
    def _command(self) -> Any:
        module, _, attribute = self._home.partition(":")
        found = getattr(importlib.import_module(f"pgstore.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(self.name, context_settings=self._settings)(found)
        return typer.main.get_command(alone)
