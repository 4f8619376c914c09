"""Modal's storage primitives (Dict, Queue, Volume, NetworkFileSystem, CloudBucketMount) and functions, on one Postgres database.

>>> settings = pgstore.Dict.persist("settings")
>>> tasks = pgstore.Queue.persist("tasks")
>>> tasks.put("world")
>>> with pgstore.transaction():  # all of it, or, after an exception, nothing
...     settings["last"] = tasks.get()
>>> settings["last"]
'world'

What each promises is in its class: `help(pgstore.Dict)`, `Queue`, `Volume`, `NetworkFileSystem`, `CloudBucketMount`, `Mount`,
`App`, `Secret`. See `transaction` for blocks, `Client` for connecting, `pgstore.errors` for what to do about each error,
`pgstore.fsspec` for pandas and the like, `pgstore.pytest_plugin` for tests, sql/README.md for SQL, roles, backup and upgrades.

**Every store.** `from_name` does no I/O; the store is looked up, or with `create_if_missing=True` (`persist`) made, on first
use. Deleting one (`Dict.objects.delete(name)`) makes handles that still lead to it raise `NotFoundError`. `ephemeral()` stores
go at the end of their `with` block, when the handle is collected, or after a crash, once ten minutes have passed. Every method
has `.aio`; iterators serve `for` and `async for`. Handles can be pickled. What is in a transaction that has not committed,
nobody else sees. A handle never reaches another store than it was made for, also where a backup is restored, the schema made
anew, or a server takes over that lost the last changes while the program runs: named handles find the store of their name
there, files that were open raise `StaleFile`, and `watch` gives a `reset`.

**Names** have 1 to 64 characters of `A-Z a-z 0-9 . _ -`. A name belongs to an environment: the argument `environment_name`,
else `PGSTORE_ENVIRONMENT`, else `main`. The same name in two environments, or of a Dict and a Queue, is two stores; a Volume
and a NetworkFileSystem cannot both have it. Environments are name spaces, no access control.

**After a crash** of a client, the server undoes what was not committed, at once where the client's machine lives and the
connection ends, else when TCP notices. After a crash of the server, what was committed is there.

**Environment variables.** One that is set but empty is an error where that may be a mistake.

```text
==========================  ==================================================================================================
variable                    says
==========================  ==================================================================================================
PGSTORE_URL                 the database; else `DATABASE_URL`, else libpq's variables, else the embedded server (see `Client`)
PGSTORE_ENVIRONMENT         the environment of stores that name none (main)
PGSTORE_AUTO_MIGRATE        0: a missing schema is not made on first use
PGSTORE_SERVER_DIR          where the embedded server keeps its data (~/.local/share/pgstore/pg<version>)
PGSTORE_PGBIN               the directory of the Postgres programs to use: initdb, postgres, pg_dump …
PGSTORE_SECRETS_DIR         a directory of files NAME.env, where `Secret.from_name` looks first
PGSTORE_SECRET_KEY          the keys of stored secrets, 32 bytes in base64, divided by commas: the first encrypts, any decrypts
PGSTORE_PARALLELISM         how many workers a function may have (as many as there are CPUs)
PGSTORE_MOUNT_MODE          auto, fuse or sync: how functions have their stores mounted (auto)
PGSTORE_PRIVATE_TMP         1: each worker has a /tmp of its own
PGSTORE_TELEMETRY           0: OpenTelemetry is told nothing
PGSTORE_ASYNC_WARNINGS      0: no warning of calls that block an event loop (`pgstore.exception.AsyncUsageWarning`)
PGSTORE_TEST_URL            a server for tests, on which `pgstore.pytest_plugin` makes databases
PGSTORE_DEBUG               1: the command line shows where an error came from
PGSTORE_TRACEBACK           1: `pgstore run` shows pgstore's own part of a program's traceback, too
==========================  ==================================================================================================
```

**Logging.** `logging.getLogger("pgstore")` says which database was chosen and why, when the embedded server starts, and what
was retried or lost.

**From Modal.** `import pgstore as modal` is enough for programs that use what is there. `.aio`, `from_name`, `persist`,
`ephemeral`, `from_id`, `objects`, `info`, `hydrate`, `name`, `object_id`, `environment_name` are as you know them. What is
different:

- `Dict`: `keys`, `values`, `items` return lists, `iterate_keys` … stream; `pop` of a missing key returns None instead of
  raising `KeyError`; keys are equal as in Python; `len` has no cap; an entry expires only if you say so; iteration has an
  order; `bool(d)` asks whether there is an entry. Much more: `increment`, `mutate`, `lock`, `watch`, `memoize`.
- `Queue`: takes part in transactions; full only if made with `maxsize`; a partition expires only if puts say `partition_ttl`;
  items to 256 MiB; leases, delays, dead letters.
- `Volume`: `put_file`, `put_directory`, `get_file`, `exists`, `open`, links and history are on the Volume itself; direct calls
  see the newest version, so `reload` and `commit` are about mounts alone; `iterdir` is not recursive unless asked; mounted by
  `mount`.
- `NetworkFileSystem`: not deprecated; all that `Volume` has but versions; paths of entries start at the root, as a Volume's;
  mounted by `mount`.
- `CloudBucketMount`: Azure, too; `from_s3_bucket` …, which read only by default; methods that need no mount; `chmod` and the
  like are forgotten instead of refused; writing is whole or not at all.
- `App`, `Function`, `FunctionCall`, `Cls` …: run on this machine; `timeout` is none by default, `f(x)` runs here, `spawn_map`
  returns the calls, a crash is not run again unless `retries` say so; `transactional=`.
- `Secret`: stored only with a key of yours; files and the environment stand in.
- `Client`, `configure`: a database instead of an account. `transaction` has no counterpart.
- Errors: `pgstore.exception` has Modal's names; `KeyError`, `queue.Empty`, `FileNotFoundError` … are also what they say.

**The rooms of the package**, each resting only on those below it:

- `cli` is the command line. It prints what the functions of `admin` return.
- `app` runs functions on this machine, with stores mounted.
- `fsspec` gives Volumes and NetworkFileSystems to pandas and the like.
- `dict`, `queue`, `volume`, `network_file_system` and `cloud_bucket_mount` are what users import. None of them imports another.
- `mount` serves the files of the last three to any program, through the kernel.
- `file_store` has what the two file systems offer alike; `fs` is the engine below it.
- `buckets` has what the providers of buckets offer, behind one protocol, and makes trees of files of it.
- `secret` has the variables that functions get and nobody sees.
- `store` has what every kind of store has: handles, the registry, deletion.
- `client` carries operations out and has transactions; `connection` has the connections that they run on.
- `migrate` makes the schema; `embedded` runs a server for programs that were given none.
- `core` says what an operation and a statement are; `serializers`, `types` and `config` rest on `errors` alone.

The import contract in pyproject.toml holds this order.

Each room says where a change of its own belongs: for a new error see `errors`, for a verb of files `fs` and `file_store`, for a
provider of buckets `buckets`, for an option of a store its own room, for a command `cli`, for what it reports `admin`, for a
table or a kind of store `store`.
"""

from __future__ import annotations

# For type checkers true. Nothing is imported here that takes time: `pgstore.__main__` is below this, and has to be quick.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, Final

    from pgstore import errors
    from pgstore.app.app import App, enable_output
    from pgstore.app.calls import FunctionCall
    from pgstore.app.cls import Cls, method, parameter
    from pgstore.app.context import current_function_call_id, current_input_id, is_local
    from pgstore.app.function import Function
    from pgstore.app.image import FilePatternMatcher, Image
    from pgstore.app.marks import (
        asgi_app,
        concurrent,
        enter,
        exit,
        fastapi_endpoint,
        web_endpoint,
        web_server,
        wsgi_app,
    )
    from pgstore.app.retries import Retries
    from pgstore.app.schedules import Cron, Period
    from pgstore.client.client import Client
    from pgstore.client.default import configure, default_client, run_transaction, run_transaction_async, transaction
    from pgstore.client.transaction import Transaction
    from pgstore.cloud_bucket_mount import CloudBucketMount
    from pgstore.core.operation import PagedIterator
    from pgstore.dict import Dict, DictChange, DictEntry, Lock, Mutation, Watcher
    from pgstore.errors import (
        AccessDenied,
        AlreadyExistsError,
        ConflictError,
        DeserializationError,
        Error,
        InvalidError,
        LeaseLost,
        LocalRunWarning,
        LockTimeout,
        NotFoundError,
        OutcomeUnknown,
        SchemaOutdated,
        SerializationError,
        StoreUnavailable,
        TransactionScopeError,
    )
    from pgstore.file_store import BatchUpload
    from pgstore.fs.io.async_file_object import AsyncBinaryFile, AsyncFile, AsyncTextFile
    from pgstore.mount.mount import Mount
    from pgstore.network_file_system import NetworkFileSystem
    from pgstore.queue import DeadLetter, ItemIterator, Lease, Queue
    from pgstore.secret import Secret
    from pgstore.types import (
        DictInfo,
        FileEntry,
        FileEntryType,
        FileStat,
        NetworkFileSystemInfo,
        QueueInfo,
        SecretInfo,
        VolumeInfo,
        VolumeVersion,
    )
    from pgstore.volume import Volume

__all__ = [
    "AccessDenied",
    "AlreadyExistsError",
    "App",
    "AsyncBinaryFile",
    "AsyncFile",
    "AsyncTextFile",
    "BatchUpload",
    "Client",
    "CloudBucketMount",
    "Cls",
    "ConflictError",
    "Cron",
    "DeadLetter",
    "DeserializationError",
    "Dict",
    "DictChange",
    "DictEntry",
    "DictInfo",
    "Error",
    "FileEntry",
    "FileEntryType",
    "FilePatternMatcher",
    "FileStat",
    "Function",
    "FunctionCall",
    "Image",
    "InvalidError",
    "ItemIterator",
    "Lease",
    "LeaseLost",
    "LocalRunWarning",
    "Lock",
    "LockTimeout",
    "Mount",
    "Mutation",
    "NetworkFileSystem",
    "NetworkFileSystemInfo",
    "NotFoundError",
    "OutcomeUnknown",
    "PagedIterator",
    "Period",
    "Queue",
    "QueueInfo",
    "Retries",
    "SchemaOutdated",
    "Secret",
    "SecretInfo",
    "SerializationError",
    "StoreUnavailable",
    "Transaction",
    "TransactionScopeError",
    "Volume",
    "VolumeInfo",
    "VolumeVersion",
    "Watcher",
    "asgi_app",
    "concurrent",
    "configure",
    "current_function_call_id",
    "current_input_id",
    "default_client",
    "enable_output",
    "enter",
    "errors",
    "exit",
    "fastapi_endpoint",
    "is_local",
    "method",
    "parameter",
    "run_transaction",
    "run_transaction_async",
    "transaction",
    "web_endpoint",
    "web_server",
    "wsgi_app",
]


# Imported when they are first asked for: few programs use all stores, and those of files alone are half of the package.
_HOMES: Final = {
    "AccessDenied": "errors",
    "AlreadyExistsError": "errors",
    "App": "app.app",
    "AsyncBinaryFile": "fs.io.async_file_object",
    "AsyncFile": "fs.io.async_file_object",
    "AsyncTextFile": "fs.io.async_file_object",
    "BatchUpload": "file_store",
    "Client": "client",
    "CloudBucketMount": "cloud_bucket_mount",
    "Cls": "app.cls",
    "ConflictError": "errors",
    "Cron": "app.schedules",
    "DeadLetter": "queue",
    "DeserializationError": "errors",
    "Dict": "dict",
    "DictChange": "dict",
    "DictEntry": "dict",
    "DictInfo": "types",
    "Error": "errors",
    "FileEntry": "types",
    "FileEntryType": "types",
    "FilePatternMatcher": "app.image",
    "FileStat": "types",
    "Function": "app.function",
    "FunctionCall": "app.calls",
    "Image": "app.image",
    "InvalidError": "errors",
    "ItemIterator": "queue",
    "Lease": "queue",
    "LeaseLost": "errors",
    "LocalRunWarning": "errors",
    "Lock": "dict",
    "LockTimeout": "errors",
    "Mount": "mount.mount",
    "Mutation": "dict",
    "NetworkFileSystem": "network_file_system",
    "NetworkFileSystemInfo": "types",
    "NotFoundError": "errors",
    "OutcomeUnknown": "errors",
    "PagedIterator": "core.operation",
    "Period": "app.schedules",
    "Queue": "queue",
    "QueueInfo": "types",
    "Retries": "app.retries",
    "SchemaOutdated": "errors",
    "Secret": "secret",
    "SecretInfo": "types",
    "SerializationError": "errors",
    "StoreUnavailable": "errors",
    "Transaction": "client.transaction",
    "TransactionScopeError": "errors",
    "Volume": "volume",
    "VolumeInfo": "types",
    "VolumeVersion": "types",
    "Watcher": "dict",
    "asgi_app": "app.marks",
    "concurrent": "app.marks",
    "configure": "client",
    "current_function_call_id": "app.context",
    "current_input_id": "app.context",
    "default_client": "client",
    "enable_output": "app.app",
    "enter": "app.marks",
    "exit": "app.marks",
    "fastapi_endpoint": "app.marks",
    "is_local": "app.context",
    "method": "app.cls",
    "parameter": "app.cls",
    "run_transaction": "client",
    "run_transaction_async": "client",
    "transaction": "client",
    "web_endpoint": "app.marks",
    "web_server": "app.marks",
    "wsgi_app": "app.marks",
}


# Modules that programs reach as attributes: `modal.exception.NotFoundError`, `modal.volume.FileEntryType`.
_MODULES: Final = (
    *("app", "cloud_bucket_mount", "dict", "exception", "functions", "queue", "secret", "types", "volume"),
    *("client", "config", "embedded", "errors", "migrate"),
)


def __getattr__(name: str) -> Any:
    import importlib

    if name in _HOMES:
        found = globals()[name] = getattr(importlib.import_module(f"pgstore.{_HOMES[name]}"), name)
        return found
    if name in _MODULES:
        return importlib.import_module(f"pgstore.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("pgstore")
    if name == "Stub":  # what App was called before
        return __getattr__("App")
    if not name.startswith("_"):
        from pgstore.not_offered import REASONS, placeholder

        if name in REASONS:
            found = globals()[name] = placeholder(name)
            return found
    stores = ("CloudBucketMount", "Dict", "NetworkFileSystem", "Queue", "Secret", "Volume")
    modals = sorted(public for public, home in _HOMES.items() if public in stores or home.startswith("app."))
    raise AttributeError(
        f"module 'pgstore' has no attribute {name!r}; of Modal's names pgstore has {', '.join(modals)}"
    )


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
