"""Searching: all directories below one, and all that matches a pattern, in as few requests as there can be."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeAlias

from pgstore import errors
from pgstore.buckets.keys import join
from pgstore.buckets.known import Entry
from pgstore.buckets.parallel import shared
from pgstore.buckets.tree import Tree
from pgstore.core.workers import Task

_MAGIC: Final = re.compile(r"[*?\[]")
AHEAD_MAX: Final = 16  # directories that are being listed before their turn
NAMES_AHEAD_MAX: Final = 20_000  # about how many names are held for directories whose turn has not come

_Names: TypeAlias = tuple[list[str], list[str]]


def walk(tree: Tree, path: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """The directory at *path* and all below it, sorted by name, each before those in it, with their names."""
    if not tree.need(path).is_directory:
        raise errors.NotADirectory(f"{path!r} in {tree.shown} is not a directory", path)
    todo: list[str] = [path]
    begun: dict[str, Task[_Names]] = {}
    try:
        while todo:
            held = sum(sum(map(len, task.result())) for task in begun.values() if task.is_done)
            for directory in reversed(todo[-AHEAD_MAX if held < NAMES_AHEAD_MAX else -1 :]):
                if directory not in begun:
                    begun[directory] = shared().workers.submit(partial(_names, tree, directory))
            directory = todo.pop()
            directories, files = begun.pop(directory).result()
            todo += [join(directory, name) for name in reversed(directories)]
            yield directory, directories, files
    finally:
        for task in begun.values():
            task.cancel()


def _names(tree: Tree, directory: str) -> _Names:
    directories: list[str] = []
    files: list[str] = []
    try:
        for entry in tree.entries(directory):
            (directories if entry.is_directory else files).append(entry.name)
    except (errors.FileMissing, errors.NotADirectory):
        pass  # it went with its last object meanwhile
    return sorted(directories), sorted(files)


def glob(tree: Tree, pattern: str, *, directories_only: bool) -> Iterator[Entry]:
    """What matches *pattern*. Each name of it narrows the listing that is asked for."""
    names = pattern.split("/") if pattern else []
    plain = next((at for at, name in enumerate(names) if _MAGIC.search(name)), len(names))
    base = "/".join(names[:plain])
    if plain == len(names):
        found = tree.stat(base)
        matches = iter(()) if found is None else iter((found,))
    elif "**" in names:
        matches = _matching_below(tree, base, names[plain:])
    else:
        matches = _matching_in(tree, base, names[plain:])
    return (entry for entry in matches if entry.is_directory or not directories_only)


def _matching_in(tree: Tree, directory: str, names: list[str]) -> Iterator[Entry]:
    """What matches *names* in *directory*, name by name."""
    is_match = _matcher(names[0])
    for entry in _listed(tree, directory, _plain_beginning(names[0]), recursive=False):
        if not is_match(entry.name):
            continue
        if len(names) == 1:
            yield entry
        elif entry.is_directory:
            yield from _after(tree, entry.path, names[1:])


def _after(tree: Tree, directory: str, names: list[str]) -> Iterator[Entry]:
    plain = next((at for at, name in enumerate(names) if _MAGIC.search(name)), len(names))
    directory = "/".join([directory, *names[:plain]])
    if plain < len(names):
        yield from _matching_in(tree, directory, names[plain:])
    elif (found := tree.stat(directory)) is not None:
        yield found


def _matching_below(tree: Tree, directory: str, names: list[str]) -> Iterator[Entry]:
    """What matches *names*, of which one is `**`, below *directory*: one listing of all that is there."""
    pattern = _Deep(names if names[-1] != "**" else [*names, "*"])
    start = len(directory) + 1 if directory else 0
    for entry in _listed(tree, directory, _plain_beginning(names[0]), recursive=True):
        if pattern.matches(entry.path[start:].split("/")):
            yield entry


class _Deep:
    """A pattern with `**`, matched name by name: at each name, the places in the pattern at which one may be."""

    def __init__(self, names: list[str]) -> None:
        self._steps = [None if name == "**" else _matcher(name) for name in names]

    def matches(self, path: list[str]) -> bool:
        places = self._with_skipped({0})
        for name in path:
            following = set()
            for place in places:
                if place == len(self._steps):
                    continue
                step = self._steps[place]
                if step is None:
                    following.add(place)
                elif step(name):
                    following.add(place + 1)
            if not following:
                return False
            places = self._with_skipped(following)
        return len(self._steps) in places

    def _with_skipped(self, places: set[int]) -> set[int]:
        """And those behind a `**` that matches no directory."""
        for place in sorted(places):
            while place < len(self._steps) and self._steps[place] is None:
                place += 1
                places.add(place)
        return places


def _listed(tree: Tree, directory: str, beginning: str, *, recursive: bool) -> Iterator[Entry]:
    try:
        yield from tree.entries(directory, recursive=recursive, beginning=beginning)
    except (errors.FileMissing, errors.NotADirectory):
        return


def _plain_beginning(name: str) -> str:
    """What all that matches *name* begins with."""
    magic = _MAGIC.search(name)
    return name if magic is None else name[: magic.start()]


def _matcher(name: str) -> Callable[[str], object]:
    return re.compile(fnmatch.translate(name)).match
