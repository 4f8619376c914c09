"""Signatures of pickles: a keyed BLAKE2b, so that nothing is loaded that was not written by somebody who has a key.

It covers the store and whatever else says where the pickle belongs, so that one moved elsewhere does not pass either.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

SIGNATURE_BYTES: Final = 16


class Signer:
    """Signs for one store by the first of *keys*, and checks by any. *person* says for what kind of store."""

    def __init__(self, keys: Sequence[bytes], store_id: int, person: bytes) -> None:
        self._keys = keys
        self._store = store_id.to_bytes(8, "big")
        self._person = person

    def sign(self, *parts: bytes) -> bytes:
        """The signature of *parts*, of which the caller makes sure that they cannot be cut in another way."""
        return self._mac(self._keys[0], parts)

    def has_signed(self, signature: bytes, *parts: bytes) -> bool:
        """Whether *signature* is that of one of the keys."""
        return any(hmac.compare_digest(self._mac(key, parts), signature) for key in self._keys)

    def _mac(self, key: bytes, parts: Sequence[bytes]) -> bytes:
        mac = hashlib.blake2b(self._store, digest_size=SIGNATURE_BYTES, key=key, person=self._person)
        for part in parts:
            mac.update(part)
        return mac.digest()
