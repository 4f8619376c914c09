"""Collection on demand, in all Volumes and NetworkFileSystems or in one; programs that write do it in passing."""

from __future__ import annotations

from dataclasses import dataclass

from pgstore import errors
from pgstore.client import Client
from pgstore.client.session import sweep
from pgstore.core.names import check_name
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.retention.collection import GRACE_SECONDS, STORES, Collected, Collection
from pgstore.store.deletion import unlink_large_objects


@dataclass(frozen=True)
class CollectedStore:
    """What was deleted of one Volume or NetworkFileSystem, or would be."""

    environment: str
    kind: str
    """`volume` or `nfs`."""
    name: str | None
    """None: ephemeral."""
    collected: Collected


def collect(
    client: Client,
    name: str | None = None,
    *,
    environment: str | None = None,
    dry_run: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> list[CollectedStore]:
    """
    Delete what Volumes and NetworkFileSystems do not need any more; returns those of which something was deleted.

    It also sweeps the sessions that died, and ends deletions of stores that were interrupted. It may run at any time, beside
    others and several times at once, and be stopped.

    Args:
        name: of one; None: all.
        environment: None: all.
        dry_run: delete nothing; return what would be.
        grace_seconds: keep what was still in use so long ago, for readers may be at it.

    Raises:
        InvalidError: *name* cannot be a name.
        NotFoundError: there is no Volume or NetworkFileSystem *name*.
    """
    if name is not None:
        check_name(name, "Volume or NetworkFileSystem")
    stores: Rows = client.run(file_systems(environment, name))
    if not stores and name is not None:
        raise errors.NotFoundError(f"there is no Volume or NetworkFileSystem {name!r} in environment {environment!r}")
    if not dry_run:
        client.run(_finish_deletions())
    result = []
    for store_id, store_environment, kind, store_name in stores:
        collection = Collection(store_id, grace_seconds=grace_seconds)
        collected = client.run(collection.dry_run() if dry_run else collection.run())
        if collected:
            result.append(CollectedStore(store_environment, kind, store_name, collected))
    return result


def file_systems(environment: str | None = None, name: str | None = None) -> Op[Rows]:
    """Id, environment, kind and name of all Volumes and NetworkFileSystems, or of those of that environment or name."""
    return (yield Query(STORES, environment, name))  # type: ignore[no-any-return]


# Of those whose deletion ended before all of their large objects were unlinked, the first after $1.
STORE_WITH_OBJECTS_LEFT = Statement(
    """
    SELECT store_id
      FROM pgstore.large_object_left
     WHERE store_id > $1
     ORDER BY store_id
     LIMIT 1
    """,
    "int8",
    read_only=True,
)


def _finish_deletions() -> Op[None]:
    yield from sweep()
    store_id = 0
    while rows := (yield Query(STORE_WITH_OBJECTS_LEFT, store_id)):
        ((store_id,),) = rows
        yield from unlink_large_objects(store_id)
