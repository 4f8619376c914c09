"""Mount rules: which stores and buckets a function may have at which paths, and whether a process has them there."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final, TypeAlias

from pgstore.cloud_bucket_mount import CloudBucketMount
from pgstore.errors import InvalidError
from pgstore.file_store import FileStore
from pgstore.network_file_system import NetworkFileSystem
from pgstore.volume import Volume

Mountable: TypeAlias = FileStore | CloudBucketMount
Mounts: TypeAlias = tuple[tuple[str, Mountable], ...]
"""Absolute paths and the stores or buckets there."""

# A worker needs what is there. Below them is allowed.
_TAKEN: Final = frozenset(
    ("/", "/root", "/tmp", "/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/lib", "/lib64", "/home")
)
_OPTIONS: Final = {
    Volume: "volumes",
    NetworkFileSystem: "network_file_systems",
    CloudBucketMount: "cloud_bucket_mounts",
}


def check_volumes(value: object) -> Mounts:
    """What `volumes=` says: a path and the Volume there, or the bucket."""
    return _checked(value, Volume, CloudBucketMount)


def check_cloud_bucket_mounts(value: object) -> Mounts:
    """What `cloud_bucket_mounts=` says."""
    return _checked(value, CloudBucketMount)


def check_network_file_systems(value: object) -> Mounts:
    """What `network_file_systems=` says."""
    return _checked(value, NetworkFileSystem)


def _checked(value: object, *kinds: type[Mountable]) -> Mounts:
    if value is None:
        return ()
    wanted = kinds[0].__name__
    if not isinstance(value, Mapping):
        raise InvalidError(f"a dict of paths and {wanted}s is expected, not a {type(value).__name__}: {value!r}")
    mounts = tuple((_path(path, wanted), store) for path, store in value.items())
    for path, store in mounts:
        if not isinstance(store, kinds):
            other = _OPTIONS.get(type(store))
            advice = f"; pass it as {other}=" if other else ""
            raise InvalidError(
                f"Object of type {type(store).__name__} mounted at {path!r} is not usable as a {wanted}{advice}"
            )
    return mounts


def _path(path: object, wanted: str) -> str:
    if not isinstance(path, (str, PurePath)):
        raise InvalidError(f"{wanted} {path!r} must be mounted at a path, a str")
    text = os.fspath(path)
    text = text.rstrip("/") or text[:1]
    if not text.startswith("/") or posixpath.normpath(text) != text or text.startswith("//") or "\0" in text:
        raise InvalidError(f"{wanted} {path} must be a canonical, absolute path, such as '/data'")
    if text in _TAKEN:
        raise InvalidError(f"{wanted} {path} cannot be mounted at {text!r}, which a worker needs itself; use '/data'")
    return text


def check_mounts(mounts: Mounts) -> None:
    """Raise `InvalidError` if two stores have one path, or a Volume has two; different directories of one may."""
    volumes: dict[object, str] = {}
    taken: set[str] = set()
    for path, store in mounts:
        if path in taken:
            raise InvalidError(f"two stores are mounted at {path!r}")
        taken.add(path)
        # What is written at one would be seen at the other after the next commit alone. A NetworkFileSystem has one state.
        if isinstance(store, Volume) and (other := volumes.setdefault(mount_key(store), path)) != path:
            raise InvalidError(
                f"The same Volume cannot be mounted in multiple locations for the same function: {other}, {path}"
            )


def mount_key(store: Mountable) -> tuple[object, ...]:
    """What is the same of two handles if they are mounted alike. The last is the environment; None: that of the client."""
    if isinstance(store, CloudBucketMount):
        return "CloudBucketMount", store.location, store.key_prefix or "", store.read_only, None
    first = store._first
    variant = (getattr(store, "_mount_options", None) or {}).get("sub_path"), store._version
    unnamed = id(first) if first._name is None and first._wanted_id is None else None
    return first._display_name, first._name, first._wanted_id, unnamed, variant, first._environment_name


def is_mounted(store: Mountable, path: str, mounted: Mapping[str, Any]) -> bool:
    """Whether *mounted*, which has the `mount_key` of each path, says that *store* is mounted at *path*."""
    is_ephemeral = isinstance(store, FileStore) and store._is_ephemeral
    if path not in mounted or is_ephemeral:  # of which each process that imports the program makes one
        return path in mounted
    *own, environment = mount_key(store)
    *other, others_environment = mounted[path]
    return own == other and environment in (None, others_environment)
