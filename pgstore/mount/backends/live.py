"""A mounted NetworkFileSystem: each verb is a commit, seen at once by everybody who asks.

What the kernel has been told it may believe for a minute, for it is told what others change (`fs.notifications`). A notification
may come a moment after a program has heard of a change in another way. So that no program opens a file as it was:

- each open asks the database, and lets the kernel forget its pages where the file is another than it was;
- an inode without a name is not opened but said to be stale, and the kernel looks the name up again;
- that there is no such name is never believed.

Nothing but fsync waits for the server's disk. What it does not have yet is kept here, names in a log and bytes in the stage. A
thread of its own brings it to the disk within about a second, and what a crash of the server takes before that is done again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client import Client
from pgstore.client.history import WANTED, only_server
from pgstore.core.operation import Op
from pgstore.fs.commit.live import LiveChanges
from pgstore.fs.model import DIRECTORY, FILE, NEWEST, ROOT, SYMLINK, Node, StoreGone
from pgstore.fs.tree import nodes
from pgstore.fs.tree.live_nodes import LiveNodes, Renamed
from pgstore.fs.tree.resolve import Tree
from pgstore.fs.tree.transact import FileSystem
from pgstore.mount.backends.base import may_write, root_of, shared_of
from pgstore.mount.backends.hearing import HEARD, HearingFiles, state_of
from pgstore.mount.backends.locks import SharedLocks
from pgstore.mount.contents.live import LiveContents
from pgstore.mount.contents.open_file import LiveFile
from pgstore.mount.contents.shared import Shared
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.protocol import (
    MISSING,
    AttributeChange,
    Attributes,
    Bytes,
    Lock,
    Missing,
    OpenFile,
    Owner,
)

T = TypeVar("T")
N = TypeVar("N", bound=Node | None)

STATES_MAX: Final = 50_000  # files of which it is known in which state the kernel has them
_READ_ATTEMPTS: Final = 5


def files_of(client: Client, spec: MountSpec) -> LiveFiles:
    """The files of a NetworkFileSystem that a daemon is to serve."""
    shared = shared_of(client, spec)
    root = root_of(shared, spec, lambda: Tree(shared.session, shared.store_id, None, NEWEST, in_place=True))
    read_only = spec.read_only or not may_write(shared)
    return LiveFiles(shared, spec, root=root, read_only=read_only)


class LiveFiles(HearingFiles):
    """The files of a NetworkFileSystem."""

    def __init__(self, shared: Shared, spec: MountSpec, *, root: int = ROOT, read_only: bool = False) -> None:
        super().__init__(shared, spec, root=root, read_only=read_only)
        self.shares_locks = spec.locks == "shared" and not read_only
        self.locks = SharedLocks(shared) if self.shares_locks else None
        self._file_system = FileSystem(self._session, self._store_id, LiveChanges, StoreGone)
        # Which attributes the kernel was given of files; of which it is not sure which came last, None.
        self._told: OrderedDict[int, object] = OrderedDict()
        shared.on_upload = self._uploaded

    # -------------------------------------------------------------------------------------------- names and attributes

    def _run(self, make: Callable[[], Op[T]]) -> T:
        """`_run` of what changes nothing; where a crash has taken names, once they are back."""
        while True:
            result = self._found_again(make)
            if not self._names.is_lost:
                return result
            self._names.bring_back()

    def _found_again(self, make: Callable[[], Op[T]]) -> T:
        """`_run`; if it fails, perhaps since a crash has taken names, once more when they are back, after each crash."""
        while True:
            before = self._shared.names_brought_back
            try:
                return super()._run(make)
            except OSError as exc:
                if exc.errno not in _OF_NAMES:
                    raise
                self._names.bring_back()
                if before == self._shared.names_brought_back:
                    raise

    def _node(self, ino: int, *, with_contents: bool = False) -> Node:
        return self._run(lambda: nodes.node(self._tree(), ino, with_contents=with_contents))

    def _attributes(self, node: Node) -> Attributes:
        """What the kernel is to be told, and will have been."""
        attributes = super()._attributes(node)
        if node.kind == FILE:
            told = self._told
            state: object = state_of(node)
            if attributes.size_bytes != node.size_bytes or attributes.mtime_ns != node.mtime_ns:
                state = None  # those of what is written here
            with self._table:
                if told.setdefault(node.ino, state) != state:
                    told[node.ino] = None
                while len(told) > STATES_MAX:
                    told.popitem(last=False)
        return attributes

    def _read(self, read: Callable[[], N]) -> N:
        """
        What *read* reads of a node; again, if something was uploaded of it meanwhile, which may be in neither of the two; or if a
        crash had taken some of it.
        """
        attempts_left = _READ_ATTEMPTS
        while True:
            then = self._shared.uploads.now
            node = read()
            if node is not None and self._bring_back_end([node]):
                continue
            attempts_left -= 1
            if node is None or not attempts_left or not self._shared.uploads.since(node.ino, then):
                return node

    def attributes(self, ino: int) -> Attributes:
        state = self._known.state
        node = self._read(lambda: self._node(ino))
        if node.kind == DIRECTORY:
            found = self._attributes(node)
            self._known.note_directory(found, state)
            return found
        self._known.note_file(node, state)
        contents = self._contents.get(ino)
        if contents is not None and not contents.is_dirty and contents.size_bytes != node.size_bytes:
            contents.drop(node.size_bytes, node.mtime_ns, state_of(node))  # others, of whom we have not been told yet
        return self._attributes(node)

    def attributes_now(self, ino: int) -> Attributes | None:
        if self.caching is not HEARD:
            return None
        then = self._shared.uploads.now
        node = self._known.file(ino)
        if node is None:
            return self._known.directory(ino)
        found = self._attributes(node)
        # If something was uploaded meanwhile, it may be in neither of the two.
        return None if self._shared.uploads.since(ino, then) else found

    def _uploaded(self, ino: int) -> None:
        """The database has changed contents of ours."""
        self._known.forget(ino)
        self._states.pop(
            ino, None
        )  # so the bytes come with the next opening: the kernel may lack those that fill no page

    def opened_directory_now(self, directory: int) -> Attributes | None:
        return None if directory in self.listed else self.attributes_now(directory)

    def directory_of_new(self, directory: int) -> Attributes:
        above = self.attributes_now(directory)
        return self.attributes(directory) if above is None else above

    def look_up(self, directory: int, name: bytes) -> Attributes | Missing:
        node = self._read(lambda: self._run(lambda: nodes.look_up(self._tree(), directory, name)))
        return MISSING if node is None else self._placed(directory, name, self._attributes(node))

    def _placed(self, directory: int, name: bytes, found: Attributes) -> Attributes:
        self._places.note(directory, name, found)
        return found

    def parent(self, directory: int) -> int:
        return self._run(lambda: nodes.parent(self._tree(), directory))

    def names(self, directory: int, after: bytes, count: int) -> list[tuple[bytes, Attributes]]:
        while True:
            page = self._run(lambda: nodes.names(self._tree(), directory, after, count))
            if not self._bring_back_end(node for _, node in page):
                return [(name, self._attributes(node)) for name, node in page]

    def _bring_back_end(self, found: Iterable[Node]) -> bool:
        """Have what a crash has taken of the size of files among *found*. Returns whether it had: they are to be read again."""
        lost = [each for node in found if (each := self._contents.get(node.ino)) is not None and each.has_lost_end]
        for contents in lost:
            contents.bring_back()
        return bool(lost)

    def names_later(self, directory: int, after: bytes, count: int) -> Callable[[], list[tuple[bytes, Attributes]]]:
        return self._shared.reading.workers.submit(lambda: self.names(directory, after, count)).result

    def set_attributes(self, ino: int, change: AttributeChange) -> Attributes:
        contents = self._contents.get(ino) if change.mtime_ns is not None else None
        if contents is not None and contents.is_dirty:
            contents.upload()  # which sets it, too
        server = self._shared.disk.server
        node, before = self._commit(lambda: self._verbs.change_attributes(ino, change))
        if contents is not None and change.mtime_ns is not None:
            contents.set_mtime(change.mtime_ns)
        self._names.note(
            server,
            f"attributes of inode {ino}",
            lambda: self._verbs.change_attributes_again(ino, change, before),
        )
        self._known.forget(ino)
        return self._attributes(node)

    # --------------------------------------------------------------------------------------------------------- making

    @property
    def _verbs(self) -> LiveNodes:
        """
        The verbs that change names and attributes.

        Their commits wait for the disk only where a crash of the server would go unnoticed; else fsync does.
        """
        return LiveNodes(self._file_system, durable=self._session.server is None)

    def _commit(self, make: Callable[[], Op[T]]) -> T:
        """
        Do what changes names, again where the server was away.

        It is not on the disk when it returns, and what a crash may take is to be noted in the log. After a crash it is not done
        before that is back, on which it may rest.
        """

        def begin() -> Op[T]:
            server = self._shared.disk.server
            while self._names.is_lost:
                self._names.bring_back()
                server = self._shared.disk.server
            WANTED.server = server
            return make()

        with only_server(None):
            try:
                return self._found_again(begin)
            except (errors.ConflictError, errors.SerializationConflict) as exc:
                raise OSError(errno.EBUSY, str(exc)) from exc

    def _commit_once(self, make: Callable[[], Op[object]], done: type[errors.Error]) -> None:
        """
        `_commit` of what must not be done twice.

        Args:
            done: with which error it fails if an attempt whose answer was lost had done it.
        """
        is_unknown = False

        def attempt() -> Op[None]:
            nonlocal is_unknown
            try:
                yield from make()
            except errors.OutcomeUnknown:
                is_unknown = True
                raise
            except errors.Error as exc:
                # Where a crash has taken names, that may be what it says.
                if not (is_unknown and isinstance(exc, done)) or self._names.is_lost:
                    raise

        self._commit(attempt)

    def _change(self, body: Callable[[Tree], Op[T]]) -> T:
        return self._commit(lambda: self._file_system.change(body))

    def make(self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int = 0) -> Attributes:
        server, state = self._shared.disk.server, self._known.state
        made = self._commit(
            lambda: self._verbs.make(directory, name, kind, mode, uid=owner.uid, gid=owner.gid, device=device or None)
        )
        self._note_made(server, directory, name, made)
        attributes = self._attributes(made)
        self._known.note_directory(attributes, state)  # mostly something is made in it next
        self._known.note_file(made, state)
        self._known.changed_at(made.ctime_ns, directory)
        return self._placed(directory, name, attributes)

    def make_symbolic_link(self, directory: int, name: bytes, target: bytes, owner: Owner) -> Attributes:
        server = self._shared.disk.server
        made = self._commit(
            lambda: self._verbs.make_symbolic_link(directory, name, target, uid=owner.uid, gid=owner.gid)
        )
        self._note_made(server, directory, name, made)
        self._known.changed_at(made.ctime_ns, directory)
        return self._attributes(made)

    def _note_made(self, server: int | None, directory: int, name: bytes, made: Node) -> None:
        self._names.note(
            server, f"{name!r} in inode {directory}", lambda: self._verbs.make_again(directory, name, made)
        )

    def read_link(self, ino: int) -> bytes:
        return self._run(lambda: nodes.read_link(self._tree(), ino))

    def link(self, ino: int, directory: int, name: bytes) -> Attributes:
        server = self._shared.disk.server
        at_ns = time.time_ns()
        linked: list[Node] = []

        def body() -> Op[None]:
            linked.append((yield from self._verbs.link(ino, directory, name, at_ns=at_ns)))

        self._commit_once(body, errors.FileExists)

        def again() -> Op[None]:
            if (yield from self._led_to(directory, name)) != ino:
                yield from self._verbs.link(ino, directory, name, at_ns=at_ns)

        self._names.note(server, f"the link {name!r} in inode {directory}", again)
        self._known.changed_at(at_ns, directory)
        self._known.forget(ino)
        return self._placed(directory, name, self._attributes(linked[-1]) if linked else self.attributes(ino))

    def _led_to(self, directory: int, name: bytes) -> Op[int | None]:
        node = yield from nodes.look_up(self._tree(), directory, name)
        return None if node is None else node.ino

    def remove(self, directory: int, name: bytes) -> None:
        at_ns = time.time_ns()
        removed = self._remove(directory, name, lambda: self._verbs.remove(directory, name, at_ns=at_ns))
        self._note_removed(removed, at_ns, directory)

    def remove_directory(self, directory: int, name: bytes) -> None:
        at_ns = time.time_ns()
        removed = self._remove(directory, name, lambda: self._verbs.remove_directory(directory, name, at_ns=at_ns))
        self._note_removed(removed, at_ns, directory)

    def _note_removed(self, removed: list[int], at_ns: int, directory: int) -> None:
        if removed:
            self._known.changed_at(at_ns, directory)
            self._known.forget(*removed)
        else:  # by another attempt
            self._known.forget_all()

    def _remove(self, directory: int, name: bytes, make: Callable[[], Op[int]]) -> list[int]:
        """Returns what was removed, if it is known."""
        server = self._shared.disk.server
        removed: list[int] = []

        def body() -> Op[None]:
            removed.append((yield from make()))

        self._commit_once(body, errors.FileMissing)

        def again() -> Op[None]:
            if (yield from self._led_to(directory, name)) in removed:
                yield from make()

        self._places.forget(directory, name)
        self._names.note(server, f"the removal of {name!r} from inode {directory}", again)
        return removed

    def rename(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> None:
        at_ns = time.time_ns()
        renamed: list[Renamed] = []
        server = self._shared.disk.server

        def body() -> Op[None]:
            renamed.append((yield from self._verbs.rename(directory, name, to_directory, to_name, flags, at_ns=at_ns)))

        if flags == nodes.RENAME_EXCHANGE:
            renamed.append(self._exchange(directory, name, to_directory, to_name, at_ns))
        else:
            self._commit_once(body, errors.FileMissing)
        self._places.move(directory, name, to_directory, to_name, exchange=flags == nodes.RENAME_EXCHANGE)
        done = renamed[-1] if renamed else None
        is_known = done is not None
        if done is None:  # another attempt has done it
            ino = self._run(lambda: self._led_to(to_directory, to_name))
            done = None if ino is None else Renamed(ino, None)
        if done is not None:
            self._names.note(
                server,
                f"the renaming of {name!r} in inode {directory} to {to_name!r} in inode {to_directory}",
                lambda: self._rename_again(done, directory, name, to_directory, to_name, flags, at_ns),
            )
        if done is None or not is_known or done.ino == done.replaced:  # or it was nothing
            self._known.forget_all()
        else:
            self._known.changed_at(at_ns, directory, to_directory)
            self._known.forget(done.ino, *([] if done.replaced is None else [done.replaced]))

    def _exchange(self, directory: int, name: bytes, to_directory: int, to_name: bytes, at_ns: int) -> Renamed:
        """Exchange two names. Where an answer was lost, what they lead to says whether that was done."""

        def led_to() -> Op[tuple[int | None, int | None]]:
            return (yield from self._led_to(directory, name)), (yield from self._led_to(to_directory, to_name))

        before = self._run(led_to)
        is_unknown = False

        def attempt() -> Op[Renamed]:
            nonlocal is_unknown
            if is_unknown and (now := (yield from led_to())) != before:
                first, second = before
                if now != (second, first) or first is None:
                    raise OSError(
                        errno.EIO, "the connection broke, and others have renamed: it is unknown what was done"
                    )
                return Renamed(first, second)
            try:
                return (
                    yield from self._verbs.rename(
                        directory, name, to_directory, to_name, nodes.RENAME_EXCHANGE, at_ns=at_ns
                    )
                )
            except errors.OutcomeUnknown:
                is_unknown = True
                raise

        return self._commit(attempt)

    def _rename_again(
        self, done: Renamed, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int, at_ns: int
    ) -> Op[None]:
        if (yield from self._led_to(directory, name)) != done.ino:
            return
        if flags == nodes.RENAME_EXCHANGE and (yield from self._led_to(to_directory, to_name)) != done.replaced:
            return
        yield from self._verbs.rename(directory, name, to_directory, to_name, flags, at_ns=at_ns)

    def extended_attributes(self, ino: int) -> dict[bytes, bytes]:
        return self._run(lambda: nodes.extended_attributes(self._tree(), ino))

    def set_extended_attribute(self, ino: int, name: bytes, value: bytes | None, flags: int) -> None:
        self._change(lambda tree: nodes.set_extended_attribute(tree, ino, name, value, flags))
        self._known.forget(ino)

    # ------------------------------------------------------------------------------------------------------- contents

    def open(self, ino: int, flags: int) -> LiveFile:
        # The bytes of a small file come along, unless the kernel has them.
        is_read = flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_TRUNC
        known = self._known.state
        node = self._read(lambda: self._node(ino, with_contents=is_read and ino not in self._states))
        contents = self._contents.get(ino)
        if node.link_count == 0 and (contents is None or not contents.open_files):
            # The name leads elsewhere now. Told so, the kernel looks it up again (LOOKUP_REVAL).
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        file = self._opened(node, flags)
        self._known.note_file(node, known)
        return file

    def _opened(self, node: Node, flags: int, *, is_new: bool = False) -> LiveFile:
        ino, state = node.ino, state_of(node)
        file = self._file(node, flags, partial(_OpenFile, self))
        is_known = self._states.get(ino) == state
        self._states[ino] = state
        while len(self._states) > STATES_MAX:
            self._states.popitem(last=False)
        if not (is_known or is_new):
            file.contents.drop(node.size_bytes, node.mtime_ns, state)
            if self._kernel is not None and self._told.get(ino) != state:
                with self._table:
                    self._told.pop(ino, None)
                self._kernel.forget_attributes_now(ino)
            if node.inline_data is not None:
                file.contents.know(node.inline_data, state)
        file.keep_cache = is_known or is_new
        if file.can_write:
            self.listed.note_changes(1)
        if flags & os.O_TRUNC and node.size_bytes:
            try:
                file.contents.truncate(0)
            except BaseException:
                file.release()
                raise
        return file

    def _new_contents(self, node: Node) -> LiveContents:
        return LiveContents(self._shared, node.ino, node.size_bytes, node.mtime_ns, state_of(node))

    def _is_ahead(self, contents: LiveContents) -> bool:
        return contents.is_dirty

    def create(self, directory: int, name: bytes, mode: int, flags: int, owner: Owner) -> tuple[Attributes, OpenFile]:
        def body() -> Op[tuple[Node, bool]]:
            try:
                made = yield from self._verbs.make(directory, name, FILE, mode, uid=owner.uid, gid=owner.gid)
            except errors.FileExists:
                if flags & os.O_EXCL:
                    raise
                node = yield from nodes.look_up(self._tree(), directory, name)
                if node is None:  # it was there a moment ago
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
                return node, False
            return made, True

        server, known = self._shared.disk.server, self._known.state
        node, is_new = self._commit(body)
        if is_new:
            self._note_made(server, directory, name, node)
        if node.kind == SYMLINK:  # the kernel follows it, when it has looked it up
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if is_new:
            self._known.note_file(node, known)
            self._known.changed_at(node.ctime_ns, directory)
        file = self._opened(node, flags, is_new=is_new)
        found = self.attributes(node.ino) if flags & os.O_TRUNC and not is_new else self._attributes(node)
        return self._placed(directory, name, found), file


class _OpenFile(LiveFile):
    """An open file, which the mount hears the end of."""

    def __init__(self, files: LiveFiles, contents: LiveContents, flags: int) -> None:
        super().__init__(contents, flags)
        self._files = files
        # Else the kernel makes two writes of one that lies in two pages, and another mount may append between them.
        self.is_direct = self.is_append
        self._lock_holder: str | None = None

    def write(self, offset: int, data: Bytes) -> None:
        super().write(offset, data)
        if self.is_append and self.contents.size_bytes != offset + len(data):
            # Others have appended as well: the kernel took the end to be elsewhere.
            self._files.forget_contents(self.ino)

    def flush(self) -> None:
        super().flush()
        self._files.make_room(self.contents)

    def sync(self) -> None:
        super().sync()
        self._files.sync_names()

    def lock(self, lock: Lock, given_up: threading.Event | None = None) -> bool:
        locks = self._files.locks
        if locks is None:
            return super().lock(lock, given_up)
        if self._lock_holder is None:
            self._lock_holder = locks.new_holder()
        return locks.take(self.ino, self._lock_holder, lock, given_up)

    def release(self) -> None:
        if self._lock_holder is not None and self._files.locks is not None:
            with contextlib.suppress(OSError):  # else it expires
                self._files.locks.release(self.ino, self._lock_holder)
        super().release()
        self._files._closed(self.contents)
        self._files.note_closed(self.contents)

    def release_now(self) -> bool:
        if self.contents.is_dirty:  # what is being uploaded is waited for
            return False
        self.release()
        return True


# Errors of verbs on names that a crash of the server may have taken.
_OF_NAMES: Final = (errno.ENOENT, errno.ESTALE, errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY)
