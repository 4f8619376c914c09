"""Mount: what `Volume.mount` and `NetworkFileSystem.mount` return."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol

from pgstore import errors
from pgstore.client import Client
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Call, Op, operation
from pgstore.core.threads import going_on
from pgstore.file_store import FileStore
from pgstore.fs.model import NEWEST
from pgstore.fs.paths import Names, join
from pgstore.fs.tree import edit
from pgstore.mount import attach, stale
from pgstore.mount.daemon import caller
from pgstore.mount.options import Options
from pgstore.mount.with_fuse import Served, begin_in_background, what_of
from pgstore.mount.without_fuse import Synced

_LOG: Final = logging.getLogger("pgstore")


class Mounted(Protocol):
    """How a mount is served: with FUSE, or without."""

    mode: str

    def begin(self) -> Op[None]:
        """Mount."""

    def commit(self) -> Op[None]: ...

    def reload(self) -> Op[None]: ...

    def close(self) -> Op[None]:
        """Commit and unmount. It is not mounted afterwards, also if this fails."""


class Mount:
    """
    The files of a store in a local directory, for any program, until `close` or the end of the `with` block.

    `with volume.mount("/data") as path:` gives the path. It is mounted already when `mount` returns; `close` unmounts it, and so do
    the end of the block, `with` or `async with`, also after an exception, and the end of the interpreter. What was written until
    then is committed first.

    A process that is forked from this one uses the mount like any program, and does not end it.
    """

    def __init__(self, store: FileStore, path: str, mounted: Mounted, options: Options) -> None:
        self._store = store
        self.is_read_only = options.read_only
        self._path = path
        self._mounted = mounted
        self._is_closed = False
        self._lock = threading.RLock()

    @property
    def path(self) -> str:
        """Where it is mounted: absolute, without symbolic links."""
        return self._path

    @property
    def mode(self) -> str:
        """How it is mounted: "fuse" or "sync"."""
        return self._mounted.mode

    @property
    def is_fixed(self) -> bool:
        """Whether it shows an old version, which does not change."""
        return self._store._version != NEWEST

    @property
    def _runner(self) -> Client:
        return self._store._runner

    @property
    def _bound(self) -> Any:
        return self._store._bound

    @operation
    def commit(self) -> Op[None]:
        """
        Bring what was written into the store; in a Volume it becomes one version.

        In a transaction it becomes part of it.

        Raises:
            ConflictError: it cannot be merged with what others have committed. Nothing was applied, and all is still there.
            InvalidError: it is not mounted any more.
        """
        self._check_open()
        yield from self._mounted.commit()

    @operation
    def reload(self) -> Op[None]:
        """
        Show what others have committed since. What was written here is committed first.

        Raises:
            InvalidError: this process has files open there, or works there; or it is not mounted any more.
            ConflictError: see `commit`.
        """
        self._check_open()
        yield from self._mounted.reload()

    @operation
    def close(self) -> Op[None]:
        """
        Commit what was written, and unmount. The second time it does nothing.

        Raises:
            Exception: what `commit` has failed with. It is not mounted any more nevertheless, and what was not committed is kept
                in a recovery directory, which the message names; see `pgstore mounts --recover`.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        try:
            yield from self._mounted.close()
        finally:
            _open_mounts.discard(self)

    def _check_open(self) -> None:
        if self._is_closed:
            raise errors.InvalidError(f"{self!r} is closed")

    def __enter__(self) -> str:
        self._check_open()
        return self._path

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> str:
        self._check_open()
        return self._path

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close.aio()

    def __fspath__(self) -> str:
        return self._path

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else self.mode
        return f"<pgstore.Mount of {self._store!r} at {self._path!r}: {state}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; its path is what another process needs")


def mount(store: FileStore, path: str | os.PathLike[str], options: Options) -> Op[Mount]:
    """Mount *store* at *path*."""
    local, base = yield from _prepared(store, path, options)
    mounted = yield from _mounted(store, base, local, options)
    made = Mount(store, local, mounted, options)
    _open_mounts.add(made)
    return made


def mount_in_background(
    store: FileStore, path: str | os.PathLike[str], options: Options, log: str | None
) -> Op[tuple[str, int]]:
    """
    Mount *store* at *path*, by a daemon that outlives this process. Returns where, and the number of that process.

    Raises:
        ConfigurationError: FUSE cannot be used.
    """
    missing = yield Call(attach.is_possible)
    if missing is not None or options.mode == "sync":
        raise errors.ConfigurationError(
            f"{os.fspath(path)!r} cannot be mounted in the background: "
            f"{missing or 'without FUSE'}; a process in the foreground can copy the files, and write them back"
        )
    local, base = yield from _prepared(store, path, options)
    store_id = yield from store._resolve_id()
    what = what_of(store, store_id, base, local, options)
    return local, (yield Call(partial(begin_in_background, store._runner, what, log)))


def _prepared(store: FileStore, path: str | os.PathLike[str], options: Options) -> Op[tuple[str, Names]]:
    """Where to mount, and what directory of the store."""
    local = yield Call(partial(_usable, os.fspath(path)))
    with bounded_by(Deadline.after(options.timeout)):
        base = yield from _base(store, options)
    return local, base


def _mounted(store: FileStore, base: Names, path: str, options: Options) -> Op[Mounted]:
    """Mount in the mode that was asked for, or that is possible."""
    reason = "mode='sync' was asked for"
    if options.mode != "sync":
        missing = yield Call(attach.is_possible)
        if missing is None:
            served = Served(store, base, path, options)
            yield from served.begin()
            _LOG.info("%r is mounted at %s by FUSE", store, path)
            return served
        if options.mode == "fuse":
            raise errors.ConfigurationError(f"{path!r} cannot be mounted by FUSE: {missing}; mode='sync' does without")
        reason = missing
    synced = Synced(store, base, path, options)
    yield from synced.begin()
    level = logging.INFO if options.mode == "sync" else logging.WARNING
    _LOG.log(level, "%r was copied to %s, to be written back from there, without FUSE: %s", store, path, reason)
    return synced


def _usable(path: str) -> str:
    local = os.path.realpath(path)
    stale.clean(local)
    local = attach.usable(path)
    if not os.access(local, os.W_OK | os.X_OK):
        raise errors.FileUnreadable(f"directory {path!r} to mount at may not be written to", path)
    return local


def _base(store: FileStore, options: Options) -> Op[Names]:
    """The directory of the store that is mounted, without symbolic links; it is made if it is missing."""
    store_id = yield from store._resolve_id()
    if not options.sub_path:
        yield from store._check_exists(store_id)
        return ()
    if not options.read_only:
        yield from store._change(partial(edit.make_directory, names=options.sub_path, exist_ok=True), single=True)
    tree = yield from store._tree()
    walk = yield from store._reading(tree, tree.need(options.sub_path))
    if not walk.found.is_directory:
        raise errors.NotADirectory(f"{join(options.sub_path)!r} is not a directory", join(options.sub_path))
    return walk.names


# ------------------------------------------------------------------------------------------------ those of this process

_open_mounts: set[Mount] = set()


def mounts_of(client: Client, store_id: int) -> list[Mount]:
    """The mounts that this process has of a store in the database of *client*."""
    return [
        each
        for each in tuple(_open_mounts)
        if (record := each._store._first._record) is not None
        and record.id == store_id
        and each._runner.installation == client.installation
    ]


def _at_exit() -> None:
    for each in tuple(_open_mounts):
        with going_on(f"unmounting {each.path}"):
            each.close()
    caller.end()


def _after_fork_in_child() -> None:
    for each in _open_mounts:
        each._is_closed = True
    _open_mounts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
