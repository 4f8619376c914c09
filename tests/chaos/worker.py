"""A worker: a process that does drills until it is told to end, or is ended."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import random
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pgstore
from tests.chaos.drills import ALL
from tests.chaos.hand import Hand, finish
from tests.chaos.journal import Journal

STOP = "stop"  # a file in the directory of the journals


@dataclass(frozen=True)
class Task:
    """What a worker is to do. One that replaces a killed worker has the same *place* and another *name*."""

    url: str
    directory: Path
    place: str
    name: str
    is_async: bool
    hands: int
    drills: Sequence[str]
    seed: int


def work(task: Task) -> None:
    """The life of a worker process."""
    log = open(task.directory / f"{task.name}.log", "w")  # noqa: SIM115  # open as long as the process
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    faulthandler.enable(log)
    faulthandler.register(signal.SIGUSR1, log)  # so that one that does not come to an end can be asked where it is
    journal = Journal(task.directory, task.name)
    with pgstore.Client(task.url, connections_max=task.hands + 1) as client:
        hands = [
            Hand(client, task.url, journal, f"{task.place}.{number}", f"{task.name}.{number}", is_async=task.is_async)
            for number in range(task.hands)
        ]
        works = [_go_on(task, hand) for hand in hands]
        if task.is_async:
            asyncio.run(_together(works))
        else:
            threads = [threading.Thread(target=finish, args=(work,)) for work in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


async def _together(works):
    await asyncio.gather(*works)


async def _go_on(task: Task, hand: Hand) -> None:
    drills = [drill for drill in ALL if drill.name in task.drills]
    weights = [drill.weight for drill in drills]
    rng = random.Random(f"{task.seed} {hand.name}")
    parent = os.getppid()
    while not (task.directory / STOP).exists() and os.getppid() == parent:
        (drill,) = rng.choices(drills, weights)
        await drill.step(hand)
