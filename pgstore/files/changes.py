"""Changes of a transaction to directories and inodes that others use, kept back until its commit.

Whoever writes a name into such a directory may have to wait for others who do, and make others wait until the commit. So changes
wait here, laid over what the transaction reads, and are merged with the commit into what is there then, in one short go:

- a file over a file: the last writer wins;
- a new directory over one that another transaction made meanwhile: they become one, and so do directories in them;
- a directory removed with all below it goes with all that has come into it since;
- extended attributes are set one by one, so that those of others stay;
- a file against a directory, a change in a directory that is gone, a name that was taken or moved away meanwhile, something in a
  directory that was to be empty, another name for a file that is gone, directories that would lead round in a circle:
  `ConflictError`, and nothing is applied.

This module remembers what was changed and lays it over what is read; `merge` finds out what it comes to, and `versioned` and `live`
write that. Inodes that a transaction makes are its own, written at once and led to by no name yet. Names in new directories are
written at once as well (`rows`), later changes to them come here too.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

from pgstore import errors
from pgstore.core.operation import Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.files.paths import Names, join

LIVE: Final = 9223372036854775807  # version_to of rows that the newest version has
ROOT: Final = 1  # inode of the root directory of every file system
FIRM_NAMES_MAX: Final = 100  # of one directory that are remembered one by one
CHANGES_MAX: Final = 30_000  # kept back; more are written early, and what that locks is then held until the commit

# Directories $2 and all below them that are among $3. What the transaction moved away ($4) is not below them any more. (Subqueries
# are hashed; `ANY` of a parameter compares one with each.)
DIRECTORIES_BELOW = Statement(
    f"""
    WITH RECURSIVE below AS (
         SELECT u.ino
           FROM pg_catalog.unnest($2) AS u (ino)
          UNION ALL
         SELECT e.ino
           FROM below b
          CROSS JOIN LATERAL (
                SELECT d.ino
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = b.ino
                   AND d.version_to = {LIVE}
                   AND d.kind = 'd'
                OFFSET 0) e
          WHERE e.ino NOT IN (SELECT m.ino FROM pg_catalog.unnest($4) AS m (ino))
    )
    SELECT b.ino FROM below b WHERE b.ino IN (SELECT n.ino FROM pg_catalog.unnest($3) AS n (ino))
    """,
    "int8 int8[] int8[] int8[]",
    reads=True,
)


class Entry(NamedTuple):
    """What a name leads to."""

    ino: int
    kind: str
    size_bytes: int
    mtime_ns: int


class Removal(NamedTuple):
    """What a transaction removed from a name: what it saw there, and what it wants of it."""

    ino: int
    kind: str
    how: str  # "any": whatever is there goes; "empty": it must be an empty directory; "moved": it must be this very inode


class Change(NamedTuple):
    """What a transaction did to a name: it first removed what was there; then put an entry there. Or one of them."""

    entry: Entry | None
    removed: Removal | None
    exclusive: bool = False  # nothing may be there beside what was removed
    was_free: bool = False  # nothing was there when the entry was put
    if_version: int | None = None  # what is there may not have changed since


class ChangeSet(abc.ABC):
    """
    The changes of one transaction to one file system; a participant of the transaction.

    What a subclass writes, and when, is up to the kind of file system.
    """

    in_place: ClassVar[bool]  # what a file holds may be overwritten
    is_single = False  # of one operation, which reads nothing that it has made

    def __init__(self, store_id: int, missing: Callable[[], Exception]) -> None:
        self.store_id = store_id
        self.missing = missing
        self._forget_everything()

    def _forget_everything(self) -> None:
        self._forget_changes()
        self._own: set[int] = set()  # directories made in this transaction, which nobody else can see
        self._alone: set[int] = set()  # of these, those that must not become one with another's
        self._firm: dict[int, frozenset[bytes] | None] = {}  # names in them that must not exist elsewhere; None: all
        self._journal: list[Callable[[], None]] = []  # how to undo, newest last
        self._marked = False  # somebody may want to undo
        self._last: list[Query] = []

    def _forget_changes(self) -> None:
        self._early: list[Query] = []  # that make inodes, and go with the lock; only where nobody reads them before
        self._names: dict[int, dict[bytes, Change]] = {}
        self._paths: dict[int, tuple[bytes, ...]] = {}  # of the directories in _names, for messages
        self._count = 0
        # Inodes made in this transaction that get their first name from here, and their kinds.
        self._made: dict[int, str] = {}
        self._moved: dict[int, int] = {}  # directories moved in this transaction: where they are now
        self._attributes: dict[int, dict[str, Any]] = {}
        # Names of files that got another, which must still lead to them.
        self._linked: dict[tuple[int, bytes], int] = {}
        self._file_paths: dict[int, tuple[bytes, ...]] = {}  # of the inodes in _attributes and _linked, for messages

    # ------------------------------------------------------------------------------------------------------ looking

    def get(self, parent: int, name: bytes) -> Change | None:
        names = self._names.get(parent)
        return None if names is None else names.get(name)

    def under(self, parent: int) -> Mapping[bytes, Change]:
        """The changes in one directory, by name."""
        return self._names.get(parent, {})

    def attributes(self, ino: int) -> Mapping[str, Any] | None:
        """What was changed of an inode, by the names of its columns."""
        return self._attributes.get(ino) if self._attributes else None

    @property
    def any(self) -> bool:
        """Whether there are changes to lay over what is read."""
        return self._count > 0 or bool(self._attributes)  # _linked comes with a name

    @property
    def full(self) -> bool:
        """Whether there are more changes than should be kept in memory."""
        return self._count > CHANGES_MAX

    # ----------------------------------------------------------------------------------------------------- changing

    def own(self, ino: int, *, alone: bool = False) -> None:
        """Note a directory that this transaction made. *alone*: nobody else may make one of its name."""
        self._add(self._own, ino)
        if alone:
            self._add(self._alone, ino)

    def put_in_own(
        self, parent: int, name: bytes, *, exclusive: bool = False, if_version: int | None = None, **_: Any
    ) -> None:
        """Note on what conditions a file was put into a directory of this transaction's own."""
        firm = self._firm.get(parent, frozenset())
        if (exclusive or if_version is not None) and firm is not None and name not in firm:
            self._remember(self._firm, parent)
            self._firm[parent] = firm | {name} if len(firm) < FIRM_NAMES_MAX else None

    def is_firm(self, parent: int, name: bytes) -> bool:
        firm = self._firm.get(parent, frozenset())
        return firm is None or name in firm

    def _add(self, where: set[int], ino: int) -> None:
        if ino not in where:
            where.add(ino)
            if self._marked:
                self._journal.append(partial(where.discard, ino))

    def make(self, parent: int, name: bytes, entry: Entry, path: tuple[bytes, ...], **conditions: Any) -> None:
        """Let *name* in *parent*, which is *path*, lead to an inode that was just made."""
        self._made[entry.ino] = entry.kind
        if self._marked:
            self._journal.append(partial(_forget, self._made, entry.ino))
        self.put(parent, name, entry, path, **conditions)

    def put(
        self,
        parent: int,
        name: bytes,
        entry: Entry,
        path: tuple[bytes, ...],
        *,
        exclusive: bool = False,
        was_free: bool = False,
        if_version: int | None = None,
    ) -> None:
        """Let *name* in *parent*, which is *path*, lead to an inode. See `Change` for the conditions."""
        before = self.get(parent, name)
        if before is None:
            change = Change(entry, None, exclusive, was_free, if_version)
        elif before.entry is None:
            change = Change(entry, before.removed, exclusive, before.was_free, before.if_version)
        else:
            versions = [version for version in (before.if_version, if_version) if version is not None]
            change = before._replace(entry=entry, if_version=min(versions, default=None))
        self._set(parent, name, change, path)

    def move(self, parent: int, name: bytes, entry: Entry, path: tuple[bytes, ...], **conditions: Any) -> None:
        """Let *name* in *parent*, which is *path*, lead to what was removed elsewhere as "moved"."""
        self.put(parent, name, entry, path, **conditions)
        if entry.kind == "d":
            self._remember(self._moved, entry.ino)
            self._moved[entry.ino] = parent

    def link(self, parent: int, name: bytes, ino: int, path: tuple[bytes, ...]) -> None:
        """Note that file *ino*, found as *name* in *parent*, which is *path*, gets another name."""
        if parent in self._own or self.get(parent, name) is not None:
            return  # this transaction's, or checked for the change that it comes from
        self._remember(self._linked, (parent, name))
        self._linked[parent, name] = ino
        self._file_paths[ino] = (*path, name)

    def remove(self, parent: int, name: bytes, removal: Removal, path: tuple[bytes, ...]) -> None:
        """Remove *name* from *parent*, which is *path*."""
        before = self.get(parent, name)
        if before is None:
            self._set(parent, name, Change(None, removal), path)
        elif before.removed is not None:
            self._set(parent, name, Change(None, before.removed), path)
        elif before.was_free:
            self._set(parent, name, None, path)  # nothing was there, so nothing is to be removed
        else:
            self._set(parent, name, Change(None, Removal(removal.ino, removal.kind, "any")), path)

    def set_attributes(self, ino: int, kind: str, attributes: Mapping[str, Any], path: tuple[bytes, ...]) -> Op[None]:
        """
        Change an inode that exists, which is *path*.

        Args:
            attributes: values of columns; of "xattrs", what becomes of single ones, None: it goes.
        """
        self._remember(self._attributes, ino)
        before = self._attributes.get(ino, {})
        self._attributes[ino] = {**before, **attributes}
        if "xattrs" in before and "xattrs" in attributes:
            self._attributes[ino]["xattrs"] = {**before["xattrs"], **attributes["xattrs"]}
        self._file_paths[ino] = path
        yield from ()

    def forget_below(self, ino: int) -> Op[None]:
        """Drop the changes in directory *ino*, which is being removed, and in all below it; what was moved away stays so."""
        roots = [ino]
        while roots and self._names:
            rows = yield Query(DIRECTORIES_BELOW, self.store_id, roots, list(self._names), list(self._moved))
            roots = []
            for (parent,) in rows:
                for name, change in list(self._names.get(parent, {}).items()):
                    if change.entry is not None and change.entry.kind == "d":
                        roots.append(change.entry.ino)
                    moved = change.removed is not None and change.removed.how == "moved"
                    self._set(parent, name, Change(None, change.removed) if moved else None, ())

    def _set(self, parent: int, name: bytes, change: Change | None, path: tuple[bytes, ...]) -> None:
        names = self._names.setdefault(parent, {})
        before = names.pop(name, None)
        if change is not None:
            names[name] = change
            self._paths.setdefault(parent, path)
        self._count += (change is not None) - (before is not None)
        if self._attributes and "mtime_ns" in self._attributes.get(parent, {}):
            # A change of what is in it comes later than the time that was set, and has that of the commit.
            self._remember(self._attributes, parent)
            self._attributes[parent] = {k: v for k, v in self._attributes[parent].items() if k != "mtime_ns"}
        if not names:
            del self._names[parent]
        if self._marked:
            self._journal.append(partial(self._set_back, parent, name, before, path))

    def _set_back(self, parent: int, name: bytes, before: Change | None, path: tuple[bytes, ...]) -> None:
        self._set(parent, name, before, path)
        self._journal.pop()

    def _remember(self, where: dict[Any, Any], key: Any) -> None:
        """Before *where* [*key*] changes: note how to undo it."""
        if self._marked:
            self._journal.append(
                partial(where.__setitem__, key, where[key]) if key in where else partial(_forget, where, key)
            )

    # ----------------------------------------------------------------------------------------------- as a participant

    def before_commit(self) -> Op[None]:
        self._last = yield from self._merged()

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

    def put_off(self, queries: list[Query]) -> None:
        """Have *queries* run with the next round trip, before anything is locked."""
        self._early += queries

    def take_early(self) -> list[Query]:
        queries, self._early = self._early, []
        return queries

    def flush(self) -> Op[None]:
        """Write the changes now. What that locks is then held until the commit, whoever's that is."""
        queries = yield from self._merged()
        if queries:
            yield Many(queries)
        if self._marked:
            self._journal.append(partial(self.__dict__.update, {name: getattr(self, name) for name in _STATE}))
        self._own, self._alone, self._firm = set(), set(), {}  # they have names now, and are directories like others
        self._forget_changes()

    @abc.abstractmethod
    def _merged(self) -> Op[list[Query]]:
        """Find out what the changes come to, and lock that. Returns the queries that apply them."""

    def path_of(self, parent: int) -> tuple[bytes, ...]:
        """The path of a directory that was changed, for messages."""
        return self._paths.get(parent, ())


def _forget(where: dict[Any, Any], key: Any) -> None:
    where.pop(key, None)


_STATE: Final = (
    *("_names", "_paths", "_count", "_made", "_moved", "_attributes", "_linked", "_file_paths"),
    *("_own", "_alone", "_firm"),
)


def check_version(path: Names, changed_at: int | None, if_version: int) -> None:
    """
    Raise `ConflictError` unless what is at *path* has not changed since version *if_version*; 0: unless there is nothing.

    Args:
        changed_at: the version in which it was last changed; None: there is nothing.
    """
    if changed_at is None:
        if if_version:
            raise conflict(f"{join(path)!r} was removed after version {if_version}")
    elif not if_version:
        raise conflict(f"{join(path)!r} exists, and if_version=0 asks for nothing there")
    elif changed_at > if_version:
        raise conflict(f"{join(path)!r} was changed in version {changed_at}, after version {if_version}")


def conflict(message: str) -> errors.ConflictError:
    return errors.ConflictError(f"{message}; nothing was applied")
