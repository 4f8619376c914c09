"""Remembering results in a Dict: computed once, however many ask at the same time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar, cast

from pgstore.dict.entries import Entries
from pgstore.dict.lock import LEASE_SECONDS, Locking

P = ParamSpec("P")
T = TypeVar("T")

_ABSENT: Final = object()


class Memoizing(Entries, Locking):
    """`memoize`."""

    def memoize(
        self, *, ttl: float | None = None, key: Callable[..., Any] | None = None, lease: float = LEASE_SECONDS
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """
        Return a decorator that keeps a function's results in this Dict.

        Of any number of callers with equal arguments, in any processes, one computes and the others wait for its result. If it is
        killed, the next computes after *lease* seconds; if it raises, the error is its own and the next computes. A coroutine
        function stays one.

        Args:
            ttl: seconds until a result is computed anew; None: the Dict's default.
            key: called with the arguments, gives the key; None: the function's module and name, which two lambdas share, and its
                arguments, which must be keys.
            lease: see above.
        """

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            def key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if key is not None:
                    return key(*args, **kwargs)
                name = f"{function.__module__}:{function.__qualname__}"
                return (name, args, tuple(sorted(kwargs.items())))

            @functools.wraps(function)
            def remembered(*args: P.args, **kwargs: P.kwargs) -> T:
                wanted = key_of(args, kwargs)
                found = self.get(wanted, _ABSENT)
                if found is _ABSENT:
                    with self.lock(wanted, ttl=lease):
                        found = self.get(wanted, _ABSENT)
                        if found is _ABSENT:
                            found = function(*args, **kwargs)
                            self.put(wanted, found, ttl=ttl)
                return cast("T", found)

            @functools.wraps(function)
            async def remembered_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                wanted = key_of(args, kwargs)
                found = await self.get.aio(wanted, _ABSENT)
                if found is _ABSENT:
                    async with self.lock(wanted, ttl=lease):
                        found = await self.get.aio(wanted, _ABSENT)
                        if found is _ABSENT:
                            found = await cast("Any", function)(*args, **kwargs)
                            await self.put.aio(wanted, found, ttl=ttl)
                return found

            return cast("Callable[P, T]", remembered_async) if inspect.iscoroutinefunction(function) else remembered

        return decorate
