"""Which columns a Dict's values become, and what is made of them again."""

from __future__ import annotations

import enum
import math
from datetime import UTC, datetime

import pytest

from pgstore import errors
from pgstore.dict.codec import Codec
from pgstore.serializers.codecs import FLOAT, INTEGER, PICKLE
from pgstore.store.registry import StoreRecord


class Level(enum.IntEnum):
    HIGH = 3


class Metres(float):
    pass


@pytest.fixture
def codec():
    return Codec(StoreRecord(1, "dict", "main", "d", datetime.now(UTC), None, {}), [], "Dict 'd'")


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, -(2**63)])
def test_integers_of_64_bits_are_native(codec, value):
    """
    So that SQL can add to them.
    """
    columns = codec.encode(value, "k", "k")

    assert columns == (INTEGER, None, value, None, None)
    assert codec.decode(columns, "k", "k") == value


@pytest.mark.parametrize("value", [0.5, -0.0, math.inf, -math.inf, 5e-324, math.nan])
def test_floats_are_native_to_the_bit(codec, value):
    """
    float8 is the same IEEE format: the sign of zero, infinities and NaN included.
    """
    columns = codec.encode(value, "k", "k")
    back = codec.decode(columns, "k", "k")

    assert (columns[:3], columns[4]) == ((FLOAT, None, None), None)
    assert (math.isnan(back) and math.isnan(value)) or (back == value and str(back) == str(value))


@pytest.mark.parametrize(
    "value", [True, 2**63, -(2**63) - 1, Level.HIGH, Metres(1.5), None, "1", [1], b"", "x" * 10_000]
)
def test_all_else_comes_back_with_its_type(codec, value):
    """
    True is an int and an IntEnum too, but who stores them wants them back.
    """
    columns = codec.encode(value, "k", "k")
    back = codec.decode(columns, "k", "k")

    assert (columns[0], *columns[2:]) == (PICKLE, None, None, None)
    assert back == value
    assert type(back) is type(value)


def test_an_unknown_codec_is_not_guessed(codec):
    """
    A newer pgstore may write what this one cannot read.
    """
    with pytest.raises(errors.DeserializationError, match="does not know the codec 'z'") as caught:
        codec.decode(("z", b"data", None, None, None), "a", "a")

    assert caught.value.raw == b"data"
