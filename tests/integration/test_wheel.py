"""The wheel as users get it: built from the source archive, installed into a clean environment, away from here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(*command, **options):
    """Run *command* to its end and return what it printed; what it complained about is in the failure."""
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shipped(folder):
    """The files below *folder* of the checkout that belong into a wheel."""
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT / folder).as_posix() for path in files}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source archive and the wheel built from it."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (source,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def python(archives, tmp_path_factory):
    """The interpreter of an environment in which there is the wheel, what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", archives[1])
    return python


@pytest.fixture
def environ(empty_database):
    """The environment of a user whose database has never seen pgstore."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG", "PYTHON"))}
    return {**kept, "PGSTORE_URL": empty_database, "NO_COLOR": "1"}


def test_the_wheel_has_the_migrations_and_the_schema(archives):
    """
    Without them the package installs, imports, and fails on its first database.
    """
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())

    for folder, packaged in [("alembic", "pgstore/_migrations"), ("sql", "pgstore/_sql")]:
        assert {f"{packaged}/{name}" for name in shipped(folder)} == {
            name for name in names if name.startswith(f"{packaged}/")
        }
    assert {f"pgstore/{name}" for name in shipped("pgstore")} <= names
    assert not [name for name in names if name.startswith("tests/") or name.endswith(".pyc")]


def test_the_description_of_the_package_is_the_readme_without_links_to_files(archives):
    """
    On the page of a package index such links lead nowhere; what they are called says enough.
    """
    with zipfile.ZipFile(archives[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        _, _, description = wheel.read(name).decode().partition("\n\n")

    assert description.startswith("# pgstore\n")
    assert "`help(pgstore.Queue)`" in description
    assert "sql/README.md: twenty queries" in description
    assert re.findall(r"\]\(|<!--", description) == []


def test_the_source_archive_has_what_a_packager_needs(archives):
    """
    Distributions build and test from it.
    """
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"pyproject.toml", "LICENSE", "CHANGELOG.md", "tests/conftest.py"} <= names
    assert {f"sql/{name}" for name in shipped("sql")} | {f"alembic/{name}" for name in shipped("alembic")} <= names


def test_the_command_explains_itself(python, environ, tmp_path):
    """
    The first thing a user runs.
    """
    assert "migrate" in run(python.with_name("pgstore"), "--help", cwd=tmp_path, env=environ)


def test_the_command_migrates_from_the_wheel(python, environ, tmp_path):
    """
    The migrations are found without a checkout beside the package, as often as one runs it.
    """
    run(python.with_name("pgstore"), "migrate", cwd=tmp_path, env=environ)
    run(python.with_name("pgstore"), "migrate", cwd=tmp_path, env=environ)


def test_the_example_runs_on_the_wheel(python, environ, tmp_path):
    """
    A user who copies the example has its result, on a database that was empty.
    """
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"some words in file {number}\n" * 20)

    run(python, ROOT / "examples" / "pipeline.py", folder, "--workers", "2", cwd=tmp_path, env=environ)
