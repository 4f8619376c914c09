"""Run pjdfstest and fsx, the originals, on mounts: python -m tests.mount.originals [--pjdfstest DIR] [--fsx PROGRAM]

As root, on a server of its own. `tests/mount/checks` has what they check in small, for every run; these take 20 minutes.

    git clone https://github.com/pjd/pjdfstest && cd pjdfstest && autoreconf -ifs && ./configure && make pjdfstest
    python -m tests.mount.originals --pjdfstest pjdfstest

`fsx` is ltp/fsx of xfstests (git://git.kernel.org/pub/scm/fs/xfs/xfstests-dev.git), which `./configure && make` builds there.

pjdfstest has 8,798 assertions. Four of them hold for no mount: directories have one link here, whatever is in them.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pgstore
from tests.fixtures.server import Server, migrate
from tests.fixtures.trees import assert_sound
from tests.mount.conftest import reachable_directory

KINDS: Final = (
    ("Volume", "rows"),
    ("NetworkFileSystem", "rows"),
    ("Volume", "large_object"),
    ("NetworkFileSystem", "large_object"),
)
OF_CONTENTS: Final = ("ftruncate", "open", "posix_fallocate", "truncate", "unlink")
"""What of pjdfstest looks at bytes: the rest is the same, whatever they lie in."""
KNOWN: Final = {"rename/24.t": "4-5, 8-9"}  # st_nlink of directories
FSX: Final[dict[str, tuple[str, ...]]] = {
    "plain": (),
    "closing and opening": ("-c", "20"),
    "without the cache": ("-f",),
    "without maps": ("-R", "-W"),
    "large": ("-l", "4000000", "-o", "300000"),
    "direct": ("-Z", "-R", "-W", "-r", "4096", "-w", "4096", "-t", "4096"),
    "synchronous": ("-y",),
    "bytes behind the end": ("-e", "1"),
}
FAILED: Final = re.compile(r"^\S*/tests/(\S+) +\(Wstat: .*\)\n  Failed tests?: +(.*)$", re.MULTILINE)
SECONDS_MAX: Final = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pjdfstest", type=Path, help="its directory, where it is built")
    parser.add_argument("--fsx", type=Path, help="the program")
    parser.add_argument("--operations", type=int, default=3000, help="of each run of fsx")
    parser.add_argument("--kinds", type=int, nargs="*", default=range(len(KINDS)), help=f"which of {KINDS}, from 0")
    arguments = parser.parse_args()
    has_failed = False
    with Server() as server:
        url = server.create_database()
        migrate(url)
        for number in arguments.kinds:
            with mounted(url, *KINDS[number]) as directory:
                if arguments.pjdfstest is not None:
                    has_failed |= not pjdfstest(arguments.pjdfstest.resolve(), directory, *KINDS[number])
                if arguments.fsx is not None:
                    has_failed |= not fsx(arguments.fsx.resolve(), arguments.operations, directory, *KINDS[number])
    sys.exit(has_failed)


@contextlib.contextmanager
def mounted(url: str, kind: str, storage: str) -> Iterator[Path]:
    with pgstore.Client(url) as client, reachable_directory() as directory:
        of_kind: Any = getattr(pgstore, kind)
        store = of_kind.from_name(f"{kind}-{storage}", create_if_missing=True, client=client, storage=storage)
        with store.mount(directory, mode="fuse"):
            yield directory
        assert_sound(url, store)


def pjdfstest(sources: Path, directory: Path, kind: str, storage: str) -> bool:
    here = directory / "pjdfstest"
    here.mkdir()
    parts = [sources / "tests"] if storage == "rows" else [sources / "tests" / name for name in OF_CONTENTS]
    began = time.monotonic()
    command: list[str | Path] = ["prove", "-r", *parts]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    failed = dict(FAILED.findall(done.stdout))
    unexpected = {name: numbers for name, numbers in failed.items() if KNOWN.get(name) != numbers}
    is_good = not unexpected and (done.returncode == 0) == (not failed)
    print(f"{kind}, {storage}: pjdfstest, {done.stdout.strip().splitlines()[-2]}; {time.monotonic() - began:.0f} s")
    print("  failed as known:", failed, "\n  failed:", unexpected if is_good else unexpected or done.stderr, flush=True)
    return is_good


def fsx(program: Path, operations: int, directory: Path, kind: str, storage: str) -> bool:
    is_good = True
    with reachable_directory() as logs:
        for seed, (name, options) in enumerate(FSX.items(), 11):
            command: list[str | Path] = [program, "-q", "-P", logs, "-N", str(operations), "-S", str(seed), *options]
            done = subprocess.run(
                [*command, directory / f"fsx-{seed}"], capture_output=True, text=True, check=False, timeout=SECONDS_MAX
            )
            is_good &= done.returncode == 0
            said = (done.stdout + done.stderr).strip().splitlines()
            print(f"{kind}, {storage}: fsx {name}: {said[-1] if done.returncode == 0 else said}", flush=True)
    return is_good


if __name__ == "__main__":
    main()
