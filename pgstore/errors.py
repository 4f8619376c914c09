"""Every error pgstore raises, one tree; where Python has a type for the situation, ours inherits from it too.

::

    Error
    ├── InvalidError (ValueError)               an argument or a combination of calls that can never work
    │   ├── TransactionScopeError               a transaction used from a thread or task that does not own it
    │   └── FilesOpen (RuntimeError)            files of a mount are open that it would have to replace
    ├── ConflictError                           a concurrent change makes this one impossible; nothing was applied
    ├── ConfigurationError                      a URL, setting or installation that cannot work
    ├── NotFoundError (LookupError)             no store of this name or id
    ├── AlreadyExistsError                      a store of this name exists
    ├── MissingKeyError (KeyError)              a key is not in a Dict
    ├── QueueEmpty (queue.Empty)                nothing arrived in time
    ├── QueueFull (queue.Full)                  no room in time
    ├── LockTimeout (TimeoutError)              a lock was not free in time
    ├── LeaseLost                               the lease of an item ended, and the item went to others
    ├── VersionGone (LookupError)               a version of a Volume that is not kept any more
    ├── FileMissing (FileNotFoundError)         no such path, in a Volume or on this machine
    ├── FileExists (FileExistsError)            a path is taken
    ├── IsADirectory (IsADirectoryError)        a directory where a file was expected
    ├── NotADirectory (NotADirectoryError)      a file where a directory was expected
    ├── DirectoryNotEmpty (OSError)             a directory that had to be empty
    ├── LinkLoop (OSError)                      symbolic links that lead round in a circle
    ├── FileUnreadable (PermissionError)        a local file or directory that may not be read or written
    ├── UnsafeEntry                             an entry of a store that would lead out of where it is fetched to
    ├── FileFailed (OSError)                    a local file that cannot be used for another reason, as a full disk
    ├── StaleFile (OSError)                     an open file whose contents do not exist any more
    ├── FileTooLarge (OSError)                  a file above the largest possible size
    ├── NotSupported (io.UnsupportedOperation)  what files of this kind cannot do, as an object cannot be appended to
    ├── PositionInvalid (OSError, ValueError)   a position or size of an open file that none can have
    ├── SerializationError                      a value cannot be stored
    ├── DeserializationError                    stored bytes cannot be loaded here; they are in `raw`
    ├── ValueTooLarge                           a value above the limit of its store
    ├── NumberOverflow (OverflowError)          a sum or position that does not fit into 64 bits
    ├── SchemaError                             the pgstore schema of the database does not fit this code
    │   ├── SchemaMissing                       not installed
    │   ├── SchemaOutdated                      older than this code: `pgstore migrate`
    │   └── SchemaTooNew                        newer than this code can use
    ├── DatabaseUnsuitable                      too old a server, or a database that is not UTF8
    ├── AccessDenied (PermissionError)          the role lacks a right, or the password is wrong
    ├── ReadOnlyFiles (PermissionError)         files that this handle, or this machine, may only read
    ├── StoreUnavailable (ConnectionError)      the server cannot be reached, or the connection broke and nothing was done
    │   └── OutcomeUnknown                      the connection broke after a write was sent: it may have happened
    ├── TransactionFailed                       the transaction was rolled back by the server
    │   └── SerializationConflict               by a serialization failure or a deadlock: run it again
    ├── TimedOut (TimeoutError)                 a call waited for others, or for a connection, beyond its bound; nothing was done
    ├── StatementFailed                         the server refused a statement for another reason
    ├── EmbeddedServerError                     the embedded server could not be set up, started or stopped
    ├── BackupError                             a backup could not be made or restored; nothing is half done
    ├── RemoteError                             the worker of a call died, or the call was cancelled
    ├── ExecutionError                          a call failed, and its exception cannot be brought here as it is
    ├── CallTimeoutError                        of calls; `pgstore.exception.TimeoutError`
    │   ├── FunctionTimeoutError                a function ran longer than its `timeout`
    │   └── OutputExpiredError                  the result of a call is not kept any more
    └── NotOffered (NotImplementedError)        a name of Modal's that makes no sense on one machine

    InputCancellation (BaseException)           raised in a function whose call is cancelled
    KeysLeftOut (UserWarning)                   objects of a bucket whose keys are no paths are not shown
    LocalRunWarning (UserWarning)               something that was asked for does not happen on this machine

Those that are an `OSError` have `errno`, `strerror` and, where it is about a path, `filename`, as Python's own have.

What to do about each:

```text
=====================  =======================================================================================================
error                  what to do
=====================  =======================================================================================================
InvalidError           Change the call: the message says what was given and what is allowed. It can never work as it is.
TransactionScopeError  Open the block in the thread or task that works in it, or use `store.using(tx)`; in asynchronous code
                       `async with` and `.aio`.
FilesOpen              Close the files, or end the programs that have them open, and call again.
ConflictError          Read again and decide anew; `run_transaction` calls again by itself.
ConfigurationError     Correct the setting that the message names.
NotFoundError          Check name and environment; make the store with `create_if_missing=True` or `persist`. A handle on a
                       store that was deleted stays useless: make another.
AlreadyExistsError     Take another name, or what is there, by `from_name`.
MissingKeyError        As of any `KeyError`: `d.get(key, default)`, or `key in d` before.
QueueEmpty             There is nothing to do: wait longer, or end.
QueueFull              Wait for room with a longer `timeout`, put later, or add consumers.
LockTimeout            Another has the lock: try later. `pgstore.dict_lock` has when it was taken and until when it holds.
LeaseLost              Drop the result: the item is another's. A longer `lease`, or `renew=True`, for the next.
VersionGone            Read a version that is kept (`versions`); keep more (`keep=`), or hold one with `at`.
FileMissing            Check the path; as of any `FileNotFoundError`.
FileExists             Take another path, or remove what is there.
IsADirectory           Name a file in it, or `remove_file(path, recursive=True)`.
NotADirectory          Check the path: something on the way is a file.
DirectoryNotEmpty      `remove_file(path, recursive=True)` takes all of it.
LinkLoop               Remove one of the links.
FileUnreadable         Give this user rights on the local file.
UnsafeEntry            All else is there. If you trust who wrote the store: `trusted=True`.
FileFailed             See `errno`: make room on the disk, close files, unmount what is there.
StaleFile              Open the file again: it was replaced, removed, or lost by a crash of the server.
FileTooLarge           Divide the file.
NotSupported           Write the object as a whole, or keep the file in a Volume or NetworkFileSystem.
PositionInvalid        Correct the position or size.
SerializationError     Store what can be pickled; in a Dict of `serializer="json"` what JSON has.
DeserializationError   Make the class or module importable here, or give the signing key (`configure`); the bytes are in
                       `raw`. `del` removes an entry of a Dict.
ValueTooLarge          Keep the bytes in a Volume, and their path here.
NumberOverflow         Keep the number with `put`, which has no bound, instead of `increment`.
SchemaError            Read the message: the schema is not one that `pgstore migrate` has made.
SchemaMissing          `pgstore migrate`, or a role that may create schemas, and no `PGSTORE_AUTO_MIGRATE=0`.
SchemaOutdated         `pgstore migrate`, as a member of pgstore_owner.
SchemaTooNew           Install a newer pgstore.
DatabaseUnsuitable     Use PostgreSQL 14 or later, and a database in UTF8.
AccessDenied           Run the GRANT that the message has (mostly `GRANT pgstore_writer TO …`), or correct the password or
                       secret.
ReadOnlyFiles          Use a handle that may write (`read_only=False`), not one of an old version.
StoreUnavailable       Nothing was done: call again, later. `run_transaction` does that for a while.
OutcomeUnknown         Look whether it has happened before you do it again. What is safe to repeat needs no look:
                       `put(idempotency_key=)`, `put(if_revision=)`.
TransactionFailed      Leave the block and begin a new one; the first error in it says why.
SerializationConflict  Run the whole transaction again: `run_transaction`.
TimedOut               Nothing was done: call again, with a longer `timeout`. `pg_stat_activity` has who holds what;
                       sql/README.md has the query.
StatementFailed        `sqlstate` says why. Where the statement is not yours, please report it.
EmbeddedServerError    The message quotes the end of server.log; `pgstore server status` says where it is.
BackupError            Read the message: it says what pg_dump said, or what is wrong with the file. Nothing is left half done.
RemoteError            Call again, or let `retries=` do it. A worker that is killed again and again has too little memory.
ExecutionError         The message has the traceback. Raise exceptions that can be pickled.
CallTimeoutError       See the two below.
FunctionTimeoutError   Give the function a longer `timeout=`, or less to do.
OutputExpiredError     Ask within seven days, or write results to a Dict.
NotOffered             Leave it out: the message says why there is none.
InputCancellation      Tidy up in `finally`, and let it pass.
KeysLeftOut            Nothing, or rename the objects at the provider.
LocalRunWarning        Nothing, or leave out what it names; `warnings.filterwarnings` silences it.
=====================  =======================================================================================================
```

Messages say what was given, what was expected and what to do. Foreign exceptions are mapped in one place per library and kept as
`__cause__`.

Where a change belongs:

- A new error is a class below and a line of this tree. Programs that handle it find it in `pgstore.errors`; those that many handle
  are imported in `pgstore/__init__.py` too. What Modal's storage has as well is also in `pgstore.exception`.
- One that is an `OSError` derives from `_SystemError`, and its errno stands in `_ERRNO`. If that errno may also come from this
  machine's file system, `of_local` gives the class from then on; else the class is excepted in `_LOCAL_CLASSES`.
- What an error of psycopg's means is said in `core.error_mapping`, by its SQLSTATE.
- After which errors `run_transaction` calls again is said in `client.client`.
"""

from __future__ import annotations

import errno as numbers
import io
import os
import queue


class Error(Exception):
    """Base of all pgstore errors."""


class _SystemError(Error, OSError):
    """
    Base of those that are an `OSError`: with the errno of their class (`_ERRNO`, below), and a text of their own.

    Args:
        filename: the path that it happened to; None: it is about none.
        errno: instead of that of the class.
    """

    def __init__(
        self, message: str = "", filename: str | bytes | int | None = None, *, errno: int | None = None
    ) -> None:
        number = _errno(type(self)) if errno is None else errno
        super().__init__(number, os.strerror(number), *(() if filename is None else (filename,)))
        self._message = message or os.strerror(number)

    def __str__(self) -> str:
        return self._message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._message!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (type(self), self._message, self.filename, self.errno), self.__dict__


class InvalidError(Error, ValueError):
    """An argument, or a combination of calls, that can never work."""


class TransactionScopeError(InvalidError):
    """
    A transaction used from a thread or task that does not own it, or in the wrong form (blocking in an asynchronous one).

    Also at the end of a block that had lost its context, so that nothing took part in it, and in one that SQL of the caller's has
    ended by COMMIT or ROLLBACK.
    """


class FilesOpen(InvalidError, RuntimeError):
    """Files of a mount are open that it would have to replace."""


class ConflictError(Error):
    """
    A concurrent change makes this one impossible; nothing was applied.

    It says nothing about the call, which may well be made again; so it is no `InvalidError`, as it is in Modal.
    """


class ConfigurationError(Error):
    """A URL, setting or installation that cannot work."""


class NotFoundError(Error, LookupError):
    """No store has this name or id."""


class AlreadyExistsError(Error):
    """A store of this name exists already."""


class MissingKeyError(Error, KeyError):
    """A key is not in a Dict. As of any `KeyError`, `args[0]` is the key; the text says more."""

    def __init__(self, key: object, message: str | None = None) -> None:
        super().__init__(key)
        self._message = message

    def __str__(self) -> str:
        return KeyError.__str__(self) if self._message is None else self._message


class QueueEmpty(Error, queue.Empty):
    """Nothing arrived in time."""


class QueueFull(Error, queue.Full):
    """No room in time."""


class LockTimeout(_SystemError, TimeoutError):
    """A lock was not free in time."""


class LeaseLost(Error):
    """The lease of an item ended, and the item went to others."""


class VersionGone(Error, LookupError):
    """This version of a Volume is not kept any more."""


class FileMissing(_SystemError, FileNotFoundError):
    """No such file or directory."""


class FileExists(_SystemError, FileExistsError):
    """The path is taken."""


class IsADirectory(_SystemError, IsADirectoryError):
    """A directory stands where a file was expected."""


class NotADirectory(_SystemError, NotADirectoryError):
    """A file stands where a directory was expected."""


class DirectoryNotEmpty(_SystemError):
    """A directory had to be empty."""


class LinkLoop(_SystemError):
    """Symbolic links lead round in a circle."""


class FileUnreadable(_SystemError, PermissionError):
    """A local file or directory that may not be read or written."""


class UnsafeEntry(Error):
    """An entry of a store has an impossible name, or is a link, that would lead out of where it is fetched to."""


class FileFailed(_SystemError):
    """A local file or directory cannot be used for another reason, which `errno` tells: a full disk, too many open files …"""


class StaleFile(_SystemError):
    """The contents of an open file do not exist any more; opening it again may help."""


class FileTooLarge(_SystemError):
    """A file above the largest possible size."""


class NotSupported(_SystemError, io.UnsupportedOperation):
    """What files of this kind cannot do, as an object of a bucket cannot be appended to."""


class PositionInvalid(_SystemError, InvalidError):
    """A position or size of an open file is below zero, or counted from nowhere. An `OSError`, as built-in files raise it."""


class SerializationError(Error):
    """A value cannot be stored."""


class DeserializationError(Error):
    """Stored bytes cannot be loaded by this process; they are in `raw`."""

    def __init__(self, message: str, raw: bytes = b"") -> None:
        super().__init__(message)
        self.raw = raw


class ValueTooLarge(Error):
    """A value is above the limit of its store."""


class NumberOverflow(Error, OverflowError):
    """A sum, or a position in a file, does not fit into 64 bits."""


class SchemaError(Error):
    """The pgstore schema of the database does not fit this code."""


class SchemaMissing(SchemaError):
    """The database has no pgstore schema."""


class SchemaOutdated(SchemaError):
    """The schema is older than this code."""


class SchemaTooNew(SchemaError):
    """The schema is newer than this code can use."""


class DatabaseUnsuitable(Error):
    """The server is too old or the database is not UTF8."""


class AccessDenied(_SystemError, PermissionError):
    """The role lacks a right, or the password is wrong."""


class ReadOnlyFiles(_SystemError, PermissionError):
    """Files that this handle, or this machine, may only read. Nothing was asked of anybody."""


class StoreUnavailable(_SystemError, ConnectionError):
    """The server cannot be reached, or the connection broke before anything was done."""


class OutcomeUnknown(StoreUnavailable):
    """
    The connection broke after a write was sent: it may or may not have happened.

    Also of writes into a file that were answered, where the server crashed before `fsync` or `close` had brought them to its disk.
    """


class TransactionFailed(Error):
    """The server rolled the transaction back."""


class SerializationConflict(TransactionFailed):
    """A serialization failure or a deadlock: running the whole transaction again may succeed (see `run_transaction`)."""


class TimedOut(_SystemError, TimeoutError):
    """A call waited beyond its bound for what others hold, or for a connection. Nothing was done."""


class StatementFailed(Error):
    """The server refused a statement; `sqlstate` has its code."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class EmbeddedServerError(Error):
    """The embedded server could not be set up, started or stopped."""


class BackupError(Error):
    """A backup could not be made or restored; nothing is half done."""


class RemoteError(Error):
    """The worker of a call died, or the call was cancelled."""


class ExecutionError(Error):
    """A call failed, and its exception cannot be brought here as it is: the message has its type, text and traceback."""


class CallTimeoutError(Error):
    """
    Base of what ends calls by time. Not a `TimeoutError` of Python's, as `FunctionCall.get(timeout=…)` raises one.

    Programs ask in a loop, `try: call.get(timeout=0)`, until there is no `TimeoutError`: it must not come from the call itself.
    """


class FunctionTimeoutError(CallTimeoutError):
    """A function ran longer than its `timeout`."""


class OutputExpiredError(CallTimeoutError):
    """The result of a call is not kept any more."""


class NotOffered(Error, NotImplementedError):
    """Modal has this name; on one machine it makes no sense."""


class InputCancellation(BaseException):
    """Raised in a function whose call is cancelled. No `Exception`, so that a function that handles those ends all the same."""


class KeysLeftOut(UserWarning):
    """Objects of a bucket are not shown, as their keys are no paths."""


class LocalRunWarning(UserWarning):
    """Something that was asked for does not happen on this machine, and the program may notice. Once for each kind."""


_ERRNO: dict[type[_SystemError], int] = {
    FileMissing: numbers.ENOENT,
    FileExists: numbers.EEXIST,
    IsADirectory: numbers.EISDIR,
    NotADirectory: numbers.ENOTDIR,
    DirectoryNotEmpty: numbers.ENOTEMPTY,
    LinkLoop: numbers.ELOOP,
    FileUnreadable: numbers.EACCES,
    FileFailed: numbers.EIO,
    StaleFile: numbers.ESTALE,
    FileTooLarge: numbers.EFBIG,
    PositionInvalid: numbers.EINVAL,
    NotSupported: numbers.EOPNOTSUPP,
    AccessDenied: numbers.EACCES,
    ReadOnlyFiles: numbers.EROFS,
    StoreUnavailable: numbers.ENOTCONN,
    LockTimeout: numbers.ETIMEDOUT,
    TimedOut: numbers.ETIMEDOUT,
}
# The classes of errors of this machine's file system, by errno. One that is not here is a `FileFailed`.
_LOCAL_CLASSES: dict[int, type[_SystemError]] = {
    number: kind
    for kind, number in _ERRNO.items()
    if kind not in (AccessDenied, StoreUnavailable, LockTimeout, TimedOut, PositionInvalid)
} | {numbers.EPERM: FileUnreadable}


def _errno(kind: type[_SystemError]) -> int:
    return next(_ERRNO[base] for base in kind.__mro__ if base in _ERRNO)


def _rebuilt(kind: type[_SystemError], message: str, filename: str | bytes | int | None, errno: int) -> _SystemError:
    return kind(message, filename, errno=errno)


def of_local(exc: OSError, what: str, filename: str | bytes | int | None = None) -> _SystemError:
    """The error that says of a local file what *exc* says, with its errno; *what* names the file, as *filename* does."""
    reason = exc.strerror or str(exc) or type(exc).__name__
    number = exc.errno or numbers.EIO
    return _LOCAL_CLASSES.get(number, FileFailed)(
        f"{what}: {reason[:1].lower()}{reason[1:]}", filename if filename is not None else exc.filename, errno=number
    )
