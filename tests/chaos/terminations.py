"""
`python -m tests.chaos.terminations [--count N] [--seed N]`: backends terminated at random moments, and nothing lost or doubled.

When the server ends a backend by an administrator's order it says so, and rolls back what it has not answered. So a statement that
was not answered is sent again, and no worker hears of it. Unknown is only what the server had answered before its commit was done,
and what became of a transaction in whose COMMIT the connection broke, where that could not be found out.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos import faults, report
from tests.chaos.run import Plan, Run
from tests.fixtures.proxy import Proxy
from tests.fixtures.server import Server

COUNT = 10_000
SECONDS_MAX = 1800.0


class Terminations(Run):
    """A run that goes on until so many backends were terminated."""

    def __init__(self, plan: Plan, server: Server, proxy: Proxy, count: int) -> None:
        super().__init__(plan, server, proxy, url=server.url("chaos"))
        self._count = count

    def is_enough(self) -> bool:
        return self.struck[faults.Terminate.name] >= self._count


def plan_for(directory: Path, seed: int, rate: float) -> Plan:
    """All drills, and backends terminated so many times a second."""
    return Plan(directory, seed, SECONDS_MAX, faults=[faults.Terminate()], faults_per_second=rate)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.terminations", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--rate", type=float, default=100.0, help="a second")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    plan = plan_for(Path(tempfile.mkdtemp(prefix="pgstore-terminations-")), arguments.seed, arguments.rate)
    with Server(durable=True) as server, Proxy(server.port) as proxy:
        result = Terminations(plan, server, proxy, arguments.count).run()
    print("\n".join(report.lines(result)))
    sys.exit(0 if result.is_good and result.struck[faults.Terminate.name] >= arguments.count else 1)


if __name__ == "__main__":
    main()
