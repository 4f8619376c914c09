"""What was seen of a bucket a short while ago: what directories held, and what single paths were.

What is changed through the same `Tree` is known at once. An answer that was under way while something in its directory was changed
here is not kept, for it may be older than the change.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from typing import Final, NamedTuple

from pgstore.buckets.keys import ancestors, name_of, parent_of
from pgstore.core import clock

ENTRIES_MAX: Final = 200_000  # of all listings and single paths together: about 100 MB


class Entry(NamedTuple):
    """A file or directory of a `Tree`."""

    path: str
    """From the root, without a leading slash; of the root: empty."""
    is_directory: bool
    size_bytes: int = 0
    mtime_ns: int = 0
    """When the object was put, in nanoseconds since 1970; 0 of directories that are only what keys begin with."""
    tag: str = ""
    """Names the state of the object; empty of directories."""

    @property
    def name(self) -> str:
        return name_of(self.path)


class Question:
    """One about a directory, or about paths in it, whose answer is under way."""

    is_outdated = False


class Known:
    """
    Args:
        ttl: for how many seconds something is known; 0: nothing is.
    """

    def __init__(self, ttl: float, entries_max: int = ENTRIES_MAX) -> None:
        self.ttl = ttl
        self.entries_max = entries_max
        self._lock = threading.Lock()
        self._listings: OrderedDict[str, tuple[float, dict[str, Entry]]] = OrderedDict()
        self._paths: OrderedDict[str, tuple[float, Entry | None]] = OrderedDict()
        self._listed = 0  # entries of all listings
        self._questions: dict[str, list[Question]] = {}

    def listing(self, directory: str) -> list[Entry] | None:
        """What the directory holds; None: that is not known."""
        with self._lock:
            found = self._fresh_listing(directory)
            return None if found is None else list(found.values())

    def entry(self, path: str) -> tuple[bool, Entry | None]:
        """Whether it is known what is at *path*, and what it is."""
        with self._lock:
            single = self._paths.get(path)
            if single is not None:
                if clock.monotonic() < single[0]:
                    return True, single[1]
                del self._paths[path]
            listed = self._fresh_listing(parent_of(path))
            return (False, None) if listed is None else (True, listed.get(name_of(path)))

    def _fresh_listing(self, directory: str) -> dict[str, Entry] | None:
        found = self._listings.get(directory)
        if found is None or clock.monotonic() < found[0]:
            return None if found is None else found[1]
        self._drop_listing(directory)
        return None

    # ------------------------------------------------------------------------------------------------------- learning

    @contextlib.contextmanager
    def asking(self, directory: str) -> Generator[Question, None, None]:
        """A question about the directory is under way; its answer is kept within the block."""
        question = Question()
        with self._lock:
            self._questions.setdefault(directory, []).append(question)
        try:
            yield question
        finally:
            with self._lock:
                asked = self._questions[directory]
                asked.remove(question)
                if not asked:
                    del self._questions[directory]

    def keep(self, question: Question, path: str, entry: Entry | None) -> None:
        """What is at *path* is *entry*."""
        if self.ttl:
            with self._lock:
                if not question.is_outdated:
                    self._keep(path, entry)

    def keep_listing(self, question: Question, directory: str, entries: Sequence[Entry]) -> None:
        """All that the directory holds."""
        if not self.ttl or len(entries) > self.entries_max:
            return
        with self._lock:
            if question.is_outdated:
                return
            self._drop_listing(directory)
            for entry in entries:  # what is newer than what was known of single paths
                self._paths.pop(entry.path, None)
            self._listings[directory] = clock.monotonic() + self.ttl, {entry.name: entry for entry in entries}
            self._listed += len(entries)
            self._make_room()

    def changed(self, path: str, entry: Entry | None, *, was_file: bool = False) -> None:
        """
        *path* was changed here, and is *entry* now; None: there is nothing any more.

        Args:
            was_file: an object was removed, which a directory of its name may have hidden.
        """
        with self._lock:
            self._outdate_questions(path)
            if not self.ttl:
                return
            known = self._paths.get(path)
            if was_file and known is not None and known[1] is not None and known[1].is_directory:
                return
            self._keep(path, entry)
            self._list(path, entry)
            for directory in ancestors(path):
                if entry is None:  # with the last object in it, it is gone
                    self._paths.pop(directory, None)
                else:
                    self._keep(directory, Entry(directory, True))
                    self._list(directory, Entry(directory, True))

    def forget(self, path: str) -> None:
        """Others have changed *path*."""
        with self._lock:
            self._outdate_questions(path)
            self._paths.pop(path, None)
            self._drop_listing(parent_of(path))

    def forget_all(self) -> None:
        """Much was changed."""
        with self._lock:
            for questions in self._questions.values():
                for question in questions:
                    question.is_outdated = True
            self._listings.clear()
            self._paths.clear()
            self._listed = 0

    def _outdate_questions(self, path: str) -> None:
        for changed in (path, *ancestors(path)):
            for question in self._questions.get(parent_of(changed), ()):
                question.is_outdated = True
            for question in self._questions.get(changed, ()):
                question.is_outdated = True

    def _keep(self, path: str, entry: Entry | None) -> None:
        self._paths[path] = clock.monotonic() + self.ttl, entry
        self._paths.move_to_end(path)
        self._make_room()

    def _list(self, path: str, entry: Entry | None) -> None:
        listing = self._fresh_listing(parent_of(path))
        if listing is None or not path:
            return
        before = listing.pop(name_of(path), None)
        if entry is not None:
            listing[entry.name] = before if before is not None and before.is_directory else entry
        self._listed += (entry is not None) - (before is not None)

    def _drop_listing(self, directory: str) -> None:
        found = self._listings.pop(directory, None)
        if found is not None:
            self._listed -= len(found[1])

    def _make_room(self) -> None:
        while self._listed + len(self._paths) > self.entries_max:
            if self._paths:
                self._paths.popitem(last=False)
            else:
                self._drop_listing(next(iter(self._listings)))
