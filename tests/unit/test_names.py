"""Names of stores and environments are checked where a handle is made, before any I/O."""

from __future__ import annotations

import pytest

import pgstore
from pgstore.core.names import check_name


@pytest.mark.parametrize("name", ["a", "A-z.0_9", "x" * 64, "-", "..."])
def test_a_name_of_1_to_64_plain_characters_is_accepted(name):
    assert check_name(name, "Dict") == name


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "empty"),
        ("x" * 65, "65 characters"),
        ("with space", "' '"),
        ("slash/", "'/'"),
        ("ümlaut", "'ü'"),
        ("nul\0", r"'\\x00'"),
        ("line\n", r"'\\n'"),
        (5, "int"),
        (b"bytes", "bytes"),
    ],
)
@pytest.mark.parametrize("kind", [pgstore.Dict, pgstore.Queue, pgstore.Volume])
def test_a_bad_name_is_refused_at_construction_and_the_message_says_why(kind, name, complaint):
    with pytest.raises(pgstore.InvalidError, match=complaint):
        kind.from_name(name)


def test_a_bad_environment_is_refused_at_construction():
    with pytest.raises(pgstore.InvalidError, match="environment name"):
        pgstore.Dict.from_name("ok", environment_name="not ok")
    with pytest.raises(pgstore.InvalidError, match="environment name"):
        pgstore.Client("", environment="x" * 65)


def test_stores_are_not_constructed_directly():
    """
    Modal's users are used to from_name; the error tells others.
    """
    with pytest.raises(pgstore.InvalidError, match="from_name"):
        pgstore.Dict()


def test_the_name_may_be_given_as_label_or_name():
    assert pgstore.Dict.from_name("a").name == pgstore.Dict.from_name(name="a").name == "a"
    assert pgstore.Queue.persist(label="a").name == "a"
    with pytest.raises(pgstore.InvalidError, match="one name"):
        pgstore.Dict.from_name("a", name="b")
