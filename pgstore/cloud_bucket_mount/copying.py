"""Copying within a bucket, as `cp` does."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Final

from pgstore import errors
from pgstore.buckets.keys import join, name_of
from pgstore.buckets.parallel import shared
from pgstore.buckets.tree import Tree

_FILES_AT_ONCE: Final = 64


def copy(tree: Tree, *, sources: list[str], target: str, recursive: bool, into: bool) -> None:
    """
    Copy *sources* to *target*.

    Args:
        into: it must be a directory.
    """
    tree.check_writable(target)
    found = tree.stat(target)
    into = into or len(sources) > 1
    if into and (found is None or not found.is_directory):
        raise errors.NotADirectory(f"{target!r} in {tree.shown} is not a directory", target)
    is_directory = found is not None and found.is_directory
    for source in sources:
        path = join(target, name_of(source)) if is_directory and source else target
        _copy_one(tree, source, path, recursive)


def _copy_one(tree: Tree, source: str, target: str, recursive: bool) -> None:
    if source == target:
        raise errors.InvalidError(f"{source!r} would be copied onto itself")
    if not tree.need(source).is_directory:
        tree.copy(source, target)
        return
    if not recursive:
        raise errors.IsADirectory(
            f"{source!r} in {tree.shown} is a directory; pass recursive=True to copy it with all below it", source
        )
    below = f"{source}/" if source else ""
    if f"{target}/".startswith(below):
        raise errors.InvalidError(f"directory {source!r} would be copied into itself")
    files = (entry.path for entry in tree.entries(source, recursive=True) if not entry.is_directory)
    while some := [*islice(files, _FILES_AT_ONCE)]:
        tasks = [shared().workers.submit(partial(tree.copy, path, join(target, path[len(below) :]))) for path in some]
        try:
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
