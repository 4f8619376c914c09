"""Commits of a mounted Volume: what programs have changed becomes the next version, or part of a transaction of the caller's.

There is one at a time, in the background from time to time, or because somebody asks for it. In the background it leaves out the
files that are open for writing. What it takes is uploaded, frozen with the names that are held, and thawed when it is known what
has become of it. What cannot be committed at the end is kept in a recovery directory.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import threading
import time
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.core import clock
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Op
from pgstore.core.threads import going_on, start
from pgstore.fs.commit.held import Part
from pgstore.fs.content import in_place
from pgstore.fs.model import DIRECTORY, Contents, Node, StoreGone
from pgstore.fs.tree import nodes
from pgstore.fs.tree.handover import Written
from pgstore.fs.tree.held import HeldFileSystem, HeldTree
from pgstore.mount.backends.base import StoreFiles
from pgstore.mount.backends.keeping import Keeping, new_directory
from pgstore.mount.contents.open_file import VolumeFile
from pgstore.mount.contents.shared import Shared
from pgstore.mount.contents.volume import VolumeContents
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.failures import message_of
from pgstore.mount.protocol import Kernel

_ATTEMPTS: Final = 4  # of a commit, where what was uploaded is lost again and again
GIVING_BACK_SECONDS: Final = 1.0
OUTCOME_SECONDS: Final = 1.0  # at the end, for a transaction that was handed what was written


class CommittingFiles(StoreFiles[VolumeContents]):
    """The files of a Volume, as far as they are committed."""

    def __init__(self, shared: Shared, system: HeldFileSystem, spec: MountSpec, *, root: int, read_only: bool) -> None:
        super().__init__(shared, root=root, read_only=read_only)
        self._spec = spec
        self._system = system
        self._kernel: Kernel | None = None
        self._changing = threading.RLock()  # over the changes that are held; one at a time changes or commits
        self._committing = threading.Lock()
        # Those of a commit of which it is not known whether it has happened.
        self._in_doubt: list[tuple[VolumeContents, Contents]] | None = None
        self._is_lent = False  # it is somebody else's, who may take long
        self._part: Part | None = None  # that somebody else's transaction is about to write
        self._held_bytes = 0  # of small files that are to be committed
        self._only_shown: set[int] = set()  # directories that no version is to have
        self._wanted = threading.Event()  # a commit, or the end
        self._ended = threading.Event()
        self._committer: threading.Thread | None = None

    @property
    def _tree(self) -> HeldTree:
        return self._system.tree

    @abc.abstractmethod
    def open(self, ino: int, flags: int) -> VolumeFile: ...

    @abc.abstractmethod
    def open_known(self, ino: int) -> VolumeFile:
        """
        Open a file to read what is known of it here.

        Raises:
            MustAsk: its contents are not.
        """

    @property
    def uncommitted(self) -> set[int]:
        for contents in self._all_contents():
            contents.catch_up()
        return self._system.changes.uncommitted | {
            contents.ino for contents in self._all_contents() if contents.is_changed
        }

    def begin(self, kernel: Kernel) -> None:
        self._kernel = kernel
        if not self.read_only and self._spec.background_commits is not None:
            self._committer = threading.Thread(target=self._commit_often, name="pgstore-mount-commits", daemon=True)
            start(self._committer)

    def show(self, path: str) -> None:
        """Have a directory at *path* to mount at. One that is not there is in no version; those above it are made."""
        directory = self.root
        names = os.fsencode(path).split(b"/")
        for depth, name in enumerate(names, 1):
            node = self._ask(partial(nodes.look_up, self._tree, directory, name))
            if node is None:
                touched = dict(self._system.changes.touched)
                node = self._ask(partial(self._new_directory, directory, name))
                if depth == len(names):
                    self._only_shown.add(node.ino)
                    self._system.changes.touched = touched
            directory = node.ino

    def _new_directory(self, directory: int, name: bytes) -> Op[Node]:
        return nodes.make(self._tree, directory, name, DIRECTORY, 0o755, uid=os.geteuid(), gid=os.getegid())

    def _commit_often(self) -> None:
        while not self._ended.is_set():
            self._wanted.wait(self._spec.background_commits)
            self._wanted.clear()
            if not self._ended.is_set() and self._is_changed():
                with going_on(f"committing what was written to {self._spec.path}"):
                    self._commit(leave_open=True)

    def _is_changed(self) -> bool:
        return (
            self._system.changes.has_uncommitted
            or self._in_doubt is not None
            or any(contents.is_changed and not contents.is_open_for_writing for contents in self._all_contents())
        )

    def commit(self) -> None:
        """Commit what was written, also to files that are open, as far as it is written."""
        self._commit(leave_open=False)

    def _commit(self, *, leave_open: bool) -> None:
        with self._committing:
            self._end_doubt()
            changed, left = self._to_commit(leave_open=leave_open)
            for attempts_left in range(_ATTEMPTS - 1, -1, -1):
                self._upload(changed)
                try:
                    self._write_version(changed, left)
                except OSError as exc:
                    if exc.errno != errno.ESTALE or not attempts_left:
                        raise
                    for contents in changed:  # the server or the session may have lost what was uploaded
                        contents.doubt()
                else:
                    break
        for contents in changed:
            self._closed(contents)

    def _to_commit(self, *, leave_open: bool) -> tuple[list[VolumeContents], set[int]]:
        """The contents that a commit takes, and the inodes that it leaves out."""
        known = self._all_contents()
        for contents in known:
            contents.catch_up()
        changed = [contents for contents in known if contents.is_changed]
        # Also one that nothing was written to yet: it is not to appear empty.
        left = {contents.ino for contents in known if leave_open and contents.is_open_for_writing} | self._only_shown
        is_removed = self._system.changes.is_removed
        return [each for each in changed if each.ino not in left and not is_removed(each.ino)], left

    def _upload(self, changed: list[VolumeContents]) -> None:
        """Bring what was written to the database, and to its disk."""
        for contents in changed:
            contents.upload()
        if any(contents.blob_session_id is not None for contents in changed):
            # A blob may outlive a crash of the server that its last chunks do not. If there was one, this finds it out, and
            # `freeze` refuses; if there is one from now on, nothing is lost.
            self._run(lambda: in_place.sync(self._store_id))

    def _write_version(self, changed: list[VolumeContents], left: set[int]) -> None:
        frozen: list[tuple[VolumeContents, Contents]] = []
        version: int | None = None
        with self._changing:
            try:
                self._freeze(changed, frozen)
                with bounded_by(Deadline.after(self._shared.timeout)):  # whoever holds the lock may wait for us
                    version = self._run(lambda: self._system.commit(without=left))
                self._held_bytes = 0
            except OSError as exc:
                if isinstance(exc.__cause__, errors.OutcomeUnknown):
                    self._in_doubt, frozen = frozen, []
                    self._end_doubt()
                    return
                raise
            finally:
                _unfreeze(frozen, version)

    def _freeze(self, changed: list[VolumeContents], frozen: list[tuple[VolumeContents, Contents]]) -> None:
        """Have the contents that were uploaded among the changes that are held, and stay as they are; note which in *frozen*."""
        for contents in changed:
            what = contents.freeze()
            frozen.append((contents, what))
            if what is not contents.base:
                self._set_contents(contents, what)

    def hand_over(self) -> Part:
        """
        What was written, for a transaction of the caller's to commit; nothing is committed here until its outcome is known.

        `handed_over` is to be called when it was written there, `taken_back` when that was rolled back or failed.
        """
        with self._committing:
            self._end_doubt()
            changed, left = self._to_commit(leave_open=False)
            self._upload(changed)
            frozen: list[tuple[VolumeContents, Contents]] = []
            with self._changing:
                try:
                    self._freeze(changed, frozen)
                    self._part = self._system.hand_over(left)
                except BaseException:
                    _unfreeze(frozen, None)
                    raise
                self._in_doubt = frozen
                return self._part

    def handed_over(self, written: Written) -> None:
        """A transaction has written what `hand_over` gave."""
        with self._changing:
            if self._part is not None:
                self._system.handed_over(self._part, written)
                self._part = None
                self._is_lent = True

    def taken_back(self) -> None:
        """What `hand_over` gave was not committed."""
        with self._changing:
            self._system.taken_back()
            self._part = None
            frozen, self._in_doubt, self._is_lent = self._in_doubt or [], None, False
            _unfreeze(frozen, None)

    def _end_doubt(self) -> None:
        """Find out whether a commit whose answer was lost has happened."""
        with self._changing:
            if self._part is not None:
                raise errors.OutcomeUnknown("what was written is just being handed over to a transaction; try again")
            if self._in_doubt is not None:
                if self._is_lent:
                    version = self._shared.run(self._system.find_outcome(wait=False))
                else:
                    version = self._run(self._system.find_outcome)
                frozen, self._in_doubt, self._is_lent = self._in_doubt, None, False
                _unfreeze(frozen, version)
                for contents, _ in frozen:
                    self._closed(contents)

    def _set_contents(self, contents: VolumeContents, what: Contents) -> None:
        if what.blob_id is not None:
            self._system.changes.session_id = contents.blob_session_id
        self._ask(lambda: nodes.set_contents(self._tree, contents.ino, what, mtime_ns=contents.mtime_ns))

    def end(self) -> None:
        self._ended.set()
        self._wanted.set()
        if self._committer is not None:
            self._committer.join()
        if self._part is not None:  # whoever was to write it is gone
            self.taken_back()
        self._shared.is_ending = True
        try:
            if self._spec.commits_at_end and not self.read_only:
                self._commit_last()
        except (OSError, errors.Error, StoreGone) as exc:
            raise self._keep(self._cause(exc)) from exc
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """Else its session gives it back. Whoever unmounts is told what became of the bytes, and of nothing else."""
        if self._shared.given_up is None:
            with going_on("giving back the version of a mount"), bounded_by(Deadline.after(GIVING_BACK_SECONDS)):
                self._shared.run(self._system.end())

    def _commit_last(self) -> None:
        if self._is_changed():
            self._shared.look_for_server()
        give_up = clock.monotonic() + OUTCOME_SECONDS
        while True:
            try:
                self._commit(leave_open=False)
            except errors.OutcomeUnknown:
                # Of a transaction that has not ended. That of a process that was killed does so in a moment, and has committed
                # nothing. If it has not, and has all that was written, nothing is left to be done here.
                if clock.monotonic() < give_up:
                    time.sleep(OUTCOME_SECONDS / 20)
                    continue
                frozen = [contents for contents, _ in self._in_doubt or ()]
                more = [
                    each for each in self._all_contents() if each.is_changed and (each not in frozen or each.has_more)
                ]
                if more or not self._system.is_handed_over:
                    raise
            return

    def _cause(self, exc: Exception) -> Exception:
        """A store that was deleted fails in many ways."""
        if self._shared.given_up is not None:
            return exc
        with contextlib.suppress(errors.Error), bounded_by(Deadline.after(GIVING_BACK_SECONDS)):
            if not self._shared.run(self._system.is_there()):
                return OSError(errno.ESTALE, "the store was deleted")
        return exc

    def _keep(self, exc: Exception) -> errors.Error:
        """Keep in a recovery directory what could not be committed."""
        kept = new_directory(self._spec, exc)
        keeping = Keeping(self, kept, self._shared.timeout)
        keeping.run()
        kind = type(exc) if isinstance(exc, errors.Error) else errors.Error
        return kind(
            f"what was written to {self._spec.path!r} could not be committed: {message_of(exc)}; {keeping.told}: see "
            "`pgstore mounts --recover`"
        )


def _unfreeze(frozen: list[tuple[VolumeContents, Contents]], version: int | None) -> None:
    for contents, what in frozen:
        if version is None:
            contents.not_committed()
        else:
            contents.committed(what, None)
