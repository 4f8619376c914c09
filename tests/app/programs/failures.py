"""What goes wrong, and how a program notices: exceptions, timeouts, retries, a worker that is killed."""

import os
import signal
import time

import pgstore as modal

app = modal.App("example-failures")
attempts = modal.Dict.from_name("attempts", create_if_missing=True)
volume = modal.Volume.from_name("half-done", create_if_missing=True)


class NoSuchCity(Exception):
    def __init__(self, city: str) -> None:
        super().__init__(city)
        self.city = city


@app.function()
def weather(city: str) -> str:
    if city == "atlantis":
        raise NoSuchCity(city)
    return f"{city}: sunny"


@app.function(timeout=0.5)
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@app.function(retries=modal.Retries(max_retries=3, backoff_coefficient=1.0, initial_delay=0.05))
def flaky() -> int:
    attempts["flaky"] = attempts.get("flaky", 0) + 1
    if attempts["flaky"] < 3:
        raise ConnectionError(f"attempt {attempts['flaky']}")
    return attempts["flaky"]


@app.function(volumes={"/data": volume})
def dies() -> None:
    with open("/data/half", "w") as file:
        file.write("half of it")
    os.kill(os.getpid(), signal.SIGKILL)


@app.function(volumes={"/data": volume})
def left() -> list[str]:
    return os.listdir("/data")


@app.local_entrypoint()
def main():
    try:
        weather.remote("atlantis")
    except NoSuchCity as exc:
        print("no such city:", exc.city, any("in weather" in note for note in exc.__notes__))
    found = weather.map(["rome", "atlantis", "oslo"], return_exceptions=True)
    print([str(each) if isinstance(each, str) else type(each).__name__ for each in found])
    try:
        sleep.remote(60)
    except modal.exception.FunctionTimeoutError as exc:
        print("timeout:", isinstance(exc, modal.exception.TimeoutError))
    print("attempts:", flaky.remote())
    try:
        dies.remote()
    except modal.exception.RemoteError as exc:
        print("killed:", "SIGKILL" in str(exc))
    print("left:", left.remote())
