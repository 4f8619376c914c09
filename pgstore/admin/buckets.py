"""Buckets by URL, as command lines name them."""

from __future__ import annotations

from typing import Any, Final

from pgstore import errors
from pgstore.cloud_bucket_mount import CloudBucketMount
from pgstore.secret import Secret

FORMS: Final = "s3://BUCKET/PATH, gs://BUCKET/PATH or az://ACCOUNT/CONTAINER/PATH"


def bucket_at(
    url: str,
    *,
    read_only: bool,
    secret: Secret | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    anonymous: bool = False,
) -> tuple[CloudBucketMount, str]:
    """
    The bucket of *url*, and the path in it, "/" if there is none. The path is taken as it stands, with `%`, `?` and `#`.

    Args:
        secret, endpoint_url, region, anonymous: see `CloudBucketMount.from_s3_bucket`; *region* is of S3 alone.

    Raises:
        InvalidError: *url* is none of a bucket.
    """
    scheme, _, rest = url.partition("://")
    name, _, path = rest.partition("/")
    account = ""
    if scheme == "az":
        account = name
        name, _, path = path.partition("/")
    if scheme not in ("s3", "gs", "az") or not name or (scheme == "az" and not account):
        raise errors.InvalidError(f"{url!r} is no URL of a bucket, expected {FORMS}")
    if region is not None and scheme != "s3":
        raise errors.InvalidError("a region is given for S3 alone")
    found: CloudBucketMount
    given: dict[str, Any] = {
        "secret": secret,
        "read_only": read_only,
        "endpoint_url": endpoint_url,
        "anonymous": anonymous,
    }
    if scheme == "s3":
        found = CloudBucketMount.from_s3_bucket(name, region=region, **given)
    elif scheme == "gs":
        found = CloudBucketMount.from_gcs_bucket(name, **given)
    else:
        found = CloudBucketMount.from_azure_blob_storage(account, name, **given)
    return found, path or "/"
