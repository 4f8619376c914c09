"""Changes of a transaction to directories that others use, kept back until its commit.

Whoever writes a name into such a directory may have to wait for others who do, and make others wait until the commit. So changes
wait here, laid over what the transaction reads, and are merged into the newest version in one short go with the commit, under the
lock of the file system's row:

- a file over a file: the last writer wins;
- a new directory over one that another transaction made meanwhile: they become one, and so do directories in them;
- a removed directory goes with all that has come into it since;
- a file against a directory, or a change in a directory that is gone: `ConflictError`, and nothing is applied.

Directories made in this transaction are its own: names in those made by the running operation are written at once (`rows`), later
changes to them come here too but are written without closing what was there, for nobody has seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from pgstore import errors
from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.files.paths import join

LIVE: Final = 9223372036854775807  # version_to of rows that the newest version has
CHANGES_MAX: Final = 100_000  # kept back; more are written early, and the lock is then held until the commit
LOOKED_UP_AT_ONCE: Final = 10_000

# This lock is the order of commits: what is looked up after it, in the same message, is the newest version, and stays it until
# we commit. No row: the file system was deleted.
NEXT_VERSION = Statement("UPDATE pgstore.file_system SET head = head + 1 WHERE store_id = $1 RETURNING head", "int8")
GONE_DIRECTORIES = Statement(
    f"""
    SELECT u.ino
      FROM unnest($2) AS u (ino)
      LEFT JOIN LATERAL (
           SELECT 1 AS one
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino = u.ino
              AND i.version_to = {LIVE}
            LIMIT 1) i ON true
     WHERE i.one IS NULL
    """,
    "int8 int8[]",
    reads=True,
)
NAMES_NOW = Statement(
    f"""
    SELECT u.position, d.ino, d.kind
      FROM unnest($2, $3) WITH ORDINALITY AS u (parent, name, position)
     CROSS JOIN LATERAL (
           SELECT e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = u.parent
              AND e.name = u.name
              AND e.version_to = {LIVE}
            LIMIT 1) d
    """,
    "int8 int8[] bytea[]",
    reads=True,
)
# Names that directories $2 (ours) have in common with directories $3 (theirs), pair by pair.
COMMON_NAMES = Statement(
    f"""
    SELECT u.position, o.name, o.ino, o.kind, t.ino, t.kind
      FROM unnest($2, $3) WITH ORDINALITY AS u (ours, theirs, position)
     CROSS JOIN LATERAL (
           SELECT e.name, e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = u.ours
              AND e.version_to = {LIVE}
           OFFSET 0) o
     CROSS JOIN LATERAL (
           SELECT e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = u.theirs
              AND e.name = o.name
              AND e.version_to = {LIVE}
            LIMIT 1) t
    """,
    "int8 int8[] int8[]",
    reads=True,
)

# Directories $2 and all below them, with the places of the names that lead to them.
#
# Rows to change are named by their places, found by one look at the key each: as a condition, a list of keys may be compared with
# each row of the store, where that was planned while there were few. The lock keeps the places from changing. `$1::numeric` says
# which store and fits no index, so that the places are gone to rather than compared with, again, each row of the store.
_BELOW: Final = f"""
    WITH RECURSIVE below AS (
         SELECT u.ino, 'd'::"char" AS kind, NULL::tid AS place, 0::bigint AS version_from
           FROM unnest($2) AS u (ino)
          UNION ALL
         SELECT e.ino, e.kind, e.ctid, e.version_from
           FROM below b
          CROSS JOIN LATERAL (
                SELECT d.ino, d.kind, d.ctid, d.version_from
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = b.ino
                   AND d.version_to = {LIVE}
                OFFSET 0) e
          WHERE b.kind = 'd'
    )
"""


def _inodes(source: str, ino: str, condition: str = "true") -> str:
    """The places of live inodes: for each row of *source*, that of inode *ino*."""
    return f"""ANY (ARRAY(
           SELECT i.ctid
             FROM {source}
            CROSS JOIN LATERAL (
                  SELECT n.ctid
                    FROM pgstore.inode n
                   WHERE n.store_id = $1
                     AND n.ino = {ino}
                     AND n.version_to = {LIVE}
                     AND {condition}
                   LIMIT 1) i))"""


def _names(source: str, condition: str = "true") -> str:
    """The places of live names: for each row of *source*, u (parent, name)."""
    return f"""ANY (ARRAY(
           SELECT e.ctid
             FROM {source} AS u (parent, name)
            CROSS JOIN LATERAL (
                  SELECT d.ctid
                    FROM pgstore.dirent d
                   WHERE d.store_id = $1
                     AND d.parent = u.parent
                     AND d.name = u.name
                     AND d.version_to = {LIVE}
                     AND {condition}
                   LIMIT 1) e))"""


# What this transaction inserted at its version $3 leaves no trace; all else ends with $3.
CLOSE_TREES = Statement(
    f"""
    {_BELOW}, dropped AS (
         DELETE FROM pgstore.dirent
          WHERE store_id = $1::numeric
            AND ctid = ANY (ARRAY(SELECT place FROM below WHERE place IS NOT NULL AND version_from = $3))
    ), closed AS (
         UPDATE pgstore.dirent
            SET version_to = $3
          WHERE store_id = $1::numeric
            AND ctid = ANY (ARRAY(SELECT place FROM below WHERE place IS NOT NULL AND version_from < $3))
    )
    UPDATE pgstore.inode
       SET version_to = $3
     WHERE store_id = $1::numeric
       AND ctid = {_inodes("below b", "b.ino")}
    """,
    "int8 int8[] int8",
)
# $3: which of the directories are wanted.
DIRECTORIES_BELOW = Statement(
    f"{_BELOW} SELECT ino FROM below WHERE kind = 'd' AND ino = ANY ($3)", "int8 int8[] int8[]", reads=True
)
# What was made and removed again in one transaction.
DELETE_TREES = Statement(
    f"""
    {_BELOW}, dropped AS (
         DELETE FROM pgstore.dirent
          WHERE store_id = $1::numeric
            AND ctid = ANY (ARRAY(SELECT place FROM below WHERE place IS NOT NULL))
    )
    DELETE FROM pgstore.inode
     WHERE store_id = $1::numeric
       AND ctid = {_inodes("below b", "b.ino")}
    """,
    "int8 int8[]",
)
CLOSE_NAMES = Statement(
    f"""
    UPDATE pgstore.dirent
       SET version_to = $2
     WHERE store_id = $1::numeric
       AND ctid = {_names("unnest($3, $4)", "d.version_from < $2")}
    """,
    "int8 int8 int8[] bytea[]",
)
DELETE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id = $1::numeric
       AND ctid = {_names("unnest($3, $4)", "d.version_from = $2")}
    """,
    "int8 int8 int8[] bytea[]",
)
TAKE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id = $1::numeric
       AND ctid = {_names("unnest($2, $3)")}
    RETURNING ino
    """,
    "int8 int8[] bytea[]",
)
# link_count: an inode that has another name stays. (Nothing makes second names yet; what does has to count them down here.)
CLOSE_INODES = Statement(
    f"""
    UPDATE pgstore.inode
       SET version_to = $2
     WHERE store_id = $1::numeric
       AND ctid = {_inodes("unnest($3) AS u (ino)", "u.ino", "n.link_count = 1")}
    """,
    "int8 int8 int8[]",
)
DELETE_INODES = Statement(
    f"""
    DELETE FROM pgstore.inode
     WHERE store_id = $1::numeric
       AND ctid = {_inodes("unnest($2) AS u (ino)", "u.ino")}
    """,
    "int8 int8[]",
)
INSERT_NAMES = Statement(
    """
    INSERT INTO pgstore.dirent (store_id, parent, name, version_from, ino, kind)
    SELECT $1, u.parent, u.name, $2, u.ino, u.kind
      FROM unnest($3, $4, $5, $6) AS u (parent, name, ino, kind)
    """,
    "int8 int8 int8[] bytea[] int8[] char[]",
)
# The names in directory $3 (ours) become names in directory $4 (theirs).
MOVE_NAMES = Statement(
    f"""
    UPDATE pgstore.dirent
       SET parent = $4, version_from = $2
     WHERE store_id = $1
       AND parent = $3
       AND version_to = {LIVE}
    """,
    "int8 int8 int8 int8",
)
INSERT_VERSION = Statement(
    "INSERT INTO pgstore.volume_version (store_id, version) VALUES ($1, $2) ON CONFLICT DO NOTHING", "int8 int8"
)


class Entry(NamedTuple):
    """What a name leads to."""

    ino: int
    kind: str
    size_bytes: int
    mtime_ns: int


class Change(NamedTuple):
    """What a transaction did to a name: it first removed what was there, of this kind; then put an entry there. Or one of them."""

    entry: Entry | None
    removed: str | None


class ChangeSet:
    """The changes of one transaction to one file system; a participant of the transaction."""

    def __init__(self, store_id: int, missing: Callable[[], Exception]) -> None:
        self.store_id = store_id
        self._missing = missing
        self._forget_everything()

    def _forget_everything(self) -> None:
        self._names: dict[int, dict[bytes, Change]] = {}
        self._paths: dict[int, tuple[bytes, ...]] = {}  # of the directories in _names, for messages
        self._count = 0
        self._own: set[int] = set()  # directories made in this transaction
        self._unwanted: list[int] = []  # inodes made in this transaction and not wanted any more
        self._version: int | None = None  # of this transaction, once it has written under the lock
        self._journal: list[Callable[[], None]] = []  # how to undo, newest last
        self._marked = False  # somebody may want to undo
        self._last: list[Query] = []

    # ------------------------------------------------------------------------------------------------------ looking

    def get(self, parent: int, name: bytes) -> Change | None:
        names = self._names.get(parent)
        return None if names is None else names.get(name)

    def under(self, parent: int) -> dict[bytes, Change]:
        """The changes in one directory, by name."""
        return self._names.get(parent, {})

    def __bool__(self) -> bool:
        return self._count > 0

    @property
    def full(self) -> bool:
        """Whether there are more changes than should be kept in memory."""
        return self._count > CHANGES_MAX

    # ----------------------------------------------------------------------------------------------------- changing

    def own(self, ino: int) -> None:
        """Note a directory that this transaction made."""
        self._own.add(ino)
        if self._marked:
            self._journal.append(partial(self._own.discard, ino))

    def put(self, parent: int, name: bytes, entry: Entry, path: tuple[bytes, ...]) -> None:
        """Let *name* in *parent*, which is *path*, lead to a new inode."""
        before = self.get(parent, name)
        self._discard(before)
        self._set(parent, name, Change(entry, None if before is None else before.removed), path)

    def remove(self, parent: int, name: bytes, kind: str, path: tuple[bytes, ...]) -> None:
        """Remove *name*, which leads to something of this *kind*, from *parent*, which is *path*."""
        before = self.get(parent, name)
        self._discard(before)
        self._set(
            parent, name, Change(None, kind if before is None or before.removed is None else before.removed), path
        )

    def forget_below(self, ino: int) -> Op[None]:
        """Drop the changes in directory *ino*, which is being removed, and in all below it."""
        roots = [ino]
        while roots and self._names:
            inside = [row[0] for row in (yield Query(DIRECTORIES_BELOW, self.store_id, roots, list(self._names)))]
            roots = []
            for parent in inside:
                for name, change in list(self._names.get(parent, {}).items()):
                    if change.entry is not None and change.entry.kind == "d":
                        roots.append(change.entry.ino)
                    self._discard(change)
                    self._set(parent, name, None, ())

    def _discard(self, before: Change | None) -> None:
        if before is not None and before.entry is not None:
            self._unwanted.append(before.entry.ino)
            if self._marked:
                self._journal.append(self._pop_unwanted)

    def _pop_unwanted(self) -> None:
        self._unwanted.pop()

    def _set(self, parent: int, name: bytes, change: Change | None, path: tuple[bytes, ...]) -> None:
        names = self._names.setdefault(parent, {})
        before = names.pop(name, None)
        if change is not None:
            names[name] = change
            self._paths.setdefault(parent, path)
        self._count += (change is not None) - (before is not None)
        if not names:
            del self._names[parent]
        if self._marked:
            self._journal.append(partial(self._set_back, parent, name, before, path))

    def _set_back(self, parent: int, name: bytes, before: Change | None, path: tuple[bytes, ...]) -> None:
        self._set(parent, name, before, path)
        self._journal.pop()

    # ----------------------------------------------------------------------------------------------- as a participant

    def before_commit(self) -> Op[None]:
        self._last = yield from self._merge()

    def with_commit(self) -> list[Query]:
        return self._last

    def mark(self) -> int:
        self._marked = True
        return len(self._journal)

    def rewind(self, mark: int | None) -> None:
        if mark is None:
            self._forget_everything()
            return
        while len(self._journal) > mark:
            self._journal.pop()()

    def committed(self) -> None:
        self._forget_everything()

    # ------------------------------------------------------------------------------------------------------- writing

    def flush(self) -> Op[None]:
        """Write the changes now. The lock is then held until the commit, whoever's that is."""
        queries = yield from self._merge()
        if queries:
            yield Many(queries)
        state = (self._names, self._paths, self._count, self._unwanted)
        if self._marked:
            self._journal.append(partial(self._restore, *state))
        self._names, self._paths, self._count, self._unwanted = {}, {}, 0, []

    def _restore(self, names: Any, paths: Any, count: int, unwanted: list[int]) -> None:
        self._names, self._paths, self._count, self._unwanted = names, paths, count, unwanted

    def _merge(self) -> Op[list[Query]]:
        """Take the lock and find out what the changes come to. Returns the queries that apply them."""
        yield from self._write_own()
        changes = [
            (parent, name, change)
            for parent, names in self._names.items()
            if parent not in self._own
            for name, change in names.items()
        ]
        if not changes:
            return []
        repeated = self._version is not None
        plan = _Plan()
        for start in range(0, len(changes), LOOKED_UP_AT_ONCE):
            part = changes[start : start + LOOKED_UP_AT_ONCE]
            look = Query(NAMES_NOW, self.store_id, [change[0] for change in part], [change[1] for change in part])
            rows = yield from self._lock_and(look) if start == 0 else _only(look)
            now = {position: (ino, kind) for position, ino, kind in rows}
            for position, (parent, name, change) in enumerate(part, 1):
                self._plan(plan, parent, name, change, now.get(position))
        yield from self._plan_merges(plan)
        assert self._version is not None
        return list(plan.queries(self.store_id, self._version, repeated=repeated))

    def _lock_and(self, look: Query) -> Op[Rows]:
        """Take the lock, check that the directories of the changes are still there, and *look*, all in one round trip."""
        parents = [parent for parent in self._names if parent not in self._own]
        queries = [Query(GONE_DIRECTORIES, self.store_id, parents), look]
        if self._version is None:
            queries.insert(0, Query(NEXT_VERSION, self.store_id))
        *version, gone, rows = yield Many(queries)
        if self._version is None:
            if not version[0]:
                raise self._missing()
            self._set_version(version[0][0][0])
        if gone:
            raise errors.ConflictError(
                f"directory {self._path(gone[0][0])!r} was removed by another transaction while this one changed it"
            )
        return rows  # type: ignore[no-any-return]

    def _write_own(self) -> Op[None]:
        """Write the changes in directories of this transaction's own, which nobody else sees, and delete what is not wanted."""
        changes = [
            (parent, name, change)
            for parent in self._own.intersection(self._names)
            for name, change in self._names[parent].items()
        ]
        unwanted = list(self._unwanted)
        if changes:
            parents, names, _ = zip(*changes, strict=True)
            unwanted += [row[0] for row in (yield Query(TAKE_NAMES, self.store_id, parents, names))]
            put = [(parent, name, entry.ino, entry.kind) for parent, name, (entry, _) in changes if entry is not None]
            if put:
                yield Query(INSERT_NAMES, self.store_id, 0, *zip(*put, strict=True))
        if unwanted:
            yield Query(DELETE_TREES, self.store_id, unwanted)

    def _set_version(self, version: int) -> None:
        self._version = version
        if self._marked:
            self._journal.append(self._unset_version)

    def _unset_version(self) -> None:
        self._version = None

    def _plan(self, plan: _Plan, parent: int, name: bytes, change: Change, now: tuple[int, str] | None) -> None:
        """Decide what one change comes to where *now* is what stands there."""
        entry, removed = change
        if now is not None and removed is not None:
            if (removed == "d") != (now[1] == "d"):
                raise self._conflict(parent, name, now[1])
            plan.close(parent, name, *now)
            now = None
        if entry is None:
            return
        if now is not None:
            if (entry.kind == "d") != (now[1] == "d"):
                raise self._conflict(parent, name, now[1])
            if entry.kind == "d":
                plan.merges.append((entry.ino, now[0], (*self._path_of(parent), name)))
                return
            plan.close(parent, name, *now)
        plan.inserts.append((parent, name, entry.ino, entry.kind))

    def _plan_merges(self, plan: _Plan) -> Op[None]:
        """Go down the directories that become one with another transaction's, level by level."""
        level = plan.merges
        while level:
            ours, theirs, paths = zip(*level, strict=True)
            below = []
            for position, name, our_ino, our_kind, their_ino, their_kind in (
                yield Query(COMMON_NAMES, self.store_id, ours, theirs)
            ):
                path = (*paths[position - 1], name)
                if (our_kind == "d") != (their_kind == "d"):
                    raise _conflict(path, their_kind)
                if our_kind == "d":
                    below.append((our_ino, their_ino, path))
                    plan.drops.append((ours[position - 1], name))
                else:
                    plan.close(theirs[position - 1], name, their_ino, their_kind)
            for ino in ours:
                self._disown(ino)
            if level is not plan.merges:
                plan.merges += level
            level = below

    def _disown(self, ino: int) -> None:
        self._own.discard(ino)
        if self._marked:
            self._journal.append(partial(self._own.add, ino))

    def _path_of(self, parent: int) -> tuple[bytes, ...]:
        return self._paths.get(parent, ())

    def _path(self, parent: int) -> str:
        return join(self._path_of(parent))

    def _conflict(self, parent: int, name: bytes, kind: str) -> errors.ConflictError:
        return _conflict((*self._path_of(parent), name), kind)


def _only(query: Query) -> Op[Rows]:
    rows: Rows = yield query
    return rows


def _conflict(path: tuple[bytes, ...], kind: str) -> errors.ConflictError:
    what = "a directory" if kind == "d" else "a file"
    return errors.ConflictError(f"{join(path)!r} was made {what} by another transaction; nothing was applied")


class _Plan:
    """What a commit will write."""

    def __init__(self) -> None:
        self.trees: list[int] = []  # directories to close with all below them
        self.files: list[int] = []  # inodes to close
        self.names: list[tuple[int, bytes]] = []  # to close
        self.drops: list[tuple[int, bytes]] = []  # names of our own, of directories that are merged
        self.merges: list[tuple[int, int, tuple[bytes, ...]]] = []  # our directory, theirs, path
        self.inserts: list[tuple[int, bytes, int, str]] = []

    def close(self, parent: int, name: bytes, ino: int, kind: str) -> None:
        self.names.append((parent, name))
        (self.trees if kind == "d" else self.files).append(ino)

    def queries(self, store_id: int, version: int, *, repeated: bool) -> Iterator[Query]:
        """*repeated*: the transaction has inserted names of *version* before, which are deleted rather than closed."""
        if self.trees:
            yield Query(CLOSE_TREES, store_id, self.trees, version)
        if self.names:
            if repeated:
                yield Query(DELETE_NAMES, store_id, version, *zip(*self.names, strict=True))
            yield Query(CLOSE_NAMES, store_id, version, *zip(*self.names, strict=True))
        if self.files:
            yield Query(CLOSE_INODES, store_id, version, self.files)
        if self.drops:
            yield Query(DELETE_NAMES, store_id, 0, *zip(*self.drops, strict=True))
        if self.merges:
            for ours, theirs, _ in self.merges:
                yield Query(MOVE_NAMES, store_id, version, ours, theirs)
            yield Query(DELETE_INODES, store_id, [merge[0] for merge in self.merges])
        if self.inserts:
            yield Query(INSERT_NAMES, store_id, version, *zip(*self.inserts, strict=True))
        yield Query(INSERT_VERSION, store_id, version)
