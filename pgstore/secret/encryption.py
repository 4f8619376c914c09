"""What secrets are encrypted with: Fernet (AES-128-CBC with HMAC-SHA-256), by the keys of `PGSTORE_SECRET_KEY`.

The first key encrypts, any decrypts. So keys can be changed: put the new one in front, run `pgstore secret rotate`, take the old
one away. The variable is read by each call; the key is kept nowhere.

The name stands encrypted beside the values: who may write to the table and has no key cannot give one secret the values of
another.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Final

from pgstore import errors
from pgstore.config import variable_of
from pgstore.secret.values import Values

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

VARIABLE: Final = "PGSTORE_SECRET_KEY"


def encrypt(values: Values, environment: str, name: str) -> bytes:
    """
    Return the token to store.

    Raises:
        ConfigurationError: there is no key, one is none, or the package cryptography is not installed.
    """
    cipher = _cipher(f"the secret {name!r} cannot be stored")
    return cipher.encrypt(json.dumps({"environment": environment, "name": name, "values": values}).encode())


def decrypt(token: bytes, environment: str, name: str) -> Values:
    """
    Return the values in a stored *token*.

    Raises:
        ConfigurationError: as `encrypt`; also where none of the keys is the one that it was encrypted with.
    """
    cipher = _cipher(f"the secret {name!r} is stored encrypted")
    from cryptography.fernet import InvalidToken

    try:
        told = json.loads(cipher.decrypt(token))
    except InvalidToken:
        raise errors.ConfigurationError(
            f"no key of {VARIABLE} opens the secret {name!r}: add the key that it was stored with, or store it anew"
        ) from None
    values = Values(told.pop("values"))
    if (told["environment"], told["name"]) != (environment, name):
        raise errors.ConfigurationError(
            f"the row of the secret {name!r} in environment {environment!r} was stored as that of {told['name']!r} in "
            f"{told['environment']!r}: somebody has moved it by hand; store it anew"
        )
    return values


def _cipher(why: str) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as exc:
        raise errors.ConfigurationError(
            f"{why}, which takes the package cryptography: pip install 'pgstore[secrets]'"
        ) from exc
    given = variable_of(VARIABLE)
    if given is None:
        raise errors.ConfigurationError(f"{why}, and {VARIABLE} is not set: {_MAKE}")
    return MultiFernet([Fernet(_key(text.strip(), number)) for number, text in enumerate(given.split(","), 1)])


def _key(text: str, number: int) -> bytes:
    """The key in the form that Fernet takes; it is not shown."""
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise errors.ConfigurationError(
            f"key {number} in {VARIABLE} is not {_KEY_BYTES} bytes in base64: {_MAKE}"
        ) from None
    return base64.urlsafe_b64encode(key)


_KEY_BYTES: Final = 32
_MAKE: Final = "`openssl rand -base64 32` makes a key; keep it, for without it nobody reads what was stored"
