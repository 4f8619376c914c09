"""Buckets of Google Cloud Storage, by `google-cloud-storage`.

The SDK names objects, conditions and answers; bodies go over its authorised session here, as it has no request that is read
piece by piece, nor an upload that others than itself divide into chunks. What it lacks is added: a body that is cut short is
resumed, and a create that was done, though its answer was lost, is known by an id in the object's metadata.

All reads are of one generation. What is put in parts is a resumable upload: its bytes go in order over one connection, so parts
that come too early wait; nothing is seen of it before its last request, which has the CRC-32C of the whole (Cloud Storage,
"Resumable uploads"). The other two ways have no conditions (the multipart uploads of the XML interface) or show the parts to
others (composed objects).
"""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Generator, Iterator, MutableSequence, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Final, TypeVar

import google.auth.exceptions
import requests

from pgstore import errors
from pgstore.buckets.base import PAGE_KEYS, Bytes, Check, Limits, ObjectInfo, Page, Upload
from pgstore.buckets.checksums import checked
from pgstore.buckets.credentials import Credentials
from pgstore.buckets.failures import Failures, Refusal
from pgstore.buckets.gcs_answers import CONTENT_TYPE, PASSING, UNREACHABLE, WRITE_ID, WholeObject, info_of_blob, reason
from pgstore.buckets.gcs_client import make_client
from pgstore.buckets.gcs_requests import Requests
from pgstore.buckets.gcs_upload import ResumableUpload
from pgstore.buckets.location import Location
from pgstore.buckets.provider import ProviderBucket
from pgstore.buckets.retries import DEFAULT_POLICY, CutShort, RetryPolicy, fill, resumed

T = TypeVar("T")

PIECE_BYTES: Final = 1 << 20
DELETES_AT_ONCE: Final = 16
LISTED: Final = "items(name,size,generation,updated),prefixes,nextPageToken"


class GcsBucket(ProviderBucket):
    """A bucket."""

    limits = Limits(part_bytes_min=256 << 10, part_bytes_max=5 << 30, parts_max=1_000_000, object_bytes_max=5 << 40)

    def __init__(self, location: Location, credentials: Credentials, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        """
        Raises:
            AccessDenied: the credentials cannot be used, or there are none.
        """
        super().__init__(location)
        failures = Failures(location, credentials.hidden())
        error: errors.Error
        try:
            client = make_client(location, credentials)
        except google.auth.exceptions.DefaultCredentialsError as exc:
            error = failures.caused(failures.denied("missing"), exc)
        except (google.auth.exceptions.GoogleAuthError, ValueError) as exc:
            error = failures.caused(failures.denied("wrong", type(exc).__name__), exc)
        else:
            self._requests = Requests(client, location, failures, policy)
            self._begin(failures, policy)
            return
        raise error

    def head(self, key: str) -> ObjectInfo | None:
        found = self._requests.blob(key)
        return None if found is None else info_of_blob(found)

    def read_into(self, key: str, buffer: memoryview, offset: int, tag: str) -> None:
        end = offset + len(buffer)
        if end > offset:
            with closing(resumed(lambda start: self._body(key, tag, start, end), offset, self._policy)) as pieces:
                filled = fill(buffer, pieces)
            if filled < len(buffer):
                raise self._ends_early(key, offset=offset, end=end, found_end=offset + filled)

    def stream(self, key: str, offset: int, tag: str) -> Generator[Bytes]:
        checks: list[Check] = []
        return checked(self._stream(key, offset, tag, checks), checks, partial(self._failures.corrupt, key))

    def stream_to_check(self, key: str, tag: str, checks: MutableSequence[Check]) -> Generator[Bytes]:
        return self._stream(key, 0, tag, checks)

    def _stream(self, key: str, offset: int, tag: str, checks: MutableSequence[Check]) -> Generator[Bytes]:
        expected: MutableSequence[str] = []

        def begin(start: int) -> Generator[Bytes]:
            return self._body(key, tag, start, None, expected)

        with closing(resumed(begin, offset, self._policy)) as pieces:
            for piece in pieces:
                if offset == 0 and expected and not checks:
                    checks.append(WholeObject(expected[0]))
                yield piece

    def put(self, key: str, data: Bytes, *, if_missing: bool = False) -> ObjectInfo:
        blob = self._requests.bucket.blob(key)
        write_id = uuid.uuid4().hex
        conditions = {}
        if if_missing:
            blob.metadata = {WRITE_ID: write_id}
            conditions["if_generation_match"] = 0
        body = bytes(data)

        def upload() -> None:
            blob.upload_from_file(
                io.BytesIO(body), size=len(body), content_type=CONTENT_TYPE, checksum="crc32c",
                **self._requests.options, **conditions,
            )  # fmt: skip

        try:
            self._requests.ask(key, upload, writing=True)
        except Refusal as refusal:
            if not if_missing:
                raise refusal.error from None
            return self._requests.own(key, write_id, refusal)
        return info_of_blob(blob)

    def begin_upload(self, key: str, *, if_missing: bool = False) -> Upload:
        return ResumableUpload(self._requests, key, if_missing)

    def list(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", page_keys: int = PAGE_KEYS
    ) -> Iterator[Page]:
        token: str | None = None
        while True:
            page, token = self._requests.ask(None, partial(self._page, prefix, delimiter, after, page_keys, token))
            if page is not None:
                yield page
            if not token:
                return

    def _page(
        self, prefix: str, delimiter: str, after: str, page_keys: int, token: str | None
    ) -> tuple[Page | None, str | None]:
        """
        A page, and what the next one is asked for with.

        Each by an iterator of its own: one that has failed is at its end.
        """
        ask = self._requests
        pages = ask.client.list_blobs(
            ask.bucket, prefix=prefix or None, delimiter=delimiter or None, start_offset=after or None,
            page_size=page_keys, page_token=token, fields=LISTED, **ask.options,
        )  # fmt: skip
        page = next(pages.pages, None)
        if page is None:
            return None, None
        objects = [info_of_blob(blob) for blob in page if blob.name != after]  # start_offset itself is listed, too
        found = Page(objects, sorted(page.prefixes)) if objects or page.prefixes else None
        return found, pages.next_page_token

    def delete(self, keys: Sequence[str]) -> None:
        if len(keys) == 1:
            self._delete(keys[0])
            return
        # Not the batches of the SDK: Cloud Storage carries them out one by one as well, and answers are lost among them.
        with ThreadPoolExecutor(DELETES_AT_ONCE, thread_name_prefix="pgstore-gcs") as pool:
            for _ in pool.map(self._delete, keys):
                pass

    def copy(self, source: str, target: str, *, tag: str | None = None, if_missing: bool = False) -> ObjectInfo:
        found = self._requests.blob(source)
        if found is None:
            raise self._failures.missing(source)
        generation = str(found.generation)
        if tag is not None and generation != tag:
            raise self._failures.stale(source)
        blob = self._requests.bucket.blob(target)
        write_id = uuid.uuid4().hex
        conditions = {"if_source_generation_match": int(generation)}
        if if_missing:
            conditions["if_generation_match"] = 0
            for name in (
                "content_type",
                "content_encoding",
                "content_language",
                "content_disposition",
                "cache_control",
            ):
                setattr(blob, name, getattr(found, name))  # what is given replaces what would be copied
            blob.metadata = {**(found.metadata or {}), WRITE_ID: write_id}
        token: str | None = None
        try:
            while True:  # each request copies as much as it can, across locations and classes some of it
                token, _, _ = self._requests.ask(
                    target,
                    partial(blob.rewrite, found, token=token, **self._requests.options, **conditions),
                    writing=True,
                )
                if token is None:
                    return info_of_blob(blob)
        except (Refusal, errors.FileMissing) as exc:
            now = self.head(source)
            if now is None or now.tag != generation:
                raise self._failures.stale(source) from None
            if isinstance(exc, Refusal) and if_missing:
                return self._requests.own(target, write_id, exc)
            raise (exc.error if isinstance(exc, Refusal) else exc) from None

    def close(self) -> None:
        self._requests.client.close()

    # --- what the methods share -------------------------------------------------------------------------------------------

    def _delete(self, key: str) -> None:
        try:
            self._requests.ask(
                key, lambda: self._requests.bucket.blob(key).delete(**self._requests.options), writing=True
            )
        except errors.FileMissing:
            pass
        except Refusal as refusal:
            raise refusal.error from None

    def _body(
        self, key: str, tag: str, start: int, end: int | None, checksums: MutableSequence[str] | None = None
    ) -> Generator[Bytes]:
        """
        The bytes of one request, from *start* to before *end*, as they are stored.

        Args:
            checksums: gets the CRC-32C of the object, in base64, where the answer has it.

        Raises:
            CutShort: what came, so far, is right, and the rest can be asked for.
        """
        # A compressed object is neither decompressed there, which makes ranges and sizes meaningless, nor here.
        headers = {"Accept-Encoding": "gzip"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            answer = self._requests.session.get(
                self._requests.url("download/storage/v1", key, alt="media", ifGenerationMatch=tag),
                headers=headers, timeout=self._requests.timeout, stream=True,
            )  # fmt: skip
            with closing(answer):
                if answer.status_code not in (200, 206):
                    yield from self._no_body(answer, key)
                    return
                if checksums is not None and not checksums:
                    checksums.extend(re.findall(r"crc32c=([^,\s]+)", answer.headers.get("X-Goog-Hash", "")))
                if start and answer.status_code == 200:
                    raise self._failures.failed(key, "the answer is not the range that was asked for")
                left = int(answer.headers["Content-Length"])
                while left:
                    piece = answer.raw.read(min(PIECE_BYTES, left), decode_content=False)
                    if not piece:
                        raise CutShort(self._failures.unavailable("an answer was cut short", writing=False))
                    left -= len(piece)
                    yield piece
        except UNREACHABLE as exc:
            raise CutShort(self._requests.caused(key, exc, writing=False)) from None
        except google.auth.exceptions.GoogleAuthError as exc:
            raise self._requests.caused(key, exc, writing=False) from None

    def _no_body(self, answer: requests.Response, key: str) -> Iterator[bytes]:
        status = answer.status_code
        if status in (404, 412):
            raise self._failures.stale(key)
        if status == 416:
            return iter(())  # the end: an empty range cannot be asked for
        error = self._failures.of_status(status, answer.reason or "", reason(answer), key=key, writing=False)
        if status in PASSING:
            raise CutShort(error)
        raise error
