"""`Secret`: which variables a function gets, and where their values come from.

A handle holds values only if it was given them. Else it finds them whenever a worker starts, in the process that starts it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Final, NoReturn, Self

from pgstore import errors
from pgstore.client import Client, default_client
from pgstore.config import variable_of
from pgstore.core.checks import check_int
from pgstore.core.names import check_name
from pgstore.core.operation import Autonomous, Op, operation
from pgstore.secret import dotenv, table
from pgstore.secret.values import Values, checked
from pgstore.store.objects import class_operation, instant
from pgstore.types import SecretInfo

DIRECTORY_VARIABLE: Final = "PGSTORE_SECRETS_DIR"


class SecretObjects:
    """`Secret.objects`: create, list and delete secrets that are stored in the database."""

    @class_operation
    def create(
        cls,  # noqa: N805
        name: str,
        env_dict: Mapping[str, str | None],
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Op[None]:
        """
        Store the variables *env_dict* as the secret *name*, encrypted with the first key of `PGSTORE_SECRET_KEY`.

        Raises:
            AlreadyExistsError: it exists, and *allow_existing* is false; it stays as it is.
            ConfigurationError: there is no key.
        """
        secret = Secret.from_name(name, environment_name=environment_name, client=client)
        values = checked(env_dict, "Secret.objects.create")
        made = yield from table.create(secret._environment, name, values)
        if not made and not allow_existing:
            raise errors.AlreadyExistsError(
                f"Secret {name!r} exists already in environment {secret._environment!r}; "
                "pass allow_existing=True to accept that, or call its update()"
            )

    @class_operation
    def list(
        cls,  # noqa: N805
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Op[list[Secret]]:
        """
        Return the stored secrets, newest first.

        Args:
            max_objects: at most so many; None: all.
            created_before: only older ones; a naive datetime is local time, a str is ISO 8601.
        """
        most = None if max_objects is None else check_int(max_objects, "max_objects", 0, also="None")
        if environment_name is not None:
            check_name(environment_name, "environment")
        runner = client or default_client()
        environment = environment_name or runner.environment
        found = yield from table.listed(environment, created_before=instant(created_before), secrets_max=most)
        return [Secret.from_name(str(each.name), environment_name=environment, client=client) for each in found]

    @class_operation
    def delete(
        cls,  # noqa: N805
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Op[None]:
        """
        Delete the stored secret *name*. Workers that have its values keep them.

        Raises:
            NotFoundError: there is none, and *allow_missing* is false.
        """
        secret = Secret.from_name(name, environment_name=environment_name, client=client)
        if not (yield from table.delete(secret._environment, name)) and not allow_missing:
            raise table.missing(secret._environment, name)


class Secret:
    """
    Environment variables for functions: `@app.function(secrets=[pgstore.Secret.from_name("openai")])`.

    They are in the environment of the function's workers, and of nothing else. Of several secrets that set one variable the
    last counts. Values are found by the process that starts the worker, when it starts it; a handle that a worker makes of its
    own counts for nothing, and a function that calls another does not hand on its secrets. No `repr`, log, error, pickle or row
    has a value; a handle that was given values loses them when it is pickled.

    `Secret.from_name("openai")` is the file `openai.env` in `PGSTORE_SECRETS_DIR`, else what `pgstore secret create` has
    stored, encrypted with the first key of `PGSTORE_SECRET_KEY` (both by `pip install 'pgstore[secrets]'`), else the
    environment of the process that starts the worker.
    """

    objects: ClassVar = SecretObjects

    _name: str | None = None
    _environment_name: str | None = None
    _required_keys: tuple[str, ...] = ()
    _made_at: tuple[str, int]  # for a warning
    _client: Client | None = None
    _bound: ClassVar[None] = None  # its operations run in the current transaction
    _shown: str  # `repr`, without the module
    _find: Callable[[], Values]

    def __init__(self) -> None:
        raise errors.InvalidError(
            "Secret() cannot be called; use Secret.from_name(…), from_dict(…), from_dotenv(…) or from_local_environ(…)"
        )

    @classmethod
    def _make(cls, shown: str, find: Callable[[], Values]) -> Self:
        secret = cls.__new__(cls)
        secret._shown = shown
        secret._find = find
        return secret

    @classmethod
    def from_dict(cls, env_dict: Mapping[str, str | None] = {}) -> Self:
        """Return a secret of these variables; those that are None are left out."""
        values = checked(env_dict, "Secret")
        return cls._make(f"from_dict(<{', '.join(values)}>)", lambda: values)

    @classmethod
    def from_local_environ(cls, env_keys: Collection[str]) -> Self:
        """
        Return a secret of variables of this process, as they are now. In a worker it is empty.

        Raises:
            InvalidError: one of them is not set.
        """
        if isinstance(env_keys, str) or not all(isinstance(key, str) for key in env_keys):
            raise errors.InvalidError(f"Secret.from_local_environ takes a list of names, not {env_keys!r}")
        if os.environ.get("PGSTORE_IS_REMOTE") == "1":
            return cls.from_dict()
        for key in env_keys:
            if key not in os.environ:
                raise errors.InvalidError(
                    f"Could not find local environment variable {key!r} for Secret.from_local_environ"
                )
        values = Values((key, os.environ[key]) for key in env_keys)
        return cls._make(f"from_local_environ(<{', '.join(values)}>)", lambda: values)

    @classmethod
    def from_dotenv(
        cls, path: str | os.PathLike[str] | None = None, *, filename: str = ".env", client: Client | None = None
    ) -> Self:
        """
        Return a secret of the variables that a file sets, which is read when a worker starts.

        The file is the nearest named *filename*, from a directory upward: that of *path*, which may be a file or a directory; else
        that of the file that calls this, and then the current one. It takes the package python-dotenv.
        """
        if not filename or os.path.basename(filename) != filename:
            raise errors.InvalidError(f"Secret.from_dotenv: filename is {filename!r}, expected a name such as '.env'")
        if path is None:
            caller = sys._getframe(1).f_globals.get("__file__")
            starts = [*([Path(caller).resolve().parent] if caller else ()), Path.cwd()]
        else:
            start = Path(path).resolve()
            starts = [start.parent if start.is_file() else start]

        def find() -> Values:
            for start in starts:
                if (found := dotenv.find(start, filename)) is not None:
                    return dotenv.read(found)
            raise errors.InvalidError(
                f"Secret.from_dotenv: there is no file {filename!r} in {' or '.join(map(str, starts))}, nor above"
            )

        return cls._make(f"from_dotenv({'' if path is None else repr(os.fspath(path))})", find)

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        environment_name: str | None = None,
        required_keys: Collection[str] = (),
        client: Client | None = None,
    ) -> Self:
        """
        Return the secret of this name. Nothing is read before a worker starts.

        Its values are, of these, those of the first that knows the name: the file `NAME.env` in the directory that
        `PGSTORE_SECRETS_DIR` names; what `pgstore secret create` or `Secret.objects.create` has stored in the database; the
        environment of the process that starts the worker, of which *required_keys* are taken, while all of it is passed on anyway.

        Raises, when it is used:
            InvalidError: one of *required_keys* is missing.
            ConfigurationError: it is stored, and `PGSTORE_SECRET_KEY` does not open it.
        """
        check_name(name, "Secret")
        if environment_name is not None:
            check_name(environment_name, "environment")
        if isinstance(required_keys, str) or not all(isinstance(key, str) for key in required_keys):
            raise errors.InvalidError(f"Secret.from_name: required_keys is {required_keys!r}, expected a list of names")
        environment = f", environment_name={environment_name!r}" if environment_name else ""
        secret = cls._make(f"from_name({name!r}{environment})", lambda: secret._find_by_name(name))
        secret._name, secret._environment_name, secret._client = name, environment_name, client
        secret._required_keys = tuple(required_keys)
        caller = sys._getframe(1)
        secret._made_at = (caller.f_code.co_filename, caller.f_lineno)
        return secret

    @property
    def name(self) -> str | None:
        """The name that it is stored by; None: it was not made by `from_name`."""
        return self._name

    @operation
    def info(self) -> Op[SecretInfo]:
        """Return what is known of the stored secret. Raises `NotFoundError`."""
        name = self._stored_name("info")
        found = yield from table.listed(self._environment, name=name, secrets_max=1)
        if not found:
            raise table.missing(self._environment, name)
        return found[0]

    @operation
    def update(self, env_dict: Mapping[str, str]) -> Op[None]:
        """
        Set these variables of the stored secret; the others stay. Workers that have its values keep them.

        Raises:
            NotFoundError: it is not stored in the database.
        """
        changes = checked(env_dict, "Secret.update")
        if len(changes) < len(env_dict):
            raise errors.InvalidError("Secret.update: a variable cannot be None; it takes a dict[str, str]")
        yield from table.update(self._environment, self._stored_name("update"), changes)

    def _values(self) -> Values:
        """The variables with their values, found now. For whoever starts a worker."""
        return Values(self._find())

    def _find_by_name(self, name: str) -> Values:
        required_keys = self._required_keys
        directory = variable_of(DIRECTORY_VARIABLE)
        if directory is not None and (path := Path(directory, f"{name}.env")).is_file():
            return dotenv.read(path).require(required_keys, f"the file {str(path)!r} of the secret {name!r}")

        def stored() -> Op[Values | None]:
            return (yield Autonomous(table.take(self._environment, name)))  # type: ignore[no-any-return]

        values: Values | None = self._runner.run(stored())
        if values is not None:
            return values.require(required_keys, f"the secret {name!r}")
        if not required_keys:
            self._warn_not_stored(name)
            return Values()
        if missing := [key for key in required_keys if key not in os.environ]:
            raise errors.InvalidError(
                f"the secret {name!r} is not stored, and the environment has no {', '.join(missing)}: set it, or run "
                f"`pgstore secret create {name} {' '.join(f'{key}=…' for key in required_keys)}`"
            )
        return Values((key, os.environ[key]) for key in required_keys)

    def _warn_not_stored(self, name: str) -> None:
        if name not in _not_stored:
            _not_stored.add(name)
            warnings.warn_explicit(
                f"the secret {name!r} is not stored: its functions get this process's environment as it is; to store it, run "
                f"`pgstore secret create {name} KEY=VALUE`",
                errors.LocalRunWarning,
                *self._made_at,
            )

    @property
    def _runner(self) -> Client:
        return default_client() if self._client is None else self._client

    @property
    def _environment(self) -> str:
        return self._environment_name or self._runner.environment

    def _stored_name(self, what: str) -> str:
        if self._name is None:
            raise errors.InvalidError(
                f"{self!r} is not stored in the database, so it has no {what}(); see Secret.from_name"
            )
        return self._name

    def __repr__(self) -> str:
        return f"pgstore.Secret.{self._shown}"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        if self._name is not None:
            return _by_name, (type(self), self._name, self._environment_name, self._required_keys)
        return _without_values, (type(self), self._shown)


def _by_name(kind: type[Secret], name: str, environment_name: str | None, required_keys: tuple[str, ...]) -> Secret:
    return kind.from_name(name, environment_name=environment_name, required_keys=required_keys)


def _without_values(kind: type[Secret], shown: str) -> Secret:
    def find() -> NoReturn:
        raise errors.InvalidError(f"Secret.{shown} was pickled, without its values: make it where it is used")

    return kind._make(shown, find)


_not_stored: set[str] = set()  # names that were warned of
