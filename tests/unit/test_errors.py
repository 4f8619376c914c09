"""Errors are also what Python calls the situation: with what Python's own tell, and through pickles and copies."""

from __future__ import annotations

import copy
import errno
import inspect
import os
import pickle
import re

import pytest

from pgstore import errors

OS_ERRORS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, OSError) and not kind.__name__.startswith("_")
]


@pytest.mark.parametrize("kind", OS_ERRORS, ids=lambda kind: kind.__name__)
def test_an_os_error_has_errno_strerror_and_filename(kind):
    error = kind("what was given, and what to do", "a/b")
    error.add_note("a note")

    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(each) is kind
        assert str(each) == "what was given, and what to do"
        assert each.strerror == os.strerror(each.errno)
        assert each.filename == "a/b"
        assert each.__notes__ == ["a note"]
    assert kind("text").filename is None


@pytest.mark.parametrize("kind", OS_ERRORS, ids=lambda kind: kind.__name__)
def test_python_has_the_class_of_an_os_error_for_its_errno(kind):
    """
    Whoever tells errors apart by errno, and whoever does by class, come to the same.
    """
    assert isinstance(kind("text"), type(OSError(kind("text").errno, "text")))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOENT, errors.FileMissing),
        (errno.EPERM, errors.FileUnreadable),
        (errno.ENOTEMPTY, errors.DirectoryNotEmpty),
        (errno.ELOOP, errors.LinkLoop),
        (errno.ENOSPC, errors.FileFailed),
        (errno.EMFILE, errors.FileFailed),
    ],
)
def test_an_error_of_this_machine_keeps_its_errno(number, expected):
    error = errors.of_local(OSError(number, os.strerror(number), "given"), "local file 'x'", "x")

    assert type(error) is expected
    assert (error.errno, error.strerror, error.filename) == (number, os.strerror(number), "x")


ALL = {
    name
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, BaseException) and kind.__module__ == errors.__name__
} - {"Error", "_SystemError"}


def test_the_docstring_has_every_error_in_the_tree_and_what_to_do_about_it():
    """
    `help("pgstore.errors")` is where somebody looks who has met one.
    """
    tree, _, rest = (errors.__doc__ or "").partition("What to do about each:")
    table = rest.partition("Messages say")[0]

    in_tree = re.findall(r"(?m)^ *(?:[│├└─ ]*)([A-Z]\w+)(?: \([\w., ]+\))?  ", tree)
    in_table = re.findall(r"(?m)^([A-Z]\w+) {2,}\S", table)

    assert sorted(in_tree) == sorted(ALL)
    assert in_table == in_tree, "in the order of the tree"
