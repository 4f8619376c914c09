"""A new data directory: initdb beside its place, settings, then one rename.

`data` is complete or does not exist. A run that was killed leaves a `data.new-*`, which the next one removes; initdb
inherits the start lock, so that one whose parent died is waited for and not raced.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pgstore import errors
from pgstore.embedded.binaries import Binaries
from pgstore.embedded.identity import Identity
from pgstore.embedded.locks import FileLock
from pgstore.embedded.paths import USER, Paths

_WHEN = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \w+ \[\d+\] ")  # in the server's log
_TELLING = re.compile(r"\b(?:PANIC|FATAL|ERROR|error|could not|cannot)\b")

# Everything else, fsync, synchronous_commit and full_page_writes above all, stays as Postgres has it.
SETTINGS = """
# --- pgstore
listen_addresses = ''           # no TCP: the unix socket, in a directory of its owner, is the only way in
unix_socket_permissions = 0700  # and of its owner alone
max_connections = 120           # a dozen processes with ten connections each; an unused one costs about nothing
cluster_name = 'pgstore'        # so that `ps` tells these processes from another server's
timezone = 'UTC'                # not that of whoever happened to start it first
log_timezone = 'UTC'
log_checkpoints = off           # nobody rotates the log of a server nobody administers
huge_pages = off                # no gain at this size; `try` crashes in containers limited below what the host offers
jit = off                       # short statements; compiling one costs more than it can save
"""


def clean_environment() -> dict[str, str]:
    """
    Return the environment for initdb and the server.

    The server outlives its starter: it gets no secrets, no PG* settings and no locale of that program.
    """
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}


def initialise(
    paths: Paths, binaries: Binaries, identity: Identity, start_lock: FileLock, *, durable: bool = True
) -> None:
    """Make the data directory, on disk if it is to be *durable*; the caller holds *start_lock*."""
    for stale in paths.root.glob("data.new-*"):
        shutil.rmtree(stale, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix="data.new-", dir=paths.root))
    try:
        if identity.switched:
            os.chown(draft, identity.uid, identity.gid)
        _initdb(draft, binaries, identity, start_lock, () if durable else ("--no-sync",))
        _append(draft / "postgresql.conf", SETTINGS)
        os.rename(draft, paths.data)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _fsync_directory(paths.root)


def _initdb(draft: Path, binaries: Binaries, identity: Identity, start_lock: FileLock, options: Sequence[str]) -> None:
    """Run initdb, whose files are on disk when it returns."""
    failed, said = _run_initdb("C.UTF-8", draft, binaries, identity, start_lock, options)
    if failed and "invalid locale" in said:
        failed, said = _run_initdb("C", draft, binaries, identity, start_lock, options)
    if failed:
        raise errors.EmbeddedServerError(
            f"initdb of PostgreSQL {binaries.major} could not make {draft.parent}/data: {reason_in(said)}"
        )


def reason_in(said: str) -> str:
    """One line of what a program of PostgreSQL's has *said* that tells why it failed, and what to do where that is known."""
    lines = [_WHEN.sub("", line.strip()) for line in said.splitlines() if line.strip()]
    telling = [place for place, line in enumerate(lines) if _TELLING.search(line)]
    if any("No space left on device" in line for line in lines):
        return (
            "the disk is full (No space left on device): make some 100 MB free, or give a directory elsewhere in "
            "PGSTORE_SERVER_DIR"
        )
    if not telling:
        return lines[-1] if lines else "it said nothing"
    first = telling[0]
    before = [line for line in lines[max(0, first - 2) : first] if line.startswith("LOG:")]  # what a setting is, say
    return "; ".join([*before, lines[first]])


def _run_initdb(
    locale: str, draft: Path, binaries: Binaries, identity: Identity, start_lock: FileLock, options: Sequence[str]
) -> tuple[int, str]:
    """Return initdb's exit status and what it said."""
    # trust: the socket is the only way in, and the kernel lets nobody connect to it but the owner of its 0700 directory
    # (and root, who can read the files anyway). peer would add nothing: in a user namespace every foreign user looks
    # like nobody, a user without a name would be locked out, and the server's own user may edit pg_hba.conf. A password
    # would stand in a file of the same directory. TCP, should somebody open it, is rejected.
    command = identity.command(
        binaries.directory / "initdb",
        f"--pgdata={draft}",
        f"--username={USER}",
        "--encoding=UTF8",
        f"--locale={locale}",
        "--auth-local=trust",
        "--auth-host=reject",
        "--data-checksums",  # the default from PostgreSQL 18 on: a rotten disk is noticed
        "--no-instructions",
        *options,
    )
    run = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        pass_fds=(start_lock.fd,),
        cwd=draft,
        env=clean_environment(),
        umask=0o077,
        **identity.popen_arguments(),
    )
    return run.returncode, str(run.stdout).strip()


def _append(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
