"""NetworkFileSystem: a file system in the database with one state, in which files are changed in place.

What it has in common with Volume is in `pgstore.file_store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from pgstore import errors
from pgstore.client import Client
from pgstore.core.operation import Call, Op, operation
from pgstore.file_store import FileStore
from pgstore.fs.commit.live import LiveChanges
from pgstore.fs.paths import split, split_file
from pgstore.fs.transfer.local import Folder, Source
from pgstore.fs.transfer.progress import Progress
from pgstore.mount.mount import Mount
from pgstore.mount.options import CACHE_BYTES, SIZE_MAX_BYTES, TIMEOUT_SECONDS, Locks, Mode, checked
from pgstore.store.objects import class_operation
from pgstore.types import NetworkFileSystemInfo

__all__ = ["NetworkFileSystem"]


class NetworkFileSystem(FileStore):
    """
    A persistent file system with one state, in which files are changed in place, at once for all who read them.

    >>> cache = NetworkFileSystem.from_name("cache", create_if_missing=True)
    >>> with cache.open("/greeting.txt", "w") as file:
    ...     file.write("hello")
    5
    >>> cache.read_text("/greeting.txt")
    'hello'

    **Tree**, **downloads**, **limits** and **errors** are as those of a `Volume`.

    **Atomicity.** Each change of names, and each write or append of up to 1 MiB to an open file. `put_file`, `write_file` and
    `move` replace a file at once. In a transaction changes of names wait for its commit, as in a Volume; what is written into
    an open file is locked until then.

    **Concurrent writers** of different parts of a file work at the same time, and of one part the last one wins. Changes of
    names that cannot be merged raise `ConflictError`, and nothing is applied.

    **Durability.** Changes of names when the call returns; what is written into an open file when its `fsync` or `close`
    returns. They raise `OutcomeUnknown` if the server crashed before, and may have lost something.

    **Open files** can be read and written when their name is removed or given to another file, as long as the database has
    heard of their process within ten minutes.

    **Mounted** (`mount`), any program opens the files, as others change them. See `Mount`.
    """

    _kind: ClassVar = "nfs"
    _display_name: ClassVar = "NetworkFileSystem"
    _id_prefix: ClassVar = "sv"
    _changes_class: ClassVar = LiveChanges
    _chunk_bytes: ClassVar = 64 * 1024
    _option_defaults: ClassVar = {**FileStore._option_defaults, "chunk_size": _chunk_bytes}

    @classmethod
    def from_name(
        cls,
        label: str | None = None,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
        storage: str | None = None,
        chunk_size: int | None = None,
    ) -> Self:
        """
        Return a handle on the NetworkFileSystem of this name; it is looked up on first use.

        Args:
            label: the name, 1 to 64 of A-Z a-z 0-9 . _ - (also accepted as *name*).
            environment_name: None: the client's.
            create_if_missing: create it on first use; else using it raises `NotFoundError`.
            client: None: the default client.
            storage: where the bytes of large files live: "rows" (the default), or "large_object", PostgreSQL's large objects, which
                suit large files that are written in small places at random.
            chunk_size: bytes that are stored, and rewritten, together; 4 KiB to 16 MiB. Only for "rows".

        The last two are fixed at creation. None leaves them as they are, or at their defaults.

        Raises:
            InvalidError: the name cannot be one; on first use, the NetworkFileSystem was created with other options.
        """
        store = super().from_name(
            label, name=name, environment_name=environment_name, create_if_missing=create_if_missing, client=client
        )
        store._options = cls._checked_options(storage=storage, chunk_size=chunk_size)
        return store

    @classmethod
    def ephemeral(
        cls,
        client: Client | None = None,
        environment_name: str | None = None,
        *,
        storage: str | None = None,
        chunk_size: int | None = None,
    ) -> Self:
        """
        Return a nameless NetworkFileSystem that lives as long as this handle; the options are those of `from_name`.

        It is deleted at the end of its `with` or `async with` block, when the handle is collected, when the interpreter exits, and
        after a crash once its process has been silent for ten minutes.
        """
        store = super().ephemeral(client, environment_name)
        store._options = cls._checked_options(storage=storage, chunk_size=chunk_size)
        return store

    @operation
    def info(self) -> Op[NetworkFileSystemInfo]:
        """Return name, time of creation and creator of this NetworkFileSystem."""
        record = yield from self._described()
        return NetworkFileSystemInfo(self._name, record.created_at, record.created_by)

    @operation
    def mount(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Mode = "auto",
        read_only: bool | None = None,
        sub_path: str | None = None,
        cache_size: int = CACHE_BYTES,
        cache_directory: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        locks: Locks = "local",
        size_max: int = SIZE_MAX_BYTES,
    ) -> Op[Mount]:
        """
        Mount it at the local directory *path*, so that any program opens its files: `with nfs.mount("/data") as path:`.

        All who have it mounted see one state: what one program closes, the next one opens. Names change for all a moment later. In
        asynchronous code: `async with await nfs.mount.aio("/data") as path:`. `help("pgstore.mount")` says what each verb does.

        Without FUSE it is not live: all files are copied into the directory as they are now, what was changed is written back by
        `Mount.commit` and at the end, of one file the last one to do so wins, and changes by others are seen after
        `Mount.reload`. Extended attributes and what only root may set then stay as they are in the store.

        Args:
            path: a directory that is there and empty. It is empty again afterwards.
            mode: "fuse"; "sync", without FUSE; "auto", as FUSE can be used or not. Which it is, and why, is said in the log.
            read_only: nothing can be written; without FUSE root still can, and it is not kept. None: it can.
            sub_path: mount only this directory, which is made. None: the root.
            cache_size: bytes of contents that are kept in memory.
            cache_directory: a local directory in which contents are kept, too. None: only in memory.
            timeout: seconds that a program waits for a server that does not answer before it gets an error (EIO); also for
                mounting.
            locks: whom flock(2) and fcntl(2) locks exclude: "local", the programs of this mount; "shared": flock(2) those of all
                mounts that share locks, too, by rows that a mount renews; of one that is gone they expire within half a minute.
            size_max: without FUSE: bytes that the files may have together.

        Raises:
            FileNotFoundError, NotADirectoryError, DirectoryNotEmpty, PermissionError: *path* cannot be mounted at.
            FileFailed: something is mounted there already (EBUSY).
            ConfigurationError: *mode* is "fuse", and FUSE cannot be used; the message says what to do.
            InvalidError: the options cannot be combined, or without FUSE there are too many bytes.
            NotFoundError: there is no such NetworkFileSystem.
        """
        options = checked(
            read_only=read_only,
            sub_path=sub_path,
            handle=None,
            must_be_read_only=False,
            mode=mode,
            background_commits=None,
            cache_size=cache_size,
            cache_directory=None if cache_directory is None else os.fspath(cache_directory),
            timeout=timeout,
            locks=locks,
            size_max=size_max,
        )
        from pgstore.mount.mounting import mount  # late: few programs mount

        return (yield from mount(self, path, options))

    # ------------------------------------------------------------------------------------------------- for Modal's sake

    @operation
    def write_file(self, remote_path: str, fp: BinaryIO, progress_cb: Callable[..., Any] | None = None) -> Op[int]:
        """
        Write all of a file object to a file, in place of one that is there, at once; return the number of bytes.

        Directories on the way are made. *fp* is read from its beginning, if it can go there.

        Args:
            progress_cb: called as `progress_cb(advance=n)` for each n bytes stored.
        """
        names = split_file(remote_path)
        yield Call(partial(_rewind, fp))
        source: Source = yield Call(partial(Source.open, fp))
        return (yield from self._put(source, names, Progress(tell=progress_cb)))

    @operation
    def add_local_file(
        self,
        local_path: str | Path,
        remote_path: str | None = None,
        progress_cb: Callable[..., Any] | None = None,
    ) -> Op[None]:
        """Upload a local file, by default to `/` and its own name; see `put_file`."""
        names = split_file(_default_remote_path(local_path, remote_path))
        source: Source = yield Call(partial(Source.open, local_path))
        try:
            yield from self._put(source, names, Progress(tell=progress_cb))
        finally:
            source.close()

    @operation
    def add_local_dir(
        self,
        local_path: str | Path,
        remote_path: str | None = None,
        progress_cb: Callable[..., Any] | None = None,
    ) -> Op[None]:
        """Upload the files of a local folder, by default below `/` and its own name; see `put_directory`."""
        names = split(_default_remote_path(local_path, remote_path))
        folder: Folder = yield Call(partial(Folder, local_path, None))
        yield from self._put_all(folder, names, Progress(tell=progress_cb))

    @class_operation
    def create_deployed(
        cls,  # noqa: N805 - a class, as of any class method
        name: str,
        client: Client | None = None,
        environment_name: str | None = None,
    ) -> Op[str]:
        """Create a NetworkFileSystem of this name if there is none, and return its `object_id`."""
        store = cls.from_name(name, environment_name=environment_name, create_if_missing=True, client=client)
        store_id = yield from store._resolve_id()
        return f"{cls._id_prefix}-{store_id}"

    @class_operation
    def delete(
        cls,  # noqa: N805
        name: str,
        client: Client | None = None,
        environment_name: str | None = None,
    ) -> Op[None]:
        """Delete the NetworkFileSystem *name* and all that it holds; see `objects.delete`."""
        yield from cls.objects.delete.op(name, environment_name=environment_name, client=client)


def _rewind(fp: BinaryIO) -> None:
    if hasattr(fp, "seekable") and fp.seekable():
        fp.seek(0)


def _default_remote_path(local_path: str | Path, remote_path: str | None) -> str:
    if remote_path is not None:
        return remote_path
    if not isinstance(local_path, (str, os.PathLike)):
        raise errors.InvalidError(f"expected a local path, not {type(local_path).__name__}")
    return f"/{os.path.basename(os.path.abspath(local_path))}"
