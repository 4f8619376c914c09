"""Files with holes: dd and cp leave them, lseek(2) finds them."""

import os
import subprocess

MIB = 1 << 20


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


run("dd", "if=/dev/urandom", "of=sparse", "bs=1M", "count=1", "seek=50", "status=none")
run("cp", "--sparse=always", "sparse", "copy")
run("cmp", "sparse", "copy")
for name in ("sparse", "copy"):
    assert os.path.getsize(name) == 51 * MIB, name
    with open(name, "rb") as file:
        start = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        assert 49 * MIB < start <= 50 * MIB, (name, start)
        assert os.lseek(file.fileno(), start, os.SEEK_HOLE) == 51 * MIB, name
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0, name

run("fallocate", "--punch-hole", "--offset", str(50 * MIB), "--length", str(MIB // 2), "sparse")
with open("sparse", "rb") as file:
    assert 50 * MIB <= os.lseek(file.fileno(), 0, os.SEEK_DATA) <= 50 * MIB + MIB // 2
    assert os.pread(file.fileno(), MIB // 2, 50 * MIB) == bytes(MIB // 2)

run("truncate", "--size", "10G", "long")
assert os.path.getsize("long") == 10 << 30
run("dd", "if=/dev/zero", "of=long", "bs=4k", "count=1", "seek=1M", "conv=notrunc", "status=none")
assert os.path.getsize("long") == 10 << 30
os.unlink("long")  # which takes long to read
