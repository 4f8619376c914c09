"""Resumable uploads of Google Cloud Storage: parts that come in any order, sent in theirs.

The protocol (Cloud Storage, "Resumable uploads"): a session has a URL, chunks are put to it one after the other, all but the last a
multiple of 256 KiB, and each answer says how much is persisted; after a failure one asks, and goes on from there. So nothing is
sent twice that has arrived, whatever breaks.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Mapping
from typing import Any, Final

import google.auth.exceptions
import requests

from pgstore import errors
from pgstore.buckets.base import Bytes, ObjectInfo, Upload
from pgstore.buckets.failures import Refusal
from pgstore.buckets.gcs_answers import CONTENT_TYPE, PASSING, UNREACHABLE, WRITE_ID, Crc32c, info_of_resource, reason
from pgstore.buckets.gcs_requests import Requests

CHUNK_UNIT_BYTES: Final = 256 << 10

_logger = logging.getLogger("pgstore")


class ResumableUpload(Upload):
    """
    One thread at a time sends, all that is next, while others wait.

    A part that comes before its turn while no one sends is kept, so that one thread may put parts in any order, too.
    """

    def __init__(self, requests_: Requests, key: str, if_missing: bool) -> None:
        self._requests = requests_
        self._key = key
        self._if_missing = if_missing
        self._write_id = uuid.uuid4().hex
        self._turn = threading.Condition()
        self._parts: dict[int, bytes] = {}  # that have come and are not sent
        self._next = 1
        self._sending = False
        self._broken: BaseException | None = None
        self._session: _Session | None = None
        self._refusal: Refusal | None = None
        self._ended = False

    def put_part(self, number: int, data: Bytes) -> None:
        with self._turn:
            self._parts[number] = bytes(data)
            while self._sending and number in self._parts:
                self._turn.wait()
            if self._broken is not None:
                raise self._broken
            if self._sending or self._next not in self._parts:
                return
            self._sending = True
        try:
            while (part := self._taken()) is not None:
                self._send(part)
        except BaseException as exc:
            with self._turn:
                self._broken = exc
                self._sending = False
                self._turn.notify_all()
            raise

    def complete(self) -> ObjectInfo:
        if self._broken is not None:
            raise self._broken
        for number in sorted(self._parts):
            self._send(self._parts.pop(number))
        try:
            if self._refusal is None:
                self._ended = True
                return info_of_resource(self._opened().finish())
        except Refusal as refusal:
            self._refusal = refusal
        assert self._refusal is not None
        return self._requests.own(self._key, self._write_id, self._refusal)

    def abort(self) -> None:
        self._parts.clear()
        if self._session is not None and not self._ended:
            self._session.cancel()
        self._ended = True

    def _taken(self) -> bytes | None:
        with self._turn:
            part = self._parts.pop(self._next, None)
            if part is None:
                self._sending = False  # before another looks: a part that comes now is sent by who brings it
            else:
                self._next += 1
            self._turn.notify_all()
            return part

    def _send(self, part: bytes) -> None:
        """A create that is refused is told by `complete`; until then parts go nowhere."""
        if self._refusal is None:
            try:
                self._opened().append(part)
            except Refusal as refusal:
                self._refusal = refusal

    def _opened(self) -> _Session:
        if self._session is None:
            ask = self._requests
            blob = ask.bucket.blob(self._key)
            conditions: dict[str, Any] = {"if_generation_match": 0} if self._if_missing else {}
            if self._if_missing:
                blob.metadata = {WRITE_ID: self._write_id}

            def begin() -> str:
                url: str = blob.create_resumable_upload_session(
                    content_type=CONTENT_TYPE, client=ask.client, **ask.options, **conditions
                )
                return url

            self._session = _Session(ask, self._key, ask.ask(self._key, begin, writing=True))
        return self._session


class _Session:
    """The URL of one upload, and what has been sent to it."""

    def __init__(self, requests_: Requests, key: str, url: str) -> None:
        self._requests = requests_
        self._key = key
        self._url = url
        self._persisted = 0
        self._pending = b""  # after what is persisted
        self._checksum = Crc32c()

    def append(self, data: bytes) -> None:
        self._checksum.update(data)
        self._pending = self._pending + data if self._pending else data
        # Something is kept for the last request, which has to be about bytes.
        whole = (len(self._pending) - 1) // CHUNK_UNIT_BYTES * CHUNK_UNIT_BYTES
        if whole > 0:
            end = self._persisted + whole
            while self._persisted < end:
                self._advance(end - self._persisted, last=False)

    def finish(self) -> Mapping[str, Any]:
        """Send the rest; return what the provider says of the object."""
        while True:
            resource = self._advance(len(self._pending), last=True)
            if resource is not None:
                return resource

    def cancel(self) -> None:
        try:
            self._requests.session.delete(self._url, timeout=self._requests.timeout)
        except (*UNREACHABLE, google.auth.exceptions.GoogleAuthError) as exc:
            _logger.info(
                "an upload to %s was not cancelled (%s); it goes after a week",
                f"gs://{self._requests.name}",
                type(exc).__name__,
            )

    def _advance(self, length: int, *, last: bool) -> Mapping[str, Any] | None:
        """Send so many pending bytes, and again what did not arrive, until some did; return the object if it was made."""
        failures = 0
        asking = False
        error: errors.Error
        while True:
            try:
                answer = self._request(0 if asking else length, last=last, total=self._persisted + length)
                status = answer.status_code
                if status in (200, 201):
                    resource: Mapping[str, Any] = answer.json()
                    return resource
                if status == 308:
                    if self._arrived(answer):
                        return None
                    error = self._requests.failures.unavailable("nothing of a chunk arrived", writing=True)
                    if asking:
                        asking = False
                        continue
                else:
                    error = self._requests.failures.of_status(status, "", reason(answer), key=self._key, writing=True)
                    if status == 412:
                        raise Refusal(412, "conditionNotMet", error)
                    if status in (404, 410):
                        raise self._requests.failures.failed(
                            self._key, "the upload is gone: it was begun more than a week ago"
                        )
                    if status not in PASSING:
                        raise error
            except UNREACHABLE as exc:
                error = self._requests.caused(self._key, exc, writing=True)
            except google.auth.exceptions.GoogleAuthError as exc:
                error = self._requests.caused(self._key, exc, writing=True)
                raise error from error.__cause__
            failures += 1
            if failures >= self._requests.policy.attempts:
                raise error from error.__cause__
            self._requests.policy.pause(failures)
            asking = True

    def _request(self, length: int, *, last: bool, total: int) -> requests.Response:
        data = self._pending[:length]
        size = str(total) if last else "*"
        headers = {
            "Content-Range": f"bytes {self._persisted}-{self._persisted + length - 1}/{size}"
            if data
            else f"bytes */{size}"
        }
        if last and length == len(self._pending):
            headers["x-goog-hash"] = f"crc32c={self._checksum.in_base64()}"
        return self._requests.session.put(
            self._url, data=data, headers=headers, timeout=self._requests.timeout, allow_redirects=False
        )

    def _arrived(self, answer: requests.Response) -> bool:
        """Whether more is persisted than was known to be."""
        found = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
        persisted = int(found[1]) + 1 if found else 0
        more = persisted - self._persisted
        if more < 0 or more > len(self._pending):
            raise self._requests.failures.failed(self._key, f"{persisted} bytes have arrived, not {self._persisted}")
        self._pending = self._pending[more:]
        self._persisted = persisted
        return more > 0
