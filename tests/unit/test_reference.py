"""The reference: what `help`, editors and pdoc show of the public names."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import pgstore

CLASSES = [name for name in pgstore.__all__ if inspect.isclass(getattr(pgstore, name))]


@pytest.mark.parametrize("name", CLASSES)
def test_the_type_hints_of_every_public_method_can_be_asked_for(name):
    """
    Frameworks that read signatures, such as FastAPI and typer, ask at run time.
    """
    kind = getattr(pgstore, name)
    for method, member in inspect.getmembers(kind):
        function = inspect.unwrap(member) if callable(member) else None
        if not method.startswith("_") and inspect.isfunction(function):
            assert isinstance(typing.get_type_hints(function), dict), method


def test_the_reference_renders_without_a_warning(tmp_path):
    """
    A warning is an annotation that pdoc cannot read, so a gap in a page.
    """
    command = [sys.executable, "-W", "error", "-m", "pdoc", "pgstore", "-o", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    pages = (tmp_path / "pgstore.html").read_text()
    assert [name for name in pgstore.__all__ if name != "errors" and f'id="{name}"' not in pages] == []


def test_tables_in_docstrings_are_shown_as_they_stand():
    """
    pdoc takes the lines of one for a paragraph, and runs them together, unless they are a block of text.
    """
    table = re.compile(r"(?m)^ *={3,} +={3,}")
    for path in sorted(Path(pgstore.__file__).parent.rglob("*.py")):
        outside = re.sub(r"(?ms)^ *```text\n.*?```$", "", path.read_text())
        assert not table.search(outside), path
