"""Where the files are that are shipped beside the code: in a checkout at its top level, in a wheel inside the package."""

from __future__ import annotations

from pathlib import Path

from pgstore import errors


def migration_directory() -> Path:
    """Return the folder of env.py and versions/."""
    return _directory("alembic", "_migrations", "env.py")


def sql_directory() -> Path:
    """Return the folder of schema.sql, admin/ and checks/."""
    return _directory("sql", "_sql", "schema.sql")


def examples_directory() -> Path:
    """Return the folder of pipeline.py, which `pgstore demo` runs."""
    return _directory("examples", "_examples", "pipeline.py")


def _directory(in_checkout: str, in_package: str, file: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    candidates = [package / in_package]
    # A checkout's own folders come first, should someone have built into its package. Beside an installed package,
    # though, lies site-packages/alembic, which is alembic itself: hence the look for pyproject.toml.
    if (package.parent / "pyproject.toml").is_file():
        candidates.insert(0, package.parent / in_checkout)
    for candidate in candidates:
        if (candidate / file).is_file():
            return candidate
    raise errors.ConfigurationError(f"pgstore is not completely installed: {package / in_package / file} is missing")
