"""Volume: a file system in the database with versions. Each commit makes one.

What it has in common with NetworkFileSystem is in `pgstore.file_store`; here is what versions add.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

from pgstore import errors
from pgstore.client import Client
from pgstore.core.operation import Op, Query, atomic, operation
from pgstore.core.statement import Statement
from pgstore.file_store import BatchUpload, FileStore
from pgstore.file_store.base import check_number
from pgstore.fs import history
from pgstore.fs.commit.volume import VersionedChanges
from pgstore.fs.content.blobs import UNIQUE_VIOLATION
from pgstore.fs.history import VersionPin
from pgstore.fs.model import NEWEST, StoreGone
from pgstore.fs.paths import join, split
from pgstore.mount.mount import Mount, mounts_of
from pgstore.mount.options import (
    BACKGROUND_COMMIT_SECONDS,
    CACHE_BYTES,
    SIZE_MAX_BYTES,
    TIMEOUT_SECONDS,
    Mode,
    checked,
)
from pgstore.store.objects import class_operation
from pgstore.store.registry import note_change
from pgstore.types import FileEntry, FileEntryType, FileStat, VolumeInfo, VolumeVersion

__all__ = [
    "BatchUpload",
    "FileEntry",
    "FileEntryType",
    "FileStat",
    "Volume",
    "VolumeVersion",
]  # the types as well, as in Modal's module

VERSIONS_MAX = 1_000_000  # of keep=


class Volume(FileStore):
    """
    A persistent file system of any size, in which files are replaced and each commit is a version.

    >>> volume = Volume.from_name("models", create_if_missing=True)
    >>> volume.put_file("weights.bin", "/v1/weights.bin")
    >>> volume.write_text("/v1/config.json", '{"layers": 12}')
    14
    >>> [entry.path for entry in volume.listdir("v1")]
    ['v1/config.json', 'v1/weights.bin']
    >>> volume.versions()[0].version
    2

    **Tree.** A POSIX tree: directories, files with any number of names (`link`), symbolic links, permissions, times, extended
    attributes. Paths start at the root; a leading slash may be left out, and one at the end says that it leads to a directory,
    as POSIX has it. A name has up to 255 bytes, anything but `/` and NUL, and is not `.` or `..`. Moving a directory changes a
    few rows whatever is in it.

    **Open files.** `with volume.open("a/b.csv") as file:` gives what the built-in `open` does, text or binary. All is streamed,
    so that memory does not grow with the size of a file; so do `put_file`, `get_file` and `read_file`. Files above 64 MiB are
    read over several connections, ahead of who reads them; in a transaction over its own.

    **Atomicity.** Each call, also `put_directory` and `batch_upload`: all of it or, after an error, nothing. In a transaction
    all changes of the Volume become one version with its commit, and nobody else sees them before. A reader never sees half a
    file: it reads a file that is replaced meanwhile to its end.

    **Concurrent writers** of different files never undo each other's work, also if both make the same directory, and do not
    wait for each other before their commits. Of one file the last to commit wins, unless `put_file(if_version=)` says which
    state it may replace. What cannot be merged (a file where another made a directory, a directory that is gone or became its
    own descendant, a name that was moved away) is a `ConflictError`, and nothing is applied.

    **History.** `volume.versions()`, `volume.at(version)` to read one, `volume.restore(version)`. The last 10 stay, or as many
    as `from_name(…, keep=)` says at creation, and those that somebody reads. What no version has any more is deleted in
    passing, ten minutes later at the earliest, and by `pgstore gc`. In a transaction `volume.next_version()` tells which
    version its commit makes, for a row of yours; from then on other commits to the Volume wait for this one.

    **Mounted** (`mount`), any program opens the files of one version, and `commit` makes the next one of what was written. A
    program that is killed loses what was not committed. See `Mount`.

    **Downloads are safe.** Nothing is written outside of the local folder, whatever names and links a store has. Links that
    lead out, and setuid, setgid and sticky bits, arrive only with `trusted=True`; owners and extended attributes never do.

    **Durability.** A call returns when the server has committed. After a crash of the client nothing of an unfinished call is
    seen.

    **Limits.** A file has up to 16 TiB. Up to 64 KiB are stored in the row of its inode, larger ones in chunks; ranges that
    were never written, or are zeros, take no space, and copies share their bytes. `storage="large_object"` keeps the chunks as
    PostgreSQL's large objects: less to write for small changes at random places in large files, slower in all else, and left
    out by `pg_dump -n`. An object that does not say itself that it is a chunk's is never touched.

    **Errors.** Those of local files where they mean the same (`FileNotFoundError`, `FileExistsError`, `IsADirectoryError` …),
    all of them also `pgstore.Error`; `NotFoundError` if there is no such Volume.
    """

    _kind: ClassVar = "volume"
    _display_name: ClassVar = "Volume"
    _id_prefix: ClassVar = "vo"
    _changes_class: ClassVar = VersionedChanges
    _chunk_bytes: ClassVar = 256 * 1024
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
        version: int | None = None,
        create_options: Any = None,
        storage: str | None = None,
        chunk_size: int | None = None,
        keep: int | None = None,
    ) -> Self:
        """
        Return a handle on the Volume of this name; it is looked up on first use.

        Args:
            label: the name, 1 to 64 of A-Z a-z 0-9 . _ - (also accepted as *name*).
            environment_name: None: the client's.
            create_if_missing: create it on first use; else using it raises `NotFoundError`.
            client: None: the default client.
            version, create_options: of Modal's file systems; 1 and 2 are accepted, and mean nothing here.
            storage: where the bytes of large files live: "rows" (the default), or "large_object", PostgreSQL's large objects.
            chunk_size: bytes that are stored together, 4 KiB to 16 MiB; files above 64 MiB have at least 1 MiB. Default: 256 KiB.
            keep: how many of the newest versions stay readable; see `at`. Default: 10.

        The last three are fixed at creation. None leaves them as they are, or at their defaults.

        Raises:
            InvalidError: the name cannot be one; on first use, the Volume was created with other options.
        """
        if version not in (None, 1, 2):
            raise errors.InvalidError(f"version {version!r} is neither 1 nor 2")
        store = super().from_name(
            label, name=name, environment_name=environment_name, create_if_missing=create_if_missing, client=client
        )
        store._options = {**cls._checked_options(storage=storage, chunk_size=chunk_size), **_keep_option(keep)}
        return store

    @classmethod
    def ephemeral(
        cls,
        client: Client | None = None,
        environment_name: str | None = None,
        version: int | None = None,
        create_options: Any = None,
        *,
        storage: str | None = None,
        chunk_size: int | None = None,
        keep: int | None = None,
    ) -> Self:
        """
        Return a nameless Volume that lives as long as this handle; the options are those of `from_name`.

        It is deleted at the end of its `with` or `async with` block, when the handle is collected, when the interpreter exits, and
        after a crash once its process has been silent for ten minutes.
        """
        if version not in (None, 1, 2):
            raise errors.InvalidError(f"version {version!r} is neither 1 nor 2")
        store = super().ephemeral(client, environment_name)
        store._options = {**cls._checked_options(storage=storage, chunk_size=chunk_size), **_keep_option(keep)}
        return store

    @operation
    def info(self) -> Op[VolumeInfo]:
        """Return name, time of creation and creator of this Volume."""
        record = yield from self._described()
        return VolumeInfo(self._name, record.created_at, record.created_by)

    def _checked_if_version(self, if_version: int | None) -> int | None:
        return None if if_version is None else check_number(if_version, "if_version", 0, 2**62)

    # -------------------------------------------------------------------------------------------------------- history

    @operation
    def versions(self, *, limit: int | None = None, before: int | None = None) -> Op[list[VolumeVersion]]:
        """
        Return the versions that can still be read, newest first. Each commit made one.

        The newest *keep* (see `from_name`) are kept, and any that somebody reads (`at`). Others may be deleted at any time.

        Args:
            limit: at most so many; None: all.
            before: only versions before this one, for the next page.
        """
        limit, before = (
            None if value is None else check_number(value, name, 0, 2**62)
            for value, name in ((limit, "limit"), (before, "before"))
        )
        store_id = yield from self._resolve_id()
        found = yield from history.versions(store_id, before=before, limit=limit)
        if not found:
            yield from self._check_exists(store_id)
        return found

    def at(self, version: int) -> Self:
        """
        Return a handle that reads the Volume as it was in *version*, and refuses to write. Version 0 is the empty Volume.

        The version is kept from the first use of the handle until the handle is garbage, or its process has been silent for ten
        minutes. A pickled handle keeps nothing; an unpickled one does from its first use on.

        Raises:
            InvalidError: on first use, if there has never been such a version.
            VersionGone: on use, if it is not kept any more.
        """
        version = check_number(version, "version", 0, 2**62)
        reason = f"Version {version} of a Volume can not be written to; restore({version}) makes it the newest"
        return self._clone(_version=version, _version_pin=VersionPin(version), _read_only_reason=reason)

    def __repr__(self) -> str:
        return super().__repr__() if self._version == NEWEST else f"{super().__repr__()}.at({self._version})"

    @operation
    def restore(self, version: int) -> Op[int]:
        """
        Make the Volume what it was in *version*, by a commit like any other; return the version that this makes.

        No bytes are copied. What was committed since stays readable in its versions, and can be restored in turn. Files that change
        get their old contents, modes and times, and the present as the time of their last change (`ctime_ns`).

        It reads all names of both versions, and other commits wait for it meanwhile. In a transaction it must come before other
        changes of the Volume, and the commits of others wait until the transaction ends.

        Raises:
            InvalidError: there has never been such a version, or the transaction has changed the Volume already.
            VersionGone: it is not kept any more.
        """
        version = check_number(version, "version", 0, 2**62)
        if self._read_only_reason is not None:
            raise errors.InvalidError(self._read_only_reason)
        store_id = yield from self._resolve_id()

        def change() -> Op[int]:
            hooked = yield self._change_set(store_id)
            changes: VersionedChanges = hooked.hook
            if changes.any or changes.version is not None:
                raise errors.InvalidError(
                    "the transaction has changed the Volume already; restore a version before that"
                )
            made = yield from history.restore(store_id, version)
            changes.begun(made)
            return made

        try:
            made = yield from atomic(change())
        except StoreGone:
            yield from self._is_gone(store_id)
        self._collect_later(store_id)
        return made

    @operation
    def next_version(self) -> Op[int]:
        """
        Return the version that the commit of the current transaction makes: for a row of the caller's own that is to name it.

        The commit makes it even if the transaction changes nothing else in the Volume. No two transactions that commit are told the
        same: from here on other commits to the Volume wait until this transaction ends, so ask as late as possible. If it is rolled
        back, there is no such version, and the next one that commits gets the number.

        >>> with pgstore.transaction() as tx:
        ...     volume.put_file("weights.bin", "/weights.bin")
        ...     _ = tx.connection.execute("INSERT INTO model (version) VALUES (%s)", [volume.next_version()])

        Raises:
            InvalidError: there is no transaction, or the handle does not write.
        """
        if self._read_only_reason is not None:
            raise errors.InvalidError(self._read_only_reason)
        store_id = yield from self._resolve_id()
        hooked = yield self._change_set(store_id)
        if hooked is None:
            raise errors.InvalidError(
                "next_version() is of a transaction, which makes the version when it commits: call it inside one"
            )
        changes: VersionedChanges = hooked.hook
        try:
            version = yield from atomic(changes.begin())
        except StoreGone:
            yield from self._is_gone(store_id)
        self._collect_later(store_id)
        return version

    # ------------------------------------------------------------------------------------------------- for Modal's sake

    @operation
    def reload(self) -> Op[None]:
        """
        Show in the mounts that this process has of the Volume what others have committed; see `Mount.reload`.

        Direct calls always see the newest committed state. Where nothing is mounted this finds out whether there is the Volume.
        """
        store_id = yield from self._resolve_id()
        found = mounts_of(self._runner, store_id)
        for each in found:
            if not each.is_fixed:
                yield from each.reload.op()
        if not found:
            yield from self._check_exists(store_id)

    @operation
    def commit(self) -> Op[None]:
        """
        Commit what was written through the mounts that this process has of the Volume; see `Mount.commit`.

        Each direct call is committed when it returns, those in a transaction with it. Where nothing is mounted this finds out
        whether there is the Volume.
        """
        store_id = yield from self._resolve_id()
        found = mounts_of(self._runner, store_id)
        for each in found:
            if not each.is_read_only:
                yield from each.commit.op()
        if not found:
            yield from self._check_exists(store_id)

    @operation
    def mount(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Mode = "auto",
        read_only: bool | None = None,
        sub_path: str | None = None,
        background_commits: float | None = BACKGROUND_COMMIT_SECONDS,
        cache_size: int = CACHE_BYTES,
        cache_directory: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        size_max: int = SIZE_MAX_BYTES,
    ) -> Op[Mount]:
        """
        Mount the Volume at the local directory *path*, so that any program opens its files: `with volume.mount("/data") as path:`.

        Programs see the newest version, or that of `at`, and what they write themselves. `commit` of the Volume or of the mount,
        the end of the block and, in the background, every few seconds make a version of what was written; `reload` shows those
        that others have made. In asynchronous code: `async with await volume.mount.aio("/data") as path:`.
        `help("pgstore.mount")` says what each verb does: closing a file, and fsync, commit nothing.

        Without FUSE all files are copied into the directory, and what was changed is written back by `commit` and at the end.
        Extended attributes and what only root may set then stay as they are in the store, and there are no background commits.

        Args:
            path: a directory that is there and empty. It is empty again afterwards.
            mode: "fuse"; "sync", without FUSE; "auto", as FUSE can be used or not. Which it is, and why, is said in the log.
            read_only: nothing can be written; without FUSE root still can, and it is not kept. None: as the handle says
                (`read_only`, `with_mount_options`, `at`).
            sub_path: mount only this directory, which is made. None: as the handle says, else the root.
            background_commits: seconds between them; files that are open for writing are left out. None: there are none.
            cache_size: bytes of contents that are kept in memory.
            cache_directory: a local directory in which contents are kept, too. None: only in memory.
            timeout: seconds that a program waits for a server that does not answer before it gets an error (EIO); also for
                mounting.
            size_max: without FUSE: bytes that the files may have together.

        Raises:
            FileNotFoundError, NotADirectoryError, DirectoryNotEmpty, PermissionError: *path* cannot be mounted at.
            FileFailed: something is mounted there already (EBUSY).
            ConfigurationError: *mode* is "fuse", and FUSE cannot be used; the message says what to do.
            InvalidError: the options cannot be combined, or without FUSE there are too many bytes.
            NotFoundError: there is no such Volume.
        """
        options = checked(
            read_only=read_only,
            sub_path=sub_path,
            handle=self._mount_options,
            must_be_read_only=self._version != NEWEST,
            mode=mode,
            background_commits=background_commits,
            cache_size=cache_size,
            cache_directory=None if cache_directory is None else os.fspath(cache_directory),
            timeout=timeout,
            size_max=size_max,
        )
        from pgstore.mount.mounting import mount  # late: few programs mount

        return (yield from mount(self, path, options))

    def read_only(self) -> Self:
        """Return a handle on this Volume that refuses to write, and is mounted read-only."""
        if self._mount_options is not None:
            raise errors.InvalidError(
                "read_only() cannot be combined with with_mount_options(); pass read_only=True there"
            )
        return self._clone(
            _read_only_reason="Read-only Volume can not be written to", _mount_options={"read_only": True}
        )

    def with_mount_options(self, *, read_only: bool | None = None, sub_path: str | None = None) -> Self:
        """
        Return a handle on this Volume that is mounted differently; direct calls are as before.

        Args:
            read_only: mount it so that nothing can be written. None: as it is.
            sub_path: mount only this directory, which is made; "/": all. None: as it is.
        """
        if self._read_only_reason is not None:
            raise errors.InvalidError("with_mount_options() cannot be combined with read_only()")
        options = dict(self._mount_options or {})
        if read_only is not None:
            options["read_only"] = bool(read_only)
        if sub_path is not None:
            options["sub_path"] = join(split(sub_path)) or None
        return self._clone(_mount_options=options)

    @class_operation
    def rename(
        cls,  # noqa: N805 - a class, as of any class method
        old_name: str,
        new_name: str,
        *,
        client: Client | None = None,
        environment_name: str | None = None,
    ) -> Op[None]:
        """
        Give the Volume *old_name* a new name. Handles that have been used stay on it; new ones find it by its new name.

        Raises:
            NotFoundError: there is none.
            AlreadyExistsError: a Volume or NetworkFileSystem has the new name.
        """
        old = cls.from_name(old_name, environment_name=environment_name, client=client)
        new = cls.from_name(new_name, environment_name=environment_name, client=client)
        yield from note_change()
        try:
            renamed = yield from atomic(_renamed(old._environment, old_name, new.name))
        except errors.StatementFailed as exc:
            if exc.sqlstate != UNIQUE_VIOLATION:
                raise
            raise errors.AlreadyExistsError(f"{new_name!r} exists already in environment {old._environment!r}") from exc
        if not renamed:
            raise old._missing()


# No row: no Volume has the old name. If the new name is taken, the unique index raises an error.
RENAME = Statement(
    """
    UPDATE pgstore.store
       SET name = $3
     WHERE environment = $1
       AND kind = 'volume'
       AND name = $2
    """,
    "text text text",
)


def _renamed(environment: str, old_name: str, new_name: str | None) -> Op[int]:
    return (yield Query(RENAME, environment, old_name, new_name))  # type: ignore[no-any-return]


def _keep_option(keep: int | None) -> dict[str, int]:
    return {} if keep is None else {"keep": check_number(keep, "keep", 1, VERSIONS_MAX)}
