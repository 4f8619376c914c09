"""How a Dict's values and keys become columns: by its serializer, its projection and the client's signing keys.

A value is one of: `i` integer, `f` float, `j` JSON, `p` pickle, `s` signed pickle. Numbers and JSON run no code when they are read
and are never signed. A signature is a keyed BLAKE2b over the store, the key and the pickle, so that neither a changed pickle nor
one moved from elsewhere passes; it is checked before anything is loaded.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from pgstore import errors
from pgstore.registry import Facts
from pgstore.serializers import (
    NOT_LOADED,
    check_size,
    decode_key,
    decode_plain_key,
    encode_key,
    encode_value,
    load_json,
    loads,
)
from pgstore.serializers.signing import SIGNATURE_BYTES, Signer

SERIALIZERS: Final = ("pickle", "json", "cloudpickle")
PROJECTION_CHARS_MAX: Final = 32 * 1024 * 1024  # as jsonb it may be six times as much; the server refuses 256 MiB
_SIGNED_KEY: Final = b"\x01"  # a pickle starts with 0x80
_SIZE_UNCHECKED: Final = 1 << 20
_INT64: Final = range(-(2**63), 2**63)
# JSON text that jsonb refuses: an escaped NUL (an odd number of backslashes before u0000).
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

Columns = tuple[str, "bytes | None", "int | None", "float | None", "str | None"]
"""codec, value, integer_value, float_value, json_value (as text, written and read)."""


class Codec:
    """The codec of one Dict for one client."""

    def __init__(self, facts: Facts, signing_keys: Sequence[bytes], name: str, refusal: str | None = None) -> None:
        """
        Args:
            refusal: why no pickle is to be loaded, if that is so.
        """
        options = facts.options
        self.facts = facts
        self.history = facts.history
        self.store_id = facts.id
        self._refusal = refusal
        self._keys = signing_keys
        self._signer = Signer(signing_keys, facts.id, b"pgstore dict")
        self._key_signer = Signer(signing_keys, facts.id, b"pgstore dict key")  # a key is no value of its own
        self._name = name
        self._serializer = options.get("serializer", "pickle")
        self.pops_at_once = True  # until a value is popped that has to be loaded first (see `take`)
        self._projects = bool(options.get("json_projection"))
        self.loads_plainly = not signing_keys and refusal is None and self._serializer != "json"  # pickles, as they are

    # -------------------------------------------------------------------------------------------------------- values

    def encode(self, value: Any, key: Any, text: str) -> Columns:
        """
        The columns for *value* under *key*, whose text is *text*.

        Raises `SerializationError` or `ValueTooLarge`, naming the key.
        """
        kind = type(value)
        if kind is int and value in _INT64:
            return "i", None, value, None, None
        if kind is float and (self._serializer != "json" or value - value == 0):
            return "f", None, None, value, None
        if self._serializer == "json":
            return "j", None, None, None, self._json(value, key)
        if self._serializer == "cloudpickle":
            data = _cloudpickled(value, key, self._name)
        else:
            try:
                data = encode_value(value)[1] or b""
            except errors.SerializationError as exc:
                raise errors.SerializationError(f"key {key!r} of {self._name}: {exc}") from exc.__cause__
        if len(data) > _SIZE_UNCHECKED:
            check_size(len(data) + (SIGNATURE_BYTES if self._keys else 0), f"the value of key {key!r} of {self._name}")
        projection = _projected(value) if self._projects else None
        if self._keys:
            return "s", self._signer.sign(text, data) + data, None, None, projection
        return "p", data, None, None, projection

    def decode(self, columns: Sequence[Any], key: Any, text: str) -> Any:
        """The value that *columns* hold. Raises `DeserializationError`, naming the key."""
        codec, data, integer, real, document = columns
        if codec == "i":
            return integer
        if codec == "f":
            return real
        try:
            if codec == "j":
                return load_json(document, "value")
            return loads(self._checked(codec, data, text), "value")
        except errors.DeserializationError as exc:
            raise errors.DeserializationError(f"key {key!r} of {self._name}: {exc}", exc.raw) from exc.__cause__

    def pair(self, row: Sequence[Any]) -> tuple[Any, Any]:
        """Key and value of a row of key, key_pickle and the value's columns. Plain pickles under plain keys go a short way."""
        text, pickled, codec, data, integer, real, document = row
        if codec == "p" and pickled is None and self.loads_plainly:
            try:
                return text, pickle.loads(data)
            except NOT_LOADED:  # the long way says what is wrong
                pass
        key = self.decode_key(text, pickled)
        return key, self.decode((codec, data, integer, real, document), key, text)

    def _checked(self, codec: str, data: bytes, text: str) -> bytes:
        """The pickle in *data*, if this client may load it."""
        if self._refusal is not None:
            raise errors.InvalidError(self._refusal)
        if self._serializer == "json" and codec in "ps":
            raise errors.DeserializationError("the value is a pickle, in a Dict of serializer='json'", data)
        if codec == "p":
            if self._keys:
                raise errors.DeserializationError("the value is not signed, and this client has signing keys", data)
            return data
        if codec != "s":
            raise errors.DeserializationError(f"this version does not know the codec {codec!r}", data or b"")
        pickled = data[SIGNATURE_BYTES:]
        if self._keys and not self._signer.has_signed(data[:SIGNATURE_BYTES], text, pickled):
            raise errors.DeserializationError("the value's signature is not of any of this client's keys", data)
        return pickled

    def _json(self, value: Any, key: Any) -> str:
        try:
            document = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            size = len(document.encode())
        except (TypeError, ValueError, RecursionError) as exc:
            raise errors.SerializationError(f"the value of key {key!r} of {self._name} is not JSON: {exc}") from exc
        if _NUL.search(document):
            raise errors.SerializationError(
                f"the value of key {key!r} of {self._name} has a NUL, which jsonb cannot hold"
            )
        check_size(size, f"the value of key {key!r} of {self._name}")
        return document

    # ---------------------------------------------------------------------------------------------------------- keys

    def encode_key(self, key: Any) -> tuple[str, bytes | None]:
        """The key's text, and where that does not give it back its pickle."""
        text, pickled = encode_key(key)
        if pickled is not None and self._serializer == "json":
            try:
                decode_plain_key(text, pickled)
            except errors.DeserializationError as exc:
                raise TypeError(
                    f"key {key!r} cannot be a key of {self._name}, of serializer='json', which loads no class but of the "
                    f"standard library: {exc.__cause__}"
                ) from None
        if pickled is not None and self._keys:
            pickled = _SIGNED_KEY + self._key_signer.sign(text, pickled) + pickled
        return text, pickled

    def decode_key(self, text: str, pickled: bytes | None) -> Any:
        """The key. Raises `DeserializationError`."""
        if pickled is None:
            return text
        if pickled[:1] == _SIGNED_KEY:
            signature, rest = pickled[1 : 1 + SIGNATURE_BYTES], pickled[1 + SIGNATURE_BYTES :]
            if self._keys and not self._key_signer.has_signed(signature, text, rest):
                raise errors.DeserializationError(
                    f"a key of {self._name} is signed by none of this client's keys", pickled
                )
            pickled = rest
        elif self._keys and self._serializer != "json":
            raise errors.DeserializationError(f"a key of {self._name} is not signed", pickled)
        is_plain = self._serializer == "json" or self._refusal is not None
        return decode_plain_key(text, pickled) if is_plain else decode_key(text, pickled)


def _projected(value: Any) -> str | None:
    """*value* as JSON for SQL to query, None where jsonb cannot hold it."""
    try:
        document = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        document.encode()
    except (TypeError, ValueError, RecursionError):
        return None
    return None if len(document) > PROJECTION_CHARS_MAX or _NUL.search(document) else document


def _cloudpickled(value: Any, key: Any, name: str) -> bytes:
    import cloudpickle

    dumps: Callable[..., bytes] = cloudpickle.dumps
    try:
        return dumps(value, protocol=5)
    except Exception as exc:
        raise errors.SerializationError(f"the value of key {key!r} of {name} cannot be pickled: {exc}") from exc
