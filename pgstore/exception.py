"""The errors that Modal's storage has too, in a module of the name that it has there: `except modal.exception.NotFoundError`."""

from pgstore.errors import (
    AlreadyExistsError,
    ConflictError,
    DeserializationError,
    Error,
    InvalidError,
    NotFoundError,
    SerializationError,
)

__all__ = [
    "AlreadyExistsError",
    "ConflictError",
    "DeserializationError",
    "Error",
    "InvalidError",
    "NotFoundError",
    "SerializationError",
]
