"""Groups of commands, as the help shows them."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperGroup

_WHOLE: Final = 1000  # characters, more than any first sentence has


class Group(TyperGroup):
    """A group whose help shows the first sentence of each command to its end, on several lines if need be."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the section of the commands. click's own ends each in "..." where the line does."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(_WHOLE)) for name, command in commands if command and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
