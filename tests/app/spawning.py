"""A program for `pgstore worker` and runs: functions for the tests of spawned calls. Its App has the name in PGSTORE_TEST_APP."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pgstore

app = pgstore.App(os.environ["PGSTORE_TEST_APP"])
counted = pgstore.Volume.from_name(f"{app.name}-counted", create_if_missing=True)
AT_ONCE = pgstore.Retries(max_retries=100, initial_delay=0.0, backoff_coefficient=1.0)


@app.function()
def add(first, second):
    return first + second


@app.function()
def now():
    return time.time()


@app.function()
def fail(what):
    raise ValueError(what)


@app.function()
def sleep(seconds):
    time.sleep(seconds)
    return "slept"


@app.function()
def spawn_more(count):
    return [add.spawn(number, number) for number in range(count)]


@app.function()
def spawn_sleeps(count):
    for _ in range(count):
        sleep.spawn(60)


@app.function(max_containers=2)
def write(path, text):
    time.sleep(0.1)
    with Path(path).open("a") as file:
        file.write(text)


@app.function()
def coordinate(path):
    for _ in range(5):
        write.spawn(path, "x")


@app.function(volumes={"/counted": counted}, transactional=True, retries=AT_ONCE)
def count(counter, table, number):
    Path(f"/counted/{number}").write_text("once")
    counters = pgstore.Dict.from_name(counter)
    with pgstore.transaction() as tx:
        tx.connection.execute(f"INSERT INTO {table} VALUES (%s)", [number])
    time.sleep(0.02)
    counters[f"total {number % 4}"] = counters.get(f"total {number % 4}", 0) + 1
    follow.spawn(number)
    return number


@app.function()
def follow(number):
    return number


@app.cls()
class Adder:
    base: int = pgstore.parameter(default=0)

    @pgstore.method()
    def add(self, number):
        return self.base + number


@app.local_entrypoint()
def main(path: str, count: int = 5, end: str = ""):
    """Spawn calls that write, and end."""
    for _ in range(count):
        write.spawn(path, "x")
    print("spawned", flush=True)
    if end == "sleep":
        time.sleep(60)
    if end == "fail":
        sys.exit("failed")
