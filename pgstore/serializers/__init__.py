"""Values and keys as Postgres stores them, and back.

`values` turns Python objects into bytes that any other process can load; `keys` turns the keys of a Dict into text that
is equal exactly when the keys are. Neither touches a database, and neither imports what the program does not use.
"""

from __future__ import annotations

from pgstore.serializers.callables import callable_key
from pgstore.serializers.keys import decode_key, decode_plain_key, encode_key, key_text
from pgstore.serializers.values import (
    CODEC_FLOAT,
    CODEC_INTEGER,
    CODEC_PICKLE,
    NOT_LOADED,
    VALUE_BYTES_MAX,
    check_size,
    decode_value,
    dumps,
    encode_value,
    load_json,
    loads,
    parse_json,
)

__all__ = [
    "CODEC_FLOAT",
    "CODEC_INTEGER",
    "CODEC_PICKLE",
    "NOT_LOADED",
    "VALUE_BYTES_MAX",
    "callable_key",
    "check_size",
    "decode_key",
    "decode_plain_key",
    "decode_value",
    "dumps",
    "encode_key",
    "encode_value",
    "key_text",
    "load_json",
    "loads",
    "parse_json",
]
