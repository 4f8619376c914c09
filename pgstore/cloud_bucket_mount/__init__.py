"""CloudBucketMount: the files of a bucket of S3, Google Cloud Storage or Azure Blob Storage.

- `definition`: which bucket it is, and how it is reached
- `base`: paths in it, which `runner` has carried out without a database
- `mounting`: as a file system of this machine, by `pgstore.mount`
"""

from __future__ import annotations

from pgstore.cloud_bucket_mount.mounting import MountedFiles

__all__ = ["CloudBucketMount"]


class CloudBucketMount(MountedFiles):
    """The files of a bucket, at its provider."""
