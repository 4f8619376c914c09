"""The wheel as users get it: built from the source archive, installed into a clean environment, away from here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT_AT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)

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


def built(checkout, folder, **variables):
    """The source archive and the wheel that *checkout* gives, built into *folder*."""
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(int(BUILT_AT.timestamp())), **variables}
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout, env=environ)
    (source,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source archive and the wheel built from it."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    return built(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(archives, tmp_path_factory):
    """The interpreter of an environment in which there is the wheel, what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-input", "--no-compile", archives[1])  # compiled is what is imported, then
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


def test_another_clone_elsewhere_at_another_time_gives_the_same_bytes(archives, tmp_path):
    """
    Whoever has the sources can check that what they install was made of them.
    """
    listed = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    before = os.umask(0o077)
    try:
        for name in reversed(listed.split("\0")[:-1]):  # folders list their files in another order then
            if (ROOT / name).exists():  # not of a file that is being deleted
                target = tmp_path / "another name" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
                os.utime(target, (0, 1_000_000_000))
        again = built(tmp_path / "another name", tmp_path, TZ="Asia/Kathmandu", PYTHONHASHSEED="7")
    finally:
        os.umask(before)

    assert [path.name for path in again] == [path.name for path in archives]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in archives]
    with zipfile.ZipFile(archives[1]) as wheel, tarfile.open(archives[0]) as source:
        assert {entry.date_time for entry in wheel.infolist()} == {BUILT_AT.timetuple()[:6]}
        assert {entry.mtime for entry in source} == {BUILT_AT.timestamp()}


def test_the_wheel_says_what_it_is(archives):
    """
    What an index and an installer go by.
    """
    with zipfile.ZipFile(archives[1]) as wheel:
        names = wheel.namelist()
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()

    assert (metadata["Metadata-Version"], metadata["License-Expression"]) == ("2.4", "Apache-2.0")
    assert metadata["Requires-Python"] == ">=3.11"
    assert {f"{info}/licenses/LICENSE", "pgstore/py.typed"} <= set(names)
    versions = {each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", []) if " :: 3." in each}
    assert versions == {"3.11", "3.12", "3.13"}
    assert set(metadata.get_all("Provides-Extra", [])) >= {"all", "buckets", "embedded", "fsspec", "otel", "secrets"}
    assert "pgstore = pgstore." in entry_points
    assert "pgstorenfs = pgstore.fsspec:" in entry_points


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
