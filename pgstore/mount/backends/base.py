"""What a mounted NetworkFileSystem and a mounted Volume do alike: running operations, and the files that are open."""

from __future__ import annotations

import abc
import errno
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from pgstore import errors
from pgstore.client import Client
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.content.block_cache import BlockCache
from pgstore.fs.model import DIRECTORY, FILE, ROOT, Node, StoreGone
from pgstore.fs.paths import join
from pgstore.fs.tree import nodes
from pgstore.fs.tree.resolve import Tree
from pgstore.mount.contents.failures import os_error
from pgstore.mount.contents.open_file import ContentsFile
from pgstore.mount.contents.shared import Shared
from pgstore.mount.contents.stage import Stage
from pgstore.mount.contents.under_way import UnderWay
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.protocol import Attributes, Files, OpenFile, Statistics

_LOG: Final = logging.getLogger("pgstore")
T = TypeVar("T")
C = TypeVar("C", bound=UnderWay)
F = TypeVar("F", bound=ContentsFile)

PUT_AWAY_MAX: Final = 10_000  # files of which it is known when; more than are closed while a node is being read
BLOCK_BYTES: Final = 4096
_BLOCKS: Final = 1 << 40  # 4 PiB: how much a database can hold nobody knows
_INODES: Final = 1 << 40


class StoreFiles(Files, Generic[C]):
    """
    The files of a store.

    Args:
        shared: what the contents of its files share; it has the client and the store's number.
        root: the directory that is mounted.
    """

    def __init__(self, shared: Shared, *, root: int = ROOT, read_only: bool = False) -> None:
        self._shared = shared
        self._session: Any = shared.session
        self._store_id = shared.store_id
        self.root = root
        self.read_only = read_only
        self.changes = shared.changes
        self._table = threading.Lock()  # over the next one
        self._contents: dict[int, C] = {}  # of files that are open, or whose bytes are not kept yet
        self.moment = 0
        """Grows whenever contents are put away. Whoever reads a node to open it notes it before."""
        self._put_away_at: OrderedDict[int, int] = OrderedDict()

    # ------------------------------------------------------------------------------------------------------- running

    def _run(self, make: Callable[[], Op[T]]) -> T:
        """The result of the operation that *make* makes, again and again for a while where the server is away."""
        try:
            return self._shared.within_timeout(make)
        except StoreGone:
            raise OSError(errno.ESTALE, "the store was deleted") from None
        except OSError as exc:
            if isinstance(exc.__cause__, errors.ConflictError):
                raise exc.__cause__ from None
            if exc.errno == errno.EIO:  # all that the program is told
                _LOG.error("a program is told of an input/output error: %s", exc)
            raise

    def _ask(self, make: Callable[[], Op[T]]) -> T:
        """`_run`; where nobody has to be asked, without all that asking takes."""
        try:
            return at_once(make())
        except MustAsk:
            return self._run(make)

    # --------------------------------------------------------------------------------------------------- what is open

    def _file(self, node: Node, flags: int, kind: Callable[[C, int], F], moment: int | None = None) -> F:
        """
        Open *node*, which is a file.

        Args:
            moment: the `moment` before which it was read.

        Raises:
            ReadTooEarly: what was written to it was put away meanwhile, and *node* may lack that.
        """
        if node.kind != FILE:
            raise OSError(errno.EISDIR if node.kind == DIRECTORY else errno.ENXIO, "not a file")
        with self._table:
            contents = self._contents.get(node.ino)
            if contents is None:
                if moment is not None and self._put_away_at.get(node.ino, 0) > moment:
                    raise ReadTooEarly
                contents = self._contents[node.ino] = self._new_contents(node)
            return kind(contents, flags)  # which counts it, so that it stays

    def truncate(self, ino: int, size: int, file: OpenFile | None) -> Attributes:
        opened = self.open(ino, os.O_WRONLY) if file is None else file
        assert isinstance(opened, ContentsFile)
        try:
            opened.contents.truncate(size)
        finally:
            if file is None:
                opened.release()
        return self.attributes(ino)

    @abc.abstractmethod
    def _new_contents(self, node: Node) -> C: ...

    @abc.abstractmethod
    def _is_ahead(self, contents: C) -> bool:
        """Whether *contents* have something that what is read of the store has not."""

    def _is_kept(self, contents: C) -> bool:
        """Whether *contents* are needed though nobody has them open."""
        return self._is_ahead(contents)

    def _closed(self, contents: C) -> None:
        """One of those who have *contents* open has closed it."""
        with self._table:
            if contents.open_files or self._is_kept(contents) or self._contents.get(contents.ino) is not contents:
                return
            self._put_away(contents.ino)
        contents.release()

    def _put_away(self, ino: int) -> None:
        """What contents of *ino* had is that of its node from now on. With the table."""
        self._contents.pop(ino, None)
        self.moment += 1
        put_away = self._put_away_at
        put_away[ino] = self.moment
        put_away.move_to_end(ino)
        if len(put_away) > PUT_AWAY_MAX:
            put_away.popitem(last=False)

    def _all_contents(self) -> list[C]:
        with self._table:
            return list(self._contents.values())

    def _attributes(self, node: Node) -> Attributes:
        """What stat(2) tells, with what was written here and others do not see yet."""
        size, mtime, ctime, stored = node.size_bytes, node.mtime_ns, node.ctime_ns, node.stored_bytes
        contents = self._contents.get(node.ino)
        is_passed = False
        if contents is not None and self._is_ahead(contents):
            is_passed = contents.is_passed
            contents.look()
            size, mtime = contents.size_bytes, contents.mtime_ns
            ctime = max(ctime, mtime)
            stored = contents.stored_bytes(node.size_bytes if stored is None else stored)
        return Attributes(
            *(node.ino, node.kind, node.mode, node.uid, node.gid, size, node.link_count),
            *(node.atime_ns, mtime, ctime, node.device or 0, stored, is_passed),
        )

    # ------------------------------------------------------------------------------------------------------------ rest

    def statistics(self) -> Statistics:
        free = self._shared.stage.bytes_free // BLOCK_BYTES
        return Statistics(BLOCK_BYTES, _BLOCKS, free, _INODES, _INODES)


class ReadTooEarly(Exception):
    """A node is to be read again."""


class MustAsk(Exception):
    """An operation has something to ask of the database."""


def at_once(op: Op[T]) -> T:
    """
    The result of *op*, which may have nothing to ask.

    Raises:
        MustAsk: it has. It was ended there: only what changes nothing before it asks may be tried.
        OSError: what `Shared.persistently` would make of the error that *op* has failed with.
    """
    try:
        op.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    except errors.Error as exc:
        raise os_error(exc) from exc
    op.close()
    raise MustAsk


def shared_of(client: Client, spec: MountSpec) -> Shared:
    """What the contents of the files of a mount share."""
    # Nothing in it has a name, so it may be the folder that is there for all: a daemon that is killed leaves nothing.
    stage = Stage(tempfile.gettempdir())
    return Shared(
        client, spec.store_id, stage, BlockCache(spec.cache_size, folder=spec.cache_directory), timeout=spec.timeout
    )


MAY_WRITE = Statement(
    "SELECT has_table_privilege('pgstore.inode', 'INSERT') AND NOT pg_is_in_recovery()", read_only=True
)


def may_write(shared: Shared) -> bool:
    """Whether the role of the client's connections may change files."""

    def ask() -> Op[bool]:
        ((allowed,),) = yield Query(MAY_WRITE)
        return bool(allowed)

    return shared.persistently(ask)


def root_of(shared: Shared, spec: MountSpec, tree: Callable[[], Tree]) -> int:
    """The inode of the directory that is mounted."""

    def find() -> Op[int]:
        ino = ROOT
        for name in spec.base:
            found = yield from nodes.look_up(tree(), ino, name)
            if found is None:
                raise errors.FileMissing(f"no such directory in the store: {join(spec.base)!r}", join(spec.base))
            ino = found.ino
        return ino

    return shared.run(find())
