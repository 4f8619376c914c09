"""A directory with the files of a store in it: filled, written back, brought up to date, emptied.

What was brought from the store, or into it, is remembered: the local snapshot, by which the next commit finds what has changed
here, and the inodes of the store, by which `reload` finds what has changed there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Final, TypeAlias

from pgstore import errors
from pgstore.client.undo import on_rollback
from pgstore.core.operation import Call, Op
from pgstore.file_store import FileStore
from pgstore.fs import history
from pgstore.fs.history import VersionPin
from pgstore.fs.model import DIRECTORY, FILE, NEWEST, Node
from pgstore.fs.paths import Names, join
from pgstore.fs.transfer.local import explained
from pgstore.fs.tree.resolve import Walk
from pgstore.mount import recovery
from pgstore.mount.failures import extended
from pgstore.mount.recovery import About
from pgstore.mount.sync.difference import Difference, Path
from pgstore.mount.sync.fill import Filler, check_size, nodes_below
from pgstore.mount.sync.snapshot import Local, digest_of, scan
from pgstore.mount.sync.write_back import WriteBack, Written

_LOG: Final = logging.getLogger("pgstore")
OPEN_SHOWN_MAX: Final = 3
# Of a file in the store: the inode as it was read, or what we have written; None: ours, of which nothing is known.
Known: TypeAlias = Node | Written | None


class SyncedDirectory:
    """
    A copy of the directory *base* of a store in the local directory *root*, which is empty at the beginning and at the end.

    Args:
        size_max_bytes: of the files together, when they are fetched.
    """

    def __init__(self, store: FileStore, base: Names, root: str, *, read_only: bool, size_max_bytes: int) -> None:
        self._store = store
        self._base = base
        self._root = root
        self._read_only = read_only
        self._size_max_bytes = size_max_bytes
        self._local: dict[Path, Local] = {}
        self._digests: dict[Path, bytes] = {}
        self._known: dict[Path, Known] = {}
        self._places: Collection[Path] = ()  # of other mounts
        self._lock = threading.Lock()  # released by another thread than acquires it, perhaps

    def fill(self) -> Op[None]:
        """Copy all files of the store."""
        try:
            yield from self._locked(self._fill())
        except BaseException:
            yield Call(partial(recovery.empty, self._root))
            raise

    def _locked(self, body: Op[Any]) -> Op[Any]:
        yield Call(self._lock.acquire)
        try:
            return (yield from body)
        finally:
            self._lock.release()

    def _fill(self) -> Op[None]:
        reader = yield from self._frozen()
        tree = yield from reader._tree()
        nodes = yield from nodes_below(tree, (yield from self._top(reader)))
        check_size(nodes, self._size_max_bytes, repr(self._store))
        filler = Filler(tree, self._base, self._root, read_only=self._read_only)
        yield from filler.copy(nodes)
        self._digests = filler.digests
        self._known = {path: node for path, node in nodes.items() if path not in filler.gone}
        self._local = yield Call(self._scan)

    def leave_out_new(self) -> Op[None]:
        """Leave out of the store, and as they are, the directories made here since `fill`: other mounts are there."""
        found = yield Call(self._scan)
        new = found.keys() - self._local.keys()
        self._places = {path for path in new if not any(other.startswith(path + b"/") for other in new)}

    def _scan(self) -> dict[Path, Local]:
        found = scan(self._root, _left_out)
        return {path: local for path, local in found.items() if path not in self._places} if self._places else found

    def _frozen(self) -> Op[FileStore]:
        """A handle that reads one state of the store: of a Volume its newest version, from now on."""
        store = self._store
        if store._version != NEWEST or store._changes_class.in_place:
            return store
        store_id = yield from store._resolve_id()
        found = yield from history.versions(store_id, limit=1)
        version = found[0].version if found else 0
        return store._clone(_version=version, _version_pin=VersionPin(version))

    def _top(self, reader: FileStore) -> Op[Walk]:
        tree = yield from reader._tree()
        walk = yield from reader._reading(tree, tree.need(self._base))
        if not walk.found.is_directory:
            raise errors.NotADirectory(f"{join(self._base)!r} is not a directory", join(self._base))
        return walk

    # -------------------------------------------------------------------------------------------------------- commit

    def commit(self) -> Op[None]:
        """Write back what has changed, in one transaction; in the current one, if there is one."""
        yield from self._locked(self._commit())

    def _commit(self) -> Op[None]:
        new: dict[Path, Local] = yield Call(self._scan)
        steps: Difference = yield Call(partial(Difference, self._local, new, self._is_same))
        if not steps:
            self._local = new
            return
        work = WriteBack(self._base, self._root, steps, self._local, new)
        yield from self._store._change(work.apply)
        before = self._local, self._digests, self._known
        yield from on_rollback(partial(self._set_back, before), of=self)
        for path in work.vanished:
            if path in self._local:
                new[path] = self._local[path]
            else:
                del new[path]
        self._digests = self._after(self._digests, steps, {path: each.digest for path, each in work.written.items()})
        self._known = self._after(self._known, steps, work.written)
        for path in new.keys() - self._known.keys():
            self._known[path] = None
        for path in steps.attributes:
            known = self._known.get(path)
            if isinstance(known, Node):
                self._known[path] = known._replace(mode=-1, mtime_ns=new[path].mtime_ns)  # no mode that the store has
            elif known is not None:
                self._known[path] = known._replace(mtime_ns=new[path].mtime_ns)
        self._local = new

    @staticmethod
    def _after(before: Any, steps: Difference, written: Any) -> Any:
        """What is known by path, after *steps*."""
        after = {path: before[origin] for path, origin in steps.origins() if origin in before}
        after.update(written)
        after.update((name, after[path]) for path, name in steps.links if path in after)
        return after

    def _set_back(self, before: tuple[Any, Any, Any]) -> None:
        self._local, self._digests, self._known = before

    def _is_same(self, old_path: Path, path: Path) -> bool:
        try:
            return self._digests.get(old_path) == digest_of(os.path.join(os.fsencode(self._root), path))
        except errors.FileMissing:
            return False

    # -------------------------------------------------------------------------------------------------------- reload

    def reload(self) -> Op[None]:
        """
        Write back what has changed here, then fetch what has changed in the store.

        Raises:
            InvalidError: this process has files of the directory open, which would stay what they are.
        """
        yield from self._locked(self._reload())

    def _reload(self) -> Op[None]:
        yield Call(partial(check_nothing_open, self._root))
        if not self._read_only:
            yield from self._commit()
        reader = yield from self._frozen()
        tree = yield from reader._tree()
        nodes = yield from nodes_below(tree, (yield from self._top(reader)))
        check_size(nodes, self._size_max_bytes, repr(self._store))
        wanted = {path: node for path, node in nodes.items() if not self._has_bytes(path, node)}
        gone = [path for path in self._known if path not in nodes or nodes[path].kind != self._kind(path)]
        yield Call(partial(_make_writable, os.fsencode(self._root), {*wanted, *gone}))
        yield Call(partial(_remove, os.fsencode(self._root), gone))
        filler = Filler(tree, self._base, self._root, read_only=self._read_only)
        yield from filler.copy(wanted)
        entered = {path.rpartition(b"/")[0] for path in (*wanted, *gone)}
        others = [
            (path, node)
            for path, node in nodes.items()
            if path not in wanted and (self._known[path] != node or path in entered)
        ]
        yield Call(partial(filler.set_all, reversed(others)))
        now: dict[Path, Local] = yield Call(self._scan)
        touched = {*wanted, *(path for path, _ in others)}
        # What has changed here meanwhile is not in the store yet: only what was fetched is known to be the same.
        self._local = {
            path: local if path in touched else self._local[path]
            for path, local in now.items()
            if path in touched or (path in self._local and path not in gone)
        }
        self._digests = {path: each for path, each in self._digests.items() if path in nodes} | filler.digests
        self._known = {path: node for path, node in nodes.items() if path not in filler.gone}

    def _kind(self, path: Path) -> str:
        return self._local[path].kind if path in self._local else ""

    def _has_bytes(self, path: Path, node: Node) -> bool:
        """Whether what is at *path* here is *node*, but for its attributes."""
        known = self._known.get(path)
        if node.kind == DIRECTORY:
            return path in self._known and self._kind(path) == DIRECTORY
        if known is None or (isinstance(known, Node) and known.kind != node.kind):
            return False
        return (known.ino, known.size_bytes, known.mtime_ns) == (node.ino, node.size_bytes, node.mtime_ns)

    # ----------------------------------------------------------------------------------------------------------- end

    def close(self, about: Callable[[str], About]) -> Op[None]:
        """
        Write back what has changed, and empty the directory.

        Args:
            about: what a recovery directory is to say, given a reason; see there.

        Raises:
            Exception: what the last commit has failed with. What it should have written is in a recovery directory, whose path is
                in the message.
        """
        yield from self._locked(self._close(about))

    def _close(self, about: Callable[[str], About]) -> Op[None]:
        try:
            if self._read_only:
                yield Call(self._say_what_is_lost)
            else:
                yield from self._commit()
        except GeneratorExit:
            raise
        except BaseException as exc:
            kept = yield Call(partial(self._keep, about(str(exc) or type(exc).__name__)))
            yield Call(partial(recovery.empty, self._root))
            if kept is None or not isinstance(exc, Exception):
                raise
            raise extended(exc, f"what was not written is kept in {str(kept.path)!r}") from exc
        yield Call(partial(recovery.empty, self._root))

    def _say_what_is_lost(self) -> None:
        if steps := Difference(self._local, self._scan(), self._is_same):
            path = next(iter([*steps.files, *steps.arrived, *(path for path, _ in steps.away), *steps.attributes]), b"")
            _LOG.warning("changes below %s, which is read-only, are not kept: %s …", self._root, join((path,)))

    def _keep(self, about: About) -> recovery.Kept | None:
        """Keep what has changed; None: nothing that could be kept has."""
        new = self._scan()
        steps = Difference(self._local, new, self._is_same)
        paths = [*steps.files, *(path for path in steps.arrived if path not in steps.moved and _is_kept(new[path]))]
        paths += [name for _, name in steps.links]
        if not paths:
            return None
        kept = recovery.keep_files(os.fsencode(self._root), paths, about)
        _LOG.warning("what was written below %s is kept in %s: %s", self._root, kept.path, about.reason)
        return kept


def _is_kept(local: Local) -> bool:
    return local.kind not in (DIRECTORY, FILE)


def _make_writable(root: bytes, paths: Collection[Path]) -> None:
    """Have this user, who need not be root, be allowed to replace and remove what is at *paths*."""
    directories = {os.path.dirname(path) for path in paths}
    for path in (*sorted(directories), *paths):
        local = os.path.join(root, path)
        with contextlib.suppress(OSError):  # not there yet
            status = os.lstat(local)
            if path and not stat.S_ISLNK(status.st_mode):
                os.chmod(local, stat.S_IMODE(status.st_mode) | (0o700 if stat.S_ISDIR(status.st_mode) else 0o600))


def _remove(root: bytes, paths: Iterable[Path]) -> None:
    for path in sorted(paths, key=lambda path: path.count(b"/"), reverse=True):
        local = os.path.join(root, path)
        with explained(f"local file {os.fsdecode(local)!r}", local), contextlib.suppress(FileNotFoundError):
            try:
                os.unlink(local)
            except IsADirectoryError:
                os.rmdir(local)


def check_nothing_open(root: str) -> None:
    """Raise `FilesOpen` if this process has something open below *root*, or works there."""
    prefix = root.rstrip("/") + "/"
    found = []
    if (os.path.realpath(os.curdir) + "/").startswith(prefix):
        found.append("the working directory")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # no /proc
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/self/fd/{number}")
                if path.startswith(prefix):
                    found.append(repr(path))
    if found:
        shown = ", ".join(found[:OPEN_SHOWN_MAX]) + (", …" if len(found) > OPEN_SHOWN_MAX else "")
        raise errors.FilesOpen(
            f"there are open files preventing the operation, the reload of {root!r}: {shown}; close them first"
        )


def _left_out(path: Path) -> None:
    _LOG.warning("%s is a device, which a store cannot hold here: it is left out", join((path,)))
