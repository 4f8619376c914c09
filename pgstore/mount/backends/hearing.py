"""What others change of a mounted NetworkFileSystem: it is listened for, and the kernel is told to forget what it had of that."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Final

from pgstore import errors
from pgstore.core.threads import going_on
from pgstore.fs.model import NEWEST, Node
from pgstore.fs.notifications import ANYTHING, FileChange, FileChanges
from pgstore.fs.tree import nodes
from pgstore.fs.tree.resolve import Tree
from pgstore.mount.backends.audience import Audience
from pgstore.mount.backends.base import StoreFiles
from pgstore.mount.backends.known import Known
from pgstore.mount.backends.securing import SecuringFiles
from pgstore.mount.contents.shared import Shared
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.listed import Listed
from pgstore.mount.protocol import Caching, Kernel

HEARD: Final = Caching(names=60.0, attributes=60.0, missing=0.0, listings=True)
# Where nothing can be listened to, or the kernel cannot forget all names at once (before Linux 6.16).
UNHEARD: Final = Caching(names=1.0, attributes=1.0, missing=0.0)
_LOOK_SECONDS: Final = 1.0  # between looks whether the mount has ended


class HearingFiles(SecuringFiles):
    """The files of a NetworkFileSystem, as far as others change them."""

    def __init__(self, shared: Shared, spec: MountSpec, *, root: int, read_only: bool) -> None:
        super().__init__(shared, spec, root=root, read_only=read_only)
        self._states: OrderedDict[int, object] = OrderedDict()  # by file: the one in which the kernel has its bytes
        self._known = Known()
        self.listed: Listed = Listed()
        self._changes = FileChanges(self._store_id)
        self._audience = Audience(shared.run)
        shared.begin, shared.end = self._audience.begin, self._audience.end

    @property
    def caching(self) -> Caching:
        kernel = self._kernel
        return HEARD if self._changes.is_heard and kernel is not None and kernel.can_forget_all_names else UNHEARD

    def begin(self, kernel: Kernel) -> None:
        super().begin(kernel)
        self._start(self._listen, "pgstore-mount-changes")

    def end(self) -> None:
        self._ended.set()
        self._changes.stop()
        super().end()

    def _listen(self) -> None:
        while not self._ended.is_set():
            with going_on("listening for changes of a mounted file system"):
                self._hear_changes()
            self._ended.wait(_LOOK_SECONDS)

    def _hear_changes(self) -> None:
        changes = FileChanges(self._store_id, heeds_newcomers=True)
        self._shared.run(changes.begin())
        newcomers = 0
        try:
            self._changes = changes
            self._forget(ANYTHING)  # what came before it listened
            self._audience.begins(changes)
            while not self._ended.is_set():
                self._audience.look(changes)
                change = self._shared.run(changes.next(_LOOK_SECONDS))
                if newcomers != changes.newcomers:
                    newcomers = changes.newcomers
                    self._audience.comes(changes)
                if change is not None and change.origin != self._shared.origin:
                    self._forget(change)
            with contextlib.suppress(errors.Error):
                self._audience.comes(changes)
        finally:
            self._audience.ends()
            changes.close()

    def _forget(self, change: FileChange) -> None:
        kernel = self._kernel
        assert kernel is not None
        inodes = change.inodes
        self._known.forget_all()
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
            if not contents.is_safe:
                self._hurry.set()  # else a crash in the next moment would have ours written over theirs
            try:
                # Names that are lost are none of this thread's.
                node = StoreFiles._run(self, lambda: nodes.node(self._tree(), ino))
            except OSError:
                return  # gone, or the server is away; whoever uses the file finds out
            contents.drop(node.size_bytes, node.mtime_ns, state_of(node))

    def _tree(self) -> Tree:
        return Tree(self._session, self._store_id, None, NEWEST, in_place=True)


def state_of(node: Node) -> tuple[int, int, int]:
    """What is another one after every change of a file."""
    return node.size_bytes, node.mtime_ns, node.ctime_ns
