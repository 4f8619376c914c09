"""Mount: what `Volume.mount`, `NetworkFileSystem.mount` and `CloudBucketMount.mount` return."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

from pgstore import errors
from pgstore.client import Client
from pgstore.core.operation import HasRunner, Op, operation
from pgstore.core.threads import going_on
from pgstore.file_store import FileStore
from pgstore.fs.model import NEWEST


class Mounted(Protocol):
    """How a mount is served: with FUSE, or without."""

    mode: str

    def begin(self) -> Op[None]:
        """Mount."""

    def commit(self) -> Op[None]: ...

    def reload(self) -> Op[None]: ...

    def close(self) -> Op[None]:
        """Commit and unmount. It is not mounted afterwards, also if this fails."""

    def commit_of_parent(self) -> Op[None]:
        """In a forked process: `commit`, by that which has mounted."""

    def reload_of_parent(self) -> Op[None]: ...


class Mount:
    """
    The files of a store or bucket in a local directory, for any program, until `close` or the end of the `with` block.

    `with volume.mount("/data") as path:` gives the path, which has to be there, and empty. It is mounted already when `mount`
    returns; `close` unmounts it, and so do the end of the block, `with` or
    `async with await volume.mount.aio("/data") as path:`, also after an exception, and the end of the interpreter. What was
    written until then is committed first. To have the object as well:

    >>> mount = volume.mount("data")
    >>> with mount as path:
    ...     _ = Path(path, "greeting.txt").write_text("hello")
    ...     mount.commit()
    >>> volume.read_text("greeting.txt")
    'hello'

    **A Volume.** Programs see one version and what they write. `volume.commit()`, the end of the block (after an exception,
    too) and every ten seconds in the background (`background_commits=`) make a version of it; `volume.reload()` shows those of
    others. Closing a file commits nothing. In `pgstore.transaction()` what `volume.commit()` commits becomes part of the
    transaction. Where root mounts, and Linux is 6.9 or later, new files are written at the speed of the disk of `TMPDIR`, which
    needs room for each as long as it is open; with less than 8 GiB free all goes the longer way.

    **A NetworkFileSystem** is live: what is closed, others open. It is on the server's disk within about a second, or when
    `fsync` returns; what a crash of the server takes before, the mount writes again, names and contents. Locks are among the
    programs of one mount; with `locks="shared"` flock(2) is among those of all mounts.

    **A bucket.** See `CloudBucketMount`. What each verb does in each of the three, and which errors it has, is a table:
    `help("pgstore.mount")`.

    **FUSE.** A process apart serves all mounts of a program, in pure Python. It ends with the program, and commits first what
    was written. Root needs `/dev/fuse`, others `fusermount3` as well (package fuse3), Docker
    `--device /dev/fuse --cap-add SYS_ADMIN`. An ordinary user who mounts owns what is root's in the store.

    **Without FUSE** (`mode="sync"`, or by itself where FUSE cannot be used; the log says so) the files are copied into the
    directory, at most `size_max=` bytes, and what has changed is written back in one transaction by `commit()` and at the end.

    **Nothing is lost quietly.** What a last commit cannot bring into the store is kept in a recovery directory that the error
    names. `pgstore mounts --recover` shows them all, and puts one back.

    **Other processes** use the path like any program. They do not end the mount, and what they write is committed by the
    process that has mounted. A forked one can have it do so: there `commit` and `reload`, of the mount and of the Volume, do
    what they do in the parent. In all others these know of no mount.
    """

    def __init__(self, store: FileStore | HasRunner, path: str, mounted: Mounted, *, read_only: bool) -> None:
        self._store = store
        self.is_read_only = read_only
        self._path = path
        self._mounted = mounted
        self._is_closed = False
        self._is_of_parent = False
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
        return isinstance(self._store, FileStore) and self._store._version != NEWEST

    def is_of(self, client: Client, store_id: int) -> bool:
        """Whether it is one of the store of this number in the database of *client*."""
        record = self._store._first._record if isinstance(self._store, FileStore) else None
        return record is not None and record.id == store_id and self._runner.installation == client.installation

    @property
    def _runner(self) -> Client:
        return self._store._runner  # type: ignore[return-value]  # where anything else would be, nothing is a Client

    @property
    def _bound(self) -> Any:
        return self._store._bound

    @operation
    def commit(self) -> Op[None]:
        """
        Bring what was written into the store; in a Volume it becomes one version.

        In a transaction it becomes part of it. In a bucket each object is there when it is closed; only what is mounted without
        FUSE is brought there by this.

        Raises:
            ConflictError: it cannot be merged with what others have committed. Nothing was applied, and all is still there.
            InvalidError: it is not mounted any more; or this is a forked process, and it is in a transaction, or mounted without
                FUSE.
        """
        if self._is_of_parent:
            yield from self._mounted.commit_of_parent()
        else:
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
        if self._is_of_parent:
            yield from self._mounted.reload_of_parent()
        else:
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
            open_mounts.discard(self)

    def _check_open(self) -> None:
        if self._is_closed:
            raise errors.InvalidError(f"the mount at {self._path!r} is closed")

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


# ------------------------------------------------------------------------------------------------ those of this process

open_mounts: Final[set[Mount]] = set()
of_parents: Final[set[Mount]] = set()
"""In a forked process: those of the processes above, which they had when it was forked."""
at_last: Final[list[Callable[[], None]]] = []
"""Called when the interpreter ends, after all mounts were closed."""


def mounts_of(client: Client, store_id: int) -> list[Mount]:
    """The mounts that this process has, or was forked with, of the store *store_id* in the database of *client*."""
    if not (open_mounts or of_parents):
        return []
    return [mount for mount in (*open_mounts, *of_parents) if mount.is_of(client, store_id)]


def _at_exit() -> None:
    for mount in tuple(open_mounts):
        with going_on(f"unmounting {mount.path}"):
            mount.close()
    for function in at_last:
        function()


def _after_fork_in_child() -> None:
    for mount in open_mounts:
        mount._is_closed = mount._is_of_parent = True
        mount._lock = threading.RLock()
    of_parents.update(open_mounts)
    open_mounts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
