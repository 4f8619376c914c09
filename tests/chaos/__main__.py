"""`python -m tests.chaos [--minutes M] [--seed N] [--log DIR] [--faults NAME …] [--pooler]`: see the package."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.chaos import drills, faults, report
from tests.chaos.run import Plan, Run
from tests.fixtures.pgbouncer import PgBouncer, find_program
from tests.fixtures.proxy import Proxy
from tests.fixtures.server import Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--log", type=Path, help="an empty directory for the journals; default: a new one")
    parser.add_argument("--rate", type=float, default=2.0, help="faults a second")
    parser.add_argument("--faults", nargs="+", choices=[fault.name for fault in faults.ALL])
    parser.add_argument("--drills", nargs="+", choices=[drill.name for drill in drills.ALL])
    parser.add_argument("--pooler", action="store_true", help="some workers go through PgBouncer")
    parser.add_argument("--postgres-bin", type=Path, help="the folder of PostgreSQL's programs")
    arguments = parser.parse_args()
    directory = arguments.log or Path(tempfile.mkdtemp(prefix="pgstore-chaos-"))
    print(f"seed {arguments.seed}, journals in {directory}", flush=True)
    plan = Plan(
        directory,
        arguments.seed,
        arguments.minutes * 60,
        faults=[fault for fault in faults.ALL if not arguments.faults or fault.name in arguments.faults],
        faults_per_second=arguments.rate,
        drills=[drill for drill in drills.ALL if not arguments.drills or drill.name in arguments.drills],
    )
    with (
        Server(arguments.postgres_bin, durable=True) as server,
        Proxy(server.port) as proxy,
        PgBouncer(find_program(), server.port) if arguments.pooler else nullcontext() as pooler,
    ):
        result = Run(plan, server, proxy, pooler=pooler).run()
    print("\n".join(report.lines(result)))
    sys.exit(0 if result.is_good else 1)


if __name__ == "__main__":
    main()
