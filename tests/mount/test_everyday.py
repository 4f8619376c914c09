"""Programs as people run them, on a mounted NetworkFileSystem and a mounted Volume: by root, by a user on what root has mounted,
and by a user who has mounted it. Each does what it does on a local disk, and the store has what it wrote, byte for byte.

`-m everyday` runs them with more files and lines, and those that take long.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import pgstore
from tests.fixtures.trees import assert_sound
from tests.mount.checks.tools import USER
from tests.mount.conftest import reachable_directory, skip_without_fuse

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "everyday"
SECONDS_MAX = 100
NEEDED = {
    "git.sh": "git",
    "make.sh": "make",
    "copies.sh": "rsync",
    "archives.py": "zip",
    "vi.sh": "vi",
    "fio.sh": "fio",
}
QUICK = (
    *("git.sh", "tar.sh", "make.sh", "copies.sh", "holes.py", "sqlite.py", "arrays.py", "frames.py", "editors.py"),
    *("vi.sh", "logs.py", "archives.py", "environment.sh", "threads.py", "names.py", "many.sh", "removal.py"),
)
OF_USERS = ("git.sh", "tar.sh", "copies.sh", "sqlite.py", "editors.py", "threads.py", "names.py")
"""Of these what users do as well in a quick run: where owners and permissions matter."""
LONG = (*QUICK, "pip.sh", "fio.sh")
KINDS = ("NetworkFileSystem", "Volume")
WHO = {"root": (0, 0), "a user": (0, USER), "a user who mounts": (USER, USER)}
"""Who mounts, and who runs programs."""


class Mounted:
    """A store that a process of its own has mounted, and how *user* runs programs there."""

    def __init__(self, kind: str, database: str, by: int, user: int, directory: Path) -> None:
        self.user = user
        found = python_for(user)
        skip_without_fuse("users cannot run a Python of this version" if found is None else None)
        assert found is not None
        self.python, self.python_path = found
        self.place = directory / "mounted"
        self.home = directory / "home"
        self.sources = directory / "sources"
        shutil.copytree(REPOSITORY / "pgstore", self.sources, ignore=shutil.ignore_patterns("__pycache__"))
        for each, owner in ((self.place, by), (self.home, user)):
            each.mkdir()
            os.chown(each, owner, owner)
        self.client = pgstore.Client(database)
        name = f"everyday-{uuid.uuid4().hex[:8]}"
        self.store: Any = getattr(pgstore, kind).from_name(name, create_if_missing=True, client=self.client).hydrate()
        self.store.chown("/", user, user)
        self.holder = subprocess.Popen(
            [self.python, "-m", "tests.mount.everyday.holder", kind, name, str(self.place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=self.environment(),
            **as_user(by),
        )
        self.tell(database)

    def tell(self, line: str) -> None:
        assert self.holder.stdin is not None
        assert self.holder.stdout is not None
        self.holder.stdin.write(f"{line}\n")
        self.holder.stdin.flush()
        assert self.holder.stdout.readline() in ("mounted\n", "done\n")

    def environment(self, times: int = 1) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))},
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            **{f"GIT_{role}_{what}": "somebody" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "init.defaultBranch",
            "GIT_CONFIG_VALUE_0": "main",
            "PYTHON": self.python,
            "PYTHONPATH": self.python_path,
            "SOURCES": str(self.sources if times > 1 else self.sources / "mount"),
            "TIMES": str(times),
        }

    def run(self, script: str, *arguments: str, times: int = 1) -> str:
        """What *script* writes, in a new directory, of which it is the name."""
        here = self.place / script
        interpreter = [self.python] if script.endswith(".py") else ["bash", "-eux", "-o", "pipefail"]
        command = ["sh", "-c", 'mkdir -p "$0" && cd "$0" && exec "$@"', str(here), *interpreter, str(SCRIPTS / script)]
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX * times,
            check=False,
            env=self.environment(times),
            stdin=subprocess.DEVNULL,
            **as_user(self.user),
        )
        assert done.returncode == 0, (
            f"{script}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
        return done.stdout

    def snapshot(self, below: str) -> dict[str, list[object]]:
        """What programs see of the directory *below*."""
        seen: dict[str, list[object]] = json.loads(self.run("snapshot.py", str(self.place / below)))
        return seen

    def remove(self, name: str) -> None:
        subprocess.run(["rm", "-r", self.place / name], check=True, timeout=SECONDS_MAX, **as_user(self.user))

    def end(self) -> None:
        try:
            _, _ = self.holder.communicate(timeout=SECONDS_MAX)
            assert self.holder.returncode == 0
        finally:
            self.holder.kill()
            subprocess.run(["umount", "-l", self.place], check=False, capture_output=True)
            self.client.close()


@functools.cache
def python_for(user: int) -> tuple[str, str] | None:
    """A Python that *user* may run, and the $PYTHONPATH with which it is as this one; None: there is none."""
    beside = shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable
    packages = os.pathsep.join(path for path in sys.path if path.endswith("-packages"))  # compiled for this version
    for python, path in ((sys.executable, ""), (beside, packages)):
        command = [
            python,
            "-c",
            f"import sys, pgstore, numpy; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})",
        ]
        with contextlib.suppress(PermissionError):
            environment = {**os.environ, "PYTHONPATH": path}
            done = subprocess.run(
                command, capture_output=True, check=False, cwd=REPOSITORY, env=environment, **as_user(user)
            )
            if done.returncode == 0:
                return python, path
    return None


def as_user(uid: int) -> dict[str, Any]:
    return {"user": uid, "group": uid, "extra_groups": []} if uid else {}


def in_store(store: Any, below: str) -> dict[str, list[object]]:
    """What `snapshot` is to show of the directory *below*, from the store itself."""
    return {
        entry.path.removeprefix(f"{below}/"): of_store(store, entry.path)
        for entry in store.listdir(below, recursive=True)
    }


def of_store(store: Any, path: str) -> list[object]:
    found = store.stat(path, follow_symlinks=False)
    kind = {"FILE": "-", "DIRECTORY": "d", "SYMLINK": "l", "FIFO": "p", "SOCKET": "s"}[found.type.name]
    inside: list[object] = []
    if kind == "-":
        digest = hashlib.sha256()
        for block in store.read_file(path):
            digest.update(block)
        inside = [found.size, digest.hexdigest()]
    elif kind == "l":
        inside = [found.size, base64.b64encode(os.fsencode(store.readlink(path))).decode()]
    return [kind, found.mode, found.uid, found.gid, found.mtime_ns, found.link_count if kind != "d" else 1, *inside]


@pytest.fixture(scope="module")
def mounted(request, fuse, database) -> Iterator[Mounted]:
    kind, who = request.param
    by, user = WHO[who]
    if user:
        request.getfixturevalue("fuse_of_users")
    with reachable_directory() as directory:
        mounted = Mounted(kind, database, by, user, directory)
        with contextlib.ExitStack() as stack:
            stack.callback(mounted.end)
            yield mounted
        with pgstore.Client(database) as client:
            assert_sound(database, getattr(pgstore, kind).from_name(mounted.store.name, client=client))


@pytest.fixture
def nfs(client, store_name):
    return pgstore.NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def nfs_elsewhere(nfs, client_elsewhere):
    return pgstore.NetworkFileSystem.from_name(nfs.name, client=client_elsewhere)


def check(mounted: Mounted, script: str, times: int) -> None:
    program = NEEDED.get(script)
    if program is not None and shutil.which(program) is None:
        skip_without_fuse(f"{program} is not installed")
    mounted.run(script, times=times)
    seen = mounted.snapshot(script)
    mounted.tell("commit")
    assert in_store(mounted.store, script) == seen
    mounted.remove(script)


def mounts(who: str, *more: object, marks: Sequence[pytest.MarkDecorator] = ()) -> list[Any]:
    return [pytest.param((kind, who), *more, id=", ".join((kind, who, *map(str, more))), marks=marks) for kind in KINDS]


def cases(scripts: dict[str, Sequence[str]]) -> list[Any]:
    return [each for who, names in scripts.items() for name in names for each in mounts(who, name)]


@pytest.mark.parametrize(
    ("mounted", "script"),
    cases({who: QUICK if who == "root" else OF_USERS for who in WHO}),
    indirect=["mounted"],
)
def test_a_program_does_what_it_does_on_a_local_disk(mounted, script):
    check(mounted, script, times=1)


@pytest.mark.everyday
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("mounted", "script"), cases(dict.fromkeys(WHO, LONG)), indirect=["mounted"])
def test_a_program_does_much_of_what_it_does_on_a_local_disk(mounted, script):
    check(mounted, script, times=10)


@pytest.mark.parametrize(
    "mounted",
    [each for who in WHO for each in mounts(who, marks=[] if who == "root" else [pytest.mark.everyday])],
    indirect=True,
)
def test_what_programs_wrote_is_there_when_it_is_mounted_anew(mounted):
    for script in ("copies.sh", "names.py", "archives.py"):
        mounted.run(script)
    seen = mounted.snapshot(".")

    mounted.tell("remount")

    assert mounted.snapshot(".") == seen


def test_a_program_follows_a_log_that_another_mount_appends_to(nfs, nfs_elsewhere, directory, fuse):
    """
    And does not miss that it is turned over.
    """
    here, elsewhere = directory / "here", directory / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    with nfs.mount(here, mode="fuse"), nfs_elsewhere.mount(elsewhere, mode="fuse"):
        (elsewhere / "log").touch()
        command = ["tail", "-s", "0.05", "-n", "+1", "-F", here / "log"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
            assert tail.stdout is not None
            for number in range(40):
                if number % 10 == 9:
                    os.rename(elsewhere / "log", elsewhere / f"log.{number}")
                with open(elsewhere / "log", "a") as log:
                    log.write(f"{number}\n")
                assert tail.stdout.readline() == f"{number}\n".encode()
            tail.kill()


ROUNDS = """
import os, sys
here, elsewhere = sys.argv[1:]
for number in range(400):
    text = f"{number} " * (number % 40 + 1)
    name = f"{here}/file" if number % 2 else f"{here}/new"
    with open(name, "r+" if number % 4 == 3 else "w") as file:
        file.write(text)
        file.truncate()
    if not number % 2:
        os.rename(name, f"{here}/file")
    with open(f"{elsewhere}/file") as file:
        assert file.read() == text, number
    here, elsewhere = elsewhere, here
"""


def test_what_either_mount_closes_a_program_opens_on_the_other(nfs, nfs_elsewhere, directory, fuse):
    here, elsewhere = directory / "here", directory / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    with nfs.mount(here, mode="fuse"), nfs_elsewhere.mount(elsewhere, mode="fuse"):
        subprocess.run([sys.executable, "-c", ROUNDS, here, elsewhere], check=True, timeout=60)
