"""fsspec: Volumes as `pgstore://volume/path`, NetworkFileSystems as `pgstorenfs://name/path`, for pandas, pyarrow, Dask and so on.

>>> weather = pandas.DataFrame({"city": ["Oslo", "Rome"], "degrees": [3, 21]})
>>> weather.to_csv("pgstore://tables/weather.csv", index=False, storage_options={"create_if_missing": True})
>>> int(pandas.read_csv("pgstore://tables/weather.csv")["degrees"].max())
21

Needs `pip install 'pgstore[fsspec]'`. Installing pgstore makes both protocols known to fsspec. A path begins with the name of
the store; the root holds the stores, which are made (`mkdir`), never removed. `storage_options`: `database_url`,
`environment_name`, `create_if_missing`.

What the thread writes in `with pgstore.transaction():` (or `with fs.transaction:`) is one with everything else in it. Nothing
is cached but handles and connections: a path is looked up each time.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK
from types import TracebackType
from typing import Any, ClassVar, Final, cast

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.spec import AbstractFileSystem
from fsspec.transaction import Transaction
from fsspec.utils import isfilelike, stringify_path

from pgstore import errors
from pgstore.client import Client, default_client
from pgstore.fs.io.file_object import Layer, TextFile, layered, on
from pgstore.network_file_system import NetworkFileSystem
from pgstore.types import FileEntryType, FileStat
from pgstore.volume import Volume

__all__ = ["NetworkFileSystemFileSystem", "VolumeFileSystem"]

Info = dict[str, Any]

_TYPES: Final = {FileEntryType.FILE: "file", FileEntryType.DIRECTORY: "directory", FileEntryType.SYMLINK: "link"}
_TYPE_BITS: Final = {
    FileEntryType.FILE: S_IFREG,
    FileEntryType.DIRECTORY: S_IFDIR,
    FileEntryType.SYMLINK: S_IFLNK,
    FileEntryType.FIFO: S_IFIFO,
    FileEntryType.SOCKET: S_IFSOCK,
    FileEntryType.CHARACTER_DEVICE: S_IFCHR,
    FileEntryType.BLOCK_DEVICE: S_IFBLK,
}
_NANO: Final = 1_000_000_000


class StoreTransaction(Transaction):  # type: ignore[misc]
    """
    A transaction of pgstore: all that the thread does in it, also with Dicts, Queues and the caller's own tables, is one.

    Files that were opened in it for writing have to be closed before its end.
    """

    fs: Any

    def __init__(self, fs: Any) -> None:
        super().__init__(fs)
        self._block: Any = None

    def start(self) -> None:
        super().start()
        self._block = self.fs.client.transaction()
        self._block.__enter__()

    def complete(self, commit: bool = True) -> None:
        self._end(None if commit else _Discarded("the transaction was discarded"))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(exc)

    def _end(self, exc: BaseException | None) -> None:
        block, fs, opened = self._block, self.fs, list(self.files)
        self._block = self.fs = None
        self.files.clear()
        if fs is not None:
            fs._intrans = False
            fs._transaction = None
        if block is None:
            return
        if exc is None and (left := [file for file in opened if not file.closed]):
            exc = errors.InvalidError(f"{len(left)} files opened for writing in the transaction are not closed")
            block.__exit__(type(exc), exc, None)
            raise exc
        block.__exit__(None if exc is None else type(exc), exc, None)


class _Discarded(Exception):
    """Rolls back a transaction that its user discards."""


class StoreFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Base of both file systems: what fsspec asks for, in terms of Volume's and NetworkFileSystem's methods."""

    root_marker = ""
    transaction_type = StoreTransaction
    _store_class: ClassVar[type[Volume] | type[NetworkFileSystem]]

    def __init__(
        self,
        database_url: str | None = None,
        environment_name: str | None = None,
        client: Client | None = None,
        create_if_missing: bool = False,
        **options: Any,
    ) -> None:
        """
        Args:
            database_url: the database; None: the default client's. (Not `url`, which is what fsspec calls a path.)
            environment_name: None: the client's.
            client: instead of *database_url*. Such a file system cannot be pickled.
            create_if_missing: make a store when a path in it is first used.
        """
        super().__init__(**options)
        if database_url is not None and client is not None:
            raise errors.InvalidError("give either database_url= or client=")
        self.client = client or (default_client() if database_url is None else _client_of(database_url))
        self._environment_name = environment_name
        self._create_if_missing = create_if_missing
        self._stores: dict[str, Any] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.lstrip("/")

    @property
    def fsid(self) -> str:
        """Which file system it is, for comparisons between processes."""
        return f"{self._scheme}_{self.client.installation}_{self._environment_name or self.client.environment}"

    def _store_of(self, path: Any) -> tuple[Any, str]:
        """The store that *path* begins with, and the path in it, with the slash at its end."""
        name, _, inside = self._strip_protocol(path).partition("/")
        if not name:
            raise errors.IsADirectory(
                f"{self._display_name!r} is where the stores are; a path begins with the name of one", str(path)
            )
        store = self._stores.get(name)
        if store is None:
            store = self._stores[name] = self._store_class.from_name(
                name,
                environment_name=self._environment_name,
                create_if_missing=self._create_if_missing,
                client=self.client,
            )
        return store, inside + "/" if inside and _ends_in_slash(path) else inside

    def _find_store(self, path: Any) -> tuple[Any, str]:
        """`_store_of` for reading: if no store can have such a name, there is no such path."""
        try:
            return self._store_of(path)
        except errors.InvalidError as exc:
            raise errors.FileMissing(str(exc), str(path)) from exc

    @property
    def _scheme(self) -> str:
        return self.protocol if isinstance(self.protocol, str) else str(self.protocol[0])

    @property
    def _display_name(self) -> str:
        return f"{self._scheme}://"

    @contextlib.contextmanager
    def _explained(self, path: Any) -> Iterator[None]:
        """Turn the error about a missing store into one about a missing path; of others let `filename` begin with the store."""
        name = self._strip_protocol(path).partition("/")[0]
        try:
            yield
        except errors.NotFoundError as exc:
            self._stores.pop(name, None)
            raise errors.FileMissing(str(exc), str(path)) from exc
        except OSError as exc:
            inside = exc.filename
            is_local = str(exc).startswith("local ")  # about what is read from, or written to, this machine
            if isinstance(exc, errors.Error) and isinstance(inside, str) and not is_local:
                exc.filename = inside if inside.startswith(f"{name}/") else f"{name}/{inside.lstrip('/')}"
            raise

    def start_transaction(self) -> StoreTransaction:
        """Begin a transaction that `end_transaction` commits; `with fs.transaction:` is the safer form."""
        self.transaction.start()
        return cast("StoreTransaction", self.transaction)

    def end_transaction(self) -> None:
        self.transaction.complete()

    # -------------------------------------------------------------------------------------------------------- reading

    def info(self, path: Any, **_: Any) -> Info:
        """
        The attributes of what is at *path*; a link is followed unless it leads nowhere.

        Beside fsspec's `name`, `size` and `type`: `mtime` (seconds), `mtime_ns`, `created`, `mode` (with the type),
        `uid`, `gid`, `ino`, `nlink`, `version`, `islink`.
        """
        given, path = path, self._strip_protocol(path)
        if not path:
            return _directory("")
        store, inside = self._find_store(given)
        with self._explained(path):
            stat = store.stat(inside, follow_symlinks=False)
            is_link = stat.type == FileEntryType.SYMLINK
            if is_link:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, errors.LinkLoop):
                    stat = store.stat(inside)
            return _info(path, stat, is_link)

    def ls(self, path: Any, detail: bool = True, **_: Any) -> list[Any]:
        """What a directory holds, of a file itself; as fsspec has it, dicts, those of `info`, or names."""
        path = self._strip_protocol(path)
        if not path:
            names = [str(store.name) for store in self._listed()]
            if not detail:
                return names
            infos = []
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    infos.append(self.info(name))
        else:
            infos = self._listing(path, detail=detail)
        return infos if detail else [info["name"] for info in infos]

    def _listing(self, path: str, *, detail: bool) -> list[Info]:
        return list(self._entries(path, detail=detail)) if path else self.ls(path)

    def _listed(self) -> list[Any]:
        return sorted(
            self._store_class.objects.list(environment_name=self._environment_name, client=self.client),
            key=lambda store: str(store.name),
        )

    def _entries(self, path: str, *, recursive: bool = False, detail: bool = True) -> Iterator[Info]:
        """What `info` tells of each entry; without *detail* at least name and type."""
        store, inside = self._find_store(path)
        name = path.partition("/")[0]
        with self._explained(path):
            for entry in (store._iterstat if detail else store.iterdir)(inside, recursive=recursive):
                full_path = f"{name}/{entry.path}"
                if entry.type == FileEntryType.SYMLINK:
                    try:
                        info = self.info(full_path)
                    except FileNotFoundError:  # removed meanwhile
                        continue
                    yield info
                elif detail:
                    yield _info(full_path, entry, False)
                else:
                    yield {"name": full_path, "type": _TYPES.get(entry.type, "other")}

    def find(
        self, path: Any, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Any:
        """All files below *path*, with *withdirs* also the directories; one listing, however deep the tree."""
        path = self._strip_protocol(path)
        if maxdepth is not None or not path:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        found: dict[str, Info] = {}
        try:
            top = self.info(path)
            if withdirs and top["type"] == "directory":
                found[path] = top
            for info in self._entries(path, recursive=True, detail=detail):
                if withdirs or info["type"] != "directory":
                    found[info["name"]] = info
        except FileNotFoundError:
            return {} if detail else []
        names = sorted(found)
        return {name: found[name] for name in names} if detail else names

    def walk(
        self,
        path: Any,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: str | Callable[[Exception], object] = "omit",
        detail: bool = False,
        **_: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """
        Go through a directory and all below it: (path, directories, files), names or with *detail* dicts by name.

        As fsspec has it, but a link is not followed: one to a directory counts as a file, or the walk might never end.
        """
        if maxdepth is not None and maxdepth < 1:
            raise errors.InvalidError(f"maxdepth is {maxdepth}, expected 1 or more, or None")
        path = self._strip_protocol(path)
        try:
            listing = self._listing(path, detail=detail)
        except OSError as exc:
            if on_error == "raise":
                raise
            if callable(on_error):
                on_error(exc)
            return
        directories: dict[str, Info] = {}
        files: dict[str, Info] = {}
        for info in listing:
            if info["name"] == path:  # a file, which lists itself
                files[""] = info
            else:
                is_directory = info["type"] == "directory" and not info.get("islink")
                (directories if is_directory else files)[info["name"].rpartition("/")[2]] = info
        here = (path, directories, files) if detail else (path, list(directories), list(files))
        if topdown:
            yield here
        if maxdepth is None or maxdepth > 1:
            below = None if maxdepth is None else maxdepth - 1
            for name in list(here[1]):  # the caller may have removed some
                yield from self.walk(directories[name]["name"], below, topdown, on_error, detail)
        if not topdown:
            yield here

    def exists(self, path: Any, **_: Any) -> bool:
        """Whether there is something at *path*. A lost connection is an error, not an answer."""
        return self._type(path) is not None

    def isdir(self, path: Any) -> bool:
        return self._type(path) == "directory"

    def isfile(self, path: Any) -> bool:
        return self._type(path) == "file"

    def islink(self, path: Any) -> bool:
        """Whether *path* is a symbolic link, also one that leads nowhere."""
        try:
            return bool(self.info(path).get("islink"))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _type(self, path: Any) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError, errors.LinkLoop):
            return None

    def created(self, path: Any) -> datetime:
        """When the inode was last changed, as local file systems have it."""
        return datetime.fromtimestamp(self.info(path)["created"], UTC)

    def modified(self, path: Any) -> datetime:
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    # ---------------------------------------------------------------------------------------------------- directories

    def mkdir(self, path: Any, create_parents: bool = True, **_: Any) -> None:
        """Make a directory; of a path that is only a name, the store."""
        store, inside = self._store_of(path)
        if inside:
            with self._explained(path):
                store.mkdir(inside, parents=create_parents)
            return
        try:
            self._store_class.objects.create(store.name, environment_name=self._environment_name, client=self.client)
        except errors.AlreadyExistsError as exc:
            raise errors.FileExists(str(exc), str(path)) from exc

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        """Make a directory and those on the way, with the store."""
        store, inside = self._store_of(path)
        if not inside and not exist_ok:
            self.mkdir(path)
            return
        self._store_class.objects.create(
            store.name, allow_existing=True, environment_name=self._environment_name, client=self.client
        )
        if inside:
            with self._explained(path):
                store.mkdir(inside, parents=True, exist_ok=exist_ok)

    def rmdir(self, path: Any) -> None:
        """Remove an empty directory."""
        store, inside = self._inside(path)
        with self._explained(path):
            store.rmdir(inside)

    def rm_file(self, path: Any) -> None:
        store, inside = self._inside(path)
        with self._explained(path):
            store.remove_file(inside)

    def _rm(self, path: Any) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, with *recursive* directories and all in them. A store itself is deleted by `objects.delete`."""
        if maxdepth is not None:
            raise errors.InvalidError("rm removes whole trees; leave maxdepth= out")
        for each in self.expand_path(path):
            store, inside = self._inside(each)
            with self._explained(each):
                store.remove_file(inside, recursive)

    def _inside(self, path: Any) -> tuple[Any, str]:
        store, inside = self._store_of(path)
        if not inside:
            name = self._store_class.__name__
            raise errors.InvalidError(
                f"{path!r} is a {name}, which is not removed as a path is; see {name}.objects.delete"
            )
        return store, inside

    # ------------------------------------------------------------------------------------------------- copying, moving

    def cp_file(self, path1: Any, path2: Any, **_: Any) -> None:
        """Copy a file; within a store without copying its bytes. Of a directory only itself, as fsspec wants it."""
        source, inside = self._store_of(path1)
        target, new = self._store_of(path2)
        if self.info(path1)["type"] == "directory":
            self.makedirs(path2, exist_ok=True)
            return
        if self.isdir(path2):
            raise errors.IsADirectory(f"{path2!r} is a directory", str(path2))
        if source is target:
            with self._explained(path1):
                source.copy_files([inside], new)
            return
        with self.open(path1, "rb") as file:
            target.put_file(file, new)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> None:
        """Move a file, or a directory with all in it, as `mv` does; within a store at once whatever its size."""
        single = isinstance(path1, (str, os.PathLike)) and isinstance(path2, (str, os.PathLike))
        if single and maxdepth is None:
            source, inside = self._store_of(path1)
            target, new = self._store_of(path2)
            if source is target and inside and not set(inside) & set("*?["):
                if stringify_path(path2).endswith("/") or self.isdir(path2):
                    new = f"{new.rstrip('/')}/{inside.rstrip('/').rpartition('/')[2]}"
                with self._explained(path1):
                    source.move(inside, new)
                return
        super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **options)

    # --------------------------------------------------------------------------------------------------------- contents

    def open(
        self,
        path: Any,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Any = None,
        compression: str | None = None,
        **options: Any,
    ) -> Any:
        """
        Open a file, as fsspec has it: binary unless *mode* says "r", "w" …; see also `Volume.open`.

        Where its block is left by an exception, a file of a Volume is as it was, also one of text or that is packed. The files of
        `fsspec.open` cannot do so: they do not tell why they are closed.
        """
        if _ends_in_slash(path):
            raise errors.IsADirectory(f"{path!r} ends in a slash, so it is the path of a directory", path)
        is_text = "b" not in mode
        text = {name: options.pop(name) for name in ("encoding", "errors", "newline") if is_text and name in options}
        binary = mode.replace("t", "") + "b" if is_text else mode
        file = below = super().open(path, binary, block_size, cache_options, None, **options)
        if compression is not None:
            file = compr[get_compression(self._strip_protocol(path), compression)](below, mode=mode[0])
        if file is not below and below.writable():
            file = on(below.raw, _Packing(file, below))
        elif file is not below:
            # Some do not close the file below them.
            with contextlib.suppress(AttributeError):
                file.close = _both(file.close, below.close)
        if not is_text:
            return file
        return layered(below.raw, file, TextFile, **text) if file is below else on(below.raw, TextFile(file, **text))

    def _open(
        self,
        path: Any,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **_: Any,
    ) -> Any:
        store, inside = self._store_of(path) if set(mode) & set("wxa") else self._find_store(path)
        with self._explained(path):
            return store.open(inside, mode)

    def cat_file(self, path: Any, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or [*start*, *end*) of them, counted from its end where negative."""
        store, inside = self._find_store(path)
        if start is None and end is None:
            with self._explained(path):
                return b"".join(store.read_file(inside))
        with self.open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start, end, _step = slice(start, end).indices(size)
            file.seek(start)
            return bytes(file.read(max(0, end - start)))

    def pipe_file(self, path: Any, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file, at once. *mode* "create": only if there is nothing."""
        self._put(io.BytesIO(value), path, mode)

    def _put(self, file: Any, path: Any, mode: str) -> None:
        store, inside = self._store_of(path)
        with self._explained(path):
            if mode != "create":
                store.put_file(file, inside)
            elif isinstance(store, Volume):
                try:
                    store.put_file(file, inside, if_version=0)
                except errors.ConflictError as exc:
                    raise errors.FileExists(f"{path!r} exists already", str(path)) from exc
            else:
                with store.open(inside, "xb") as target, contextlib.closing(_readable(file)) as source:
                    while data := source.read(1 << 20):
                        target.write(data)

    def put_file(
        self, lpath: Any, rpath: Any, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        """Upload a local file, with its permissions and time; of a local directory only itself, as fsspec wants it."""
        if not isfilelike(lpath) and os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        if callback is DEFAULT_CALLBACK:
            self._put(lpath, rpath, mode)
            return
        with contextlib.closing(_readable(lpath)) as file:
            callback.set_size(_size_of(file))
            self._put(_Counting(file, callback.relative_update), rpath, mode)

    def get_file(
        self,
        rpath: Any,
        lpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        trusted: bool = False,
        **_: Any,
    ) -> None:
        """
        Download a file to a local path or file object; of a directory only itself, as fsspec wants it.

        Without its setuid, setgid and sticky bits, unless *trusted*: see `Volume.get_file`.
        """
        store, inside = self._find_store(rpath)
        target = outfile if outfile is not None else lpath
        info = self.info(rpath)
        if not isfilelike(target):
            if info["type"] == "directory":
                os.makedirs(target, exist_ok=True)
                return
            os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        callback.set_size(info["size"])
        with self._explained(rpath):
            store.get_file(inside, target, trusted=trusted)
        callback.absolute_update(info["size"])

    def touch(self, path: Any, truncate: bool = True, **_: Any) -> None:
        """Make a file empty, or make an empty one; without *truncate*, only set the time of one that exists."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
            return
        store, inside = self._store_of(path)
        with self._explained(path):
            store.utime(inside, mtime_ns=time.time_ns())


class VolumeFileSystem(StoreFileSystem):
    """`pgstore://volume/path`. Each call is a commit of its own; `with fs.transaction:` makes one of many."""

    protocol = "pgstore"
    _store_class = Volume


class NetworkFileSystemFileSystem(StoreFileSystem):
    """`pgstorenfs://name/path`. All see at once what is written; files can be changed in place (`r+b`)."""

    protocol = ("pgstorenfs", "pgstore+nfs")  # others, such as universal_pathlib, take any but letters and digits apart
    _store_class = NetworkFileSystem


@functools.cache
def _client_of(url: str) -> Client:
    """One client for all instances, of which fsspec makes one a thread."""
    return Client(url)


def _directory(name: str) -> Info:
    return {"name": name, "size": 0, "type": "directory"}


def _info(path: str, stat: FileStat, is_link: bool) -> Info:
    return {
        "name": path,
        "size": stat.size,
        "type": _TYPES.get(stat.type, "other"),
        "created": stat.ctime_ns / _NANO,
        "mtime": stat.mtime_ns / _NANO,
        "mtime_ns": stat.mtime_ns,
        "mode": _TYPE_BITS.get(stat.type, 0) | stat.mode,
        "uid": stat.uid,
        "gid": stat.gid,
        "ino": stat.ino,
        "nlink": stat.link_count,
        "version": stat.version,
        "islink": is_link,
    }


def _ends_in_slash(path: Any) -> bool:
    return isinstance(path, str) and path.endswith("/")


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


class _Packing(Layer, io.BufferedWriter):
    """A file that compresses into one of ours, and closes that: otherwise ours is never written, and not every packer closes it."""

    def __init__(self, packer: Any, below: Any) -> None:
        super().__init__(packer)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


def _readable(file: Any) -> Any:
    return file if isfilelike(file) else open(file, "rb")


def _size_of(file: Any) -> int | None:
    with contextlib.suppress(OSError, AttributeError):
        here = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(here)
        return int(size) - int(here)
    return None


class _Counting:
    """A file to read that tells how much was read."""

    def __init__(self, file: Any, advance: Callable[[int], object]) -> None:
        self._file = file
        self._advance = advance

    def read(self, length: int = -1) -> bytes:
        data: bytes = self._file.read(length)
        self._advance(len(data))
        return data

    def close(self) -> None:
        self._file.close()
