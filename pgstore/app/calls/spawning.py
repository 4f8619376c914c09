"""Spawning: the call of a function becomes a row, in the transaction that is open here or by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from pgstore.app.calls.function_call import FunctionCall
from pgstore.app.calls.queue import packed
from pgstore.app.calls.run import queue_of, run_of
from pgstore.client import Client, default_client
from pgstore.core.operation import Call, Op, operation


class Spawned(Protocol):
    """What can be spawned: an `app.function.Function`."""

    @property
    def call_name(self) -> tuple[str, str]:
        """The names of its App and of itself, as rows have them."""

    @property
    def parameters(self) -> bytes | None:
        """Of its class, as `WorkerSpec.parameters`."""

    def pickled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The arguments of a call, as `Input.arguments`."""


class Spawning:
    """The operations of spawning, on the default client."""

    @property
    def _runner(self) -> Client:
        return default_client()

    _bound: Any = None

    @operation
    def spawn(self, function: Spawned, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Op[FunctionCall]:
        """Spawn a call of *function*."""
        return (yield from self._spawn(function, [function.pickled(args, kwargs)]))[0]

    @operation
    def spawn_many(
        self, function: Spawned, inputs: Iterable[tuple[Any, ...]], kwargs: dict[str, Any]
    ) -> Op[list[FunctionCall]]:
        """Spawn a call of *function* for each of *inputs*; all or none."""
        return (yield from self._spawn(function, [function.pickled(args, kwargs) for args in inputs]))

    def _spawn(self, function: Spawned, arguments: list[bytes]) -> Op[list[FunctionCall]]:
        app, name = function.call_name
        run = yield Call(lambda: run_of(app))
        given = [packed(each, function.parameters) for each in arguments]
        ids = yield from queue_of(app, self._runner).spawn.op(name, given, run)
        return [FunctionCall(each) for each in ids]


spawn: Final = Spawning().spawn
spawn_many: Final = Spawning().spawn_many
