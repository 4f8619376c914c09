"""An object of S3 that is put in parts: a multipart upload."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from pgstore import errors
from pgstore.buckets.base import Bytes, ObjectInfo, Upload
from pgstore.buckets.failures import Refusal
from pgstore.buckets.s3_requests import WRITE_ID, Requests, info_of, info_put, new_write_id

_CHANGED: Final = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
)
"""What the source of a copy that has changed is answered with."""


class S3Upload(Upload):
    """
    A multipart upload.

    Its parts cost until it is completed or aborted: whoever dies in between leaves them to a rule of the bucket
    (AbortIncompleteMultipartUpload).
    """

    def __init__(
        self, requests: Requests, key: str, *, if_missing: bool, about: Mapping[str, Any] = {}, with_md5: bool = False
    ) -> None:
        """
        Args:
            about: further properties of the object, as the SDK calls them.
            with_md5: whether parts are sent with that, and without the checksums of AWS.
        """
        self._requests = requests
        self._key = key
        self._if_missing = if_missing
        self._with_md5 = with_md5
        self._write_id = new_write_id()
        self._parts: dict[int, dict[str, Any]] = {}
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()
        self._ended = False
        given = dict(about)
        given["Metadata"] = {**given.get("Metadata", {}), WRITE_ID: self._write_id}
        if not with_md5:
            # Of the whole, so that whoever reads the whole can compare; that of AWS by itself is made of those of the parts.
            given |= {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        self._id = requests.ask("create_multipart_upload", key, writing=True, **given)["UploadId"]

    def put_part(self, number: int, data: Bytes) -> None:
        body = data if isinstance(data, bytes | bytearray) else bytes(data)
        given: dict[str, Any] = {"ContentMD5": md5_of(body)} if self._with_md5 else {"ChecksumAlgorithm": "CRC32"}
        self._ask_for_part(number, len(body), lambda: self._put("upload_part", number, Body=body, **given))

    def copy_part(self, number: int, start: int, end: int, **source: Any) -> None:
        """
        Have a range of an object copied as the part *number*; *source* names the object as the SDK does.

        Raises:
            Refusal: there is no such object, or it has changed.
        """
        source["CopySourceRange"] = f"bytes={start}-{end - 1}"
        self._ask_for_part(
            number, end - start, lambda: self._put("upload_part_copy", number, **source)["CopyPartResult"]
        )

    def _put(self, operation: str, number: int, **given: Any) -> dict[str, Any]:
        return self._requests.ask(
            operation,
            self._key,
            writing=True,
            expected=_CHANGED if operation == "upload_part_copy" else (),
            UploadId=self._id,
            PartNumber=number,
            **given,
        )

    def _ask_for_part(self, number: int, size_bytes: int, put: Callable[[], Mapping[str, Any]]) -> None:
        answer = put()
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if "ChecksumCRC32" in answer:
            part["ChecksumCRC32"] = answer["ChecksumCRC32"]
        with self._lock:
            self._parts[number] = part
            self._sizes[number] = size_bytes

    def complete(self) -> ObjectInfo:
        if not self._parts:
            self.put_part(1, b"")  # an upload has one part at least
        given: dict[str, Any] = {}
        if self._if_missing:
            # Asked for as well as looked for: some services do not know the condition here.
            if self._requests.head(self._key) is not None:
                raise self._requests.failures.exists(self._key)
            given["IfNoneMatch"] = "*"
        if not self._with_md5:
            given["ChecksumType"] = "FULL_OBJECT"
        answer: dict[str, Any] = {}
        error: errors.Error | None = None
        try:
            answer = self._requests.ask(
                "complete_multipart_upload",
                self._key,
                writing=True,
                expected=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED),
                UploadId=self._id,
                MultipartUpload={"Parts": [self._parts[number] for number in sorted(self._parts)]},
                **given,
            )
        except Refusal as refusal:
            error = self._refused(refusal)
        except errors.OutcomeUnknown as exc:
            error = exc
        found = self._requests.made_by(self._key, self._write_id)
        if found is not None:
            # Also after an error: the first attempt was done, its answer was lost, and the second one found no upload any more.
            self._ended = True
            return info_of(self._key, found)
        if error is not None:
            raise error
        # It was made, and somebody was quick to put another.
        self._ended = True
        return info_put(self._key, sum(self._sizes.values()), answer)

    def _refused(self, refusal: Refusal) -> errors.Error:
        if refusal.status == HTTPStatus.PRECONDITION_FAILED:
            return self._requests.failures.exists(self._key)
        if refusal.status == HTTPStatus.CONFLICT:
            return self._requests.failures.busy(self._key)
        return self._requests.failures.failed(self._key, f"the upload is not there any more: {refusal}")

    def abort(self) -> None:
        if not self._ended:
            with contextlib.suppress(Refusal):
                self._requests.ask(
                    "abort_multipart_upload",
                    self._key,
                    writing=True,
                    expected=(HTTPStatus.NOT_FOUND,),
                    UploadId=self._id,
                )
            self._ended = True


def md5_of(body: Bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
