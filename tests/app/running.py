"""Running programs as their users do: `pgstore run FILE`, or `python FILE`; as root or as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mount.test_everyday import as_user, python_for

SECONDS_MAX = 90
NOBODY = 65534
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Programs:
    """Runs programs on the database *url*, in *directory*."""

    url: str
    directory: Path
    user: int = 0
    mode: str = "auto"

    def pgstore(self, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Start `pgstore …`."""
        return self._start(["-c", "from pgstore.cli import main; main()", *map(str, arguments)], variables)

    def python(self, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Start `python …`."""
        return self._start(list(map(str, arguments)), variables)

    def _start(self, arguments: Sequence[str], variables: dict[str, str]) -> subprocess.Popen[str]:
        python, path = python_for(self.user) or (sys.executable, "") if self.user else (sys.executable, "")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PGSTORE_", "PG", "DATABASE", "XDG_"))
        }
        environ = {
            **kept,
            "PGSTORE_URL": self.url,
            "PGSTORE_MOUNT_MODE": self.mode,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), path])),
            "HOME": str(self.directory),
            "NO_COLOR": "1",
            "COLUMNS": "80",
        }
        return subprocess.Popen(
            [python, *arguments],
            cwd=self.directory,
            env={**environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **as_user(self.user),
        )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end; returns exit code, output, and what it wrote to stderr."""
    try:
        out, err = process.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it has not ended\n{out[-2000:]}\n{err[-4000:]}") from None
    return process.returncode, out, err


def output(process: subprocess.Popen[str]) -> str:
    """What a program prints that succeeds, and has nothing to complain about."""
    code, out, err = ended(process)
    assert (code, err) == (0, ""), f"exit code {code}\n{out[-2000:]}\n{err[-4000:]}"
    return out
