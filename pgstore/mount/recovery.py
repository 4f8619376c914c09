"""Recovery directories: where the bytes are kept that a last commit could not bring into the store.

Each has the files at their paths below `files`, and `about.json` says of which store they are and why they are there. They are
this user's to look at, to put into the store (`restore`) and to remove.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgstore import errors
from pgstore.fs.transfer.local import explained


@dataclass(frozen=True)
class About:
    """What a recovery directory says of itself."""

    kind: str
    """ "volume", "nfs" or "bucket"."""
    name: str | None
    """Of the store, or `s3://name` and the like; None: it is ephemeral."""
    environment: str | None
    """None: of a bucket."""
    sub_path: str
    """The directory of the store that was mounted; "" is the root."""
    mounted_at: str
    reason: str
    kept_at: float
    """In seconds since 1970."""


@dataclass(frozen=True)
class Kept:
    """A recovery directory."""

    path: Path
    about: About

    @property
    def files(self) -> Path:
        return self.path / "files"

    @property
    def incomplete(self) -> Path:
        """What was written of files that could not be read completely; a range that was not is a hole."""
        return self.path / "incomplete"


def base_directory() -> Path:
    """Where recovery directories are: `$XDG_STATE_HOME/pgstore/recovery`, else `~/.local/state/pgstore/recovery`."""
    state = os.environ.get("XDG_STATE_HOME", "")
    with contextlib.suppress(RuntimeError):
        home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
        return home / "pgstore" / "recovery"
    return Path("/var/tmp", f"pgstore-{os.getuid()}", "recovery")


def make(about: About) -> Kept:
    """A new recovery directory, whose `files` is empty."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(about.kept_at))
    name = re.sub("[^A-Za-z0-9._-]+", "-", about.name or "ephemeral")  # that of a bucket has slashes
    path = base_directory() / f"{name}-{moment}-{secrets.token_hex(3)}"
    with explained(f"recovery directory {str(path)!r}", str(path)):
        path.mkdir(mode=0o700, parents=True)
        (path / "files").mkdir()
        (path / "about.json").write_text(json.dumps(asdict(about), indent=2))
    return Kept(path, about)


def keep_files(root: bytes, paths: Iterable[bytes], about: About) -> Kept:
    """Move what is at *paths* below the local directory *root* into a new recovery directory."""
    kept = make(about)
    target_root = os.fsencode(kept.files)
    for path in paths:
        source, target = os.path.join(root, path), os.path.join(target_root, path)
        with explained(f"local file {os.fsdecode(source)!r}", source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with contextlib.suppress(OSError):
                os.chmod(os.path.dirname(source), 0o700)  # whoever may not write in it could not move what it holds
            with contextlib.suppress(FileNotFoundError):
                shutil.move(os.fsdecode(source), os.fsdecode(target))
    return kept


def about_mount(mount: Mapping[str, Any], reason: str) -> About:
    """What to say of a mount that is described as `runtime` does it."""
    return About(
        kind=str(mount.get("kind")),
        name=mount.get("name"),
        environment=mount.get("environment"),
        sub_path=str(mount.get("sub_path", "")),
        mounted_at=str(mount.get("path")),
        reason=reason,
        kept_at=time.time(),
    )


def empty(root: str) -> None:
    """Remove all that is in the local directory *root*."""
    with explained(f"local folder {root!r}", root):
        for entry in os.scandir(root):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            for path, _, _ in os.walk(entry.path):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)  # whoever may not write in it could not remove what it holds
            shutil.rmtree(entry.path)


def all_kept() -> list[Kept]:
    """The recovery directories of this user, oldest first."""
    found = []
    base = base_directory()
    for path in sorted(base.iterdir()) if base.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, TypeError):
            values: Any = json.loads((path / "about.json").read_text())
            found.append(Kept(path, About(**values)))
    return sorted(found, key=lambda kept: kept.about.kept_at)


def named(name: str) -> Kept:
    """
    The recovery directory of this name or path.

    Raises:
        FileMissing: there is none.
    """
    for kept in all_kept():
        if name in (kept.path.name, str(kept.path)):
            return kept
    raise errors.FileMissing(f"there is no recovery directory {name!r} in {str(base_directory())!r}", name)
