"""Mounting a bucket: what is to be mounted of it, and both ways. There is no store to it, and no database."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.buckets.location import Location
from pgstore.buckets.opening import open_bucket
from pgstore.buckets.tree import Tree
from pgstore.core.operation import Call, HasRunner, Op
from pgstore.mount import attach, runtime
from pgstore.mount.daemon import caller
from pgstore.mount.daemon.backends import BUCKET, FACTORIES, BucketSpec
from pgstore.mount.mount import Mount, Mounted, open_mounts
from pgstore.mount.mounting import IN_FOREGROUND, NOT_WANTED, usable
from pgstore.mount.options import MODES, SIZE_MAX_BYTES, TIMEOUT_SECONDS, Mode
from pgstore.mount.recovery import about_mount
from pgstore.mount.sync.prefix import SyncedPrefix
from pgstore.mount.with_fuse import DaemonMount, begin_in_background

_LOG: Final = logging.getLogger("pgstore")


@dataclass(frozen=True)
class BucketSource:
    """What is mounted of a bucket."""

    location: Location
    prefix: str
    """Of the keys; "" or with a `/` at its end."""
    read_only: bool
    ttl: float
    """Seconds for which what was seen is believed."""
    values: Callable[[], Mapping[str, str]] = field(repr=False)
    """Called when it is mounted: the variables of its secret."""

    @property
    def shown(self) -> str:
        return self.location.shown

    def spec(self, path: str, timeout: float = TIMEOUT_SECONDS) -> BucketSpec:
        """What a daemon is to be told, who has it mounted at *path*."""
        return BucketSpec(
            factory=FACTORIES[BUCKET],
            name=self.shown,
            location=self.location._asdict(),
            values=dict(self.values()),
            sub_path=self.prefix,
            path=path,
            read_only=self.read_only,
            timeout=timeout,
            ttl=self.ttl,
        )

    def tree(self) -> Tree:
        """Its files, for this process."""
        return Tree(open_bucket(self.location, self.values()), self.prefix, self.read_only, self.ttl)


def mount_bucket(
    owner: HasRunner,
    source: BucketSource,
    path: str | os.PathLike[str],
    *,
    mode: Mode = "auto",
    timeout: float = TIMEOUT_SECONDS,
    size_max: int = SIZE_MAX_BYTES,
) -> Op[Mount]:
    """
    Mount *source* at *path*.

    Args:
        owner: what `repr` of the mount shows.
        size_max: without FUSE: bytes that all objects may have together.
    """
    if mode not in MODES:
        raise errors.InvalidError(f"mode {mode!r} is none of {', '.join(map(repr, MODES))}")
    reason: str | None = NOT_WANTED if mode == "sync" else (yield Call(attach.is_possible))
    if reason is None:
        yield Call(partial(caller.start_early, FACTORIES[BUCKET]))
    elif mode == "fuse":
        raise errors.ConfigurationError(
            f"{os.fsdecode(path)!r} cannot be mounted by FUSE: {reason}; mode='sync' does without"
        )
    local = yield Call(partial(usable, os.fsdecode(path)))
    mounted: Mounted
    if reason is None:
        mounted = BucketMounted(source, local, timeout)
    else:
        mounted = BucketCopied(source, local, size_max)
    yield from mounted.begin()
    if reason is None:
        _LOG.info("%r is mounted at %s by FUSE", owner, local)
    else:
        level = logging.INFO if mode == "sync" else logging.WARNING
        _LOG.log(level, "%r was copied to %s, to be written back from there, without FUSE: %s", owner, local, reason)
    made = Mount(owner, local, mounted, read_only=source.read_only)
    open_mounts.add(made)
    return made


def mount_bucket_in_background(
    source: BucketSource, path: str, *, timeout: float = TIMEOUT_SECONDS, log: str | None = None
) -> tuple[str, int]:
    """
    Mount *source* at *path*, by a daemon that outlives this process. Returns where, and the number of that process. Blocks.

    Raises:
        ConfigurationError: FUSE cannot be used.
    """
    if (missing := attach.is_possible()) is not None:
        raise errors.ConfigurationError(f"{path!r} cannot be mounted in the background: {missing}; {IN_FOREGROUND}")
    local = usable(path)
    return local, begin_in_background(None, source.spec(local, timeout), log)


class BucketMounted(DaemonMount):
    """See `mount.Mounted`: with FUSE."""

    def __init__(self, source: BucketSource, path: str, timeout: float = TIMEOUT_SECONDS) -> None:
        super().__init__(path)
        self._source = source
        self._timeout = timeout

    def begin(self) -> Op[None]:
        yield Call(lambda: self._begin(None, self._source.spec(self._path, self._timeout)))

    def commit(self) -> Op[None]:
        """What is closed is there: nothing is done."""
        yield Call(partial(self._ask, "commit"))

    def reload(self) -> Op[None]:
        """Ask the bucket for everything anew."""
        yield Call(partial(self._ask, "reload"))

    def commit_of_parent(self) -> Op[None]:
        yield Call(partial(self._ask_parents, "commit_path"))

    def reload_of_parent(self) -> Op[None]:
        yield Call(partial(self._ask_parents, "reload_path"))


class BucketCopied:
    """See `mount.Mounted`: without FUSE, the objects in the directory *path*."""

    mode = "sync"

    def __init__(self, source: BucketSource, path: str, size_max: int) -> None:
        about = {
            "path": path,
            "mode": self.mode,
            "kind": BUCKET,
            "name": source.shown,
            "environment": None,
            "sub_path": source.prefix,
            "read_only": source.read_only,
        }
        self._path = path
        self._source = source
        self._size_max = size_max
        self._record = runtime.Record(path, about)
        self._about = partial(about_mount, about)
        self._directory: SyncedPrefix | None = None

    def begin(self) -> Op[None]:
        """Fill the directory."""
        yield Call(self._record.write)
        try:
            yield Call(self._fill)
        except BaseException:
            self._record.remove()
            raise

    def _fill(self) -> None:
        directory = SyncedPrefix(self._source.tree(), self._path, size_max_bytes=self._size_max)
        directory.fill()
        self._directory = directory

    @property
    def directory(self) -> SyncedPrefix:
        assert self._directory is not None
        return self._directory

    def commit(self) -> Op[None]:
        yield Call(self.directory.commit)

    def reload(self) -> Op[None]:
        yield Call(self.directory.reload)

    def commit_of_parent(self) -> Op[None]:
        yield from ()
        raise errors.InvalidError(
            f"{self._path!r} is mounted without FUSE, by the process that has forked this one, which alone can write it back"
        )

    def reload_of_parent(self) -> Op[None]:
        yield from self.commit_of_parent()

    def close(self) -> Op[None]:
        try:
            yield Call(partial(self.directory.close, self._about))
        finally:
            self._record.remove()
