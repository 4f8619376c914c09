"""What each operation on a bucket rests on: the bucket, opened when it is first asked for something, and paths in it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import ClassVar, Concatenate, NamedTuple, ParamSpec, TypeVar

from pgstore import errors
from pgstore.buckets.opening import open_bucket
from pgstore.buckets.tree import Tree
from pgstore.cloud_bucket_mount.definition import Definition
from pgstore.cloud_bucket_mount.runner import Runner
from pgstore.core.operation import Call, Op
from pgstore.fs.paths import DirectoryNames, join, split, split_file

P = ParamSpec("P")
T = TypeVar("T")


class Opened(NamedTuple):
    tree: Tree
    process: int


class BucketFiles(Definition):
    """Base of the mixins that a `CloudBucketMount` consists of."""

    _runner: ClassVar = Runner()
    _bound: ClassVar[None] = None  # its operations are part of no transaction

    def _tree(self) -> Tree:
        """The files of the bucket. Blocks where the secret has to be read."""
        opened: Opened | None = self.__dict__.get("_opened")
        if opened is None or opened.process != os.getpid():
            bucket = open_bucket(self.location, self._secret_values())
            tree = Tree(bucket, self.key_prefix or "", self.read_only, keep_directories=False, tell=warn)
            opened = Opened(tree, os.getpid())
            object.__setattr__(self, "_opened", opened)  # whoever is last has the same
        return opened.tree

    def _secret_values(self) -> dict[str, str]:
        """The credentials, found now. Blocks."""
        return {} if self.secret is None else self.secret._values()

    def _check_writable(self, path: str) -> None:
        """Before the bucket is opened, which may ask for a secret."""
        if self.read_only:
            raise errors.ReadOnlyFiles(
                f"{path!r} cannot be changed: {self!r} is read-only; pass read_only=False to write to it", path
            )

    def _call(self, function: Callable[Concatenate[Tree, P], T], *args: P.args, **kwargs: P.kwargs) -> Op[T]:
        """What *function* returns, which is called with the tree and blocks."""

        def call() -> T:
            try:
                return function(self._tree(), *args, **kwargs)
            except errors.AccessDenied:
                self.__dict__.pop("_opened", None)  # the secret may have been changed: it is read again
                raise

        return (yield Call(call))  # type: ignore[no-any-return]


def path_of(path: object) -> str:
    """*path* as a `Tree` has it. Raises `InvalidError`."""
    return join(split(path))


def file_path_of(path: object) -> str:
    """`path_of`, of a file to write, which has a name."""
    return join(split_file(path))


def needs_directory(path: object) -> bool:
    """Whether *path* ends in a slash, so that what it leads to must be a directory."""
    return isinstance(split(path), DirectoryNames)


def warn(message: str) -> None:
    warnings.warn(message, errors.KeysLeftOut, stacklevel=2)
