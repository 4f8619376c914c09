"""A tree of files kept the same as another, by fsspec's rsync: from and to whatever has a URL of fsspec's, as s3:// or a path.

Needs `pip install 'pgstore[fsspec]'`. `python bucket_sync.py s3://bucket/prefix` (with s3fs) synchronises from there.
"""

import sys

import fsspec
from fsspec.generic import rsync

import pgstore

mirror = pgstore.Volume.persist("bucket-sync-mirror")


def synchronise(source: str) -> None:
    """Copy what is missing or differs in size, and delete what is not in *source*. Each file is a commit."""
    rsync(
        source, "pgstore://bucket-sync-mirror/data", delete_missing=True, on_error="raise"
    )  # its default ignores errors
    print([(entry.path, entry.size) for entry in mirror.iterdir("/data", recursive=True) if entry.type.name == "FILE"])


if len(sys.argv) > 1:
    synchronise(sys.argv[1])
else:
    bucket = fsspec.filesystem("memory")  # stands for a bucket: pgstore sees no difference
    bucket.pipe({"/bucket/readme.txt": b"hello", "/bucket/days/1.csv": b"1,2,3", "/bucket/days/2.csv": b"4,5,6"})
    synchronise("memory://bucket")

    bucket.pipe("/bucket/days/2.csv", b"4,5,6,7")
    bucket.rm("/bucket/readme.txt")
    synchronise("memory://bucket")
