"""Values and keys as Postgres stores them, and back.

`values` turns Python objects into bytes that any other process can load; `keys` turns the keys of a Dict into text that
is equal exactly when the keys are; `codecs` names what a value can be stored as. `callables` says which functions are
one key, and `signing` signs pickles. None of them touches a database, nor imports what the program does not use.

Where a change belongs:

- A new type of keys has a tag of its own in `keys`, and its text there and in the functions of sql/schema.sql that read keys.
- A new form of values is a letter in `codecs`. Each kind of store says what it does with it: `dict.codec`, `queue.base`.
"""

from __future__ import annotations

from pgstore.serializers.callables import callable_key
from pgstore.serializers.keys import decode_key, decode_plain_key, encode_key, key_text
from pgstore.serializers.values import (
    NOT_LOADED,
    VALUE_BYTES_MAX,
    check_size,
    dumps,
    load_json,
    loads,
    parse_json,
)

__all__ = [
    "NOT_LOADED",
    "VALUE_BYTES_MAX",
    "callable_key",
    "check_size",
    "decode_key",
    "decode_plain_key",
    "dumps",
    "encode_key",
    "key_text",
    "load_json",
    "loads",
    "parse_json",
]
