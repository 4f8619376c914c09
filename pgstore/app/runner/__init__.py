"""Running functions in workers: the side of the program.

`runner` has a `pool` for each kind of worker, which gives each `task` to a worker and starts as many as it may. Each worker is a
`process` of its own, with a thread here that listens to it; `launch` starts it, `output` hands on what it prints, and `mounts` has
what it mounts served. The other side is `pgstore.app.worker`.
"""

from __future__ import annotations

from pgstore.app.runner.pool import parallelism
from pgstore.app.runner.runner import Runner, runner

__all__ = ["Runner", "parallelism", "runner"]
