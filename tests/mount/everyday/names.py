"""Names and paths that programs seldom use: long, deep, of any bytes; links that go round, and across directories."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial


def fails(number: int, call: Callable[[], object]) -> None:
    try:
        call()
    except OSError as exc:
        if exc.errno == number:
            return
        raise
    raise AssertionError(f"not {errno.errorcode[number]}")


for name in (
    b"x" * 255,
    "ä".encode() * 127,
    b"\xff\xfe",
    b"new\nline",
    b" ",
    b"-rf",
    b"\\",
    b'a:b*?"<>|',
    b"\x01\x7f",
    b"...",
):
    with open(name, "wb") as file:
        file.write(name)
    assert name in os.listdir(b".")
    with open(name, "rb") as again:
        assert again.read() == name
    os.rename(name, name[:-1] + b"~")
    os.rename(name[:-1] + b"~", name)
for name in (b"x" * 256, "ä".encode() * 128):
    fails(errno.ENAMETOOLONG, partial(os.open, name, os.O_CREAT | os.O_WRONLY))

os.mkdir("deep")
top = os.open("deep", os.O_RDONLY)
here = os.dup(top)
for number in range(60):  # to 60 * 101 bytes: longer than PATH_MAX
    os.mkdir(f"{number:0100}", dir_fd=here)
    below = os.open(f"{number:0100}", os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = below
file_below = os.open("file", os.O_RDWR | os.O_CREAT, dir_fd=here)
os.write(file_below, b"deep down")
os.close(file_below)
assert os.stat("file", dir_fd=here).st_size == 9
os.close(here)
os.close(top)
fails(errno.ENAMETOOLONG, lambda: os.stat("deep/" + "/".join(f"{number:0100}" for number in range(60))))
assert subprocess.run(["find", "deep", "-name", "file"], capture_output=True, check=True).stdout.endswith(b"/file\n")
assert len(list(os.fwalk("deep"))) == 61
os.rename("deep", "deeper")
shutil.rmtree("deeper")

os.symlink("b", "a")
os.symlink("a", "b")
fails(errno.ELOOP, lambda: os.stat("a"))
os.symlink(".", "here")
assert os.path.samefile("here/here/here", ".")
os.symlink("x" * 4095, "far")
assert len(os.readlink("far")) == 4095

os.makedirs("one/two")
os.mkdir("three")
with open("one/two/file", "w") as linked:
    linked.write("linked")
os.link("one/two/file", "three/file")
with open("three/file", "a") as linked:
    linked.write(" more")
with open("one/two/file") as linked:
    assert linked.read() == "linked more"
assert os.stat("three/file").st_nlink == 2
assert os.path.samefile("three/file", "one/two/file")
os.rename("one/two/file", "one/file")
os.unlink("one/file")
assert os.stat("three/file").st_nlink == 1
