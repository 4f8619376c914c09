"""Watching files: what is changed in a Volume or NetworkFileSystem, as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pgstore.admin.files import info
from pgstore.core.clock import Deadline
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.fs import history
from pgstore.fs.model import DIRECTORY, LIVE, ROOT
from pgstore.fs.notifications import FileChange, FileChanges
from pgstore.fs.paths import join
from pgstore.network_file_system import NetworkFileSystem
from pgstore.volume import Volume

_WORDS: Final = {(True, False): "added", (False, True): "removed", (True, True): "changed"}
_LOOK_SECONDS: Final = 10.0  # for versions of which nobody told


@dataclass(frozen=True)
class VersionChanges:
    """What a version of a Volume changed."""

    version: int
    committed_at: datetime
    changes: list[tuple[str, str]]
    """`added`, `removed` or `changed`, and a path. A directory that came or went stands for all that was in it."""


def versions(volume: Volume, *, since: int | None = None, timeout: float | None = None) -> Iterator[VersionChanges]:
    """
    Each version as it is committed, for ever. One that is not kept any more when its turn has come is left out.

    Args:
        since: begin behind this version; None: with those to come.
        timeout: end after so many seconds without one.
    """
    client = volume._runner
    store_id: int = client.run(volume._resolve_id())
    listening = FileChanges(store_id)
    client.run(listening.begin())
    try:
        latest = (info(volume).version or 0) if since is None else since
        deadline = Deadline.after(timeout)
        while True:
            found = [each for each in volume.versions() if each.version > latest]
            for each in reversed(found):
                changed = client.run(history.changes(store_id, each.version))
                words = [(_WORDS[came, went], join([path])) for path, came, went in changed]
                yield VersionChanges(each.version, each.committed_at.astimezone(), words)
                latest = each.version
            if found:
                deadline = Deadline.after(timeout)
            elif deadline.passed():
                return
            client.run(listening.next(min(deadline.remaining(), _LOOK_SECONDS)))
    finally:
        listening.close()


# Paths of the names $3 in the directories $2, and of those of the files $4, to which no index leads; and whether they are there.
PATHS = Statement(
    f"""
    WITH RECURSIVE changed AS (
         SELECT u.parent, u.name, d.ino IS NOT NULL AS is_there
           FROM unnest($2, $3) AS u (parent, name)
           LEFT JOIN pgstore.dirent d
             ON d.store_id = $1
            AND d.parent = u.parent
            AND d.name::bytea = u.name
            AND d.version_to = {LIVE}
          UNION
         SELECT d.parent, d.name::bytea, true
           FROM pgstore.dirent d
          WHERE d.store_id = $1
            AND d.ino = ANY ($4)
            AND d.kind <> '{DIRECTORY}'
            AND d.version_to = {LIVE}
            AND pg_catalog.cardinality($4) > 0
    ), path AS (
         SELECT c.parent AS directory, c.name AS path, c.is_there
           FROM changed c
          UNION ALL
         SELECT e.parent, e.name || '/'::bytea || p.path, p.is_there
           FROM path p
          CROSS JOIN LATERAL (
                SELECT d.parent, d.name::bytea AS name
                  FROM pgstore.inode i
                  JOIN pgstore.dirent d
                    ON d.store_id = $1
                   AND d.parent = i.parent
                   AND d.ino = p.directory
                   AND d.version_to = {LIVE}
                 WHERE i.store_id = $1
                   AND i.ino::bigint = p.directory
                   AND i.version_to = {LIVE}
                 LIMIT 1) e
          WHERE p.directory <> {ROOT}
    )
    SELECT p.path, p.is_there
      FROM path p
     WHERE p.directory = {ROOT}
     ORDER BY p.path
    """,
    "int8 int8[] bytea[] int8[]",
    read_only=True,
)


def changes(nfs: NetworkFileSystem, *, timeout: float | None = None) -> Iterator[list[tuple[str, str]] | None]:
    """
    What is changed in a NetworkFileSystem, as it comes: `changed`, or `removed` of what is not there any more, and a path.

    None: anything may have been changed, because it was too much to tell, or the connection broke. Changes that come while others
    are looked for may be told together.

    Args:
        timeout: end after so many seconds without a change.
    """
    client = nfs._runner
    store_id: int = client.run(nfs._resolve_id())
    listening = FileChanges(store_id)
    client.run(listening.begin())
    try:
        deadline = Deadline.after(timeout)
        while True:
            change: FileChange | None = client.run(listening.next(min(deadline.remaining(), _LOOK_SECONDS)))
            if change is None:
                if deadline.passed():
                    return
                client.run(nfs._check_exists(store_id))
                continue
            yield None if change.inodes is None or change.names is None else client.run(_paths(store_id, change))
            deadline = Deadline.after(timeout)
    finally:
        listening.close()


def _paths(store_id: int, change: FileChange) -> Op[list[tuple[str, str]]]:
    names = sorted(change.names or ())
    inodes = sorted((change.inodes or frozenset()) - {parent for parent, _ in names})
    rows = yield Query(PATHS, store_id, [parent for parent, _ in names], [name for _, name in names], inodes)
    return [("changed" if is_there else "removed", join([path])) for path, is_there in rows]
