"""The mounts of a worker. It has made them, where this process does not see them, and the daemon of this process serves them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from pgstore import errors
from pgstore.app.spec import WorkerSpec
from pgstore.cloud_bucket_mount import CloudBucketMount
from pgstore.file_store import FileStore
from pgstore.mount import options as mount_options
from pgstore.mount.daemon import caller
from pgstore.mount.daemon.backends import BUCKET, FACTORIES, AnySpec, MountSpec
from pgstore.mount.daemon.caller import Daemon
from pgstore.mount.mounting import spec_elsewhere

_LOG: Final = logging.getLogger("pgstore")
MODE: Final = "PGSTORE_MOUNT_MODE"
_VERBS: Final = frozenset({"commit", "reload", "hand_over", "handed_over", "taken_back"})


class Mounts:
    """
    Those that a worker of *spec* has, by their numbers in it.

    Args:
        broken: called, in some thread, if the daemon ends before them.
    """

    def __init__(self, spec: WorkerSpec, broken: Callable[[], None]) -> None:
        self._spec = spec
        self._broken = broken
        self._specs: list[AnySpec] = []
        self._served: dict[int, tuple[Daemon, int]] = {}
        self._mode = os.environ.get(MODE) or "auto"
        if self._mode not in mount_options.MODES:
            modes = ", ".join(map(repr, mount_options.MODES))
            raise errors.ConfigurationError(f"{MODE} is {self._mode!r}, expected one of {modes}")
        # In a transaction nothing of it is committed before the end.
        background = None if spec.is_transactional else mount_options.BACKGROUND_COMMIT_SECONDS
        self._options = [
            mount_options.of_handle(store, mode=self._mode, background_commits=background)
            if isinstance(store, FileStore)
            else None
            for _, store in spec.mounts
        ]

    def told(self) -> list[dict[str, Any]]:
        """What a worker is told of them, as plain values: it cannot load others yet."""
        return [
            {
                "path": path,
                "source": f"{store._kind}:{store.name or 'ephemeral'}"
                if isinstance(store, FileStore)
                else store.location.shown,
                "mode": self._mode,
                "store": pickle.dumps((store, options)),
            }
            for (path, store), options in zip(self._spec.mounts, self._options, strict=True)
        ]

    def start_daemon(self) -> None:
        """Have the daemon start, if there is none, while the worker does."""
        if self._spec.mounts and self._mode != "sync":
            first = self._spec.mounts[0][1]
            caller.start_early(FACTORIES[first._kind if isinstance(first, FileStore) else BUCKET])

    def find_stores(self) -> None:
        """
        Raises:
            NotFoundError: there is no such store.
            InvalidError, ConfigurationError: the values of a bucket's secret are not to be had.
        """
        paths = [path for path, _ in self._spec.mounts]
        for (path, store), options in zip(self._spec.mounts, self._options, strict=True):
            within = tuple(os.path.relpath(each, path) for each in paths if each.startswith(f"{path}/"))
            if options is not None:
                assert isinstance(store, FileStore)
                self._specs.append(_run(store, spec_elsewhere(store, path, options, within)))
            else:
                assert isinstance(store, CloudBucketMount)
                source = replace(store._source(), values=partial(self._spec.credentials, path))
                self._specs.append(replace(source.spec(path), mount_points=within))

    def serve(self, number: int, device: int) -> int:
        """Have the daemon serve mount *number* through *device*, and return the number of its store."""
        spec = self._specs[number]
        try:
            daemon = caller.daemon(spec.factory)
            store = self._spec.mounts[number][1]
            client = store._runner if isinstance(store, FileStore) else None
            mounted = daemon.mount(client, spec, self._broken, device=device)
            self._served[number] = daemon, mounted
        finally:
            os.close(device)
        return spec.store_id if isinstance(spec, MountSpec) else 0

    def credentials(self, number: int) -> dict[str, str]:
        """The variables of the secret of a bucket, for a worker that reads it itself, without FUSE."""
        return dict(self._spec.credentials(self._spec.mounts[number][0]))

    def call(self, verb: str, number: int, *arguments: Any) -> Any:
        """Have the daemon do *verb* with mount *number*."""
        if verb not in _VERBS:
            raise errors.InvalidError(f"a worker cannot have the daemon do {verb!r}")
        daemon, mounted = self._served[number]
        return daemon.call(verb, mounted, *arguments)

    def said(self) -> str:
        """Where something was written that is not committed, and how much."""
        counts = []
        for number, (daemon, _) in self._served.items():
            path = self._specs[number].path
            with contextlib.suppress(errors.Error):
                here = [each for each in daemon.call("mounts") if each["path"] == path]
                counts.append(f"{sum(each.get('uncommitted_files', 0) for each in here)} files below {path}")
        return ", ".join(counts) or ", ".join(path for path, _ in self._spec.mounts)

    def close(self) -> None:
        """Forget them: the worker has ended, and they with it."""
        for number in reversed(list(self._served)):
            daemon, mounted = self._served.pop(number)
            with contextlib.suppress(errors.Error):
                if users := daemon.unmount(mounted):
                    path = self._specs[number].path
                    _LOG.warning("%s of a worker that has ended is still used by %s", path, ", ".join(users))


def _run(store: FileStore, op: Any) -> Any:
    return store._runner.run(op)


# ------------------------------------------------------------------------------------------- directories on the machine

_made: Final[set[str]] = set()
_made_lock: Final = threading.Lock()


def remove_unused(directories: Iterable[str] = ()) -> None:
    """Remove the *directories* that a worker has made to mount at, and those of earlier ones, unless another worker uses them."""
    with _made_lock:
        _made.update(directories)
        for path in sorted(_made, key=len, reverse=True):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                _made.discard(path)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers hold those that they mount at
                os.rmdir(path)
                _made.discard(path)
            except BlockingIOError:
                pass
            except OSError:  # somebody has put something there, which is theirs
                _made.discard(path)
            finally:
                os.close(descriptor)
