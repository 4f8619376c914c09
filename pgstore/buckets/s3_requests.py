"""Requests to one bucket of S3: asked through the SDK, with errors of pgstore."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from pgstore import errors
from pgstore.buckets.base import ObjectInfo
from pgstore.buckets.failures import Failures, Refusal
from pgstore.buckets.location import Location
from pgstore.buckets.retries import RetryPolicy
from pgstore.buckets.s3_failures import translated

WRITE_ID: Final = "pgstore-write-id"
"""Metadata of an object that was made on condition that there was none: whose attempt it was."""
PRECONDITION_FAILED: Final = HTTPStatus.PRECONDITION_FAILED
_UNSAID: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)
"""What wrong or expired credentials are answered with, and much else."""
_RANGE: Final = (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


_ALWAYS_SAID: Final = {
    "list_objects_v2": "IsTruncated",
    "head_object": "ETag",
    "put_object": "ETag",
    "upload_part": "ETag",
    "create_multipart_upload": "UploadId",
}
"""What is in the answers of all that have the interface, and not in those of a web page or a proxy that says 200 to everything."""


class Requests:
    """What is asked of one bucket, through *client* of boto3."""

    def __init__(self, client: Any, location: Location, failures: Failures, policy: RetryPolicy) -> None:
        self.client = client
        self.name = location.name
        self.failures = failures
        self.policy = policy
        self._always = {"Bucket": location.name}
        if location.requester_pays:
            self._always["RequestPayer"] = "requester"
        self._exists = False

    def ask(
        self, operation: str, key: str | None, /, *, expected: Collection[int] = (), writing: bool = False, **given: Any
    ) -> dict[str, Any]:
        """
        Return the answer of an operation of the SDK.

        Args:
            key: the object that it is about; None: about the bucket.
            expected: statuses of answers that are raised as `Refusal`.
            writing: whether it changes something, so that nobody knows what was done if no answer comes.
        """
        about = {} if key is None else {"Key": key}
        try:
            answer: dict[str, Any] = getattr(self.client, operation)(**self._always, **about, **given)
        except Exception as exc:  # noqa: BLE001 (the SDK's, and of what it rests on; all are told apart by `translated`)
            error = translated(self.failures, exc, key=key, writing=writing, expected=expected)
        else:
            lacking = _ALWAYS_SAID.get(operation)
            if lacking is not None and lacking not in answer:
                raise self.failures.not_understood(key, lacking)
            self._exists = True
            return answer
        raise error

    def head(self, key: str) -> dict[str, Any] | None:
        """
        What the SDK says of an object; None: there is none.

        Raises:
            NotFoundError: there is no bucket.
        """
        try:
            return self.ask("head_object", key, expected=(HTTPStatus.NOT_FOUND, *_UNSAID))
        except Refusal as refusal:
            refused = refusal
        # The answer has no body that would say what is missing, or why it is refused.
        if refused.status == HTTPStatus.NOT_FOUND:
            self.check_bucket()
            return None
        with contextlib.suppress(Refusal):
            answer = self.ask("get_object", key, expected=(HTTPStatus.NOT_FOUND, *_RANGE), Range="bytes=0-0")
            answer["Body"].close()
        raise refused.error

    def check_bucket(self) -> None:
        """Raise `NotFoundError` if there is no bucket. Asked once at most."""
        if not self._exists:
            with contextlib.suppress(Refusal):  # those who may only read objects are not told
                self.ask("head_bucket", None, expected=(HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST))
            self._exists = True

    def made_by(self, key: str, write_id: str) -> dict[str, Any] | None:
        """What the SDK says of an object, if it is known that it was made by the attempts of *write_id*."""
        try:
            found = self.head(key)
        except (errors.StoreUnavailable, errors.TimedOut):
            return None
        return found if found is not None and found.get("Metadata", {}).get(WRITE_ID) == write_id else None


def new_write_id() -> str:
    return uuid.uuid4().hex


def info_of(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """What `head_object` or a listing says of an object."""
    size = answer["ContentLength"] if "ContentLength" in answer else answer["Size"]
    return ObjectInfo(key, int(size), tag_of(answer), mtime_ns(answer["LastModified"]))


def info_put(key: str, size_bytes: int, answer: Mapping[str, Any]) -> ObjectInfo:
    """What the answer to a put says: the time is that of the answer, since it has no other."""
    date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    moment = parsedate_to_datetime(date) if date else datetime.now(UTC)
    return ObjectInfo(key, size_bytes, tag_of(answer), mtime_ns(moment))


def tag_of(answer: Mapping[str, Any]) -> str:
    """The ETag, without the quotes that it has in most places and not in all."""
    return str(answer["ETag"]).strip('"')


def quoted(tag: str) -> str:
    """The tag, as conditions have it."""
    return tag if tag.startswith("W/") else f'"{tag}"'


def mtime_ns(moment: datetime) -> int:
    """In whole seconds: listings of some services have fractions, and the answers about one object have none."""
    return (moment - _EPOCH) // timedelta(seconds=1) * 1_000_000_000
