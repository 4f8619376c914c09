"""Spawned calls: rows in Postgres, which outlive who spawns them.

A call exists if and only if the transaction commits that spawned it, with all else that it does. It waits in a Queue until a worker
of its App has room (`queue`); a worker has it for as long as it lives, and if that is killed another begins it again, as often as
the function's `retries` say (`dispatcher`). Its end is one statement, which can be part of the function's own transaction
(`ending`). Whoever knows its id can ask for the outcome, for seven days (`function_call`). What is spawned in a run ends with it
(`run`).

`targets` has the functions that calls can be of, and `sealing` how arguments and outcomes are stored.
"""

from __future__ import annotations

from pgstore.app.calls.function_call import FunctionCall

__all__ = ["FunctionCall"]
