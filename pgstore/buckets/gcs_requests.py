"""Requests to one bucket of Google Cloud Storage: through the SDK, tried again, with pgstore's errors for what it raises."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Any, Final, TypeVar

import google.auth.exceptions
import requests
import urllib3.exceptions
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from pgstore import errors
from pgstore.buckets.base import ObjectInfo
from pgstore.buckets.failures import Failures, Refusal
from pgstore.buckets.gcs_answers import PASSING, UNREACHABLE, WRITE_ID, info_of_blob
from pgstore.buckets.location import Location
from pgstore.buckets.retries import RetryPolicy

T = TypeVar("T")


class Requests:
    """The bucket of a location, and how it is asked."""

    def __init__(self, client: storage.Client, location: Location, failures: Failures, policy: RetryPolicy) -> None:
        self.client = client
        self.name = location.name
        self.payer = client.project if location.requester_pays else None
        self.bucket = client.bucket(location.name, user_project=self.payer)
        self.session: requests.Session = client._http  # authorised, for what the SDK has no request for
        self.failures = failures
        self.policy = policy
        self.timeout = policy.connect_seconds, policy.read_seconds
        self.options: Final[dict[str, Any]] = {"timeout": self.timeout, "retry": None}  # `ask` tries again
        self._exists = False  # known to

    def blob(self, key: str) -> Any:
        blob = self.bucket.blob(key)
        try:
            self.ask(key, lambda: blob.reload(**self.options))
        except errors.FileMissing:
            return None
        return blob

    def own(self, key: str, write_id: str, refusal: Refusal) -> ObjectInfo:
        """What an earlier try of a refused create had put."""
        found = self.blob(key)
        if found is None:
            raise refusal.error
        if (found.metadata or {}).get(WRITE_ID) != write_id:
            raise self.failures.exists(key)
        return info_of_blob(found)

    def url(self, interface: str, key: str, **query: str) -> str:
        if self.payer is not None:
            query["userProject"] = self.payer
        place = f"{interface}/b/{self.name}/o/{urllib.parse.quote(key, safe='')}"
        return f"{self.client.api_endpoint}/{place}?{urllib.parse.urlencode(query)}"

    def ask(self, key: str | None, request: Callable[[], T], *, writing: bool = False) -> T:
        """
        Call *request* until it has an answer that does not pass by itself.

        Raises:
            Refusal: a condition does not hold.
        """
        failures = 0
        while True:
            try:
                answer = request()
                self._exists = True
                return answer
            except requests.exceptions.JSONDecodeError as exc:
                error = self.failures.caused(self.failures.not_understood(key, "JSON"), exc)
                raise error from error.__cause__
            except (GoogleAPICallError, google.auth.exceptions.GoogleAuthError, DataCorruption, *UNREACHABLE) as exc:
                failures += 1
                if failures == self.policy.attempts or not _passes(exc):
                    error = self.caused(key, exc, writing=writing)
                    if isinstance(exc, GoogleAPICallError) and exc.code == 412:
                        raise Refusal(412, "conditionNotMet", error) from None
                    raise error from error.__cause__
            self.policy.pause(failures)

    def caused(self, key: str | None, exc: Exception, *, writing: bool) -> errors.Error:
        return self.failures.caused(self._error(key, exc, writing=writing), exc)

    def _error(self, key: str | None, exc: Exception, *, writing: bool) -> errors.Error:
        failures = self.failures
        if isinstance(exc, GoogleAPICallError):
            status = int(exc.code or 0)
            if status == 404 and (key is None or not self._has_bucket()):
                return failures.no_bucket()
            return failures.of_status(status, "", str(exc.message), key=key, writing=writing)
        if isinstance(exc, google.auth.exceptions.DefaultCredentialsError):
            return failures.denied("missing")
        if isinstance(exc, google.auth.exceptions.RefreshError):
            return failures.denied("wrong", type(exc).__name__)
        if isinstance(exc, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
            return failures.timed_out(type(exc).__name__, writing=writing)
        if isinstance(exc, DataCorruption):
            return failures.failed(key, "it arrived damaged again and again")
        return failures.unavailable(type(exc).__name__, writing=writing)

    def _has_bucket(self) -> bool:
        """Whether a 404 is about the object: an object that is missing, and one of no bucket, have one status."""
        if not self._exists:
            first = self.client.list_blobs(self.bucket, max_results=1, **self.options)
            try:
                next(first.pages, None)
            except GoogleAPICallError as exc:
                return exc.code != 404
            except (google.auth.exceptions.GoogleAuthError, *UNREACHABLE):
                return True
            self._exists = True
        return True


def _passes(exc: Exception) -> bool:
    if isinstance(exc, GoogleAPICallError):
        return exc.code in PASSING
    return isinstance(exc, (DataCorruption, *UNREACHABLE))
