"""What is served: `Files` for a kind of store, made by a factory that the caller names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, cast, runtime_checkable

from pgstore.client import Client
from pgstore.fs.commit.held import Part
from pgstore.fs.paths import Names
from pgstore.fs.tree.handover import Written
from pgstore.mount.protocol import Files

BUCKET: Final = "bucket"  # the kind of mounts that have no store
FACTORIES: Final = {
    "volume": "pgstore.mount.backends.versioned:files_of",
    "nfs": "pgstore.mount.backends.live:files_of",
    BUCKET: "pgstore.mount.backends.bucket:files_of",
}


@dataclass(frozen=True)
class MountSpec:
    """What is to be mounted, and how."""

    factory: str
    """`module:function`, which is called with the client and this; of a bucket with this alone."""
    kind: str
    store_id: int
    name: str | None
    environment: str
    version: int | None
    """None: the newest, and what is written to."""
    base: Names
    """The directory of the store that is mounted, without symbolic links."""
    path: str
    read_only: bool
    background_commits: float | None
    cache_size: int
    cache_directory: str | None
    timeout: float
    locks: str
    commits_at_end: bool = True
    """False: what was not committed when it is unmounted, or its daemon ends, is dropped."""
    mount_points: tuple[str, ...] = ()
    """Directories, as paths in the mount, that a Volume shows for others to mount at, without having them."""

    @property
    def source(self) -> str:
        """What the table of mounts shows."""
        return f"{self.kind}:{self.name or self.store_id}"

    @property
    def sub_path(self) -> str:
        """*base* as one path."""
        return b"/".join(self.base).decode(errors="surrogateescape")

    def as_plain(self) -> dict[str, Any]:
        plain = dict(vars(self))
        plain["base"] = [name.decode(errors="surrogateescape") for name in self.base]
        return plain

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> MountSpec:
        base = tuple(name.encode(errors="surrogateescape") for name in plain["base"])
        return cls(**{**plain, "base": base, "mount_points": tuple(plain["mount_points"])})


@dataclass(frozen=True)
class BucketSpec:
    """What is to be mounted of a bucket, and how. There is no database to it."""

    factory: str
    name: str
    """What messages and the table of mounts call it: `s3://name`."""
    location: dict[str, Any]
    """Where it is, as plain values (`buckets.opening`)."""
    values: dict[str, str] = field(repr=False)
    """Those of its secret. They are told to the daemon over its socket, and to nobody else."""
    sub_path: str
    """The prefix of the keys; "" or with a `/` at its end."""
    path: str
    read_only: bool
    timeout: float
    ttl: float
    """Seconds for which a listing is believed."""
    kind: str = BUCKET
    mount_points: tuple[str, ...] = ()
    """Directories, as paths in the mount, that it shows for others to mount at, without having them."""
    commits_at_end: bool = False  # what is closed is there, and what is open is its writer's
    environment: None = None
    version: None = None

    @property
    def source(self) -> str:
        """What the table of mounts shows."""
        return self.name

    def as_plain(self) -> dict[str, Any]:
        return dict(vars(self))


AnySpec: TypeAlias = MountSpec | BucketSpec


def spec_of_plain(plain: dict[str, Any]) -> AnySpec:
    return BucketSpec(**plain) if plain["kind"] == BUCKET else MountSpec.of_plain(plain)


def open_files(client: Client | None, spec: AnySpec) -> Files:
    """
    Args:
        client: None: of a bucket.
    """
    module, _, function = spec.factory.partition(":")
    factory = cast("Callable[..., Files]", getattr(importlib.import_module(module), function))
    return factory(spec) if isinstance(spec, BucketSpec) else factory(client, spec)


@runtime_checkable
class Commits(Protocol):
    """What `Files` have whose changes wait for a commit. Both may be called by any thread, while they are served."""

    def commit(self) -> None:
        """Commit what was written. Files that are open for writing, too, as far as they are written."""

    def reload(self) -> None:
        """Commit what was written, then show what others have committed."""


@runtime_checkable
class HandsOver(Protocol):
    """What `Files` have whose changes a transaction of the caller's can commit."""

    def hand_over(self) -> Part:
        """What was written. Nothing of it is committed here until one of the other two is called."""

    def handed_over(self, written: Written) -> None:
        """A transaction has written it; whether it is committed will be found out."""

    def taken_back(self) -> None:
        """It was not committed."""


@runtime_checkable
class Tells(Protocol):
    """What `Files` have that tell how they are."""

    def status(self) -> dict[str, int]:
        """`cached_bytes`, and `uncommitted_files`."""
