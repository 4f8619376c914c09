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
    """
    The files of a bucket of S3, Google Cloud Storage or Azure Blob Storage, which stay at their provider.

    It is made by `from_s3_bucket`, `from_gcs_bucket` or `from_azure_blob_storage`, which read only unless they are told otherwise;
    or as Modal's, by `CloudBucketMount(name, bucket_endpoint_url, …)`, which writes, and tells the provider by the host of the
    endpoint: Google's is `storage.googleapis.com`, R2, MinIO and others have S3's interface. Functions have it mounted
    (`volumes=`, `cloud_bucket_mounts=`), any program does after `mount(path)`, and the methods here need no mount. No database is
    needed for any of it, but by a `Secret` that is stored in one. The SDKs are extras: `pip install pgstore[s3]`, `[gcs]`,
    `[azure]`, or `[buckets]` for all of them.

    The variables that secrets of these providers have are understood; without a secret each SDK looks for its own. No `repr`, error
    or pickle has a value.

    The methods are those of a Volume, as far as a bucket has them, so that one function works on either. They are never part of a
    transaction.

    ```text
    ======================  ========================================================================================================
    what                    promise
    ======================  ========================================================================================================
    `read_only`             Changes are refused before anything is asked of the provider: `PermissionError`, EROFS.
    a file                  is an object: its path from *key_prefix* on is its key. Nothing outside of the prefix is seen or
                            changed.
    writing                 A new object, and one in place of another, is there when `close` or the call returns: all of it, for
                            all. After an error, in the block as well, all is as before. Up to 8 MiB are put in one request, more in
                            parts.
    creating                `open("x")` and `put_file(if_version=0)` are conditions that the provider checks: of two, one succeeds.
    changing                "a", "r+", "w+" and going back in what is written: `io.UnsupportedOperation`, EOPNOTSUPP.
    reading                 A file is read in the state in which it was opened; if it is replaced or deleted: `StaleFile`, ESTALE. A
                            body that is cut short is resumed. Read from its beginning to its end, it is compared with the checksum
                            that the provider has, whether it comes by one request or, behind slow connections, in parts, several at
                            a time. Single ranges are compared by Azure alone.
    renaming                `move` of a file copies at the provider, and then removes: in between there are both. Of a directory:
                            EXDEV, by which programs know that they have to copy.
    directories             are what keys begin with: they come with the first object and go with the last. Objects whose keys end
                            in `/`, made by others, are directories, too.
    a key and a directory   of one name: the directory is shown. `open` and `read_file` find the object.
    keys that are no paths  (an empty name, `.`, `..`, NUL, a name above 255 bytes, a `/` at the beginning) are left out of
                            listings, and one warning, `KeysLeftOut`, says how many. `remove_file(recursive=True)` removes them,
                            too.
    permissions, times      are forgotten: a file has 0o644, a directory 0o755, and the time is when the object was put.
    many files              `put_directory`, `get_directory`, `copy_files` and `remove_file(recursive=True)` go on file by file:
                            after an error those that were done are done.
    concurrent writers      of one file: the last to close wins, and nothing is ever mixed. Azure keeps the parts of one of them:
                            the other gets `StaleFile`.
    failures                A request that fails for the moment (a broken connection, 500, 503 SlowDown) is made again, 5 times in
                            all, then: `StoreUnavailable`, `TimedOut`. An attempt ends after 30 s without a byte, so that an
                            endpoint that takes connections and never answers is given up after some 3 minutes. Credentials that
                            are missing, wrong or expired: `AccessDenied`, which names secret and bucket, and no value. No such
                            bucket: `NotFoundError`.
    memory                  About 100 MiB at most for all files of a process that are being read or written, and up to 30 MiB for
                            each.
    a crash                 Of a process that is killed, no half object is seen. Parts that it had put stay at the provider, and
                            cost, until a lifecycle rule of the bucket removes them (S3: AbortIncompleteMultipartUpload).
    ======================  ========================================================================================================
    ```

    Two that are equal are the same bucket, reached alike. A pickle has no value of the secret: that is found where it is used.

    >>> bucket = CloudBucketMount.from_s3_bucket(
    ...     "my-data", key_prefix="2026", secret=Secret.from_name("aws-credentials")
    ... )
    >>> [entry.path for entry in bucket.glob("**/*.csv")]
    ['jan/a.csv', 'jan/b.csv']
    """
