"""The options of functions and classes, checked where they are written: without a database, before anything runs.

Modal's options fall into four: honoured (the fields of `Options`), without a meaning on one machine and silent (`_SILENT`), such
as a program may notice (`gpu`: one warning), and promises that cannot be kept (`_REFUSED`).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Final, TypeAlias, TypedDict

from pgstore.app.image import Image
from pgstore.app.retries import Retries
from pgstore.app.schedules import Cron, Period
from pgstore.app.warn import warn_once
from pgstore.core.checks import check_bool, check_int, check_seconds
from pgstore.core.numbers import as_seconds
from pgstore.errors import InvalidError
from pgstore.exception import DeprecationError
from pgstore.file_store import FileStore
from pgstore.network_file_system import NetworkFileSystem
from pgstore.secret import Secret
from pgstore.volume import Volume

Mounts: TypeAlias = tuple[tuple[str, FileStore], ...]
Path: TypeAlias = str | PurePath

SCALEDOWN_SECONDS: Final = 60.0

# Where nothing can be mounted: a worker needs what is there. Below them is allowed.
_TAKEN: Final = (
    *("/", "/root", "/tmp", "/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/lib", "/lib64", "/home"),
)


class FunctionOptions(TypedDict, total=False):
    """What `app.function`, `app.cls` and `with_options` take; see `App.function`."""

    image: Image | None
    secrets: Collection[Secret] | None
    env: dict[str, str | None] | None
    volumes: Mapping[Any, Any]
    network_file_systems: Mapping[Any, NetworkFileSystem]
    cloud_bucket_mounts: Mapping[Any, Any]
    timeout: float | None
    startup_timeout: float | None
    retries: int | Retries | None
    schedule: Period | Cron | None
    max_containers: int | None
    scaledown_window: float | None
    single_use_containers: bool
    transactional: bool
    # Without a meaning here.
    gpu: Any
    cpu: float | tuple[float, float] | None
    memory: int | tuple[int, int] | None
    ephemeral_disk: int | None
    min_containers: int | None
    buffer_containers: int | None
    scaleup_window: float | None
    cloud: str | None
    region: str | Sequence[str] | None
    routing_region: str | None
    nonpreemptible: bool
    enable_memory_snapshot: bool
    include_source: bool | None
    experimental_options: dict[str, Any] | None
    # Refused.
    block_network: bool
    restrict_modal_access: bool
    proxy: Any
    i6pn: bool | None
    cluster_size: int | None
    oidc_auth_role_arn: str | None
    # Old spellings.
    secret: Secret | None
    shared_volumes: Mapping[Any, NetworkFileSystem]
    concurrency_limit: int | None
    keep_warm: int | None
    container_idle_timeout: float | None
    allow_concurrent_inputs: int | None
    max_inputs: int | None
    mounts: Any
    mount: Any
    interactive: bool
    allow_cross_region_volumes: bool


@dataclass(frozen=True)
class Options:
    """What is honoured."""

    image: Image | None = None
    secrets: tuple[Secret, ...] = ()
    volumes: Mounts = ()
    network_file_systems: Mounts = ()
    timeout: float | None = None
    startup_timeout: float | None = None
    retries: Retries | None = None
    schedule: Period | Cron | None = None
    max_containers: int | None = None
    scaledown_window: float = SCALEDOWN_SECONDS
    single_use_containers: bool = False
    transactional: bool = False
    inputs_at_once: int = 1

    @property
    def mounts(self) -> Mounts:
        """All of them, outer ones before those within them."""
        return tuple(sorted((*self.volumes, *self.network_file_systems), key=lambda mount: mount[0]))

    def with_defaults(self, defaults: AppDefaults) -> Options:
        """These, and what an App says of all its functions: own secrets come after, own Volumes win."""
        own = {path for path, _ in self.mounts}
        return replace(
            self,
            image=self.image or defaults.image,
            secrets=(*defaults.secrets, *self.secrets),
            volumes=(*(mount for mount in defaults.volumes if mount[0] not in own), *self.volumes),
        )


@dataclass
class AppDefaults:
    """What an App says of all its functions."""

    name: str | None
    image: Image | None = None
    secrets: tuple[Secret, ...] = ()
    volumes: Mounts = ()


def checked(given: Mapping[str, Any], name: str, defaults: AppDefaults, base: Options | None = None) -> Options:
    """
    The options of the function or class *name* of the App with *defaults*, as they are *given*; the others as in *base*.

    Raises:
        InvalidError: one that cannot be, or cannot be kept on one machine; the message says what was given.
        TypeError: there is no such option.
    """
    current = _in_new_words(dict(given))
    fields: dict[str, Any] = {}
    for option, value in current.items():
        if option in _HONOURED:
            fields.update(_HONOURED[option](value))
        elif option in _REFUSED:
            if value:
                raise InvalidError(f"{option}={value!r} of {name}: {_REFUSED[option]}")
        elif option in _SILENT:
            is_right, expected = _SILENT[option]
            if value is not None and not is_right(value):
                raise InvalidError(f"{option} of {name} is {value!r}, expected {expected}, or None")
        elif option == "gpu":
            if value is not None:
                warn_once("gpu", f"{name} asks for gpu={value!r}; it runs on this machine as it is")
        elif not option.startswith("_"):
            known = ", ".join(sorted({*_HONOURED, *_SILENT, *_REFUSED, "gpu"}))
            raise TypeError(f"{name}: there is no option {option!r}; there are {known}")
    if "env" in fields:
        secrets = fields.get("secrets", () if base is None else base.secrets)
        fields["secrets"] = (*secrets, *fields.pop("env"))
    options = replace(base or Options(), **fields)
    check_mounts(options.with_defaults(defaults).mounts)
    if options.transactional and options.inputs_at_once > 1:
        raise InvalidError(f"{name} is transactional, so a worker of it runs one call at a time; leave @concurrent out")
    return options


# ----------------------------------------------------------------------------------------------------------- old words


def _renamed(new: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {new: value}


# Old spellings, and what they mean now.
_OLD: Final[dict[str, tuple[str, Callable[[Any], dict[str, Any]]]]] = {
    "secret": ("secrets=[…]", lambda value: {} if value is None else {"secrets": [value]}),
    "shared_volumes": ("network_file_systems", _renamed("network_file_systems")),
    "concurrency_limit": ("max_containers", _renamed("max_containers")),
    "keep_warm": ("min_containers", _renamed("min_containers")),
    "container_idle_timeout": ("scaledown_window", _renamed("scaledown_window")),
    "allow_concurrent_inputs": ("@pgstore.concurrent(max_inputs=…)", _renamed("inputs_at_once")),
    "max_inputs": ("single_use_containers", lambda value: {"single_use_containers": _one_input(value)}),
    "mounts": ("nothing: what is on this machine is there", lambda value: {}),
    "mount": ("nothing: what is on this machine is there", lambda value: {}),
    "interactive": ("nothing", lambda value: {}),
    "allow_cross_region_volumes": ("nothing: all is on this machine", lambda value: {}),
}


def _in_new_words(given: dict[str, Any]) -> dict[str, Any]:
    for old in [option for option in given if option in _OLD]:
        new, meaning = _OLD[old]
        warn_once(f"option {old}", f"{old}= is an old option; today it is {new}", DeprecationError)
        for option, value in meaning(given.pop(old)).items():
            if given.get(option):
                raise InvalidError(f"both {old} and {option} are given; leave {old} out, which is its old name")
            given[option] = value
    return given


def _one_input(value: object) -> bool:
    if value not in (None, 1):
        raise InvalidError(f"max_inputs is {value!r}, only 1 can be, which is single_use_containers=True")
    return value == 1


# -------------------------------------------------------------------------------------------------------- each option


def _image(value: object) -> dict[str, Any]:
    return {"image": check_image(value)}


def check_image(value: object) -> Image | None:
    """Raise `InvalidError` unless *value* is an image or None."""
    if value is not None and not isinstance(value, Image):
        raise InvalidError(f"image is {value!r}, expected an Image, such as pgstore.Image.debian_slim()")
    return value


def check_secrets(value: object) -> tuple[Secret, ...]:
    """Raise `InvalidError` unless *value* holds secrets. The message shows none of it: it may be a value that is secret."""
    if value is None:
        return ()
    if isinstance(value, (str, Mapping)) or not isinstance(value, Collection):
        raise InvalidError(f"secrets is a {type(value).__name__}, expected a list of pgstore.Secret")
    for each in value:
        if not isinstance(each, Secret):
            raise InvalidError(
                f"secrets holds a {type(each).__name__}, expected pgstore.Secret, such as Secret.from_name(…)"
            )
    return tuple(value)


def check_volumes(value: object) -> Mounts:
    """What `volumes=` says: a path and the Volume there."""
    return _stores(value, "Volume", Volume)


def _stores(value: object, display_name: str, kind: type[FileStore]) -> Mounts:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise InvalidError(f"a dict of paths and {display_name}s is expected, not a {type(value).__name__}: {value!r}")
    mounts = tuple((_path(path, display_name), store) for path, store in value.items())
    for path, store in mounts:
        if not isinstance(store, kind):
            given = f"Object of type {type(store).__name__} mounted at {path!r}"
            raise InvalidError(f"{given} is not usable as a {display_name}{_right_option(store)}")
    return mounts


def _right_option(store: object) -> str:
    if isinstance(store, NetworkFileSystem):
        return "; pass it as network_file_systems="
    return "; pass it as volumes=" if isinstance(store, Volume) else ""


def _path(path: object, display_name: str) -> str:
    if not isinstance(path, (str, PurePath)):
        raise InvalidError(f"{display_name} {path!r} must be mounted at a path, a str")
    text = os.fspath(path)
    text = text.rstrip("/") or text[:1]
    if not text.startswith("/") or posixpath.normpath(text) != text or text.startswith("//") or "\0" in text:
        raise InvalidError(f"{display_name} {path} must be a canonical, absolute path, such as '/data'")
    if text in _TAKEN:
        raise InvalidError(
            f"{display_name} {path} cannot be mounted at {text!r}, which a worker needs itself; use '/data'"
        )
    return text


def check_mounts(mounts: Mounts) -> None:
    """Raise `InvalidError` if two stores have one path, or a Volume has two; different directories of one may."""
    volumes: dict[object, str] = {}
    taken: set[str] = set()
    for path, store in mounts:
        if path in taken:
            raise InvalidError(f"two stores are mounted at {path!r}")
        taken.add(path)
        # What is written at one would be seen at the other after the next commit alone. A NetworkFileSystem has one state.
        if isinstance(store, Volume) and (other := volumes.setdefault(mount_key(store), path)) != path:
            raise InvalidError(
                f"The same Volume cannot be mounted in multiple locations for the same function: {other}, {path}"
            )


def mount_key(store: FileStore) -> tuple[object, ...]:
    """What is the same of two handles if they are mounted alike. The last is the environment; None: that of the client."""
    first = store._first
    variant = (getattr(store, "_mount_options", None) or {}).get("sub_path"), store._version
    unnamed = id(first) if first._name is None and first._wanted_id is None else None
    return first._display_name, first._name, first._wanted_id, unnamed, variant, first._environment_name


def is_mounted(store: FileStore, path: str, mounted: Mapping[str, Any]) -> bool:
    """Whether *mounted*, which has the `mount_key` of each path, says that *store* is mounted at *path*."""
    if path not in mounted or store._is_ephemeral:  # of which each process that imports the program makes one
        return path in mounted
    *own, environment = mount_key(store)
    *other, others_environment = mounted[path]
    return own == other and environment in (None, others_environment)


def _buckets(value: object) -> dict[str, Any]:
    if value:
        raise InvalidError("cloud_bucket_mounts: pgstore has no CloudBucketMount")
    return {}


def _schedule(value: object) -> dict[str, Any]:
    if value is not None and not isinstance(value, (Period, Cron)):
        raise InvalidError(f"schedule is {value!r}, expected pgstore.Period(…) or pgstore.Cron(…)")
    return {"schedule": value}


def _seconds(option: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        return {option: None if value is None else check_seconds(value, option, above=0, also="None")}

    return check


def _count(option: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {option: None if value is None else check_int(value, option, 1, also="None")}


def _flag(option: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {option: check_bool(False if value is None else value, option)}


_HONOURED: Final[dict[str, Callable[[Any], dict[str, Any]]]] = {
    "image": _image,
    "secrets": lambda value: {"secrets": check_secrets(value)},
    "env": lambda value: {"env": () if value is None else (Secret.from_dict(value),)},
    "volumes": lambda value: {"volumes": check_volumes(value)},
    "network_file_systems": lambda value: {
        "network_file_systems": _stores(value, "NetworkFileSystem", NetworkFileSystem)
    },
    "cloud_bucket_mounts": _buckets,
    "timeout": _seconds("timeout"),
    "startup_timeout": _seconds("startup_timeout"),
    "retries": lambda value: {"retries": Retries.of(value)},
    "schedule": _schedule,
    "max_containers": _count("max_containers"),
    "scaledown_window": lambda value: {"scaledown_window": SCALEDOWN_SECONDS} if value is None else _window(value),
    "single_use_containers": _flag("single_use_containers"),
    "transactional": _flag("transactional"),
    "inputs_at_once": lambda value: {"inputs_at_once": 1 if value is None else check_int(value, "max_inputs", 1)},
}


def _window(value: object) -> dict[str, Any]:
    return {"scaledown_window": check_seconds(value, "scaledown_window")}


# ------------------------------------------------------------------------------------------ without a meaning, or refused


def _is_number(value: object) -> bool:
    return as_seconds(value) is not None


def _is_number_or_pair(value: object) -> bool:
    return _is_number(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)))


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Sequence) and all(map(_is_text, value)))


_SILENT: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(("cpu", "memory"), (_is_number_or_pair, "a number or a pair of numbers")),
    **dict.fromkeys(
        ("ephemeral_disk", "min_containers", "buffer_containers", "scaleup_window"), (_is_number, "a number")
    ),
    **dict.fromkeys(("cloud", "routing_region"), (_is_text, "a str")),
    "region": (_is_text_or_texts, "a str or a list of str"),
    **dict.fromkeys(("nonpreemptible", "enable_memory_snapshot", "include_source"), (_is_bool, "True or False")),
    "experimental_options": (lambda value: isinstance(value, Mapping), "a dict"),
}

_REFUSED: Final = {
    "block_network": "pgstore cannot isolate a function from the network; leave it out if the function may use it",
    "restrict_modal_access": "pgstore cannot isolate a function from the database; leave it out if the function may use it",
    "proxy": "pgstore has no proxy to put before a function; leave it out",
    "i6pn": "functions of pgstore run on one machine, and have no network of their own",
    "cluster_size": "functions of pgstore run on one machine, not on several",
    "oidc_auth_role_arn": "pgstore gives no identity to a cloud; the machine's own role, or a Secret, does",
}
