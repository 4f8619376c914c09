"""`pgstore top`: what goes on in the database, again and again."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live as Screen
from rich.text import Text

from pgstore import errors
from pgstore.admin.live_model import Sample
from pgstore.cli import top_view
from pgstore.cli.options import AsJson, Environment
from pgstore.cli.sampler import Sampler
from pgstore.cli.screen import Line
from pgstore.cli.target import target
from pgstore.cli.terminal import keys
from pgstore.core import clock

LOOK_SECONDS = 1.0  # at the clock, while nothing comes


def top(
    context: typer.Context,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.2, metavar="SECONDS", help="Between samples.")
    ] = 2.0,
    sort: Annotated[str, typer.Option(metavar="|".join(top_view.SORTS), help="The order of queues.")] = "depth",
    once: Annotated[
        bool,
        typer.Option("--once", help="Print one sample, with the rates of one interval. So it does off a terminal."),
    ] = False,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Watch what goes on: queues, calls, dicts, files, sessions, mounts, connections and slow statements.

    It costs the server less than a hundredth of a core, with a thousand stores and millions of rows: it reads counters, and the
    first thousand items of a queue. What bears a ~ is an estimate of the server's statistics, which ANALYZE renews. Rates of a
    queue are those of the last twenty seconds, for clients tell every ten what they took.

    Keys: q ends it, s changes the order of queues.

    \b
    Example:
      pgstore top
      pgstore --env staging top --interval 5 --sort oldest
      pgstore top --json | jq '.queues[] | select(.depth > 1000)'
    """
    if sort not in top_view.SORTS:
        raise errors.InvalidError(f"--sort is {sort!r}, expected one of {', '.join(top_view.SORTS)}")
    chosen = target(context, env)
    sampler = Sampler(chosen.running_url, chosen.given_environment, interval)
    first = sampler.sample()
    if once or as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        time.sleep(interval)
        _print(sampler.sample(), sort, as_json)
        sampler.close()
        return
    with contextlib.suppress(KeyboardInterrupt):
        _watch(sampler, first, sort)


def _watch(sampler: Sampler, first: Sample, sort: str) -> None:
    sampler.latest = first
    history = top_view.History()
    history.add(first)
    sorts = itertools.cycle(top_view.SORTS)
    while next(sorts) != sort:
        pass
    console = Console()
    with keys() as pressed, Screen(console=console, screen=True, auto_refresh=False) as screen:
        sampling = threading.Thread(target=sampler.run, args=[pressed], name="pgstore-top", daemon=True)
        sampling.start()
        seen = sampler.number
        try:
            while True:
                if sampler.number != seen:
                    seen = sampler.number
                    history.add(sampler.latest)
                screen.update(_page(sampler, history, console, sort), refresh=True)
                for key in pressed.wait(LOOK_SECONDS):
                    if key in "qQ\x03\x04":
                        return
                    if key in "sS":
                        sort = next(sorts)
        finally:
            sampler.end()
            sampling.join(0.5)


def _page(sampler: Sampler, history: top_view.History, console: Console, sort: str) -> Text:
    width, height = console.size
    message, asked_at = None, sampler.asked_at
    if sampler.lost_at is None and asked_at is not None and clock.monotonic() - asked_at > sampler.silence:
        message = f"no answer for {top_view.age(clock.monotonic() - asked_at)}"
    elif sampler.lost_at is not None:
        message = f"lost {top_view.age(clock.monotonic() - sampler.lost_at)} ago, trying again: {sampler.problem}"
    assert sampler.latest is not None
    shown = top_view.lines(sampler.latest, history, width=width, height=height - 1, sort=sort, message=message)
    shown += [Line("")] * (height - 1 - len(shown))
    foot = f"q quit   s order of queues: {sort}"
    drawn = Text(no_wrap=True, overflow="crop")
    for line in shown:
        drawn.append(line.text, line.style)
        drawn.append("\n")
    return drawn.append(foot, "dim")


def _print(sample: Sample, sort: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(sample), indent=2, default=str))
        return
    for line in top_view.lines(sample, top_view.History(), sort=sort):
        print(line.text.rstrip())
