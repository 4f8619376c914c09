"""A mount without FUSE: the files are copied into the directory, and written back from there."""

from __future__ import annotations

from functools import partial

from pgstore import errors
from pgstore.core.operation import Call, Op
from pgstore.file_store import FileStore
from pgstore.fs.paths import Names, join
from pgstore.mount import runtime
from pgstore.mount.options import Options
from pgstore.mount.recovery import about_mount
from pgstore.mount.sync.directory import SyncedDirectory


class SyncMount:
    """See `mount.Mounted`: the files of *store* below *base*, in the directory *path*."""

    mode = "sync"

    def __init__(self, store: FileStore, base: Names, path: str, options: Options) -> None:
        about = {
            "path": path,
            "mode": self.mode,
            "kind": store._kind,
            "name": store.name,
            "environment": store._environment,
            "sub_path": join(base),
            "read_only": options.read_only,
        }
        self._path = path
        self._record = runtime.Record(path, about)
        self._about = partial(about_mount, about)
        self._directory = SyncedDirectory(
            store, base, path, read_only=options.read_only, size_max_bytes=options.size_max
        )

    def begin(self) -> Op[None]:
        """Fill the directory."""
        yield Call(self._record.write)
        try:
            yield from self._directory.fill()
        except BaseException:
            self._record.remove()
            raise

    def commit(self) -> Op[None]:
        yield from self._directory.commit()

    def reload(self) -> Op[None]:
        yield from self._directory.reload()

    def commit_of_parent(self) -> Op[None]:
        yield from ()
        raise errors.InvalidError(
            f"{self._path!r} is mounted without FUSE, by the process that has forked this one, which alone can write it back"
        )

    def reload_of_parent(self) -> Op[None]:
        yield from self.commit_of_parent()

    def close(self) -> Op[None]:
        try:
            yield from self._directory.close(self._about)
        finally:
            self._record.remove()
