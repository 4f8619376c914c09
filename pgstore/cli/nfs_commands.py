"""`pgstore nfs …`: NetworkFileSystems from a shell."""

from __future__ import annotations

import typer

from pgstore.cli import output, stores

app = typer.Typer(rich_markup_mode=None)
stores.add_list(app, "nfs")
stores.add_delete(app, "nfs")


@app.callback(invoke_without_command=True)
def nfs_(context: typer.Context) -> None:
    """
    NetworkFileSystems: files that several programs write at the same time.

    \b
    Example:
      pgstore nfs list
      pgstore nfs delete cache --yes
    """
    output.help_if_alone(context)
