"""A tree that is removed while somebody writes to it: both end, and nothing is left."""

import os
import shutil
import subprocess
import sys

WRITER = """
import os
print("began", flush=True)
for number in range(10**9):
    try:
        os.makedirs(f"tree/d{number % 7}/e{number % 3}", exist_ok=True)
        with open(f"tree/d{number % 7}/e{number % 3}/f{number}", "w") as file:
            file.write("x" * (number % 5000))
    except (FileNotFoundError, FileExistsError):  # the latter of makedirs: what was there is gone when it looks
        if os.path.exists("stop"):
            break
    if os.path.exists("stop"):
        break
"""
os.makedirs("tree")
writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE)
assert writer.stdout is not None
writer.stdout.readline()
for _ in range(5 * int(os.environ["TIMES"])):
    subprocess.run(["rm", "-rf", "tree"], stderr=subprocess.DEVNULL, check=False)  # "not empty": they were faster
open("stop", "w").close()
assert writer.wait(60) == 0
shutil.rmtree("tree", ignore_errors=True)
assert os.listdir(".") == ["stop"]
