"""`get` and `get_many` as type checkers see them: items, or with *lease* leases; nothing only with `block=False`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, Unpack, overload

from pgstore.core.operation import Op
from pgstore.queue.base import T
from pgstore.queue.lease import Lease

Timeout: TypeAlias = float | None


class _Options(TypedDict, total=False):
    partition: str | None
    renew: bool
    durable: bool


class _ManyOptions(_Options, total=False):
    n_values: int | None


class Get(Protocol[T]):
    """`Queue.get`."""

    @overload
    def __call__(
        self, block: Literal[True] = True, timeout: Timeout = None, *, lease: None = None, **options: Unpack[_Options]
    ) -> T: ...
    @overload
    def __call__(
        self, block: bool, timeout: Timeout = None, *, lease: None = None, **options: Unpack[_Options]
    ) -> T | None: ...
    @overload
    def __call__(
        self, block: Literal[True] = True, timeout: Timeout = None, *, lease: float, **options: Unpack[_Options]
    ) -> Lease[T]: ...
    @overload
    def __call__(
        self, block: bool, timeout: Timeout = None, *, lease: float, **options: Unpack[_Options]
    ) -> Lease[T] | None: ...
    @overload
    def __call__(
        self, block: bool = True, timeout: Timeout = None, *, lease: float | None, **options: Unpack[_Options]
    ) -> Any: ...

    @overload
    def aio(
        self, block: Literal[True] = True, timeout: Timeout = None, *, lease: None = None, **options: Unpack[_Options]
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def aio(
        self, block: bool, timeout: Timeout = None, *, lease: None = None, **options: Unpack[_Options]
    ) -> Coroutine[Any, Any, T | None]: ...
    @overload
    def aio(
        self, block: Literal[True] = True, timeout: Timeout = None, *, lease: float, **options: Unpack[_Options]
    ) -> Coroutine[Any, Any, Lease[T]]: ...
    @overload
    def aio(
        self, block: bool, timeout: Timeout = None, *, lease: float, **options: Unpack[_Options]
    ) -> Coroutine[Any, Any, Lease[T] | None]: ...
    @overload
    def aio(
        self, block: bool = True, timeout: Timeout = None, *, lease: float | None, **options: Unpack[_Options]
    ) -> Coroutine[Any, Any, Any]: ...

    def op(self, *args: Any, **kwargs: Any) -> Op[Any]: ...


class GetMany(Protocol[T]):
    """`Queue.get_many`."""

    @overload
    def __call__(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: Timeout = None,
        *,
        lease: None = None,
        **options: Unpack[_ManyOptions],
    ) -> list[T]: ...
    @overload
    def __call__(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: Timeout = None,
        *,
        lease: float,
        **options: Unpack[_ManyOptions],
    ) -> list[Lease[T]]: ...
    @overload
    def __call__(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: Timeout = None,
        *,
        lease: float | None,
        **options: Unpack[_ManyOptions],
    ) -> list[Any]: ...

    @overload
    def aio(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: Timeout = None,
        *,
        lease: None = None,
        **options: Unpack[_ManyOptions],
    ) -> Coroutine[Any, Any, list[T]]: ...
    @overload
    def aio(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: Timeout = None,
        *,
        lease: float,
        **options: Unpack[_ManyOptions],
    ) -> Coroutine[Any, Any, list[Lease[T]]]: ...
    @overload
    def aio(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: Timeout = None,
        *,
        lease: float | None,
        **options: Unpack[_ManyOptions],
    ) -> Coroutine[Any, Any, list[Any]]: ...

    def op(self, *args: Any, **kwargs: Any) -> Op[Any]: ...
