"""Options of a mount, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from pgstore import errors
from pgstore.core.checks import check_bool, check_int, check_seconds
from pgstore.file_store import FileStore
from pgstore.fs.model import NEWEST
from pgstore.fs.paths import Names, split

Mode: TypeAlias = Literal["auto", "fuse", "sync"]
Locks: TypeAlias = Literal["local", "shared"]
MODES: Final = ("auto", "fuse", "sync")
LOCKS: Final = ("local", "shared")
BACKGROUND_COMMIT_SECONDS: Final = 10.0
CACHE_BYTES: Final = 64 * 1024 * 1024
CACHE_BYTES_MIN: Final = 8 * 1024 * 1024
TIMEOUT_SECONDS: Final = 30.0
SIZE_MAX_BYTES: Final = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True)
class Options:
    """What `Volume.mount` and `NetworkFileSystem.mount` were given."""

    mode: Mode = "auto"
    read_only: bool = False
    sub_path: Names = ()
    background_commits: float | None = BACKGROUND_COMMIT_SECONDS
    cache_size: int = CACHE_BYTES
    cache_directory: str | None = None
    timeout: float = TIMEOUT_SECONDS
    locks: Locks = "local"
    size_max: int = SIZE_MAX_BYTES


def defaults() -> dict[str, Any]:
    """What `checked` takes where nothing else was given, but for what every caller gives."""
    default = Options()
    names = ("background_commits", "cache_size", "cache_directory", "timeout", "locks", "size_max")
    return {name: getattr(default, name) for name in names}


def of_handle(store: FileStore, **given: Any) -> Options:
    """The options of *store*, as its handle says, and others that are *given*."""
    options = {**defaults(), **given}
    if store._changes_class.in_place:
        options["background_commits"] = None
    return checked(
        read_only=None,
        sub_path=None,
        handle=store._mount_options,
        must_be_read_only=store._version != NEWEST,
        **{"mode": "auto", **options},
    )


def checked(
    *,
    read_only: bool | None,
    sub_path: str | None,
    handle: dict[str, Any] | None,
    must_be_read_only: bool,
    mode: object,
    **given: Any,
) -> Options:
    """
    The options of a call.

    Args:
        read_only, sub_path: None: what *handle* says.
        handle: the options of the handle, by `with_mount_options` or `read_only`.
        must_be_read_only: the handle reads an old version.
    """
    if mode not in MODES:
        raise errors.InvalidError(f"mode {mode!r} is none of {', '.join(map(repr, MODES))}")
    by_handle = handle or {}
    if read_only is None:
        read_only = bool(by_handle.get("read_only", False)) or must_be_read_only
    check_bool(read_only, "read_only", also="None")
    if not read_only and (must_be_read_only or by_handle.get("read_only")):
        raise errors.InvalidError("the handle is read-only, so it cannot be mounted with read_only=False")
    path = by_handle.get("sub_path") if sub_path is None else sub_path
    if given.get("locks", "local") not in LOCKS:
        raise errors.InvalidError(f"locks {given['locks']!r} is none of {', '.join(map(repr, LOCKS))}")
    if given.get("background_commits") is not None:
        check_seconds(given["background_commits"], "background_commits", above=0, also="None")
    check_seconds(given["timeout"], "timeout", above=0)
    check_int(given["cache_size"], "cache_size", CACHE_BYTES_MIN)
    check_int(given["size_max"], "size_max", 0)
    return Options(mode=mode, read_only=read_only, sub_path=tuple(split(path or "/")), **given)
