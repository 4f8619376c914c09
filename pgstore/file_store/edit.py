"""Editing a tree: directories, links, removing, moving, copying, attributes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from pgstore import errors
from pgstore.core.names import UNSTORABLE
from pgstore.core.operation import Op, operation
from pgstore.file_store.base import MODE_MAX, FileStoreBase, check_number
from pgstore.fs.model import DIRECTORY_MODE, FIFO, OWNER_MAX, SOCKET, Node
from pgstore.fs.paths import Names, split, split_file
from pgstore.fs.tree import edit, xattrs

KINDS: Final = {"fifo": FIFO, "socket": SOCKET}


class Editing(FileStoreBase):
    """mkdir, mknod, symlink, link, move, copy_files, remove_file, rmdir, chmod, chown, utime, setxattr, removexattr."""

    @operation
    def mkdir(self, path: str, *, mode: int = DIRECTORY_MODE, parents: bool = True, exist_ok: bool = False) -> Op[None]:
        """
        Make a directory, by default with those on the way to it.

        Raises:
            FileExistsError: something is there; with *exist_ok* only if it is no directory.
            FileNotFoundError: a directory on the way is missing, and *parents* is false.
        """
        names = split(path)
        mode = check_number(mode, "mode", 0, MODE_MAX)
        yield from self._change(
            lambda tree: edit.make_directory(tree, names, mode, parents=parents, exist_ok=exist_ok), single=True
        )

    @operation
    def symlink(self, target: str, path: str) -> Op[None]:
        """
        Make a symbolic link at *path*; *target* is kept as it is given, and need not exist.

        A target that starts with a slash leads from the root of this store, any other from the directory of the link.

        Raises:
            FileExistsError: something is at *path*.
        """
        names = split_file(path)
        where = _target(target)
        yield from self._change(lambda tree: edit.make_symbolic_link(tree, where, names), single=True)

    @operation
    def link(self, path: str, new_path: str) -> Op[None]:
        """
        Give a file a second name. Both lead to the same file; its bytes go with the last name.

        Uploading to one of the names replaces that name alone.

        Raises:
            FileExistsError: something is at *new_path*.
            IsADirectoryError: *path* is a directory, which has one name only.
        """
        names, new = split_file(path), split_file(new_path)
        yield from self._change(lambda tree: edit.make_link(tree, names, new), single=True)

    @operation
    def mknod(self, path: str, kind: str, *, mode: int = 0o644) -> Op[None]:
        """
        Make a "fifo" or a "socket", by which programs on a mounted store find each other.

        Raises:
            FileExistsError: something is there.
        """
        names = split_file(path)
        if kind not in KINDS:
            raise errors.InvalidError(f"kind {kind!r} is none of {', '.join(map(repr, KINDS))}")
        mode = check_number(mode, "mode", 0, MODE_MAX)
        yield from self._change(
            lambda tree: edit.make_node(
                tree, names, lambda builder, parent, name: builder.special(parent, name, KINDS[kind], mode)
            )
        )

    @operation
    def move(self, path: str, new_path: str, *, replace: bool = True) -> Op[None]:
        """
        Rename a file or a directory with all in it, at once whatever its size; directories on the way are made.

        Args:
            replace: over a file that is there, or over an empty directory if *path* is one.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            FileExistsError: something is at *new_path*, and *replace* is false.
            IsADirectoryError, NotADirectoryError, DirectoryNotEmpty: what is at *new_path* cannot be replaced by what is at *path*.
            InvalidError: a directory would be below itself.
        """
        names, new = split(path), split(new_path)
        yield from self._change(lambda tree: edit.move(tree, names, new, replace=replace), single=True)

    @operation
    def copy_files(self, src_paths: Sequence[str], dst_path: str, recursive: bool = False) -> Op[None]:
        """
        Copy files within the store, as `cp` does: into *dst_path* if that is a directory, else one file to this name.

        Copies share their bytes, so that copying takes no time and no space. Permissions are copied, times are not.

        Args:
            src_paths: one path or several.
            recursive: directories, too, with all in them.

        Raises:
            FileNotFoundError: there is no such file.
            NotADirectoryError: there are several, and *dst_path* is no directory.
            IsADirectoryError: one is a directory, and *recursive* is false; or a directory has the path of a file to write.
            InvalidError: a directory would be copied into itself, or a file onto itself.
        """
        given = [src_paths] if isinstance(src_paths, (str, os.PathLike)) else list(src_paths)
        if not given:
            raise errors.InvalidError("copy_files takes one path or several to copy, none was given")
        sources, target = [split(path) for path in given], split(dst_path)
        yield from self._change(lambda tree: edit.copy(tree, sources, target, recursive=recursive))

    @operation
    def remove_file(self, path: str, recursive: bool = False) -> Op[None]:
        """
        Remove a file or, with *recursive*, a directory with all below it.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            IsADirectoryError: it is a directory, and *recursive* is false.
        """
        names = split(path)
        yield from self._change(lambda tree: edit.remove(tree, names, recursive=recursive))

    @operation
    def rmdir(self, path: str) -> Op[None]:
        """
        Remove an empty directory.

        Raises:
            FileNotFoundError: there is nothing at *path*.
            NotADirectoryError: it is no directory.
            DirectoryNotEmpty: something is in it.
        """
        names = split(path)
        yield from self._change(lambda tree: edit.remove_directory(tree, names))

    # ----------------------------------------------------------------------------------------------------- attributes

    @operation
    def chmod(self, path: str, mode: int) -> Op[None]:
        """Set the permission bits of what is at *path*. They are for mounted stores; pgstore's own calls do not check them."""
        mode = check_number(mode, "mode", 0, MODE_MAX)
        yield from self._set(split(path), {"mode": mode})

    @operation
    def chown(self, path: str, uid: int = -1, gid: int = -1) -> Op[None]:
        """Set the numbers of user and group of what is at *path*; -1 leaves one as it is. Not checked either; see `chmod`."""
        new = {
            name: check_number(value, name, 0, OWNER_MAX) for name, value in (("uid", uid), ("gid", gid)) if value != -1
        }
        yield from self._set(split(path), new)

    @operation
    def utime(self, path: str, *, mtime_ns: int) -> Op[None]:
        """Set the modification time of what is at *path*, in nanoseconds since 1970."""
        mtime_ns = check_number(mtime_ns, "mtime_ns", -(2**63), 2**63 - 1)
        yield from self._set(split(path), {"mtime_ns": mtime_ns})

    @operation
    def setxattr(self, path: str, name: str, value: bytes) -> Op[None]:
        """
        Set an extended attribute of what is at *path*.

        Raises:
            InvalidError: the name is empty, or all of them together would be above 64 KiB.
        """
        _check_attribute(name, value)
        stored, encoded = xattrs.stored_name(name.encode()), xattrs.stored_value(value)

        def attributes(node: Node) -> Mapping[str, Any]:
            new = {**(node.xattrs or {}), stored: encoded}
            if sum(len(key.encode()) + len(text) * 3 // 4 for key, text in new.items()) > xattrs.BYTES_MAX:
                raise errors.InvalidError(f"the attributes of one file may have {xattrs.BYTES_MAX} bytes together")
            return {"xattrs": {stored: encoded}}

        yield from self._change(partial(edit.set_attributes, names=split(path), attributes=attributes, follow=True))

    @operation
    def removexattr(self, path: str, name: str) -> Op[None]:
        """
        Remove an extended attribute of what is at *path*.

        Raises:
            MissingKeyError: there is none of this name.
        """

        def attributes(node: Node) -> Mapping[str, Any]:
            stored = xattrs.asked_name(name)
            if stored not in (node.xattrs or {}):
                raise errors.MissingKeyError(name, f"{path!r} has no extended attribute {name!r}")
            return {"xattrs": {stored: None}}

        yield from self._change(partial(edit.set_attributes, names=split(path), attributes=attributes, follow=True))

    def _set(self, names: Names, new: Mapping[str, Any]) -> Op[None]:
        yield from self._change(partial(edit.set_attributes, names=names, attributes=lambda _: new, follow=True))


def _check_attribute(name: object, value: object) -> None:
    if not isinstance(name, str) or not 1 <= len(name.encode(errors="replace")) <= 255 or UNSTORABLE.search(name):
        raise errors.InvalidError(
            f"the name of an attribute must have 1 to 255 bytes of UTF-8, without NUL and lone surrogates, not {name!r}"
        )
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise errors.InvalidError(f"the value of an attribute must be bytes, not {type(value).__name__}")


def _target(target: object) -> bytes:
    if not isinstance(target, (str, os.PathLike)):
        raise errors.InvalidError(f"the target of a link must be a path, not {type(target).__name__}")
    try:
        return os.fsencode(target)
    except UnicodeEncodeError:
        raise errors.InvalidError(f"target {target!r} contains a surrogate that stands for no byte") from None
