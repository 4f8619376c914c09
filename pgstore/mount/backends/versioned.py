"""A mounted Volume: one version, and over it what programs have changed, until a commit makes the next version of it.

Nothing changes but by this mount, so the kernel may believe what it is told until `reload`. What programs do to names and
attributes is held in this process (`fs.tree.held`), and their bytes in the stage, from where larger files are uploaded before the
commit (`mount.contents.volume`, `committing`). So a process that is killed leaves what was committed, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client import Client
from pgstore.core.operation import Op
from pgstore.fs.content import in_place
from pgstore.fs.content.blobs import INLINE_BYTES_MAX
from pgstore.fs.model import FILE, SYMLINK, Node, StoreGone
from pgstore.fs.tree import nodes
from pgstore.fs.tree.held import HeldFileSystem
from pgstore.mount.backends.base import MustAsk, ReadTooEarly, at_once, may_write, root_of, shared_of
from pgstore.mount.backends.committing import CommittingFiles
from pgstore.mount.backends.expected import LARGE_BYTES, Expected, suffix_of
from pgstore.mount.contents.open_file import VolumeFile
from pgstore.mount.contents.shared import Shared
from pgstore.mount.contents.volume import VolumeContents
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.listed import Listed
from pgstore.mount.protocol import MISSING, AttributeChange, Attributes, Caching, Missing, OpenFile, Owner

T = TypeVar("T")

FIXED: Final = Caching(names=3600.0, attributes=3600.0, missing=3600.0, listings=True)
# Where the kernel cannot forget all names at once, as after `reload` it must (before Linux 6.16).
FORGETFUL: Final = Caching(names=1.0, attributes=1.0, missing=1.0)
STATES_MAX: Final = 50_000  # files of which it is known which bytes the kernel has
LOOK_SECONDS: Final = 0.5  # after which it is looked again what was written past us, and what is mapped still
_PASSED: Final = object()  # as the state of a file of which the kernel has written bytes that it has no pages of
HELD_BYTES_MAX: Final = 32 * 1024 * 1024  # of small files; with more a commit comes sooner


def files_of(client: Client, spec: MountSpec) -> VersionFiles:
    """The files of a Volume that a daemon is to serve."""
    shared = shared_of(client, spec)
    read_only = spec.read_only or spec.version is not None or not may_write(shared)
    system = HeldFileSystem(shared.session, shared.store_id, StoreGone, read_only=not may_write(shared))
    shared.persistently(lambda: system.begin(spec.version))
    root = root_of(shared, spec, lambda: system.tree)
    files = VersionFiles(shared, system, spec, root=root, read_only=read_only)
    for path in spec.mount_points:
        files.show(path)
    return files


class VersionFiles(CommittingFiles):
    """The files of a Volume."""

    def __init__(self, shared: Shared, system: HeldFileSystem, spec: MountSpec, *, root: int, read_only: bool) -> None:
        super().__init__(shared, system, spec, root=root, read_only=read_only)
        self._states: OrderedDict[int, object] = OrderedDict()
        self.listed: Listed = Listed()
        self.passes_through = True
        """Whether files are passed through, where the kernel does that."""
        self._expected = Expected()

    @property
    def caching(self) -> Caching:
        return FIXED if self._kernel is None or self._kernel.can_forget_all_names else FORGETFUL

    def _held(self, make: Callable[[], Op[T]]) -> T:
        with self._changing:
            return self._ask(make)

    def reload(self) -> None:
        """Commit what was written, then show what others have committed."""
        if not self.read_only:
            self.commit()
        with self._changing:
            before = self._system.version
            if self._spec.version is None:
                self._run(self._system.reload)
            if self._system.version == before:
                return
            open_contents = self._all_contents()
            for contents in open_contents:
                self._show_anew(contents)
        self.changes.note_all()
        kernel = self._kernel
        if kernel is not None:
            kernel.forget_all_names()
            for directory in {self.root, *self.listed.forget_all()}:
                kernel.forget_contents(directory)
            for contents in open_contents:
                kernel.forget_contents(contents.ino)
            kernel.wait_until_forgotten()

    def _show_anew(self, contents: VolumeContents) -> None:
        """A file that is open is as the version has it, unless something was written to it meanwhile."""
        if contents.is_changed:
            return
        try:
            node = self._node(contents.ino, with_contents=True)
        except OSError:
            return  # it is not there any more; who has it open reads what it was
        contents.drop(node.contents, node.chunk_size, None, node.mtime_ns)

    def open_known(self, ino: int) -> VolumeFile:
        node = at_once(nodes.node(self._tree, ino))
        if ino not in self._contents and node.size_bytes and node.inline_data is None:
            raise MustAsk
        return self._opened(node, os.O_RDONLY, self.moment)

    def status(self) -> dict[str, int]:
        return {"cached_bytes": self._shared.reading.cache.bytes, "uncommitted_files": len(self.uncommitted)}

    # ---------------------------------------------------------------------------------- what need not wait for anybody

    # Most of what programs do is known here, and is done here. What was not read yet has to be asked for, and a commit has the
    # changes for itself while it is under way: then all of it is left to a thread that may wait.

    def attributes_now(self, ino: int) -> Attributes | None:
        try:
            return self._attributes(self._steadily(lambda: at_once(nodes.node(self._tree, ino))))
        except MustAsk:
            return None

    def look_up_now(self, directory: int, name: bytes) -> Attributes | Missing | None:
        try:
            node = self._steadily(lambda: at_once(nodes.look_up(self._tree, directory, name)))
        except MustAsk:
            return None
        return MISSING if node is None else self._attributes(node)

    def _if_free(self, change: Callable[[], T]) -> T | None:
        """What *change* returns, if it asks and waits for nobody."""
        if not self._changing.acquire(blocking=False):
            return None
        try:
            return change()
        except MustAsk:
            return None
        finally:
            self._changing.release()

    def set_attributes_now(self, ino: int, change: AttributeChange) -> Attributes | None:
        def body() -> Attributes:
            node = at_once(nodes.set_attributes(self._tree, ino, **change._asdict()))
            self._set_mtime(ino, change)
            return self._attributes(node)

        return self._if_free(body)

    def make_now(
        self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int = 0
    ) -> Attributes | None:
        return self._if_free(
            lambda: self._attributes(at_once(self._making(directory, name, kind, mode, owner, device or None)))
        )

    def remove_now(self, directory: int, name: bytes) -> bool:
        def body() -> bool:
            node = at_once(nodes.look_up(self._tree, directory, name))
            if node is not None and node.ino in self._contents:
                return False  # what is being uploaded of it is waited for
            self._removed(at_once(nodes.remove(self._tree, directory, name)))
            return True

        return self._if_free(body) or False

    def rename_now(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> bool:
        def body() -> bool:
            there = at_once(nodes.look_up(self._tree, to_directory, to_name))
            if there is not None and there.ino in self._contents:
                return False
            self._renamed(flags, *at_once(nodes.rename(self._tree, directory, name, to_directory, to_name, flags)))
            return True

        return self._if_free(body) or False

    def open_now(self, ino: int, flags: int) -> OpenFile | None:
        try:
            moment = self.moment
            node = self._steadily(lambda: at_once(nodes.node(self._tree, ino, with_contents=True)))
            return self._opened(node, flags, moment)
        except (MustAsk, ReadTooEarly):
            return None

    def create_now(
        self, directory: int, name: bytes, mode: int, flags: int, owner: Owner
    ) -> tuple[Attributes, OpenFile] | None:
        moment = self.moment
        return self._if_free(
            lambda: self._created(at_once(self._creating(directory, name, mode, flags, owner)), name, flags, moment)
        )

    def release_now(self, file: VolumeFile) -> bool:
        """`OpenFile.release_now`."""
        contents = file.contents
        if contents.is_passed and contents.open_files == 1:
            contents.look()
            if contents.size_bytes > INLINE_BYTES_MAX or not contents.end_passing(open_files=1, looks=1):
                return False
        self._note_size(contents)
        if contents.is_changed:
            if not contents.is_at_hand or self._system.changes.is_removed(contents.ino):
                return False
            if not self._changing.acquire(blocking=False):
                return False
            try:
                at_once(nodes.node(self._tree, contents.ino))  # or holding its bytes would ask for it
                file.release()
            except MustAsk:
                return False
            finally:
                self._changing.release()
            return True
        if contents.open_files > 1 or not self._system.changes.is_removed(contents.ino):
            file.release()
            return True
        return False

    # -------------------------------------------------------------------------------------------- names and attributes

    def _read(self, make: Callable[[], Op[T]]) -> T:
        """What is read while others change or commit; again, if the mount went on to another version meanwhile."""
        return self._steadily(lambda: self._ask(make))

    def _steadily(self, read: Callable[[], T]) -> T:
        while True:
            before = self._system.moves
            if before % 2:
                time.sleep(0)
                continue
            try:
                found = read()
            except (OSError, errors.Error):
                if before == self._system.moves:
                    raise
            else:
                if before == self._system.moves:
                    return found

    def _node(self, ino: int, *, with_contents: bool = False) -> Node:
        return self._read(lambda: nodes.node(self._tree, ino, with_contents=with_contents))

    def attributes(self, ino: int) -> Attributes:
        return self._attributes(self._node(ino))

    def look_up(self, directory: int, name: bytes) -> Attributes | Missing:
        node = self._read(lambda: nodes.look_up(self._tree, directory, name))
        return MISSING if node is None else self._attributes(node)

    def parent(self, directory: int) -> int:
        return self._held(lambda: nodes.parent(self._tree, directory))

    def names(self, directory: int, after: bytes, count: int) -> list[tuple[bytes, Attributes]]:
        page = self._held(lambda: nodes.names(self._tree, directory, after, count))
        return [(name, self._attributes(node)) for name, node in page]

    def set_attributes(self, ino: int, change: AttributeChange) -> Attributes:
        self._set_mtime(ino, change)
        return self._attributes(self._held(lambda: nodes.set_attributes(self._tree, ino, **change._asdict())))

    def _set_mtime(self, ino: int, change: AttributeChange) -> None:
        contents = self._contents.get(ino)
        if contents is not None and change.mtime_ns is not None:
            contents.set_mtime(change.mtime_ns)

    # --------------------------------------------------------------------------------------------------------- making

    def make(self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int = 0) -> Attributes:
        return self._attributes(self._held(lambda: self._making(directory, name, kind, mode, owner, device or None)))

    def _making(self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int | None) -> Op[Node]:
        return nodes.make(self._tree, directory, name, kind, mode, uid=owner.uid, gid=owner.gid, device=device)

    def make_symbolic_link(self, directory: int, name: bytes, target: bytes, owner: Owner) -> Attributes:
        return self._attributes(
            self._held(
                lambda: nodes.make_symbolic_link(self._tree, directory, name, target, uid=owner.uid, gid=owner.gid)
            )
        )

    def read_link(self, ino: int) -> bytes:
        return self._held(lambda: nodes.read_link(self._tree, ino))

    def link(self, ino: int, directory: int, name: bytes) -> Attributes:
        self._held(lambda: nodes.link(self._tree, ino, directory, name))
        return self.attributes(ino)

    def remove(self, directory: int, name: bytes) -> None:
        self._removed(self._held(lambda: nodes.remove(self._tree, directory, name)))

    def remove_directory(self, directory: int, name: bytes) -> None:
        self._removed(self._held(lambda: nodes.remove_directory(self._tree, directory, name)))

    def rename(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> None:
        self._renamed(
            flags, *self._held(lambda: nodes.rename(self._tree, directory, name, to_directory, to_name, flags))
        )

    def _renamed(self, flags: int, source: Node, target: Node | None) -> None:
        if target is not None and target.ino != source.ino and not flags:
            self._removed(target)

    def _removed(self, node: Node) -> None:
        """*node* has lost a name. With the last one it goes, unless it is open."""
        if not self._system.changes.is_removed(node.ino):
            return
        with self._table:
            contents = self._contents.get(node.ino)
            if contents is not None and contents.open_files:
                return
            self._put_away(node.ino)
        self._forget(node.ino, contents)

    def _forget(self, ino: int, contents: VolumeContents | None) -> None:
        if contents is not None:
            contents.abandon()
            contents.release()
        with self._changing:
            self._system.changes.release(ino)

    # -------------------------------------------------------------------------------------------- extended attributes

    def extended_attributes(self, ino: int) -> dict[bytes, bytes]:
        return self._held(lambda: nodes.extended_attributes(self._tree, ino))

    def set_extended_attribute(self, ino: int, name: bytes, value: bytes | None, flags: int) -> None:
        self._held(lambda: nodes.set_extended_attribute(self._tree, ino, name, value, flags))

    # ------------------------------------------------------------------------------------------------------- contents

    def open(self, ino: int, flags: int) -> VolumeFile:
        while True:
            moment = self.moment
            with contextlib.suppress(ReadTooEarly):
                return self._opened(self._node(ino, with_contents=True), flags, moment)

    def _opened(self, node: Node, flags: int, moment: int, suffix: bytes | None = None) -> VolumeFile:
        """*suffix*: of the name of a file that is made."""
        file = self._file(node, flags, partial(_OpenFile, self), moment)
        # The kernel's pages are those of this mount, whoever has written them, until another version has others.
        state: object = file.contents.base
        file.keep_cache = self._states.get(node.ino, state) == state
        contents = file.contents
        may_pass = contents.size_bytes >= LARGE_BYTES
        if suffix is not None and not contents.size_bytes:
            contents.suffix = suffix
            may_pass = self._expected.is_large(suffix)
        if flags & os.O_TRUNC:
            contents.truncate(0)
        if self._kernel is not None:
            was_passed = contents.is_passed
            # Where it is passed through a write takes none of these bits away; and O_DIRECT is as strict as the disk.
            is_plain = not (node.mode & (stat.S_ISUID | stat.S_ISGID) or flags & os.O_DIRECT)
            may_pass = may_pass and is_plain and self.passes_through and self._kernel.passes_through
            file.backing = contents.pass_through(self._kernel, may_begin=may_pass and file.can_write)
            if file.backing:
                state = _PASSED
                if not was_passed:
                    self._kernel.forget_attributes_now(node.ino)
                    self._shared.client.scheduler.leave_call(
                        self,
                        self._look_at_passed,
                        LOOK_SECONDS,
                        again_seconds=LOOK_SECONDS,
                        again_after_failure=True,
                        can_wait=True,
                    )
        self._states[node.ino] = state
        while len(self._states) > STATES_MAX:
            ino, state = self._states.popitem(last=False)
            if state is _PASSED and self._kernel is not None:
                self._kernel.forget_contents(ino)
        return file

    def _new_contents(self, node: Node) -> VolumeContents:
        return VolumeContents(self._shared, node.ino, node.contents, node.chunk_size, None, node.mtime_ns)

    def _is_ahead(self, contents: VolumeContents) -> bool:
        return contents.is_changed or contents.is_passed

    def create(self, directory: int, name: bytes, mode: int, flags: int, owner: Owner) -> tuple[Attributes, OpenFile]:
        moment = self.moment
        made = self._held(lambda: self._creating(directory, name, mode, flags, owner))
        return self._created(made, name, flags, moment)

    def _creating(self, directory: int, name: bytes, mode: int, flags: int, owner: Owner) -> Op[Node]:
        where = yield from nodes.place(self._tree, directory, name)
        if where.node is not None and not flags & os.O_EXCL:
            return (yield from nodes.node(self._tree, where.node.ino, with_contents=True))
        return (yield from nodes.make_at(self._tree, where, FILE, mode, uid=owner.uid, gid=owner.gid))

    def _created(self, node: Node, name: bytes, flags: int, moment: int) -> tuple[Attributes, OpenFile]:
        if node.kind == SYMLINK:  # the kernel follows it, when it has looked it up
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        try:
            file = self._opened(node, flags, moment, suffix_of(name))
        except ReadTooEarly:  # it was there; the kernel looks it up
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
        return self._attributes(node), file

    def _released(self, contents: VolumeContents) -> None:
        """A program has closed the file, perhaps the last that had it open."""
        if contents.is_passed and not contents.open_files and not contents.end_passing():
            return  # it is mapped
        self._note_size(contents)
        if self._system.changes.is_removed(contents.ino):
            with self._table:
                if contents.open_files:
                    return
                self._put_away(contents.ino)
            self._forget(contents.ino, contents)
        elif contents.is_changed and contents.size_bytes <= INLINE_BYTES_MAX and not contents.open_files:
            self._hold_small(contents)
        else:
            self._closed(contents)

    def _note_size(self, contents: VolumeContents) -> None:
        if contents.suffix is not None:
            self._expected.note(contents.suffix, contents.size_bytes)
            contents.suffix = None

    def _look_at_passed(self) -> bool:
        """Look after the files that programs write past us. Returns whether there are none."""
        passed = [contents for contents in self._all_contents() if contents.is_passed]
        for contents in passed:
            if self._ended.is_set():
                return True
            if contents.open_files:
                contents.catch_up_with_growth()
            elif contents.end_passing(looks=1):  # it was mapped until now
                self._released(contents)
        return not passed

    def _hold_small(self, contents: VolumeContents) -> None:
        """Hold the bytes of a small file with its attributes, rather than in the stage."""
        with self._changing:  # without which nobody freezes it
            if contents.is_frozen:  # a transaction has it; when that ends it is closed
                return
            contents.upload()
            what = contents.freeze()
            if what.blob_id is not None:  # it has grown meanwhile
                contents.not_committed()
                return
            if what is not contents.base:  # else it was committed meanwhile
                self._set_contents(contents, what)
            contents.committed(what, None)
        self._closed(contents)
        self._held_bytes += what.size_bytes
        if self._held_bytes > HELD_BYTES_MAX:
            self._wanted.set()

    def sync(self) -> None:
        """Return when what was committed is on the server's disk. What was not is not kept by that."""
        self._run(lambda: in_place.sync(self._store_id))


class _OpenFile(VolumeFile):
    """An open file, which the mount hears the end of."""

    def __init__(self, files: VersionFiles, contents: VolumeContents, flags: int) -> None:
        super().__init__(contents, flags)
        self._files = files

    def release(self) -> None:
        super().release()
        self._files._released(self.contents)

    def release_now(self) -> bool:
        return self._files.release_now(self)
