"""The default client: that of stores that were given none, made on first use from `configure(…)` or the environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from pgstore.client.client import Client
from pgstore.client.transaction import Transaction
from pgstore.config import hidden

T = TypeVar("T")

_default: Client | None = None
_default_lock = threading.RLock()


def configure(
    url: str | Callable[[], str] | None = None,
    *,
    environment: str | None = None,
    listen_url: str | None = None,
    connections_max: int = 10,
    auto_migrate: bool | None = None,
    signing_keys: Sequence[bytes] = (),
) -> Client:
    """Set the default client up, in place of the environment's settings (see `Client`). Stores made before keep theirs."""
    global _default
    url, listen_url, signing_keys = hidden(url), hidden(listen_url), hidden(signing_keys)
    client = Client(
        url,
        environment=environment,
        listen_url=listen_url,
        connections_max=connections_max,
        auto_migrate=auto_migrate,
        signing_keys=signing_keys,
    )
    with _default_lock:
        _default = client
    return client


def default_client() -> Client:
    """The client of stores that were given none."""
    global _default
    client = _default
    if client is None:
        made = Client()
        with _default_lock:
            client = _default = _default or made  # in one step: a signal handler may come in
    return client


def transaction(connection: Any = None) -> Transaction:
    """A transaction of the default client; see `Client.transaction`."""
    return default_client().transaction(connection)


def run_transaction(function: Callable[[Transaction], T] | Callable[[], T]) -> T:
    """`Client.run_transaction` of the default client."""
    return default_client().run_transaction(function)


async def run_transaction_async(
    function: Callable[[Transaction], Coroutine[Any, Any, T]] | Callable[[], Coroutine[Any, Any, T]],
) -> T:
    """`Client.run_transaction_async` of the default client."""
    return await default_client().run_transaction_async(function)


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
