"""A task: an input that was handed to the runner, and the future of its outcome."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from pgstore import errors
from pgstore.app.pickles import Outcome, failed_here
from pgstore.app.spec import Input, WorkerSpec

TIMEOUT_GRACE_SECONDS: Final = 5.0  # for a function whose time is over
CANCEL_GRACE_SECONDS: Final = 10.0


_numbers: Final = itertools.count(1)


class Task(Future[Outcome]):
    """
    Pending until a worker is given it. A pending one can be cancelled as any future; what runs is ended by `Runner.cancel`.

    All but the future is the pool's, under its lock.
    """

    def __init__(self, spec: WorkerSpec, given: Input, on_item: Callable[[bytes], None] | None) -> None:
        super().__init__()
        self.number = next(_numbers)
        self.spec = spec
        self.input = given
        self.on_item = on_item
        self.taken: Callable[[], None] = lambda: None  # to be called for each item: a worker is a hundred ahead at most
        self.attempts = 0  # that have begun
        self.why: str | None = None  # it was interrupted
        self.deadline: float | None = None
        self.kill_at: float | None = None

    @property
    def needs_fresh_worker(self) -> bool:
        return self.attempts > 0 or self.input.is_repeated

    @property
    def may_be_repeated(self) -> bool:
        retries = self.input.retries
        return (
            retries is not None
            and self.attempts <= retries.max_retries
            and self.why in (None, "timeout")
            and not self.input.is_generator
        )

    def begin(self) -> None:
        self.attempts += 1
        self.why = self.kill_at = None
        self.deadline = None if self.input.timeout is None else time.monotonic() + self.input.timeout

    def interrupted(self, why: str, grace_seconds: float) -> None:
        """It was told to end because of *why*; after so many seconds its worker is killed."""
        self.why = self.why or why
        self.deadline = None
        self.kill_at = min(self.kill_at or float("inf"), time.monotonic() + grace_seconds)

    def explained(self, outcome: Outcome) -> Outcome:
        """*outcome*, or what has led to it."""
        name = self.spec.name if self.input.method is None else f"{self.spec.name}.{self.input.method}"
        if self.why == "timeout":
            return failed_here(
                errors.FunctionTimeoutError(f"{name} ran longer than its timeout of {self.input.timeout:g} s")
            )
        if self.why == "cancel":
            return failed_here(errors.RemoteError(f"the call of {name} was cancelled"))
        if self.why == "end":
            return failed_here(
                errors.RemoteError(f"the call of {name} was cancelled: the program that made it has ended")
            )
        return outcome

    def settle(self, outcome: Outcome) -> None:
        if not self.done():
            self.set_result(outcome)
