"""Logs: turned over, followed while they grow, and written by several processes."""

import logging
import logging.handlers
import os
import subprocess
import sys

LINES = 300 * int(os.environ["TIMES"])

handler = logging.handlers.RotatingFileHandler("turned.log", maxBytes=2000, backupCount=3)
logger = logging.getLogger("turned")
logger.addHandler(handler)
for number in range(LINES):
    logger.error("line %06d of those that are written", number)
handler.close()
kept = [name for name in sorted(os.listdir(".")) if name.startswith("turned")]
assert kept == ["turned.log", "turned.log.1", "turned.log.2", "turned.log.3"], kept
lines = [line for name in reversed(kept) for line in open(name)]  # noqa: SIM115
numbers = [int(line.split()[1]) for line in lines]
assert numbers == list(range(LINES - len(numbers), LINES))
assert all(os.path.getsize(name) <= 2000 for name in kept)

# tail follows by the name: what is appended, and the next file of that name.
open("followed", "w").close()
tail = subprocess.Popen(
    ["tail", "-s", "0.05", "-n", "+1", "-F", "followed"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
)
assert tail.stdout is not None
for number in range(20):
    with open("followed", "a") as file:
        file.write(f"{number}\n")
    assert tail.stdout.readline() == f"{number}\n".encode()
    if number == 10:
        os.rename("followed", "followed.1")
tail.kill()
tail.wait()

APPENDER = """
import os, sys
file = os.open("appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(int(sys.argv[2])):
    os.write(file, f"{sys.argv[1]} {number}\\n".encode())
"""
writers = [subprocess.Popen([sys.executable, "-c", APPENDER, letter, str(LINES)]) for letter in "abc"]
assert [each.wait() for each in writers] == [0, 0, 0]
with open("appended") as file:
    assert sorted(file.read().splitlines()) == sorted(
        f"{letter} {number}" for letter in "abc" for number in range(LINES)
    )
