"""`pgstore queue …`: Queues from a shell."""

from __future__ import annotations

import typer

from pgstore.cli import output, stores

app = typer.Typer(rich_markup_mode=None)
stores.add_list(app, "queue")
stores.add_delete(app, "queue")


@app.callback(invoke_without_command=True)
def queue_(context: typer.Context) -> None:
    """
    Queues: items in order, each taken once.

    \b
    Example:
      pgstore queue list
      pgstore queue delete tasks --yes
    """
    output.help_if_alone(context)
