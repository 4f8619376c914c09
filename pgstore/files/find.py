"""Finding: all directories below one, and what matches a pattern."""

from __future__ import annotations

import fnmatch
import os
import re
from typing import Final

from pgstore import errors
from pgstore.core.operation import Op
from pgstore.files.changes import Entry
from pgstore.files.listing import LIST_NAMES, PAGE_DIRECTORIES, Listing, Part, file_entry
from pgstore.files.paths import DirectoryNames, Names, are_possible, is_possible, join, refuse
from pgstore.files.tree import Tree
from pgstore.types import FileEntry

_MAGIC: Final = re.compile(rb"[*?\[]")
NAMES_AHEAD_MAX: Final = 20_000  # that a walk remembers of directories whose turn is yet to come; about


class Walking:
    """A directory and all below it, each before what is in it, by name."""

    def __init__(self, tree: Tree, directory: int, names: Names) -> None:
        self._tree = tree
        self._todo = [(directory, names)]
        self._begun: dict[int, Part] = {}  # of these; the first part of what they hold

    def page(self) -> Op[list[tuple[str, list[str], list[str]]] | None]:
        """The next directories, None at the end."""
        if not self._todo:
            return None
        yield from self._look_ahead()
        found: list[tuple[str, list[str], list[str]]] = []
        while self._todo and self._todo[-1][0] in self._begun:
            ino, names = self._todo.pop()
            directories: list[tuple[bytes, int]] = []
            others: list[str] = []
            part: Part | None = self._begun.pop(ino)
            while part is not None:
                if not are_possible([name for name, _ in part.entries]):
                    refuse((*names, next(name for name, _ in part.entries if not is_possible(name))))
                directories += [(name, entry.ino) for name, entry in part.entries if entry.kind == "d"]
                others += [os.fsdecode(name) for name, entry in part.entries if entry.kind != "d"]
                part = None if part.last is None else (yield from self._part([ino], after=part.last))[0]
            self._todo += [(child, (*names, name)) for name, child in reversed(directories)]
            found.append((join(names), [os.fsdecode(name) for name, _ in directories], others))
        return found

    def _look_ahead(self) -> Op[None]:
        """Begin to read the next directory, if that was not done, and those soon to come."""
        if self._todo[-1][0] in self._begun:
            return
        held = sum(len(part.entries) for part in self._begun.values())
        ahead = PAGE_DIRECTORIES if held < NAMES_AHEAD_MAX else 1
        inos = [ino for ino, _ in reversed(self._todo[-ahead:]) if ino not in self._begun]
        self._begun.update((part.ino, part) for part in (yield from self._part(inos)))

    def _part(self, directories: list[int], after: bytes = b"") -> Op[list[Part]]:
        return (yield from Listing(self._tree, directories, after=after, statement=LIST_NAMES).parts())


class Globbing:
    """What matches a pattern, name by name."""

    def __init__(self, tree: Tree, pattern: Names) -> None:
        self._tree = tree
        # Directory, its path, and the part of the pattern that is to be matched in it.
        self._todo: list[tuple[Names, Names]] = [((), pattern)]
        self._given: set[bytes] = set()  # several `**` may match in several ways
        self._directories_only = isinstance(pattern, DirectoryNames)

    def page(self) -> Op[list[FileEntry] | None]:
        """The next matches, None at the end."""
        while self._todo:
            found = yield from self._match(*self._todo.pop())
            new = [entry for path, entry in found.items() if path not in self._given]
            if new:
                self._given.update(found)
                return new
        return None

    def _match(self, names: Names, pattern: Names) -> Op[dict[bytes, FileEntry]]:
        """What matches *pattern* in the directory *names*; what is left to do in others goes to the list."""
        plain = next((at for at, part in enumerate(pattern) if _MAGIC.search(part)), len(pattern))
        try:
            walk = yield from self._tree.walk(
                (*names, *pattern[:plain]), follow=plain < len(pattern) or self._directories_only
            )
        except errors.LinkLoop:
            return {}
        if walk.node is None:
            return {}
        if plain == len(pattern) and self._directories_only and not walk.node.is_directory:
            return {}
        names, pattern = (*names, *pattern[:plain]), pattern[plain:]
        if not pattern:
            path = b"/".join(names)
            return {path: file_entry(path, walk.node)}
        if not walk.node.is_directory:
            return {}
        if pattern[0] == b"**":
            self._todo.append((names, pattern[1:] or (b"*",)))
        found: dict[bytes, FileEntry] = {}
        matches = re.compile(fnmatch.translate(os.fsdecode(pattern[0]))).match
        listing = Listing(self._tree, [walk.node.ino], names)
        while (entries := (yield from listing.entries())) is not None:
            for path, entry in entries:
                name = path.rpartition(b"/")[2]
                if pattern[0] == b"**":
                    if entry.kind == "d":
                        self._todo.append(((*names, name), pattern))
                elif matches(os.fsdecode(name)):
                    self._matched(path, (*names, name), entry, pattern[1:], found)
        return found

    def _matched(self, path: bytes, names: Names, entry: Entry, rest: Names, found: dict[bytes, FileEntry]) -> None:
        if not rest and self._directories_only and entry.kind == "l":
            self._todo.append((names, ()))  # which follows it
        elif not rest:
            if entry.kind == "d" or not self._directories_only:
                found[path] = file_entry(path, entry)
        elif entry.kind in "dl":
            self._todo.append((names, rest))
