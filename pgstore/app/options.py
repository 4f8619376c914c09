"""The options of functions and classes, checked where they are written: without a database, before anything runs.

Modal's options fall into four: honoured (the fields of `Options`), without a meaning on one machine and silent (`_SILENT`), such
as a program may notice (`gpu`: one warning), and promises that cannot be kept (`_REFUSED`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict

from pgstore.app.image import Image
from pgstore.app.mount_rules import (
    Mounts,
    check_cloud_bucket_mounts,
    check_mounts,
    check_network_file_systems,
    check_volumes,
)
from pgstore.app.retries import Retries
from pgstore.app.schedules import Cron, Period
from pgstore.app.warn import warn_once
from pgstore.cloud_bucket_mount import CloudBucketMount
from pgstore.core.checks import check_bool, check_int, check_seconds
from pgstore.errors import InvalidError
from pgstore.exception import DeprecationError
from pgstore.network_file_system import NetworkFileSystem
from pgstore.secret import Secret

SCALEDOWN_SECONDS: Final = 60.0


class FunctionOptions(TypedDict, total=False):
    """What `app.function` and `app.cls` take; see `App.function`. Old spellings and what is refused are not among them."""

    image: Image | None
    secrets: Collection[Secret] | None
    env: dict[str, str | None] | None
    volumes: Mapping[Any, Any]
    network_file_systems: Mapping[Any, NetworkFileSystem]
    cloud_bucket_mounts: Mapping[Any, CloudBucketMount]
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


@dataclass(frozen=True)
class Options:
    """What is honoured."""

    image: Image | None = None
    secrets: tuple[Secret, ...] = ()
    volumes: Mounts = ()
    network_file_systems: Mounts = ()
    cloud_bucket_mounts: Mounts = ()
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
        mounts = (*self.volumes, *self.network_file_systems, *self.cloud_bucket_mounts)
        return tuple(sorted(mounts, key=lambda mount: mount[0]))

    def with_defaults(self, defaults: AppDefaults) -> Options:
        """These, and what an App says of all its functions: own secrets come after, own Volumes win."""
        own = {path for path, _ in self.mounts}
        return replace(
            self,
            image=self.image or defaults.image,
            secrets=(*defaults.secrets, *self.secrets),
            volumes=(*(mount for mount in defaults.volumes if mount[0] not in own), *self.volumes),
        )


@dataclass(eq=False)
class AppDefaults:
    """What an App says of all its functions."""

    name: str | None
    image: Image | None = None
    secrets: tuple[Secret, ...] = ()
    volumes: Mounts = ()


def checked(given: Mapping[str, Any], name: str, defaults: AppDefaults) -> Options:
    """
    The options of the function or class *name* of the App with *defaults*, as they are *given*.

    Raises:
        InvalidError: one that cannot be, or cannot be kept on one machine; the message says what was given.
        TypeError: there is no such option.
    """
    fields: dict[str, Any] = {}
    for option, value in _in_new_words(dict(given)).items():
        if option in _HONOURED:
            if value is not None:
                fields[option] = _HONOURED[option](value)
        elif option in _REFUSED:
            if value:
                raise InvalidError(f"{option}={value!r} of {name}: {_REFUSED[option]}")
        elif option in _SILENT:
            kinds, expected = _SILENT[option]
            if value is not None and not _is_of(value, kinds):
                raise InvalidError(f"{option} of {name} is {value!r}, expected {expected}, or None")
        elif option == "gpu":
            if value is not None:
                warn_once("gpu", f"{name} asks for gpu={value!r}; it runs on this machine as it is")
        elif not option.startswith("_"):
            near = difflib.get_close_matches(option, [*_HONOURED, *_SILENT, "gpu"], 1)
            instead = f"did you mean {near[0]}=?" if near else f"there are {', '.join(sorted(_HONOURED))}"
            raise TypeError(f"{name}: there is no option {option!r}; {instead}")
    if "env" in fields:
        fields["secrets"] = (*fields.get("secrets", ()), *fields.pop("env"))
    options = Options(**fields)
    check_mounts(options.with_defaults(defaults).mounts)
    if options.transactional and options.inputs_at_once > 1:
        raise InvalidError(f"{name} is transactional, so a worker of it runs one call at a time; leave @concurrent out")
    return options


# ----------------------------------------------------------------------------------------------------------- old words


def _one_input(value: object) -> bool:
    if value != 1:
        raise InvalidError(f"max_inputs is {value!r}, only 1 can be, which is single_use_containers=True")
    return True


# Old spellings, and what they are now; None: nothing.
_OLD: Final[dict[str, str | None]] = {
    "secret": "secrets",
    "shared_volumes": "network_file_systems",
    "concurrency_limit": "max_containers",
    "keep_warm": "min_containers",
    "container_idle_timeout": "scaledown_window",
    "max_inputs": "single_use_containers",
    "allow_concurrent_inputs": "inputs_at_once",
    **dict.fromkeys(("mounts", "mount", "interactive", "allow_cross_region_volumes")),
}
_SHOWN: Final = {"inputs_at_once": "@pgstore.concurrent(max_inputs=…)", None: "nothing: all is on this machine"}
_OLD_VALUES: Final[dict[str, Callable[[Any], Any]]] = {"secret": lambda value: [value], "max_inputs": _one_input}


def _in_new_words(given: dict[str, Any]) -> dict[str, Any]:
    for old in [option for option in given if option in _OLD]:
        new, value = _OLD[old], given.pop(old)
        warn_once(f"option {old}", f"{old}= is an old option; today it is {_SHOWN.get(new, new)}", DeprecationError)
        if given.get(str(new)):
            raise InvalidError(f"both {old} and {new} are given; leave {old} out, which is its old name")
        if new is not None and value is not None:
            given[new] = _OLD_VALUES.get(old, lambda same: same)(value)
    return given


# -------------------------------------------------------------------------------------------------------- each option


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


def _schedule(value: object) -> Period | Cron:
    if isinstance(value, (Period, Cron)):
        return value
    raise InvalidError(f"schedule is {value!r}, expected pgstore.Period(…) or pgstore.Cron(…)")


# What an option is in `Options`; None stands for one that is not given, so it is not asked for here.
_HONOURED: Final[dict[str, Callable[[Any], Any]]] = {
    "image": check_image,
    "secrets": check_secrets,
    "env": lambda value: (Secret.from_dict(value),),
    "volumes": check_volumes,
    "network_file_systems": check_network_file_systems,
    "cloud_bucket_mounts": check_cloud_bucket_mounts,
    "timeout": lambda value: check_seconds(value, "timeout", above=0, also="None"),
    "startup_timeout": lambda value: check_seconds(value, "startup_timeout", above=0, also="None"),
    "retries": Retries.of,
    "schedule": _schedule,
    "max_containers": lambda value: check_int(value, "max_containers", 1, also="None"),
    "scaledown_window": lambda value: check_seconds(value, "scaledown_window"),
    "single_use_containers": lambda value: check_bool(value, "single_use_containers"),
    "transactional": lambda value: check_bool(value, "transactional"),
    "inputs_at_once": lambda value: check_int(value, "max_inputs", 1),
}


# ------------------------------------------------------------------------------------------ without a meaning, or refused


def _is_of(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether it is one of *kinds*; of a tuple or list each has to be, and a bool is no number."""
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, (tuple, list)) and type(value) in kinds:
        return all(_is_of(each, kinds) for each in value)
    return isinstance(value, kinds)


_SILENT: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    **dict.fromkeys(("cpu", "memory"), ((int, float, tuple), "a number or a pair of numbers")),
    **dict.fromkeys(
        ("ephemeral_disk", "min_containers", "buffer_containers", "scaleup_window"), ((int, float), "a number")
    ),
    **dict.fromkeys(("cloud", "routing_region"), ((str,), "a str")),
    "region": ((str, list, tuple), "a str or a list of str"),
    **dict.fromkeys(("nonpreemptible", "enable_memory_snapshot", "include_source"), ((bool,), "True or False")),
    "experimental_options": ((dict,), "a dict"),
}

_REFUSED: Final = {
    "block_network": "pgstore cannot isolate a function from the network; leave it out if the function may use it",
    "restrict_modal_access": "pgstore cannot isolate a function from the database; leave it out if the function may use it",
    "proxy": "pgstore has no proxy to put before a function; leave it out",
    "i6pn": "functions of pgstore run on one machine, and have no network of their own",
    "cluster_size": "functions of pgstore run on one machine, not on several",
    "oidc_auth_role_arn": "pgstore gives no identity to a cloud; the machine's own role, or a Secret, does",
}
