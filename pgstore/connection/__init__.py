"""Connections: those of pgstore's own, one class for blocking calls and one for an event loop.

A connection carries out one call at a time. Its methods are written once, as generators over the socket (`protocol`); `_drive`
runs them by polling or by awaiting, which is all that the two classes differ in. Other modules rely on this: in their generators
`value = yield connection.execute(…)` receives the value itself from a blocking connection, and from the other what awaiting it
gives.

An interrupt — Ctrl-C, a cancelled task — takes effect between calls: the call under way is finished, or cancelled on the server
and then finished, and what it took is put back, before the interrupt goes on.

When a connection breaks, the call raises `BrokenConnection`, whose `sent` says whether the server may have received it. It is not
sent again here: `pgstore.client` decides that, within a `RetryBudget`.

- `base` has the calls; `blocking` and `asynchronous` wait for the socket, `spin_wait` awake.
- `handshake` opens a connection. `pool` says who has which: `blocking_pool` for threads, `asynchronous_pool` for tasks.
- `joined` makes the same calls on a connection of the caller's. `alarm` bounds how long they take there. `joined_django` has what
  Django has instead of connections.

Where a change belongs:

- A new call is a method of `base.Connection`, a generator for both classes. `joined.JoinedConnection` has its own form of it.
- A setting that each session gets, or a check of server and schema, belongs in `handshake`.
- Who may have a connection when there are none left is decided in `pool`, for threads and for tasks.
- What libpq is asked for in a new way (a new form of message) belongs in `protocol`.
- A library whose connections can be joined is a `Source` in `joined`, chosen by `source_of`.
"""

from pgstore.connection.asynchronous import AsyncConnection
from pgstore.connection.base import (
    ADAPTERS,
    CURRENT_XID,
    GRACE_SECONDS,
    RECONNECT_SECONDS,
    SETTLE_SECONDS,
    BrokenConnection,
    Connection,
    RetryBudget,
    cancel_seconds,
)
from pgstore.connection.blocking import BlockingConnection

__all__ = [
    "ADAPTERS",
    "CURRENT_XID",
    "GRACE_SECONDS",
    "RECONNECT_SECONDS",
    "SETTLE_SECONDS",
    "AsyncConnection",
    "BlockingConnection",
    "BrokenConnection",
    "Connection",
    "RetryBudget",
    "cancel_seconds",
]
