"""Clients: the door to one database.

- `client`: the class; `default`: the client that programs use without seeing it.
- `executor`: what carries operations out, on threads or on an event loop; `interfaces`: what the parts know of each other.
- `transaction`: blocks. Below it `root`: the one real transaction; `block_savepoint`: what undoes a joined block; `scope` and
  `generators`: for which code a transaction is the current one. `undo` and `notifications`: what is done at its end.
  `enclosing`: one around all that a client does, for tests.
- `history`: which past of a database is meant; `session`: what must not outlive this process.
- `waiters`: who waits for what other clients do, and who is told; `tickets`: one of them, and `pauses` how long it sleeps;
  `listener`: the connections on which it is told; `waking`: telling; `waiting`: trying again when told; `mask`: when none is.
- `telemetry`: what OpenTelemetry is told of operations; `tally`: what one of them has moved.
- `scheduler`: what is done later, off every caller's path.

What happens at COMMIT: the `Transaction` calls its commit hooks (`core.operation.CommitHook`), in one order everywhere, so that no
two commits wait for each other in a circle. `before_commit` locks and writes; `with_commit` returns queries, which `root` sends in
one message with COMMIT. After it each hook is told that the transaction has `committed`. In a joined transaction the caller
commits, so hooks keep nothing back: each operation writes at its end.

What happens when the connection breaks:

- In COMMIT: `Root._find_outcome` asks the server, on another connection, what became of the transaction's number. If it committed,
  the block ends well; if it was rolled back, it raises `StoreUnavailable`; if nobody can tell, `OutcomeUnknown`. A transaction that
  has written nothing ends well.
- Earlier in a transaction: the server has undone all of it. The operation raises `StoreUnavailable`, and those after it in the
  block `TransactionFailed`. If it broke under the first statement, the transaction begins again on another connection.
- In a single statement: `executor` sends it again on another connection, if the statement is `repeatable` or has certainly not been
  done: the server cannot have received it, or has said that it ends the connection, which undoes what it has not answered. (A
  pooler's word does not count.) Else it raises `OutcomeUnknown`.
- In a joined transaction: the connection and its COMMIT are the caller's, and nothing is tried again.

How one that waits is woken:

- It registers (`Listen`): its listener's session holds an advisory lock of the topic. Then it looks, and then it waits.
- Whoever changes something tries that lock, in the same message. If somebody waits, `pgstore.wake` (sql/schema.sql) notifies as
  many as there is something for. A transaction of pgstore's own does both with COMMIT (`notifications`); in a joined one each
  operation does, and the server delivers it with the caller's COMMIT.
- Nobody is told where nobody waits, and where a taker in full swing looks by itself (`mask`). Behind a pooler in transaction mode
  nothing can be heard: there waiting is looking again and again, unless `listen_url` leads to the server itself.
- Whoever waits also looks unasked from time to time, so what a killed waiter was told of is found by another (`waiters`).

Where a change belongs:

- What can newly be waited for is a `Topic` (`core.operation`), made by a function of the room that it is about. Operations that
  change it run their statement by `notifications.notifying`, or tell within the statement as `queue.put` does; functions of
  sql/schema.sql call `pgstore.wake_if_awaited`, or `pgstore.notify_if_awaited` where all who wait are to hear of it
  (`Topic.for_everybody`). `waiting.until` waits for it. What is told with words of its own, as a version, is that of
  `fs.notifications`.
- What a transaction keeps back until its commit is a `CommitHook` in the room that it is about; `yield BeforeCommit(…)` finds it.
- What must not outlive a process is a `session.SessionHook`, in the room that it is about. No table of stores is named here.
- What a rollback has to undo in this process is noted by `undo`.
- What is to be done later, or again and again, is a task of `scheduler` (`leave`), for a client has no other threads that last but
  that of its listener. What must not be late, and waits for nobody, goes on the urgent lane (`urgent.leave`).
- A new setting is a field of `pgstore.config.Settings`, and a keyword of `Client` and `configure`.
- A new request of operations is one of `core.operation`, carried out in `executor`.
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
