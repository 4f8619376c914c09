"""What was done to names of a NetworkFileSystem and is perhaps not on the server's disk yet: after a crash it is done again.

In the order in which it was done, and each only where things are as they were: a name is removed or renamed if it leads to the same
inode, an inode is made if it is not there, and an attribute is set if it is what it was before. So what the crash has left is not
done twice, and what others have done since is not undone; where they have taken a name, what was lost cannot be brought back, and a
line of the log says so.

Numbers of inodes come again for nobody (`fs.tree.new_rows.reserve_inodes`), so a file that is made again is the one that is open.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pgstore.client.history import only_server
from pgstore.core.operation import Op
from pgstore.fs.model import StoreGone
from pgstore.mount.contents.disk import Commit
from pgstore.mount.contents.shared import Shared

_LOG: Final = logging.getLogger("pgstore")
NAMES_MAX: Final = 20_000  # that are noted before somebody waits for the disk


@dataclass
class _Done:
    commit: Commit
    what: str
    again: Callable[[], Op[object]]


class _Crashed(Exception):
    """The server has crashed once more."""


class NameLog:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._disk = shared.disk
        self._history = shared.session.history
        self._lock = threading.Lock()  # over the next ones
        self._done: deque[_Done] = deque()
        self._again = threading.RLock()  # held while what is lost is done again

    def __bool__(self) -> bool:
        return bool(self._done)

    @property
    def is_full(self) -> bool:
        return len(self._done) > NAMES_MAX

    def note(self, server: int | None, what: str, again: Callable[[], Op[object]]) -> None:
        """
        Something was done.

        Args:
            server: `Disk.server`, as it was before.
            what: for messages.
            again: makes the operation that does it once more, if it has to be.
        """
        if server is None:  # it has waited for the disk
            return
        with self._lock:
            self._done.append(_Done(self._disk.committed(server), what, again))

    def has_before(self, mark: int) -> bool:
        """Whether something that was done before *mark* was taken is perhaps not on the disk."""
        with self._lock:
            self._forget_safe()
            return any(each.commit.number < mark for each in self._done)

    def _forget_safe(self) -> None:
        done, is_safe = self._done, self._disk.is_safe
        while done and is_safe(done[0].commit):
            done.popleft()

    @property
    def is_lost(self) -> bool:
        """Whether the server may have lost some of it."""
        done = self._done
        if not done:
            return False
        server = self._disk.server
        try:
            if done[0].commit.server == server == done[-1].commit.server:
                return False
        except IndexError:  # another thread has forgotten it
            return False
        with self._lock:
            self._forget_safe()
            return any(self._disk.is_lost(each.commit) for each in self._done)

    def bring_back(self) -> None:
        """
        Do again what may be lost.

        Raises:
            OSError: EIO: the server was away for too long. What is left to do is tried with the next call.
        """
        with only_server(None), self._again:
            while self.is_lost:  # unless another thread has done it; and after each crash meanwhile
                if self._shared.session.history is not self._history:
                    self._give_up()
                    return
                try:
                    self._bring_back(self._disk.server)
                except StoreGone:
                    self._give_up()
                    return
                self._shared.names_brought_back += 1

    def _bring_back(self, server: int | None) -> None:
        """Do again what is not on the disk from the first on that is lost, as long as it is this *server* that has it."""
        with self._lock:
            self._forget_safe()
            all_done = list(self._done)
        first = next((at for at, each in enumerate(all_done) if self._disk.is_lost(each.commit)), len(all_done))
        for each in all_done[first:]:
            failure: OSError | None = None
            try:
                self._shared.within_timeout(lambda: self._done_by(server, each.again))  # noqa: B023 - called within
            except _Crashed:
                return
            except OSError as exc:
                if exc.errno == errno.EIO:
                    raise
                failure = exc
            if self._disk.server != server:  # it has lost what was just done, on which this one may depend
                return
            if failure is not None:
                _LOG.error("the server crashed and has lost %s, which cannot be done again: %s", each.what, failure)
            each.commit = self._disk.committed(server)

    def _done_by(self, server: int | None, again: Callable[[], Op[object]]) -> Op[None]:
        """
        Do something again, all of it by *server*.

        Raises:
            _Crashed: it has crashed, and lost what was done again before.
        """
        if self._disk.server != server:
            raise _Crashed
        with only_server(server):
            yield from again()

    def clear(self) -> int:
        """Forget everything. Returns how much it was."""
        with self._lock:
            count = len(self._done)
            self._done.clear()
            return count

    def _give_up(self) -> None:
        """The database is another one, in which the same numbers may mean other files."""
        count = self.clear()
        _LOG.error(
            "the database was replaced, and the last %d changes of names through a mount may be missing in it", count
        )
