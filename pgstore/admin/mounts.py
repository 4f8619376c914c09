"""The mounts of this user, and what could not be committed at the end of earlier ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pgstore import errors
from pgstore.client import Client
from pgstore.cloud_bucket_mount import CloudBucketMount
from pgstore.core import threads
from pgstore.core.operation import Op
from pgstore.file_store import FileStore
from pgstore.mount import attach, local_xattrs, mount_table, recovery, runtime
from pgstore.mount.bucket import mount_bucket_in_background
from pgstore.mount.daemon import control
from pgstore.mount.daemon.messages import Closed
from pgstore.mount.mounting import mount_in_background
from pgstore.mount.options import TIMEOUT_SECONDS, Options
from pgstore.mount.recovery import Kept
from pgstore.network_file_system import NetworkFileSystem
from pgstore.volume import Volume

_LOOK_SECONDS: Final = 1.0  # for a mount to say that it is dead


@dataclass(frozen=True)
class MountedStore:
    """A mount of this user."""

    path: str
    mode: str
    """`fuse`; `sync`, without FUSE; `dead`: its daemon is gone, and nobody serves it."""
    kind: str | None
    """`volume`, `nfs` or `bucket`; None, as of the following: nobody knows."""
    name: str | None
    environment: str | None
    version: int | None
    sub_path: str | None
    read_only: bool | None
    pid: int | None
    """Of the daemon; without FUSE of the program itself."""
    since: float | None
    """In seconds since 1970."""
    cached_bytes: int | None
    uncommitted_files: int | None


def mounts() -> list[MountedStore]:
    """The mounts of this user, by path."""
    told: list[dict[str, Any]] = runtime.records()
    for each in control.control_sockets():
        with contextlib.suppress(Closed):
            told += control.ask(each, "mounts")
    found = {mount["path"]: _mounted(mount) for mount in told}
    for mount in mount_table.mounts():
        if mount.type == mount_table.TYPE and mount.path not in found and _is_dead(mount.path):
            found[mount.path] = _mounted({"path": mount.path, "mode": "dead"})
    return [found[path] for path in sorted(found)]


def _is_dead(path: str) -> bool:
    """Whether nobody serves *path*. One that does not answer at once is served by somebody, if badly."""
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(attach.is_stale(path)), daemon=True)
    threads.start(asking)
    asking.join(_LOOK_SECONDS)
    return found == [True]


def _mounted(told: dict[str, Any]) -> MountedStore:
    return MountedStore(**{name: told.get(name) for name in MountedStore.__dataclass_fields__})  # type: ignore[arg-type]


def unmount(path: str) -> list[str]:
    """
    Commit what was written at *path*, and unmount it. Returns who still uses it, who then use what they have open.

    Raises:
        FileMissing: pgstore has mounted nothing there, or for another user.
        InvalidError: *path* can be none, or it is mounted without FUSE, by a program that alone can write it back.
    """
    if not _is_path(path):
        raise errors.InvalidError(f"{path!r} cannot be a path")
    real = path if attach.is_stale(path) else os.path.realpath(path)
    for record in runtime.records():
        if record["path"] == real:
            raise errors.InvalidError(
                f"{path!r} is mounted without FUSE by process {record['pid']}, which writes it back when it unmounts: end that"
            )
    for each in control.control_sockets():
        with contextlib.suppress(Closed):
            users: list[str] | None = control.ask(each, "unmount_path", real, seconds=None)
            if users is not None:
                return users
    if not any(mount.type == mount_table.TYPE for mount in mount_table.mounts_at(real)) or not attach.is_stale(real):
        raise errors.FileMissing(f"nothing is mounted at {path!r} by pgstore, for this user", path)
    attach.detach_stale(real)
    return []


def _is_path(path: str) -> bool:
    """Whether the system could have a file *path*: not with NUL, nor with what is in no encoding."""
    try:
        return bool(path) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def mount(store: FileStore, path: str, options: Options, *, log: str | None = None) -> tuple[str, int]:
    """
    Mount *store* at *path*, by a daemon that stays until it is unmounted. Returns where, and the number of its process.

    Args:
        log: the file in which the daemon writes what it logs; None: nowhere.
    """
    operation: Op[tuple[str, int]] = mount_in_background(store, path, options, log)
    return store._runner.run(operation)


def mount_bucket(
    bucket: CloudBucketMount, path: str, *, timeout: float = TIMEOUT_SECONDS, log: str | None = None
) -> tuple[str, int]:
    """`mount`, of a bucket."""
    return mount_bucket_in_background(bucket._source(), path, timeout=timeout, log=log)


def store_of(
    kind: str, name: str, environment: str | None, client: Client, *, version: int | None = None
) -> Volume | NetworkFileSystem:
    """
    A handle on the Volume or NetworkFileSystem *name*.

    Args:
        version: of a Volume; None: the newest.
    """
    if kind == "volume":
        volume = Volume.from_name(name, environment_name=environment, client=client)
        return volume if version is None else volume.at(version)
    if kind != "nfs":
        raise errors.InvalidError(
            f"{kind!r} is neither 'volume' nor 'nfs'; `pgstore bucket mount URL DIR` mounts a bucket"
        )
    if version is not None:
        raise errors.InvalidError("a NetworkFileSystem has no versions")
    return NetworkFileSystem.from_name(name, environment_name=environment, client=client)


def kept() -> list[Kept]:
    """What could not be committed at the end of earlier mounts, oldest first."""
    return recovery.all_kept()


def restore(name: str, client: Client) -> Kept:
    """
    Put the files of a recovery directory into the store that they were written to, in one transaction, and remove it.

    Files of the same paths are replaced. What had been removed or renamed is not. Files that are kept incomplete, and device
    nodes, stay there.

    Args:
        name: of the directory, or its path.

    Raises:
        FileMissing: there is none.
        NotFoundError: the store is gone. A recovery directory is one like any other: its files can be copied from there.
    """
    found = recovery.named(name)
    about = found.about
    if about.kind == "bucket":
        raise errors.InvalidError(
            f"{str(found.path)!r} has files for the bucket {about.name}, whose credentials are not known here: copy what is in "
            f"{str(found.files)!r} to {about.sub_path or '/'!r} there, by CloudBucketMount.put_directory, and remove it"
        )
    if about.name is None or about.environment is None:
        raise errors.NotFoundError(
            f"the store that {str(found.path)!r} was written to was ephemeral, and is gone: its files are in {str(found.files)!r}"
        )
    store = store_of(about.kind, about.name, about.environment, client)
    with client.transaction():
        store.put_directory(found.files, f"/{about.sub_path}")
        for path in found.files.rglob("*"):
            _restore_one(store, path, f"/{about.sub_path}/{path.relative_to(found.files)}")
        # The owners are those in the store where the daemon was root's, who can give files away.
        for path in found.files.rglob("*") if found.path.stat().st_uid == 0 else ():
            status = path.lstat()
            if (status.st_uid or status.st_gid) and not (_is_device(status) or stat.S_ISLNK(status.st_mode)):
                store.chown(f"/{about.sub_path}/{path.relative_to(found.files)}", status.st_uid, status.st_gid)
    for path in found.files.rglob("*"):
        if _is_device(path.lstat()):
            stays = found.incomplete / path.relative_to(found.files)
            stays.parent.mkdir(parents=True, exist_ok=True)
            path.rename(stays)
    shutil.rmtree(found.files if found.incomplete.exists() else found.path)
    return found


def _restore_one(store: Volume | NetworkFileSystem, path: Path, inside: str) -> None:
    """Put into the store what is no regular file, and extended attributes of all."""
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR and not any(path.iterdir()):
        store.mkdir(inside, mode=stat.S_IMODE(status.st_mode), exist_ok=True)
    elif kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK):
        with contextlib.suppress(errors.FileMissing):
            store.remove_file(inside)
        if kind == stat.S_IFLNK:
            store.symlink(os.readlink(path), inside)
        else:
            store.mknod(inside, "fifo" if kind == stat.S_IFIFO else "socket", mode=stat.S_IMODE(status.st_mode))
    for name, value in local_xattrs.read(os.fsencode(path)).items():
        store.setxattr(inside, os.fsdecode(name), value)


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)
