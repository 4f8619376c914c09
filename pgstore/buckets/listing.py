"""From pages of keys to entries: which files and directories a listing shows, without keeping all of it.

A file whose name is that of a directory, too, is hidden. The keys that begin with that name and a slash may come much later than
the file itself, behind all keys that go on with a character below the slash, as `a`, `a-1` … `a/x`. So a file waits until a key has
come behind which there can be none of its directory. Each file that waits is the beginning of the one that came after it: they are
never more than a key is long.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from pgstore.buckets.base import Bucket, ObjectInfo, Page
from pgstore.buckets.keys import is_name, is_path
from pgstore.buckets.known import Entry


class LeftOut:
    """Keys that are no paths."""

    def __init__(self) -> None:
        self.count = 0
        self.example = ""
        self.is_there = False
        """Whether the listing had anything, also if all of it was left out."""

    def add(self, key: str) -> None:
        self.count += 1
        self.example = self.example or key


def listed(bucket: Bucket, prefix: str, below: str, left_out: LeftOut, beginning: str = "") -> Iterator[Entry]:
    """
    The entries of the directory whose keys begin with *below*, which begins with the tree's *prefix*.

    Args:
        beginning: only those whose names begin with it.
    """
    waiting: list[ObjectInfo] = []
    for page in bucket.list(below + beginning, delimiter="/"):
        left_out.is_there |= bool(page.objects or page.prefixes)
        for key, info in _in_order(page):
            if info is not None and key == below:
                continue  # marks the directory itself
            name = key[len(below) :].removesuffix("/")
            if not is_name(name):
                left_out.add(key)
                continue
            yield from _let_go(waiting, key, prefix)
            if info is None:
                yield Entry(key[len(prefix) : -1], True)
            else:
                waiting.append(info)
    yield from _let_go(waiting, None, prefix)


def listed_all(bucket: Bucket, prefix: str, below: str, left_out: LeftOut, beginning: str = "") -> Iterator[Entry]:
    """All files and directories whose keys begin with *below*; see `listed`."""
    waiting: list[ObjectInfo] = []
    directory = below  # of the last key
    for page in bucket.list(below + beginning):
        left_out.is_there |= bool(page.objects)
        for info in page.objects:
            key = info.key
            if key == below:
                continue
            yield from _let_go(waiting, key, prefix)
            found = below + _leading_directories(key[len(below) :])
            if found != directory:
                yield from _directories(directory, found, prefix)
                directory = found
            if not is_path(key[len(below) :].removesuffix("/")):
                left_out.add(key)
            elif not key.endswith("/"):
                waiting.append(info)
    yield from _let_go(waiting, None, prefix)


def _leading_directories(rest: str) -> str:
    """The directories that a key leads through, with a slash at the end, up to the first that can be none."""
    names = rest.split("/")[:-1]
    count = next((at for at, name in enumerate(names) if not is_name(name)), len(names))
    return "".join(f"{name}/" for name in names[:count])


def _in_order(page: Page) -> Iterable[tuple[str, ObjectInfo | None]]:
    objects = ((info.key, info) for info in page.objects)
    prefixes = ((key, None) for key in page.prefixes)
    return heapq.merge(objects, prefixes, key=lambda found: found[0]) if page.prefixes else objects


def _let_go(waiting: list[ObjectInfo], key: str | None, prefix: str) -> Iterator[Entry]:
    """The files that no directory can hide any more, now that *key* has come; None: nothing more will come."""
    while waiting:
        info = waiting[-1]
        directory = info.key + "/"
        if key is not None and key < directory:
            return
        waiting.pop()
        if key is None or not key.startswith(directory):
            yield Entry(info.key[len(prefix) :], False, info.size_bytes, info.mtime_ns, info.tag)


def _directories(before: str, now: str, prefix: str) -> Iterator[Entry]:
    """The directories on the way to that of *now* which are not on the way to that of *before*."""
    at = len(_common(before, now))
    while (at := now.find("/", at)) >= 0:
        at += 1
        yield Entry(now[len(prefix) : at - 1], True)


def _common(one: str, other: str) -> str:
    """The longest beginning that both have and that ends in a slash."""
    if other.startswith(one):
        return one
    at = 0
    for name in one.split("/")[:-1]:
        if not other.startswith(f"{name}/", at):
            break
        at += len(name) + 1
    return other[:at]
