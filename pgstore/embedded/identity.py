"""Who runs the server: Postgres refuses uid 0, and initdb a user without a name.

An ordinary user runs it directly. For root the first choice is a user namespace that shows root as `nobody` to the
server alone: outside, processes and files stay root's, so that a data directory or a venv below /root is reachable,
and root's clients pass the same 0700 directories. Where namespaces are forbidden (Docker's default profile, for one)
the server runs as `postgres` or `nobody`, which then own the data. Whoever owns existing data runs it.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgstore import errors

# Never `root` nor a user with a shell of a person. `postgres` first: `nobody` is shared with whatever else runs as
# nobody, and processes of the server's own user can read its files.
UNPRIVILEGED_USERS = ("postgres", "nobody")


@dataclass(frozen=True)
class Identity:
    """The user that owns the data and runs the server, and how a command becomes that user."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()

    @property
    def switched(self) -> bool:
        """Whether this is another user than the one of this process."""
        return self.uid != os.geteuid()

    def command(self, *arguments: str | Path) -> list[str]:
        return [*self.prefix, *map(str, arguments)]

    def popen_arguments(self) -> dict[str, Any]:
        if not self.switched:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def unreachable(self, paths: Sequence[Path]) -> Path | None:
        """Return the first of *paths* this user cannot enter or execute."""
        if not self.switched:
            return None
        # Asked of the kernel, as that user: mode bits alone would miss ACLs, mounts and parents.
        script = 'for path; do test -x "$path" || { printf %s "$path"; exit 1; }; done'
        answer = subprocess.run(
            ["/bin/sh", "-c", script, "sh", *map(str, paths)],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            env={},
            **self.popen_arguments(),
        )
        return None if answer.returncode == 0 else Path(os.fsdecode(answer.stdout) or paths[0])


def choose_identity(data: Path) -> Identity:
    """Decide who runs the server on *data*, which need not exist yet."""
    uid = os.geteuid()
    if uid != 0 and name_of(uid) is not None:
        return Identity(uid, os.getegid())
    owner = owner_of(data)
    if uid == 0 and owner is not None and owner[0] != 0:
        return Identity(*owner)
    prefix = namespace_prefix()
    if prefix:
        return Identity(uid, os.getegid(), prefix)
    if uid != 0:
        raise errors.EmbeddedServerError(
            f"user id {uid} has no name in the user database, which initdb needs, and may not create user namespaces: "
            "add it to /etc/passwd, or give the URL of a running server in PGSTORE_URL"
        )
    for name in UNPRIVILEGED_USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(user.pw_uid, user.pw_gid)
    raise errors.EmbeddedServerError(
        "Postgres refuses to run as root, user namespaces are not permitted here, and none of the users "
        f"{', '.join(UNPRIVILEGED_USERS)} exists: add one, run as another user, or set PGSTORE_URL"
    )


@functools.cache
def namespace_prefix() -> tuple[str, ...]:
    """Return the command prefix that runs a program in a user namespace, as somebody with a name; empty if refused."""
    unshare = shutil.which("unshare")
    uid = named_uid()
    if unshare is None or uid is None:
        return ()
    prefix = (unshare, "--user", f"--map-user={uid}", "--")
    # Tried, not looked up: seccomp, AppArmor, sysctls and old util-linux (no --map-user) each refuse in their own way.
    try:
        tried = subprocess.run(
            [*prefix, "/bin/sh", "-c", "id -u"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return prefix if tried.stdout.strip() == str(uid).encode() else ()


def named_uid() -> int | None:
    """Return a user id other than 0 that has a name: `nobody` where there is one."""
    if name_of(65534) is not None:
        return 65534
    return next((user.pw_uid for user in pwd.getpwall() if user.pw_uid != 0), None)


def name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def shown(uid: int) -> str:
    """Return *uid* for a message."""
    return name_of(uid) or f"with id {uid}"


def owner_of(path: Path) -> tuple[int, int] | None:
    """Return uid and gid of *path*, which is not followed; None if it does not exist."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_uid, status.st_gid


def give(tree: Path, identity: Identity) -> None:
    """Make *identity* the owner of everything in *tree*, which must be ours."""
    if owner_of(tree) == (identity.uid, identity.gid) or not identity.switched:
        return
    for folder, folders, files in os.walk(tree):
        for name in folders + files:
            os.chown(os.path.join(folder, name), identity.uid, identity.gid, follow_symlinks=False)
    # Last, so that a run that was interrupted is seen and done again.
    os.chown(tree, identity.uid, identity.gid, follow_symlinks=False)
