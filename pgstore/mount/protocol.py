"""What a mount serves: `Files`, the verbs of a file system on inode numbers and names. No paths, and nothing of the kernel's.

All methods block, and are called by several threads at once. They fail with an `OSError` whose errno the program is given, or with
one of pgstore's errors. Names are bytes, 1 to 255 of them, without `/` and NUL, and never `.` or `..`. Whoever calls has checked
permissions (the kernel does), the kinds of what is named where the kernel knows them, and that the mount may be written to.

Numbers of inodes are never used twice, so that nobody has to count what the kernel remembers of them.
"""

from __future__ import annotations

import abc
import enum
import errno
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from pgstore.fs.model import ROOT
from pgstore.mount.changes import RecentChanges
from pgstore.mount.listed import Listed

Bytes: TypeAlias = bytes | bytearray | memoryview


class Attributes(NamedTuple):
    """What stat(2) tells of an inode."""

    ino: int
    kind: str
    """FILE, DIRECTORY, SYMLINK, FIFO, SOCKET … of `fs.model`."""
    mode: int
    """Permission bits, without the type."""
    uid: int
    gid: int
    size_bytes: int
    link_count: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    device: int = 0
    """Of device nodes: the device, as stat(2) has it in st_rdev."""
    stored_bytes: int | None = None
    """What is stored of a file with holes; None: all of its size."""
    is_passed: bool = False
    """The kernel writes the file itself (`Kernel.pass_through`), so it must ask again each time."""


class AttributeChange(NamedTuple):
    """New values; None: as it was. Setting any also sets ctime."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Owner(NamedTuple):
    """Whom something new belongs to."""

    uid: int
    gid: int


class Caching(NamedTuple):
    """How many seconds the kernel may believe what it was told, unless it is told otherwise (`Kernel`)."""

    names: float
    attributes: float
    missing: float
    """Of a name: that there is no such."""
    listings: bool = False
    """Whether it may list a directory from its own memory (`Files.listed`)."""


class Statistics(NamedTuple):
    """What statfs(2) tells. A database does not know how much more it can hold: the free space is that of the stage."""

    block_bytes: int
    blocks: int
    blocks_free: int
    inodes: int
    inodes_free: int


NO_CACHING: Final = Caching(0.0, 0.0, 0.0)


class Lock(enum.Enum):
    """What flock(2) asks for."""

    NONE = "none"
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


class Missing:
    """In place of attributes: it is known that there is no such name."""


MISSING: Final = Missing()


class Kernel(abc.ABC):
    """
    What `Files` tell the kernel to forget, since others have changed it.

    Never from a thread that serves a request, but where a method says so, nor under a lock that one may need: when very much is
    told, it waits for the kernel, which may wait for answers. What is new is to be known before, since the kernel asks at once.
    """

    passes_through = False
    """Whether `pass_through` may do something."""

    @abc.abstractmethod
    def forget_attributes(self, ino: int) -> None: ...

    @abc.abstractmethod
    def forget_contents(self, ino: int) -> None:
        """All pages, and the attributes."""

    @abc.abstractmethod
    def forget_name(self, directory: int, name: bytes) -> None:
        """What the name leads to, or that it leads nowhere; and the attributes of the directory."""

    @property
    @abc.abstractmethod
    def can_forget_all_names(self) -> bool: ...

    @abc.abstractmethod
    def forget_all_names(self) -> None:
        """What all names of all directories lead to, if it can."""

    @abc.abstractmethod
    def wait_until_forgotten(self) -> None:
        """Return when the kernel has forgotten all that it was told to before, or nothing is mounted any more."""

    @abc.abstractmethod
    def forget_attributes_now(self, ino: int) -> None:
        """`forget_attributes`, before the call returns. A thread that serves a request may call it."""

    @abc.abstractmethod
    def pass_through(self, fd: int) -> int:
        """
        Prepare that what is opened reads and writes the file *fd* itself. Any thread may call this.

        Returns:
            A number for `OpenFile.backing`, to be given back to `end_pass_through`. 0: the kernel does not, or not for this user.
        """

    @abc.abstractmethod
    def end_pass_through(self, number: int) -> None:
        """Nothing more is opened with *number*."""


class OpenFile(abc.ABC):
    """An open file: what open(2) has returned, with all its copies by dup(2) and fork(2)."""

    ino: int
    keep_cache = False
    """
    Whether the pages that the kernel has of the file are still right.

    If not, it drops them, and the program waits, so that not even SIGKILL ends it, for reads of the file that are under way. So no
    read may wait without a bound.
    """
    needs_flush = True
    """Whether `flush` does something."""
    notes_writers = False
    """Whether `written_by` is to be called."""
    has_no_privileges = False
    """Whether it is known that a write has no S_ISUID and S_ISGID to take away. Whoever serves it sets this."""
    is_direct = False
    """
    Whether each read and each write is asked for as it is, up to 1 MiB: the kernel keeps no pages of what goes through this one.
    Else a write is one request for each page or more.
    """
    backing = 0
    """
    What the kernel reads and writes itself instead of asking (`Kernel.pass_through`); 0: nothing.

    All that have one inode open at a time need the same: else the kernel refuses to open it.
    """

    def opened_by(self, pid: int) -> None:
        """It was the thread *pid* that has opened it."""

    @abc.abstractmethod
    def read(self, offset: int, length: int) -> Sequence[Bytes]:
        """The bytes from *offset* on: *length* of them, fewer only at the end of the file."""

    def read_now(self, offset: int, length: int) -> Sequence[Bytes] | None:
        """`read`, if that need not wait for anybody; else None."""
        return None

    def written_by(self, pid: int) -> None:
        """The next write is by the thread *pid*; 0: nobody knows by whom."""

    def write(self, offset: int, data: Bytes) -> None:
        """Write all of *data* at *offset*; with O_APPEND where the end is. *data* is used again after the call."""
        raise OSError(errno.EBADF, "not open for writing")

    def write_now(self, offset: int, data: Bytes) -> bool:
        """`write`, if that need not wait for anybody. Returns whether it was done."""
        return False

    def write_back(self, offset: int, data: Bytes) -> None:
        """Write what was written to a map, perhaps of another open file: at *offset*, also with O_APPEND."""
        self.write(offset, data)

    def write_back_now(self, offset: int, data: Bytes) -> bool:
        """`write_back`, if that need not wait for anybody. Returns whether it was done."""
        return False

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2): *mode* is 0 or of FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE."""
        raise OSError(errno.EOPNOTSUPP, "not supported")

    def seek(self, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE."""
        raise OSError(errno.EOPNOTSUPP, "not supported")

    def copy_to(self, offset: int, target: OpenFile, target_offset: int, length: int) -> int:
        """copy_file_range(2) into *target*, which may be the same file. Returns how many bytes were copied."""
        raise OSError(errno.EOPNOTSUPP, "not supported")

    def lock(self, lock: Lock, given_up: threading.Event | None = None) -> bool:
        """
        flock(2), where `Files.shares_locks`: have *lock* in place of what this open file has; its release gives it back.

        Returns False if others have what keeps it from that: at once, or, with *given_up*, once that is set.
        """
        raise OSError(errno.ENOSYS, "not supported")

    def flush(self) -> None:
        """A program closes one of its descriptors. What an earlier write could not do is an error here."""

    def flush_by(self, pid: int) -> None:
        """`flush`, by the thread *pid*: of whoever has opened it, or who was given a copy of the descriptor."""
        self.flush()

    def flush_now(self) -> bool:
        """`flush`, if that need not wait for anybody. Returns whether it was done."""
        return False

    @abc.abstractmethod
    def sync(self) -> None:
        """Return when what was written is on the server's disk."""

    @abc.abstractmethod
    def release(self) -> None:
        """The last descriptor is closed, and nobody hears of errors any more."""

    def abandon(self) -> None:
        """What was mounted is gone, and this was still open: nobody can write to it any more, who may have wanted to."""
        self.release()

    def release_now(self) -> bool:
        """`release`, if that need not wait for anybody. Returns whether it was done."""
        return False


class Files(abc.ABC):
    """A file system that can be mounted."""

    root: int = ROOT
    read_only: bool = False
    shares_locks: bool = False
    """Whether flock(2) is among all mounts, by `OpenFile.lock`; else among the programs of this one, as fcntl(2) is."""
    changes: RecentChanges
    """What was done through the mount is noted by whoever serves it, and what the kernel is to forget."""
    threads_max: int = 8
    """How many requests are served at once. Where each waits for somebody far away, more are worth their memory."""
    listed: Listed | None = None
    """What the kernel has listed, where it is told when names are others; else it asks for each listing."""

    @property
    @abc.abstractmethod
    def caching(self) -> Caching:
        """May change at any time; it is asked for with each reply, so it is the same object while it is the same."""

    def begin(self, kernel: Kernel) -> None:
        """Is mounted; *kernel* is told from now on what others change."""

    def end(self) -> None:
        """Is not mounted any more, and everything was released: keep what is not kept yet."""

    # ---------------------------------------------------------------------------------- what need not wait for anybody

    # Each does what the method does that it is called after, and returns what that returns; None, or False: nothing was done, since
    # it might have to wait.

    def attributes_now(self, ino: int) -> Attributes | None:
        return None

    def opened_directory_now(self, directory: int) -> Attributes | None:
        return self.attributes_now(directory)

    def look_up_now(self, directory: int, name: bytes) -> Attributes | Missing | None:
        return None

    def set_attributes_now(self, ino: int, change: AttributeChange) -> Attributes | None:
        return None

    def make_now(
        self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int = 0
    ) -> Attributes | None:
        return None

    def remove_now(self, directory: int, name: bytes) -> bool:
        return False

    def rename_now(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> bool:
        return False

    def open_now(self, ino: int, flags: int) -> OpenFile | None:
        return None

    def create_now(
        self, directory: int, name: bytes, mode: int, flags: int, owner: Owner
    ) -> tuple[Attributes, OpenFile] | None:
        return None

    # -------------------------------------------------------------------------------------------- names and attributes

    @abc.abstractmethod
    def attributes(self, ino: int) -> Attributes: ...

    def opened_directory(self, directory: int) -> Attributes:
        """`attributes`, of the names that it has by now; by these it is known whether what was listed is still right."""
        return self.attributes(directory)

    @abc.abstractmethod
    def look_up(self, directory: int, name: bytes) -> Attributes | Missing:
        """What *name* leads to, a symbolic link itself. `..` is not asked for, but `parent`."""

    @abc.abstractmethod
    def parent(self, directory: int) -> int: ...

    @abc.abstractmethod
    def names(self, directory: int, after: bytes, count: int) -> list[tuple[bytes, Attributes]]:
        """The first *count* names that come after *after* in the order of their bytes; fewer only at the end."""

    def names_later(
        self, directory: int, after: bytes, count: int
    ) -> Callable[[], list[tuple[bytes, Attributes]]] | None:
        """Begin with `names`, and return what returns the result; None: that would gain nothing."""
        return None

    @abc.abstractmethod
    def set_attributes(self, ino: int, change: AttributeChange) -> Attributes: ...

    @abc.abstractmethod
    def truncate(self, ino: int, size: int, file: OpenFile | None) -> Attributes:
        """*file*: through which it is asked for, if it is open."""

    # --------------------------------------------------------------------------------------------------------- making

    def directory_of_new(self, directory: int) -> Attributes:
        """Mode and group of a directory in which something is to be made, which say whom it belongs to."""
        return self.attributes_now(directory) or self.attributes(directory)

    @abc.abstractmethod
    def make(self, directory: int, name: bytes, kind: str, mode: int, owner: Owner, device: int = 0) -> Attributes:
        """mkdir(2), mknod(2)."""

    @abc.abstractmethod
    def make_symbolic_link(self, directory: int, name: bytes, target: bytes, owner: Owner) -> Attributes: ...

    @abc.abstractmethod
    def read_link(self, ino: int) -> bytes: ...

    @abc.abstractmethod
    def link(self, ino: int, directory: int, name: bytes) -> Attributes: ...

    @abc.abstractmethod
    def remove(self, directory: int, name: bytes) -> None:
        """unlink(2)."""

    @abc.abstractmethod
    def remove_directory(self, directory: int, name: bytes) -> None: ...

    @abc.abstractmethod
    def rename(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> None:
        """renameat2(2): *flags* is 0, RENAME_NOREPLACE or RENAME_EXCHANGE."""

    # -------------------------------------------------------------------------------------------- extended attributes

    @abc.abstractmethod
    def extended_attributes(self, ino: int) -> dict[bytes, bytes]: ...

    @abc.abstractmethod
    def set_extended_attribute(self, ino: int, name: bytes, value: bytes | None, flags: int) -> None:
        """setxattr(2) with its *flags*; *value* None: removexattr(2)."""

    # ------------------------------------------------------------------------------------------------------- contents

    @abc.abstractmethod
    def open(self, ino: int, flags: int) -> OpenFile:
        """*flags*: those of open(2), with O_TRUNC, without O_CREAT and O_EXCL."""

    @abc.abstractmethod
    def create(self, directory: int, name: bytes, mode: int, flags: int, owner: Owner) -> tuple[Attributes, OpenFile]:
        """
        open(2) with O_CREAT of a name that the kernel does not know: make the file, or open it (an error with O_EXCL).

        If it leads to anything but a file by now, ESTALE: then the kernel looks it up anew.
        """

    def sync(self) -> None:
        """Return when all that was done is on the server's disk: fsync(2) of a directory, syncfs(2)."""

    @abc.abstractmethod
    def statistics(self) -> Statistics: ...
