"""Containers of Azure Blob Storage, by `azure-storage-blob`.

What the SDK lacks is added here: bytes are compared with checksums in both directions (the SDK does so only if it is told to,
and Azure has them for ranges of at most 4 MiB, so a longer range is several requests), and a create that was done, though its
answer was lost, is told from one that came too late by an id in the blob's metadata.

Blobs that are put in parts are block blobs: parts are staged under ids of this upload, and one request makes the blob of them.
Azure keeps staged parts by the blob's name and drops all others of that name at each commit, those of another upload as well;
so of two uploads that overlap the second fails (`StaleFile`; `FileExists` if it is a create). It has no request that drops
staged parts alone: those of an aborted upload go after a week.

Azure takes a backslash in a name for a slash. So no key has one: none is found, and none can be put.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final

import requests.exceptions
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DeserializationError,
    HttpResponseError,
    ServiceRequestTimeoutError,
    ServiceResponseTimeoutError,
)
from azure.storage.blob import BlobBlock, BlobPrefix

from pgstore import errors
from pgstore.buckets.azure_client import CHECKED_BYTES, NoCredentialsError, make_client
from pgstore.buckets.base import PAGE_KEYS, Bytes, Limits, ObjectInfo, Page, Upload
from pgstore.buckets.credentials import Credentials
from pgstore.buckets.failures import Failures, Refusal
from pgstore.buckets.location import Location
from pgstore.buckets.provider import ProviderBucket
from pgstore.buckets.retries import DEFAULT_POLICY, RetryPolicy

PIECE_BYTES: Final = 1 << 20
PIECES_AHEAD: Final = 3  # ranges of CHECKED_BYTES that a stream has asked for while one is read
BATCH_KEYS: Final = 256  # Blob Batch
COPY_PAUSE_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0)  # the last again and again
WRITE_ID: Final = "pgstore_write_id"  # a metadata name is a C# identifier

TAKEN_FOR_SLASH: Final = "\\"

OFTEN_REFUSED: Final = frozenset({409, 412})  # a condition does not hold; others hold a lease


class AzureBucket(ProviderBucket):
    """A container."""

    limits = Limits(
        part_bytes_min=1, part_bytes_max=4000 << 20, parts_max=50_000, object_bytes_max=50_000 * (4000 << 20)
    )

    def __init__(self, location: Location, credentials: Credentials, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        """
        Raises:
            AccessDenied: the credentials cannot be used, or there are none.
        """
        super().__init__(location)
        failures = Failures(location, credentials.hidden())
        error: errors.Error
        try:
            self._container = make_client(location, credentials, policy)
        except NoCredentialsError as exc:
            error = failures.caused(failures.denied("missing", str(exc)), exc)
        except (AzureError, ValueError) as exc:
            error = failures.caused(failures.denied("wrong", type(exc).__name__), exc)
        else:
            self._begin(failures, policy)
            return
        raise error

    def head(self, key: str) -> ObjectInfo | None:
        found = self._properties(key)
        return None if found is None else _info(found)

    def read_into(self, key: str, buffer: memoryview, offset: int, tag: str) -> None:
        for start in range(0, len(buffer), CHECKED_BYTES):
            piece = buffer[start : start + CHECKED_BYTES]
            got, _ = self._range(key, offset + start, len(piece), tag)
            if len(got) != len(piece):
                raise self._ends_early(
                    key, offset=offset, end=offset + len(buffer), found_end=offset + start + len(got)
                )
            piece[:] = got

    def stream(self, key: str, offset: int, tag: str) -> Iterator[Bytes]:
        """As of `Bucket`, but by a request for each 4 MiB, some ahead of the reader: so each byte is compared with a checksum."""
        first, size_bytes = self._range(key, offset, CHECKED_BYTES, tag)
        yield from _pieces(first)
        starts = iter(range(offset + CHECKED_BYTES, size_bytes, CHECKED_BYTES))
        if size_bytes <= offset + CHECKED_BYTES:
            return
        pool = ThreadPoolExecutor(PIECES_AHEAD, thread_name_prefix="pgstore-azure")
        ahead: deque[Future[tuple[bytes, int]]] = deque()
        try:
            while True:
                while len(ahead) < PIECES_AHEAD and (start := next(starts, None)) is not None:
                    ahead.append(pool.submit(self._range, key, start, CHECKED_BYTES, tag))
                if not ahead:
                    return
                yield from _pieces(ahead.popleft().result()[0])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def put(self, key: str, data: Bytes, *, if_missing: bool = False) -> ObjectInfo:
        self._check(key)
        write_id = uuid.uuid4().hex
        conditions: dict[str, Any] = (
            {"match_condition": MatchConditions.IfMissing, "metadata": {WRITE_ID: write_id}} if if_missing else {}
        )
        try:
            with self._requests(key, writing=True, refusals=OFTEN_REFUSED):
                answer = self._container.get_blob_client(key).upload_blob(
                    _as_bytes(data), overwrite=True, validate_content=True, **conditions
                )
        except Refusal as refusal:
            if not if_missing:
                raise refusal.error from None
            return self._own(key, write_id, refusal)
        return _answered(key, len(data), answer)

    def begin_upload(self, key: str, *, if_missing: bool = False) -> Upload:
        self._check(key)
        return _BlockUpload(self, key, if_missing)

    def list(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", page_keys: int = PAGE_KEYS
    ) -> Iterator[Page]:
        """As of `Bucket`; but Azure lists from the beginning, so what *after* leaves out is asked for too, and dropped here."""
        options: dict[str, Any] = {"name_starts_with": prefix or None, "results_per_page": page_keys}
        if delimiter:
            pages = self._container.walk_blobs(delimiter=delimiter, **options).by_page()
        else:
            pages = self._container.list_blobs(**options).by_page()
        while True:
            with self._requests(None):
                page = next(pages, None)
                if page is None:
                    return
                listed = [*page]
            prefixes = [each.name for each in listed if isinstance(each, BlobPrefix)]
            objects = [_info(each) for each in listed if not isinstance(each, BlobPrefix)]
            if after:
                prefixes = [each for each in prefixes if each > after or self._goes_on(each, after)]
                objects = [each for each in objects if each.key > after]
            if prefixes or objects:
                yield Page(objects, prefixes)

    def delete(self, keys: Sequence[str]) -> None:
        keys = [key for key in keys if TAKEN_FOR_SLASH not in key]
        for start in range(0, len(keys), BATCH_KEYS):
            batch = keys[start : start + BATCH_KEYS]
            for key in self._left_over(batch) if len(batch) > 1 else batch:
                with contextlib.suppress(errors.FileMissing), self._requests(key, writing=True):
                    self._container.delete_blob(key, delete_snapshots="include")

    def copy(self, source: str, target: str, *, tag: str | None = None, if_missing: bool = False) -> ObjectInfo:
        self._check(target)
        found = self._properties(source)
        if found is None:
            raise self._failures.missing(source)
        if tag is not None and _tag(found) != tag:
            raise self._failures.stale(source)
        write_id = uuid.uuid4().hex
        conditions: dict[str, Any] = {
            "source_etag": _quoted(_tag(found)),
            "source_match_condition": MatchConditions.IfNotModified,
        }
        if if_missing:
            conditions["match_condition"] = MatchConditions.IfMissing
            conditions["metadata"] = {**(found.metadata or {}), WRITE_ID: write_id}
        url = self._container.get_blob_client(source).url
        try:
            with self._requests(target, writing=True, refusals=OFTEN_REFUSED):
                self._container.get_blob_client(target).start_copy_from_url(url, **conditions)
        except Refusal as refusal:
            now = self.head(source)
            if now is None or now.tag != _tag(found):
                raise self._failures.stale(source) from None
            if not if_missing:
                raise refusal.error from None
            self._own(target, write_id, refusal)
        return self._copied(target)

    def close(self) -> None:
        self._container.close()

    # --- what the methods share -------------------------------------------------------------------------------------------

    def _check(self, key: str) -> None:
        if TAKEN_FOR_SLASH in key:
            raise self._failures.failed(key, "Azure takes '\\' for '/': no name can have one", errno.EINVAL)

    def _properties(self, key: str) -> Any:
        if TAKEN_FOR_SLASH in key:
            return None
        try:
            with self._requests(key):
                found = self._container.get_blob_client(key).get_blob_properties()
        except errors.FileMissing:
            return None
        if found.etag is None:
            raise self._failures.not_understood(key, "ETag")
        return found

    def _range(self, key: str, offset: int, length: int, tag: str) -> tuple[bytes, int]:
        """The bytes, at most CHECKED_BYTES and fewer at the end, and the size of the object."""
        failures = 0
        while True:
            try:
                return self._range_once(key, offset, length, tag)
            except (errors.StoreUnavailable, errors.TimedOut) as exc:
                # The SDK has tried again what had no answer, but not what had one, whose body was cut short.
                failures += 1
                if failures == self._policy.attempts or not isinstance(
                    exc.__cause__, requests.exceptions.RequestException
                ):
                    raise
            self._policy.pause(failures)

    def _range_once(self, key: str, offset: int, length: int, tag: str) -> tuple[bytes, int]:
        try:
            with self._requests(key, refusals={412, 416}):
                found = self._container.download_blob(
                    key,
                    offset=offset,
                    length=length,
                    etag=_quoted(tag),
                    match_condition=MatchConditions.IfNotModified,
                    validate_content=True,
                )
                return found.readall(), int(str(found.properties.content_range).rpartition("/")[2])
        except errors.FileMissing:
            raise self._failures.stale(key) from None
        except Refusal as refusal:
            if refusal.status == 416:
                return b"", offset  # Azure has no empty range
            raise self._failures.stale(key) from None

    def _goes_on(self, prefix: str, after: str) -> bool:
        return after.startswith(prefix) and any(self.list(prefix, after=after))

    def _left_over(self, keys: Sequence[str]) -> Sequence[str]:
        """Those that a batch did not delete; all of them, if the credentials are for no batches (a SAS of some kinds)."""
        try:
            with self._requests(None, writing=True):
                answers = [*self._container.delete_blobs(*keys, raise_on_any_failure=False, delete_snapshots="include")]
        except errors.AccessDenied:
            return keys
        done = (202, 404)
        return [key for key, answer in zip(keys, answers, strict=True) if answer.status_code not in done]

    def _own(self, key: str, write_id: str, refusal: Refusal) -> ObjectInfo:
        """What an earlier try of a refused create had put."""
        found = self._properties(key)
        if found is None:
            raise refusal.error
        if (found.metadata or {}).get(WRITE_ID) != write_id:
            raise self._failures.exists(key)
        return _info(found)

    def _copied(self, target: str) -> ObjectInfo:
        pauses = iter(COPY_PAUSE_SECONDS)
        while True:
            found = self._properties(target)
            if found is None:
                raise self._failures.failed(target, "it was deleted while it was copied to")
            if found.copy.status in (None, "success"):  # None: replaced by a put
                return _info(found)
            if found.copy.status != "pending":
                raise self._failures.failed(target, f"copy {found.copy.status}: {found.copy.status_description}")
            time.sleep(next(pauses, COPY_PAUSE_SECONDS[-1]))

    @contextlib.contextmanager
    def _requests(self, key: str | None, *, writing: bool = False, refusals: Collection[int] = ()) -> Iterator[None]:
        """
        Make errors of pgstore of the SDK's.

        Args:
            refusals: HTTP statuses that the caller knows how to take: they are a `Refusal`.
        """
        try:
            yield
        except (AzureError, DeserializationError, requests.exceptions.RequestException) as exc:
            error = self._failures.caused(self._error(exc, key, writing), exc)
            if isinstance(exc, HttpResponseError) and exc.status_code is not None and exc.status_code in refusals:
                raise Refusal(exc.status_code, _code(exc), error) from None
            raise error from error.__cause__

    def _error(self, exc: Exception, key: str | None, writing: bool) -> errors.Error:
        failures = self._failures
        if isinstance(exc, HttpResponseError) and exc.status_code is not None:
            code = _code(exc)
            match code:
                case "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled":
                    return failures.no_bucket()
                case "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation":
                    return failures.denied(
                        "expired" if "Signature not valid in the specified time" in str(exc) else "wrong"
                    )
                case _ if code.startswith("Lease") and key is not None:
                    return failures.busy(key)
            return failures.of_status(exc.status_code, code, "", key=key, writing=writing)
        if isinstance(exc, DeserializationError):
            return failures.not_understood(key, "known form")
        if isinstance(exc, ClientAuthenticationError):
            return failures.denied("wrong", type(exc).__name__)
        if isinstance(exc, (ServiceRequestTimeoutError, ServiceResponseTimeoutError)) or "timed out" in str(exc):
            return failures.timed_out(type(exc).__name__, writing=writing)
        if key is not None and "MD5 mismatch" in str(exc):
            return failures.corrupt(key, "its MD5 is another")
        return failures.unavailable(type(exc).__name__, writing=writing)


class _BlockUpload(Upload):
    def __init__(self, bucket: AzureBucket, key: str, if_missing: bool) -> None:
        self._bucket = bucket
        self._key = key
        self._if_missing = if_missing
        self._write_id = uuid.uuid4().hex
        self._blob = bucket._container.get_blob_client(key)
        self._sizes: dict[int, int] = {}

    def put_part(self, number: int, data: Bytes) -> None:
        with self._bucket._requests(self._key, writing=True):
            self._blob.stage_block(self._block(number), _as_bytes(data), validate_content=True)
        self._sizes[number] = len(data)

    def complete(self) -> ObjectInfo:
        blocks = [BlobBlock(self._block(number)) for number in sorted(self._sizes)]
        conditions: dict[str, Any] = {"match_condition": MatchConditions.IfMissing} if self._if_missing else {}
        try:
            with self._bucket._requests(self._key, writing=True, refusals={400, *OFTEN_REFUSED}):
                answer = self._blob.commit_block_list(blocks, metadata={WRITE_ID: self._write_id}, **conditions)
        except Refusal as refusal:
            return self._after(refusal)
        return _answered(self._key, sum(self._sizes.values()), answer)

    def _after(self, refusal: Refusal) -> ObjectInfo:
        """
        What this upload made, if an earlier try had been done: the next is refused, as its parts are used up.

        So the id is in the metadata of each blob that was put in parts, not only of creates.
        """
        try:
            return self._bucket._own(self._key, self._write_id, refusal)
        except errors.FileExists:
            if self._if_missing:
                raise
        if refusal.code != "InvalidBlockList":
            raise refusal.error
        raise errors.StaleFile(
            f"object {self._key!r} of {self._bucket.shown} was put by another at the same time, and Azure has dropped the "
            "parts of this one: put it again",
            self._key,
        )

    def abort(self) -> None:
        self._sizes.clear()

    def _block(self, number: int) -> str:
        return base64.b64encode(
            f"{self._write_id}{number:08d}".encode()
        ).decode()  # all of one length, at most 64 bytes


def _info(found: Any) -> ObjectInfo:
    return ObjectInfo(found.name, found.size, _tag(found), _nanoseconds(found.last_modified))


def _answered(key: str, size_bytes: int, answer: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(key, size_bytes, answer["etag"].strip('"'), _nanoseconds(answer["last_modified"]))


def _tag(found: Any) -> str:
    tag: str = found.etag
    return tag.strip('"')  # a listing gives it without quotes


def _quoted(tag: str) -> str:
    return f'"{tag}"'


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _as_bytes(data: Bytes) -> bytes:
    return data if isinstance(data, bytes) else bytes(data)


def _pieces(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def _code(exc: HttpResponseError) -> str:
    code = getattr(exc, "error_code", None)
    return str(getattr(code, "value", code))
