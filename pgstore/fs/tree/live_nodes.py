"""Verbs of `nodes` on a NetworkFileSystem, each in one round trip and one commit.

Functions in the database do what the change set of a transaction comes to (see "names of a NetworkFileSystem" in sql/schema.sql).
In a transaction, which may have changed what they would look at, the verbs are those of `nodes`.

The common case of most of them is one statement, which takes less time than the function. It gives no row where it does not apply,
or others have changed the same since it began, and then the function is called.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.core import clock
from pgstore.core.operation import Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.content.blobs import ASYNC_COMMIT, UNIQUE_VIOLATION
from pgstore.fs.model import NEWEST, SYMLINK, Contents, Node
from pgstore.fs.notifications import NoticeAround, notice_around
from pgstore.fs.tree import nodes
from pgstore.fs.tree.live_statements import (
    ATTRIBUTES,
    LINK,
    LINK_AT_ONCE,
    MAKE,
    MAKE_AT_ONCE,
    REMOVE,
    REMOVE_AT_ONCE,
    RENAME,
    RENAME_AT_ONCE,
    SET_ATTRIBUTES,
    SET_ATTRIBUTES_AGAIN,
)
from pgstore.fs.tree.new_rows import LINK_MODE, reserve_inodes
from pgstore.fs.tree.node_rows import NODE, gone, not_a_directory
from pgstore.fs.tree.resolve import Tree
from pgstore.fs.tree.transact import ATTEMPTS, FileSystem

INODES_AT_ONCE: Final = 100  # numbers that are drawn from the database at a time
_BROKEN_MAX: Final = 4  # connections, in one call
# From the first attempt to the last: an earlier one is found by its rows, which collection leaves alone for ten minutes.
_REPEAT_SECONDS: Final = 300.0


class Renamed(NamedTuple):
    """What has another name now, and what was there; with RENAME_EXCHANGE it has the old name."""

    ino: int
    replaced: int | None


class LiveNodes:
    """
    The verbs of `nodes` that change names and attributes, for a NetworkFileSystem. Errors are the same.

    Args:
        durable: each returns when its commit is on the server's disk. If not, `fs.content.in_place.sync` waits for it.
    """

    def __init__(self, files: FileSystem, *, durable: bool = True) -> None:
        self._files = files
        self._store_id = files.store_id
        self._relaxed = not durable

    def make(
        self,
        directory: int,
        name: bytes,
        kind: str,
        mode: int,
        *,
        uid: int = 0,
        gid: int = 0,
        device: int | None = None,
        target: bytes | None = None,
        data: bytes | None = None,
    ) -> Op[Node]:
        """
        Make a file, directory, link, fifo, socket or device node.

        Args:
            target: of a symbolic link.
            data: contents of a file, at most `INLINE_BYTES_MAX`.
        """
        if (yield from in_transaction()):

            def make(tree: Tree) -> Op[Node]:
                where = yield from nodes.place(tree, directory, name)
                contents = nodes.EMPTY if not data else Contents(len(data), None, data)
                return (
                    yield from nodes.make_at(
                        tree, where, kind, mode, uid=uid, gid=gid, device=device, target=target, contents=contents
                    )
                )

            return (yield from self._files.change(make))
        now_ns = time.time_ns()
        (ino,) = yield from reserve_inodes(self._files.session, self._store_id, 1, at_once=INODES_AT_ONCE)
        notice = notice_around(self._store_id, directory, [(directory, name)])
        values = (directory, name, ino, kind, mode, uid, gid, device, target, data, now_ns, self._relaxed)
        rows = yield from self._call(MAKE, values, notice, at_once=MAKE_AT_ONCE, repeatable=True)
        self._check(rows[0][0], directory, name)
        size_bytes = len(target or data or b"")
        return Node(
            ino, kind, 0, mode, size_bytes, now_ns, now_ns, uid, gid, 1, target, None, None, device, None, data or None
        )

    def make_again(self, directory: int, name: bytes, made: Node) -> Op[None]:
        """Make what `make` has made, without contents, unless it is still there. Outside a transaction."""
        notice = notice_around(self._store_id, directory, [(directory, name)])
        of_file = (made.ino, made.kind, made.mode, made.uid, made.gid, made.device, made.link_target, None)
        values = (directory, name, *of_file, made.mtime_ns, self._relaxed, True)
        rows = yield from self._call(MAKE, values, notice)
        self._check(rows[0][0], directory, name)

    def make_symbolic_link(self, directory: int, name: bytes, target: bytes, *, uid: int = 0, gid: int = 0) -> Op[Node]:
        return (yield from self.make(directory, name, SYMLINK, LINK_MODE, uid=uid, gid=gid, target=target))

    def link(self, ino: int, directory: int, name: bytes, *, at_ns: int | None = None) -> Op[Node]:
        """
        Args:
            at_ns: as of `remove`.
        """
        if not (yield from in_transaction()):
            notice = notice_around(self._store_id, directory, [(directory, name)])
            now_ns = at_ns or time.time_ns()
            at_once = Query(LINK_AT_ONCE, self._store_id, directory, ino, name, now_ns, self._relaxed, *notice)
            with contextlib.suppress(
                errors.SerializationConflict, errors.StatementFailed
            ):  # which the function has again
                for _, _, *row in (yield at_once):
                    self._files.collect_later()
                    return Node(ino, *row)
            linked = Query(NODE, self._store_id, ino, NEWEST)
            values = (ino, directory, name, now_ns, self._relaxed)
            rows, found = yield from self._call(LINK, values, notice, also=linked)
            if rows[0][0] == errno.EPERM:
                raise errors.FileFailed(f"inode {ino} is a directory, which has one name only", errno=errno.EPERM)
            self._check(rows[0][0], directory, name)
            return Node(ino, *found[0])
        return (yield from self._files.change(lambda tree: nodes.link(tree, ino, directory, name)))

    def remove(self, directory: int, name: bytes, *, at_ns: int | None = None) -> Op[int]:
        """
        Returns which inode has lost the name.

        Args:
            at_ns: when; None: now. Outside a transaction. The directory's mtime and ctime are no less then.
        """
        return (yield from self._remove(directory, name, nodes.remove, is_directory=False, at_ns=at_ns))

    def remove_directory(self, directory: int, name: bytes, *, at_ns: int | None = None) -> Op[int]:
        """
        Returns which inode it was.

        Args:
            at_ns: as of `remove`.
        """
        return (yield from self._remove(directory, name, nodes.remove_directory, is_directory=True, at_ns=at_ns))

    def _remove(
        self,
        directory: int,
        name: bytes,
        verb: Callable[[Tree, int, bytes], Op[Node]],
        *,
        is_directory: bool,
        at_ns: int | None = None,
    ) -> Op[int]:
        if (yield from in_transaction()):
            return (yield from self._files.change(lambda tree: verb(tree, directory, name))).ino
        notice = notice_around(self._store_id, directory, [(directory, name)])
        values = (directory, name, is_directory, at_ns or time.time_ns(), self._relaxed)
        ((refused, ino, *_),) = yield from self._call(
            REMOVE, values, notice, at_once=None if is_directory else REMOVE_AT_ONCE
        )
        self._check(refused, directory, name)
        return ino  # type: ignore[no-any-return]

    def rename(
        self,
        directory: int,
        name: bytes,
        to_directory: int,
        to_name: bytes,
        flags: int = 0,
        *,
        at_ns: int | None = None,
    ) -> Op[Renamed]:
        """
        Args:
            at_ns: as of `remove`; of both directories.
        """
        if flags not in (0, nodes.RENAME_NOREPLACE, nodes.RENAME_EXCHANGE):
            raise errors.FileFailed(f"rename with flags {flags:#x}", errno=errno.EINVAL)
        if (yield from in_transaction()):
            renamed, there = yield from self._files.change(
                lambda tree: nodes.rename(tree, directory, name, to_directory, to_name, flags)
            )
            return Renamed(renamed.ino, None if there is None else there.ino)
        notice = notice_around(self._store_id, directory, [(directory, name), (to_directory, to_name)])
        values = (directory, name, to_directory, to_name, flags, at_ns or time.time_ns(), self._relaxed)
        at_once = RENAME_AT_ONCE if directory == to_directory and not flags else None
        ((refused, ino, replaced, *_),) = yield from self._call(RENAME, values, notice, at_once=at_once)
        is_about_target = refused in (errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY)
        self._check(refused, directory, to_name if is_about_target else name)
        return Renamed(ino, replaced)

    def set_attributes(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> Op[Node]:
        if (yield from in_transaction()):
            return (
                yield from self._files.change(
                    lambda tree: nodes.set_attributes(
                        *(tree, ino),
                        mode=mode,
                        uid=uid,
                        gid=gid,
                        atime_ns=atime_ns,
                        mtime_ns=mtime_ns,
                        ctime_ns=ctime_ns,
                    )
                )
            )
        node, _ = yield from self.change_attributes(ino, (mode, uid, gid, atime_ns, mtime_ns), ctime_ns=ctime_ns)
        return node

    def change_attributes(
        self, ino: int, new: Sequence[int | None], *, ctime_ns: int | None = None
    ) -> Op[tuple[Node, Sequence[int | None]]]:
        """
        `set_attributes`, outside a transaction.

        Args:
            new: those of `ATTRIBUTES`; None: as it was.

        Returns the node, and what they were before.
        """
        mode, uid, gid, atime_ns, mtime_ns = new
        ctime_ns = time.time_ns() if ctime_ns is None else ctime_ns
        notice = notice_around(self._store_id, ino, [])
        for row in (yield from self._call(SET_ATTRIBUTES, (ino, mode, uid, gid, mtime_ns, ctime_ns, atime_ns), notice)):
            count = len(ATTRIBUTES)
            return Node(ino, *row[1:-count]), row[-count:]
        raise gone(ino)

    def change_attributes_again(self, ino: int, new: Sequence[int | None], before: Sequence[int | None]) -> Op[None]:
        """Set those of `ATTRIBUTES` that are what they were *before*: `change_attributes`, where a crash has taken it."""
        notice = notice_around(self._store_id, ino, [])
        yield from self._call(SET_ATTRIBUTES_AGAIN, (ino, *new, *before, time.time_ns()), notice)

    def _call(
        self,
        statement: Statement,
        values: tuple[Any, ...],
        notice: NoticeAround,
        *,
        at_once: Statement | None = None,
        repeatable: bool = False,
        also: Query | None = None,
    ) -> Op[Any]:
        """
        Run *statement*, again if it met another that locked or changed the same. Returns its rows.

        Args:
            at_once: does the common case of it.
            also: is run after it, in the same round trip; then its rows come, too.
            repeatable: also if its answer was lost; its last parameter but those of *notice* tells it so.
        """
        give_up = clock.monotonic() + _REPEAT_SECONDS
        conflicts = broken = 0
        while True:
            again = (broken > 0,) if repeatable else ()
            try:
                if at_once is not None:
                    quick, at_once = at_once, None
                    if rows := (yield Query(quick, self._store_id, *values, *notice)):
                        self._files.collect_later()
                        return rows
                query = Query(statement, self._store_id, *values, *again, *notice)
                if statement in (SET_ATTRIBUTES, SET_ATTRIBUTES_AGAIN) and self._relaxed:
                    rows = (yield Many((Query(ASYNC_COMMIT), query)))[1]
                elif also is not None:
                    rows = yield Many((query, also))
                else:
                    rows = yield query
            except errors.OutcomeUnknown:
                broken += 1
                if not repeatable or broken == _BROKEN_MAX or clock.monotonic() > give_up:
                    raise
            except errors.SerializationConflict:
                conflicts += 1
                if conflicts == ATTEMPTS:
                    raise
            except errors.StatementFailed as exc:
                # Another has made the same name in this moment, or the call whose answer was lost has done it.
                if exc.sqlstate != UNIQUE_VIOLATION or conflicts == ATTEMPTS:
                    raise
                conflicts += 1
            else:
                self._files.collect_later()
                return rows

    def _check(self, refused: int, directory: int, name: bytes) -> None:
        """Raise the error of `nodes` for the errno *refused*."""
        if not refused:
            return
        shown = nodes.Place(directory, name, None).shown
        match refused:
            case errno.ESTALE:
                raise gone(directory)
            case errno.ENOTDIR:
                raise not_a_directory(directory)
            case errno.ENOENT:
                raise errors.FileMissing(f"no such file or directory: {shown!r}", shown)
            case errno.EEXIST:
                raise errors.FileExists(f"{shown!r} exists", shown)
            case errno.EISDIR:
                raise errors.IsADirectory(f"{shown!r} is a directory", shown)
            case errno.ENOTEMPTY:
                raise errors.DirectoryNotEmpty(f"directory {shown!r} is not empty", shown)
        raise errors.FileFailed(f"{shown!r} cannot be moved into itself", errno=refused)
