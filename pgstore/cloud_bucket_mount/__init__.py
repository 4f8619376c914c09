"""CloudBucketMount: the files of a bucket of S3, Google Cloud Storage or Azure Blob Storage.

- `definition`: which bucket it is, and how it is reached
- `base`: paths in it, and operations, which `runner` has carried out without a database

The public methods stand here, by what they do, each with what does it:

- `listing`, with `search`
- `opening`, with `open_object`
- `transfer`, with `upload` and `download`
- `editing`, with `copying`
- `mounting`: as a file system of this machine, by `pgstore.mount`
"""

from __future__ import annotations

from pgstore.cloud_bucket_mount.editing import EditingObjects
from pgstore.cloud_bucket_mount.listing import ListingObjects
from pgstore.cloud_bucket_mount.mounting import MountedFiles
from pgstore.cloud_bucket_mount.opening import OpeningObjects
from pgstore.cloud_bucket_mount.transfer import TransferringObjects

__all__ = ["CloudBucketMount"]


class CloudBucketMount(TransferringObjects, OpeningObjects, ListingObjects, EditingObjects, MountedFiles):
    """The files of a bucket, at its provider."""
