"""What could not be written of a NetworkFileSystem is copied into a recovery directory, without the store.

The server is asked for nothing: it may be away. Where files are is known as far as programs have looked them up here. A file of
which the stage has all bytes is one to be put back; of others what was written is kept below `incomplete`, as far as the database
may lack it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from pgstore import errors
from pgstore.mount.backends.keeping import copy_written, new_directory, set_attributes
from pgstore.mount.contents.live import LiveContents
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.failures import message_of
from pgstore.mount.protocol import Attributes
from pgstore.mount.recovery import Kept

PLACES_MAX: Final = 20_000


class Places:
    """Where the files are that were looked up or moved last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[int, tuple[int, bytes, Attributes]] = OrderedDict()
        self._there: dict[tuple[int, bytes], int] = {}  # a file that was removed has no place any more

    def note(self, directory: int, name: bytes, found: Attributes) -> None:
        with self._lock:
            self._places[found.ino] = directory, name, found
            self._places.move_to_end(found.ino)
            self._there[directory, name] = found.ino
            if len(self._places) > PLACES_MAX:
                ino, (above, called, _) = self._places.popitem(last=False)
                if self._there.get((above, called)) == ino:
                    del self._there[above, called]

    def forget(self, directory: int, name: bytes) -> None:
        """The name is no more."""
        with self._lock:
            self._there.pop((directory, name), None)

    def move(self, directory: int, name: bytes, to_directory: int, to_name: bytes, *, exchange: bool) -> None:
        with self._lock:
            source = self._there.pop((directory, name), None)
            target = self._there.pop((to_directory, to_name), None)
            self._move(source, to_directory, to_name)
            if exchange:
                self._move(target, directory, name)

    def _move(self, ino: int | None, directory: int, name: bytes) -> None:
        if ino is not None:
            *_, found = self._places[ino]
            self._places[ino] = directory, name, found
            self._there[directory, name] = ino

    def path(self, ino: int, root: int) -> bytes | None:
        """The path below *root*; None: not all of it is known."""
        parts: list[bytes] = []
        with self._lock:
            while ino != root:
                above, name, _ = self._places.get(ino, (0, b"", None))
                if self._there.get((above, name)) != ino or len(parts) > PLACES_MAX:
                    return None
                parts.append(name)
                ino = above
        return b"/".join(reversed(parts))

    def attributes(self, ino: int) -> Attributes | None:
        with self._lock:
            found = self._places.get(ino)
        return None if found is None else found[2]


def keep(spec: MountSpec, exc: Exception, left: Sequence[LiveContents], places: Places, root: int) -> errors.Error:
    """Keep what was written to *left*, which has failed with *exc*. Returns what to tell whoever unmounts."""
    kept = new_directory(spec, exc)
    whole = incomplete = 0
    failure: Exception | None = None
    for contents in left:
        try:
            if _keep(kept, contents, places, root):
                whole += 1
            else:
                incomplete += 1
        except OSError as error:  # the others are kept nevertheless
            failure = failure or error
    kind = type(exc) if isinstance(exc, errors.Error) else errors.Error
    more = f", and what was written of {incomplete} more, which is not all of them" if incomplete else ""
    missing = f" (not all of it: {failure})" if failure is not None else ""
    return kind(
        f"what was written to {spec.path!r} could not all be brought to the server: {message_of(exc)}; {whole} files of it are "
        f"kept in {str(kept.path)!r}{more}{missing}: see `pgstore mounts --recover`"
    )


def _keep(kept: Kept, contents: LiveContents, places: Places, root: int) -> bool:
    """Returns whether all bytes of the file are kept."""
    path, found = places.path(contents.ino, root), places.attributes(contents.ino)
    is_whole = path is not None and contents.written_here() == [(0, contents.size_bytes)]
    base = os.fsencode(kept.files if is_whole else kept.incomplete)
    target = os.path.join(base, path or b"inode-%d" % contents.ino)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    copy_written(contents, target)
    if found is not None:
        set_attributes(found._replace(mtime_ns=contents.mtime_ns), target)
    return is_whole
