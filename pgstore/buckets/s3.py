"""S3, on boto3; and all that has its interface: R2, MinIO, Ceph, GCS with HMAC keys.

What the SDK does not do by itself is done here. A body that is cut short is resumed. A create whose answer was lost, so that its
repetition finds an object, is recognised by an id in the object's metadata. A whole object that is read is compared with the
checksum it was put with, which AWS and others keep.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator, MutableSequence, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from pgstore import errors
from pgstore.buckets.base import PAGE_KEYS, Bytes, Check, Limits, ObjectInfo, Page, Upload
from pgstore.buckets.checksums import ALGORITHMS, Verifier, checked
from pgstore.buckets.credentials import Credentials, is_google
from pgstore.buckets.failures import Failures, Refusal
from pgstore.buckets.location import Location
from pgstore.buckets.provider import ProviderBucket
from pgstore.buckets.retries import DEFAULT_POLICY, CutShort, RetryPolicy, fill, resumed
from pgstore.buckets.s3_client import make_client
from pgstore.buckets.s3_copy import Copier
from pgstore.buckets.s3_failures import translated
from pgstore.buckets.s3_requests import WRITE_ID, Requests, info_of, info_put, new_write_id, quoted
from pgstore.buckets.s3_upload import S3Upload, md5_of

MIB: Final = 1 << 20
GIB: Final = 1 << 30
PIECE_BYTES: Final = MIB
COPY_BYTES_MAX: Final = 512 * MIB
"""Of a copy in one request. S3 takes up to 5 GiB; but while it copies no byte may come, which counts as no answer in the end."""
COPY_PART_BYTES: Final = 256 * MIB
DELETED_AT_ONCE_MAX: Final = 1000
NO_XML: Final = re.compile("[\0-\x1f\ufffe\uffff]")
"""What a request cannot name where it is XML; in a URL it can."""


R2_HOST: Final = ".r2.cloudflarestorage.com"
R2_LIMITS: Final = Limits(
    part_bytes_min=32 * MIB,
    part_bytes_max=5 * GIB,
    parts_max=10_000,
    object_bytes_max=10_000 * 32 * MIB,
    equal_parts=True,
)
"""https://developers.cloudflare.com/r2/objects/multipart-objects/: of one size, which decides how large an object can be."""


class S3Bucket(ProviderBucket):
    """A bucket, with one client of boto3, which all threads share."""

    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html; the largest object is what parts allow: AWS puts an end
    # at 50 TB, others earlier, and say so.
    limits = Limits(part_bytes_min=5 * MIB, part_bytes_max=5 * GIB, parts_max=10_000, object_bytes_max=50_000 * GIB)

    def __init__(
        self,
        location: Location,
        credentials: Credentials,
        policy: RetryPolicy = DEFAULT_POLICY,
        *,
        copy_bytes_max: int = COPY_BYTES_MAX,
        copy_part_bytes: int = COPY_PART_BYTES,
    ) -> None:
        """
        Args:
            copy_bytes_max: of an object that is copied in one request.
            copy_part_bytes: of the parts that larger ones are copied in.

        Raises:
            AccessDenied: the credentials cannot be used.
            ConfigurationError: the SDK is not installed.
        """
        super().__init__(location)
        if (urlsplit(location.endpoint_url or "").hostname or "").endswith(R2_HOST):
            self.limits = R2_LIMITS
        google = is_google(location.endpoint_url)
        service = "Google Cloud Storage (its interface of S3)" if google else None
        failures = Failures(location, credentials.hidden(), service=service)
        error: Exception
        try:
            client = make_client(location, credentials, policy)
        except errors.Error:
            raise
        except Exception as exc:  # noqa: BLE001 (the SDK's; all are told apart by `translated`)
            error = translated(failures, exc, key=None, writing=False, expected=())
        else:
            self._requests = Requests(client, location, failures, policy)
            self._begin(failures, policy)
            # The checksums of AWS are refused there. Elsewhere the SDK adds one, or is told by its own settings not to.
            self._with_md5 = google or client.meta.config.request_checksum_calculation == "when_required"
            self._deletes_several = not google
            self._copier = Copier(
                self._requests, bytes_max=copy_bytes_max, part_bytes=copy_part_bytes, with_md5=self._with_md5
            )
            return
        raise error

    def head(self, key: str) -> ObjectInfo | None:
        found = self._requests.head(key)
        return None if found is None else info_of(key, found)

    # Reading.

    def read_into(self, key: str, buffer: memoryview, offset: int, tag: str) -> None:
        end = offset + len(buffer)
        if not buffer:
            return

        def begin(start: int) -> Generator[Bytes]:
            return self._pieces(self._get(key, tag, f"bytes={start}-{end - 1}"), key)

        with contextlib.closing(resumed(begin, offset, self._policy)) as pieces:
            filled = fill(buffer, pieces)
        if filled < len(buffer):
            raise self._ends_early(key, offset=offset, end=end, found_end=offset + filled)

    def stream(self, key: str, offset: int, tag: str) -> Generator[Bytes]:
        checks: list[Check] = []
        return checked(self._stream(key, offset, tag, checks), checks, partial(self._failures.corrupt, key))

    def stream_to_check(self, key: str, tag: str, checks: MutableSequence[Check]) -> Generator[Bytes]:
        return self._stream(key, 0, tag, checks)

    def _stream(self, key: str, offset: int, tag: str, checks: MutableSequence[Check]) -> Generator[Bytes]:
        def begin(start: int) -> Generator[Bytes]:
            if start > 0:
                return self._pieces(self._get(key, tag, f"bytes={start}-"), key)
            answer = self._get(key, tag, None)
            verifier = _verifier(answer)
            checks[:] = [] if verifier is None else [verifier]
            return self._pieces(answer, key)

        with contextlib.closing(resumed(begin, offset, self._policy)) as pieces:
            yield from pieces

    def _get(self, key: str, tag: str, range_: str | None) -> dict[str, Any] | None:
        """The answer with the body; None: there are no bytes there."""
        part: dict[str, Any] = {} if range_ is None else {"Range": range_}
        expected = (HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        status = 0
        try:
            answer = self._requests.ask("get_object", key, expected=expected, IfMatch=quoted(tag), **part)
        except Refusal as refusal:
            status = refusal.status
        else:
            if range_ is None or answer["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PARTIAL_CONTENT:
                return answer
            # The bytes of another place: some services do not know ranges.
            answer["Body"].close()
            raise self._failures.failed(key, f"it was asked for {range_}, and sends the whole object")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise self._failures.stale(key)

    def _pieces(self, answer: dict[str, Any] | None, key: str) -> Generator[Bytes]:
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        if answer is None:
            return
        with contextlib.closing(answer["Body"]) as body:
            while True:
                try:
                    piece = body.read(PIECE_BYTES)
                except (HTTPClientError, IncompleteReadError, OSError) as exc:
                    error = translated(self._failures, exc, key=key, writing=False, expected=())
                    assert isinstance(error, errors.Error)
                    cut = CutShort(error)
                else:
                    if not piece:
                        return
                    yield piece
                    continue
                raise cut

    # Writing.

    def put(self, key: str, data: Bytes, *, if_missing: bool = False) -> ObjectInfo:
        body = data if isinstance(data, bytes | bytearray) else bytes(data)
        given: dict[str, Any] = {"ContentMD5": md5_of(body)} if self._with_md5 else {"ChecksumAlgorithm": "CRC32"}
        if not if_missing:
            return info_put(key, len(body), self._requests.ask("put_object", key, writing=True, Body=body, **given))
        write_id = new_write_id()
        given |= {"IfNoneMatch": "*", "Metadata": {WRITE_ID: write_id}}
        error: errors.Error = self._failures.busy(key)
        for attempt in range(1, self._policy.attempts + 1):
            try:
                answer = self._requests.ask(
                    "put_object",
                    key,
                    writing=True,
                    expected=(HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED),
                    Body=body,
                    **given,
                )
            except Refusal as refusal:
                if refusal.status != HTTPStatus.CONFLICT:
                    error = self._failures.exists(key)
                    break
            except errors.OutcomeUnknown as exc:
                error = exc
                break
            else:
                return info_put(key, len(body), answer)
            # Another one is being put, and the service does not know yet which of them is first.
            self._policy.pause(attempt)
        made = self._requests.made_by(key, write_id)
        if made is not None:
            return info_of(key, made)
        raise error

    def begin_upload(self, key: str, *, if_missing: bool = False) -> Upload:
        return S3Upload(self._requests, key, if_missing=if_missing, with_md5=self._with_md5)

    def copy(self, source: str, target: str, *, tag: str | None = None, if_missing: bool = False) -> ObjectInfo:
        return self._copier.copy(source, target, tag=tag, if_missing=if_missing)

    def delete(self, keys: Sequence[str]) -> None:
        several = [key for key in keys if not NO_XML.search(key)] if self._deletes_several and len(keys) > 1 else []
        for start in range(0, len(several), DELETED_AT_ONCE_MAX):
            named = [{"Key": key} for key in several[start : start + DELETED_AT_ONCE_MAX]]
            answer = self._requests.ask("delete_objects", None, writing=True, Delete={"Objects": named, "Quiet": True})
            self._check_deleted(answer.get("Errors", []))
        left = set(keys) - set(several)
        for key in (key for key in keys if key in left):
            with contextlib.suppress(Refusal):
                self._requests.ask("delete_object", key, writing=True, expected=(HTTPStatus.NOT_FOUND,))

    def _check_deleted(self, faults: Sequence[dict[str, str]]) -> None:
        failed = [fault for fault in faults if fault.get("Code") != "NoSuchKey"]
        if failed:
            first = failed[0]
            detail = f"{len(failed)} of them were not deleted; {first.get('Code')}: {first.get('Message')}"
            status = HTTPStatus.FORBIDDEN if first.get("Code") == "AccessDenied" else HTTPStatus.INTERNAL_SERVER_ERROR
            raise self._failures.of_status(status, "", detail, key=first.get("Key"), writing=True)

    # Listing.

    def list(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", page_keys: int = PAGE_KEYS
    ) -> Iterator[Page]:
        given: dict[str, Any] = {"Prefix": prefix, "MaxKeys": page_keys}
        if delimiter:
            given["Delimiter"] = delimiter
        if after:
            given["StartAfter"] = after
        while True:
            answer = self._requests.ask("list_objects_v2", None, **given)
            objects = [info_of(each["Key"], each) for each in answer.get("Contents", ())]
            yield Page(objects, [each["Prefix"] for each in answer.get("CommonPrefixes", ())])
            if not answer.get("IsTruncated"):
                return
            given["ContinuationToken"] = answer["NextContinuationToken"]

    def close(self) -> None:
        self._requests.client.close()


def _verifier(answer: dict[str, Any] | None) -> Verifier | None:
    """What compares a whole object with the checksum that came with it; None: none that can be computed of the whole."""
    if answer is None:
        return None
    for algorithm in ALGORITHMS:
        expected = answer.get(f"Checksum{algorithm}")
        if expected and "-" not in expected:  # with it: one of the checksums of the parts
            return Verifier(algorithm, expected)
    # Of GCS: `crc32c=…,md5=…`, https://cloud.google.com/storage/docs/xml-api/reference-headers#xgooghash
    for each in answer["ResponseMetadata"]["HTTPHeaders"].get("x-goog-hash", "").split(","):
        if each.strip().startswith("md5="):
            return Verifier("MD5", each.strip().removeprefix("md5="))
    return None
