"""Mounting: where, in which mode, and what of the store. What it imports is large, and few programs mount."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Call, Op
from pgstore.file_store import FileStore
from pgstore.fs.paths import Names, join
from pgstore.fs.tree import edit
from pgstore.mount import attach, stale
from pgstore.mount.daemon import caller
from pgstore.mount.daemon.backends import FACTORIES, MountSpec
from pgstore.mount.mount import Mount, Mounted, at_last, open_mounts
from pgstore.mount.options import Options
from pgstore.mount.with_fuse import FuseMount, begin_in_background, spec_of
from pgstore.mount.without_fuse import SyncMount

_LOG: Final = logging.getLogger("pgstore")
NOT_WANTED: Final = "mode 'sync' was asked for"
IN_FOREGROUND: Final = "in the foreground (--foreground) the files are copied, and written back at the end"
at_last.append(caller.end)


def mount(store: FileStore, path: str | os.PathLike[str], options: Options) -> Op[Mount]:
    """Mount *store* at *path*."""
    if options.mode != "sync" and (yield Call(attach.is_possible)) is None:
        yield Call(partial(caller.start_early, FACTORIES[store._kind]))  # it starts while the store is found
    local, base = yield from _prepared(store, path, options)
    mounted = yield from _mounted(store, base, local, options)
    made = Mount(store, local, mounted, read_only=options.read_only)
    open_mounts.add(made)
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
            f"{os.fsdecode(path)!r} cannot be mounted in the background: {missing or NOT_WANTED}; {IN_FOREGROUND}"
        )
    local, base = yield from _prepared(store, path, options)
    store_id = yield from store._resolve_id()
    spec = spec_of(store, store_id, base, local, options)
    return local, (yield Call(partial(begin_in_background, store._runner, spec, log)))


def spec_elsewhere(store: FileStore, path: str, options: Options, mount_points: tuple[str, ...] = ()) -> Op[MountSpec]:
    """What a daemon is to be told of *store*, which somebody mounts at *path* in a namespace of theirs, and commits."""
    store_id = yield from store._resolve_id()
    with bounded_by(Deadline.after(options.timeout)):
        base = yield from base_of(store, options)
    spec = spec_of(store, store_id, base, path, options)
    return replace(spec, commits_at_end=False, mount_points=mount_points)


def _prepared(store: FileStore, path: str | os.PathLike[str], options: Options) -> Op[tuple[str, Names]]:
    """Where to mount, and what directory of the store."""
    local = yield Call(partial(usable, os.fsdecode(path)))
    with bounded_by(Deadline.after(options.timeout)):
        base = yield from base_of(store, options)
    return local, base


def _mounted(store: FileStore, base: Names, path: str, options: Options) -> Op[Mounted]:
    """Mount in the mode that was asked for, or that is possible."""
    reason = NOT_WANTED
    if options.mode != "sync":
        missing = yield Call(attach.is_possible)
        if missing is None:
            served = FuseMount(store, base, path, options)
            yield from served.begin()
            _LOG.info("%r is mounted at %s by FUSE", store, path)
            return served
        if options.mode == "fuse":
            raise errors.ConfigurationError(f"{path!r} cannot be mounted by FUSE: {missing}; mode='sync' does without")
        reason = missing
    synced = SyncMount(store, base, path, options)
    yield from synced.begin()
    level = logging.INFO if options.mode == "sync" else logging.WARNING
    _LOG.log(level, "%r was copied to %s, to be written back from there, without FUSE: %s", store, path, reason)
    return synced


def usable(path: str) -> str:
    local = os.path.realpath(path)
    stale.clean(local)
    local = attach.usable(path)
    if not os.access(local, os.W_OK | os.X_OK):
        raise errors.FileUnreadable(f"directory {path!r} to mount at may not be written to", path)
    return local


def base_of(store: FileStore, options: Options) -> Op[Names]:
    """The directory of the store that is mounted, without symbolic links; it is made if it is missing."""
    store_id = yield from store._resolve_id()
    if not options.sub_path:
        yield from store._check_exists(store_id)
        return ()
    if not options.read_only:
        with contextlib.suppress(errors.FileExists):  # said below, and better
            yield from store._change(partial(edit.make_directory, names=options.sub_path, exist_ok=True), single=True)
    tree = yield from store._tree()
    walk = yield from store._reading(tree, tree.need(options.sub_path))
    if not walk.found.is_directory:
        raise errors.NotADirectory(f"{join(options.sub_path)!r} is not a directory", join(options.sub_path))
    return walk.names
