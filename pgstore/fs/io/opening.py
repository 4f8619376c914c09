"""`open`: an operation that finds or makes the file, and two forms of the call that make file objects of the result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from pgstore.core.method import Doc, Method
from pgstore.core.observation import observed
from pgstore.core.operation import Op
from pgstore.fs.io.async_file_object import AsyncBinaryFile, AsyncFile, AsyncTextFile, async_file_object
from pgstore.fs.io.file_object import BinaryRandom, BinaryReader, BinaryWriter, FileAt, RawFile, TextFile, file_object

if TYPE_CHECKING:
    from _typeshed import (
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenBinaryModeUpdating,
        OpenBinaryModeWriting,
        OpenTextMode,
    )

F = TypeVar("F", bound=AsyncFile[Any])


class Opening(Generic[F]):
    """A file being opened: `await` it, or `async with` it."""

    def __init__(self, open_: Callable[[], Any]) -> None:
        self._open = open_
        self._file: F | None = None

    def __await__(self) -> Generator[Any, None, F]:
        return self._open().__await__()  # type: ignore[no-any-return]

    async def __aenter__(self) -> F:
        self._file = file = await self
        return file

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        await self._file.__aexit__(kind, exc, trace)


class BoundOpen(Method):
    __slots__ = ()
    __doc__ = Doc(
        "A store method that opens files: call it for one of blocking methods, its `aio` for one to be awaited."
    )

    def __init__(self, function: Callable[..., Op[FileAt]], owner: Any) -> None:
        self._function = function
        self._owner = owner

    # As typeshed has it of the built-in `open`.
    @overload
    def __call__(
        self,
        path: str,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> TextFile: ...
    @overload
    def __call__(self, path: str, mode: OpenBinaryMode, buffering: Literal[0]) -> RawFile: ...
    @overload
    def __call__(self, path: str, mode: OpenBinaryModeUpdating, buffering: Literal[-1, 1] = -1) -> BinaryRandom: ...
    @overload
    def __call__(self, path: str, mode: OpenBinaryModeWriting, buffering: Literal[-1, 1] = -1) -> BinaryWriter: ...
    @overload
    def __call__(self, path: str, mode: OpenBinaryModeReading, buffering: Literal[-1, 1] = -1) -> BinaryReader: ...
    @overload
    def __call__(
        self,
        path: str,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        runner = self._owner._runner
        # The file belongs to the transaction that is current now, whichever is when it is used.
        bound = runner.pin(self._owner._bound)
        op = observed(self._function(self._owner, *args, **kwargs), self._owner, "open")
        return file_object(runner.run(op, bound), runner, bound)

    @property
    def aio(self) -> AioOpen:
        """The same, awaitable, and for `async with`: an `AsyncBinaryFile` or `AsyncTextFile`."""
        return AioOpen(self._function, self._owner)


class AioOpen(Method):
    __slots__ = ()
    __doc__ = Doc("The form of a store method that opens files which is awaited, or entered by `async with`.")

    def __init__(self, function: Callable[..., Op[FileAt]], owner: Any) -> None:
        self._function = function
        self._owner = owner

    @overload
    def __call__(
        self,
        path: str,
        mode: OpenTextMode = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Opening[AsyncTextFile]: ...
    @overload
    def __call__(self, path: str, mode: OpenBinaryMode, buffering: int = -1) -> Opening[AsyncBinaryFile]: ...
    @overload
    def __call__(
        self,
        path: str,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Opening[Any]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        runner = self._owner._runner

        async def open_() -> Any:
            bound = runner.pin(self._owner._bound)
            op = observed(self._function(self._owner, *args, **kwargs), self._owner, "open")
            return async_file_object(await runner.run_async(op, bound), runner, bound)

        opening: Opening[Any] = Opening(open_)
        return opening


class opening:  # noqa: N801 - a decorator
    """Turn an operation with the arguments of the built-in `open`, which returns a `FileAt`, into a call with two forms."""

    def __init__(self, function: Callable[..., Op[FileAt]]) -> None:
        self._function = function
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __get__(self, owner: object, kind: type) -> BoundOpen:
        return BoundOpen(self._function, owner)
