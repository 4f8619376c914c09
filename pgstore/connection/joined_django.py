"""Django's connections, joined: `django.db.connection`, `connections["other"]`, on psycopg 3.

A block of ours in one of Django's transactions is an `atomic()` within it, so that Django knows what goes with it: callbacks that
were given to `on_commit` in a block that is undone are not called. Unlike a savepoint in other transactions it is opened at once:
Django takes for granted that blocks end in the reverse order, and one of the caller's may begin before our first write.

Django is not imported here before somebody comes with a connection of its.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import psycopg

from pgstore import errors

_BASE: Final = "django.db.backends.base.base"


def is_of_django(subject: object) -> bool:
    """Whether *subject* is one of Django's connections, or what `django.db.connection` is: whatever is the thread's."""
    return _BASE in sys.modules and isinstance(_unwrapped(subject), sys.modules[_BASE].BaseDatabaseWrapper)


class DjangoSource:
    is_async = False
    can_pipeline = False
    sets_savepoint_at_once = True

    def __init__(self, subject: object) -> None:
        self._wrapper = wrapper = _unwrapped(subject)
        if wrapper.vendor != "postgresql":
            raise errors.InvalidError(
                f"Django's connection {wrapper.alias!r} is of {wrapper.vendor}; to be joined it has to be of PostgreSQL: "
                "django.db.backends.postgresql"
            )

    def get(self) -> Any:
        wrapper = self._wrapper
        wrapper.ensure_connection()
        driver = wrapper.connection
        if not isinstance(driver, psycopg.Connection):
            raise errors.InvalidError(
                f"Django's connection {wrapper.alias!r} is of {type(driver).__module__.partition('.')[0]}, not psycopg 3: use "
                "Django 4.2 or newer where psycopg 3 can be imported (`pip install 'psycopg[binary]'`), which it then prefers"
            )
        wrapper.validate_thread_sharing()
        if not wrapper.in_atomic_block and wrapper.get_autocommit():
            raise errors.InvalidError(
                f"Django's connection {wrapper.alias!r} is in no transaction: join it in a `with django.db.transaction.atomic(…):`"
            )
        if wrapper.needs_rollback:
            raise errors.TransactionFailed(
                "something failed in Django's transaction, which can do nothing but be rolled back: end its `atomic()` block"
            )
        return driver

    def begin_nested(self) -> Any:
        return _Block(self._wrapper)


class _Block:
    """An `atomic()` in the transaction, as SQLAlchemy's nested transactions are."""

    def __init__(self, wrapper: Any) -> None:
        from django.db.transaction import atomic

        self._wrapper = wrapper
        self._atomic: Any = atomic(using=wrapper.alias)
        self._atomic.__enter__()

    @property
    def is_active(self) -> bool:
        return self._atomic in self._wrapper.atomic_blocks

    def commit(self) -> None:
        if self._wrapper.needs_rollback:  # Django would roll back, and say nothing
            self.rollback()
            raise errors.TransactionFailed("something in the block failed, and all of it was undone")
        self._atomic.__exit__(None, None, None)

    def rollback(self) -> None:
        if self.is_active:
            failure = errors.TransactionFailed("the block is undone")
            self._atomic.__exit__(type(failure), failure, None)


def _unwrapped(subject: Any) -> Any:
    """The connection that is meant by `django.db.connection`, in the present thread."""
    proxy: Any = getattr(sys.modules.get("django.utils.connection"), "ConnectionProxy", None)
    if proxy is not None and type(subject) is proxy:
        return subject._connections[subject._alias]
    return subject
