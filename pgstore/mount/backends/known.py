"""What a mount of a NetworkFileSystem knows of attributes: the kernel asks for them again and again.

Of directories after each name that is made or removed there; of files after they were opened, read, and written to. What is known
is as old as what the kernel believes for a minute, which is to say that others' changes are heard of a moment later; then all of it
is forgotten. What is done through the mount itself is noted here before it is answered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from pgstore.core import clock
from pgstore.fs.model import DIRECTORY, Node
from pgstore.mount.protocol import Attributes

DIRECTORIES_MAX: Final = 1_000
FILES_MAX: Final = 4_096
FILE_SECONDS: Final = 1.0  # for which a file is known: the kernel asks soon, and may believe the answer for a minute


class Known:
    """Its methods wait for nobody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.state = 0
        """Grows with every change, to be noted before something is read."""
        self._directories: dict[int, Attributes] = {}
        self._files: OrderedDict[int, tuple[Node, float]] = (
            OrderedDict()
        )  # as in the database, until when; the oldest first

    def directory(self, ino: int) -> Attributes | None:
        return self._directories.get(ino)

    def file(self, ino: int) -> Node | None:
        """What the database has of anything but a directory."""
        node, until = self._files.get(ino, (None, 0.0))
        return node if node is not None and clock.monotonic() < until else None

    def note_directory(self, found: Attributes, state: int) -> None:
        """
        Attributes of a directory were read; if it is none, nothing is noted.

        Args:
            state: `state`, as it was before they were read.
        """
        with self._lock:
            if state == self.state and found.kind == DIRECTORY:
                if len(self._directories) >= DIRECTORIES_MAX:
                    self._directories.clear()
                self._directories[found.ino] = found

    def note_file(self, node: Node, state: int) -> None:
        """The same of anything but a directory."""
        if node.inline_data is not None:
            node = node._replace(inline_data=None)
        with self._lock:
            if state == self.state and node.kind != DIRECTORY:
                self._files[node.ino] = node, clock.monotonic() + FILE_SECONDS
                self._files.move_to_end(node.ino)
                if len(self._files) > FILES_MAX:
                    self._files.popitem(last=False)

    def changed_at(self, at_ns: int, *directories: int) -> None:
        """Names in *directories* were changed through the mount."""
        with self._lock:
            self.state += 1
            for ino in directories:
                found = self._directories.get(ino)
                if found is not None:
                    self._directories[ino] = found._replace(
                        mtime_ns=max(found.mtime_ns, at_ns), ctime_ns=max(found.ctime_ns, at_ns)
                    )

    def forget(self, *inodes: int) -> None:
        with self._lock:
            self.state += 1
            for ino in inodes:
                self._directories.pop(ino, None)
                self._files.pop(ino, None)

    def forget_all(self) -> None:
        with self._lock:
            self.state += 1
            self._directories.clear()
            self._files.clear()
