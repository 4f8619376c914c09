"""Programs that write files, each in a process of its own, and say at the end what must be there by then.

`python writers.py KIND DIRECTORY` writes until a line comes on stdin, then has it all brought to the disk. On stdout it says
which contents each file must have, as JSON; or the error.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import sys
from collections.abc import Callable, Iterator

BLOCK = 65536


def is_asked_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def blocks(top: str) -> dict[str, str]:
    """Blocks of one file, in any order, now and then cut, and fsynced after every few."""
    rng = random.Random(top)
    written: dict[int, int] = {}
    fd = os.open(f"{top}/blocks", os.O_RDWR | os.O_CREAT)
    for number in numbers():
        at = rng.randrange(100)
        os.pwrite(fd, f"{number:08}".encode() * (BLOCK // 8), at * BLOCK)
        written[at] = number
        if number % 97 == 0:
            size = rng.randrange(100)
            os.ftruncate(fd, size * BLOCK)
            written = {at: number for at, number in written.items() if at < size}
        if number % 20 == 0:
            os.fsync(fd)
    os.ftruncate(fd, 100 * BLOCK)
    os.fsync(fd)
    return {
        "blocks": "".join(f"{written[at]:08}" * (BLOCK // 8) if at in written else "\0" * BLOCK for at in range(100))
    }


def files(top: str) -> dict[str, str]:
    """Small files that take the place of others, change it with them, or are removed; only the end is brought to the disk."""
    rng = random.Random(top)
    there: dict[str, str] = {}
    for number in numbers():
        os.makedirs(f"{top}/{number % 10}", exist_ok=True)
        name, content = f"{number % 10}/{number % 37}", f"{number} " * (number % 300)
        with open(f"{top}/new", "w") as file:
            file.write(content)
        os.rename(f"{top}/new", f"{top}/{name}")
        there[name] = content
        if number % 7 == 0:
            gone = rng.choice(sorted(there))
            os.unlink(f"{top}/{gone}")
            del there[gone]
        if number % 5 == 0 and len(there) > 1:
            first, second = rng.sample(sorted(there), 2)
            exchange(f"{top}/{first}", f"{top}/{second}")
            there[first], there[second] = there[second], there[first]
    fd = os.open(top, os.O_RDONLY)
    os.fsync(fd)
    return there


def appends(top: str) -> dict[str, str]:
    """Lines at the end of a file, which is cut now and then, and some of which are written over."""
    lines: list[str] = []
    fd = os.open(f"{top}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    any_place = os.open(f"{top}/log", os.O_WRONLY)
    for number in numbers():
        lines.append(f"{number:07}\n")
        os.write(fd, lines[-1].encode())
        if number % 31 == 0:
            del lines[len(lines) * 2 // 3 :]
            os.ftruncate(fd, 8 * len(lines))
        if number % 17 == 0 and len(lines) > 3:
            lines[-3] = f"{number:06}!\n"
            os.pwrite(any_place, lines[-3].encode(), 8 * (len(lines) - 3))
        if number % 50 == 0:
            os.fsync(fd)
    os.fsync(fd)
    return {"log": "".join(lines)}


def exchange(first: str, second: str) -> None:
    if ctypes.CDLL(None, use_errno=True).renameat2(-1, first.encode(), -1, second.encode(), 2):  # RENAME_EXCHANGE
        raise OSError(ctypes.get_errno(), "renameat2", first, None, second)


def numbers() -> Iterator[int]:
    number = 0
    while not is_asked_to_stop():
        number += 1
        yield number


KINDS: dict[str, Callable[[str], dict[str, str]]] = {"blocks": blocks, "files": files, "appends": appends}

if __name__ == "__main__":
    try:
        print(json.dumps(KINDS[sys.argv[1]](sys.argv[2])), flush=True)
    except OSError as exc:
        print(json.dumps(str(exc)), flush=True)
