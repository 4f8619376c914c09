r"""Extended attributes: names and values are bytes, and in the database text of a JSON object.

A value is in base64. A name is the text that it is in UTF-8; one that is not UTF-8, or begins with `\x`, is `\x` and its bytes in
hex.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

NAME_BYTES_MAX: Final = 255
BYTES_MAX: Final = (
    64 * 1024
)  # of the values of one inode, and of their names: what Linux allows for one value, and for a list
_HEX: Final = "\\x"


def stored_name(name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return _HEX + name.hex()
    return _HEX + name.hex() if text.startswith(_HEX) else text


def name_of(stored: str) -> bytes:
    return bytes.fromhex(stored[len(_HEX) :]) if stored.startswith(_HEX) else stored.encode()


def stored_value(value: bytes) -> str:
    return base64.b64encode(value).decode()


def value_of(stored: str) -> bytes:
    return base64.b64decode(stored)


def shown_name(stored: str) -> str:
    """The name as a text, in which bytes that are not UTF-8 are surrogates."""
    return name_of(stored).decode(errors="surrogateescape")


def asked_name(shown: str) -> str | None:
    """How the name is stored that is shown so; None: no name is."""
    try:
        return stored_name(shown.encode(errors="surrogateescape"))
    except (UnicodeEncodeError, AttributeError):
        return None


def bytes_of(stored: Mapping[str, str]) -> tuple[int, int]:
    """How many bytes the names have, each with a NUL as listxattr(2) returns them, and how many the values."""
    return sum(len(name_of(name)) + 1 for name in stored), sum(len(value_of(value)) for value in stored.values())
