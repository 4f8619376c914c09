"""Remembering results in a Dict: computed once, however many ask at the same time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, cast

from pgstore import errors
from pgstore.core.operation import BeforeCommit, CommitHook, Op, operation
from pgstore.dict.base import K, V
from pgstore.dict.entries import Entries
from pgstore.dict.lock import LEASE_SECONDS, Lock, Locking
from pgstore.serializers import callable_key

P = ParamSpec("P")
T = TypeVar("T")

_ABSENT: Final = object()


class Memoizing(Entries[K, V], Locking[K, V]):
    """`memoize`."""

    def memoize(
        self, *, ttl: float | None = None, key: Callable[..., Any] | None = None, lease: float = LEASE_SECONDS
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """
        Return a decorator that keeps a function's results in this Dict.

        Of any number of callers with equal arguments, in any processes, one computes and the others wait for its result; if that is
        in a transaction, for its end. (Not of a joined one, whose end pgstore does not see.) If it is killed, the next computes
        after *lease* seconds; if it raises, the error is its own and the next computes. What cannot be loaded any more, since
        its class is gone, is computed anew. A coroutine function stays one.

        Args:
            ttl: seconds until a result is computed anew; None: the Dict's default.
            key: called with the arguments, gives the key; None: the function's module, name and code, what it closes over, and its
                arguments with their defaults, which must all be keys. After a change of its code all is computed anew.
            lease: see above.

        Raises:
            InvalidError: when decorating: two functions of this kind could not be told apart; give *key*.
        """

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            key_of = key if key is not None else _keys_of(function)

            def remembered(*args: P.args, **kwargs: P.kwargs) -> T:
                wanted = key_of(*args, **kwargs)
                found = self._recall(wanted)
                if found is _ABSENT:
                    with _Computing(self, wanted, lease):
                        found = self._recall(wanted)
                        if found is _ABSENT:
                            found = function(*args, **kwargs)
                            self.put(wanted, cast("V", found), ttl=ttl)
                return cast("T", found)

            async def remembered_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                wanted = key_of(*args, **kwargs)
                found = await self._recall.aio(wanted)
                if found is _ABSENT:
                    async with _Computing(self, wanted, lease):
                        found = await self._recall.aio(wanted)
                        if found is _ABSENT:
                            found = await cast("Any", function)(*args, **kwargs)
                            await self.put.aio(wanted, found, ttl=ttl)
                return found

            is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
            wrapper: Any = remembered_async if is_async else remembered
            return cast("Callable[P, T]", functools.wraps(function)(wrapper))

        return decorate

    @operation
    def _recall(self, key: Any) -> Op[Any]:
        """What is kept under *key*, if it is of use here."""
        try:
            return (yield from self.get.op(key, _ABSENT))
        except errors.DeserializationError:
            return _ABSENT


def _keys_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """What gives the keys of *function*'s results, for its arguments."""
    try:
        name = callable_key(function)
    except TypeError as exc:
        raise errors.InvalidError(
            f"memoize cannot tell {function!r} from others of its kind: {exc}; say by what its results are kept: memoize(key=…)"
        ) from exc
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some that are written in C
        return lambda *args, **kwargs: (name, args, tuple(sorted(kwargs.items())))

    def key_of(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()  # f(1) and f(x=1) are one call, and so is f(), if 1 is the default
        return (name, bound.args, tuple(sorted(bound.kwargs.items())))

    return key_of


class _Computing:
    """The lock that whoever computes holds; in a transaction, until others can see the result or know that there is none."""

    def __init__(self, store: Memoizing[Any, Any], key: Any, lease: float) -> None:
        self._store = store
        self._lock = store.lock(key, ttl=lease)

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is not None or not self._store._runner.run(self._hand_over(), self._store._bound):
            self._lock.__exit__(*failure)

    async def __aenter__(self) -> None:
        await self._lock.__aenter__()

    async def __aexit__(self, *failure: Any) -> None:
        if failure[0] is not None or not await self._store._runner.run_async(self._hand_over(), self._store._bound):
            await self._lock.__aexit__(*failure)

    def _hand_over(self) -> Op[bool]:
        """Leave the lock to the current transaction; False: there is none that we see the end of."""
        hooked = yield BeforeCommit(_Locks, partial(_Locks, self._store._runner))
        if hooked is None or hooked.immediate:
            return False
        hooked.hook.locks.append(self._lock)
        return True


class _Locks(CommitHook):
    """Locks to be released when a transaction has ended, off its path."""

    def __init__(self, client: Any) -> None:
        self.locks: list[Lock] = []
        self._client = client

    def mark(self) -> int:
        return len(self.locks)

    def rewind(self, mark: int | None) -> None:
        while len(self.locks) > (mark or 0):
            self._release(self.locks.pop())

    def committed(self) -> None:
        self.rewind(None)

    def _release(self, lock: Lock) -> None:
        lock.stop_renewing()
        self._client.scheduler.leave(lock, lock.release.op, 0.0)
