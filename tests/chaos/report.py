"""The table of a run."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.journal import ENDED, FOREIGN, OK, REFUSED, UNKNOWN
from tests.chaos.run import Result

VIOLATIONS_SHOWN = 8  # of each kind


def lines(result: Result) -> Iterator[str]:
    """The report of *result*, line by line."""
    yield f"seed {result.seed}, journals in {result.directory}, {result.seconds:.0f} s"
    yield ""
    for name, count in result.struck.items():
        yield f"{count:8,}  {name}"
    yield ""
    columns = (OK, UNKNOWN, REFUSED, ENDED, FOREIGN)
    yield f"{'':20}{'done':>10}{'unknown':>10}{'refused':>10}{'killed':>10}   verdict"
    drills = dict.fromkeys([entry.drill for entry in result.log.entries])
    names = [name for name in result.violations if name not in drills]
    for name in sorted(drills) + names:
        found = result.violations.get(name, [])
        verdict = f"{len(found)} VIOLATIONS" if found else "good"
        if name in drills:
            outcomes = result.log.outcomes(name)
            outcomes[UNKNOWN] += outcomes[FOREIGN]
            numbers = "".join(f"{outcomes[column]:10,}" for column in columns[:4])
        else:
            numbers = " " * 40
        yield f"{name:20}{numbers}   {verdict}"
    for name, found in result.violations.items():
        for text in found[:VIOLATIONS_SHOWN]:
            yield f"{name}: {text}"
        if len(found) > VIOLATIONS_SHOWN:
            yield f"{name}: and {len(found) - VIOLATIONS_SHOWN} more"
    yield ""
    yield "good" if result.is_good else "NOT GOOD"
