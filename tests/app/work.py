"""A program for workers: functions for the tests of what runs them."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import time

import pgstore
from pgstore.mount.mount import open_mounts


class Refused(Exception):
    """Takes other arguments than its base, as many do that are pickled all the same."""

    def __init__(self, what, *, code):
        super().__init__(what)
        self.code = code

    def __reduce__(self):
        return _refused, (self.args[0], self.code)


def _refused(what, code):
    return Refused(what, code=code)


class Unpicklable(Exception):
    def __init__(self, what, code):
        super().__init__(f"{what} {code}")


def same(value=None):
    return value


def process_id():
    return os.getpid()


async def awaited(value):
    return value


def refuse():
    try:
        raise KeyError("first")
    except KeyError as exc:
        raise Refused("no", code=7) from exc


def raise_unpicklable():
    raise Unpicklable("what", "code")


def give_unpicklable():
    return (number for number in range(3))


def leave(code):
    sys.exit(code)


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def die_at(path):
    write(path, str(time.monotonic()))
    die()


def write_at_exit(path):
    atexit.register(write, path, "at the end")


def exit_at(path):
    write(path, str(time.monotonic()))
    os._exit(3)


def sleep(seconds=60.0):
    time.sleep(seconds)
    return "slept"


class Sink:
    """What programs put in the place of `sys.stdout`, which has less than that."""

    def write(self, text):
        pass


def replace_stdout(by):
    if by == "closed":
        print("not the end of a line", end="")
        os.close(1)
    elif by == "detached":
        sys.stdout.detach()  # type: ignore[union-attr]
    else:
        sys.stdout = Sink()
    return by


def close_descriptors():
    os.closerange(3, 1000)


def fork(how):
    if os.fork() == 0:
        if how == "raise":
            raise ValueError("of the child")
        return "child"
    os.wait()
    return "parent"


async def fork_async(how):
    return fork(how)


class Unshowable(Exception):
    def __str__(self):
        raise SystemExit("of __str__")


class Unreducible(Exception):
    def __reduce__(self):
        raise KeyboardInterrupt


def raise_odd(name):
    raise globals()[name]()


def count(numbers):
    yield from range(numbers)


async def count_async(numbers):
    for number in range(numbers):
        yield number


def environment(*names):
    return [*(os.environ.get(name) for name in names), os.getcwd()]


def shout(lines):
    for number in range(lines):
        print(f"line {number}")
    print("an error", file=sys.stderr)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


def write_and_refuse(path, text):
    write(path, text)
    refuse()


def write_and_die(path, text):
    write(path, text)
    die()


def commit_in_child(name, path):
    """What a forked process that commits is told."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            write(path, "of the child")
            pgstore.Volume.from_name(name).commit()
        except pgstore.Error as exc:
            os.write(writing, str(exc).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as told:
        return told.read()


def mounts_below(path):
    with open("/proc/self/mountinfo") as table:
        return [fields for line in table if (fields := line.split())[4].startswith(path)]


def count_in_dict(name, path, *, how="return"):
    """Count a call in a Dict and in a file, and then end by *how*."""
    counted = pgstore.Dict.from_name(name)
    counted["calls"] = counted.get("calls", 0) + 1
    write(path, str(counted["calls"]))
    if how != "return":
        globals()[how]()
    return counted["calls"]


async def count_in_dict_async(name, path):
    counted = pgstore.Dict.from_name(name)
    await counted.put.aio("calls", 1)
    write(path, "1")


class Model:
    """A class with parameters of its own constructor, as `app.cls` has them."""

    def __init__(self, size):
        self.size = size
        self.entered = []

    @pgstore.enter()
    def load(self):
        self.entered.append("load")

    @pgstore.enter()
    async def warm(self):
        self.entered.append("warm")

    @pgstore.method()
    def grow(self, by):
        return self.size + by, self.entered, os.getpid()

    @pgstore.method()
    async def shrink(self, by):
        return self.size - by

    @pgstore.exit()
    def leave(self):
        print("left")


def fail_until(path, attempts, how="refuse"):
    """Note an attempt in the file *path*, and fail but for the last of *attempts*."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    with open(path) as file:
        noted = file.read().split()
    if len(noted) < attempts:
        globals()[how]()
    return noted


def meet(path, parties):
    """Return when so many calls are here at once: how many there are, and in which process."""
    with open(path, "a") as file:
        file.write(".")
    give_up = time.monotonic() + 20
    while os.path.getsize(path) < parties and time.monotonic() < give_up:
        time.sleep(0.01)
    return os.path.getsize(path), os.getpid()


_arrived: list[str] = []
_all_arrived = asyncio.Event()


async def meet_async(path, parties):
    _arrived.append(path)
    if len(_arrived) == parties:
        _all_arrived.set()
    await asyncio.wait_for(_all_arrived.wait(), 20)
    return len(_arrived), os.getpid()


def note_interrupt(path):
    """Wait to be interrupted, and note by what."""
    write(path, "begun")
    try:
        time.sleep(60)
    except BaseException as exc:
        write(path, type(exc).__name__)
        raise


def note_interrupt_of_thread(path):
    """`note_interrupt`, for a thread that no signal reaches: it is interrupted between two lines of Python."""
    write(path, "begun")
    try:
        while True:
            time.sleep(0.01)
    except BaseException as exc:
        write(path, type(exc).__name__)
        raise


def endless(path):
    try:
        while True:
            yield "item"
            time.sleep(0.01)
    finally:
        write(path, "closed")


def write_within(outer, inner):
    """Write to a mount and to one within it, and reload; what is in both then."""
    write(f"{outer}/a", "outer")
    write(f"{inner}/b", "inner")
    for mount in open_mounts:
        mount.reload()
    return sorted(os.listdir(outer)), os.listdir(inner)


class Deadly:
    """Kills the process that pickles or loads it."""

    def __init__(self, when):
        self.when = when

    def __reduce__(self):
        if self.when == "pickled":
            die()
        return die, ()


class DiesAtStart:
    @pgstore.enter()
    def load(self):
        die()

    @pgstore.method()
    def run(self):
        raise AssertionError("it has not entered")


def give_deadly():
    return Deadly("pickled")


def die_in_commit(path):
    from pgstore.mount import with_fuse

    write(path, "lost")
    with_fuse.flush = lambda path: die()


def read_after_reload(name, path, *, reload):
    if reload:
        pgstore.Volume.from_name(name).reload()
    return read(path)
