"""Start, attach to and stop the server of one directory.

Attaching is one connection. Everything else happens under `start.lock`, so one process at a time; whether any process
of a server is left is read from `server.lock` (see `locks.py`), how far it has come from its pid file (`postmaster.py`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgstore import errors
from pgstore.config import variable_of
from pgstore.core import clock
from pgstore.embedded.binaries import Binaries, find_binaries, reachable_binaries
from pgstore.embedded.identity import Identity, choose_identity, give, owner_of
from pgstore.embedded.initialise import clean_environment, initialise, reason_in
from pgstore.embedded.locks import FileLock, Held
from pgstore.embedded.paths import DATABASE, PORT, USER, Paths, default_directory
from pgstore.embedded.postmaster import CONNECT_SECONDS_MAX, Postmaster

if TYPE_CHECKING:
    import psycopg

_LOG = logging.getLogger("pgstore")
READY_SECONDS_MAX = 300.0  # replaying the log after a crash takes long on a slow disk
ORPHANS_SECONDS_MAX = 30.0  # without a postmaster, idle backends end at once, busy ones with their statement
STOP_SECONDS_MAX = 120.0  # a fast shutdown writes all that is dirty
LOG_BYTES_MAX = 10 * 2**20
_FORGETFUL = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")


@dataclass(frozen=True)
class Status:
    """What `pgstore server status` shows; all but `running` and `pid` also for a server that is not running."""

    running: bool
    directory: Path
    url: str
    pid: int | None
    """The postmaster; None if it is not running, or not visible from here (another container)."""
    major: int | None
    """Of the data; None before the first start."""
    binaries: Path | None
    """The directory of the programs last used; None before the first start."""
    log: Path


class Server:
    """
    The embedded server of one directory; nothing happens before `start`.

    Args:
        directory: where its data, log and socket are or will be; `default_directory()` if not given.
        binaries: the programs to use; `find_binaries()` if not given. Existing data of another version takes its own.
        durable: False: nothing waits for the disk. A crash of the machine may leave data that cannot be used.
    """

    def __init__(
        self, directory: Path | str | None = None, binaries: Binaries | None = None, *, durable: bool = True
    ) -> None:
        # Resolved: two names of one directory are one server, and its socket's name follows from the path.
        self.directory = Path(directory or default_directory()).expanduser().resolve()
        self._binaries = binaries
        self._durable = durable
        self._paths = Paths(self.directory)
        self._postmaster = Postmaster(self._paths)

    def __repr__(self) -> str:
        return f"<pgstore.embedded.Server {self.directory}>"

    @property
    def url(self) -> str:
        """The URL of the database, the same whether the server runs or not."""
        return self._paths.url

    def start(self) -> str:
        """
        Return the URL of the running server, after starting and if need be making it.

        Any number of processes may call this at once and get the same server. It is left running when they end.

        Raises:
            EmbeddedServerError: it cannot be made or started; the message says why and quotes the log.
        """
        with _explained(self.directory):
            if self._is_attachable():
                return self.url
            identity = choose_identity(self._paths.data)
            self._paths.create(identity)
            with Held(FileLock(self._paths.start_lock), seconds_max=READY_SECONDS_MAX) as start_lock:
                self._bring_up(identity, start_lock)
            return self.url

    def stop(self, *, immediate: bool = False) -> bool:
        """
        Stop the server and return whether one was running.

        Clients are disconnected and their open transactions rolled back. With *immediate* nothing is written first,
        as in a crash: the next start replays the log. Neither loses a committed transaction.

        Raises:
            EmbeddedServerError: it did not stop.
        """
        with _explained(self.directory):
            if not self._paths.data.exists():
                return False
            self._paths.check()
            with Held(FileLock(self._paths.start_lock), seconds_max=READY_SECONDS_MAX):
                was_running = self._take_down(signal.SIGQUIT if immediate else signal.SIGINT)
                self._paths.remove_sockets_elsewhere()
                return was_running

    def status(self) -> Status:
        """Return what is known of the server; nothing is changed."""
        with _explained(self.directory):
            running = self._postmaster.is_listening()
            return Status(
                running=running,
                directory=self.directory,
                url=self.url,
                pid=self._postmaster.pid() if running else None,
                major=self._paths.major(),
                binaries=self._postmaster.binaries_last_used(),
                log=self._paths.log,
            )

    def _is_attachable(self) -> bool:
        """Whether a connection to our database succeeds, through directories that are ours."""
        owner = owner_of(self._paths.data)
        if owner is None:
            return False
        self._paths.check()
        # Root's server may run as another user (identity.py), in a directory that only root can put things into.
        if owner[0] != os.geteuid() != 0 or not self._paths.sockets_are_private(owner[0]):
            return False
        try:
            self._connect(DATABASE).close()
        except _operational_error() as exc:
            # Full is also running: the caller's own connection tells it better. Messages are English: initdb ran so.
            return "too many clients" in str(exc)
        return True

    def _bring_up(self, identity: Identity, start_lock: FileLock) -> None:
        """Return once the server answers and has our database; the caller holds *start_lock*."""
        started = clock.monotonic()
        unanswered_since: float | None = None
        log_offset: int | None = None
        while True:
            now = clock.monotonic()
            server_lock = FileLock(self._paths.server_lock)
            if server_lock.try_acquire():
                # No process of any server is left, however it ended.
                if log_offset is not None:
                    server_lock.release()
                    raise self._failure("ended while starting", log_offset)
                try:
                    log_offset = self._launch(identity, start_lock, server_lock)
                finally:
                    server_lock.hand_over()
            elif self._postmaster.stage() == "ready":
                refusal = self._refusal()
                if refusal is None:
                    return
                # A pid file left by a killed postmaster says ready as well: its last backends are still at work.
                unanswered_since = unanswered_since or now
                if now - unanswered_since > ORPHANS_SECONDS_MAX:
                    raise self._unanswered(refusal)
            if now - started > READY_SECONDS_MAX:
                raise self._failure(f"was not ready after {READY_SECONDS_MAX:.0f} s", log_offset)
            time.sleep(0.002 if now - started < 1 else 0.02)

    def _launch(self, identity: Identity, start_lock: FileLock, server_lock: FileLock) -> int:
        """Start the postmaster, which inherits *server_lock*, and return where its part of the log begins."""
        binaries = self._binaries_for_data()
        binaries = reachable_binaries(binaries, identity, self.directory)
        self._paths.create_sockets(identity)
        if self._paths.major() is None:
            initialise(self._paths, binaries, identity, start_lock, durable=self._durable)
        give(self._paths.data, identity)
        self._postmaster.discard_stale_files()
        command = identity.command(
            binaries.directory / "postgres",
            "-D",
            self._paths.data,
            # Here and not in postgresql.conf: the directory may have been moved, and no edit of that file may open TCP.
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={self._paths.sockets}",
            "-c",
            f"port={PORT}",
            *(() if self._durable else _FORGETFUL),
        )
        _LOG.info(
            "starting the embedded server in %s: PostgreSQL %d of %s",
            self.directory,
            binaries.major,
            binaries.directory,
        )
        with self._open_log() as log:
            offset = log.seek(0, os.SEEK_END)
            # The shell forks and ends, so the server is nobody's child: no zombie stays behind in a program that goes
            # on. A session of its own keeps the terminal's signals away, and of our files it has only the log and the
            # lock.
            launcher = subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(server_lock.fd,),
                cwd=self.directory,
                env=clean_environment(),
                umask=0o077,
                **identity.popen_arguments(),
            )
        if launcher.returncode != 0:
            raise self._failure("could not be launched", offset)
        return offset

    def _binaries_for_data(self) -> Binaries:
        """Return the programs to run: those given or found, unless the data are of another major version."""
        major = self._paths.major()
        if self._binaries is not None and major in (None, self._binaries.major):
            return self._binaries
        if major is None:
            return find_binaries()
        if variable_of("PGSTORE_PGBIN") and self._binaries is None:
            given = find_binaries()
            if given.major == major:
                return given
        try:
            return find_binaries(major)
        except errors.EmbeddedServerError as exc:
            raise errors.EmbeddedServerError(
                f"{exc}; or start with another PGSTORE_SERVER_DIR and bring over {self._paths.data} with pg_dump"
            ) from exc

    def _take_down(self, how: signal.Signals) -> bool:
        """Signal the postmaster and wait until no process of the server is left."""
        started = clock.monotonic()
        signalled = None
        was_running = False
        while True:
            server_lock = FileLock(self._paths.server_lock)
            if server_lock.try_acquire():
                server_lock.release()
                return was_running
            was_running = True
            pid = self._postmaster.pid()
            if pid is not None and pid != signalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
                signalled = pid
            elapsed = clock.monotonic() - started
            if signalled is None and elapsed > ORPHANS_SECONDS_MAX:
                raise self._unanswered("it could not be signalled")
            if elapsed > STOP_SECONDS_MAX:
                raise self._failure(f"has not stopped {STOP_SECONDS_MAX:.0f} s after being told to", None)
            time.sleep(0.002 if elapsed < 1 else 0.02)

    def _refusal(self) -> str | None:
        """Return why the server does not let us in; None, after making our database if it is missing, if it does."""
        import psycopg

        try:
            connection = self._connect("postgres")
        except psycopg.OperationalError as exc:
            return None if "too many clients" in str(exc) else str(exc)
        with contextlib.closing(connection):
            try:
                if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                    # template0: nobody can be connected to it, which would make the copy fail.
                    # What a user makes must not land in the schema pgstore, which has the role's name: "$user" is the default.
                    connection.execute(f"ALTER ROLE {USER} SET search_path = public")
                    connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
            except psycopg.Error as exc:
                raise self._failure(f"could not make the database {DATABASE} ({exc})", None) from exc
        return None

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        import psycopg

        # options and hostaddr are given so that PGOPTIONS and PGHOSTADDR are not used.
        return psycopg.connect(
            host=str(self._paths.sockets),
            hostaddr="",
            port=PORT,
            user=USER,
            dbname=database,
            options="",
            connect_timeout=CONNECT_SECONDS_MAX,
            autocommit=True,
        )

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[io.FileIO]:
        with contextlib.suppress(FileNotFoundError):
            if self._paths.log.stat().st_size > LOG_BYTES_MAX:
                self._paths.log.replace(self._paths.log.with_suffix(".log.1"))
        fd = os.open(self._paths.log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "r+b", buffering=0) as log:
            yield log

    def _failure(self, what: str, log_offset: int | None) -> errors.EmbeddedServerError:
        try:
            with self._paths.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(log_offset or 0, size - 16384))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        reason = reason_in("\n".join(lines))
        return errors.EmbeddedServerError(f"the server in {self.directory} {what}: {reason}; more in {self._paths.log}")

    def _unanswered(self, refusal: str) -> errors.EmbeddedServerError:
        pid = self._postmaster.pid()
        if pid is not None:
            return errors.EmbeddedServerError(
                f"the server in {self.directory} runs (pid {pid}) but does not let us in ({refusal}): unset PG* variables "
                "that concern connections, or run `pgstore server stop` and try again"
            )
        return errors.EmbeddedServerError(
            f"the server in {self.directory} was killed, and processes of it (or a server in another container) are at work "
            f"after {ORPHANS_SECONDS_MAX:.0f} s: wait for them, or end those that `fuser {self._paths.server_lock}` lists"
        )


def ensure() -> str:
    """Return the URL of this user's default server, started if it is not running."""
    return Server().start()


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error that says what was tried and what to do."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as exc:
        where = getattr(exc, "filename", None) or directory
        why = getattr(exc, "strerror", None) or str(exc)
        raise errors.EmbeddedServerError(
            f"the server in {directory} cannot be used: {os.fsdecode(where)}: {why.lower()}; give a directory you can "
            "write to, with some 100 MB free, in PGSTORE_SERVER_DIR"
        ) from exc


def _operational_error() -> type[Exception]:
    import psycopg

    return psycopg.OperationalError
