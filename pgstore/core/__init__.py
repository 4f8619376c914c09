"""What the rooms above rest on: operations, statements, errors of the driver, arguments, time.

Nothing here is of one kind of store.

- `operation` says what a store method is, and what it may ask for: the requests, and `CommitHook`. `overloads` and `method` show
  such methods to type checkers and to `help`. `steps` does for connections what `operation` does for stores.
- `statement` is SQL with types; `batches` cuts many rows into several statements; `search_path` says which sessions are refused.
- `error_mapping` makes pgstore's errors of psycopg's.
- `checks`, `numbers` and `names` check what callers give.
- `observation` says who is told of operations, if anybody is.
- `clock` tells the time, and `limit` how long a call may take. `meanwhile` has others served while a call waits, and `affinity`
  chooses the core for who serves.
- `progress` shows how far long work has come.
- `async_usage` warns of what blocks an event loop.
- `threads` starts background threads, `workers` are a few that share tasks, and `uninterrupted` does work to its end whatever
  interrupts.

Where a change belongs:

- A new request is a class in `operation`, entered in `Request`. `client.executor` carries it out.
- What a SQLSTATE or a refused login means is a branch of `error_mapping`. The class is one of `pgstore.errors`.
- A check of arguments that two kinds of store need is a function in `checks`. What one alone needs stays in its `arguments`.
"""
