"""Random changes of a tree, done to two directories: each must succeed in both, or fail in both with one errno."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.mount.checks.tools import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

NAMES = ("a", "b", "c")
COMPARED_EVERY = 50

Change = Callable[[Path], Any]


def compare(path: Path, model: Path, *, seed: int, operations: int) -> None:
    """
    Do *operations* random changes to both, which are empty; fail where *path* differs from *model*, on a local disk.
    """
    choose = random.Random(seed)
    for number in range(operations):
        name, change = _change(choose)
        found, expected = _outcome(change, path), _outcome(change, model)
        assert found == expected, f"operation {number}, {name}: {found} instead of {expected}"
        if number % COMPARED_EVERY == 0:
            assert _tree(path) == _tree(model), f"after operation {number}, {name}"
    assert _tree(path) == _tree(model)


def _change(choose: random.Random) -> tuple[str, Change]:
    first, second = _relative(choose), _relative(choose)
    data = choose.randbytes(choose.randint(0, 3000))
    mode = choose.choice((0o600, 0o644, 0o755, 0o700))
    verb, change = choose.choice(
        (
            ("mkdir", lambda top: os.mkdir(top / first)),
            ("mkdir", lambda top: os.mkdir(top / first)),
            ("write", lambda top: _write(top / first, data, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)),
            ("append", lambda top: _write(top / first, data, os.O_WRONLY | os.O_APPEND)),
            ("create", lambda top: _write(top / first, data, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
            ("unlink", lambda top: os.unlink(top / first)),
            ("rmdir", lambda top: os.rmdir(top / first)),
            ("rename", lambda top: os.rename(top / first, top / second)),
            ("rename", lambda top: os.rename(top / first, top / second)),
            ("exchange", lambda top: renameat2(top / first, top / second, RENAME_EXCHANGE)),
            ("noreplace", lambda top: renameat2(top / first, top / second, RENAME_NOREPLACE)),
            ("link", lambda top: os.link(top / first, top / second, follow_symlinks=False)),
            ("symlink", lambda top: os.symlink(second.name, top / first)),
            ("fifo", lambda top: os.mkfifo(top / first)),
            ("chmod", lambda top: os.chmod(top / first, mode)),
            ("truncate", lambda top: os.truncate(top / first, len(data) // 2)),
            ("utime", lambda top: os.utime(top / first, ns=(7, len(data)))),
            ("setxattr", lambda top: os.setxattr(top / first, "user.x", data[:50])),
            ("removexattr", lambda top: os.removexattr(top / first, "user.x")),
            ("listdir", lambda top: sorted(os.listdir(top / first))),
            ("readlink", lambda top: os.readlink(top / first)),
        )
    )
    return f"{verb} {first} {second}", change


def _relative(choose: random.Random) -> Path:
    return Path(*choose.choices(NAMES, k=choose.choice((1, 1, 2, 2, 3))))


def _write(path: Path, data: bytes, flags: int) -> None:
    fd = os.open(path, flags | os.O_NONBLOCK)  # of a fifo nobody reads
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _outcome(change: Change, top: Path) -> Any:
    try:
        return change(top)
    except OSError as exc:
        return exc.errno


def _tree(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(directory, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            found[str(path.relative_to(top))] = (
                status.st_mode,
                status.st_nlink,
                os.readlink(path) if kind == stat.S_IFLNK else None,
                path.read_bytes() if kind == stat.S_IFREG else None,
                status.st_size if kind != stat.S_IFDIR else None,
                [(each, os.getxattr(path, each)) for each in os.listxattr(path, follow_symlinks=False)]
                if kind in (stat.S_IFREG, stat.S_IFDIR)
                else None,
            )
    return found
