"""What passes between a function, its calls, and what runs them: which program, which worker, which input.

A worker is a process for one `WorkerSpec`. It is given one `Input` after the other, and each has an outcome (`pickles.Outcome`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pgstore.app.retries import Retries

if TYPE_CHECKING:
    from pgstore.cloud_bucket_mount import CloudBucketMount
    from pgstore.config import Settings
    from pgstore.file_store import FileStore


@dataclass(frozen=True)
class Program:
    """How a worker loads what the user has written."""

    kind: Literal["script", "module", "none"]
    """A script is `__main__` in the caller; "none": the function is pickled, and nothing is loaded."""
    name: str
    """The dotted name of the module; of a script that of its file, without `.py`."""
    path: str | None
    """Of the file."""


@dataclass(frozen=True, eq=False)
class WorkerSpec:
    """
    What workers are like. One object is one pool of workers, of which each can do what the others can.

    Args:
        name: of the function or class, as messages say it.
        qualname: where it is in the module.
        pickled: instead of these, the function itself, by cloudpickle.
        mounts: paths and the stores or buckets that are there, with their options; outer ones before those within them.
        credentials: asked, in the parent, with the path of a bucket that is mounted: the variables of its secret.
        environment: asked, in the parent, when a worker starts; it may give secrets.
        workdir: where the worker works; None: where the parent does.
        max_workers: at once; None: `PGSTORE_PARALLELISM`, else the number of CPUs.
        scaledown_window: seconds that an idle worker is kept.
        single_use: each worker is given one input.
        inputs_at_once: how many a worker is given before it has done the first.
        parameters: the pickled keyword arguments of a class; None: it is a function.
        startup_timeout: seconds until a worker must be ready; None: any time.
        is_transactional: the function runs in a transaction, of which the changes of its Volumes are a part.
    """

    name: str
    program: Program
    qualname: str
    pickled: bytes | None = field(default=None, repr=False)
    mounts: tuple[tuple[str, FileStore | CloudBucketMount], ...] = ()
    credentials: Callable[[str], Mapping[str, str]] = field(default=lambda path: {}, repr=False)
    environment: Callable[[], dict[str, str]] = field(default=dict, repr=False)
    workdir: str | None = None
    max_workers: int | None = None
    scaledown_window: float = 60.0
    single_use: bool = False
    inputs_at_once: int = 1
    parameters: bytes | None = field(default=None, repr=False)
    startup_timeout: float | None = None
    is_transactional: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Without what may give secrets, and without handles of stores, which need a client: a worker is told of its mounts."""
        return {
            name: value for name, value in vars(self).items() if name not in ("credentials", "environment", "mounts")
        }


@dataclass(frozen=True)
class Setup:
    """
    What a worker is told before it is given anything.

    Args:
        parent: the number of the process that has started it.
        directory: of its own, for temporary files.
        log_level: of the logger "pgstore".
        client: as the default client is to be; `asks_url`: the parent gives it the URL for each connection.
        mounts: see `runner.mounts.Mounts.told`.
    """

    spec: WorkerSpec
    parent: int
    directory: str
    log_level: int
    client: Settings
    asks_url: bool
    mounts: list[dict[str, Any]]


@dataclass(frozen=True)
class Input:
    """
    What a worker is to do once.

    Args:
        call_id: `fc-…`.
        method: of a class; None: the function itself.
        arguments: `(args, kwargs)`, by `pickles.dumps`.
        timeout: seconds for one attempt, from the start of the function.
        retries: None: it is attempted once.
        completion: a pickle. What it has as `complete(outcome)` is done at the end of the transaction in which the function runs,
            as a part of it, and ends the call.
        is_repeated: an attempt has failed, of which the runner knows nothing; this one is for a worker that nobody has used.
        trace: what continues the caller's trace in the worker; None: nobody observes the call.
    """

    call_id: str
    method: str | None
    arguments: bytes = field(repr=False)
    is_generator: bool = False
    timeout: float | None = None
    retries: Retries | None = None
    completion: bytes | None = field(default=None, repr=False)
    is_repeated: bool = False
    trace: dict[str, str] | None = None
