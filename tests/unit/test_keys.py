"""Two keys have one text exactly when Python says that they are equal, and a key comes back as what it was."""

# ruff: noqa: DTZ001, DTZ901  # naive datetimes are keys like any other

from __future__ import annotations

import dataclasses
import enum
import itertools
import operator
import pickle
import sys
import types
import typing
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgstore import errors
from pgstore.serializers import decode_key, encode_key, key_text
from pgstore.serializers.keys import KEY_BYTES_MAX

TEXT_BYTES_MAX = 2000  # well under the 2,704 bytes of a btree row


class Color(enum.Enum):
    RED = 1
    GREEN = "a"


class Paint(enum.Enum):
    RED = 1
    GREEN = "a"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    A = "a"
    COMMA = "a,"


class Mixed(str, enum.Enum):  # noqa: UP042  # the older form, whose str() is 'Mixed.A'
    A = "a"


class When(date, enum.Enum):
    START = 2024, 1, 31


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Mask(enum.IntFlag):
    ONE = 1
    TWO = 2


class Text(str):
    __slots__ = ()

    def __str__(self):
        return "something else"


class Number(int):
    def __int__(self):
        return 99


class Pair(typing.NamedTuple):
    left: object
    right: object


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = 0
    note: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Place:
    x: object
    y: object = 0


@dataclasses.dataclass(frozen=True)
class Point3(Point):
    z: object = 0


class Marked(Point):
    """No dataclass of its own: it compares as Point does, with its own class."""


# --- keys that are often equal --------------------------------------------------------------------------------------

ZONES: list[tzinfo] = [UTC, timezone(timedelta(hours=1)), timezone(timedelta(hours=-5, minutes=-30, seconds=-7))]
ZONES += [ZoneInfo("Europe/Berlin"), ZoneInfo.no_cache("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("UTC")]


def as_numbers(value: Fraction) -> list[object]:
    """Every number of exactly this value, and some next to it."""
    found: list[object] = [value, float(value), complex(float(value), 0.0), Decimal(float(value))]
    found += [complex(float(value), 1.0), complex(1.0, float(value))]
    found += [Decimal(value.numerator) / Decimal(value.denominator)]
    if value.denominator == 1:
        number = int(value)
        found += [number, Number(number), number + 1, Decimal(number), Decimal(f"{number}.00")]
        found += [bool(number)] if number in (0, 1) else []
    if value == 0:
        found += [-0.0, Decimal("-0"), Decimal("0E+50"), complex(-0.0, -0.0)]
    return found


def is_odd(moment: datetime | date | time) -> bool:
    """A local time that occurs twice or never: Python's own answers about it contradict each other (PEP 495)."""
    if not isinstance(moment, datetime):
        return False
    return moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset()


INTERESTING = [Fraction(n) for n in (0, 1, -1, 2, 255, 2**53, 2**53 + 1, 10**22, 10**23, 2**64, -(10**30))]
INTERESTING += [Fraction(1, 2), Fraction(-1, 3), Fraction(1, 10), Fraction(0.1), Fraction(5e-324), Fraction(1.7e308)]
INFINITIES = [float("inf"), float("-inf"), Decimal("Infinity"), Decimal("-Infinity"), complex("inf"), complex("-infj")]
fractions = st.one_of(st.sampled_from(INTERESTING), st.fractions(-3, 3, max_denominator=8), st.integers().map(Fraction))
numbers = st.one_of(
    fractions.map(as_numbers).flatmap(st.sampled_from),
    st.sampled_from([*INFINITIES, *Level, *Mask, Mask.ONE | Mask.TWO]),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False),
)
# Everything that has a meaning in the text, and what Postgres refuses.
characters = st.sampled_from(["a", "b", "s", "i1", ",", "\\", "(", ")", "{", "}", ":", ".", "/", "\0", "\x01", "\x02"])
odd_characters = st.sampled_from(["\ud800", "\udfff", "\\ud800", "ß", "İ", "€", "\U0001f600", "A", "C:", "0"])
strings = st.lists(st.one_of(characters, odd_characters), max_size=5).map("".join)
texts = st.one_of(strings, strings.map(Text), st.sampled_from([*Word, *Mixed]), st.text(max_size=3))
moments = st.one_of(
    st.datetimes(datetime(2024, 10, 26, 23), datetime(2024, 10, 27, 3)),
    st.datetimes(datetime(2024, 3, 31), datetime(2024, 3, 31, 3)),
    st.sampled_from([datetime(2024, 1, 31, 12), datetime(2024, 1, 31, 12, 30), datetime(2024, 1, 31)]),
)
aware = st.builds(lambda moment, zone: moment.replace(tzinfo=UTC).astimezone(zone), moments, st.sampled_from(ZONES))
extreme = st.builds(
    lambda moment, zone: moment.replace(tzinfo=zone),
    st.sampled_from([datetime.min, datetime.max]),
    st.sampled_from(ZONES[:3]),
)
times = st.builds(
    lambda hours, minutes, zone: time(hours, minutes, tzinfo=zone),
    st.integers(11, 13),
    st.sampled_from([0, 30]),
    st.sampled_from([None, *ZONES]),
)
dates = st.one_of(
    moments,
    aware.filter(lambda moment: not is_odd(moment)),
    extreme,
    times,
    moments.map(datetime.date),
)
deltas = st.sampled_from(
    [timedelta(0), timedelta(days=1), timedelta(hours=24), timedelta(microseconds=-1), timedelta.max]
)
path_parts = st.lists(
    st.sampled_from(["a", "A", "/", "\\", "//", "c:", "C:", ".", "ß", "Σ", "\udc80", ","]), max_size=4
)
paths = st.builds(
    lambda flavour, parts: flavour("".join(parts)),
    st.sampled_from([PurePosixPath, PureWindowsPath, PurePath, Path]),
    path_parts,
).filter(lambda path: pickle.loads(pickle.dumps(path)) == path)  # Python 3.11 makes `c:` of PureWindowsPath("/c:")
uuids = st.sampled_from([UUID(int=0), UUID(int=5), UUID("00000000-0000-0000-0000-000000000005")])
members = st.sampled_from([*Color, *Paint, *Right, Right.READ | Right.WRITE, Right(0)])
octets = st.one_of(st.binary(max_size=2), strings.map(lambda text: text.encode(errors="ignore")))
leaves = st.one_of(st.none(), numbers, texts, octets, dates, deltas, paths, uuids, members)


def containers(inner):
    small = st.lists(inner, max_size=3)
    return st.one_of(
        small.map(tuple),
        small.map(frozenset),
        st.builds(Pair, inner, inner),
        st.builds(Point, inner, inner, st.sampled_from(["", "other note"])),
        st.builds(Place, inner, inner),
        st.builds(Point3, inner, inner),
        st.builds(Marked, inner),
    )


keys = st.recursive(leaves, containers, max_leaves=6)
leaf_lists = [
    st.lists(kind, min_size=2, max_size=8) for kind in (numbers, texts, dates, paths, octets, members, leaves)
]
quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.one_of(*leaf_lists))
def test_keys_share_a_text_exactly_when_they_are_equal(several):
    """
    Equal keys in two rows would lose a value; unequal ones in one row would overwrite each other's.
    """
    for a, b in itertools.combinations(several, 2):
        assert (key_text(a) == key_text(b)) == (a == b), (a, b)


@quick
@given(st.lists(keys, min_size=2, max_size=4))
def test_so_do_keys_made_of_keys(several):
    """
    Tuples, sets and dataclasses are equal when what is in them is, whatever stands where.
    """
    rebuilt: list = [Pair(*several[:2]), Point(*several[:2]), tuple(several[:2])]
    for a, b in itertools.pairwise(several):
        rebuilt += [(a, b), frozenset([a, b]), frozenset([b, a])]
    for a, b in itertools.combinations(several + rebuilt, 2):
        assert (key_text(a) == key_text(b)) == (a == b), (a, b)


@quick
@given(keys)
def test_a_key_comes_back_as_what_it_was(key):
    """
    `list(d)` gives what was put in, not what it is equal to.
    """
    text, key_pickle = encode_key(key)
    back = decode_key(text, key_pickle)

    assert back == key
    assert type(back) is type(key)
    assert "frozenset" in repr(key) or repr(back) == repr(key)  # the types inside, too; a set has no order
    assert text == key_text(key)


@quick
@given(keys)
def test_postgres_can_store_and_index_the_text(key):
    """
    No NUL, valid UTF-8, and shorter than a btree row may be.
    """
    text, _ = encode_key(key)

    assert "\0" not in text
    assert text.encode().decode() == text
    assert len(text.encode()) <= TEXT_BYTES_MAX


def test_the_text_reads_as_documented():
    """
    It is stored: a change of any of these loses every such key of every user.
    """
    module = __name__
    documented = {
        "user:1": "user:1",
        "": "",
        "€\x01": "€\x01",
        "\x01a": "\x01s\\1a",
        "a\0,\\\ud800": "\x01sa\\0\\,\\\\\\ud800",
        None: "\x01n",
        1: "\x01i1",
        -0.0: "\x01i0",
        0.5: "\x01i1/2",
        0.1: "\x01i3602879701896397/36028797018963968",
        Decimal("0.1"): "\x01i1/10",
        float("-inf"): "\x01i-inf",
        1 + 2j: "\x01c1;2",
        b"ab": "\x01b6162",
        (): "\x01()",
        ("a", 7): "\x01(sa,i7,)",
        (("a",), "b"): "\x01((sa,),sb,)",
        frozenset({2, 3}): "\x01{i2,i3,}",
        Color.RED: f"\x01e{module}:Color.RED",
        Right.READ | Right.WRITE: f"\x01e{module}:Right.3",
        UUID(int=5): "\x01u00000000-0000-0000-0000-000000000005",
        date(2024, 1, 31): "\x01d2024-01-31",
        datetime(2024, 1, 31, 12): "\x01t2024-01-31T12:00:00.000000",
        datetime(2024, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin")): "\x01z2024-01-31T11:00:00.000000Z",
        time(12): "\x01h12:00:00.000000",
        time(12, tzinfo=UTC): "\x01a43200000000",
        timedelta(seconds=1): "\x01l1000000",
        PurePosixPath("/a"): "\x01p/a",
        PureWindowsPath("C:/A/b"): "\x01wc:\\\\/a/b",
        Point(8): f"\x01@{module}:Point(x=i8,y=i0,)",
    }

    assert {key: key_text(key) for key in documented} == documented
    assert key_text(Word.A) == key_text(Mixed.A) == key_text(Text("a")) == "a"
    assert key_text(When.START) == "\x01d2024-01-31"
    assert len(documented) == 30


def test_only_a_plain_str_needs_no_pickle():
    """
    A subclass of str shares the text of its str, and must still come back as itself.
    """
    assert encode_key("plain")[1] is None
    assert encode_key(Word.A) == ("a", pickle.dumps(Word.A, 5))
    assert type(decode_key(*encode_key(Text("a")))) is Text


# --- long keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["x", "é", "€", "\U0001f600", "\ud800", "\0", ","])
@pytest.mark.parametrize("surplus", range(-3, 6))
def test_long_strings_stay_distinct_and_short(unit, surplus):
    """
    Around the limit, whatever the width of its characters.
    """
    size = len(unit.encode(errors="surrogatepass"))
    base = "p" * (KEY_BYTES_MAX - 2 * size + surplus)
    several = [base, base + unit, base + unit * 2, base + unit * 3, base + unit * 1000, base + unit * 1000 + "x"]

    texts = [encode_key(key)[0] for key in several]

    assert len(set(texts)) == len(several)
    assert max(len(text.encode()) for text in texts) <= TEXT_BYTES_MAX
    assert [decode_key(*encode_key(key)) for key in several] == several


def test_a_prefix_finds_long_strings_too():
    """
    `WHERE key >= 'user:1/' AND key < 'user:10'` is how a prefix is searched; hashing all of a long key would hide it.
    """
    keys = ["user:1/" + "x" * n for n in (0, 10, 1000, 1017, 1018, 2000, 100_000)]
    others = ["user:0/" + "x" * 5000, "user:10", "user:2" + "x" * 5000]

    found = [key for key in keys + others if b"user:1/" <= key_text(key).encode() < b"user:10"]

    assert found == keys
    assert all(key_text("x" * 5000).startswith("x" * n) for n in (1, 1024))


def test_what_looks_like_a_hashed_key_is_another_key():
    """
    Anyone can read a text in SQL and use it as a key.
    """
    for key in ("x" * 5000, ("x" * 5000,), 10**5000):
        text = key_text(key)
        assert key_text(text) != text
        assert decode_key(*encode_key(text)) == text


def test_long_tuples_keep_their_beginning():
    """
    So the keys of one user still stand together.
    """
    a, b = ("user", 1, "x" * 5000), ("user", 1, "x" * 5000 + "y")

    assert key_text(a) != key_text(b)
    assert key_text(a).startswith("\x01(suser,i1,sxxx")
    assert len(key_text(a).encode()) <= TEXT_BYTES_MAX


def test_long_numbers_do_not_depend_on_the_digits_that_python_converts():
    """
    Text made under one setting of int_max_str_digits must be found under another.
    """
    before = sys.get_int_max_str_digits()
    cases = [10**600, 10**700, 10**5000, Decimal("1e5000"), Fraction(1, 10**5000), Decimal("1e-5000"), 2**2000 - 1]
    expected = [key_text(number) for number in cases]
    sys.set_int_max_str_digits(640)
    try:
        assert [key_text(number) for number in cases] == expected
    finally:
        sys.set_int_max_str_digits(before)

    assert expected[2] == expected[3]
    assert expected[4] == expected[5]
    assert len(set(expected)) == 5


# --- dates ----------------------------------------------------------------------------------------------------------


def test_an_aware_datetime_is_its_instant_even_when_clocks_change():
    """
    The hour that occurs twice is two hours: a series of measurements by local time must not lose one of them.
    """
    berlin = ZoneInfo("Europe/Berlin")
    first, second = datetime(2024, 10, 27, 2, 30, tzinfo=berlin), datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=berlin)

    assert first == second  # Python, within a zone
    assert key_text(first) == key_text(datetime(2024, 10, 27, 0, 30, tzinfo=UTC))
    assert key_text(second) == key_text(datetime(2024, 10, 27, 1, 30, tzinfo=UTC))
    assert decode_key(*encode_key(second)).fold == 1


def test_fold_means_nothing_where_there_is_no_offset():
    """
    As Python compares naive times.
    """
    assert key_text(datetime(2024, 10, 27, 2, 30, fold=1)) == key_text(datetime(2024, 10, 27, 2, 30))
    assert key_text(time(2, 30, fold=1)) == key_text(time(2, 30))


def test_datetimes_sort_by_time():
    """
    A range of instants can be read in order, from SQL too.
    """
    moments = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=d, microseconds=d) for d in range(-400, 400, 7)]

    assert sorted(moments, key=key_text) == moments


# --- what is refused ------------------------------------------------------------------------------------------------


class Ci(str):
    __slots__ = ()

    def __eq__(self, other):
        return self.lower() == other.lower()

    def __hash__(self):
        return hash(self.lower())


class Clock(int):
    def __eq__(self, other):
        return int(self) % 12 == int(other) % 12

    __hash__ = int.__hash__


class Odd(enum.Enum):
    A = 1

    def __eq__(self, other):
        return True

    __hash__ = enum.Enum.__hash__


@dataclasses.dataclass
class Mutable:
    x: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class ByIdentity:
    x: int = 1


@dataclasses.dataclass(frozen=True)
class OwnEq:
    x: int = 1

    def __eq__(self, other):
        return True

    __hash__ = object.__hash__


class InheritedOwnEq(Point):
    def __eq__(self, other):
        return True

    __hash__ = object.__hash__


def local_member():
    class Local(enum.Enum):
        A = 1

    return Local.A


def local_dataclass():
    @dataclasses.dataclass(frozen=True)
    class Local:
        x: int = 1

    return Local()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([], "^key of type 'list' .* not hashable"),
        ({}, "^key of type 'dict' .* not hashable"),
        (bytearray(b"a"), "not hashable"),
        (range(3), "^key of type 'range' .* accepted are str, int,"),
        (object(), "accepted"),
        (int, "'type'"),
        (..., "accepted"),
        (memoryview(b"a"), "accepted"),
        (operator.add, "accepted"),
        (types.SimpleNamespace(), "not hashable"),
        (float("nan"), "NaN"),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "NaN"),
        (complex(0, float("nan")), "NaN"),
        (Decimal("1e999999999999"), "exponent"),
        (Ci("a"), "'tests.*Ci' .*__eq__ of its own; convert it to a plain str"),
        (Clock(1), "convert it to a plain int"),
        (Odd.A, "accepted"),
        (Mutable(), "frozen=True"),
        (ByIdentity(), "eq=False"),
        (OwnEq(), "__eq__ is not the one"),
        (InheritedOwnEq(1), "__eq__ is not the one"),
        (local_member(), "defined inside a function"),
        (local_dataclass(), "defined inside a function"),
        (("a", (1, [2])), r"^key\[1\]\[1\] of type 'list'"),
        (Point(("a", [])), r"^key\.x\[1\] of type 'list'"),
        (frozenset({("a", float("nan"))}), r"^key\{element\}\[1\] of type 'float' .*NaN"),
    ],
    ids=lambda part: None if isinstance(part, str) else type(part).__name__,
)
def test_any_other_key_is_a_type_error_that_names_the_part(key, message):
    """
    Where equality is anybody's guess, guessing would lose data.
    """
    for call in (encode_key, key_text):
        with pytest.raises(TypeError, match=message):
            call(key)


def test_nesting_without_end_is_a_type_error():
    """
    RecursionError would look like a bug of pgstore.
    """
    key: tuple = ()
    for _ in range(100_000):
        key = (key,)

    with pytest.raises(TypeError, match="nested too deeply"):
        key_text(key)


def test_a_key_whose_class_is_missing_says_so():
    """
    Another program reads the keys of this one.
    """
    text, key_pickle = encode_key(Color.RED)
    assert key_pickle is not None

    with pytest.raises(errors.DeserializationError, match="key .*Color.RED"):
        decode_key(text, key_pickle.replace(b"Color", b"Colon"))


def test_the_main_module_has_one_name_in_all_children(monkeypatch):
    """
    A child of multiprocessing knows the parent's `__main__` as `__mp_main__`, and must find the parent's keys.
    """
    made = [dataclasses.make_dataclass("P", ["x"], frozen=True) for _ in range(2)]
    for cls, module in zip(made, ("__main__", "__mp_main__"), strict=True):
        cls.__module__ = module

    assert [key_text(cls(1)) for cls in made] == ["\x01@__main__:P(x=i1,)"] * 2


def test_names_chosen_to_collide_do_not():
    """
    The functional forms of Enum and dataclass accept any name.
    """
    make: typing.Any = enum.Enum
    chosen = [("m", "A", "B.c"), ("m", "A.B", "c"), ("m:A", "B", "c"), ("m", "A:B", "c")]

    texts = {key_text(make("A", {name: 1}, module=m, qualname=q)[name]) for m, q, name in chosen}

    assert len(texts) == 4


def test_thousands_of_classes_are_not_kept(monkeypatch):
    """
    What is remembered per class must not grow with a program that makes classes.
    """
    from pgstore.serializers import keys as module

    for number in range(3 * module._ENCODERS_MAX):
        key_text(type(f"Int{number}", (int,), {})(number))

    assert len(module._encoders) <= module._ENCODERS_MAX
    assert key_text((1, "a", Word.A)) == "\x01(i1,sa,sa,)"
