"""Copies that S3 makes: in one request, or in parts where the object is too large for one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final

from pgstore import errors
from pgstore.buckets.base import ObjectInfo
from pgstore.buckets.failures import Refusal
from pgstore.buckets.s3_requests import WRITE_ID, Requests, info_of, mtime_ns, new_write_id, quoted, tag_of
from pgstore.buckets.s3_upload import S3Upload

THREADS: Final = 8
PARTS_MAX: Final = 10_000
_KEPT: Final = (
    *("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType", "Expires", "Metadata"),
    *("StorageClass", "WebsiteRedirectLocation"),
)
"""Properties that a copy has too. A copy in one request keeps them by itself, unless it is given a new id."""


class Copier:
    """Copies objects of one bucket within it."""

    def __init__(self, requests: Requests, *, bytes_max: int, part_bytes: int, with_md5: bool) -> None:
        """
        Args:
            bytes_max: of an object that is copied in one request.
            part_bytes: of the others.
        """
        self._requests = requests
        self._bytes_max = bytes_max
        self._part_bytes = part_bytes
        self._with_md5 = with_md5

    def copy(self, source: str, target: str, *, tag: str | None, if_missing: bool) -> ObjectInfo:
        found = self._requests.head(source)
        if found is None:
            raise self._requests.failures.missing(source)
        # Compared here as well as there: some services do not know all conditions.
        if tag is not None and tag_of(found) != tag:
            raise self._requests.failures.stale(source)
        if if_missing and self._requests.head(target) is not None:
            raise self._requests.failures.exists(target)
        origin = {
            "CopySource": {"Bucket": self._requests.name, "Key": source},
            "CopySourceIfMatch": quoted(tag_of(found)),
        }
        if found["ContentLength"] > self._bytes_max:
            return self._in_parts(source, target, found, origin, if_missing)
        return self._at_once(source, target, found, origin, if_missing)

    def _at_once(
        self, source: str, target: str, found: Mapping[str, Any], origin: Mapping[str, Any], if_missing: bool
    ) -> ObjectInfo:
        write_id = new_write_id()
        given: dict[str, Any] = dict(origin)
        if "StorageClass" in found:
            given["StorageClass"] = found["StorageClass"]  # or it would be the cheapest to read, not to keep
        if if_missing:
            about = _about(found)
            about["Metadata"] = {**about.get("Metadata", {}), WRITE_ID: write_id}
            given |= {"IfNoneMatch": "*", "MetadataDirective": "REPLACE", **about}
        try:
            answer = self._requests.ask(
                "copy_object",
                target,
                writing=True,
                expected=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED),
                **given,
            )
        except Refusal as refusal:
            error = self._refused(refusal, source, target, if_missing)
        else:
            result = answer["CopyObjectResult"]
            return ObjectInfo(target, found["ContentLength"], tag_of(result), mtime_ns(result["LastModified"]))
        made = self._requests.made_by(target, write_id) if if_missing else None
        if made is not None:
            return info_of(target, made)
        raise error

    def _refused(self, refusal: Refusal, source: str, target: str, if_missing: bool) -> errors.Error:
        if refusal.status == HTTPStatus.CONFLICT:
            return self._requests.failures.busy(target)
        # Of two conditions the answer does not say which one was not met; and a source that is gone is no better than a new one.
        if if_missing and self._requests.head(target) is not None:
            return self._requests.failures.exists(target)
        return self._requests.failures.stale(source)

    def _in_parts(
        self, source: str, target: str, found: Mapping[str, Any], origin: Mapping[str, Any], if_missing: bool
    ) -> ObjectInfo:
        upload = S3Upload(self._requests, target, if_missing=if_missing, about=_about(found), with_md5=self._with_md5)
        size = found["ContentLength"]
        part_bytes = max(self._part_bytes, -(-size // PARTS_MAX))
        starts = range(0, size, part_bytes)

        def copy_part(number: int) -> None:
            start = starts[number - 1]
            upload.copy_part(number, start, min(start + part_bytes, size), **origin)

        try:
            with ThreadPoolExecutor(THREADS, thread_name_prefix="pgstore-copy") as pool:
                for _ in pool.map(copy_part, range(1, len(starts) + 1)):
                    pass
            return upload.complete()
        except Refusal as refusal:
            refused = refusal
        except BaseException:
            with contextlib.suppress(errors.Error):
                upload.abort()
            raise
        upload.abort()
        again = self._requests.head(source)
        if again is not None and tag_of(again) == tag_of(found):
            raise self._requests.failures.failed(source, f"a copy in parts: {refused}")
        raise self._requests.failures.stale(source)


def _about(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in _KEPT if name in found}
