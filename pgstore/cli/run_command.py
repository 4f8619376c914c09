"""`pgstore run`: what the program prints goes to stdout, and nothing of pgstore's."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
import warnings
from typing import Annotated, Final

import typer

import pgstore
from pgstore.app import as_modal as as_modal_module
from pgstore.app import entrypoint
from pgstore.app.runner.mounts import MODE
from pgstore.cli import streams
from pgstore.cli.options import Environment
from pgstore.cli.target import Target, target
from pgstore.mount.options import MODES

FAILED: Final = 1


def run(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="FILE[::NAME]", help="A file, and what of it to run.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENTS]…", help="Those of the function: --name VALUE.")
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="It is package.module[::NAME], not a file.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Without a meaning here.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only: no warnings.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Spawned calls go on after the end, by `pgstore worker`.")
    ] = False,
    env: Environment = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="As before the command.", show_default=False)
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="auto|fuse|sync",
            help="How Volumes and NetworkFileSystems are mounted.  [default: PGSTORE_MOUNT_MODE, else auto]",
            show_default=False,
        ),
    ] = None,
    as_modal: Annotated[bool, typer.Option("--as-modal", help="In the program, `import modal` means pgstore.")] = False,
) -> int:
    """
    Run a program: a local entrypoint here, or a function in a worker.

    Without a name it is the only local entrypoint, else the only function. Its parameters are options, in what follows the file;
    --help there shows them. The exit code is 1 where the program fails, or what it says by sys.exit.

    \b
    Example:
      pgstore run train.py --epochs 3
      pgstore run train.py::evaluate --help
    """
    if mode is not None:
        if mode not in MODES:
            raise pgstore.InvalidError(f"--mode {mode!r} is none of {', '.join(MODES)}")
        os.environ[MODE] = mode
    _use(target(context), url, env)
    if quiet:
        warnings.simplefilter("ignore")
    streams.end_at_once()  # what is to happen is the program's to say
    reference = entrypoint.Reference(ref, module)
    reference.check()
    if as_modal:
        as_modal_module.install()
    try:
        loaded = reference.load()
    except Exception as exc:  # noqa: BLE001 - whatever the program raises
        return show(exc)
    chosen = entrypoint.choose(entrypoint.runnables(loaded), reference.name)
    chosen.check()
    given = chosen.parameters.parse(arguments or [], f"pgstore run {ref}", chosen.function.__doc__)
    if given is None:
        return 0
    try:
        entrypoint.run(chosen, *given, detach=detach, started=_say)
    except Exception as exc:  # noqa: BLE001
        return show(exc)
    return 0


def _say(call_id: str) -> None:
    print(call_id, flush=True)


def _use(chosen: Target, url: str | None, env: str | None) -> None:
    """Have the program, and its workers, use the database and the environment that the command line names."""
    if url is not None or env is not None:
        chosen = Target(chosen.given_url if url is None else url, chosen.given_environment if env is None else env)
    os.environ.update(chosen.environ())


def show(exc: Exception) -> int:
    """Print the traceback of an error of the program: its own frames, and what a note says of the worker's."""
    told = traceback.TracebackException.from_exception(exc)
    if os.environ.get("PGSTORE_TRACEBACK") in (None, "", "0"):
        _keep_theirs(told)
    sys.stdout.flush()
    print("".join(told.format()), end="", file=sys.stderr)
    return FAILED


def _keep_theirs(told: traceback.TracebackException) -> None:
    """Leave the frames of the program alone: those from its first one on, without those of pgstore in between."""
    began = itertools.dropwhile(_is_before, told.stack)
    told.stack = traceback.StackSummary.from_list([frame for frame in began if not _is_ours(frame)])
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _keep_theirs(other)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_PACKAGE)


def _is_before(frame: traceback.FrameSummary) -> bool:
    """Whether it leads to the program, rather than from it."""
    return _is_ours(frame) or frame.filename.startswith(("<frozen", _LIBRARY))


_PACKAGE: Final = os.path.join(os.path.dirname(pgstore.__file__), "")
_LIBRARY: Final = os.path.join(os.path.dirname(os.__file__), "")
