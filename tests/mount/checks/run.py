"""Run checks in a process of its own: python -m tests.mount.checks.run DIRECTORY [--user UID] [NAME ...]

Each gets a new directory below DIRECTORY. A line of JSON for each says its name, and how it failed or null. Checks of `permissions`
run as root alone. With --user all is done by that user, to whom DIRECTORY must belong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import traceback
from pathlib import Path

from tests.mount.checks import attributes, contents, directories, names, permissions
from tests.mount.checks.tools import Check

COMMON: dict[str, Check] = {
    check.__name__: check for check in (*names.CHECKS, *contents.CHECKS, *attributes.CHECKS, *directories.CHECKS)
}
ROOTS: dict[str, Check] = {check.__name__: check for check in permissions.CHECKS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--user", type=int)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.user is not None:
        os.setgroups([])
        os.setresgid(*(arguments.user,) * 3)
        os.setresuid(*(arguments.user,) * 3)
    os.umask(0o022)
    for name, check in (COMMON | (ROOTS if os.geteuid() == 0 else {})).items():
        if not arguments.names or name in arguments.names:
            print(json.dumps({"check": name, "failure": _failure(check, arguments.directory / name)}), flush=True)


def _failure(check: Check, directory: Path) -> str | None:
    try:
        directory.mkdir()
        check(directory)
        shutil.rmtree(directory)
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    main()
