"""A mounted NetworkFileSystem: each verb is a commit, seen at once by everybody who asks.

What the kernel has been told it may believe for a minute, for it is told what others change (`fs.notifications`). A notification
may come a moment after a program has heard of a change in another way. So that no program opens a file as it was:

- each open asks the database, and lets the kernel forget its pages where the file is another than it was;
- an inode without a name is not opened but said to be stale, and the kernel looks the name up again;
- that there is no such name is never believed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client import Client
from pgstore.core.operation import Op
from pgstore.core.threads import going_on, start
from pgstore.fs.commit.live import LiveChanges
from pgstore.fs.content import in_place
from pgstore.fs.model import DIRECTORY, FILE, NEWEST, ROOT, SYMLINK, Node, StoreGone
from pgstore.fs.notifications import ANYTHING, FileChange, FileChanges
from pgstore.fs.tree import nodes
from pgstore.fs.tree.live_nodes import LiveNodes, Renamed
from pgstore.fs.tree.resolve import Tree
from pgstore.fs.tree.transact import FileSystem
from pgstore.mount.backends.base import StoreFiles, may_write, root_of, shared_of
from pgstore.mount.backends.keeping_live import Places, keep
from pgstore.mount.backends.locks import SharedLocks
from pgstore.mount.contents.live import LiveContents
from pgstore.mount.contents.open_file import LiveFile
from pgstore.mount.contents.under_way import Shared
from pgstore.mount.daemon.backends import What
from pgstore.mount.listed import Listed
from pgstore.mount.protocol import (
    MISSING,
    AttributeChange,
    Attributes,
    Bytes,
    Caching,
    Kernel,
    Lock,
    Missing,
    OpenFile,
    Owner,
)

T = TypeVar("T")
N = TypeVar("N", bound=Node | None)

HEARD: Final = Caching(names=60.0, attributes=60.0, missing=0.0, listings=True)
# Where nothing can be listened to, or the kernel cannot forget all names at once (before Linux 6.16).
UNHEARD: Final = Caching(names=1.0, attributes=1.0, missing=0.0)
STATES_MAX: Final = 50_000  # files of which it is known in which state the kernel has them
DIRECTORIES_MAX: Final = 1_000  # of which it is known whose new files are
_READ_ATTEMPTS: Final = 5
_LOOK_SECONDS: Final = 1.0  # between looks whether the mount has ended


def files_of(client: Client, what: What) -> LiveFiles:
    """The files of a NetworkFileSystem that a daemon is to serve."""
    shared = shared_of(client, what)
    root = root_of(shared, what, lambda: Tree(shared.session, shared.store_id, None, NEWEST, in_place=True))
    read_only = what.read_only or not may_write(shared)
    return LiveFiles(shared, what, root=root, read_only=read_only)


class LiveFiles(StoreFiles[LiveContents]):
    """The files of a NetworkFileSystem."""

    def __init__(self, shared: Shared, what: What, *, root: int = ROOT, read_only: bool = False) -> None:
        super().__init__(shared, root=root, read_only=read_only)
        self._what = what
        self._places = Places()
        self.shares_locks = what.locks == "shared" and not read_only
        self.locks = SharedLocks(shared) if self.shares_locks else None
        self._file_system = FileSystem(self._session, self._store_id, LiveChanges, StoreGone)
        self._states: OrderedDict[int, object] = OrderedDict()
        # Which attributes the kernel was given of files; of which it is not sure which came last, None.
        self._told: OrderedDict[int, object] = OrderedDict()
        # Of directories in which something was made: the kernel asks for them after each name that is made there. They are as old
        # as what it believes for a minute, which is to say that others' changes are heard of a moment later.
        self._above: dict[int, Attributes] = {}
        self._above_state = 0  # grows with every change of one
        self.listed: Listed = Listed()
        self._kernel: Kernel | None = None
        self._has_unsynced = False  # names that are perhaps not on the server's disk yet
        self._changes = FileChanges(self._store_id)
        self._ended = threading.Event()
        self._listener: threading.Thread | None = None

    @property
    def caching(self) -> Caching:
        kernel = self._kernel
        return HEARD if self._changes.is_heard and kernel is not None and kernel.can_forget_all_names else UNHEARD

    # ------------------------------------------------------------------------------------------------ what others change

    def begin(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._listener = threading.Thread(target=self._listen, name="pgstore-mount-changes", daemon=True)
        start(self._listener)

    def end(self) -> None:
        self._ended.set()
        self._changes.stop()
        if self._listener is not None:
            self._listener.join()
        self._shared.is_ending = True
        failure: OSError | None = None
        left: list[LiveContents] = []
        for contents in self._all_contents():
            try:
                contents.upload()
            except OSError as exc:  # the others are written nevertheless
                failure = failure or exc
                left.append(contents)
            else:
                contents.release()
        if failure is not None:
            raise keep(self._what, failure, left, self._places, self.root) from failure

    def _listen(self) -> None:
        while not self._ended.is_set():
            with going_on("listening for changes of a mounted file system"):
                self._hear_changes()
            self._ended.wait(_LOOK_SECONDS)

    def _hear_changes(self) -> None:
        changes = FileChanges(self._store_id)
        self._shared.run(changes.begin())
        try:
            self._changes = changes
            self._forget(ANYTHING)  # what came before it listened
            while not self._ended.is_set():
                change = self._shared.run(changes.next(_LOOK_SECONDS))
                if change is not None and change.origin != self._shared.origin:
                    self._forget(change)
        finally:
            changes.close()

    def _forget(self, change: FileChange) -> None:
        kernel = self._kernel
        assert kernel is not None
        inodes = change.inodes
        self._forget_above()
        if inodes is None or change.names is None:
            kernel.forget_all_names()
            for directory in self.listed.forget_all():
                kernel.forget_contents(directory)
        if inodes is None:
            self._states.clear()
            inodes = frozenset(self._contents)
        self.listed.forget(inodes)
        self.listed.note_changes(len(inodes))
        for directory, name in change.names or ():
            kernel.forget_name(directory, name)
        for ino in inodes:
            self._refresh(ino)
            kernel.forget_contents(ino)

    def forget_contents(self, ino: int) -> None:
        if self._kernel is not None:
            self._kernel.forget_contents(ino)

    def _refresh(self, ino: int) -> None:
        """Others may have changed a file that is open here."""
        contents = self._contents.get(ino)
        if contents is not None:
            try:
                node = self._node(ino)
            except OSError:
                return  # gone, or the server is away; whoever uses the file finds out
            contents.drop(node.size_bytes, node.mtime_ns, _state(node))

    # -------------------------------------------------------------------------------------------- names and attributes

    def _tree(self) -> Tree:
        return Tree(self._session, self._store_id, None, NEWEST, in_place=True)

    def _node(self, ino: int, *, with_contents: bool = False) -> Node:
        return self._run(lambda: nodes.node(self._tree(), ino, with_contents=with_contents))

    def _attributes(self, node: Node) -> Attributes:
        """What the kernel is to be told, and will have been."""
        attributes = super()._attributes(node)
        if node.kind == FILE:
            told = self._told
            state: object = _state(node)
            if attributes.size_bytes != node.size_bytes or attributes.mtime_ns != node.mtime_ns:
                state = None  # those of what is written here
            with self._table:
                if told.setdefault(node.ino, state) != state:
                    told[node.ino] = None
                while len(told) > STATES_MAX:
                    told.popitem(last=False)
        return attributes

    def _read(self, read: Callable[[], N]) -> N:
        """What *read* reads of a node; again, if something was uploaded of it meanwhile, which may be in neither of the two."""
        attempts_left = _READ_ATTEMPTS
        while True:
            then = self._shared.uploads.now
            node = read()
            attempts_left -= 1
            if node is None or not attempts_left or not self._shared.uploads.since(node.ino, then):
                return node

    def attributes(self, ino: int) -> Attributes:
        node = self._read(lambda: self._node(ino))
        contents = self._contents.get(ino)
        if contents is not None and not contents.is_dirty and contents.size_bytes != node.size_bytes:
            contents.drop(node.size_bytes, node.mtime_ns, _state(node))  # others, of whom we have not been told yet
        return self._attributes(node)

    def attributes_now(self, ino: int) -> Attributes | None:
        return self._above.get(ino) if self.caching is HEARD else None

    def opened_directory_now(self, directory: int) -> Attributes | None:
        return None if directory in self.listed else self.attributes_now(directory)

    def directory_of_new(self, directory: int) -> Attributes:
        above = self.attributes_now(directory)
        if above is None:
            state = self._above_state
            above = self.attributes(directory)
            with self._table:
                if state == self._above_state and above.kind == DIRECTORY:
                    if len(self._above) >= DIRECTORIES_MAX:
                        self._above.clear()
                    self._above[directory] = above
        return above

    def _changed_at(self, at_ns: int, *directories: int) -> None:
        """Names in them were changed here."""
        with self._table:
            self._above_state += 1
            for directory in directories:
                above = self._above.get(directory)
                if above is not None:
                    self._above[directory] = above._replace(
                        mtime_ns=max(above.mtime_ns, at_ns), ctime_ns=max(above.ctime_ns, at_ns)
                    )

    def _forget_above(self, *inodes: int) -> None:
        """Forget what was known of directories; without *inodes* of all."""
        with self._table:
            self._above_state += 1
            for ino in inodes or tuple(self._above):
                self._above.pop(ino, None)

    def look_up(self, directory: int, name: bytes) -> Attributes | Missing:
        node = self._read(lambda: self._run(lambda: nodes.look_up(self._tree(), directory, name)))
        return MISSING if node is None else self._placed(directory, name, self._attributes(node))

    def _placed(self, directory: int, name: bytes, found: Attributes) -> Attributes:
        self._places.note(directory, name, found)
        return found

    def parent(self, directory: int) -> int:
        return self._run(lambda: nodes.parent(self._tree(), directory))

    def names(self, directory: int, after: bytes, count: int) -> list[tuple[bytes, Attributes]]:
        page = self._run(lambda: nodes.names(self._tree(), directory, after, count))
        return [(name, self._attributes(node)) for name, node in page]

    def names_later(self, directory: int, after: bytes, count: int) -> Callable[[], list[tuple[bytes, Attributes]]]:
        return self._shared.reading.workers.submit(lambda: self.names(directory, after, count)).result

    def set_attributes(self, ino: int, change: AttributeChange) -> Attributes:
        contents = self._contents.get(ino)
        if contents is not None and contents.is_dirty and change.mtime_ns is not None:
            contents.upload()  # which sets it, too
        node = self._commit(lambda: self._verbs.set_attributes(ino, **change._asdict()))
        self._forget_above(ino)
        return self._attributes(node)

    # --------------------------------------------------------------------------------------------------------- making

    @property
    def _verbs(self) -> LiveNodes:
        """
        The verbs that change names and attributes.

        Their commits wait for the disk only where a crash of the server would go unnoticed; else fsync does, and closing what was
        written.
        """
        return LiveNodes(self._file_system, durable=self._session.server is None)

    def _commit(self, make: Callable[[], Op[T]]) -> T:
        """Do what changes names, again where the server was away."""
        self._has_unsynced = True
        try:
            return self._run(make)
        except (errors.ConflictError, errors.SerializationConflict) as exc:
            raise OSError(errno.EBUSY, str(exc)) from exc

    def _commit_once(self, make: Callable[[], Op[object]], done: type[errors.Error] | None) -> None:
        """
        `_commit` of what must not be done twice.

        Args:
            done: with which error it fails if an attempt whose answer was lost had done it; None: nobody can tell.
        """
        is_unknown = False

        def attempt() -> Op[None]:
            nonlocal is_unknown
            if is_unknown and done is None:
                raise OSError(errno.EIO, "the connection broke, and it is unknown whether it was done")
            try:
                yield from make()
            except errors.OutcomeUnknown:
                is_unknown = True
                raise
            except errors.Error as exc:
                if done is None or not (is_unknown and isinstance(exc, done)):
                    raise

        self._commit(attempt)

    def _change(self, body: Callable[[Tree], Op[T]]) -> T:
        return self._commit(lambda: self._file_system.change(body))

    def make(self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int = 0) -> Attributes:
        made = self._commit(
            lambda: self._verbs.make(directory, name, kind, mode, uid=owner.uid, gid=owner.gid, device=device or None)
        )
        self._changed_at(made.ctime_ns, directory)
        return self._placed(directory, name, self._attributes(made))

    def make_symbolic_link(self, directory: int, name: bytes, target: bytes, owner: Owner) -> Attributes:
        made = self._commit(
            lambda: self._verbs.make_symbolic_link(directory, name, target, uid=owner.uid, gid=owner.gid)
        )
        self._changed_at(made.ctime_ns, directory)
        return self._attributes(made)

    def read_link(self, ino: int) -> bytes:
        return self._run(lambda: nodes.read_link(self._tree(), ino))

    def link(self, ino: int, directory: int, name: bytes) -> Attributes:
        self._commit_once(lambda: self._verbs.link(ino, directory, name), errors.FileExists)
        self._forget_above(directory)
        return self._placed(directory, name, self.attributes(ino))

    def remove(self, directory: int, name: bytes) -> None:
        at_ns = time.time_ns()
        self._commit_once(lambda: self._verbs.remove(directory, name, at_ns=at_ns), errors.FileMissing)
        self._places.forget(directory, name)
        self._changed_at(at_ns, directory)

    def remove_directory(self, directory: int, name: bytes) -> None:
        self._commit_once(lambda: self._verbs.remove_directory(directory, name), errors.FileMissing)
        self._places.forget(directory, name)
        self._forget_above()

    def rename(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> None:
        at_ns = time.time_ns()
        renamed: list[Renamed] = []

        def body() -> Op[None]:
            renamed.append((yield from self._verbs.rename(directory, name, to_directory, to_name, flags, at_ns=at_ns)))

        self._commit_once(body, None if flags == nodes.RENAME_EXCHANGE else errors.FileMissing)
        self._places.move(directory, name, to_directory, to_name, exchange=flags == nodes.RENAME_EXCHANGE)
        done = renamed[-1] if renamed else None
        if done is None or done.ino == done.replaced:  # another attempt has done it; or it was nothing
            self._forget_above()
        else:
            self._changed_at(at_ns, directory, to_directory)
            self._forget_above(done.ino, *([] if done.replaced is None else [done.replaced]))

    # -------------------------------------------------------------------------------------------- extended attributes

    def extended_attributes(self, ino: int) -> dict[bytes, bytes]:
        return self._run(lambda: nodes.extended_attributes(self._tree(), ino))

    def set_extended_attribute(self, ino: int, name: bytes, value: bytes | None, flags: int) -> None:
        self._change(lambda tree: nodes.set_extended_attribute(tree, ino, name, value, flags))
        self._forget_above(ino)

    # ------------------------------------------------------------------------------------------------------- contents

    def open(self, ino: int, flags: int) -> LiveFile:
        # The bytes of a small file come along, unless the kernel has them.
        is_read = flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_TRUNC
        node = self._node(ino, with_contents=is_read and ino not in self._states)
        if node.link_count == 0 and ino not in self._contents:
            # The name leads elsewhere now. Told so, the kernel looks it up again (LOOKUP_REVAL).
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self._opened(node, flags)

    def _opened(self, node: Node, flags: int, *, is_new: bool = False) -> LiveFile:
        ino, state = node.ino, _state(node)
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
        return LiveContents(self._shared, node.ino, node.size_bytes, node.mtime_ns, _state(node))

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

        node, is_new = self._commit(body)
        if node.kind == SYMLINK:  # the kernel follows it, when it has looked it up
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if is_new:
            self._changed_at(node.ctime_ns, directory)
        file = self._opened(node, flags, is_new=is_new)
        found = self.attributes(node.ino) if flags & os.O_TRUNC and not is_new else self._attributes(node)
        return self._placed(directory, name, found), file

    def sync(self) -> None:
        for contents in self._all_contents():
            contents.upload()
        with self.syncing():
            self._run(lambda: in_place.sync(self._store_id))

    def sync_names(self) -> None:
        """Return when the names that were changed here are on the server's disk."""
        if self._has_unsynced:
            with self.syncing():
                self._run(lambda: in_place.sync(self._store_id))

    @contextlib.contextmanager
    def syncing(self) -> Iterator[None]:
        """Around what brings to the server's disk all that was committed before."""
        had, self._has_unsynced = self._has_unsynced, False
        try:
            yield
        except BaseException:
            self._has_unsynced |= had
            raise


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
        # What brings bytes to the disk does so with all names before them. Where nothing was written nothing is waited for.
        if self.contents.is_dirty:
            with self._files.syncing():
                super().flush()
        else:
            super().flush()

    def sync(self) -> None:
        if self.contents.is_dirty:
            with self._files.syncing():
                super().sync()
        else:
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

    def release_now(self) -> bool:
        if self.contents.is_dirty:  # what is being uploaded is waited for
            return False
        self.release()
        return True


def _state(node: Node) -> tuple[int, int, int]:
    return node.size_bytes, node.mtime_ns, node.ctime_ns
