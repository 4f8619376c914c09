"""Where the server's files are, and that nobody else can touch them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pgstore import errors
from pgstore.config import variable_of
from pgstore.embedded.binaries import find_binaries
from pgstore.embedded.identity import Identity, namespace_prefix, owner_of, shown

USER = "pgstore"
DATABASE = "pgstore"
PORT = 5432  # only a part of the socket's name; said everywhere, so that PGPORT changes nothing
SOCKET = f".s.PGSQL.{PORT}"
SOCKET_PATH_BYTES_MAX = 100  # the kernel's limit is 107 on Linux, 103 on macOS
ROOT_BASE = Path("/var/lib/pgstore")


def default_directory() -> Path:
    """
    Return the directory used when none is given: `PGSTORE_SERVER_DIR`, else `pg<major>` in the user's data directory.

    Data that exists there decides, the newest version first: were it always the version of the installed programs, an
    upgrade of the machine would seem to have emptied every store. PGSTORE_PGBIN, being explicit, overrules that. Root
    without user namespaces gets /var/lib/pgstore, as the user who then runs the server cannot enter root's home.
    """
    given = variable_of("PGSTORE_SERVER_DIR")
    if given:
        return Path(given).expanduser().absolute()
    bases = _bases()
    found = {}
    for base in reversed(bases):
        for directory in base.glob("pg[0-9]*"):
            match = re.fullmatch(r"pg(\d+)", directory.name)
            if match and os.path.exists(directory / "data" / "PG_VERSION"):
                found[int(match[1])] = directory
    if found and not variable_of("PGSTORE_PGBIN"):
        return found[max(found)]
    major = find_binaries().major
    if major in found:
        return found[major]
    return bases[-1 if os.geteuid() == 0 and not namespace_prefix() else 0] / f"pg{major}"


def _bases() -> list[Path]:
    # A relative XDG_DATA_HOME is to be ignored (XDG base directory specification).
    data_home = os.environ.get("XDG_DATA_HOME", "")
    try:
        base = Path(data_home) if os.path.isabs(data_home) else Path.home() / ".local" / "share"
    except RuntimeError as exc:
        raise errors.EmbeddedServerError(
            "this user has no home directory for the data of the embedded server: set PGSTORE_SERVER_DIR"
        ) from exc
    return [base / "pgstore", ROOT_BASE] if os.geteuid() == 0 else [base / "pgstore"]


@dataclass(frozen=True)
class Paths:
    """The names of everything in one server's directory."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    @property
    def start_lock(self) -> Path:
        return self.root / "start.lock"

    @property
    def server_lock(self) -> Path:
        return self.root / "server.lock"

    @property
    def sockets(self) -> Path:
        """The directory of the socket: `run` in ours, or a short one in /tmp that follows from our path."""
        own = self.root / "run"
        name = os.fsencode(own / SOCKET)
        # A comma separates hosts in libpq, which has no way to quote it.
        if len(name) <= SOCKET_PATH_BYTES_MAX and not re.search(rb'[,"]', name) and _is_utf8(name):
            return own
        # Not XDG_RUNTIME_DIR: it goes at logout, the server does not; and processes without it (cron) must come to the
        # same place.
        digest = hashlib.blake2b(os.fsencode(self.root), digest_size=6).hexdigest()
        return Path(f"/tmp/pgstore-{os.geteuid()}-{digest}")

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@/{DATABASE}?host={quote(os.fsencode(self.sockets), safe='/')}&port={PORT}"

    def major(self) -> int | None:
        """Return the major version of the data; None if there are none."""
        try:
            return int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def create(self, identity: Identity) -> None:
        """Make the directory and its missing parents, and check that it is safe; existing ones stay as they are."""
        mode = 0o711 if identity.switched else 0o700
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process is starting the server, too
                path.mkdir(mode=mode)
                path.chmod(mode)  # whatever the umask
        self.check()
        blocked = identity.unreachable([self.root])
        if blocked is not None:
            raise errors.EmbeddedServerError(
                f"root may not create user namespaces here, so the user {shown(identity.uid)} must run the server, and "
                f"cannot enter {blocked}: set PGSTORE_SERVER_DIR to a directory everybody may enter, like {ROOT_BASE}"
            )

    def check(self) -> None:
        """Refuse a directory in which another user could put a server or data of their own in place of ours."""
        status = self.root.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise errors.EmbeddedServerError(f"{self.root} is not a directory: give another one in PGSTORE_SERVER_DIR")
        if status.st_uid != os.geteuid():
            raise errors.EmbeddedServerError(
                f"{self.root} belongs to the user {shown(status.st_uid)}, not to {shown(os.geteuid())}: "
                "give a directory of your own in PGSTORE_SERVER_DIR"
            )
        if status.st_mode & 0o022:
            raise errors.EmbeddedServerError(
                f"other users may write to {self.root} (mode {stat.S_IMODE(status.st_mode):o}): run `chmod go-w` on it "
                "or give a directory that does not exist yet"
            )
        for parent in self.root.resolve().parents:
            mode = parent.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise errors.EmbeddedServerError(
                    f"everybody may write to {parent} (mode {stat.S_IMODE(mode):o}), and so put another directory in the place of "
                    f"{self.root}: run `chmod o-w` on it, or give another PGSTORE_SERVER_DIR"
                )
        if (self.root / "PG_VERSION").exists():
            raise errors.EmbeddedServerError(
                f"{self.root} is itself a Postgres data directory, expected one to contain it: give a new directory"
            )

    def create_sockets(self, identity: Identity) -> None:
        """Make the socket's directory, owned by the server's user, and check that it is nobody else's."""
        with contextlib.suppress(FileExistsError):
            self.sockets.mkdir(mode=0o700)
            self.sockets.chmod(0o700)
        owner = owner_of(self.sockets)
        if identity.switched and owner is not None and owner[0] == os.geteuid():
            os.chown(self.sockets, identity.uid, identity.gid, follow_symlinks=False)
        if not self.sockets_are_private(identity.uid):
            raise errors.EmbeddedServerError(
                f"{self.sockets}, the place of the server's socket, must be a directory that only the user "
                f"{shown(identity.uid)} can enter, and is not: remove it, or give another PGSTORE_SERVER_DIR"
            )

    def remove_sockets_elsewhere(self) -> None:
        """After the server has ended: what was made for its socket outside of our directory goes; the next start makes it anew."""
        if self.sockets.parent != self.root:
            with contextlib.suppress(OSError):
                self.sockets.rmdir()  # not if there is something in it

    def sockets_are_private(self, uid: int) -> bool:
        try:
            status = self.sockets.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
