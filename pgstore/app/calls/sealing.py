"""Arguments and outcomes as bytes in rows: where there are signing keys, nothing is loaded that none of them has signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgstore.errors import DeserializationError
from pgstore.serializers import check_size
from pgstore.serializers.codecs import PICKLE, SIGNED_PICKLE
from pgstore.serializers.signing import SIGNATURE_BYTES, Signer

_PERSON: Final = b"pgstore call"


def seal(keys: Sequence[bytes], store_id: int, place: str, pickled: bytes, what: str) -> tuple[str, bytes]:
    """
    The codec of *pickled* and the bytes to store.

    Args:
        place: where they belong, so that they are taken for nothing else: arguments to their function, an outcome to its call.
        what: names them in errors.

    Raises:
        ValueTooLarge: they are above 256 MiB.
    """
    check_size(len(pickled) + (SIGNATURE_BYTES if keys else 0), what)
    if not keys:
        return PICKLE, pickled
    return SIGNED_PICKLE, Signer(keys, store_id, _PERSON).sign(place, pickled) + pickled


def unseal(keys: Sequence[bytes], store_id: int, place: str, codec: str, payload: bytes, what: str) -> bytes:
    """
    The pickle in *payload*, if this client may load it.

    Raises:
        DeserializationError: it is not signed by one of *keys*, where there are some.
    """
    signature, pickled = payload[:SIGNATURE_BYTES], payload[SIGNATURE_BYTES:]
    if codec == PICKLE:
        if not keys:
            return bytes(payload)
        reason = "not signed, and this client has signing keys"
    elif not keys or Signer(keys, store_id, _PERSON).has_signed(bytes(signature), place, pickled):
        return bytes(pickled)
    else:
        reason = "signed by none of this client's keys"
    raise DeserializationError(f"{what} may not be loaded: {reason}", raw=bytes(payload))
