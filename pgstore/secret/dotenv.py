"""Files of variables, such as `.env`: found, and read by the package python-dotenv."""

from __future__ import annotations

from pathlib import Path

from pgstore import errors
from pgstore.secret.values import Values


def find(start: Path, filename: str) -> Path | None:
    """The file of this name in *start*, a directory, or in the nearest above it."""
    for directory in (start, *start.parents):
        if (directory / filename).is_file():
            return directory / filename
    return None


def read(path: Path) -> Values:
    """
    The variables that the file sets. `${NAME}` in a value is that variable, of the file or of the environment.

    Raises:
        ConfigurationError: python-dotenv is not installed.
    """
    try:
        from dotenv import dotenv_values
    except ImportError as exc:
        raise errors.ConfigurationError(
            f"reading {str(path)!r} takes the package python-dotenv: pip install 'pgstore[secrets]'"
        ) from exc
    try:
        return Values((key, value or "") for key, value in dotenv_values(path, encoding="utf-8").items())
    except OSError as exc:
        raise errors.of_local(exc, f"cannot read {str(path)!r}", str(path)) from exc
    except UnicodeDecodeError as exc:
        # Not as its cause: that shows the bytes.
        raise errors.InvalidError(f"{str(path)!r} is not UTF-8 (byte {exc.start})") from None
