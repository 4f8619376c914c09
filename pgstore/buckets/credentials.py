"""Credentials: which of the variables that people's secrets have are understood, for each provider.

What is not given is left to the provider's SDK, which looks where it always does: environment, profiles, the machine's role. What
is given counts alone: no half of it is taken from elsewhere. Nothing is checked here but that it is whole; whether it is right, the
provider says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from pgstore import errors
from pgstore.buckets.location import Location

AWS_KEY: Final = "AWS_ACCESS_KEY_ID"
AWS_SECRET: Final = "AWS_SECRET_ACCESS_KEY"
AWS_TOKEN: Final = "AWS_SESSION_TOKEN"
GOOGLE_KEY: Final = "GOOGLE_ACCESS_KEY_ID"
GOOGLE_SECRET: Final = "GOOGLE_ACCESS_KEY_SECRET"
SERVICE_ACCOUNT: Final = "SERVICE_ACCOUNT_JSON"
AZURE_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"
AZURE_KEY: Final = "AZURE_STORAGE_KEY"
AZURE_SAS: Final = "AZURE_STORAGE_SAS_TOKEN"

GOOGLE_HOST: Final = "storage.googleapis.com"

_ALIASES: Final = {
    AWS_TOKEN: ("AWS_SECURITY_TOKEN",),
    GOOGLE_SECRET: ("GOOGLE_SECRET_ACCESS_KEY",),
    SERVICE_ACCOUNT: ("GOOGLE_APPLICATION_CREDENTIALS_JSON",),
    AZURE_KEY: ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"),
}
"""Other names that the same value is found under."""
_SETTINGS: Final = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")
_SETTINGS_OF_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS")


class Credentials(dict[str, str]):
    """
    Of one bucket, by the names above. `repr` shows names alone.

    Empty: there are none, and the SDK is to look for its own.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<credentials {', '.join(self) or 'of the SDK'}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise errors.SerializationError("credentials are not pickled")

    def hidden(self) -> Iterator[str]:
        """The values that nobody should see."""
        for name, value in self.items():
            if name in _SETTINGS or name in _SETTINGS_OF_ENDPOINTS:
                continue
            yield value
            if name == SERVICE_ACCOUNT:
                info = json.loads(value)
                yield from (str(info[each]) for each in ("private_key", "private_key_id") if each in info)
            elif name == AZURE_STRING:
                parts = dict(part.partition("=")[::2] for part in value.split(";"))
                yield from (parts[each] for each in ("AccountKey", "SharedAccessSignature") if each in parts)
            elif name == AZURE_SAS:
                yield from (part.partition("=")[2] for part in value.split("&") if part.startswith("sig="))


def of(location: Location, values: Mapping[str, str]) -> Credentials:
    """
    Return what of *values* is about *location*.

    Raises:
        AccessDenied: half of a pair is missing, or a value has not the form that it should have.
    """
    find = {"s3": _of_s3, "gcs": _of_gcs, "azure": _of_azure}[location.provider]
    found = find(location, values)
    # Else the SDK says so, with the value, when it makes a header of it.
    if odd := [name for name in found if name != SERVICE_ACCOUNT and not _is_plain(found[name])]:
        raise _malformed(location, f"{odd[0]} has characters that it cannot have, such as a line break")
    return found


def speaks_s3(location: Location, credentials: Credentials) -> bool:
    """Whether the bucket is reached through the interface of S3, as one of GCS is with HMAC keys."""
    return location.provider == "s3" or AWS_KEY in credentials


def is_google(endpoint_url: str | None) -> bool:
    """Whether this is the interface of S3 that GCS has."""
    host = urlsplit(endpoint_url or "").hostname or ""
    return host == GOOGLE_HOST or host.endswith(f".{GOOGLE_HOST}")


def _of_s3(location: Location, values: Mapping[str, str]) -> Credentials:
    found = Credentials()
    if is_google(location.endpoint_url) and GOOGLE_KEY in values:
        _take_pair(found, location, values, (GOOGLE_KEY, GOOGLE_SECRET))
    else:
        _take_pair(found, location, values, (AWS_KEY, AWS_SECRET))
        if AWS_KEY in found:
            _take(found, values, AWS_TOKEN)
    for name in (*_SETTINGS, *_SETTINGS_OF_ENDPOINTS):
        _take(found, values, name)
    return found


def _of_gcs(location: Location, values: Mapping[str, str]) -> Credentials:
    found = Credentials()
    _take(found, values, SERVICE_ACCOUNT)
    if SERVICE_ACCOUNT in found:
        _check_service_account(location, found)
    else:
        _take_pair(found, location, values, (GOOGLE_KEY, GOOGLE_SECRET))
    return found


def _of_azure(location: Location, values: Mapping[str, str]) -> Credentials:
    found = Credentials()
    for name in (AZURE_STRING, AZURE_KEY, AZURE_SAS):
        _take(found, values, name)
        if found:
            break
    if AZURE_STRING in found and not {"AccountName", "BlobEndpoint"} & {
        part.partition("=")[0] for part in found[AZURE_STRING].split(";")
    }:
        raise _malformed(location, f"{AZURE_STRING} is no connection string: it has no AccountName=…")
    if AZURE_SAS in found:
        found[AZURE_SAS] = found[AZURE_SAS].removeprefix("?")
    return found


def _take(found: Credentials, values: Mapping[str, str], name: str) -> None:
    for each in (name, *_ALIASES.get(name, ())):
        if values.get(each):
            found[name] = values[each].strip()
            return


def _take_pair(found: Credentials, location: Location, values: Mapping[str, str], pair: tuple[str, str]) -> None:
    """Both, as the keys of S3; or neither."""
    taken = Credentials()
    for name in pair:
        _take(taken, values, name)
    if len(taken) == 1:
        (given,) = taken
        (absent,) = set(pair) - {given}
        raise _malformed(location, f"there is {given}, and no {absent}")
    for name, taken_as in zip(pair, (AWS_KEY, AWS_SECRET), strict=True):
        if name in taken:
            found[taken_as] = taken[name]


def _check_service_account(location: Location, found: Credentials) -> None:
    if not _is_key_file(found):
        raise _malformed(
            location, f"{SERVICE_ACCOUNT} is not the JSON of a key: it has to be an object with type, client_email …"
        )


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _is_key_file(found: Credentials) -> bool:
    # By itself, so that what was parsed is not among the variables of the error.
    try:
        info = json.loads(found[SERVICE_ACCOUNT])
    except ValueError:
        return False
    return isinstance(info, dict) and "type" in info


def _malformed(location: Location, fault: str) -> errors.AccessDenied:
    source = location.secret or "the variables given"
    return errors.AccessDenied(f"bucket {location.shown}: in {source}, {fault}")
