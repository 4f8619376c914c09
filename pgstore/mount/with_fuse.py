"""A mount with FUSE: the daemon serves the kernel, and commits what was written."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import logging
import os
import pickle
from functools import partial
from typing import Any, Final

from pgstore import errors
from pgstore.client import Client
from pgstore.client.notifications import in_transaction
from pgstore.client.undo import on_rollback
from pgstore.core.operation import Call, Op
from pgstore.file_store import FileStore
from pgstore.fs.commit.held import Part
from pgstore.fs.model import NEWEST
from pgstore.fs.paths import Names
from pgstore.fs.tree import handover
from pgstore.mount import attach
from pgstore.mount.daemon import caller, control
from pgstore.mount.daemon.backends import FACTORIES, AnySpec, MountSpec
from pgstore.mount.daemon.caller import Daemon
from pgstore.mount.daemon.messages import Closed
from pgstore.mount.options import Options
from pgstore.mount.sync.directory import check_nothing_open

_LOG: Final = logging.getLogger("pgstore")


class DaemonMount:
    """What is mounted at *path*, by the daemon of this process."""

    mode = "fuse"

    def __init__(self, path: str) -> None:
        self._path = path
        self._daemon: Daemon | None = None
        self._number = 0

    def _begin(self, client: Client | None, spec: AnySpec) -> None:
        self._daemon = caller.daemon(spec.factory)
        self._number = self._daemon.mount(client, spec, self._clear_up)

    def _clear_up(self) -> None:
        """The daemon has ended: nobody would answer who looks at the path."""
        attach.detach_stale(self._path)

    def _ask(self, verb: str) -> Any:
        assert self._daemon is not None
        if not self._daemon.has_ended:
            flush(self._path)
        return self._daemon.call(verb, self._number)

    def _ask_parents(self, verb: str) -> None:
        assert self._daemon is not None
        flush(self._path)
        try:
            is_known = control.ask(control.path_of(self._daemon.pid), verb, self._path, seconds=None)
        except Closed:
            is_known = False
        if not is_known:
            raise errors.InvalidError(
                f"{self._path!r}, which was mounted by the process that has forked this one, is not mounted any more"
            )

    def close(self) -> Op[None]:
        yield Call(self._close)

    def _close(self) -> None:
        assert self._daemon is not None
        try:
            users = self._daemon.unmount(self._number)
        except caller.DaemonGone as exc:
            self._clear_up()
            raise caller.DaemonGone(
                f"{self._path!r} was not unmounted in good order: {exc}; what was not committed is lost",
                self._path,
                errno=exc.errno,
            ) from exc
        if users:
            _LOG.warning("%s was unmounted while it was used by %s", self._path, ", ".join(users))


class FuseMount(DaemonMount):
    """See `mount.Mounted`: the files of *store* below *base*, at *path*."""

    def __init__(self, store: FileStore, base: Names, path: str, options: Options) -> None:
        super().__init__(path)
        self._store = store
        self._base = base
        self._options = options

    def begin(self) -> Op[None]:
        """Have it mounted, by the daemon of this process."""
        store_id = yield from self._store._resolve_id()
        spec = spec_of(self._store, store_id, self._base, self._path, self._options)
        yield Call(partial(self._begin, self._store._runner, spec))

    def commit(self) -> Op[None]:
        if self._store._changes_class.in_place or not (yield from in_transaction()):
            yield Call(partial(self._ask, "commit"))
        else:
            yield from self._commit_in_transaction()

    def _commit_in_transaction(self) -> Op[None]:
        """Have the current transaction write what the daemon has held."""
        assert self._daemon is not None
        packed = yield Call(partial(self._ask, "hand_over"))
        if packed is None:
            return
        part: Part = pickle.loads(base64.b64decode(packed))  # of our own daemon
        try:
            written = yield from self._store._change(partial(handover.write, part=part))
            merged = [list(each) for each in written.merged.items()]
            yield Call(partial(self._daemon.call, "handed_over", self._number, written.version, merged))
        except GeneratorExit:
            raise
        except BaseException:
            self._take_back()
            raise
        yield from on_rollback(self._take_back)

    def _take_back(self) -> None:
        assert self._daemon is not None
        with contextlib.suppress(errors.Error):
            self._daemon.call("taken_back", self._number)

    def reload(self) -> Op[None]:
        if not self._store._changes_class.in_place:
            yield from _check_outside()
            yield Call(partial(check_nothing_open, self._path))
        yield Call(partial(self._ask, "reload"))

    def commit_of_parent(self) -> Op[None]:
        if not self._store._changes_class.in_place and (yield from in_transaction()):
            raise errors.InvalidError(
                f"{self._path!r} was mounted by the process that has forked this one: it cannot be committed in a transaction here"
            )
        yield Call(partial(self._ask_parents, "commit_path"))

    def reload_of_parent(self) -> Op[None]:
        if not self._store._changes_class.in_place:
            yield from _check_outside()
            yield Call(partial(check_nothing_open, self._path))
        yield Call(partial(self._ask_parents, "reload_path"))


def begin_in_background(client: Client | None, spec: AnySpec, log: str | None) -> int:
    """
    Have what *spec* says mounted by a daemon of its own that outlives this process, and return the number of that.

    Args:
        client: of the database; None: for a bucket none is needed.
    """
    daemon = Daemon(spec.factory, is_own=False)
    try:
        daemon.mount(client, spec, lambda: None)
        daemon.call("stay", None if log is None else os.path.abspath(log))
    finally:
        daemon.leave()
    return daemon.pid


def spec_of(store: FileStore, store_id: int, base: Names, path: str, options: Options) -> MountSpec:
    """What a daemon is to be told of the mount of *store*."""
    return MountSpec(
        factory=FACTORIES[store._kind],
        kind=store._kind,
        store_id=store_id,
        name=store.name,
        environment=store._environment,
        version=None if store._version == NEWEST else store._version,
        base=base,
        path=path,
        read_only=options.read_only,
        background_commits=options.background_commits,
        cache_size=options.cache_size,
        cache_directory=options.cache_directory,
        timeout=options.timeout,
        locks=options.locks,
    )


def flush(path: str) -> None:
    """Have the kernel hand over what programs have written to mapped files at *path* (syncfs(2))."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None).syncfs(descriptor)
        finally:
            os.close(descriptor)


def _check_outside() -> Op[None]:
    """Raise `InvalidError` in a transaction, which sees the newest state and not that of a mount."""
    if (yield from in_transaction()):
        raise errors.InvalidError("a mount cannot be reloaded within a transaction: call reload() outside of it")
