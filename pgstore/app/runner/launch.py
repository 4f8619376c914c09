"""Launching a worker: its directory, its interpreter, and what both are told."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pgstore import errors
from pgstore.app import context
from pgstore.app.channel import Channel, Closed
from pgstore.app.spec import Setup, WorkerSpec
from pgstore.config import Settings

_LOG: Final = logging.getLogger("pgstore")
_START: Final = Path(__file__).parents[1] / "worker" / "start.py"


def make_directory() -> str:
    """A directory of a worker's own: `tmp` in it is its TMPDIR, `root` is for the root of its file systems."""
    directory = tempfile.mkdtemp(prefix="pgstore-worker-")
    for name in ("tmp", "root"):
        os.mkdir(os.path.join(directory, name))
    return directory


def launch(
    spec: WorkerSpec, worker_id: str, directory: str, settings: Settings, mounts: list[dict[str, Any]]
) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start a worker like *spec*, tell it what it is to be like, and return its process and its channel."""
    interpreter = {  # of plain values: it cannot load others yet
        "path": [os.path.abspath(path) for path in sys.path],
        "argv": list(sys.argv),
        "environment": {**spec.environment(), **_environment(worker_id, directory, settings)},
    }
    # The URL as it is here: a secret of the function's may be called DATABASE_URL.
    url = None
    if not callable(settings.url):
        with contextlib.suppress(errors.ConfigurationError):  # the worker says so, if it needs it
            url = settings.configured_url()
    client = replace(settings, url="postgresql://" if url == "" else url)  # empty: libpq reads PGHOST and its like
    setup = Setup(spec, os.getpid(), directory, _LOG.getEffectiveLevel(), client, callable(settings.url), mounts)
    if not sys.executable:
        raise errors.ConfigurationError("sys.executable is not set: there is no interpreter to run workers with")
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)  # a program may have closed its stdin
        try:
            # In a session of its own: Ctrl-C is handed on by this process, and what a worker leaves behind is ended with its group.
            process = subprocess.Popen(
                [sys.executable, *subprocess._args_from_interpreter_flags(), "-P", str(_START), str(descriptor)],  # type: ignore[attr-defined]
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=context.inherited(),
                pass_fds=[descriptor],
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
    channel = Channel(ours)
    for message in (interpreter, setup):
        with contextlib.suppress(Closed):  # it has died, which is noticed by its end
            channel.send(message)
    return process, channel


def _environment(worker_id: str, directory: str, settings: Settings) -> dict[str, str]:
    """What a worker tells its program of itself."""
    told = {
        "TASK_ID": worker_id,
        "IS_REMOTE": "1",
        "ENVIRONMENT": settings.effective_environment,
        "REGION": "local",
        "CLOUD_PROVIDER": "local",
    }
    prefixed = {f"{prefix}_{name}": value for prefix in ("MODAL", "PGSTORE") for name, value in told.items()}
    return {**prefixed, "TMPDIR": os.path.join(directory, "tmp")}
