"""Samples of what goes on, taken while `pgstore top` shows the last one and waits for keys."""

from __future__ import annotations

import threading

import pgstore
from pgstore import errors
from pgstore.admin.live import Live
from pgstore.admin.live_model import Sample
from pgstore.cli.terminal import Keys
from pgstore.core import clock

SILENCE_SECONDS = 1.0  # and twice the interval, after which it is said that there is no answer


class Sampler:
    """Takes samples in a thread of its own, so that a server that does not answer keeps no key from being heard."""

    def __init__(self, url: str, environment: str | None, interval: float) -> None:
        self._url = url
        self._environment = environment
        self._interval = interval
        self.silence = SILENCE_SECONDS + 2 * interval
        self._client: pgstore.Client | None = None
        self._live: Live | None = None
        self._ended = threading.Event()
        self.latest: Sample | None = None
        self.number = 0
        """Of the latest."""
        self.lost_at: float | None = None
        """Since when there has been no sample; None: there is no trouble."""
        self.problem = ""
        self.asked_at: float | None = None
        """Since when an answer is waited for; None: it is not."""

    def sample(self) -> Sample:
        """Take one. After an error the next try is made on a new connection, with which everything is looked up anew."""
        if self._live is None:
            self._client = pgstore.Client(self._url, auto_migrate=False, connections_max=1)
            self._live = Live(self._client, self._environment)
        self.asked_at = clock.monotonic()
        try:
            return self._live.sample()
        except BaseException:
            self.close()
            raise
        finally:
            self.asked_at = None

    def run(self, keys: Keys) -> None:
        """Take samples until `end`; each wakes whoever waits for *keys*."""
        while not self._ended.wait(self._interval):
            try:
                self.latest = self.sample()
            except errors.Error as exc:
                self.lost_at = clock.monotonic() if self.lost_at is None else self.lost_at
                self.problem = str(exc)
            else:
                self.number += 1
                self.lost_at = None
            if not self._ended.is_set():
                keys.wake()
        self.close()

    def end(self) -> None:
        """Take no more."""
        self._ended.set()

    def close(self) -> None:
        """Close the connection, as far as there is one."""
        client, self._client, self._live = self._client, None, None
        if client is not None:
            client.close()
