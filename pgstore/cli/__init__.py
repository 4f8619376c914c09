"""The command `pgstore`.

A command is a function that says what it does and prints it. Errors come here: an `errors.Error` becomes one line on stderr.
Exit codes: 0 done, 1 failed, 2 called in a wrong way, 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP; `check` has more.
`PGSTORE_DEBUG=1` shows where an error came from.

`migration`, `status`, `check`, `gc`, `top`, `backup`, `demo`, `run_command` and `worker` are a command each or two; `mount`
has three; `calls`, `server` and `secret` are nouns, with commands of their own, and so are `dict_commands`, `queue_commands` (with
`dead_letters`), `volume_commands` and `nfs_commands`, which share `stores`. `target` knows which database a command is about,
`options` are those of many commands, `values` how a value is typed and shown, `output` prints fields, tables and JSON, and
`completion` completes names of stores in a shell. `later` imports commands when they are called, `groups` lists them, `streams`
has what the process is given, `codes` the exit codes. `signature` adds options to a function, or takes some away.

`file_commands` has what `volume` and `nfs` do with files, `bucket` what `pgstore bucket` does. Of these three, `listing` shows what
is there, `transfer` brings it in and out, and `paths` says under which name.

`psql` and `roles` are for operators. `top` draws what `sampler` takes, with `top_view`, which says what stands where, `screen`,
which makes it fit, and `terminal`, which reads keys.

Where a change belongs:

- A new command is a function in a module of its own, a new noun (`pgstore NOUN VERB`) a module with a `typer.Typer`. Either is a
  line of COMMANDS below: its name, where it is, and the first sentence of its docstring. The module is imported when it is called.
- What a command finds out or does is a function in `pgstore.admin` that returns data. Here is no SQL, and no connection but that
  of a `Client`.
- An option that stands before every command is one of `before` below, and a field of `target.Target`. One that many commands have
  after the verb stands in `options`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import traceback
from typing import Annotated, Any, Final

import typer

from pgstore import errors
from pgstore.cli import completion, output, streams
from pgstore.cli.codes import DONE, FAILED, INTERRUPTED, NOT_CHECKED, USAGE, NotChecked
from pgstore.cli.groups import Group
from pgstore.cli.later import Later
from pgstore.cli.target import Target

COMMANDS: Final = [
    Later("migrate", "migration:migrate", "Create the schema in the database, or bring it up to date."),
    Later("status", "status:status", "Show which database is used, and what it holds."),
    Later(
        "top",
        "top:top",
        "Watch what goes on: queues, calls, dicts, files, sessions, mounts, connections and slow statements.",
    ),
    Later("roles", "roles:app", "Show who may use the stores of the database."),
    # What it does not know is psql's.
    Later(
        "psql",
        "psql:psql",
        "Open psql on the database in use.",
        {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": ["--help"]},
    ),
    Later("demo", "demo:demo", "Run a pipeline on a small directory, and check its sums."),
    Later("gc", "gc:gc", "Delete what Volumes and NetworkFileSystems do not need any more."),
    Later("check", "check:check", "Look for damage in the database."),
    Later("backup", "backup:backup", "Write all that pgstore has in the database to one file."),
    Later("restore", "backup:restore", "Restore a backup into a database without a schema pgstore, and check it."),
    Later("mount", "mount:mount", "Mount a Volume or NetworkFileSystem: any program can open its files then."),
    Later("unmount", "mount:unmount", "Commit what was written, and unmount."),
    Later("mounts", "mount:mounts", "Show what this user has mounted, or what an earlier mount could not commit."),
    # What follows the file is the program's own.
    Later(
        "run",
        "run_command:run",
        "Run a program: a local entrypoint here, or a function in a worker.",
        {"allow_interspersed_args": False},
    ),
    Later("worker", "worker:worker", "Run spawned calls of the App in FILE, until it is told to end."),
    Later("dict", "dict_commands:app", "Dicts: keys and values, in a table."),
    Later("queue", "queue_commands:app", "Queues: items in order, each taken once."),
    Later("volume", "volume_commands:app", "Volumes: files with versions."),
    Later("nfs", "nfs_commands:app", "NetworkFileSystems: files that several programs write at the same time."),
    Later("bucket", "bucket:app", "Buckets: files at S3, Google Cloud Storage and Azure."),
    Later("calls", "calls:app", "Show spawned calls, the newest first."),
    Later("secret", "secret:app", "Store variables for functions, encrypted: `Secret.from_name` finds them."),
    Later("server", "server:app", "Start, stop and find the embedded Postgres."),
]

_MESSAGE_CHARS_MAX: Final = 2000
# How errors of stores name them: by what makes the handle in Python.
_HANDLE: Final = re.compile(r"pgstore\.(\w+)\.from_name\('([\w.-]+)'(?:, \w+='[\w.-]+')*\)", re.ASCII)

app = typer.Typer(
    name="pgstore",
    cls=Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from pgstore import migrate

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
    if context.invoked_subcommand not in ("mount", "run", "worker"):
        # Not between the lines of a table, nor beside the error of which it was a beginning.
        logging.getLogger("pgstore").addHandler(logging.NullHandler())
    context.obj = Target(url, env)
    output.help_if_alone(context)


def main(standing: Any = None) -> None:
    """Run the command line and exit. *standing* is a handler of Ctrl-C that was there only until now."""
    streams.end_at_ctrl_c(standing)
    streams.end_as_by_ctrl_c()
    streams.open_all()
    streams.print_any_text()
    try:
        code = run(sys.argv[1:])
    except SystemExit as exc:
        code = _code_of(exc)
    except BrokenPipeError:  # whoever read our output has gone
        code = FAILED
    except KeyboardInterrupt:  # once more, while the first was handled
        code = INTERRUPTED
    streams.end_at_ctrl_c()
    streams.end_at_once()
    code = streams.ended_by() or code
    try:
        sys.stdout.flush()
    except OSError as exc:
        if exc.errno != errno.EPIPE and code == DONE:  # else it was said, or this is not why it failed
            _complain(f"the output is not complete: {_words(exc)}")
        streams.discard_output()
        code = code or FAILED
    sys.exit(code)


def _code_of(exc: SystemExit) -> int:
    """The exit code that a program means by it, as Python has it: what is no number is said, and is a failure."""
    if exc.code is None or isinstance(exc.code, int):
        return exc.code or DONE
    with contextlib.suppress(OSError):
        print(exc.code, file=sys.stderr, flush=True)
    return FAILED


def run(arguments: list[str]) -> int:
    """Run the command that *arguments* name and return the exit code."""
    completion.join_words(os.environ)
    try:
        code = _command()(arguments, prog_name="pgstore", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as exc:  # noqa: BLE001 - nobody stands behind to handle it
        return _fail(exc, arguments)
    return code if isinstance(code, int) else DONE


def _command() -> Any:
    command: Any = typer.main.get_command(app)
    command.commands.update({each.name: each for each in COMMANDS})
    return command


def _fail(exc: Exception, arguments: list[str]) -> int:
    if os.environ.get("PGSTORE_DEBUG") not in (None, "", "0"):
        traceback.print_exception(exc)
    message, code = _explain(exc, arguments)
    _complain(message)
    return code


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):  # there is nowhere else to say it
        print(f"error: {_one_line(message)}", file=sys.stderr, flush=True)


def _one_line(message: str) -> str:
    """
    *message* in words of the command line, without control characters, and without what an argument of megabytes has brought in.
    """
    if len(message) > _MESSAGE_CHARS_MAX:
        half = _MESSAGE_CHARS_MAX // 2
        message = f"{message[:half]} … {message[-half:]}"
    return output.printable(_HANDLE.sub(r"the \1 \2", message))


def _explain(exc: Any, arguments: list[str]) -> tuple[str, int]:
    if isinstance(exc, NotChecked):
        return _explain(exc.__cause__, arguments)[0], NOT_CHECKED
    if isinstance(exc, errors.InvalidError):
        return str(exc), USAGE
    if isinstance(exc, errors.Error):
        return str(exc), FAILED
    # typer's usage errors, known by what they can do: their class is click's in one version and private in another.
    if hasattr(exc, "format_message") and hasattr(exc, "exit_code"):
        return _usage(exc, arguments), exc.exit_code
    if isinstance(exc, OSError) and exc.strerror:
        return _words(exc), FAILED
    if isinstance(exc, ValueError) and "embedded null" in str(exc):
        return "an argument has a NUL, which no path can have", USAGE
    return f"{type(exc).__name__}: {exc} (a mistake in pgstore; PGSTORE_DEBUG=1 shows where)", FAILED


def _words(exc: OSError) -> str:
    return ": ".join(filter(None, [(exc.strerror or str(exc)).lower(), str(exc.filename or "")]))


def _usage(exc: Any, arguments: list[str]) -> str:
    message = " ".join(exc.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    for option in ("--url", "--env", "-e"):
        if f"no such option: {option}" in message and option in arguments:
            return f"{message}: it stands before the command, as in `pgstore {option} … status`"
    command = getattr(getattr(exc, "ctx", None), "command_path", "pgstore")
    if "no such option" in message:
        message = f"{message} (before a value that starts with a dash stands `--`)"
    return f"{message}; see `{command} --help`"
