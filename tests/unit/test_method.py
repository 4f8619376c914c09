"""Methods with two forms look like methods: to `help`, to `inspect`, and when they are taken from the class."""

from __future__ import annotations

import inspect
import pydoc

import pytest

import pgstore
from pgstore import Dict, NetworkFileSystem, Queue, Volume

METHODS = [
    (kind, name)
    for kind in (Dict, Queue, Volume, NetworkFileSystem)
    for name in dir(kind)
    if not name.startswith("_") and callable(getattr(kind, name))
]


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda it: getattr(it, "__name__", it))
def test_help_has_the_signature_and_the_docstring_of_every_method(kind, name):
    """
    What the editor shows, and what `help` prints, is the documentation that most people read.
    """
    handle = kind.from_name("x")

    for method in (getattr(kind, name), getattr(handle, name)):
        shown = pydoc.plain(pydoc.render_doc(method))

        assert f"{name}(" in shown
        assert (inspect.getdoc(method) or "?").splitlines()[0] in shown
        assert getattr(method, "__name__", None) == name


@pytest.mark.parametrize("name", [name for name in pgstore.__all__ if name != "errors"])
def test_every_public_name_has_a_docstring(name):
    public = getattr(pgstore, name)

    own = public.__doc__ or ""

    assert len(own) > 10
    assert not own.startswith(f"{name}(")  # what dataclasses make by themselves


def test_a_method_tells_what_a_call_of_it_takes_and_gives():
    bound = inspect.signature(Dict.from_name("x").contains)
    unbound = inspect.signature(Dict.contains)
    iterating = inspect.signature(Volume.from_name("x").iterdir)

    assert list(bound.parameters) == ["key"]
    assert list(unbound.parameters) == ["self", "key"]
    assert (bound.return_annotation, iterating.return_annotation) == ("bool", "PagedIterator[FileEntry]")


def test_help_on_a_class_lists_its_operations_among_the_methods():
    shown = pydoc.plain(pydoc.render_doc(Volume))

    before, found, _ = shown.partition("put_file(self, local_file")
    headings = [
        line
        for line in before.splitlines()
        if line.startswith((" |  Methods", " |  Data", " |  Readonly", " |  Class"))
    ]

    assert found
    assert headings[-1].startswith(" |  Methods")


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = Dict.from_name("x").put.nothing  # type: ignore[attr-defined]
