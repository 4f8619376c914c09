"""The command `pgstore`.

A command is a function that says what it does and prints it. Errors come here: an `errors.Error` becomes one line on stderr.
Exit codes: 0 done, 1 failed, 2 called in a wrong way, 130 interrupted; `check` has more. `PGSTORE_DEBUG=1` shows where an error
came from.

`migration`, `status`, `check`, `gc`, `demo`, `run` and `worker` are a command each; `mount` has three; `calls`, `server` and
`secret` are nouns, with commands of their own, and so are `dict_commands`, `queue_commands`, `volume_commands` and `nfs_commands`,
which share `stores`. `target` knows which database a command is about, `options` are those of many commands, `output` prints
fields, tables and JSON, and `completion` completes names of stores in a shell.

Where a change belongs:

- A new command is a function in a module of its own, entered below by `app.command`. A new noun (`pgstore NOUN VERB`) is a module
  with a `typer.Typer` of its own, entered below by `app.add_typer`.
- What a command finds out or does is a function in `pgstore.admin` that returns data. Here is no SQL, and no connection but that
  of a `Client`.
- An option that stands before every command is one of `before` below, and a field of `target.Target`. One that many commands have
  after the verb stands in `options`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Annotated, Any, Final

import typer

from pgstore import errors, migrate
from pgstore.cli import (
    calls,
    check,
    completion,
    demo,
    dict_commands,
    gc,
    migration,
    mount,
    nfs_commands,
    output,
    queue_commands,
    secret,
    server,
    status,
    volume_commands,
    worker,
)
from pgstore.cli import run as run_command
from pgstore.cli.target import Target

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130  # as shells report SIGINT

app = typer.Typer(
    name="pgstore",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("migrate")(migration.migrate)
app.command("status")(status.status)
app.command("demo")(demo.demo)
app.command("gc")(gc.gc)
app.command("check")(check.check)
app.command("mount")(mount.mount)
app.command("unmount")(mount.unmount)
app.command("mounts")(mount.mounts)
# What follows the file is the program's own.
app.command("run", context_settings={"allow_interspersed_args": False})(run_command.run)
app.command("worker")(worker.worker)
app.add_typer(dict_commands.app, name="dict")
app.add_typer(queue_commands.app, name="queue")
app.add_typer(volume_commands.app, name="volume")
app.add_typer(nfs_commands.app, name="nfs")
app.add_typer(calls.app, name="calls")
app.add_typer(secret.app, name="secret")
app.add_typer(server.app, name="server")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"pgstore {version('pgstore')}, schema revision {migrate.SCHEMA_REVISION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def before(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The database: postgresql://user@host/database, or pairs like host=…"),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            "-e",
            metavar="NAME",
            autocompletion=completion.environments,
            help="The environment: a name space of stores.  [default: main]",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """
    Dict, Queue, Volume and functions on one Postgres database.

    The database is that of --url, else of PGSTORE_URL, else of DATABASE_URL, else of libpq's variables (PGHOST …), else an embedded
    server, which is started when needed.

    \b
    Example:
      pgstore demo
      pgstore run train.py --epochs 3
      pgstore --url postgresql://me@db.example.org/app status
    """
    context.obj = Target(url, env)
    output.help_if_alone(context)


def main() -> None:
    """Run the command line and exit."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone. What is still buffered must go nowhere, or the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command that *arguments* name and return the exit code."""
    completion.join_words(os.environ)
    try:
        code = app(arguments, prog_name="pgstore", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as exc:  # noqa: BLE001 - nobody stands behind to handle it
        return _fail(exc, arguments)
    return code if isinstance(code, int) else DONE


def _fail(exc: Exception, arguments: list[str]) -> int:
    if os.environ.get("PGSTORE_DEBUG") not in (None, "", "0"):
        traceback.print_exception(exc)
    message, code = _explain(exc, arguments)
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {message}", file=sys.stderr)
    return code


def _explain(exc: Any, arguments: list[str]) -> tuple[str, int]:
    if isinstance(exc, check.NotChecked):
        return _explain(exc.__cause__, arguments)[0], check.NOT_CHECKED
    if isinstance(exc, errors.InvalidError):
        return str(exc), USAGE
    if isinstance(exc, errors.Error):
        return str(exc), FAILED
    # typer's usage errors, known by what they can do: their class is click's in one version and private in another.
    if hasattr(exc, "format_message") and hasattr(exc, "exit_code"):
        return _usage(exc, arguments), exc.exit_code
    if isinstance(exc, OSError) and exc.strerror:
        return ": ".join(filter(None, [exc.strerror.lower(), str(exc.filename or "")])), FAILED
    return f"{type(exc).__name__}: {exc} (a mistake in pgstore; PGSTORE_DEBUG=1 shows where)", FAILED


def _usage(exc: Any, arguments: list[str]) -> str:
    message = " ".join(exc.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    for option in ("--url", "--env", "-e"):
        if f"no such option: {option}" in message and option in arguments:
            return f"{message}: it stands before the command, as in `pgstore {option} … status`"
    command = getattr(getattr(exc, "ctx", None), "command_path", "pgstore")
    return f"{message}; see `{command} --help`"
