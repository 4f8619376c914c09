"""A Volume as one mount sees it: a version, and over it what the mount has changed and not committed yet.

The verbs of `nodes` work on its `tree`, without a round trip where it has seen the directory before: the version does not change,
so what was read of it stays right. `commit` makes a version of what was changed; `reload` goes on to the newest.

One at a time changes, commits or reloads; others may read meanwhile, if they read again where `HeldFileSystem.moves` has changed.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

from pgstore import errors
from pgstore.client.session import Session
from pgstore.core.operation import Many, Op, Query, Rows, atomic
from pgstore.core.statement import Statement
from pgstore.fs.commit.held import HeldChanges, Part
from pgstore.fs.commit.volume import VersionedChanges
from pgstore.fs.content.staged import ABANDON
from pgstore.fs.model import DIRECTORY, ROOT, Node, StoreGone
from pgstore.fs.retention.pins import pins_of, version_of
from pgstore.fs.tree import handover
from pgstore.fs.tree.handover import Written
from pgstore.fs.tree.node_rows import NamedNode, NodeRows, gone, not_a_directory
from pgstore.fs.tree.resolve import Tree
from pgstore.fs.tree.small_files import SmallFiles
from pgstore.fs.tree.transact import FileSystem

INODES_AT_ONCE: Final = 1000  # numbers that are drawn from the database at a time
ATTEMPTS: Final = 5  # of a commit that the server rolls back for a deadlock
# A look for a name reads all of its directory, if it has no more names; a listing, if it has no more of them.
LOOK_UP_NAMES_MAX: Final = 1_000
LISTED_NAMES_MAX: Final = 10_000
CACHED_NAMES_MAX: Final = 30_000  # of all directories
LOOKED_UP_MAX: Final = 4_096  # names that were looked for one by one

HEAD = Statement("SELECT f.head FROM pgstore.file_system f WHERE f.store_id = $1", "int8", read_only=True)
# A commit under way ends before this is had, and then no other begins.
LOCK_HEAD = Statement("SELECT 1 FROM pgstore.file_system f WHERE f.store_id = $1 FOR UPDATE", "int8")
# The same, without waiting: no row if somebody has the lock, too.
TRY_LOCK_HEAD = Statement("SELECT 1 FROM pgstore.file_system f WHERE f.store_id = $1 FOR UPDATE SKIP LOCKED", "int8")
# Whether one of the new inodes $2 was written; or, in version $3, one of the inodes $4 with the ctime $5.
IS_WRITTEN = Statement(
    """
    SELECT EXISTS (SELECT
                     FROM pg_catalog.unnest($2) AS u (ino)
                    CROSS JOIN LATERAL (
                          SELECT 1
                            FROM pgstore.inode i
                           WHERE i.store_id = $1
                             AND i.ino::bigint = u.ino
                           LIMIT 1) i)
           OR EXISTS (SELECT
                        FROM unnest($4, $5) AS u (ino, ctime_ns)
                       CROSS JOIN LATERAL (
                             SELECT 1
                               FROM pgstore.inode i
                              WHERE i.store_id = $1
                                AND i.ino::bigint = u.ino
                                AND i.version_from = $3
                                AND i.ctime_ns = u.ctime_ns
                              LIMIT 1) i)
    """,
    "int8 int8[] int8 int8[] int8[]",
    read_only=True,
)
SIGNS_MAX: Final = 1_000  # rows that are looked for to find out about a commit


class HeldFileSystem:
    """
    The Volume *store_id*, from `begin` to `end`.

    Args:
        missing: makes the error that there is no such store.
        read_only: the role may not write: no version is pinned, and a read raises `VersionGone` once the version is not kept any
            more.
    """

    def __init__(
        self, session: Session, store_id: int, missing: Callable[[], Exception], *, read_only: bool = False
    ) -> None:
        self.session = session
        self.store_id = store_id
        self._missing = missing
        self._read_only = read_only
        self._history = session.history
        self._pinned: int | None = None
        self._doubtful: _Doubtful | None = None
        self.moves = 0
        """Grows when it goes on to another version, and is odd meanwhile: what is read is right if it is even, and stays so."""
        self.changes = HeldChanges(store_id, missing, 0, abandon=self._abandon)
        self.tree = HeldTree(session, store_id, self.changes)

    @property
    def version(self) -> int:
        """The version that is read."""
        return self.changes.base

    def begin(self, version: int | None = None) -> Op[None]:
        """
        Begin with *version*; None: the newest.

        Raises:
            VersionGone: it is not kept any more.
            StoreGone: there is no such Volume.
        """
        yield from self._go_to(version)

    def end(self) -> Op[None]:
        """Give the version back. What was not committed is lost."""
        yield from self._pin(None)

    def session_id(self) -> Op[int]:
        """The session to which blobs of new contents have to belong."""
        self.changes.session_id = yield from self.session.current()
        return self.changes.session_id

    def reload(self) -> Op[int]:
        """Go on to the newest version. What is not committed is laid over it. Returns the version."""
        yield from self.find_outcome()
        yield from self._go_to(None)
        return self.version

    def is_there(self) -> Op[bool]:
        """Whether the Volume was not deleted."""
        return bool((yield Query(HEAD, self.store_id)))

    def _go_to(self, version: int | None) -> Op[None]:
        if version is None:
            rows: Rows = yield Query(HEAD, self.store_id)
            if not rows:
                raise StoreGone
            version = rows[0][0]
        if version != self.version or self._pinned is None:
            yield from self._pin(version)
            with self._moving():
                self.changes.rebase(version)
                self.tree.go_to(version)
            yield from self._merge_directories()

    def _merge_directories(self) -> Op[None]:
        """New directories become one with those that others have made meanwhile, level by level."""
        merged = True
        while merged:
            merged = False
            for made in self.changes.new_directories():
                try:
                    theirs = yield from self.tree.rows.named(made.parent, made.name)
                except (errors.StaleFile, errors.NotADirectory):
                    continue  # which the commit will say
                if theirs is not None and theirs.is_directory:
                    with self._moving():
                        self.changes.become_one(made, theirs.ino)
                    merged = True

    def _pin(self, version: int | None) -> Op[None]:
        if self._read_only:
            return
        pins = pins_of(self.session)
        if version is not None:
            yield from pins.keep(version_of(self.store_id, version))
        before, self._pinned = self._pinned, version
        if before is not None:
            pins.release_later(version_of(self.store_id, before))

    def commit(self, *, without: Collection[int] = (), load: Callable[[int], bytes] | None = None) -> Op[int | None]:
        """
        Make a version of what was changed since the last commit; return it. None: nothing was.

        If nobody else has committed meanwhile, it is what is read from now on. Else the version that is read stays, with all own
        changes laid over it, until `reload`. After an error all is as it was: it may be tried again.

        Args:
            without: inodes that keep their old state, or their absence, in the version: files that are open for writing.
            load: as in `handover.write`.

        Raises:
            ConflictError: it cannot be merged with what others have done.
            OutcomeUnknown: the connection broke, and it may have been committed. The next commit or reload finds out.
        """
        version = yield from self.find_outcome()
        part = self.changes.part(without)
        if part.is_empty:
            return version
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return (yield from self._commit(part, load))
            except errors.SerializationConflict:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _commit(self, part: Part, load: Callable[[int], bytes] | None) -> Op[int]:
        if self.session.history is not self._history:
            raise errors.StaleFile(
                "the database was replaced, by a restore or another server, after this mount had begun; mount it again"
            )
        doubtful: _Doubtful | None = None

        def body(tree: Tree) -> Op[_Doubtful]:
            nonlocal doubtful
            doubtful = _Doubtful(part, (yield from handover.write(tree, part, load)))
            return doubtful

        files = FileSystem(self.session, self.store_id, VersionedChanges, self._missing)
        try:
            done = yield from files.change(body, repeatable=False)
        except errors.OutcomeUnknown:
            self._doubtful = doubtful
            raise
        return (yield from self.settle(part, done.written))

    def hand_over(self, without: Collection[int] = ()) -> Part:
        """What was changed since the last commit, for a transaction of somebody else's to write (`handover.write`)."""
        part = self.changes.part(without)
        self.changes.lend(part)
        return part

    def handed_over(self, part: Part, written: Written) -> None:
        """A transaction has written *part*, and not ended yet. `find_outcome` finds out whether it was committed."""
        self._doubtful = _Doubtful(part, written)

    @property
    def is_handed_over(self) -> bool:
        """Whether a transaction has written all that was changed, and its outcome is not known."""
        if self._doubtful is None:
            return False
        return not self.changes.has_uncommitted if self.changes.is_lent else self.changes.part() == self._doubtful.part

    def taken_back(self) -> None:
        """What was handed over was rolled back."""
        self._doubtful = None
        self.changes.take_back()

    def find_outcome(self, *, wait: bool = True) -> Op[int | None]:
        """
        Find out whether a commit whose answer was lost, or that is somebody else's, has happened. Returns its version; None: there
        is no such, or it was rolled back.

        Args:
            wait: for the end of whichever transaction is committing to the Volume.

        Raises:
            OutcomeUnknown: one is, and it was not waited for.
        """
        doubtful = self._doubtful
        if doubtful is None:
            return None
        is_written = yield from atomic(self._is_written(doubtful, wait=wait))
        self._doubtful = None
        if not is_written:
            self.changes.take_back()
            return None
        return (yield from self.settle(doubtful.part, doubtful.written))

    def _is_written(self, doubtful: _Doubtful, *, wait: bool) -> Op[bool]:
        """By its rows, and not by the number of its transaction, which after a crash may be another's."""
        part, version = doubtful.part, doubtful.written.version
        new = [each.node.ino for each in part.new[:SIGNS_MAX]]
        times = {ino: attributes["ctime_ns"] for ino, attributes in part.attributes.items() if "ctime_ns" in attributes}
        signs = [*part.touched.items(), *times.items()][:SIGNS_MAX]
        find = Query(IS_WRITTEN, self.store_id, new, version, [ino for ino, _ in signs], [at_ns for _, at_ns in signs])
        locked, ((is_written,),) = yield Many([Query(LOCK_HEAD if wait else TRY_LOCK_HEAD, self.store_id), find])
        if not locked and not wait and (yield Query(HEAD, self.store_id)):
            raise errors.OutcomeUnknown(
                "what was written was handed over to a transaction that has not ended: commit again when it has"
            )
        if not locked:
            raise StoreGone
        return bool(is_written)

    def settle(self, part: Part, written: Written) -> Op[int]:
        """A transaction, perhaps that of another process, has *written* a *part* of the changes, and was committed."""
        with self._moving():
            moves_on = self.changes.settled(part, written.version, written.merged)
            if moves_on:
                changed = {each.parent for each in part.names}
                removed = (each.change.removed for each in part.names)
                inodes = {*part.attributes, *part.named_again, *(each.ino for each in removed if each is not None)}
                self.tree.go_to(written.version, changed, inodes)
        if moves_on:
            yield from self._pin(written.version)
        return written.version

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        """Around what changes the version and what is laid over it: others may read one of them without the other."""
        self.moves += 1
        try:
            yield
        finally:
            self.moves += 1

    def _abandon(self, blob_id: int) -> None:
        self.session.later(partial(_abandon, self.store_id, blob_id, self.changes.session_id))


class _Doubtful(NamedTuple):
    """A commit that was asked for: of what, as what."""

    part: Part
    written: Written


def _abandon(store_id: int, blob_id: int, session_id: int | None) -> Op[None]:
    yield Query(ABANDON, store_id, blob_id, session_id)


class HeldTree(Tree):
    """The version, and what is laid over it."""

    is_exact = False
    inodes_at_once = INODES_AT_ONCE

    def __init__(self, session: Session, store_id: int, changes: HeldChanges) -> None:
        super().__init__(session, store_id, changes, changes.base)
        self._held = changes
        self._rows = self._cached = HeldRows(store_id, self)

    def go_to(self, version: int, changed: Collection[int] | None = None, inodes: Collection[int] = ()) -> None:
        """Read *version* from now on. It differs in the directories *changed*, and in *inodes*; None: perhaps in all."""
        self.version = version
        self._cached.go_to(version, changed, inodes)

    @property
    def held(self) -> HeldChanges:
        return self._held

    def node_as_changed(self, node: Node) -> Node:
        return self._held.as_changed(node)


class _Listed:
    """All of a directory."""

    def __init__(self, names: list[NamedNode]) -> None:
        self.names = [named.name for named in names]
        self.inos = {named.name: named.node.ino for named in names}


class HeldRows(NodeRows):
    """The nodes of the version, kept once they were read, and those that the changes keep."""

    def __init__(self, store_id: int, tree: HeldTree) -> None:
        super().__init__(store_id, tree.version, tree.read)
        self._changes = tree.held
        self._listed: OrderedDict[int, _Listed] = OrderedDict()  # the one read last at the end
        self._nodes: dict[int, Node] = {}
        self._looked_up: dict[tuple[int, bytes], Node | None] = {}  # in such as are in no listing
        self._count = 0  # names in _listed
        self._large: dict[int, int] = {}  # directories that have more names than so many
        self._directories: dict[int, int] = {}  # in which of the listed ones an inode is
        self._small = SmallFiles(self._nodes.get)

    def go_to(self, version: int, changed: Collection[int] | None, inodes: Collection[int]) -> None:
        self._version = version
        self._looked_up = {}
        if changed is None:
            self._listed.clear()
            self._nodes.clear()
            self._large.clear()
            self._directories.clear()
            self._small.forget()
            self._count = 0
        else:
            self._small.forget(inodes)
            for directory in changed:
                self._forget(directory)
                self._nodes.pop(directory, None)
            for ino in inodes:
                self._nodes.pop(ino, None)

    def node(self, ino: int, *, with_contents: bool = False) -> Op[Node | None]:
        kept = self._changes.kept(ino)
        if kept is None:
            known = self._small.get(ino) if with_contents else self._nodes.get(ino)
            if known is not None:
                return known
            version = self._version
            if with_contents and ino in self._directories:
                return (yield from self._read_ahead(ino, version))
            found = yield from super().node(ino, with_contents=with_contents)
            if found is not None and version == self._version:
                if ino == ROOT:
                    self._nodes[ino] = found  # in no listing, and asked for most
                if (
                    with_contents
                ):  # the kernel opens what it knows the name of without looking it up, so nothing is listed
                    self._small.keep((found,))
            return found
        node = kept.node
        if with_contents and node.size_bytes and node.inline_data is None and node.blob_id is None:
            # It was read without them, before it lost its name.
            there = yield from super().node(ino, with_contents=True)
            if there is not None:
                node = node._replace(inline_data=there.inline_data, blob_id=there.blob_id, chunk_size=there.chunk_size)
        return node

    def _read_ahead(self, ino: int, version: int) -> Op[Node | None]:
        wanted = self._small.to_read(ino, self._beside)
        if len(wanted) == 1:
            nodes = [node for node in [(yield from super().node(ino, with_contents=True))] if node is not None]
        else:
            nodes = yield from super().with_contents(wanted)
        if version == self._version:
            self._small.keep(node for node in nodes if node.ino in self._directories)
        return next((node for node in nodes if node.ino == ino), None)

    def _beside(self, ino: int) -> Iterable[int] | None:
        """All inodes of the directory that *ino* is in."""
        listed = self._listed.get(self._directories.get(ino, 0))
        return None if listed is None else listed.inos.values()

    def named(self, directory: int, name: bytes, *, with_contents: bool = False) -> Op[Node | None]:
        if self._is_new(directory):
            return None
        listed = self._listed.get(directory)
        if listed is None and self._large.get(directory, 0) < LOOK_UP_NAMES_MAX:
            listed = yield from self._list(directory, LOOK_UP_NAMES_MAX)
        if listed is None:
            return (yield from self._named_in_large(directory, name, with_contents=with_contents))
        ino = listed.inos.get(name)
        return None if ino is None else (yield from self.node(ino, with_contents=with_contents))

    def _named_in_large(self, directory: int, name: bytes, *, with_contents: bool) -> Op[Node | None]:
        """A kernel looks up what it then renames or removes."""
        looked_up = self._looked_up
        if not with_contents and (directory, name) in looked_up:
            return looked_up.get((directory, name))
        found = yield from super().named(directory, name, with_contents=with_contents)
        if len(looked_up) >= LOOKED_UP_MAX:
            looked_up = self._looked_up = {}
        looked_up[directory, name] = found  # of a version gone by: then this dict is no longer asked
        return found

    def page(self, directory: int, after: bytes, count: int) -> Op[list[NamedNode]]:
        if self._is_new(directory):
            return []
        listed = self._listed.get(directory)
        if listed is None and not after and self._large.get(directory, 0) < LISTED_NAMES_MAX:
            listed = yield from self._list(directory, LISTED_NAMES_MAX)
        if listed is None:
            return (yield from super().page(directory, after, count))
        start = bisect_right(listed.names, after) if after else 0
        page = []
        for name in listed.names[start : start + count]:
            node = yield from self.node(listed.inos[name])
            if node is not None:
                page.append(NamedNode(name, node))
        return page

    def parent(self, directory: int) -> Op[int]:
        kept = self._changes.kept(directory)
        if kept is not None and kept.node.link_count:
            if kept.parent is None:
                raise not_a_directory(directory)
            return kept.parent
        if kept is not None:
            raise gone(directory)
        return (yield from super().parent(directory))

    def _is_new(self, directory: int) -> bool:
        """Whether the version has no such directory, which the changes have made."""
        kept = self._changes.kept(directory)
        if kept is None:
            return False
        if kept.node.kind != DIRECTORY:
            raise not_a_directory(directory)
        if kept.node.link_count < 1:
            raise gone(directory)
        return True

    def _list(self, directory: int, names_max: int) -> Op[_Listed | None]:
        """Read all of *directory*; None: it has more than *names_max* names."""
        version = self._version
        page = yield from super().page(directory, b"", names_max + 1)
        if len(page) > names_max:
            self._large[directory] = names_max
            return None
        listed = _Listed(page)
        if version != self._version or directory in self._listed:  # another thread has gone on, or was quicker
            return listed
        self._listed[directory] = listed
        self._nodes.update((named.node.ino, named.node) for named in page)
        self._directories.update((named.node.ino, directory) for named in page)
        self._count += len(page)
        while self._count > CACHED_NAMES_MAX and len(self._listed) > 1:
            self._forget(next(iter(self._listed)))
        return listed

    def _forget(self, directory: int) -> None:
        self._large.pop(directory, None)
        listed = self._listed.pop(directory, None)
        if listed is not None:
            self._count -= len(listed.names)
            for ino in listed.inos.values():
                self._nodes.pop(ino, None)
                self._directories.pop(ino, None)
            self._small.forget(listed.inos.values())
