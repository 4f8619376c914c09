"""What answers of Google Cloud Storage mean, whichever way they come: through the SDK or over its session."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import google.auth.exceptions
import google_crc32c
import requests
import urllib3.exceptions

from pgstore.buckets.base import Bytes, ObjectInfo

CONTENT_TYPE: Final = "application/octet-stream"
WRITE_ID: Final = "pgstore-write-id"  # in the metadata of an object that was created, which one upload

PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that pass by themselves (Cloud Storage, "Retry strategy")."""

UNREACHABLE: Final = (
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
    google.auth.exceptions.TransportError,
    urllib3.exceptions.HTTPError,
)


class Crc32c:
    """The checksum that every object has there."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Bytes) -> None:
        self._value = google_crc32c.extend(self._value, bytes(data))  # bytes(bytes) copies nothing

    def in_base64(self) -> str:
        return base64.b64encode(self._value.to_bytes(4, "big")).decode()


class WholeObject:
    """Compares all bytes of an object with its checksum, as it is in answers: in base64."""

    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._checksum = Crc32c()

    def update(self, data: Bytes, /) -> None:
        self._checksum.update(data)

    def fault(self) -> str | None:
        found = self._checksum.in_base64()
        return None if found == self._expected else f"its CRC-32C is {found}, the provider has {self._expected}"


def info_of_blob(blob: Any) -> ObjectInfo:
    """Of the SDK's `Blob`."""
    return ObjectInfo(blob.name, int(blob.size), str(blob.generation), _nanoseconds(blob.updated))


def info_of_resource(resource: Mapping[str, Any]) -> ObjectInfo:
    """Of an object in JSON (Cloud Storage, "Objects", resource representations)."""
    updated = datetime.fromisoformat(resource["updated"])
    return ObjectInfo(resource["name"], int(resource["size"]), str(resource["generation"]), _nanoseconds(updated))


def reason(answer: requests.Response) -> str:
    """What an error's answer says in words."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _nanoseconds(moment: datetime) -> int:
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1000
