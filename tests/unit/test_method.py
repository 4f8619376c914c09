"""Methods with two forms look like methods: to `help`, to `inspect`, and when they are taken from the class."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import pydoc
import re
import typing

import pytest

import pgstore
from pgstore import Dict, NetworkFileSystem, Queue, Volume
from pgstore.core.operation import BoundOperation

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

    found = re.search(
        r"put_file\([\s|]*self,[\s|]*local_file", shown
    )  # from 3.13 on a long one has a line for each argument
    assert found
    before = shown[: found.start()]
    headings = [
        line
        for line in before.splitlines()
        if line.startswith((" |  Methods", " |  Data", " |  Readonly", " |  Class"))
    ]

    assert headings[-1].startswith(" |  Methods")


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = Dict.from_name("x").put.nothing  # type: ignore[attr-defined]


def test_annotations_say_what_a_call_takes_and_gives_in_both_forms():
    """
    Frameworks build forms, queries and completions from them.
    """
    entries, volume = Dict.from_name("x"), Volume.from_name("x")

    for method in (entries.put, entries.put.aio, Dict.put, Dict.put.aio):
        hints = typing.get_type_hints(method)
        assert hints["return"] is bool
        assert {"key", "value", "ttl"} <= set(hints)
    assert typing.get_type_hints(volume.iterdir)["return"] == pgstore.PagedIterator[pgstore.FileEntry]
    assert typing.get_type_hints(Dict.objects.create.aio)["return"] is type(None)
    assert list(inspect.signature(entries.put.aio).parameters)[:2] == ["key", "value"]


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda it: getattr(it, "__name__", it))
def test_the_awaitable_form_is_a_coroutine_function(kind, name):
    """
    Frameworks ask before they decide whether to await what a callback returns, or to run it in a thread and drop the coroutine.
    """
    method = getattr(kind.from_name("x"), name)

    if isinstance(method, BoundOperation):
        assert inspect.iscoroutinefunction(method.aio)
        assert inspect.iscoroutinefunction(functools.partial(method.aio))
        assert asyncio.iscoroutinefunction(method.aio)
        assert not inspect.iscoroutinefunction(method)


def test_a_forgotten_await_names_the_operation():
    coroutine = Dict.from_name("x").put.aio("k", 1)

    assert getattr(coroutine, "__qualname__", "").endswith(".put")  # as the warning has it
    coroutine.close()


def test_the_package_shows_public_names_alone():
    assert {name for name in dir(pgstore) if not name.startswith("__")} == set(pgstore.__all__)


def test_every_public_name_is_there():
    for name in pgstore.__all__:
        assert getattr(pgstore, name) is not None


def test_modals_errors_are_where_modal_has_them():
    assert pgstore.exception.NotFoundError is pgstore.NotFoundError


def test_a_missing_key_is_in_the_error_as_python_has_it():
    error = pgstore.errors.MissingKeyError("k", "'k' is not in the Dict")

    assert error.args == ("k",)
    assert str(error) == "'k' is not in the Dict"
    again = pickle.loads(pickle.dumps(error))
    assert (again.args, str(again)) == (error.args, str(error))
