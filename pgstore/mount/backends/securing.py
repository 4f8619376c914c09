"""What is written through a mount of a NetworkFileSystem gets to the server's disk, in the background and when somebody waits.

Nothing but fsync and the end waits for the disk. A thread brings there what was committed, soon after the first change, and has
what a crash of the server has taken done again: names by `name_log`, contents by themselves (`mount.contents.disk`). What the
server could not be given at the end is kept in a recovery directory.
"""

from __future__ import annotations

import abc
import errno
import logging
import threading
from collections.abc import Callable
from typing import Final

from pgstore import errors
from pgstore.core.threads import going_on, start
from pgstore.fs.notifications import ANYTHING, FileChange
from pgstore.mount.backends.base import StoreFiles
from pgstore.mount.backends.keeping_live import Places, keep
from pgstore.mount.backends.name_log import NameLog
from pgstore.mount.contents.live import LiveContents
from pgstore.mount.contents.shared import Shared
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.protocol import Kernel

_LOG: Final = logging.getLogger("pgstore")
SECURE_SECONDS: Final = 0.7  # from the first change that is not on the disk to bringing it there
CLOSED_MAX: Final = 2_000  # files that are closed and not on the disk; of one more the close waits


class SecuringFiles(StoreFiles[LiveContents]):
    """The files of a NetworkFileSystem, as far as they are brought to the server's disk."""

    def __init__(self, shared: Shared, spec: MountSpec, *, root: int, read_only: bool) -> None:
        super().__init__(shared, root=root, read_only=read_only)
        self._spec = spec
        self._places = Places()
        self._kernel: Kernel | None = None
        self._names = NameLog(shared)
        shared.bring_back_names = self._names.bring_back
        self._secured_names = 0  # `names_brought_back`, when the kernel was told last
        self._hurry = threading.Event()  # what is not on the disk is not to wait
        self._closed_files = 0  # whose bytes are kept here until they are on the disk; about
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @abc.abstractmethod
    def _forget(self, change: FileChange) -> None:
        """Have the kernel forget what *change* may have changed."""

    def begin(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._start(self._secure_in_turns, "pgstore-mount-disk")

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        start(thread)
        self._threads.append(thread)

    def end(self) -> None:
        self._ended.set()
        self._hurry.set()
        self._shared.disk.is_unsafe.set()
        self._shared.is_ending = True
        for thread in self._threads:
            thread.join()
        failure: OSError | None = None
        left: list[LiveContents] = []
        try:
            for contents in self._all_contents():
                try:
                    contents.sync()
                except OSError as exc:  # the others are written nevertheless
                    if not self._is_superfluous(contents, exc):
                        failure = failure or exc
                        left.append(contents)
                else:
                    contents.release()
            self.sync_names()
        except OSError as exc:
            if exc.errno != errno.ESTALE:  # the store was deleted
                failure = failure or exc
        if left:
            assert failure is not None
            raise keep(self._spec, failure, left, self._places, self.root) from failure
        if failure is not None:
            raise failure

    def _secure_in_turns(self) -> None:
        is_unsafe = self._shared.disk.is_unsafe
        while not self._ended.is_set():
            is_unsafe.wait()
            self._hurry.wait(SECURE_SECONDS)
            self._hurry.clear()
            if self._ended.is_set():
                return
            is_unsafe.clear()
            with going_on("bringing what was written through a mount to the server's disk"):
                if not self._secure():
                    is_unsafe.set()

    def _secure(self) -> bool:
        """Bring all that was committed before to the server's disk, and what it has lost back. Returns whether that is done."""
        is_done = True
        try:
            self._names.bring_back()
            mark = self._shared.disk.mark()
            all_contents = self._all_contents()
            for contents in all_contents:
                is_done = self._is_brought_back(contents) and is_done
            if self._names.has_before(mark) or not all(contents.is_safe for contents in all_contents):
                self._shared.disk.flush()
            is_done &= not self._names.has_before(mark)
        except OSError as exc:
            if exc.errno == errno.ESTALE:  # the store was deleted
                self._names.clear()
                return True
            _LOG.error("what was written through a mount is not on the server's disk yet, and is kept: %s", exc)
            is_done = False
        for contents in self._all_contents():
            contents.settle()
            is_done &= contents.is_safe or contents.open_files > 0
            self._closed(contents)
        self._closed_files = sum(not contents.open_files for contents in self._all_contents())
        if self._shared.names_brought_back != self._secured_names:
            self._secured_names = self._shared.names_brought_back
            self._forget(ANYTHING)  # it may have seen what the crash had left
        return is_done

    def _is_brought_back(self, contents: LiveContents) -> bool:
        """Have *contents* uploaded, if a crash has taken some, or nobody has them open."""
        contents.settle()
        if not (contents.has_lost or (contents.is_dirty and not contents.open_files)):
            return True
        try:
            contents.bring_back()
        except OSError as exc:
            if _is_away(exc):  # the next attempt is for all
                contents.failures.note(exc)
                raise
            if not self._is_superfluous(contents, exc):
                contents.failures.note(exc)
                if not contents.open_files:
                    _LOG.error(
                        "what was written to inode %d, and closed, is kept, and tried again: %s", contents.ino, exc
                    )
                return False
        return True

    def _is_superfluous(self, contents: LiveContents, exc: OSError) -> bool:
        """Whether there is no such file any more, and nobody has it open."""
        if exc.errno != errno.ESTALE:
            return False
        with self._table:
            if contents.open_files:
                return False
            if self._contents.get(contents.ino) is contents:
                self._put_away(contents.ino)
        contents.release()
        return True

    def _is_kept(self, contents: LiveContents) -> bool:
        return not contents.is_safe

    def sync(self) -> None:
        for contents in self._all_contents():
            contents.upload()
        self._shared.disk.flush()
        for contents in self._all_contents():
            contents.sync()
        self.sync_names()

    def sync_names(self) -> None:
        """Return when the names that were changed here are on the server's disk."""
        self._names.bring_back()
        mark = self._shared.disk.mark()
        while self._names.has_before(mark):
            self._shared.disk.flush()
            if self._names.is_lost:
                self._names.bring_back()
                mark = self._shared.disk.mark()

    def note_closed(self, contents: LiveContents) -> None:
        if not contents.open_files and not contents.is_safe:
            self._closed_files += 1

    def make_room(self, contents: LiveContents) -> None:
        """Before *contents* are closed: what waits for the disk is bounded."""
        if self._shared.stage.is_crowded or self._names.is_full or self._closed_files > CLOSED_MAX:
            self._hurry.set()
            contents.sync()
            self.sync_names()


def _is_away(exc: OSError) -> bool:
    """Whether *exc* says that the server was waited for in vain."""
    return isinstance(exc.__cause__, (errors.StoreUnavailable, errors.TimedOut))
