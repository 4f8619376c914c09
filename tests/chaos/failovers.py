"""
`python -m tests.chaos.failovers [--count N]`: a primary that is killed under load, while its synchronous standby takes its place.

Workers name both servers in their URL. They go on by themselves, and what they were told was done is done on the new primary.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos import faults, report
from tests.chaos.run import Plan, Result, Run
from tests.fixtures.proxy import Proxy
from tests.fixtures.replication import Pair

SECONDS_MAX = 600.0
OPERATIONS_BETWEEN = 1000


class FailOver(faults.Fault):
    """The primary is killed, the standby promoted, and the old primary made into the next standby."""

    name = "primaries killed"
    weight = 1

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def strike(self, scene: faults.Scene) -> int:
        scene.wait_for_work(OPERATIONS_BETWEEN)
        self._pair.fail_over()
        self._pair.rebuild()
        return 1


class FailOvers(Run):
    """A run that goes on until the servers have changed places so many times, with work between them."""

    def __init__(self, plan: Plan, pair: Pair, proxy: Proxy, count: int) -> None:
        super().__init__(plan, pair.primary, proxy, url=pair.url("chaos"))
        self._count = count

    def is_enough(self) -> bool:
        return self.struck[FailOver.name] >= self._count


def fail_over(pair: Pair, directory: Path, count: int, seed: int) -> Result:
    """Such a run."""
    plan = Plan(directory, seed, SECONDS_MAX, workers=4, faults=[FailOver(pair)], faults_per_second=10.0)
    with Proxy(pair.primary.port) as proxy:
        return FailOvers(plan, pair, proxy, count).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.failovers", description=__doc__)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    with Pair() as pair:
        result = fail_over(pair, Path(tempfile.mkdtemp(prefix="pgstore-failovers-")), arguments.count, arguments.seed)
    print("\n".join(report.lines(result)))
    sys.exit(0 if result.is_good else 1)


if __name__ == "__main__":
    main()
