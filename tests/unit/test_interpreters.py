"""The other versions of Python that pgstore is for, where they are installed: each reads all of its sources without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
VERSIONS = [match[1] for each in CLASSIFIERS if (match := re.fullmatch(r".* :: (3\.\d+)", each))]
HERE = "{}.{}".format(*sys.version_info)

COMPILE = """
import sys
from pathlib import Path
paths = [path for folder in ("pgstore", "alembic", "examples") for path in Path(folder).rglob("*.py")]
for path in paths:
    compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
print("{}.{}".format(*sys.version_info), len(paths))
"""


def interpreter(version: str) -> str | None:
    """A Python of *version*: on the path, or one of pyenv's."""
    of_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    # First those of pyenv: what it has on the path may stand for a version that is not chosen.
    return str(of_pyenv[-1]) if of_pyenv else shutil.which(f"python{version}")


def test_the_versions_are_those_that_are_promised():
    assert HERE in VERSIONS
    assert VERSIONS[0] == "3.11"


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != HERE])
def test_another_python_reads_the_sources_without_a_warning(version):
    """
    Each new one warns of more: escapes in strings, `return` in `finally`.
    """
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")

    command = [python, "-I", "-W", "error", "-c", COMPILE]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    assert (done.stderr, done.returncode) == ("", 0)
    assert re.fullmatch(rf"{version} \d{{3,}}\n", done.stdout)
