"""What each operation of a file store rests on: the tree to read, and changes in transactions that are repeated on a conflict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from pgstore import errors
from pgstore.core.numbers import as_int
from pgstore.core.operation import BeforeCommit, Call, Fetch, Op, Query, StaleHandle
from pgstore.core.statement import Statement
from pgstore.fs.commit.merge import MergingChanges
from pgstore.fs.history import VersionPin
from pgstore.fs.model import DIRECTORY, DIRECTORY_MODE, IN_LARGE_OBJECTS, IN_ROWS, NEWEST, ROOT, StoreGone
from pgstore.fs.tree.resolve import Tree
from pgstore.fs.tree.transact import FileSystem
from pgstore.store.handle import Store
from pgstore.store.registry import StoreRecord

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

CHUNK_BYTES_MIN = 4096
CHUNK_BYTES_MAX = 16 * 1024 * 1024  # one statement carries several
LARGE_OBJECT_BYTES = 1024 * 1024
VERSIONS_KEPT = 10
STORAGES = {"rows": IN_ROWS, "large_object": IN_LARGE_OBJECTS}
MODE_MAX = 0o7777  # permission bits
# Attributes in which handles on one store may differ, and which a pickled handle keeps.
_HANDLE_STATE = ("_version", "_version_pin", "_read_only_reason", "_mount_options")


class FileStoreBase(Store):
    """Base of the mixins that Volume and NetworkFileSystem consist of."""

    _name_space: ClassVar = "volume"
    _changes_class: ClassVar[type[MergingChanges]]
    _chunk_bytes: ClassVar[int]

    _option_defaults: ClassVar = {"storage": "rows", "keep": VERSIONS_KEPT}

    _version: int = NEWEST  # the one that is read
    _version_pin: VersionPin | None = None  # keeps that version; None: it is the newest
    _read_only_reason: str | None = None  # why this handle does not write; None: it does
    _mount_options: dict[str, Any] | None = None  # how it is mounted, where nothing else is said

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
        yield from create_file_system(store_id, chunk_size, storage, self._options.get("keep", VERSIONS_KEPT))

    def _accept(self, record: StoreRecord) -> StoreRecord:
        if record.options.get("storage") == "large_object" and "chunk_size" in self._options:
            raise errors.InvalidError(f"{self!r} has large objects of 1 MiB; leave chunk_size= out")
        return super()._accept(record)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in self.__dict__.items() if name in _HANDLE_STATE}
        return (*super().__reduce__(), state)

    # ---------------------------------------------------------------------------------------------- reading, changing

    def _tree(self) -> Op[Tree]:
        """The tree to read, as the current transaction sees it."""
        store_id = yield from self._resolve_id()
        if self._version_pin is not None:
            try:
                yield from self._version_pin.ensure(self._runner, store_id, self._change_set(store_id))
            except StoreGone:
                yield from self._is_gone(store_id)
        if self._version != NEWEST:
            return Tree(self._runner.session, store_id, None, self._version, in_place=self._changes_class.in_place)
        hooked = yield self._change_set(store_id)
        changes = None if hooked is None else hooked.hook
        return Tree(self._runner.session, store_id, changes, in_place=self._changes_class.in_place)

    def _change_set(self, store_id: int) -> BeforeCommit:
        """The request for the change set of the current transaction."""
        return self._file_system(store_id).change_set

    def _reading(self, tree: Tree, body: Op[T]) -> Op[T]:
        """Run *body*. If it finds no such file, find out whether there is no such store any more."""
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
        Run *body* in a transaction of its own; in the current one, as a part that happens or does not. Returns its result.

        Args:
            repeatable: *body* may run again if it meets a conflict. Outside a transaction it then does, up to ten times.
            single: *body* reads nothing that it has made, so that all of it is sent with the commit.
            again: called before *body* runs again. It may block.
        """
        if self._read_only_reason is not None:
            raise errors.InvalidError(self._read_only_reason)
        store_id = yield from self._resolve_id()
        files = self._file_system(store_id)
        try:
            return (
                yield from files.change(
                    lambda tree: self._reading(tree, body(tree)), repeatable=repeatable, single=single, again=again
                )
            )
        except StoreGone:
            try:
                yield from self._is_gone(store_id)
            except StaleHandle:
                if not repeatable or (yield files.change_set) is not None:
                    raise
        files = self._file_system((yield from self._resolve_id()))
        if again is not None:
            yield Call(again)
        return (yield from files.change(lambda tree: self._reading(tree, body(tree)), repeatable=False, single=single))

    def _file_system(self, store_id: int) -> FileSystem:
        return FileSystem(self._runner.session, store_id, self._changes_class, self._missing)

    def _collect_later(self, store_id: int) -> None:
        """See `FileSystem.collect_later`."""
        self._file_system(store_id).collect_later()


def check_number(value: object, name: str, least: int, most: int) -> int:
    """*value* as an int, if it is a whole number from *least* to *most*."""
    number = as_int(value)
    if number is None or not least <= number <= most:
        raise errors.InvalidError(f"{name} {value!r} is not a number of {least} to {most}")
    return number


CREATE_FILE_SYSTEM = Statement(
    """
    INSERT INTO pgstore.file_system (store_id, chunk_size_bytes, storage, versions_kept)
    VALUES ($1, $2, $3, $4)
    """,
    "int8 int4 char int4",
)
CREATE_ROOT = Statement(
    f"""
    INSERT INTO pgstore.inode (store_id, ino, kind, mode, mtime_ns, ctime_ns, parent)
    SELECT $1, {ROOT}, '{DIRECTORY}', {DIRECTORY_MODE}, n.now, n.now, {ROOT}
      FROM (SELECT (extract(epoch FROM statement_timestamp()) * 1000000000::numeric)::bigint) AS n (now)
    """,
    "int8",
)


def create_file_system(store_id: int, chunk_size: int, storage: str, versions_kept: int) -> Op[None]:
    """Make the file system of a store that was just created, with an empty root directory."""
    yield Query(CREATE_FILE_SYSTEM, store_id, chunk_size, STORAGES[storage], versions_kept)
    yield Query(CREATE_ROOT, store_id)


class Pages(Protocol[T_co]):
    """What gives its values a page at a time."""

    def page(self) -> Op[Sequence[T_co] | None]:
        """The next values, None at the end."""


def paged(begin: Callable[[], Op[Pages[T]]]) -> Fetch[T]:
    """The pages of what *begin* returns. It runs with the first page, so that making an iterator needs no server."""
    source: Pages[T] | None = None

    def fetch() -> Op[Sequence[T] | None]:
        nonlocal source
        if source is None:
            source = yield from begin()
        return (yield from source.page())

    return fetch
