"""The errors that programs written for Modal name, in a module of the name that it has there: `modal.exception.NotFoundError`."""

from pgstore import errors
from pgstore.errors import (
    AlreadyExistsError,
    ConflictError,
    DeserializationError,
    Error,
    ExecutionError,
    FunctionTimeoutError,
    InputCancellation,
    InvalidError,
    NotFoundError,
    OutputExpiredError,
    RemoteError,
    SerializationError,
)

# What pgstore calls otherwise. `TimeoutError` is not Python's own, see there.
TimeoutError = errors.CallTimeoutError  # noqa: A001
RequestSizeError = errors.ValueTooLarge
AuthError = PermissionDeniedError = errors.AccessDenied
ConnectionError = ServiceError = errors.StoreUnavailable  # noqa: A001


class VolumeUploadTimeoutError(TimeoutError):
    """Never raised here; for programs that handle it."""


class ResourceExhaustedError(Error):
    """Never raised here; for programs that handle it."""


class InternalError(Error):
    """Never raised here; for programs that handle it."""


class InternalFailure(Error):
    """Never raised here; for programs that handle it."""


class DeprecationError(UserWarning, DeprecationWarning):
    """The category of warnings of old names."""


class AsyncUsageWarning(UserWarning):
    """
    A call has blocked the event loop that runs on its thread, and with it all other tasks; the warning names the form to await.

    Each line is warned of once. `configure(async_warnings=False)` and `PGSTORE_ASYNC_WARNINGS=0` turn it off.
    """


__all__ = [
    "AlreadyExistsError",
    "AsyncUsageWarning",
    "AuthError",
    "ConflictError",
    "ConnectionError",
    "DeprecationError",
    "DeserializationError",
    "Error",
    "ExecutionError",
    "FunctionTimeoutError",
    "InputCancellation",
    "InternalError",
    "InternalFailure",
    "InvalidError",
    "NotFoundError",
    "OutputExpiredError",
    "PermissionDeniedError",
    "RemoteError",
    "RequestSizeError",
    "ResourceExhaustedError",
    "SerializationError",
    "ServiceError",
    "TimeoutError",
    "VolumeUploadTimeoutError",
]
