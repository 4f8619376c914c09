"""Telling the kernel what to forget, since others have changed it.

A notification may wait until requests that are under way are answered: the kernel holds what it is about. So one thread sends them
that serves nothing, and holds no lock of anybody's while it does. Before it stands a queue, in which what is said twice is one.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import Final

from pgstore.core import threads
from pgstore.mount import kernel
from pgstore.mount.changes import RecentChanges
from pgstore.mount.channel import Channel
from pgstore.mount.protocol import Kernel

_LOG: Final = logging.getLogger("pgstore")

QUEUED_MAX: Final = 50_000  # about 10 MB

_ATTRIBUTES_ALONE: Final = -1  # as the offset: no page


class Notifier(Kernel):
    """
    Its methods return at once, but when the queue is full: then they wait until there is room. Whoever calls them must hold no lock
    that a request may need. From Linux 6.16 on names don't fill it: too many become "all".

    Args:
        root: the inode that is mounted.
        changes: where it is noted what the kernel is to forget.
    """

    def __init__(self, channel: Channel, root: int, changes: RecentChanges, *, queued_max: int = QUEUED_MAX) -> None:
        self.knows_epochs = False
        self._channel = channel
        self._root = root
        self._queued_max = queued_max
        self._noted = changes
        self._changed = threading.Condition()
        self._inodes: dict[int, bool] = {}  # whether pages are to go as well
        self._names: dict[tuple[int, bytes], None] = {}
        self._all_names = False
        self._is_sending = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="pgstore-notify", daemon=True)
        threads.start(self._thread)

    def stop(self) -> None:
        """Send nothing any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def forget_attributes(self, ino: int) -> None:
        self._noted.note(ino)
        with self._changed:
            self._inodes.setdefault(ino, False)
            self._grown()

    def forget_contents(self, ino: int) -> None:
        self._noted.note(ino)
        with self._changed:
            self._inodes[ino] = True
            self._grown()

    def forget_name(self, directory: int, name: bytes) -> None:
        with self._changed:
            self._inodes[directory] = True  # of a directory the pages are its list of names
            self._names[directory, name] = None
            self._grown()

    @property
    def can_forget_all_names(self) -> bool:
        return self.knows_epochs

    def forget_all_names(self) -> None:
        self._noted.note_all()
        if self.knows_epochs:
            with self._changed:
                self._names.clear()
                self._all_names = True
                self._grown()

    def forget_attributes_now(self, ino: int) -> None:
        self._noted.note(ino)
        # Of attributes alone the kernel holds nothing while it waits for a reply.
        self._send(False, {}, {ino: False})

    def pass_through(self, fd: int) -> int:
        if not self.passes_through:
            return 0
        try:
            return self._channel.open_backing(fd)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # it will never
                self.passes_through = False
            return 0

    def end_pass_through(self, number: int) -> None:
        self._channel.close_backing(number)

    def wait_until_forgotten(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or not (self._is_sending or self._all_names or self._names or self._inodes)
            )

    def _grown(self) -> None:
        self._changed.notify_all()
        if len(self._names) + len(self._inodes) <= self._queued_max:
            return
        if self.knows_epochs and self._names:
            self._names.clear()
            self._all_names = True
        self._changed.wait_for(lambda: self._stopped or len(self._names) + len(self._inodes) <= self._queued_max)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._all_names or self._names or self._inodes)
                if self._stopped:
                    return
                all_names, names, inodes = self._all_names, self._names, self._inodes
                self._all_names, self._names, self._inodes = False, {}, {}
                self._is_sending = True
                self._changed.notify_all()
            self._send(all_names, names, inodes)
            with self._changed:
                self._is_sending = False
                self._changed.notify_all()

    def _send(self, all_names: bool, names: dict[tuple[int, bytes], None], inodes: dict[int, bool]) -> None:
        if all_names:
            self._notify(kernel.NOTIFY_INC_EPOCH)
        for directory, name in names:
            head = kernel.NOTIFY_INVAL_ENTRY_OUT.pack(self._node(directory), len(name), 0)
            self._notify(kernel.NOTIFY_INVAL_ENTRY, head + name + b"\0")
        for ino, pages in inodes.items():
            offset = 0 if pages else _ATTRIBUTES_ALONE
            self._notify(kernel.NOTIFY_INVAL_INODE, kernel.NOTIFY_INVAL_INODE_OUT.pack(self._node(ino), offset, 0))

    def _notify(self, code: int, body: bytes = b"") -> None:
        if self._stopped:
            return
        try:
            self._channel.notify(code, body)
        except OSError:
            _LOG.exception("the kernel refused to forget what others have changed")

    def _node(self, ino: int) -> int:
        return kernel.ROOT_ID if ino == self._root else ino
