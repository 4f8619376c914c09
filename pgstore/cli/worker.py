"""`pgstore worker`: runs the spawned calls of a program's functions, on any machine."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Final

import typer

from pgstore import errors
from pgstore.app import as_modal as as_modal_module
from pgstore.app.calls.run import Run, queue_of
from pgstore.app.calls.targets import apps, targets
from pgstore.app.entrypoint import Reference
from pgstore.app.runner.runner import close
from pgstore.cli.options import Environment
from pgstore.cli.run_command import show
from pgstore.cli.target import target
from pgstore.client import default_client
from pgstore.core.threads import Signal

# A signal may have come to another thread than the main one, which then does not hear of it as long as it waits.
_LOOK_SECONDS: Final = 0.5


def worker(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="FILE", help="The file that defines the App.")],
    module: Annotated[bool, typer.Option("-m", help="It is package.module, not a file.")] = False,
    as_modal: Annotated[bool, typer.Option("--as-modal", help="In the program, `import modal` means pgstore.")] = False,
    env: Environment = None,
) -> int:
    """
    Run spawned calls of the App in FILE, until it is told to end.

    They are those that were spawned without a run: in a web process, or with `pgstore run --detach`. Any number of workers, on any
    machines, share them. Ctrl-C, or SIGTERM, ends it when the calls that run have ended; once more, and they are stopped. A call
    whose worker was stopped or killed is made again as often as the function's `retries` say.

    \b
    Example:
      pgstore worker tasks.py
    """
    os.environ.update(target(context, env).environ())
    reference = Reference(ref, module)
    reference.check()
    if as_modal:
        as_modal_module.install()
    try:
        reference.load()
    except Exception as exc:  # noqa: BLE001 - whatever the program raises
        return show(exc)
    if not apps():
        raise errors.InvalidError(f"{ref} has no function of an App: nothing can be spawned there")
    wanted = Signal()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _end(wanted))
    run = Run(is_detached=True)
    run.begin()
    try:
        for app in apps():
            queue_of(app, default_client()).hydrate()  # if there is no database, now is the time to say so
            run.takes(app)
        for app in apps():
            _say(f"runs calls of App {app!r}: {', '.join(each.name for each in targets(app))}")
        while not wanted.wait(_LOOK_SECONDS):
            pass
        if run.running:
            _say(f"ends when {run.running} calls have ended; Ctrl-C stops them")
        run.stop()
    except KeyboardInterrupt:
        run.stop(0)
    finally:
        close()
    return 0


def _end(wanted: Signal) -> None:
    if wanted.is_set():
        raise KeyboardInterrupt
    wanted.set()


def _say(what: str) -> None:
    print(f"pgstore worker {what}", file=sys.stderr, flush=True)
