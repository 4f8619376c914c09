"""The mounts of a worker: the stores of its function, at the paths that the function has given."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pgstore import errors
from pgstore.app.worker.parent import Parent
from pgstore.app.worker.root import Root
from pgstore.client import Client, default_client
from pgstore.client.notifications import in_transaction
from pgstore.core.operation import Call, Op
from pgstore.file_store import FileStore
from pgstore.mount import attach, namespace
from pgstore.mount.mount import Mount, open_mounts
from pgstore.mount.options import SIZE_MAX_BYTES, Options
from pgstore.mount.sync.directory import SyncedDirectory
from pgstore.mount.with_fuse import FuseMount

if TYPE_CHECKING:
    from pgstore.app.mount_rules import Mountable
    from pgstore.cloud_bucket_mount import CloudBucketMount
    from pgstore.mount.sync.prefix import SyncedPrefix

_LOG: Final = logging.getLogger("pgstore")
PRIVATE_TMP: Final = "PGSTORE_PRIVATE_TMP"


class Mounts:
    """
    The mounts that a worker is *told* of, at most once in a process.

    Args:
        directory: of the worker's own, on the machine.
    """

    def __init__(self, parent: Parent, told: list[dict[str, Any]], directory: str) -> None:
        self._parent = parent
        self._told = told
        self._directory = directory
        self.all: list[WorkersMount] = []
        self._locked: list[int] = []
        self._made: list[str] = []
        self.claimed: list[str] = []
        """Directories on the machine that are this worker's, and are to be emptied."""
        self._root: Root | None = None

    def enter(self) -> None:
        """Have a mount namespace, if there is anything to mount. The process has one thread until then."""
        if self._told or os.environ.get(PRIVATE_TMP) == "1":
            try:
                namespace.enter()
            except errors.Error as exc:
                if self._mode == "fuse":
                    raise self._impossible(str(exc)) from exc
                _LOG.warning("no mount namespace, so that stores are copied to the paths that functions name: %s", exc)
            else:
                self._root = Root(os.path.join(self._directory, "root"))

    @property
    def _mode(self) -> str:
        return str(self._told[0]["mode"]) if self._told else "auto"

    def _may_use_fuse(self) -> bool:
        reason = attach.is_possible()
        if reason is not None and self._mode == "fuse":
            raise self._impossible(reason)
        if reason is not None:
            _LOG.warning("stores are copied for a worker, without FUSE: %s", reason)
        return reason is None

    def _impossible(self, reason: str) -> errors.Error:
        paths = ", ".join(each["path"] for each in self._told)
        return errors.ConfigurationError(
            f"{paths} cannot be mounted by FUSE: {reason}; PGSTORE_MOUNT_MODE=sync does without (kernel settings that may forbid "
            "it: user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        )

    @property
    def made(self) -> list[str]:
        """Directories that were made on the machine."""
        return self._made if self._root is None else self._root.made

    def begin(self) -> None:
        """
        Mount all; outer ones before those that are within them.

        What is bound at /tmp hides all else of it, but for what the program is made of.
        """
        working = os.getcwd()
        self._mount_all()
        is_below_tmp = any(each["path"].startswith("/tmp/") for each in self._told)
        if self._root is not None and os.environ.get(PRIVATE_TMP) == "1" and not is_below_tmp:
            self._root.bind_but(
                os.path.join(self._directory, "tmp"), "/tmp", [sys.prefix, working, *filter(None, sys.path)]
            )
            os.environ["TMPDIR"] = "/tmp"
        with contextlib.suppress(OSError):
            os.chdir(working)  # the root may be another by now

    def _mount_all(self) -> None:
        if not self._told:
            return
        uses_fuse = self._root is not None and self._mode != "sync" and self._may_use_fuse()
        for number, each in enumerate(self._told):
            store: Mountable
            options: Options | None
            store, options = pickle.loads(each["store"])
            place = each["path"] if self._root is None else self._root.place(each["path"])
            mounted: Any
            if isinstance(store, FileStore):
                assert options is not None
                read_only = options.read_only
                if uses_fuse:
                    store_id = self._attach(number, place, each["source"], read_only)
                    mounted = _Served(store, place, options, self._parent, number)
                else:
                    store_id = _run(store._resolve_id())
                    mounted = self._copied(number, place, store, options)
            else:
                read_only, store_id = store.read_only, _NO_STORE
                if uses_fuse:
                    self._attach(number, place, each["source"], read_only)
                    mounted = _ServedBucket()
                else:
                    mounted = self._copied_bucket(number, place, store)
            mount = WorkersMount(store, each["path"], mounted, read_only, store_id)
            self.all.append(mount)
            open_mounts.add(mount)
        for mount in self.all if len(self.all) > 1 else ():
            if isinstance(mount._mounted, (_Copied, _CopiedBucket)):
                _run(mount._mounted.leave_out_new())

    def _attach(self, number: int, place: str, source: str, read_only: bool) -> int:
        """Mount, and have it served. Returns the number of the store."""
        device = attach.attach(place, name=source, read_only=read_only, covers=True).device
        try:
            return int(self._parent.ask("serve", number, descriptors=[device]))
        finally:
            os.close(device)

    def _copied(self, number: int, place: str, store: FileStore, options: Options) -> _Copied:
        from pgstore.mount.mounting import base_of

        directory = self._directory_of_copies(number, place)
        base = _run(base_of(store, options))
        copied = SyncedDirectory(store, base, directory, read_only=options.read_only, size_max_bytes=options.size_max)
        _run(copied.fill())
        self._show_copies(directory, place)
        return _Copied(copied)

    def _copied_bucket(self, number: int, place: str, bucket: CloudBucketMount) -> _CopiedBucket:
        from pgstore.mount.sync.prefix import SyncedPrefix

        directory = self._directory_of_copies(number, place)
        source = replace(bucket._source(), values=lambda: self._parent.ask("credentials of mount", number))
        copied = SyncedPrefix(source.tree(), directory, size_max_bytes=SIZE_MAX_BYTES)
        copied.fill()
        self._show_copies(directory, place)
        return _CopiedBucket(copied)

    def _directory_of_copies(self, number: int, place: str) -> str:
        if self._root is None:
            return self._claimed(place)
        directory = os.path.join(self._directory, f"copy-{number}")
        os.mkdir(directory)
        return directory

    def _show_copies(self, directory: str, place: str) -> None:
        if self._root is not None:
            self._root.bind(directory, place)

    def _claimed(self, path: str) -> str:
        """*path* on the machine itself, if it can be made, is empty, and nobody else has it."""
        try:
            if not os.path.isdir(path):
                os.makedirs(path)
                self._made.append(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._locked.append(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.listdir(path):
                raise FileExistsError(f"{path} is not empty")
            self.claimed.append(path)
        except OSError as exc:
            raise errors.ConfigurationError(
                f"this machine allows no mount namespaces, and {path!r} itself cannot be used: {exc}; allow them "
                "(user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), make "
                "it an empty directory of this user that no other worker uses (PGSTORE_PARALLELISM=1), or run as root"
            ) from exc
        return path

    @property
    def written(self) -> list[WorkersMount]:
        """Those whose changes wait for a commit."""
        return [
            mount
            for mount in self.all
            if not (mount.is_read_only or mount.is_fixed or isinstance(mount._mounted, _ServedBucket))
        ]

    def committing(self) -> Op[None]:
        """Commit what was written; in a transaction as a part of it. They go on showing the version that this makes."""
        for mount in self.written:
            yield from mount.commit_only()


class WorkersMount(Mount):
    """
    A mount of the store of this number in the database of the default client, as a program finds it by `volume.commit()`; or of a
    bucket, which has none.
    """

    def __init__(self, store: Mountable, path: str, mounted: Any, read_only: bool, store_id: int) -> None:
        super().__init__(store, path, mounted, read_only=read_only)
        self.store = store
        self._store_id = store_id
        self.commit_only: Callable[[], Op[None]] = mounted.commit_only

    def is_of(self, client: Client, store_id: int) -> bool:
        return store_id == self._store_id and client is default_client()


class _Served(FuseMount):
    """A mount that the parent's daemon serves."""

    def __init__(self, store: FileStore, path: str, options: Options, parent: Parent, number: int) -> None:
        super().__init__(store, (), path, options)
        self._daemon = _ParentsDaemon(parent)  # type: ignore[assignment]
        self._number = number

    def commit(self) -> Op[None]:
        """Commit, then show what others have committed, too, unless a file is open that would change under its reader."""
        if not self._store._changes_class.in_place and (yield from in_transaction()):
            return  # at its end all that was written becomes a part of it, which can be done once
        yield from super().commit()
        if not self._store._changes_class.in_place:
            with contextlib.suppress(errors.InvalidError):
                yield from self.reload()

    commit_only = FuseMount.commit

    def _ask_parents(self, verb: str) -> None:
        raise errors.InvalidError(
            f"{self._path!r} is mounted in the worker that has forked this process, and committed there alone: by commit(), or "
            "when the function has ended"
        )

    def close(self) -> Op[None]:
        """It ends with the process."""
        yield from ()


class _ParentsDaemon:
    """What a mount asks of a daemon, asked of the parent's."""

    has_ended = False

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    def call(self, verb: str, number: int, *arguments: Any) -> Any:
        return self._parent.ask("mount", verb, number, *arguments)


class _Copied:
    """A mount without FUSE."""

    mode = "sync"

    def __init__(self, directory: SyncedDirectory) -> None:
        self.leave_out_new = directory.leave_out_new
        self.commit = self.commit_only = directory.commit
        self.reload = self.commit_of_parent = self.reload_of_parent = directory.reload

    def close(self) -> Op[None]:
        """It ends with the process, and the worker's directory."""
        yield from ()


class _Bucket:
    """A bucket: no handle of the program's finds this mount."""

    mode = "fuse"

    def commit_only(self) -> Op[None]:
        yield from ()

    commit = reload = commit_of_parent = reload_of_parent = close = commit_only


class _ServedBucket(_Bucket):
    """One that the parent's daemon serves: what is closed is there."""


class _CopiedBucket(_Bucket):
    """One without FUSE."""

    mode = "sync"

    def __init__(self, directory: SyncedPrefix) -> None:
        self._directory = directory

    def commit_only(self) -> Op[None]:
        yield Call(self._directory.commit)

    commit = commit_only

    def leave_out_new(self) -> Op[None]:
        yield Call(self._directory.leave_out_new)


_NO_STORE: Final = 0  # is the number of none


def _run(op: Op[Any]) -> Any:
    return default_client().run(op)
