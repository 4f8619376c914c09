"""`pgstore dict …`: Dicts from a shell."""

from __future__ import annotations

import typer

from pgstore.cli import output, stores

app = typer.Typer(rich_markup_mode=None)
stores.add_list(app, "dict")
stores.add_delete(app, "dict")


@app.callback(invoke_without_command=True)
def dict_(context: typer.Context) -> None:
    """
    Dicts: keys and values, in a table.

    \b
    Example:
      pgstore dict list
      pgstore dict delete settings --yes
    """
    output.help_if_alone(context)
