"""Functions for `tests.benchmarks.app`: a module of their own, so that workers import little."""

from __future__ import annotations

import os
import time

import pgstore

app = pgstore.App("benchmark")
volume = pgstore.Volume.from_name("benchmark-app", create_if_missing=True)


@app.function()
def nothing(x: object = None) -> None:
    """What a call costs."""


@app.function(volumes={"/data": volume})
def look() -> list[str]:
    """What a mount costs."""
    return os.listdir("/data")


@app.function()
def began() -> float:
    """When it began, in seconds since 1970."""
    return time.time()


@app.function(volumes={"/data": volume})
def pid() -> int:
    """The worker's."""
    return os.getpid()
