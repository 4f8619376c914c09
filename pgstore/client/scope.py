"""Scopes: for which running code a transaction is the current one.

A block is current for the thread and the task that opened it, and for nobody else: two who used one connection would mix up their
statements. Entries are never taken out of the context by a token, for a child task or thread has a copy of it: each knows whose it
is, and those that have ended are skipped.
"""

from __future__ import annotations

import abc
import asyncio
import threading
from contextvars import ContextVar
from types import FrameType
from typing import Any

from pgstore import errors
from pgstore.client.generators import is_suspended, looped_over

# The transactions that are open around the running code, innermost last.
AMBIENT: ContextVar[tuple[Scope, ...]] = ContextVar("pgstore_transactions", default=())

# How often this process was forked off: a transaction of the parent's must be left alone by the child.
_forks = 0


class Scope(abc.ABC):
    """A block in which a transaction of *client* is current; opened once."""

    def __init__(self, client: object) -> None:
        self._client = client
        self._owner: tuple[int, Any] | None = None
        self._opener: FrameType | None = None  # a generator that somebody loops over
        self._blocking = True
        self._ended = False
        self._forks = _forks

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def is_parents(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""
        return self._forks != _forks

    @property
    def is_in_context(self) -> bool:
        """Whether the running code has the context that the block was entered in, or a copy of it."""
        return self in AMBIENT.get()

    def _enter_scope(self, *, blocking: bool) -> None:
        self._owner = who()
        self._opener = looped_over()
        self._blocking = blocking
        try:
            AMBIENT.set((*(scope for scope in AMBIENT.get() if not scope._ended), self))
        except BaseException:  # Ctrl-C: nobody would end it
            self._ended = True
            raise

    def _leave_scope(self) -> None:
        self._ended = True
        self._opener = None  # a frame keeps all that its code has in hand
        AMBIENT.set(tuple(scope for scope in AMBIENT.get() if not scope._ended))

    @abc.abstractmethod
    def check_form(self, blocking: bool) -> None:
        """Raise `TransactionScopeError` for a blocking call in an asynchronous transaction, and the other way round."""

    def check_scope(self, blocking: bool) -> None:
        """Raise `TransactionScopeError` if the running code is not this transaction's to use."""
        self.check_form(blocking)
        if self._owner != who():
            raise errors.TransactionScopeError(
                "the current transaction belongs to another thread or task, which passed its context on to this one; "
                "use store.using(tx) to take part in it, or open a transaction here"
            )
        opener = self._opener
        if opener is not None and is_suspended(opener):
            raise errors.TransactionScopeError(
                f"the current transaction belongs to the generator {opener.f_code.co_name!r} ({opener.f_code.co_filename}:"
                f"{opener.f_lineno}), which is suspended in it: what the loop over it does would be undone with it. Take what it "
                "yields into a list first, or use store.using(tx) to take part"
            )


def current(client: object, *, blocking: bool | None) -> Any:
    """
    The innermost open transaction of *client* around the running code, a `Transaction`; None: there is none.

    Raises `TransactionScopeError` if it is another's, or not of the form that *blocking* says (None: either).
    """
    for scope in reversed(AMBIENT.get()):
        if not scope._ended and scope._client is client:
            scope.check_scope(scope._blocking if blocking is None else blocking)
            return scope
    return getattr(client, "enclosing", None)


def forget_after_fork() -> None:
    """In the child: what is open is the parent's."""
    global _forks
    _forks += 1
    AMBIENT.set(())


def who() -> tuple[int, Any]:
    return threading.get_ident(), _task()


def _task() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
