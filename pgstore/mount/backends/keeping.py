"""What could not be committed of a Volume is copied into a recovery directory, as far as possible without the store.

The store may be gone, or the server away. Then what is known here is what can be kept: the names that were made or seen, and the
bytes that were written. A file of which other bytes would be needed is not one to be put back; what was written of it is kept below
`incomplete`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from pgstore import errors
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.fs.content.blobs import is_zeros
from pgstore.fs.model import BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Node, StoreGone
from pgstore.fs.tree import nodes
from pgstore.fs.tree.held import HeldFileSystem, HeldTree
from pgstore.mount import local_xattrs, recovery
from pgstore.mount.backends.base import MustAsk, at_once
from pgstore.mount.contents.open_file import VolumeFile
from pgstore.mount.contents.under_way import UnderWay
from pgstore.mount.contents.volume import VolumeContents
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.failures import message_of
from pgstore.mount.protocol import Attributes, Bytes
from pgstore.mount.recovery import Kept

T = TypeVar("T")
_COPY_BYTES: Final = 1 << 20
_PAGE_NAMES: Final = 1000
_SPECIAL: Final = {
    FIFO: stat.S_IFIFO,
    SOCKET: stat.S_IFSOCK,
    CHARACTER_DEVICE: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
}


class Uncommitted(Protocol):
    """What is asked of the files of a mount."""

    root: int
    _contents: dict[int, VolumeContents]

    @property
    def uncommitted(self) -> set[int]: ...

    @property
    def _system(self) -> HeldFileSystem: ...

    @property
    def _tree(self) -> HeldTree: ...

    def _attributes(self, node: Node) -> Attributes: ...

    def _closed(self, contents: VolumeContents) -> None: ...

    def names(self, directory: int, after: bytes, count: int) -> list[tuple[bytes, Attributes]]: ...

    def read_link(self, ino: int) -> bytes: ...

    def extended_attributes(self, ino: int) -> dict[bytes, bytes]: ...

    def open(self, ino: int, flags: int) -> VolumeFile: ...

    def open_known(self, ino: int) -> VolumeFile: ...


class Keeping:
    """Copies what is not committed of *files* into the recovery directory *kept*; asks of the database for *seconds* at most."""

    def __init__(self, files: Uncommitted, kept: Kept, seconds: float) -> None:
        self._files = files
        self._kept = kept
        self._left = files.uncommitted
        self._deadline = Deadline.after(seconds)
        self._may_ask = True
        self.count = 0
        """Of the files that are below `files` of the recovery directory."""
        self.incomplete = 0
        """Of those below `incomplete`."""
        self.failure: Exception | None = None
        """The first that a file could not be kept for at all."""

    def run(self) -> None:
        self._keep_directory(self._files.root, b"")
        for ino in sorted(self._left):  # in directories that nobody can list now
            self._try(partial(self._keep_nameless, ino))

    @property
    def told(self) -> str:
        """What became of it, for a message."""
        said = f"{self.count} files of it are kept in {str(self._kept.path)!r}"
        if self.incomplete:
            said += f", and what was written of {self.incomplete} more, which could not be read completely"
        if self.failure is not None:
            said += f" (not all of them: {self.failure})"
        return said

    def _try(self, keep: Callable[[], None]) -> None:
        """Whatever becomes of one file, the others are kept."""
        try:
            keep()
        except (OSError, errors.Error) as exc:
            self.failure = self.failure or exc

    # ----------------------------------------------------------------------------------------------------------- asking

    def _ask(self, known: Callable[[], T], ask: Callable[[], T]) -> T | None:
        """What is *known* without asking, else what the database says; None: it cannot be asked, now and later."""
        with contextlib.suppress(MustAsk, OSError):
            return known()
        if self._may_ask:
            try:
                with bounded_by(self._deadline):
                    return ask()
            except (OSError, errors.Error, StoreGone):
                self._may_ask = False
        return None

    def _names(self, directory: int) -> Iterator[tuple[bytes, Attributes]]:
        files, after = self._files, b""
        while True:
            page = self._ask(
                lambda after=after: [  # type: ignore[misc]
                    (name, files._attributes(node))
                    for name, node in at_once(nodes.names(files._tree, directory, after, _PAGE_NAMES))
                ],
                lambda after=after: files.names(directory, after, _PAGE_NAMES),  # type: ignore[misc]
            )
            if page is None:
                yield from self._names_made(directory, after)
                return
            if not page:
                return
            yield from page
            after = page[-1][0]

    def _names_made(self, directory: int, after: bytes) -> Iterator[tuple[bytes, Attributes]]:
        """Names of a directory that was not listed before."""
        changes = self._files._system.changes
        for each in list(changes.changes()):
            if each.parent == directory and each.name > after and each.change.entry is not None:
                node = self._node(each.change.entry.ino)
                if node is not None:
                    yield each.name, self._files._attributes(node)

    def _node(self, ino: int) -> Node | None:
        with contextlib.suppress(MustAsk, OSError):
            return at_once(nodes.node(self._files._tree, ino))
        return None

    # ---------------------------------------------------------------------------------------------------------- keeping

    def _keep_directory(self, directory: int, path: bytes) -> None:
        for name, found in self._names(directory):
            below = os.path.join(path, name)
            if found.kind == DIRECTORY:
                if found.ino in self._left:
                    self._try(lambda: os.makedirs(self._target(below), exist_ok=True))  # noqa: B023 - called at once
                self._keep_directory(found.ino, below)
                if found.ino in self._left:
                    self._left.discard(found.ino)
                    self._try(lambda: set_attributes(found, self._target(below)))  # noqa: B023
            elif found.ino in self._files.uncommitted:
                self._try(lambda: self._keep(found, below))  # noqa: B023
                self._left.discard(found.ino)

    def _target(self, path: bytes, *, incomplete: bool = False) -> bytes:
        target = os.path.join(os.fsencode(self._kept.path / "incomplete" if incomplete else self._kept.files), path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return target

    def _keep(self, found: Attributes, path: bytes) -> None:
        target = self._target(path)
        if found.kind == FILE:
            if not self._keep_file(found, target):
                self._keep_what_was_written(found.ino, path)
                return
        elif found.kind == SYMLINK:
            where = self._ask(
                lambda: at_once(nodes.read_link(self._files._tree, found.ino)),
                lambda: self._files.read_link(found.ino),
            )
            if where is None:
                raise OSError(errno.EIO, f"symbolic link {os.fsdecode(path)!r} cannot be read")
            os.symlink(where, target)
        else:
            os.mknod(target, _SPECIAL[found.kind], found.device)
        set_attributes(found, target)
        if found.kind == FILE:
            self._keep_extended_attributes(found, target)
        self.count += 1

    def _keep_extended_attributes(self, found: Attributes, target: bytes) -> None:
        files = self._files
        extended = self._ask(
            lambda: at_once(nodes.extended_attributes(files._tree, found.ino)),
            lambda: files.extended_attributes(found.ino),
        )
        if extended:
            local_xattrs.write(target, extended)

    def _keep_file(self, found: Attributes, target: bytes) -> bool:
        """Returns whether all of it could be read."""
        files = self._files
        opened = self._ask(lambda: files.open_known(found.ino), lambda: files.open(found.ino, os.O_RDONLY))
        if opened is None:
            return False
        try:
            with open(target, "wb") as local:
                for offset in range(0, found.size_bytes, _COPY_BYTES):
                    pieces = self._ask(partial(_read_now, opened, offset), partial(opened.read, offset, _COPY_BYTES))
                    if pieces is None:
                        os.unlink(target)
                        return False
                    for piece in pieces:
                        if is_zeros(memoryview(piece)):
                            local.seek(len(piece), os.SEEK_CUR)
                        else:
                            local.write(piece)
                local.truncate(found.size_bytes)
        finally:
            opened.contents.close(write=False)  # not `release`, which may ask
            files._closed(opened.contents)
        return True

    def _keep_what_was_written(self, ino: int, path: bytes) -> None:
        contents = self._files._contents.get(ino)
        target = self._target(path, incomplete=True)
        if contents is None:
            open(target, "wb").close()
        else:
            copy_written(contents, target)
        self.incomplete += 1

    def _keep_nameless(self, ino: int) -> None:
        node = self._node(ino)
        if node is None or node.kind == FILE:
            self._keep_what_was_written(ino, b"inode-%d" % ino)


def _read_now(opened: VolumeFile, offset: int) -> Sequence[Bytes]:
    pieces = opened.read_now(offset, _COPY_BYTES)
    if pieces is None:
        raise MustAsk
    return pieces


def copy_written(contents: UnderWay, target: bytes) -> None:
    """Copy what was written of a file; what was not are holes."""
    with open(target, "wb") as local:
        for start, end in contents.written_here():
            for offset in range(start, end, _COPY_BYTES):
                local.seek(offset)
                local.write(contents.staged(offset, min(end, offset + _COPY_BYTES)))
        local.truncate(contents.size_bytes)


def new_directory(spec: MountSpec, exc: Exception) -> Kept:
    """The recovery directory of the mount *spec*, at whose end *exc* has come."""
    return recovery.make(
        recovery.About(
            kind=spec.kind,
            name=spec.name,
            environment=spec.environment,
            sub_path=b"/".join(spec.base).decode(errors="surrogateescape"),
            mounted_at=spec.path,
            reason=message_of(exc),
            kept_at=time.time(),
        )
    )


def set_attributes(found: Attributes, target: bytes) -> None:
    with contextlib.suppress(OSError):
        os.chown(target, found.uid, found.gid, follow_symlinks=False)
    if found.kind != SYMLINK:
        os.chmod(target, found.mode & 0o777 | stat.S_IRUSR)  # whose bytes nobody can read nobody can put back
    os.utime(target, ns=(found.atime_ns, found.mtime_ns), follow_symlinks=False)
