"""What goes wrong with a bucket, as errors of pgstore: one place for all providers, one sentence for each kind.

A module of a provider says which of the kinds an exception of its SDK is. The exception is kept as the cause, without the frames
that it went through: those hold signed requests and tokens, which reports of errors print with the other variables.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from pgstore import errors
from pgstore.buckets.location import Location

Denial: TypeAlias = Literal["missing", "wrong", "expired", "forbidden"]

NAMES: Final = {"s3": "S3", "gcs": "Google Cloud Storage", "azure": "Azure Blob Storage"}


class Refusal(Exception):
    """An answer that the caller knows how to take; *error* is what it is otherwise."""

    def __init__(self, status: int, code: str, error: errors.Error) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.error = error


class Failures:
    """Errors about one bucket."""

    def __init__(self, location: Location, hidden: Iterable[str] = (), *, service: str | None = None) -> None:
        """
        Args:
            hidden: values that no message may have.
            service: what messages call the provider, if not by its name.
        """
        self._shown = location.shown
        at = f" at {location.endpoint_url}" if location.endpoint_url else ""
        self._service = f"{service or NAMES[location.provider]}{at}"
        self._secret = location.secret
        self._anonymous = location.anonymous
        self._hidden = _Hidden(hidden)
        self.was_denied = False

    def denied(self, kind: Denial, detail: str = "") -> errors.AccessDenied:
        """
        The credentials, or what they may do.

        Args:
            kind: there are none; the provider does not know them; their time is over; they may not do this.
            detail: what the provider says.
        """
        self.was_denied |= kind != "forbidden"
        if self._anonymous:
            return errors.AccessDenied(
                self._text(
                    f"bucket {self._shown}: {self._service} does not let those without credentials do this", detail
                )
            )
        source = f"those of {self._secret}" if self._secret else "those that its SDK found on this machine"
        sentence = {
            "missing": f"{self._secret} has no credentials of {self._service}, and its SDK found none on this machine"
            if self._secret
            else f"there are no credentials: give secret=, or what the SDK of {self._service} looks for",
            "wrong": f"{self._service} does not accept the credentials, {source}",
            "expired": f"{self._service} says that the credentials, {source}, have expired: renew them",
            "forbidden": f"{self._service} does not let the credentials, {source}, do this",
        }[kind]
        return errors.AccessDenied(self._text(f"bucket {self._shown}: {sentence}", detail))

    def unavailable(self, detail: str, *, writing: bool) -> errors.StoreUnavailable:
        """The provider cannot be reached, or fails; after a request that changes something nobody knows whether it was done."""
        if writing:
            return errors.OutcomeUnknown(
                self._text(f"bucket {self._shown}: {self._service} failed; what was asked may have been done", detail)
            )
        return errors.StoreUnavailable(self._text(f"bucket {self._shown}: {self._service} is not available", detail))

    def timed_out(self, detail: str, *, writing: bool) -> errors.Error:
        if writing:
            return self.unavailable(detail, writing=True)
        return errors.TimedOut(self._text(f"bucket {self._shown}: {self._service} does not answer", detail))

    def no_bucket(self) -> errors.NotFoundError:
        return errors.NotFoundError(
            f"there is no bucket {self._shown} at {self._service}: check its name"
            if " at " not in self._service
            else f"there is no bucket {self._shown}: {self._service} does not have it; check its name and the endpoint"
        )

    def missing(self, key: str) -> errors.FileMissing:
        return errors.FileMissing(f"there is no object {key!r} in {self._shown}", key)

    def exists(self, key: str) -> errors.FileExists:
        return errors.FileExists(f"there is an object {key!r} in {self._shown}", key)

    def stale(self, key: str) -> errors.StaleFile:
        return errors.StaleFile(f"object {key!r} of {self._shown} was replaced or deleted since it was opened", key)

    def corrupt(self, key: str, fault: str) -> errors.FileFailed:
        return errors.FileFailed(
            f"object {key!r} of {self._shown} did not arrive as it was put: {fault}; read it again", key
        )

    def busy(self, key: str) -> errors.FileFailed:
        return errors.FileFailed(
            f"object {key!r} of {self._shown} is being changed by others; try again", key, errno=errno.EBUSY
        )

    def failed(self, key: str | None, detail: str, number: int = errno.EIO) -> errors.FileFailed:
        what = f"object {key!r} of {self._shown}" if key is not None else f"bucket {self._shown}"
        return errors.FileFailed(self._text(f"{what}: {self._service} refused the request", detail), key, errno=number)

    def not_understood(self, key: str | None, lacking: str) -> errors.FileFailed:
        """What answers does not have the interface of the provider: it said yes, and left out what it always says."""
        what = f"object {key!r} of {self._shown}" if key is not None else f"bucket {self._shown}"
        return errors.FileFailed(
            f"{what}: the answer of {self._service} has no {lacking}; check that the endpoint has this interface",
            key,
            errno=errno.EPROTO,
        )

    def of_status(self, status: int, code: str, detail: str, *, key: str | None, writing: bool) -> errors.Error:
        """The error of an answer that has no kind of its own, by its HTTP status."""
        detail = ": ".join(filter(None, (f"{status} {code}".strip(), detail)))
        match status:
            case HTTPStatus.UNAUTHORIZED:
                return self.denied("wrong", detail)
            case HTTPStatus.FORBIDDEN:
                return self.denied("forbidden", detail)
            case HTTPStatus.NOT_FOUND if key is not None:
                return self.missing(key)
            case HTTPStatus.NOT_FOUND:
                return self.no_bucket()
            case HTTPStatus.CONFLICT if key is not None:
                return self.busy(key)
            case HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.GATEWAY_TIMEOUT:
                return self.timed_out(detail, writing=writing)
            case HTTPStatus.TOO_MANY_REQUESTS:
                return self.unavailable(detail, writing=writing)
            case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return self.unavailable(detail, writing=writing)
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return self.failed(key, detail, errno.EFBIG)
            case _:
                return self.failed(key, detail)

    def caused(self, error: errors.Error, exc: BaseException) -> errors.Error:
        """*error*, caused by *exc*, of which no frames are left; nothing is left of it if its text has a value."""
        seen: dict[int, BaseException] = {}
        open_ends: list[BaseException | None] = [exc]
        while open_ends:
            each = open_ends.pop()
            if each is not None and id(each) not in seen:
                seen[id(each)] = each
                each.__traceback__ = None
                open_ends += each.__cause__, each.__context__
        if not any(self._hidden.are_in(f"{each!s} {each!r}") for each in seen.values()):
            error.__cause__ = exc
        return error

    def _text(self, sentence: str, detail: str) -> str:
        return f"{sentence} ({self._hidden.removed(detail)})" if detail else sentence


class _Hidden:
    """Values that are not shown. Not a list of str: those would be seen among the variables of a report."""

    SHORTEST: Final = 6
    """A shorter value is a word of messages rather than a secret: a region, a version."""

    def __init__(self, values: Iterable[str]) -> None:
        long = [value for value in values if len(value) >= self.SHORTEST]
        self._values = frozenset(long + [quote(value, safe="") for value in long])  # as URLs have them

    def are_in(self, text: str) -> bool:
        return any(value in text for value in self._values)

    def removed(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "***")
        return text

    def __repr__(self) -> str:
        return "<hidden>"
