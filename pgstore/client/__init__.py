"""Clients: the door to one database.

- `client`: the class; `default`: the client that programs use without seeing it.
- `executor`: what carries operations out, on threads or on an event loop; `interfaces`: what the parts know of each other.
- `transaction`: blocks. Below it `root`: the one real transaction; `block_savepoint`: what undoes a joined block; `scope` and
  `generators`: for which code a transaction is the current one. `undo` and `notifications`: what is done at its end.
- `history`: which past of a database is meant; `session`: what must not outlive this process.
- `listener`: waiting for other clients; `scheduler`: what is done later, off every caller's path.

At COMMIT a `Transaction` calls its commit hooks, and its `Root` sends what they have kept back together with COMMIT. Where the
connection breaks in that, the `Root` asks the server what became of the transaction.
"""

from pgstore.client.client import Client
from pgstore.client.default import (
    configure,
    default_client,
    run_transaction,
    run_transaction_async,
    transaction,
)

__all__ = ["Client", "configure", "default_client", "run_transaction", "run_transaction_async", "transaction"]
