"""Links: connections of pgstore's own, one class for blocking calls and one for an event loop.

A link carries out one call at a time. Its methods are written once, as generators over the socket (`core.protocol`); `_drive`
runs them by polling or by awaiting, which is all that the two classes differ in. Other modules rely on this: in their generators
`value = yield link.execute(…)` receives the value itself from a blocking link, and what awaiting it gives from the other.

An interrupt — Ctrl-C, a cancelled task — takes effect between calls: the call under way is finished, or cancelled on the server and
then finished, and what it took is put back, before the interrupt goes on.
"""

from pgstore.client.links.asynchronous import AsyncLink
from pgstore.client.links.base import (
    ADAPTERS,
    CURRENT_XID,
    GRACE_SECONDS,
    RECONNECT_SECONDS,
    SETTLE_SECONDS,
    BrokenLink,
    Link,
    Patience,
    cut_off_seconds,
)
from pgstore.client.links.blocking import BlockingLink

__all__ = [
    "ADAPTERS",
    "CURRENT_XID",
    "GRACE_SECONDS",
    "RECONNECT_SECONDS",
    "SETTLE_SECONDS",
    "AsyncLink",
    "BlockingLink",
    "BrokenLink",
    "Link",
    "Patience",
    "cut_off_seconds",
]
