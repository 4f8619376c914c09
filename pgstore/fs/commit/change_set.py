"""The change set of a transaction: what it changes in directories and inodes that others use, held back until its commit.

Writing a name into such a directory waits for others who write there, and makes others wait until the commit. So changes are held
here, laid over what the transaction reads, and merged at the commit into what the directory holds by then, in one short step:

- a file over a file: the last writer wins;
- a new directory over one that another transaction made meanwhile: they become one, and so do directories in them;
- a directory removed with all below it goes with all that has come into it since;
- extended attributes are set one by one, so that those that others have set stay;
- a file against a directory, a change in a directory that is gone, a name that another has taken or moved away, something in a
  directory that was to be empty, another name for a file that is gone, a directory that would be moved below itself:
  `ConflictError`, and nothing is applied.

New inodes are not held back: they are written at once, for no name leads to them yet. Neither are names in a directory that this
transaction has created; later changes to such names are.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeAlias

from pgstore import errors
from pgstore.core.operation import CommitHook, Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.model import DIRECTORY, LIVE, Entry, Node
from pgstore.fs.paths import Names, join

MUST_NOT_EXIST_MAX: Final = 100  # names of one directory that are remembered one by one
CHANGES_MAX: Final = 30_000  # held back; more are written early, and what that locks stays locked until the commit

# Those of the directories $3 that are among the directories $2 or below them. What the transaction moved away ($4) is not below
# them any more. (The subqueries are hashed; `ANY` of a parameter would compare each with each.)
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
                   AND d.kind = '{DIRECTORY}'
                OFFSET 0) e
          WHERE e.ino NOT IN (SELECT m.ino FROM pg_catalog.unnest($4) AS m (ino))
    )
    SELECT b.ino FROM below b WHERE b.ino IN (SELECT n.ino FROM pg_catalog.unnest($3) AS n (ino))
    """,
    "int8 int8[] int8[] int8[]",
    read_only=True,
)


# What must be there at the commit: anything of the kind; an empty directory; the very inode, which gets another name.
How: TypeAlias = Literal["any", "empty", "moved"]


class Removal(NamedTuple):
    """What a transaction removed from a name: what it saw there, and what must be there at the commit."""

    ino: int
    kind: str
    how: How
    exclusive: bool = False  # that very inode must be there at the commit, as for "moved"


class Change(NamedTuple):
    """What a transaction did to a name: it removed what was there, or put an entry there, or did first one and then the other."""

    entry: Entry | None
    removed: Removal | None
    exclusive: bool = False  # at the commit nothing else may be there than what was removed
    was_free: bool = False  # nothing was there when the entry was put
    if_version: int | None = None  # at the commit what is there must not have changed since this version


class ChangeSet(CommitHook, abc.ABC):
    """
    The changes of one transaction to one file system. It is a commit hook of the transaction.

    This class remembers them, lays them over what is read, and undoes them with a savepoint. Its subclasses write them: `merge`
    finds out what they come to, `apply` turns that into rows, and `volume` and `live` say how with versions and without.
    """

    in_place: ClassVar[bool]  # the bytes of a file may be overwritten
    is_single = False  # the transaction is one operation, which reads nothing that it has made

    def __init__(self, store_id: int, missing: Callable[[], Exception]) -> None:
        self.store_id = store_id
        self.missing = missing
        self._forget_everything()

    def _forget_everything(self) -> None:
        self._forget_changes()
        self._created_here: set[int] = set()  # directories made in this transaction, which nobody else can see
        self._exclusive: set[int] = (
            set()
        )  # those of them that must not be merged with one that another transaction makes
        # Names in them that must not exist in the directory that they are merged with; None: all of them.
        self._must_not_exist: dict[int, frozenset[bytes] | None] = {}
        self._journal: list[Callable[[], None]] = []  # steps that undo the changes, newest last
        self._marked = False  # there is a savepoint, so the journal is kept
        self._commit_queries: list[Query] = []

    def _forget_changes(self) -> None:
        self._deferred: list[Query] = []  # they make inodes, and are sent with the lock; only if `is_single`
        self._names: dict[int, dict[bytes, Change]] = {}
        self._paths: dict[int, tuple[bytes, ...]] = {}  # of the directories in _names, for messages
        self._count = 0
        # Inodes made in this transaction that get their first name from here, and their kinds.
        self._made: dict[int, str] = {}
        self._moved: dict[int, int] = {}  # directories moved in this transaction: where they are now
        self._attributes: dict[int, dict[str, Any]] = {}
        # Names of files that got another, which must still lead to them.
        self._linked: dict[tuple[int, bytes], int] = {}
        # Files that got another name, through whichever they were found: they must have one still.
        self._named_again: set[int] = set()
        self._file_paths: dict[int, tuple[bytes, ...]] = {}  # of the inodes in _attributes and _linked, for messages
        self._touched_at: Mapping[int, int] = {}  # when the last name in a directory changed; else: at the commit

    # ------------------------------------------------------------------------------------------------------ reading

    def get(self, parent: int, name: bytes) -> Change | None:
        names = self._names.get(parent)
        return None if names is None else names.get(name)

    def under(self, parent: int) -> Mapping[bytes, Change]:
        """The changes in one directory, by name."""
        return self._names.get(parent, {})

    def sorted_under(self, parent: int) -> Sequence[bytes]:
        """The names of `under`, sorted."""
        return sorted(self._names.get(parent, ()))

    def moved_to(self, ino: int) -> int | None:
        """Where directory *ino* was moved; None: it was not."""
        return self._moved.get(ino)

    def attributes(self, ino: int) -> Mapping[str, Any] | None:
        """What was changed of an inode, by the names of its columns."""
        return self._attributes.get(ino) if self._attributes else None

    @property
    def version(self) -> int | None:
        """The version that this transaction makes; None: it has no number yet, or there are no versions."""
        return None

    @property
    def any(self) -> bool:
        """Whether there are changes to lay over what is read."""
        return self._count > 0 or bool(self._attributes)  # _linked comes with a name

    @property
    def full(self) -> bool:
        """Whether there are more changes than should be kept in memory."""
        return self._count > CHANGES_MAX

    # ----------------------------------------------------------------------------------------------------- changing

    def note_created(self, ino: int, *, exclusive: bool = False) -> None:
        """Note a directory that this transaction made. *exclusive*: no other transaction may make one of its name."""
        self._add(self._created_here, ino)
        if exclusive:
            self._add(self._exclusive, ino)

    def put_in_created(
        self, parent: int, name: bytes, *, exclusive: bool = False, if_version: int | None = None, **_: Any
    ) -> None:
        """Note on what conditions a file was put into a directory that this transaction made."""
        names = self._must_not_exist.get(parent, frozenset())
        if (exclusive or if_version is not None) and names is not None and name not in names:
            self._remember(self._must_not_exist, parent)
            self._must_not_exist[parent] = names | {name} if len(names) < MUST_NOT_EXIST_MAX else None

    def must_not_exist(self, parent: int, name: bytes) -> bool:
        names = self._must_not_exist.get(parent, frozenset())
        return names is None or name in names

    def _add(self, where: set[int], ino: int) -> None:
        if ino not in where:
            where.add(ino)
            if self._marked:
                self._journal.append(partial(where.discard, ino))

    def keep(self, node: Node, parent: int | None) -> bool:
        """
        Keep a new inode until the commit; *parent*: of a directory. Returns whether that is done; else it is to be written now.
        """
        return False

    def count_links(self, node: Node, names: int) -> None:
        """Note that *node* gains *names*, negative: loses; for who is to see that before the commit."""

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
        """Let *name* in *parent*, which is *path*, lead to an inode that was removed from another name as "moved"."""
        self.put(parent, name, entry, path, **conditions)
        if entry.kind == DIRECTORY:
            self._remember(self._moved, entry.ino)
            self._moved[entry.ino] = parent

    def link(self, parent: int, name: bytes, ino: int, path: tuple[bytes, ...]) -> None:
        """Note that file *ino*, found as *name* in *parent*, which is *path*, gets another name."""
        if parent in self._created_here or self.get(parent, name) is not None:
            return  # nobody else sees the name, or the change that put the file there is checked
        self._remember(self._linked, (parent, name))
        self._linked[parent, name] = ino
        self._file_paths[ino] = (*path, name)

    def touch(self, times: Mapping[int, int]) -> None:
        """Let the last change of names in directories have happened at *times*, in nanoseconds since 1970."""
        self._touched_at = {**self._touched_at, **times}

    def name_again(self, ino: int) -> None:
        """Note that file *ino*, found by its number, gets another name."""
        if ino not in self._made:
            self._add(self._named_again, ino)

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
        Change the inode at *path*.

        Args:
            attributes: new values by column; of "xattrs" those of single extended attributes, None: it is removed.
        """
        self._remember(self._attributes, ino)
        before = self._attributes.get(ino, {})
        self._attributes[ino] = {**before, **attributes}
        if "xattrs" in before and "xattrs" in attributes:
            self._attributes[ino]["xattrs"] = {**before["xattrs"], **attributes["xattrs"]}
        self._file_paths[ino] = path
        yield from ()

    def forget_below(self, ino: int) -> Op[None]:
        """Drop the changes in and below directory *ino*, which is being removed. What was moved out of it stays moved."""
        roots = [ino]
        while roots and self._names:
            rows = yield Query(DIRECTORIES_BELOW, self.store_id, roots, list(self._names), list(self._moved))
            roots = []
            for (parent,) in rows:
                for name, change in list(self._names.get(parent, {}).items()):
                    if change.entry is not None and change.entry.kind == DIRECTORY:
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
            # A name in it changes after its mtime was set, so the commit's time is the later one.
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
        """Note how to undo a change of *where* [*key*]. To be called before the change."""
        if self._marked:
            self._journal.append(
                partial(where.__setitem__, key, where[key]) if key in where else partial(_forget, where, key)
            )

    # ------------------------------------------------------------------------------------------------- as a commit hook

    def before_commit(self) -> Op[None]:
        self._commit_queries = yield from self._merged()

    def with_commit(self) -> list[Query]:
        return self._commit_queries

    @property
    def has_changes(self) -> bool:
        return bool(self._names or self._attributes or self._linked or self._made)

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

    def defer(self, queries: list[Query]) -> None:
        """Have *queries* sent in one round trip with the lock, and before it."""
        self._deferred += queries

    def take_deferred(self) -> list[Query]:
        queries, self._deferred = self._deferred, []
        return queries

    def flush(self) -> Op[None]:
        """Write the changes now. What that locks stays locked until the commit, even if that is the caller's."""
        queries = yield from self._merged()
        if queries:
            yield Many(queries)
        if self._marked:
            self._journal.append(partial(self.__dict__.update, {name: getattr(self, name) for name in _STATE}))
        # The directories made here have names now, and are like others.
        self._created_here, self._exclusive, self._must_not_exist = set(), set(), {}
        self._forget_changes()

    @abc.abstractmethod
    def _merged(self) -> Op[list[Query]]:
        """Lock what the changes touch, and find out what they come to. Returns the queries that write it."""

    def path_of(self, parent: int) -> tuple[bytes, ...]:
        """The path of a directory that was changed, for messages."""
        return self._paths.get(parent, ())


def _forget(where: dict[Any, Any], key: Any) -> None:
    where.pop(key, None)


_STATE: Final = (
    *(
        "_names",
        "_paths",
        "_count",
        "_made",
        "_moved",
        "_attributes",
        "_linked",
        "_named_again",
        "_file_paths",
        "_touched_at",
    ),
    *("_created_here", "_exclusive", "_must_not_exist"),
)


def check_version(path: Names, changed_at: int | None, if_version: int) -> None:
    """
    Raise `ConflictError` if what is at *path* has changed since version *if_version*; 0: if anything is there.

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
