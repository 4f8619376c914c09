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
    """
    Signs for one store by the first of *keys*, and checks by any.

    *person* says for what: values of a Dict, its keys, items of a Queue.
    """

    def __init__(self, keys: Sequence[bytes], store_id: int, person: bytes) -> None:
        self._keys = keys
        self._store = store_id.to_bytes(8, "big")
        self._person = person

    def sign(self, place: str, pickled: bytes) -> bytes:
        """The signature of *pickled*, which belongs at *place* in the store: under this key, in this partition."""
        return self._mac(self._keys[0], place, pickled)

    def has_signed(self, signature: bytes, place: str, pickled: bytes) -> bool:
        """Whether *signature* is that of one of the keys."""
        return any(hmac.compare_digest(self._mac(key, place, pickled), signature) for key in self._keys)

    def _mac(self, key: bytes, place: str, pickled: bytes) -> bytes:
        name = place.encode()
        mac = hashlib.blake2b(self._store, digest_size=SIGNATURE_BYTES, key=key, person=self._person)
        mac.update(
            len(name).to_bytes(4, "big") + name
        )  # so that nothing of it can be taken for the beginning of the pickle
        mac.update(pickled)
        return mac.digest()
