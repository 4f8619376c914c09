"""File systems of a worker's own: those of the machine, with directories to mount at that the machine does not have.

In a mount namespace of its own (`pgstore.mount.namespace`) a process may mount wherever there is a directory. Where there is none,
and none may or should be made, the directory above is covered by one in memory, into which each of its entries is bound: so `/data`
needs nobody's permission, and nothing of it appears outside. The root is not covered but replaced (pivot_root(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable
from typing import Final

from pgstore import errors

# <sys/mount.h>
_MS_BIND: Final = 1 << 12
_MS_MOVE: Final = 1 << 13
_MS_REC: Final = 1 << 14
_MS_UNBINDABLE: Final = 1 << 17
_MNT_DETACH: Final = 2
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_ROOTS_HOME: Final = "/root"


class Root:
    """
    The file systems of this process, which has a mount namespace of its own and one thread.

    Args:
        staging: an empty directory, for what is being built.
    """

    def __init__(self, staging: str) -> None:
        self._staging = staging
        self._devices: set[int] = set()  # of what is in memory
        self._locked: list[int] = []
        self._placed: list[str] = []
        self.made: list[str] = []
        """Directories that were made on the machine."""

    def place(self, path: str) -> str:
        """
        Have a directory at *path*, an absolute one, and return it without symbolic links.

        Raises:
            NotADirectory: a file is there, or on the way.
            FileFailed, FileUnreadable: the system refuses.
        """
        if f"{path}/".startswith(f"{_ROOTS_HOME}/") and os.geteuid() != 0 and not os.access(_ROOTS_HOME, os.W_OK):
            # Programs are written for the root of a container: this user gets a home of that name, an empty one.
            self._mount("tmpfs", _ROOTS_HOME, "tmpfs", 0, "mode=0700")
            os.environ["HOME"] = _ROOTS_HOME
            self._devices.add(os.stat(_ROOTS_HOME).st_dev)
        path = os.path.realpath(path)
        if any(path.startswith(f"{outer}/") for outer in self._placed):
            os.makedirs(path, exist_ok=True)  # a Volume shows it
        else:
            while not self._lock(path):
                self._prepare(path)
        self._placed.append(path)
        return path

    def _lock(self, path: str) -> bool:
        """Keep others from removing the directory *path*: what is mounted there would be gone. False: there is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except (
            OSError
        ):  # a file, of which `_prepare` says so; or what this user may not read, and nobody has made for this
            return os.path.isdir(path)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self._locked.append(descriptor)
        return os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path))

    def _prepare(self, path: str) -> None:
        """Make the directory *path*, here or, in places where programs write, on the machine."""
        above = path
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above):
            raise errors.NotADirectory(f"{path!r} cannot be mounted at: {above!r} is no directory", path)
        if os.stat(above).st_dev not in self._devices:
            if _is_written_to(above):
                self._make(path, above)
                return
            self._cover(above)
        os.makedirs(path, exist_ok=True)

    def bind(self, source: str, path: str) -> None:
        """Have *path* show the directory *source*."""
        self._mount(source, path, None, _MS_BIND | _MS_REC)

    def bind_but(self, source: str, path: str, kept: Iterable[str]) -> None:
        """`bind`, but show what is in the directories *kept* below *path* as before."""
        outermost: list[str] = []
        for each in sorted(os.path.realpath(each) for each in kept):
            is_within = any(f"{each}/".startswith(f"{outer}/") for outer in outermost)
            if each.startswith(f"{path}/") and os.path.isdir(each) and not is_within:
                outermost.append(each)
        with contextlib.ExitStack() as stack:
            opened = [(each, os.open(each, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) for each in outermost]
            for _, descriptor in opened:
                stack.callback(os.close, descriptor)
            self.bind(source, path)
            for each, descriptor in opened:
                os.makedirs(each, exist_ok=True)
                self.bind(f"/proc/self/fd/{descriptor}", each)

    def _make(self, path: str, above: str) -> None:
        """Make *path* on the machine: files that the program writes beside it are to stay."""
        parts = os.path.relpath(path, above).split(os.sep)
        for part in parts:
            above = os.path.join(above, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(above)
                self.made.append(above)

    def _cover(self, directory: str) -> None:
        """Have *directory* be one in memory, with all that is in it."""
        status = os.stat(directory)
        self._mount("tmpfs", self._staging, "tmpfs", 0, f"mode={stat.S_IMODE(status.st_mode):o}")
        # Else what is bound from around the staging directory would have it within itself.
        self._mount(None, self._staging, None, _MS_UNBINDABLE)
        with os.scandir(directory) as entries:
            for entry in entries:
                self._show(entry, os.path.join(self._staging, entry.name))
        if directory == "/":
            self._pivot()
        else:
            self._mount(self._staging, directory, None, _MS_MOVE)
        self._devices.add(os.stat(directory).st_dev)

    def _show(self, entry: os.DirEntry[str], target: str) -> None:
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
            return
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
        self.bind(entry.path, target)

    def _pivot(self) -> None:
        number = _SYS_PIVOT_ROOT.get(os.uname().machine)
        if number is None:
            raise errors.FileFailed(f"pgstore does not know pivot_root(2) of {os.uname().machine}")
        os.chdir(self._staging)
        # Both at one place: the old root lies over the new one, and is taken away.
        _check(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
        _check(_libc.umount2(b".", _MNT_DETACH), "unmounting the old root")
        os.chdir("/")

    def _mount(self, source: str | None, path: str, kind: str | None, flags: int, options: str | None = None) -> None:
        arguments = (None if text is None else os.fsencode(text) for text in (source, path, kind))
        data = None if options is None else options.encode()
        _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data), f"mounting at {path!r}")


def _is_written_to(directory: str) -> bool:
    """Whether programs write beside what they mount in *directory*: it is at home, in the working directory, or temporary."""
    if not os.access(directory, os.W_OK):
        return False
    places = (os.path.expanduser("~"), tempfile.gettempdir(), "/tmp", "/var/tmp", os.getcwd())
    return any(f"{directory}/".startswith(f"{os.path.realpath(place)}/") for place in places if place != "/")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise errors.of_local(OSError(number, os.strerror(number)), what)


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
