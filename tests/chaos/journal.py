"""What a worker was about to do, and what came of it: two lines on disk for each operation, in a file for each worker.

A line is on disk before the operation begins, so whatever a killed worker did is known to have been possible; and another before
the worker goes on, so whatever it was told is known.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

OK: Final = "ok"
UNKNOWN: Final = "unknown"
"""`OutcomeUnknown`: it may have happened."""
REFUSED: Final = "refused"
"""Another error of pgstore: it has not happened, and never will."""
FOREIGN: Final = "foreign"
"""An error that is not pgstore's."""
ENDED: Final = "ended"
"""The worker was killed meanwhile."""


class Journal:
    """The notes of one worker, whose threads share them."""

    def __init__(self, directory: Path, worker: str) -> None:
        self.worker = worker
        self._file = os.open(directory / f"{worker}.journal", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._number = 0

    def intend(self, drill: str, what: str, facts: dict[str, Any]) -> int:
        """Note an operation that is about to begin; return its number."""
        with self._lock:
            self._number += 1
            self._write({"n": self._number, "drill": drill, "what": what, "facts": facts, "at": time.monotonic()})
            return self._number

    def settle(self, number: int, outcome: str, answer: Any) -> None:
        """Note what came of operation *number*."""
        with self._lock:
            self._write({"n": number, "outcome": outcome, "answer": answer, "at": time.monotonic()})

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
        os.fdatasync(self._file)


@dataclass
class Entry:
    """One operation. Times are of the machine's monotonic clock, which all its processes share."""

    worker: str
    number: int
    drill: str
    what: str
    facts: dict[str, Any]
    began: float
    outcome: str = ENDED
    answer: Any = None
    ended: float = float("inf")

    @property
    def was_done(self) -> bool:
        return self.outcome == OK

    @property
    def is_in_doubt(self) -> bool:
        return self.outcome in (UNKNOWN, ENDED, FOREIGN)

    @property
    def was_not_done(self) -> bool:
        return self.outcome == REFUSED

    def __str__(self) -> str:
        return f"{self.worker}#{self.number} {self.what} {json.dumps(self.facts)} -> {self.outcome} {self.answer!r}"


class Log:
    """The journals of a run."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    @classmethod
    def read(cls, directory: Path) -> Log:
        entries = [entry for path in sorted(directory.glob("*.journal")) for entry in _entries(path)]
        return cls(sorted(entries, key=lambda entry: entry.began))

    def of(self, drill: str, *what: str) -> list[Entry]:
        """The entries of *drill*, of some kinds only if they are named, in the order in which they began."""
        return [entry for entry in self.entries if entry.drill == drill and (not what or entry.what in what)]

    def outcomes(self, drill: str) -> Counter[str]:
        return Counter(entry.outcome for entry in self.of(drill))


def _entries(path: Path) -> Iterator[Entry]:
    entries: dict[int, Entry] = {}
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the last line of a worker that was killed as it wrote: what it was about to do had not begun
        if "outcome" in line:
            entry = entries[line["n"]]
            entry.outcome, entry.answer, entry.ended = line["outcome"], line["answer"], line["at"]
        else:
            entries[line["n"]] = Entry(path.stem, line["n"], line["drill"], line["what"], line["facts"], line["at"])
    yield from entries.values()
