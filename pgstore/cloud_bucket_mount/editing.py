"""Editing: removing, copying and moving objects."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pgstore import errors
from pgstore.buckets.tree import Tree
from pgstore.cloud_bucket_mount.base import BucketFiles, file_path_of, needs_directory, path_of
from pgstore.cloud_bucket_mount.copying import copy
from pgstore.cloud_bucket_mount.listing import need
from pgstore.core.operation import Op, operation


class EditingObjects(BucketFiles):
    """remove_file, move, copy_files."""

    @operation
    def remove_file(self, path: str, recursive: bool = False) -> Op[None]:
        """
        Remove a file or, with *recursive*, a directory with all below it, object by object.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            IsADirectoryError: it is a directory, and *recursive* is false.
            PermissionError: with errno EROFS: it is read-only.
        """
        if not path_of(path):
            raise errors.InvalidError("the root cannot be removed or moved; name what is in it")
        self._check_writable(path)
        yield from self._call(_remove, path, recursive)

    @operation
    def move(self, path: str, new_path: str, *, replace: bool = True) -> Op[None]:
        """
        Rename a file: the provider copies the object, and removes it under its old name. In between it has both.

        Args:
            replace: a file that is there.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            FileExistsError: something is at *new_path*, and *replace* is false.
            IsADirectoryError: there is a directory at *new_path*.
            OSError: with errno EXDEV: *path* is a directory, which a bucket cannot rename; copy what is in it, and remove it then.
            PermissionError: with errno EROFS: it is read-only.
        """
        if not path_of(path):
            raise errors.InvalidError("the root cannot be removed or moved; name what is in it")
        target = file_path_of(new_path)
        self._check_writable(path)
        yield from self._call(_move, path, target, replace)

    @operation
    def copy_files(self, src_paths: Sequence[str], dst_path: str, recursive: bool = False) -> Op[None]:
        """
        Copy files within the bucket, as `cp` does: into *dst_path* if that is a directory, else one file to this name.

        The provider copies them; no bytes come here. After an error those that were copied stay.

        Args:
            src_paths: one path or several.
            recursive: directories, too, with all in them.

        Raises:
            FileNotFoundError: there is no such file.
            NotADirectoryError: there are several, and *dst_path* is no directory.
            IsADirectoryError: one is a directory, and *recursive* is false; or a directory has the path of a file to write.
            InvalidError: a directory would be copied into itself, or a file onto itself.
            PermissionError: with errno EROFS: it is read-only.
        """
        given = [src_paths] if isinstance(src_paths, (str, os.PathLike)) else list(src_paths)
        if not given:
            raise errors.InvalidError("copy_files takes one path or several to copy, none was given")
        sources, target = [path_of(path) for path in given], path_of(dst_path)
        self._check_writable(target)
        yield from self._call(copy, sources=sources, target=target, recursive=recursive, into=needs_directory(dst_path))


def _remove(tree: Tree, path: str, recursive: bool) -> None:
    tree.check_writable(path)
    found = need(tree, path)
    if found.is_directory and not recursive:
        raise errors.IsADirectory(
            f"{found.path!r} in {tree.shown} is a directory; pass recursive=True to remove it with all below it",
            found.path,
        )
    tree.remove_all(found.path) if found.is_directory else tree.remove(found.path)


def _move(tree: Tree, path: str, target: str, replace: bool) -> None:
    tree.check_writable(path)
    tree.rename(need(tree, path).path, target, exclusive=not replace)
