"""Checksums of whole objects, computed while they are read."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Final, Protocol

from pgstore.buckets.base import Bytes, Check


class Checksum(Protocol):
    """As those of hashlib."""

    def update(self, data: Bytes, /) -> object: ...

    def digest(self) -> bytes: ...


class Crc32:
    """CRC-32, as of zlib."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


ALGORITHMS: Final[Mapping[str, Callable[[], Checksum]]] = {
    "CRC32": Crc32,
    "SHA256": lambda: hashlib.sha256(usedforsecurity=False),
    "SHA1": lambda: hashlib.sha1(usedforsecurity=False),
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
}
"""What can be computed here at a reasonable speed, the fastest first."""


class Verifier:
    """Compares what it is shown with the checksum that the provider has of it."""

    def __init__(self, algorithm: str, expected: str) -> None:
        """
        Args:
            algorithm: a key of `ALGORITHMS`.
            expected: in base64, as all providers have it.
        """
        self._algorithm = algorithm
        self._expected = expected
        self._checksum = ALGORITHMS[algorithm]()

    def update(self, data: Bytes) -> None:
        self._checksum.update(data)

    def fault(self) -> str | None:
        """What is wrong, after the last byte; None: nothing."""
        found = base64.b64encode(self._checksum.digest()).decode()
        if found == self._expected:
            return None
        return f"its {self._algorithm} is {found}, the provider has {self._expected}"


def checked(
    pieces: Generator[Bytes], checks: Sequence[Check], corrupt: Callable[[str], BaseException]
) -> Generator[Bytes]:
    """*pieces*, shown to *checks*, which may come with the first; after the last what *corrupt* makes of a fault is raised."""
    with closing(pieces):
        for piece in pieces:
            for check in checks:
                check.update(piece)
            yield piece
    for check in checks:
        if (fault := check.fault()) is not None:
            raise corrupt(fault)
