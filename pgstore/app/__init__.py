"""App and functions: programs written for Modal, run on this machine.

What a program says is in `app` (App), `function` (Function and its calls), `cls` (classes), `image`, `retries`, `schedules` and
`marks` (decorators below that of the App). `definition` is where a function or class is to be found, `options` checks what is said
of it, `mount_rules` what it mounts, and `warn` says what is not done. `forms` gives methods their two forms, `mapping` is `map` and
its kin, `waiting` what callers do until a worker is done, and `context` tells code where it runs.

What a call passes through:

    Function.remote ───── Input ─────┐
    Function.spawn ─ row ─ Dispatcher┴─ Pool ─ Process ══ Channel ══ Worker ─ Jobs ─ Target ─ the program's function
      (function)           (calls)      (runner)                     (worker)

`spec` says what passes between them, `pickles` how arguments and outcomes travel over a `channel`. `runner` is the side of the
program, `worker` the process that it starts, `calls` has spawned calls, which are rows. `entrypoint` is `pgstore run`, `parameters`
has its options, and `as_modal` what `import modal` means there.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "App":  # `from modal.app import App`
        import importlib

        return importlib.import_module("pgstore.app.app").App
    raise AttributeError(f"module 'pgstore.app' has no attribute {name!r}")
