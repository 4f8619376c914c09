"""`pgstore volume …`: Volumes from a shell."""

from __future__ import annotations

import typer

from pgstore.cli import output, stores

app = typer.Typer(rich_markup_mode=None)
stores.add_list(app, "volume")
stores.add_delete(app, "volume")


@app.callback(invoke_without_command=True)
def volume_(context: typer.Context) -> None:
    """
    Volumes: files with versions.

    \b
    Example:
      pgstore volume list
      pgstore volume delete models --yes
    """
    output.help_if_alone(context)
