"""`open_bucket`: the bucket of a location, with the credentials that a secret has."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from pgstore import errors
from pgstore.buckets import credentials as of_secrets
from pgstore.buckets.base import Bucket
from pgstore.buckets.credentials import Credentials
from pgstore.buckets.location import Location
from pgstore.buckets.retries import DEFAULT_POLICY, RetryPolicy

KEPT_MAX: Final = 16
"""A client of an SDK takes a tenth of a second to make, and some megabytes."""
ENVIRONMENT: Final = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "GCE_METADATA_")
"""What the variables that the SDKs look at begin with."""
FILES: Final = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("GOOGLE_APPLICATION_CREDENTIALS", "~/.config/gcloud/application_default_credentials.json"),
)
"""The files that they read, with the variables that name others. Who renews what is in them opens buckets anew."""

_Key: TypeAlias = tuple[Location, RetryPolicy, bytes]


def open_bucket(location: Location, values: Mapping[str, str], *, policy: RetryPolicy = DEFAULT_POLICY) -> Bucket:
    """
    Return the bucket. Nothing is asked of the provider yet.

    Whoever opens it again gets the same one, so nobody closes it: `forget_buckets` does. Another is opened after the credentials
    were refused, as the SDKs look for them once.

    Args:
        values: the variables of a secret; what is not understood (`credentials`) is passed over. None that are: the SDK looks for
            its own.

    Raises:
        AccessDenied: what is understood of *values* is not whole.
        ConfigurationError: the SDK is not installed; the message names what installs it.
    """
    values = Credentials(values)  # whose `repr` has no values, wherever the variables of this frame are printed
    _check(location)
    credentials = of_secrets.of(location, values)
    key = (location, policy, _fingerprint(credentials))
    with _lock:
        found = _kept.get(key)
        if found is None or found.was_denied:
            found = _kept[key] = _make(location, credentials, policy)
            while len(_kept) > KEPT_MAX:
                _kept.popitem(last=False)  # not closed: others may be using it
        _kept.move_to_end(key)
        return found


def forget_buckets() -> None:
    """Close all buckets that were opened. Those who still have one cannot use it any more."""
    with _lock:
        buckets = list(_kept.values())
        _kept.clear()
    for bucket in buckets:
        bucket.close()


def _make(location: Location, credentials: Credentials, policy: RetryPolicy) -> Bucket:
    if of_secrets.speaks_s3(location, credentials):
        from pgstore.buckets.s3 import S3Bucket

        if location.provider == "gcs":
            location = location._replace(endpoint_url=f"https://{of_secrets.GOOGLE_HOST}")
        return S3Bucket(location, credentials, policy)
    try:
        if location.provider == "gcs":
            from pgstore.buckets.gcs import GcsBucket

            return GcsBucket(location, credentials, policy)
        from pgstore.buckets.azure import AzureBucket

        return AzureBucket(location, credentials, policy)
    except ImportError as exc:
        package = {"gcs": "google-cloud-storage", "azure": "azure-storage-blob"}[location.provider]
        raise errors.ConfigurationError(
            f"bucket {location.shown} takes {package}, which is not installed: pip install 'pgstore[{location.provider}]'"
        ) from exc


def _check(location: Location) -> None:
    if location.provider not in ("s3", "gcs", "azure"):
        raise errors.InvalidError(f"provider of a bucket is {location.provider!r}, expected 's3', 'gcs' or 'azure'")
    if not location.name.isprintable() or not location.name or any(each in location.name for each in "/:?#@ "):
        raise errors.InvalidError(
            f"name of a bucket is {location.name!r}, expected one such as 'my-data', without a URL"
        )
    if location.endpoint_url is not None and not _is_url(location.endpoint_url):
        raise errors.InvalidError(
            f"endpoint of bucket {location.shown} is {location.endpoint_url!r}, expected a URL such as 'https://host:9000'"
        )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not re.search(r"\s", text)
        )
    except ValueError:
        return False


def _fingerprint(credentials: Credentials) -> bytes:
    """Tells credentials apart, those that the SDKs find by themselves too, without having them."""
    environment = {f"${name}": value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}
    files = {f"file {path}": _state(path) for path in map(_path, FILES)}
    whole = hashlib.sha256()
    for name, value in sorted({**credentials, **environment, **files}.items()):
        whole.update(f"{len(name)}:{name}={len(value)}:{value}".encode(errors="backslashreplace"))
    return whole.digest()


def _path(given: tuple[str, str]) -> str:
    variable, default = given
    return os.path.expanduser(os.environ.get(variable) or default)


def _state(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"


_kept: OrderedDict[_Key, Bucket] = OrderedDict()
_lock = threading.Lock()


def _after_fork_in_child() -> None:
    # A child shares no connection with its parent, and a thread that holds the lock is not there any more.
    global _lock
    _lock = threading.Lock()
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
