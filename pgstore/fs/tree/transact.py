"""Transactions of a file system, without a store: what each of its operations runs in, repeated where others came between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client.session import Session
from pgstore.core.operation import BeforeCommit, Call, Op, atomic
from pgstore.fs.commit.change_set import ChangeSet
from pgstore.fs.retention.collection import collect_in_passing
from pgstore.fs.tree.resolve import Tree

T = TypeVar("T")

ATTEMPTS: Final = 10  # of an operation that meets a conflict each time
COLLECT_SECONDS: Final = 60.0  # from a change to a round of collection, so there is at most one a minute
COLLECT_AGAIN_SECONDS: Final = 300.0  # to the next round, if one could not finish
FOREIGN_KEY_VIOLATION: Final = (
    "23503"  # a copy was to share contents that have just been collected, for their file is gone
)


@dataclass(frozen=True, slots=True)
class FileSystem:
    """
    A file system by its number.

    Args:
        changes_class: the change set of its kind, `VersionedChanges` or `LiveChanges`.
        missing: makes the error that there is no such store.
    """

    session: Session
    store_id: int
    changes_class: type[ChangeSet]
    missing: Callable[[], Exception]

    @property
    def change_set(self) -> BeforeCommit:
        """The request for the change set of the current transaction."""
        return BeforeCommit((ChangeSet, self.store_id), partial(self.changes_class, self.store_id, self.missing))

    def tree(self) -> Op[Tree]:
        """The tree to read, as the current transaction sees it."""
        hooked = yield self.change_set
        changes = None if hooked is None else hooked.hook
        return Tree(self.session, self.store_id, changes, in_place=self.changes_class.in_place)

    def change(
        self,
        body: Callable[[Tree], Op[T]],
        *,
        repeatable: bool = True,
        single: bool = False,
        again: Callable[[], object] | None = None,
    ) -> Op[T]:
        """
        Run *body* in a transaction of its own; in the current one, as a part that happens or does not. Returns its result.

        Args:
            repeatable: *body* may run again if it meets a conflict. Outside a transaction it then does, up to `ATTEMPTS` times.
            single: *body* reads nothing that it has made, so that all of it is sent with the commit.
            again: called before *body* runs again. It may block.

        Raises:
            StoreGone: the file system does not exist any more.
        """
        change_set = self.change_set
        outer = yield change_set

        def change() -> Op[T]:
            hooked = yield change_set
            changes: ChangeSet = hooked.hook
            changes.is_single = single and outer is None
            tree = Tree(self.session, self.store_id, changes, in_place=changes.in_place)
            result = yield from body(tree)
            if hooked.immediate or changes.full:
                yield from changes.flush()
            return result

        attempt = 1 if repeatable and outer is None else ATTEMPTS
        while True:
            try:
                result = yield from atomic(change())
                self.collect_later()
                return result
            except (errors.ConflictError, errors.SerializationConflict, errors.StatementFailed) as exc:
                if isinstance(exc, errors.StatementFailed) and exc.sqlstate != FOREIGN_KEY_VIOLATION:
                    raise
                if attempt >= ATTEMPTS:
                    raise
                attempt += 1
            if again is not None:
                yield Call(again)

    def collect_later(self) -> None:
        """After a change: have the client collect in the background what the change has made superfluous."""
        self.session.client.scheduler.leave(
            ("collect", self.store_id),
            partial(collect_in_passing, self.store_id),
            COLLECT_SECONDS,
            again_seconds=COLLECT_AGAIN_SECONDS,
            can_wait=True,
        )
