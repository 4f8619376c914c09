"""Searching: all directories below one, and all that matches a pattern."""

from __future__ import annotations

import fnmatch
import os
import re
from typing import Final

from pgstore import errors
from pgstore.core.operation import Op
from pgstore.fs.model import DIRECTORY, SYMLINK, Entry
from pgstore.fs.paths import DirectoryNames, Names, are_possible, is_possible, join, refuse
from pgstore.fs.tree.listing import LIST_NAMES, PAGE_DIRECTORIES, Listing, Part, file_entry
from pgstore.fs.tree.resolve import Tree
from pgstore.types import FileEntry

_MAGIC: Final = re.compile(rb"[*?\[]")
NAMES_AHEAD_MAX: Final = 20_000  # about how many names a walk reads ahead and remembers


class TreeWalk:
    """A directory and all directories below it, sorted by name, each before those in it."""

    def __init__(self, tree: Tree, directory: int, names: Names) -> None:
        self._tree = tree
        self._todo = [(directory, names)]
        self._begun: dict[int, Part] = {}  # the first part of some of these, read ahead

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
                directories += [(name, entry.ino) for name, entry in part.entries if entry.kind == DIRECTORY]
                others += [os.fsdecode(name) for name, entry in part.entries if entry.kind != DIRECTORY]
                part = None if part.last is None else (yield from self._part([ino], after=part.last))[0]
            self._todo += [(child, (*names, name)) for name, child in reversed(directories)]
            found.append((join(names), [os.fsdecode(name) for name, _ in directories], others))
        return found

    def _look_ahead(self) -> Op[None]:
        """Read the first part of the next directory, unless it is known, and of those that come soon."""
        if self._todo[-1][0] in self._begun:
            return
        names_ahead = sum(len(part.entries) for part in self._begun.values())
        ahead = PAGE_DIRECTORIES if names_ahead < NAMES_AHEAD_MAX else 1
        inos = [ino for ino, _ in reversed(self._todo[-ahead:]) if ino not in self._begun]
        self._begun.update((part.ino, part) for part in (yield from self._part(inos)))

    def _part(self, directories: list[int], after: bytes = b"") -> Op[list[Part]]:
        return (yield from Listing(self._tree, directories, after=after, statement=LIST_NAMES).parts())


class Glob:
    """All that matches a pattern, which is followed name by name."""

    def __init__(self, tree: Tree, pattern: Names) -> None:
        self._tree = tree
        # The path of a directory, and the part of the pattern that is to be matched in it.
        self._todo: list[tuple[Names, Names]] = [((), pattern)]
        self._given: set[bytes] = set()  # paths; with several `**` one path may match in several ways
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
        """What matches *pattern* in the directory *names*. What is to be matched in other directories goes to the list."""
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
                    if entry.kind == DIRECTORY:
                        self._todo.append(((*names, name), pattern))
                elif matches(os.fsdecode(name)):
                    self._matched(path, (*names, name), entry, pattern[1:], found)
        return found

    def _matched(self, path: bytes, names: Names, entry: Entry, rest: Names, found: dict[bytes, FileEntry]) -> None:
        if not rest and self._directories_only and entry.kind == SYMLINK:
            self._todo.append((names, ()))  # which follows it
        elif not rest:
            if entry.kind == DIRECTORY or not self._directories_only:
                found[path] = file_entry(path, entry)
        elif entry.kind in (DIRECTORY, SYMLINK):
            self._todo.append((names, rest))
