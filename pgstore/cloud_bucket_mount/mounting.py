"""Mounting a bucket: `CloudBucketMount.mount`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from pgstore.cloud_bucket_mount.base import BucketFiles
from pgstore.core.checks import check_int, check_seconds
from pgstore.core.operation import Op, operation
from pgstore.mount.mount import Mount
from pgstore.mount.options import SIZE_MAX_BYTES, TIMEOUT_SECONDS, Mode

if TYPE_CHECKING:
    from pgstore.mount.bucket import BucketSource

TTL_SECONDS: Final = 1.0  # as mountpoint-s3 has it


class MountedFiles(BucketFiles):
    """What programs can open by a path of this machine."""

    @operation
    def mount(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Mode = "auto",
        ttl: float = TTL_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
        size_max: int = SIZE_MAX_BYTES,
    ) -> Op[Mount]:
        """
        Mount the bucket at *path*, an empty directory, for any program: `with bucket.mount("/data") as path:`.

        It is read-only if the CloudBucketMount is. What programs see is said in `pgstore.mount`. The bucket is asked for once, so
        that credentials that are missing or wrong are an error of this call. It ends with the `with` block, `Mount.close` or the
        interpreter. Where the process that serves it is killed, no object is half there; parts of one that was being put in parts
        stay at the provider, unseen and paid for, until a lifecycle rule of the bucket removes them (S3:
        AbortIncompleteMultipartUpload).

        Without FUSE the objects are copied into *path*, and what has changed there is put at `Mount.commit` and at the end.

        Args:
            mode: "fuse" or "sync", without FUSE; "auto": what is possible.
            ttl: for how many seconds listings, and whether there is such an object, are believed; an object is asked for anew
                when it is opened, if it was not within a second. 0: never.
            timeout: how many seconds to wait until it is mounted.
            size_max: without FUSE: bytes that the objects may have together.

        Raises:
            FileNotFoundError, NotADirectoryError, DirectoryNotEmpty, PermissionError: *path* cannot be mounted at.
            FileFailed: something is mounted there already (EBUSY).
            AccessDenied: the credentials are missing, wrong or expired, or may not list the bucket.
            NotFoundError: there is no such bucket.
            ConfigurationError: the provider's SDK is not installed; or *mode* is "fuse", and FUSE cannot be used.
            InvalidError: without FUSE there are too many bytes.
        """
        check_seconds(ttl, "ttl")
        check_seconds(timeout, "timeout", above=0)
        check_int(size_max, "size_max", 0)
        from pgstore.mount.bucket import mount_bucket  # late: few programs mount

        source = self._source(ttl)
        return (yield from mount_bucket(self, source, path, mode=mode, timeout=timeout, size_max=size_max))

    def _source(self, ttl: float = TTL_SECONDS) -> BucketSource:
        """What is mounted of it."""
        from pgstore.mount.bucket import BucketSource

        return BucketSource(self.location, self.key_prefix or "", self.read_only, ttl, self._secret_values)
