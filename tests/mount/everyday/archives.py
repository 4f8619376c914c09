"""Archives that are changed in place, and extracted."""

import os
import subprocess
import zipfile

for number in range(30):
    with open(f"member{number}", "wb") as file:
        file.write(os.urandom(1000) * number)
subprocess.run(["zip", "-q", "archive.zip", *(f"member{number}" for number in range(20))], check=True)
with zipfile.ZipFile("archive.zip", "a", zipfile.ZIP_DEFLATED) as archive:
    for number in range(20, 30):
        archive.write(f"member{number}")
subprocess.run(["zip", "-q", "-d", "archive.zip", "member3"], check=True)
subprocess.run(["zip", "-q", "-u", "archive.zip", "member3"], check=True)
with zipfile.ZipFile("archive.zip") as archive:
    assert archive.testzip() is None
    assert len(archive.namelist()) == 30

subprocess.run(["unzip", "-q", "archive.zip", "-d", "extracted"], check=True)
for number in range(30):
    with open(f"member{number}", "rb") as before, open(f"extracted/member{number}", "rb") as after:
        assert before.read() == after.read(), number
subprocess.run(["gzip", "-k", "member29"], check=True)
assert subprocess.run(["zcat", "member29.gz"], check=True, capture_output=True).stdout == open("member29", "rb").read()  # noqa: SIM115
