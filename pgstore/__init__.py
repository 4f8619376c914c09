"""Dict, Queue, Volume and NetworkFileSystem, after Modal's, on the Postgres database that you already run."""

from __future__ import annotations

from typing import Any

from pgstore import errors
from pgstore.client import (
    Client,
    configure,
    default_client,
    run_transaction,
    run_transaction_async,
    transaction,
)
from pgstore.client.transaction import Transaction
from pgstore.dict import Dict, DictChange, DictEntry
from pgstore.errors import (
    AccessDenied,
    AlreadyExistsError,
    ConflictError,
    DeserializationError,
    Error,
    InvalidError,
    LeaseLost,
    LockTimeout,
    NotFoundError,
    OutcomeUnknown,
    SchemaOutdated,
    SerializationError,
    StoreUnavailable,
    TransactionScopeError,
)
from pgstore.network_file_system import NetworkFileSystem
from pgstore.queue import DeadLetter, Lease, Queue
from pgstore.types import (
    DictInfo,
    FileEntry,
    FileEntryType,
    FileStat,
    NetworkFileSystemInfo,
    QueueInfo,
    VolumeInfo,
    VolumeVersion,
)
from pgstore.volume import Volume

__all__ = [
    "AccessDenied",
    "AlreadyExistsError",
    "Client",
    "ConflictError",
    "DeadLetter",
    "DeserializationError",
    "Dict",
    "DictChange",
    "DictEntry",
    "DictInfo",
    "Error",
    "FileEntry",
    "FileEntryType",
    "FileStat",
    "InvalidError",
    "Lease",
    "LeaseLost",
    "LockTimeout",
    "NetworkFileSystem",
    "NetworkFileSystemInfo",
    "NotFoundError",
    "OutcomeUnknown",
    "Queue",
    "QueueInfo",
    "SchemaOutdated",
    "SerializationError",
    "StoreUnavailable",
    "Transaction",
    "TransactionScopeError",
    "Volume",
    "VolumeInfo",
    "VolumeVersion",
    "configure",
    "default_client",
    "errors",
    "run_transaction",
    "run_transaction_async",
    "transaction",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pgstore")
    raise AttributeError(f"module 'pgstore' has no attribute {name!r}")
