"""Changes that are held beside transactions: what a mount of a Volume has done and not committed yet.

They are laid over one version, and made by the same verbs as those of a transaction; but nothing of them is in the database, except
the contents of larger files, which belong to the session. New inodes are kept here with their numbers.

Two layers remember them. What is laid over the version has all since that version; what is pending has all since the last commit.
They are one until a commit finds that others have committed since the version: then the version stays, and what was committed is
laid over it still, until it is replaced by a newer one (`rebase`).

A commit takes a `Part` of what is pending, which a transaction writes (`fs.tree.handover`), and only then is it `settled`. Until
that, and if it fails, all is as it was. Who changes and commits sees to it that only one does so at a time. But a transaction of
somebody else's takes its time: what is changed meanwhile is pending beside the part that it was lent (`lend`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple, NoReturn

from pgstore.core.operation import Op
from pgstore.fs.commit.change_set import Change, ChangeSet, Removal
from pgstore.fs.model import DIRECTORY, Entry, Node


class NewNode(NamedTuple):
    """A node to be written; *parent*: of a directory, the one that it is in."""

    node: Node
    parent: int | None


class NameChange(NamedTuple):
    """What is to be done to a name in a directory."""

    parent: int
    name: bytes
    change: Change


@dataclass(frozen=True)
class Part:
    """What one commit is to write. Plain values, which can be pickled for another process to write it."""

    store_id: int
    session_id: int | None
    """That has the blobs of new contents."""
    new: Sequence[NewNode] = ()
    names: Sequence[NameChange] = ()
    attributes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By inode, for inodes that existed; see `ChangeSet.set_attributes`."""
    moved: Mapping[int, int] = field(default_factory=dict)
    """Directories that were moved: where they are."""
    named_again: frozenset[int] = frozenset()
    """Files that existed and got another name."""
    touched: Mapping[int, int] = field(default_factory=dict)
    """When the last name in a directory changed, in nanoseconds since 1970; also where all is as before."""

    @property
    def is_empty(self) -> bool:
        return not (self.names or self.attributes)

    @property
    def blobs(self) -> list[int]:
        """Those of new contents."""
        of_new = (each.node.blob_id for each in self.new)
        of_old = (attributes.get("blob_id") for attributes in self.attributes.values())
        return [blob_id for blob_id in (*of_new, *of_old) if blob_id is not None]


class Layer(ChangeSet):
    """Changes that are only remembered, with what a transaction need not show of them: link counts, times of directories."""

    in_place: ClassVar = False

    def _forget_changes(self) -> None:
        super()._forget_changes()
        self.links: dict[int, tuple[int, int]] = {}  # of inodes that existed: how many names they gained, and when last
        self.touched: dict[int, int] = {}  # directories in which names changed: when last
        self._sorted: dict[int, list[bytes]] = {}

    def _merged(self) -> NoReturn:
        raise AssertionError("what is held is handed over to a transaction's change set")

    def sorted_under(self, parent: int) -> Sequence[bytes]:
        names = self._sorted.get(parent)
        if names is None:
            names = self._sorted[parent] = sorted(self._names.get(parent, ()))
        return names

    def _set(self, parent: int, name: bytes, change: Change | None, path: tuple[bytes, ...]) -> None:
        before = name in self._names.get(parent, ())
        super()._set(parent, name, change, path)
        if before != (change is not None):
            self._sorted.pop(parent, None)
        self.touched[parent] = time.time_ns()

    def count_links(self, node: Node, names: int) -> None:
        self.links[node.ino] = (self.links.get(node.ino, (0, 0))[0] + names, time.time_ns())

    def changes(self) -> Iterator[NameChange]:
        """All changes of names."""
        for parent, names in self._names.items():
            for name, change in names.items():
                yield NameChange(parent, name, change)

    def forget_names(self, parent: int) -> None:
        """Drop what was done to names in *parent*, a directory that no commit has written and that is gone."""
        for name in list(self._names.get(parent, ())):
            self._set(parent, name, None, ())
        self.touched.pop(parent, None)

    def take_over(self, changes: Collection[NameChange], other: Layer, inodes: Collection[int]) -> None:
        """Have these *changes* of *other*, and what it knows of *inodes*."""
        for parent, name, change in changes:
            self._names.setdefault(parent, {})[name] = change
            if parent in other.touched:
                self.touched[parent] = other.touched[parent]
        self._count = len(changes)
        here = set(inodes).union(each.change.entry.ino for each in changes if each.change.entry is not None)
        self._moved = {ino: parent for ino, parent in other._moved.items() if ino in here}
        self._named_again = other._named_again & here
        self._attributes = {ino: new for ino, new in other._attributes.items() if ino in inodes}
        self.links = {ino: links for ino, links in other.links.items() if ino in here}
        self._made = {ino: kind for ino, kind in other._made.items() if ino in here}

    def lay_over(self, other: Layer) -> None:
        """Have what *other* has as well, as if it were done now."""
        for parent, name, (entry, removed, *_) in other.changes():
            if removed is not None:
                self.remove(parent, name, removed, other.path_of(parent))
            if entry is not None:
                self.put(parent, name, entry, other.path_of(parent))
        for ino, attributes in other._attributes.items():
            self._attributes[ino] = {**self._attributes.get(ino, {}), **attributes}
        for ours, theirs in ((self._moved, other._moved), (self._made, other._made), (self.touched, other.touched)):
            ours.update(theirs)  # type: ignore[arg-type]
        self._named_again |= other._named_again
        for ino, (names, at_ns) in other.links.items():
            self.links[ino] = self.links.get(ino, (0, 0))[0] + names, at_ns


_LAYER: Final = (
    *("_names", "_count", "_made", "_moved", "_attributes", "_named_again", "_file_paths", "_paths"),
    *("links", "touched", "_sorted"),
)


class HeldChanges(Layer):
    """
    What a mount of a Volume has changed since *base*, the version that it reads. This layer is laid over that.

    Args:
        session_id: the session to which the blobs of new contents belong; None: there are none yet.
        abandon: called with a blob of new contents that will never be those of a file.
    """

    def __init__(
        self,
        store_id: int,
        missing: Callable[[], Exception],
        base: int,
        *,
        abandon: Callable[[int], None],
    ) -> None:
        self.base = base
        self.session_id: int | None = None
        # As they are now: inodes that the version does not have, and such as have lost their last name since.
        self.new: dict[int, NewNode] = {}
        self.unwritten: set[int] = set()  # those of them that no commit has written
        self._pending: Layer = self
        self._lent: tuple[Layer, set[int]] | None = (
            None  # what was pending when a part was lent, and the part's new inodes
        )
        self._now_called: dict[int, int] = {}  # directories that a commit has merged into those of others
        self._abandon = abandon
        super().__init__(store_id, missing)

    # --------------------------------------------------------------------------------------------------------- reading

    @property
    def is_diverged(self) -> bool:
        """Whether something was committed that the version that is read does not have."""
        return self._pending is not self

    @property
    def uncommitted(self) -> set[int]:
        """Files and directories that are new, or whose attributes or contents are, since the last commit."""
        return {ino for ino in self.unwritten if self.new[ino].node.link_count} | self._pending._attributes.keys()

    @property
    def has_uncommitted(self) -> bool:
        return self._pending.any

    def kept(self, ino: int) -> NewNode | None:
        return self.new.get(ino)

    def is_removed(self, ino: int) -> bool:
        """Whether an inode has lost its last name."""
        new = self.new.get(ino)
        return new is not None and new.node.link_count < 1

    def as_changed(self, node: Node) -> Node:
        """*node* of the version with what has changed since."""
        if node.ino in self.new:
            return node
        if (links := self.links.get(node.ino)) is not None:
            node = node._replace(link_count=max(0, node.link_count + links[0]), ctime_ns=max(node.ctime_ns, links[1]))
        if (at := self.touched.get(node.ino)) is not None:
            node = node._replace(mtime_ns=max(node.mtime_ns, at), ctime_ns=max(node.ctime_ns, at))
        attributes = self._attributes.get(node.ino)
        return node if attributes is None else node.changed(attributes)

    # -------------------------------------------------------------------------------------------------------- changing

    def keep(self, node: Node, parent: int | None) -> bool:
        self.new[node.ino] = NewNode(node, parent)
        self.unwritten.add(node.ino)
        return True

    def note_created(self, ino: int, *, exclusive: bool = False) -> None:
        """Which directories are new is known by their nodes."""

    def make(self, parent: int, name: bytes, entry: Entry, path: tuple[bytes, ...], **conditions: Any) -> None:
        self.put(parent, name, entry, path, **conditions)

    def put(self, parent: int, name: bytes, entry: Entry, path: tuple[bytes, ...], **conditions: Any) -> None:
        super().put(parent, name, entry, path, **conditions)
        if self._pending is not self:
            self._pending.put(parent, name, entry, path, **conditions)
        self._touch_new(parent)

    def move(self, parent: int, name: bytes, entry: Entry, path: tuple[bytes, ...], **conditions: Any) -> None:
        super().move(parent, name, entry, path, **conditions)  # which calls `put`
        if self._pending is not self and entry.ino in self._moved:
            self._pending._moved[entry.ino] = parent

    def remove(self, parent: int, name: bytes, removal: Removal, path: tuple[bytes, ...]) -> None:
        super().remove(parent, name, removal, path)
        if self._pending is not self:
            self._pending.remove(parent, name, removal, path)
        self._touch_new(parent)

    def _touch_new(self, parent: int) -> None:
        new = self.new.get(parent)
        if new is not None:
            now_ns = self.touched[parent]
            self.new[parent] = new._replace(node=new.node._replace(mtime_ns=now_ns, ctime_ns=now_ns))

    def name_again(self, ino: int) -> None:
        if ino not in self.new:
            self._named_again.add(ino)
        if ino not in self.unwritten:
            self._pending._named_again.add(ino)

    def count_links(self, node: Node, names: int) -> None:
        now = node._replace(link_count=node.link_count + names, ctime_ns=time.time_ns())
        new = self.new.get(node.ino)
        if new is not None:
            self.new[node.ino] = new._replace(node=new.node._replace(link_count=now.link_count, ctime_ns=now.ctime_ns))
        elif now.link_count < 1:
            self.new[node.ino] = NewNode(now, None)
        else:
            super().count_links(node, names)
        if self._pending is not self and node.ino not in self.unwritten:
            self._pending.count_links(node, names)

    def set_attributes(self, ino: int, kind: str, attributes: Mapping[str, Any], path: tuple[bytes, ...]) -> Op[None]:
        new = self.new.get(ino)
        if "blob_id" in attributes:
            self._supersede(ino, attributes["blob_id"])
        if new is not None:
            self.new[ino] = new._replace(node=new.node.changed(attributes))
        else:
            yield from super().set_attributes(ino, kind, attributes, path)
        if self._pending is not self and ino not in self.unwritten:
            yield from self._pending.set_attributes(ino, kind, attributes, path)

    def _supersede(self, ino: int, blob_id: int | None) -> None:
        """The uncommitted contents of *ino*, if there are any, become others."""
        if ino in self.unwritten:
            old = self.new[ino].node.blob_id
        else:
            old = self._pending._attributes.get(ino, {}).get("blob_id")
        if old not in (None, blob_id):
            self._abandon(old)

    def release(self, ino: int) -> None:
        """
        Forget *ino*, which has lost its last name, and which nobody has open any more; of others nothing is forgotten.

        To be called for whatever loses its last name: it is kept until then.
        """
        if self.is_removed(ino):
            self._supersede(ino, None)
            if ino in self.unwritten:
                for layer in (self, self._pending):
                    layer.forget_names(ino)
            del self.new[ino]
            self.unwritten.discard(ino)
            self._attributes.pop(ino, None)
            self._pending._attributes.pop(ino, None)

    # ------------------------------------------------------------------------------------------------------ committing

    def part(self, without: Collection[int] = ()) -> Part:
        """
        What is to be committed.

        Args:
            without: inodes that keep their old state, or their old absence, in the version: such as files that are open for
                writing.
        """
        pending = self._pending
        names = self._names_but(frozenset(without))
        put = {each.change.entry.ino for each in names if each.change.entry is not None}
        new = [self._written_now(self.new[ino]) for ino in sorted(self.unwritten & put)]
        return Part(
            self.store_id,
            self.session_id,
            new,
            [each._replace(parent=self._now(each.parent), change=self._renumbered(each.change)) for each in names],
            {
                self._now(ino): attributes
                for ino, attributes in pending._attributes.items()
                if ino not in without and not self.is_removed(ino)
            },
            {
                self._now(ino): self._now(at)
                for ino, at in pending._moved.items()
                if ino in put and ino not in self.unwritten
            },
            frozenset(ino for ino in pending._named_again & put if not self.is_removed(ino)),
            {self._now(ino): at for ino, at in pending.touched.items() if not self.is_removed(ino)},
        )

    def _names_but(self, without: frozenset[int]) -> list[NameChange]:
        """
        The pending changes of names, but of new inodes *without*.

        What was moved and is not removed from where it was is not put anywhere either: it would be in two places.
        """
        names = list(self._pending.changes())
        left_out = without & self.unwritten
        while left_out:
            stays = [each for each in names if each.change.entry is not None and each.change.entry.ino in left_out]
            if not stays:
                break
            names = [each for each in names if each.change.entry is None or each.change.entry.ino not in left_out]
            left_out = frozenset(
                each.change.removed.ino
                for each in stays
                if each.change.removed is not None and each.change.removed.how == "moved"
            )
            # And then it is not removed either from where it was before.
            names = [
                each
                for each in names
                if each.change.removed is None
                or each.change.removed.how != "moved"
                or each.change.removed.ino not in left_out
            ]
        return names

    def _written_now(self, new: NewNode) -> NewNode:
        if new.parent is None:
            return new
        return new._replace(parent=self._now(self._pending._moved.get(new.node.ino, new.parent)))

    def _now(self, ino: int) -> int:
        return self._now_called.get(ino, ino)

    def _renumbered(self, change: Change) -> Change:
        if not self._now_called:
            return change
        entry, removed = change.entry, change.removed
        return change._replace(
            entry=None if entry is None else entry._replace(ino=self._now(entry.ino)),
            removed=None if removed is None else removed._replace(ino=self._now(removed.ino)),
        )

    def lend(self, part: Part) -> None:
        """
        Somebody's transaction is to write *part*: what is changed from now on is pending beside it.

        It is to be `settled`, or to be taken back.
        """
        written = {each.node.ino for each in part.new}
        self._lent = self._pending, written & self.unwritten
        self._pending = self._rest(part)
        self.unwritten -= written

    @property
    def is_lent(self) -> bool:
        """Whether a transaction is to write a part of it."""
        return self._lent is not None

    def take_back(self) -> None:
        """The transaction that a part was lent to has not committed it: it is pending again, and what was done since over it."""
        if self._lent is None:
            return
        (before, new), since, self._lent = self._lent, self._pending, None
        self.unwritten |= new & self.new.keys()
        self._pending = before
        if before is not self:  # which has all of it
            before.lay_over(since)

    def _rest(self, part: Part) -> Layer:
        """What is pending and not in *part*."""
        done = {(each.parent, each.name) for each in part.names}
        pending = self._pending
        rest = Layer(self.store_id, self.missing)
        left = [each for each in pending.changes() if (self._now(each.parent), each.name) not in done]
        inodes = {
            ino for ino in pending._attributes if self._now(ino) not in part.attributes and not self.is_removed(ino)
        }
        rest.take_over(left, pending, inodes)
        return rest

    def settled(self, part: Part, version: int, merged: Mapping[int, int]) -> bool:
        """
        *part* was committed as *version*. Returns whether that is what is read from now on: nobody else has committed since `base`.

        Args:
            merged: directories of ours that have become part of others' (`MergingChanges.merged_directories`).
        """
        self._now_called.update(merged)
        for ours, theirs in self._now_called.items():
            self._now_called[ours] = merged.get(theirs, theirs)
        if self._lent is None:
            before, rest = self._pending, self._rest(part)
        else:
            (before, _), rest, self._lent = self._lent, self._pending, None
        written = {new.node.ino for new in part.new}
        self.unwritten -= written
        moves_on = before is self and version == self.base + 1
        if moves_on:
            self._become(rest, version)
            for ino in written:
                if not self.is_removed(ino):
                    self.new.pop(ino, None)
        else:
            self._pending = rest
        return moves_on

    def rebase(self, version: int) -> None:
        """Lay what is pending over *version*, a newer one, which has all that was committed."""
        rest = self._pending
        self.new = {ino: new for ino, new in self.new.items() if ino in self.unwritten or self.is_removed(ino)}
        if rest is not self:
            self._become(rest, version)
        self.base = version
        self._renumber()

    def new_directories(self) -> list[NameChange]:
        """The new directories that are made in such as the version has."""
        return [
            each
            for each in self._pending.changes()
            if each.change.entry is not None
            and each.change.removed is None
            and each.change.entry.ino in self.unwritten
            and each.change.entry.kind == DIRECTORY
            and each.parent not in self.new
        ]

    def become_one(self, made: NameChange, theirs: int) -> None:
        """The version, just gone to, has directory *theirs* where *made* is one: they become one, as the commit would have it."""
        assert made.change.entry is not None
        ours = made.change.entry.ino
        del self._names[made.parent][made.name]
        self._sorted.pop(made.parent, None)
        del self.new[ours]
        self.unwritten.discard(ours)
        self._now_called[ours] = theirs
        self._renumber()

    def _renumber(self) -> None:
        """What is pending in directories that were merged into others is in those from now on."""
        for ours, theirs in self._now_called.items():
            for name, change in self._names.pop(ours, {}).items():
                self._names.setdefault(theirs, {})[name] = change
            if ours in self.touched:
                self.touched[theirs] = max(self.touched.pop(ours), self.touched.get(theirs, 0))
            if ours in self._attributes:
                self._attributes[theirs] = {**self._attributes.get(theirs, {}), **self._attributes.pop(ours)}
            self._sorted.pop(theirs, None)
        if self._now_called:
            for names in self._names.values():
                names.update((name, self._renumbered(change)) for name, change in names.items())
            self._moved = {self._now(ino): self._now(parent) for ino, parent in self._moved.items()}
            self.new = {
                ino: new if new.parent is None else new._replace(parent=self._now(new.parent))
                for ino, new in self.new.items()
            }
            self._names = {parent: names for parent, names in self._names.items() if names}
            self._count = sum(map(len, self._names.values()))

    def _become(self, layer: Layer, version: int) -> None:
        for name in _LAYER:
            setattr(self, name, getattr(layer, name))
        self._pending, self.base = self, version
