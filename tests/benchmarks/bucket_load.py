"""A process that reads and puts a large object, and says how much memory it took: `bucket_load URL FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import pgstore


def main() -> None:
    """Print the most that was taken, in MB."""
    url, local = sys.argv[1:]
    keys = pgstore.Secret.from_dict({"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})
    files = pgstore.CloudBucketMount.from_s3_bucket("bench", endpoint_url=url, secret=keys, read_only=False)
    buffer = bytearray(1 << 20)
    with files.open("large", "rb") as file:
        while file.readinto(buffer):
            pass
    for _ in files.read_file("large"):
        pass
    files.put_file(local, "put")
    # Not ru_maxrss: a program that is started has that of who started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


if __name__ == "__main__":
    main()
