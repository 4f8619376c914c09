"""Contests: ours against a named reference, in turns, in one process, so that a noisy machine disturbs both alike.

An area is a module in this folder with a generator that sets up, yields contests, and tears down::

    def contests(url: str) -> Iterator[Contest]:
        with pgstore.Client(url) as client, psycopg.connect(url, autocommit=True) as connection:
            ...
            yield Contest("get", ours=ours, reference=reference, goal=1.5, unit="µs")

A candidate is a function without arguments that does some work and returns how much: a number of operations, or
whatever the unit counts (megabytes for "MB/s"). It should take 50 to 500 ms, so that neither the clock nor a hiccup
decides. One that does its work in other processes measures it there and returns the `Turn`.

In each round both candidates run once, in an order drawn anew. What counts is the median over the rounds of the ratio
within a round: it compares neighbours in time, while a ratio of two medians compares different moments. Beside it
stands the time the client's own CPU spent per operation, which a busy server hides.

Beside contests an area may yield a `Limit`, a figure of ours alone, and a `Skipped` for what cannot be held here.
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

SECONDS_PER = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


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


Candidate = Callable[[], float | Turn]


@dataclass(frozen=True)
class Contest:
    """
    One comparison.

    *unit* is s, ms or µs (the time for one operation: less is better, the goal is the highest ratio that is good
    enough), or ends in "/s" (the amount done in a second: more is better, the goal is the lowest). The ratio is always
    ours to the reference. Without a *goal* there is no verdict. *rounds_max* is for candidates that take seconds.
    """

    name: str
    ours: Candidate
    reference: Candidate
    goal: float | None = None
    unit: str = "µs"
    reference_name: str = ""
    rounds_max: int | None = None

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
class Limit:
    """A figure of ours that is compared with nothing, and the *most* it may be: memory, a delay, updates lost."""

    name: str
    ours: Callable[[], float]
    most: float
    unit: str = ""
    rounds_max: int | None = None


@dataclass(frozen=True)
class Skipped:
    """What is not held, and why."""

    name: str
    why: str


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
        return _middle_half(self.ratios)

    @property
    def verdict(self) -> str:
        """reached, missed, or close: the goal lies within the spread and more rounds may turn it."""
        goal = self.contest.goal
        if goal is None:
            return ""
        return _verdict(self.ratios, goal, more_is_better=self.contest.is_rate)


@dataclass
class Figure:
    """The values of a limit, one of each round."""

    limit: Limit
    values: list[float]

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """As that of a contest."""
        return _verdict(self.values, self.limit.most, more_is_better=False)


def _middle_half(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def _verdict(values: list[float], goal: float, *, more_is_better: bool) -> str:
    low, high = _middle_half(values)
    value = statistics.median(values)
    reached = value >= goal if more_is_better else value <= goal
    return ("reached" if reached else "missed") + (", close" if low <= goal <= high and low < high else "")


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
    if isinstance(amount, Turn):
        return amount
    if not amount or amount < 0:
        raise ValueError(f"{candidate} says it did {amount!r}; a candidate returns how much it has done")
    return Turn(amount, wall_seconds, cpu_seconds)


def hold_all(
    contests: Iterable[Contest | Limit | Skipped], *, rounds: int, seed: int, only: str = ""
) -> list[Result | Figure | Skipped]:
    """Hold those *contests* whose name contains *only*, each when it is yielded, and report progress to stderr."""
    console = Console(stderr=True)
    rng = random.Random(seed)
    results: list[Result | Figure | Skipped] = []
    for contest in contests:
        if only not in contest.name:
            continue
        with console.status(contest.name):
            match contest:
                case Contest():
                    results.append(hold(contest, rounds=min(rounds, contest.rounds_max or rounds), rng=rng))
                case Limit():
                    repeats = min(rounds, contest.rounds_max or rounds)
                    results.append(Figure(contest, [contest.ours() for _ in range(repeats)]))
                case Skipped():
                    results.append(contest)
        console.print(_line(results[-1]), highlight=False)  # what is known if a later one breaks or takes too long
    return results


def _line(result: Result | Figure | Skipped) -> str:
    match result:
        case Result():
            ours, reference = (_value(turns, result.contest.unit) for turns in (result.ours, result.reference))
            figures = f"{result.ratio:.2f} = {ours} : {reference}, {result.verdict}"
            return f"{result.contest.name} : {result.contest.reference_name or 'reference'}: {figures}"
        case Figure():
            return f"{result.limit.name}: {_number(result.value, result.limit.unit)}, {result.verdict}"
        case Skipped():
            return f"{result.name}: skipped, {result.why}"


def table(title: str, results: Iterable[Result | Figure | Skipped]) -> Table:
    """Return what a reader wants to know of *results*, a line for each."""
    table = Table(title=title, title_justify="left")
    table.add_column("contest")
    for heading in ("ours", "reference", "ratio", "middle half", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("client CPU, ours : reference", justify="right", no_wrap=True)
    for result in results:
        match result:
            case Result():
                table.add_row(*_cells(result))
            case Figure():
                unit, most = result.limit.unit, result.limit.most
                low, high = _middle_half(result.values)
                middle = f"{low:.3g} to {high:.3g}" if len(result.values) > 1 else ""
                goal = _number(most, unit)
                table.add_row(
                    result.limit.name, _number(result.value, unit), "", "", middle, f"≤ {goal}", result.verdict
                )
            case Skipped():
                table.add_row(f"{result.name}: skipped, {result.why}")
    return table


def _cells(result: Result) -> list[str]:
    contest = result.contest
    low, high = result.spread
    sign = "≥" if contest.is_rate else "≤"
    return [
        f"{contest.name} : {contest.reference_name}" if contest.reference_name else contest.name,
        _value(result.ours, contest.unit),
        _value(result.reference, contest.unit),
        f"{result.ratio:.2f}",
        f"{low:.2f} to {high:.2f}",
        "" if contest.goal is None else f"{sign} {contest.goal:.2f}",
        result.verdict,
        f"{_cpu_microseconds(result.ours):,.1f} : {_cpu_microseconds(result.reference):,.1f} µs",
    ]


def _value(turns: list[Turn], unit: str) -> str:
    return _number(statistics.median(turn.value(unit) for turn in turns), unit)


def _number(value: float, unit: str) -> str:
    return (f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}").rstrip()


def _cpu_microseconds(turns: list[Turn]) -> float:
    """The client's CPU for one operation; of a rate in megabytes, for one megabyte."""
    return statistics.median(turn.cpu_seconds / turn.amount for turn in turns) * 1e6
