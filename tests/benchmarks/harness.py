"""Contests: ours against a named reference, in turns, in one process, so that a noisy machine disturbs both alike.

An area is a module in this folder with a generator that sets up, yields contests, and tears down::

    def contests(url: str) -> Iterator[Contest]:
        with pgstore.Client(url) as client, psycopg.connect(url, autocommit=True) as connection:
            ...
            yield Contest("get", ours=ours, reference=reference, goal=1.5, unit="µs")

A candidate is a function without arguments that does some work and returns how much: a number of operations, or
whatever the unit counts (megabytes for "MB/s"). It should take 50 to 500 ms, so that neither the clock nor a hiccup
decides.

In each round both candidates run once, in an order drawn anew. What counts is the median over the rounds of the ratio
within a round: it compares neighbours in time, while a ratio of two medians compares different moments. Beside it
stands the time the client's own CPU spent per operation, which a busy server hides.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

Candidate = Callable[[], float]

SECONDS_PER = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


@dataclass(frozen=True)
class Contest:
    """
    One comparison.

    *unit* is s, ms or µs (the time for one operation: less is better, the goal is the highest ratio that is good
    enough), or ends in "/s" (the amount done in a second: more is better, the goal is the lowest). The ratio is always
    ours to the reference. Without a *goal* there is no verdict.
    """

    name: str
    ours: Candidate
    reference: Candidate
    goal: float | None = None
    unit: str = "µs"
    reference_name: str = ""

    def __post_init__(self) -> None:
        if self.unit not in SECONDS_PER and not self.is_rate:
            raise ValueError(
                f"contest {self.name!r}: unit {self.unit!r} is neither of {[*SECONDS_PER]} nor ends in '/s'"
            )

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")


@dataclass(frozen=True)
class Turn:
    """What one run of one candidate took."""

    amount: float
    wall_seconds: float
    cpu_seconds: float

    def value(self, unit: str) -> float:
        """Return the result in *unit*."""
        if unit.endswith("/s"):
            return self.amount / self.wall_seconds
        return self.wall_seconds / self.amount / SECONDS_PER[unit]


@dataclass
class Result:
    """All rounds of a contest; ours and the reference's turns of one round have the same index."""

    contest: Contest
    ours: list[Turn] = field(default_factory=list)
    reference: list[Turn] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Ours divided by the reference, round by round."""
        unit = self.contest.unit
        return [ours.value(unit) / other.value(unit) for ours, other in zip(self.ours, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The middle half of the ratios: their first and third quartile."""
        if len(self.ratios) < 2:
            return self.ratio, self.ratio
        first, _, third = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return first, third

    @property
    def verdict(self) -> str:
        """reached, missed, or close: the goal lies within the spread and more rounds may turn it."""
        goal = self.contest.goal
        if goal is None:
            return ""
        low, high = self.spread
        reached = self.ratio >= goal if self.contest.is_rate else self.ratio <= goal
        return ("reached" if reached else "missed") + (", close" if low <= goal <= high else "")


def hold(contest: Contest, *, rounds: int, rng: random.Random) -> Result:
    """Let both candidates run once to warm up, then *rounds* times each, in an order drawn for every round."""
    result = Result(contest)
    sides: list[tuple[Candidate, list[Turn]]] = [
        (contest.ours, result.ours),
        (contest.reference, result.reference),
    ]
    for candidate, _ in sides:
        candidate()
    for _ in range(rounds):
        for candidate, turns in rng.sample(sides, k=2):
            turns.append(_run(candidate))
    return result


def _run(candidate: Candidate) -> Turn:
    gc.collect()
    cpu_began, began = time.process_time(), time.perf_counter()
    amount = candidate()
    wall_seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    if not amount or amount < 0:
        raise ValueError(f"{candidate} says it did {amount!r}; a candidate returns how much it has done")
    return Turn(amount, wall_seconds, cpu_seconds)


def hold_all(contests: Iterable[Contest], *, rounds: int, seed: int, only: str = "") -> list[Result]:
    """Hold those *contests* whose name contains *only*, each when it is yielded, and report progress to stderr."""
    console = Console(stderr=True)
    rng = random.Random(seed)
    results = []
    for contest in contests:
        if only in contest.name:
            with console.status(contest.name):
                results.append(hold(contest, rounds=rounds, rng=rng))
    return results


def table(title: str, results: Iterable[Result]) -> Table:
    """Return what a reader wants to know of *results*, a line for each."""
    table = Table(title=title, title_justify="left")
    table.add_column("contest")
    for heading in ("ours", "reference", "ratio", "middle half", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("client CPU, ours : reference", justify="right", no_wrap=True)
    for result in results:
        contest = result.contest
        low, high = result.spread
        sign = "≥" if contest.is_rate else "≤"
        table.add_row(
            f"{contest.name} : {contest.reference_name}" if contest.reference_name else contest.name,
            _value(result.ours, contest.unit),
            _value(result.reference, contest.unit),
            f"{result.ratio:.2f}",
            f"{low:.2f} to {high:.2f}",
            "" if contest.goal is None else f"{sign} {contest.goal:.2f}",
            result.verdict,
            f"{_cpu_microseconds(result.ours):,.1f} : {_cpu_microseconds(result.reference):,.1f} µs",
        )
    return table


def _value(turns: list[Turn], unit: str) -> str:
    value = statistics.median(turn.value(unit) for turn in turns)
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _cpu_microseconds(turns: list[Turn]) -> float:
    """The client's CPU for one operation; of a rate in megabytes, for one megabyte."""
    return statistics.median(turn.cpu_seconds / turn.amount for turn in turns) * 1e6
