"""What the exceptions of boto3 mean."""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Any, Final

from pgstore import errors
from pgstore.buckets.failures import Denial, Failures, Refusal

_DENIALS: Final[dict[str, Denial]] = {
    "InvalidAccessKeyId": "wrong",
    "SignatureDoesNotMatch": "wrong",
    "AuthorizationHeaderMalformed": "wrong",
    "InvalidClientTokenId": "wrong",
    "InvalidIdentityToken": "wrong",
    "InvalidToken": "wrong",
    "InvalidSecurity": "wrong",
    "ExpiredToken": "expired",
    "ExpiredTokenException": "expired",
    "TokenRefreshRequired": "expired",
}
"""Codes of answers about credentials."""
_ASKED_WITHOUT_BODY: Final = "head_object"
"""Its answers have a status and no code."""
_STS: Final = "AssumeRole"
"""What the operations of a role begin with."""
_UNAVAILABLE: Final = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling"})


def answer(exc: Any) -> tuple[int, str]:
    """The HTTP status and the code of a `ClientError`."""
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(exc.response.get("Error", {}).get("Code", ""))
    return status, "" if code == str(status) else code


def translated(
    failures: Failures, exc: Exception, *, key: str | None, writing: bool, expected: Collection[int]
) -> Exception:
    """Our error for *exc*; a `Refusal`, if it is an answer with one of the *expected* statuses."""
    from botocore.exceptions import ClientError

    if not isinstance(exc, ClientError):
        return failures.caused(_without_answer(failures, exc, writing), exc)
    status, code = answer(exc)
    error = failures.caused(_answered(failures, exc, status, code, key, writing), exc)
    # A missing bucket is never a missing object.
    return Refusal(status, code, error) if status in expected and code != "NoSuchBucket" else error


def _answered(failures: Failures, exc: Any, status: int, code: str, key: str | None, writing: bool) -> errors.Error:
    message = str(exc.response.get("Error", {}).get("Message", ""))
    if code in _DENIALS:
        return failures.denied(_DENIALS[code], f"{code}: {message}")
    if exc.operation_name.startswith(_STS) and status < 500:
        return failures.denied("forbidden", f"{exc.operation_name}: {code}: {message}")
    match code:
        case "NoSuchBucket":
            return failures.no_bucket()
        case "InvalidObjectState":
            return failures.failed(key, f"it is archived, and has to be restored first: {message}")
        case "EntityTooLarge":
            return failures.failed(key, f"{code}: {message}", errno.EFBIG)
        case "KeyTooLongError":
            return failures.failed(key, f"{code}: {message}", errno.ENAMETOOLONG)
        case _ if code in _UNAVAILABLE:
            return failures.unavailable(f"{status} {code}: {message}", writing=writing)
        case _:
            return failures.of_status(status, code, message, key=key, writing=writing)


def _without_answer(failures: Failures, exc: Exception, writing: bool) -> errors.Error:
    from botocore import exceptions

    detail = str(exc)
    match exc:
        case exceptions.NoCredentialsError():
            return failures.denied("missing")
        case exceptions.UnauthorizedSSOTokenError() | exceptions.SSOTokenLoadError():
            return failures.denied("expired", detail)
        case (
            exceptions.PartialCredentialsError()
            | exceptions.CredentialRetrievalError()
            | exceptions.ProfileNotFound()
            | exceptions.TokenRetrievalError()
            | exceptions.MetadataRetrievalError()
            | exceptions.RefreshWithMFAUnsupportedError()
        ):
            return failures.denied("missing", detail)
        case exceptions.EndpointConnectionError() | exceptions.ProxyConnectionError():
            # No connection, so nothing was sent.
            return failures.unavailable(detail, writing=False)
        case exceptions.ReadTimeoutError() | exceptions.ConnectTimeoutError():
            return failures.timed_out(detail, writing=writing)
        case exceptions.HTTPClientError() | exceptions.IncompleteReadError():
            return failures.unavailable(detail, writing=writing)
        case exceptions.SSLError():  # an OSError, too
            return failures.unavailable(detail, writing=writing)
        case OSError():  # the file of a token of a role
            return failures.denied("missing", detail)
        case exceptions.ParamValidationError() | exceptions.BotoCoreError() | _:
            return failures.failed(None, detail, errno.EINVAL)
