"""What programs do to a directory, in a process of its own: plain calls of `os`, and no thread of whoever serves the files.

Run as a program it carries out a call a line, `[function, arguments]` as JSON, and answers `[amount, seconds, CPU seconds]`, or the
error as text. It imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
PIECE = os.urandom(4096)
OPEN: list[int] = []


def main() -> None:
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            begin = VERBS[name](*arguments)
            cpu, begun = time.process_time(), time.perf_counter()
            amount = begin()
            answer: Any = [amount, time.perf_counter() - begun, time.process_time() - cpu]
        except Exception as exc:
            answer = f"{name}{arguments}: {type(exc).__name__}: {exc}"
        print(json.dumps(answer), flush=True)


# Each prepares, and returns what is timed.


def write_large(path: str, size_mib: int) -> Callable[[], float]:
    """Random bytes, so that nobody finds zeros, or the same chunk twice; then fsync and close."""
    data = memoryview(os.urandom(16 * MIB))

    def run() -> float:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for at in range(size_mib):
            start = at % 15 * MIB + at * 64  # no MiB is like another
            os.write(fd, data[start : start + MIB])
        os.fsync(fd)
        os.close(fd)
        return size_mib * MIB / 1e6

    return run


def write_small_pieces(path: str, count: int) -> Callable[[], float]:
    """4 KiB at a time in order. The file stays open: what its close waits for is not timed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    OPEN.append(fd)

    def run() -> float:
        for _ in range(count):
            os.write(fd, PIECE)
        return count * 4096 / 1e6

    return run


def read_large(path: str) -> Callable[[], float]:
    def run() -> float:
        fd = os.open(path, os.O_RDONLY)
        buffer = bytearray(MIB)
        done = 0
        while count := os.readv(fd, [buffer]):
            done += count
        os.close(fd)
        return done / 1e6

    return run


def read_large_cold(path: str) -> Callable[[], float]:
    """After the kernel has dropped the file's pages."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return read_large(path)


def create(directory: str, count: int) -> Callable[[], float]:
    os.mkdir(directory)

    def run() -> float:
        for at in range(count):
            os.close(os.open(f"{directory}/{at:05}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        return count

    return run


def write_files(directory: str, count: int) -> Callable[[], float]:
    os.mkdir(directory)

    def run() -> float:
        for at in range(count):
            fd = os.open(f"{directory}/{at:05}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(fd, PIECE)
            os.close(fd)
        return count

    return run


def read_files(directory: str, count: int) -> Callable[[], float]:
    """open, read, close."""

    def run() -> float:
        for at in range(count):
            fd = os.open(f"{directory}/{at:05}", os.O_RDONLY)
            if len(os.read(fd, 8192)) != len(PIECE):
                raise AssertionError(f"{directory}/{at:05} is short")
            os.close(fd)
        return count

    return run


def stat_files(directory: str, count: int) -> Callable[[], float]:
    """Again and again, for one round of them takes no time."""
    names = [f"{directory}/{at:05}" for at in range(count)]
    for name in names:
        os.stat(name)

    def run() -> float:
        for _ in range(10):
            for name in names:
                os.stat(name)
        return 10 * count

    return run


def missing(directory: str, count: int) -> Callable[[], float]:
    """One name that is not there, which has been asked for before."""
    path = f"{directory}/missing"
    os.path.lexists(path)

    def run() -> float:
        for _ in range(count):
            os.path.lexists(path)
        return count

    return run


def list_long(directory: str) -> Callable[[], float]:
    """`ls -l`, as a number of listings."""

    def run() -> float:
        with os.scandir(directory) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
        return 1

    return run


def list_names(directory: str, least: int) -> Callable[[], float]:
    def run() -> float:
        with os.scandir(directory) as entries:
            count = sum(1 for _ in entries)
        if count < least:
            raise AssertionError(f"{directory} has {count} names, and not {least}")
        return count

    return run


def rename_files(directory: str, count: int) -> Callable[[], float]:
    def run() -> float:
        for at in range(count):
            os.rename(f"{directory}/{at:05}", f"{directory}/renamed {at:05}")
        return count

    return run


def unlink_files(directory: str, count: int) -> Callable[[], float]:
    """What `rename_files` has left."""

    def run() -> float:
        for at in range(count):
            os.unlink(f"{directory}/renamed {at:05}")
        return count

    return run


def git(directory: str, files: int, *clone_options: str) -> Callable[[], float]:
    """init, add, commit, gc, clone."""
    os.mkdir(directory)
    repository = f"{directory}/repository"
    environment = {
        **os.environ,
        **{f"GIT_{who}_{what}": "bench@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }

    def call(*arguments: str) -> None:
        done = subprocess.run(
            ["git", *arguments], check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode:
            raise AssertionError(f"git {arguments}: {done.stdout.decode(errors='replace')[-300:]}")

    def run() -> float:
        call("init", "-q", repository)
        for at in range(files):
            os.makedirs(f"{repository}/{at % 20}", exist_ok=True)
            with open(f"{repository}/{at % 20}/{at}.py", "wb") as file:
                file.write(f"# file {at}\n".encode() * (at % 200 + 1))
        call("-C", repository, "add", ".")
        call("-C", repository, "commit", "-q", "-m", "all")
        call("-C", repository, "gc", "-q")
        call("clone", "-q", *clone_options, repository, f"{directory}/clone")
        return 1

    return run


def remove(path: str) -> Callable[[], float]:
    def run() -> float:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        return 1

    return run


def replace(path: str, text: str) -> Callable[[], float]:
    """Write a file anew, in place, and close it."""

    def run() -> float:
        with open(path, "w") as file:
            file.write(text)
        return 1

    return run


def read_text(path: str) -> Callable[[], str]:
    """All of a small file."""

    def run() -> str:
        with open(path) as file:
            return file.read()

    return run


def close_all() -> Callable[[], float]:
    def run() -> float:
        while OPEN:
            os.close(OPEN.pop())
        return 1

    return run


def make_name(path: str) -> Callable[[], float]:
    """Returns when it was made, by the clock of all processes."""

    def run() -> float:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        return time.monotonic()

    return run


def remove_name(path: str) -> Callable[[], float]:
    def run() -> float:
        os.unlink(path)
        return time.monotonic()

    return run


def wait_for_name(path: str, is_there: bool) -> Callable[[], float]:
    """Look again and again; returns when it was there, or gone."""

    def run() -> float:
        until = time.monotonic() + 10
        while os.path.lexists(path) != is_there and time.monotonic() < until:
            time.sleep(0.0005)
        return time.monotonic()

    return run


VERBS: dict[str, Callable[..., Callable[[], Any]]] = {
    function.__name__: function
    for function in (
        *(write_large, write_small_pieces, read_large, read_large_cold, create, write_files, read_files, stat_files),
        *(missing, list_long, list_names, rename_files, unlink_files, git, remove, replace),
        *(read_text, close_all, make_name, remove_name, wait_for_name),
    )
}

if __name__ == "__main__":
    main()
