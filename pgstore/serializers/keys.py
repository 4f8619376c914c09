r"""The keys of a Dict as text: two keys have one text exactly when Python says that they are equal.

Pickled bytes cannot be that text: equal tuples, sets and numbers pickle differently. So there is a closed list of
types, each with a canonical form. Anything else is a `TypeError`, as an unhashable key is in Python.

A str is its own text, so that SQL can say `WHERE key = 'user:1'` and a search for a prefix finds what begins with it.
One that begins with U+0001, or holds NUL or half a surrogate pair (Postgres stores neither), is written as below. Of
one longer than `KEY_BYTES_MAX` the beginning stands before a hash. All else begins with U+0001 and a type's letter:

```text
===============================  ===================  ============================================================
key                              text after U+0001    what is the same key
===============================  ===================  ============================================================
None                             n
1, True, 1.0, Decimal(1), 1+0j   i1                   every number of this exact value; -0.0 is 0
0.5, Fraction(1, 2)              i1/2                 0.1 is i3602879701896397/36028797018963968, not Decimal("0.1")
inf                              iinf, i-inf          NaN, which equals nothing, is refused
1 + 2j                           c1;2
"a\0b" and, in a tuple, "ab"     sa\0b, sab          a str of a subclass, a member of a StrEnum
b"ab"                            b6162
("a", 1)                         (sa,i1,)             a namedtuple with these items
frozenset({2, 1})                {i1,i2,}
Color.RED of an Enum             emodule:Color.RED    of an IntEnum, StrEnum and the like: its value, and that text
UUID("1234...")                  u1234...
date(2024, 1, 31)                d2024-01-31          never a datetime
datetime without offset          t2024-01-31T...
datetime with offset             z2024-01-31T...Z     the same instant, in whatever zone
time without offset              h12:00:00.000000
time with offset                 a43200000000         same µs since midnight less offset; 00:30+01:00 is not 23:30+00:00
timedelta(seconds=1)             l1000000
PurePosixPath("/a")              p/a                  a PosixPath
PureWindowsPath("C:/a")          wc:\\/a             whatever the case of its letters
frozen dataclass P(x=1)          @module:P(x=i1,)     the same class and equal fields; not those with compare=False
===============================  ===================  ============================================================
```

A subclass counts as its base while it keeps the base's `__eq__`; with one of its own nobody can know what it equals.
Within a text a backslash escapes comma, backslash, U+0000, U+0001 and surrogates, so that no two keys run together.

Python contradicts itself about local times that occur twice or never (when clocks change, PEP 495): such a datetime
equals none of another zone, not even its own instant, but within its zone the one an hour away. Here an aware datetime
is its instant, always. Fractions of a second in an offset, which Python compares and hashes differently, count in full.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pgstore import errors
from pgstore.serializers import values

# Longer texts are cut and hashed, to 1,089 bytes. A row of a btree index holds at most 2,704.
KEY_BYTES_MAX: Final = 1024

_TAG: Final = "\x01"
_ACCEPTED: Final = (
    "str, int, float, bool, None, bytes, tuple, frozenset, complex, Decimal, Fraction, Enum, UUID, date, datetime, "
    "time, timedelta, PurePath and frozen dataclasses, and subclasses of these that keep their __eq__"
)
# Decimal("1e999999999") is cheap to write and has a billion digits.
_DECIMAL_EXPONENT_MAX: Final = 10_000
# Longer integers are written in hexadecimal: Python converts only so many decimal digits, at the least setting 640.
_DECIMAL_BITS_MAX: Final = 2000
_ENCODERS_MAX: Final = 1000

_Encoder: TypeAlias = Callable[[Any], str]


# All that a key of accepted types is pickled with, the program's own classes left out.
_PLAIN: Final = frozenset(
    {
        ("builtins", "complex"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("uuid", "UUID"),
        ("uuid", "SafeUUID"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("zoneinfo", "ZoneInfo"),
        ("pathlib", "PurePosixPath"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PureWindowsPath"),
        ("pathlib", "WindowsPath"),
    }
)


class _Refused(Exception):
    """A key, or a part of one, is not accepted. *path* leads to it, innermost first; the containers add their steps."""

    def __init__(self, part: Any, reason: str) -> None:
        self.part = part
        self.reason = reason
        self.path: list[str] = []


def encode_key(key: Any) -> tuple[str, bytes | None]:
    """
    Return the text of *key* and, unless the text is the key itself, a pickle from which `decode_key` gives it back.

    Raises:
        TypeError: *key*, or a part of it, is not of a type on the list in this module's docstring, or is NaN.
        SerializationError: it cannot be pickled.

    >>> encode_key("user:1")
    ('user:1', None)
    """
    # Whatever is less than U+0002 begins with U+0000 or U+0001, or is empty, which the slow path sorts out.
    if type(key) is str and key.isascii() and key >= "\x02" and len(key) <= KEY_BYTES_MAX and "\0" not in key:
        return key, None
    text, is_itself = _text_of(key)
    return text, None if is_itself else values.dumps(key, "key")


def decode_key(text: str, key_pickle: bytes | memoryview | None) -> Any:
    """
    Return the key that `encode_key` turned into these columns.

    Raises:
        DeserializationError: it was no plain str, and this process cannot load its class.
    """
    if key_pickle is None:
        return text
    return values.loads(key_pickle, f"key {text!r}")


class _PlainUnpickler(pickle.Unpickler):
    """Makes objects of the accepted types of the standard library, whose constructors do nothing else, and of no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _unpickler_of_zones
        if (module.split(".")[0], name) not in _PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name} is no type of the standard library that keys are made of")
        return super().find_class(module, name)


def _unpickler_of_zones(cls: Any, name: str) -> Any:
    """The one attribute that pickles of keys ask for."""
    if cls.__module__ != "zoneinfo" or name != "_unpickle":
        raise pickle.UnpicklingError(f"{cls!r} is asked for its {name}")
    return cls._unpickle


def decode_plain_key(text: str, key_pickle: bytes) -> Any:
    """
    Return the key as `decode_key` does, running no code but the standard library's; whatever the bytes are.

    Raises:
        DeserializationError: it has a class of another library or of the program's, or the bytes are damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(key_pickle)).load()
    except values.NOT_LOADED as exc:
        raise errors.DeserializationError(f"key {text!r} cannot be loaded: {exc}", raw=bytes(key_pickle)) from exc


def key_text(key: Any) -> str:
    """Return only the text of *key*: enough for looking it up, and cheaper where `encode_key` would pickle."""
    if type(key) is str and key.isascii() and key >= "\x02" and len(key) <= KEY_BYTES_MAX and "\0" not in key:
        return key
    return _text_of(key)[0]


def _text_of(key: Any) -> tuple[str, bool]:
    """The text of a whole key, and whether the text is the key itself."""
    try:
        encoder = _encoders.get(type(key)) or _encoder_for(type(key), key)
        if encoder is _encode_str:
            return _text_of_str(key)
        return _shortened(_TAG + encoder(key)), False
    except _Refused as refused:
        where = "key" + "".join(reversed(refused.path))
        kind = f"{type(refused.part).__module__}.{type(refused.part).__qualname__}".removeprefix("builtins.")
        message = f"{where} of type {kind!r} cannot be a key: {refused.reason}; accepted are {_ACCEPTED}"
        raise TypeError(message) from None
    except RecursionError:
        raise TypeError(f"key of type {type(key).__qualname__!r} cannot be a key: it is nested too deeply") from None


def _text_of_str(key: str) -> tuple[str, bool]:
    text = str.__str__(key)
    if "\0" not in text and not text.startswith(_TAG) and not _search_surrogate(text):
        shortened = _shortened(text)
        return shortened, shortened is key
    return _shortened(_TAG + _encode_str(key)), False


def _shortened(text: str) -> str:
    """
    Return *text*, or its beginning, U+0001 and its SHA-256 if it is longer than `KEY_BYTES_MAX`.

    What was cut is longer than anything that was not, so no text that merely looks like it is mistaken for it. The
    beginning has 1,021 bytes or more: a search for a prefix up to that length finds whatever begins with it.
    """
    data = text.encode()
    if len(data) <= KEY_BYTES_MAX:
        return text
    import hashlib

    beginning = data[:KEY_BYTES_MAX].decode(errors="ignore")  # less the character that the cut has split
    return f"{beginning}\x01{hashlib.sha256(data).hexdigest()}"


# --- text within a text ---------------------------------------------------------------------------------------------

_search_surrogate = re.compile(r"[\ud800-\udfff]").search
_search_special = re.compile(r"[\\,\x00\x01\ud800-\udfff]").search
_replace_special = re.compile(r"[\\,\x00\x01\ud800-\udfff]").sub
_ESCAPES: Final = {"\\": "\\\\", ",": "\\,", "\0": "\\0", "\x01": "\\1"}


def _escape(text: str) -> str:
    return _replace_special(_escape_character, text) if _search_special(text) else text


def _escape_character(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"


def _class_name(cls: type, instance: Any) -> str:
    """Module and qualified name of *cls*, which must identify it in every process."""
    if "<locals>" in cls.__qualname__:
        raise _Refused(instance, "its class is defined inside a function, where its name does not identify it")
    # In a child of multiprocessing the parent's __main__ goes by another name.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    # Neither holds these characters in practice, but `type()` and `make_dataclass` would allow it.
    return _escape(module).replace(":", r"\:") + ":" + _escape(cls.__qualname__).replace("(", r"\(")


# --- one encoder per type -------------------------------------------------------------------------------------------
# Base class methods are called by name: a subclass that keeps `__eq__` may well override `__str__` or `__iter__`.


def _encode_part(key: Any) -> str:
    """Return the text of a key within a key, without U+0001."""
    return (_encoders.get(type(key)) or _encoder_for(type(key), key))(key)


def _encode_none(_: None) -> str:
    return "n"


def _encode_int(key: int) -> str:
    return "i" + _integer(int.__int__(key))


def _encode_float(key: float) -> str:
    return "i" + _real(key, key)


def _encode_complex(key: complex) -> str:
    real, imaginary = _real(key.real, key), _real(key.imag, key)
    # 1 + 0j == 1
    return "i" + real if imaginary == "0" else f"c{real};{imaginary}"


def _encode_decimal(key: Any) -> str:
    if key.is_nan():
        raise _Refused(key, "NaN equals nothing, not even itself")
    if key.is_infinite():
        return "i-inf" if key < 0 else "iinf"
    if not key:
        return "i0"
    if abs(key.adjusted()) > _DECIMAL_EXPONENT_MAX:
        raise _Refused(key, f"its exponent is beyond ±{_DECIMAL_EXPONENT_MAX:,}")
    return "i" + _ratio(*key.as_integer_ratio())


def _encode_fraction(key: Any) -> str:
    return "i" + _ratio(key.numerator, key.denominator)


def _real(number: float, key: Any) -> str:
    try:
        return _ratio(*float.as_integer_ratio(number))
    except ValueError:
        raise _Refused(key, "NaN equals nothing, not even itself") from None
    except OverflowError:
        return "-inf" if number < 0 else "inf"


def _ratio(numerator: int, denominator: int) -> str:
    return _integer(numerator) if denominator == 1 else f"{_integer(numerator)}/{_integer(denominator)}"


def _integer(number: int) -> str:
    return str(number) if number.bit_length() <= _DECIMAL_BITS_MAX else hex(number)


def _encode_str(key: str) -> str:
    return "s" + _escape(str.__str__(key))


def _encode_bytes(key: bytes) -> str:
    return "b" + bytes.hex(key)


def _encode_tuple(key: tuple[Any, ...]) -> str:
    texts: list[str] = []
    try:
        for part in tuple.__iter__(key):
            texts.append(_encode_part(part) + ",")  # noqa: PERF401  # the length so far is the index of what is refused
    except _Refused as refused:
        refused.path.append(f"[{len(texts)}]")
        raise
    return f"({''.join(texts)})"


def _encode_frozenset(key: frozenset[Any]) -> str:
    try:
        # A set again: two local times of one instant are one key, whatever Python thinks of them.
        texts = sorted({_encode_part(part) + "," for part in frozenset.__iter__(key)})
    except _Refused as refused:
        refused.path.append("{element}")
        raise
    return f"{{{''.join(texts)}}}"


def _encode_uuid(key: Any) -> str:
    return f"u{key}"


def _encode_date(key: Any) -> str:
    return f"d{key.year:04}-{key.month:02}-{key.day:02}"


def _encode_datetime(key: Any) -> str:
    datetime = sys.modules["datetime"]
    naive = datetime.datetime(key.year, key.month, key.day, key.hour, key.minute, key.second, key.microsecond)
    offset = key.utcoffset()
    if offset is None:
        return f"t{naive.isoformat(timespec='microseconds')}"
    try:
        return f"z{(naive - offset).isoformat(timespec='microseconds')}Z"
    except OverflowError:  # within a day of the first or the last year: not a date any more, but still an instant
        return f"z{_microseconds(naive - datetime.datetime.min - offset)}"


def _encode_time(key: Any) -> str:
    datetime = sys.modules["datetime"]
    offset = key.utcoffset()
    if offset is None:
        return f"h{key.hour:02}:{key.minute:02}:{key.second:02}.{key.microsecond:06}"
    since_midnight = datetime.timedelta(
        hours=key.hour, minutes=key.minute, seconds=key.second, microseconds=key.microsecond
    )
    return f"a{_microseconds(since_midnight - offset)}"


def _encode_timedelta(key: Any) -> str:
    return f"l{_microseconds(key)}"


def _microseconds(delta: Any) -> int:
    return int((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds)


def _encode_posix_path(key: Any) -> str:
    return "p" + _escape(key.root + "/".join(key.parts[1:] if key.root else key.parts))


def _encode_windows_path(key: Any) -> str:
    # No part holds a slash, so joined by slashes a file `a` of the drive `c:` and a file named `c:a` differ.
    return "w" + _escape("/".join([part.lower() for part in key.parts]))


def _enum_encoder(cls: type, instance: Any) -> _Encoder:
    prefix = f"e{_class_name(cls, instance)}."
    if issubclass(cls, sys.modules["enum"].Flag):
        return lambda member: f"{prefix}{member._value_}"  # combinations have no name of their own
    return lambda member: prefix + _escape(member._name_).replace(".", r"\.")


def _dataclass_encoder(cls: Any, instance: Any) -> _Encoder:
    if not (cls.__dataclass_params__.frozen and cls.__dataclass_params__.eq):
        raise _Refused(instance, "a dataclass must be declared with frozen=True and not with eq=False")
    # A subclass that is no dataclass itself inherits an __eq__ that compares the fields of the class it was made for.
    owner = next(base for base in cls.__mro__ if "__eq__" in base.__dict__)
    made_by = getattr(getattr(owner.__eq__, "__code__", None), "co_qualname", "")
    if "__dataclass_fields__" not in owner.__dict__ or not made_by.startswith("__create_fn__."):
        raise _Refused(instance, "its __eq__ is not the one that dataclasses generate")
    if cls.__hash__ is None:
        raise _Refused(instance, "it is not hashable")
    prefix = f"@{_class_name(cls, instance)}("
    names = [field.name for field in sys.modules["dataclasses"].fields(owner) if field.compare]

    def encode(key: Any) -> str:
        parts = [prefix]
        for name in names:
            try:
                parts.append(f"{name}={_encode_part(getattr(key, name))},")
            except _Refused as refused:
                refused.path.append(f".{name}")
                raise
        parts.append(")")
        return "".join(parts)

    return encode


# --- which encoder --------------------------------------------------------------------------------------------------

_BUILTIN: Final[dict[type, _Encoder]] = {
    type(None): _encode_none,
    bool: _encode_int,
    int: _encode_int,
    float: _encode_float,
    complex: _encode_complex,
    str: _encode_str,
    bytes: _encode_bytes,
    tuple: _encode_tuple,
    frozenset: _encode_frozenset,
}
# Looked up among the imported modules: nobody has a Decimal without `decimal`, so none is imported for asking.
_STANDARD_LIBRARY: Final[tuple[tuple[str, str, _Encoder], ...]] = (
    ("uuid", "UUID", _encode_uuid),
    ("datetime", "datetime", _encode_datetime),
    ("datetime", "date", _encode_date),
    ("datetime", "time", _encode_time),
    ("datetime", "timedelta", _encode_timedelta),
    ("decimal", "Decimal", _encode_decimal),
    ("fractions", "Fraction", _encode_fraction),
    ("pathlib", "PurePosixPath", _encode_posix_path),
    ("pathlib", "PureWindowsPath", _encode_windows_path),
)
# Encoders found so far. User classes are few; should a program make thousands, they are not kept alive for ever.
_encoders: dict[type, _Encoder] = dict(_BUILTIN)


def _encoder_for(cls: type, instance: Any) -> _Encoder:
    encoder = _find_encoder(cls, instance)
    if len(_encoders) >= _ENCODERS_MAX:
        _encoders.clear()
        _encoders.update(_BUILTIN)
    _encoders[cls] = encoder
    return encoder


def _find_encoder(cls: type, instance: Any) -> _Encoder:
    """What a class equals is decided by its `__eq__`: find the accepted type that it comes from."""
    bases = [(base, encoder) for base, encoder in _accepted_types() if issubclass(cls, base)]
    for base, encoder in bases:
        if cls.__eq__ is base.__eq__:
            return encoder
    if hasattr(cls, "__dataclass_fields__"):
        return _dataclass_encoder(cls, instance)
    equals: Any = cls.__eq__
    if issubclass(cls, sys.modules["enum"].Enum) and equals is object.__eq__:
        return _enum_encoder(cls, instance)
    if getattr(cls, "__hash__", None) is None:
        raise _Refused(instance, "it is not hashable")
    if bases:
        raise _Refused(
            instance, f"its class has an __eq__ of its own; convert it to a plain {bases[0][0].__qualname__}"
        )
    raise _Refused(instance, "it is not of an accepted type")


def _accepted_types() -> list[tuple[type, _Encoder]]:
    found = [(base, encoder) for base, encoder in _BUILTIN.items() if base is not type(None)]
    for module, name, encoder in _STANDARD_LIBRARY:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None:
            found.append((base, encoder))
    return found
