"""What file stores are and have in common: their creation, the tree to read, and how it is changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

from pgstore import errors
from pgstore.client import Client
from pgstore.core.numbers import as_int
from pgstore.core.operation import BeforeCommit, Call, LookAgain, Op, Query, atomic
from pgstore.files.changes import ChangeSet
from pgstore.files.collect import collect_in_passing
from pgstore.files.contents import StoreGone
from pgstore.files.history import VersionPin
from pgstore.files.merge import MergingChanges
from pgstore.files.tree import CREATE_FILE_SYSTEM, CREATE_ROOT, NEWEST, Tree
from pgstore.handle import Store
from pgstore.registry import Facts

T = TypeVar("T")

CHUNK_BYTES_MIN = 4096
CHUNK_BYTES_MAX = 16 * 1024 * 1024  # what a statement may carry several of
LARGE_OBJECT_BYTES = 1024 * 1024
VERSIONS_KEPT = 10
COLLECT_SECONDS = 60.0  # from a change to collecting: at most one round a minute
COLLECT_AGAIN_SECONDS = 300.0  # to the next round of what was not finished
ATTEMPTS = 10  # of an operation that others keep coming between
FOREIGN_KEY_VIOLATION = "23503"  # contents that were to be shared have just been collected, for their file is gone
STORAGES = {"rows": "r", "large_object": "l"}
MODE_MAX = 0o7777  # permission bits
# In what handles on one store may differ, and a pickled one keeps.
_VARIANT = ("_version", "_version_pin", "_refusal", "_mount_options")


class FileStoreBase(Store):
    """The ground of Volume and NetworkFileSystem."""

    _name_space: ClassVar = "volume"
    _changes_class: ClassVar[type[MergingChanges]]
    _chunk_bytes: ClassVar[int]

    _option_defaults: ClassVar = {"storage": "rows", "keep": VERSIONS_KEPT}

    _version: int = NEWEST  # to read
    _version_pin: VersionPin | None = None  # which keeps it
    _refusal: str | None = None  # why this handle does not write

    @classmethod
    def from_name(
        cls,
        label: str | None = None,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
        storage: str | None = None,
        chunk_size: int | None = None,
    ) -> Self:
        """
        Return a handle on the store of this name; it is looked up on first use.

        Args:
            label: the name, 1 to 64 of A-Z a-z 0-9 . _ - (also accepted as *name*).
            environment_name: None: the client's.
            create_if_missing: create it on first use; else using it raises `NotFoundError`.
            client: None: the default client.
            storage: where the bytes of large files live: "rows" (the default), or "large_object", PostgreSQL's large objects, which
                suit large files that are written in small places at random.
            chunk_size: bytes that are stored, and rewritten, together; 4 KiB to 16 MiB. Only for "rows".

        The last two are fixed at creation. None leaves them as they are, or at their defaults.

        Raises:
            InvalidError: the name cannot be one; on first use, the store was created with other options.
        """
        store = super().from_name(
            label, name=name, environment_name=environment_name, create_if_missing=create_if_missing, client=client
        )
        store._options = cls._checked_options(storage=storage, chunk_size=chunk_size)
        return store

    @classmethod
    def _checked_options(cls, *, storage: str | None, chunk_size: int | None) -> dict[str, Any]:
        if storage is not None and storage not in STORAGES:
            raise errors.InvalidError(f"storage {storage!r} is none of {', '.join(map(repr, STORAGES))}")
        if chunk_size is not None:
            chunk_size = check_number(chunk_size, "chunk_size", CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
            if storage == "large_object":
                raise errors.InvalidError("chunk_size is for storage 'rows'; large objects have 1 MiB")
        given = {"storage": storage, "chunk_size": chunk_size}
        return {name: value for name, value in given.items() if value is not None}

    def _created(self, store_id: int) -> Op[None]:
        storage = self._options.get("storage", "rows")
        default = LARGE_OBJECT_BYTES if storage == "large_object" else self._chunk_bytes
        chunk_size = self._options.get("chunk_size", default)
        kept = self._options.get("keep", VERSIONS_KEPT)
        yield Query(CREATE_FILE_SYSTEM, store_id, chunk_size, STORAGES[storage], kept)
        yield Query(CREATE_ROOT, store_id)

    def _accept(self, facts: Facts) -> Facts:
        if facts.options.get("storage") == "large_object" and "chunk_size" in self._options:
            raise errors.InvalidError(f"{self!r} has large objects of 1 MiB; leave chunk_size= out")
        return super()._accept(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        variant = {name: value for name, value in self.__dict__.items() if name in _VARIANT}
        return (*super().__reduce__(), variant)

    # ---------------------------------------------------------------------------------------------- reading, changing

    def _tree(self) -> Op[Tree]:
        """The tree to read, as the current transaction sees it."""
        store_id = yield from self._locate()
        if self._version_pin is not None:
            try:
                yield from self._version_pin.ensure(self._runner, store_id)
            except StoreGone:
                yield from self._is_gone(store_id)
        if self._version != NEWEST:
            return Tree(self._runner.session, store_id, None, self._version, in_place=self._changes_class.in_place)
        enrolment = yield from self._enrol(store_id)
        participant = None if enrolment is None else enrolment.participant
        return Tree(self._runner.session, store_id, participant, in_place=self._changes_class.in_place)

    def _enrol(self, store_id: int) -> Op[Any]:
        return (yield BeforeCommit((ChangeSet, store_id), partial(self._changes_class, store_id, self._missing)))

    def _reading(self, tree: Tree, body: Op[T]) -> Op[T]:
        """Run *body*; where it misses something, find out whether it is the whole store."""
        try:
            return (yield from body)
        except errors.FileMissing:
            yield from self._check_exists(tree.store_id)
            raise

    def _change(
        self,
        body: Callable[[Tree], Op[T]],
        *,
        repeatable: bool = True,
        single: bool = False,
        again: Callable[[], object] | None = None,
    ) -> Op[T]:
        """
        Run *body* in a transaction of its own, or as a part of the current one that happens or does not.

        Args:
            single: it reads nothing that it has made, so that making that can wait for the commit.
            repeatable: what others did may have made it fail, and it may run again to see for itself.
            again: called before it runs again. Blocking.
        """
        if self._refusal is not None:
            raise errors.InvalidError(self._refusal)
        store_id = yield from self._locate()
        outer = yield from self._enrol(store_id)

        def change() -> Op[T]:
            enrolment = yield from self._enrol(store_id)
            changes: ChangeSet = enrolment.participant
            changes.is_single = single and outer is None
            tree = Tree(self._runner.session, store_id, changes, in_place=changes.in_place)
            result = yield from self._reading(tree, body(tree))
            if enrolment.immediate or changes.full:
                yield from changes.flush()
            return result

        attempt = 1 if repeatable and outer is None else ATTEMPTS
        while True:
            try:
                result = yield from atomic(change())
                self._collect_later(store_id)
                return result
            except StoreGone:
                try:
                    yield from self._is_gone(store_id)
                except LookAgain:
                    if attempt >= ATTEMPTS:
                        raise
                attempt = ATTEMPTS
                store_id = yield from self._locate()
            except (errors.ConflictError, errors.SerializationConflict, errors.StatementFailed) as exc:
                if isinstance(exc, errors.StatementFailed) and exc.sqlstate != FOREIGN_KEY_VIOLATION:
                    raise
                if attempt >= ATTEMPTS:
                    raise
                attempt += 1
            if again is not None:
                yield Call(again)

    def _collect_later(self, store_id: int) -> None:
        """After a change: leave the collection of what it made superfluous to the client."""
        self._runner.chores.leave(
            ("collect", store_id),
            partial(collect_in_passing, store_id),
            COLLECT_SECONDS,
            again_seconds=COLLECT_AGAIN_SECONDS,
            can_wait=True,
        )


def check_number(value: object, noun: str, least: int, most: int) -> int:
    """Return *value* if it is a whole number of that range."""
    number = as_int(value)
    if number is None or not least <= number <= most:
        raise errors.InvalidError(f"{noun} {value!r} is not a number of {least} to {most}")
    return number
