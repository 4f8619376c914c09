"""The databases of the mounts of a daemon: clients with the settings of the caller's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from pgstore import errors
from pgstore.client import Client
from pgstore.config import hidden

CONNECTIONS_MIN = 6  # for reading ahead, and for those who write meanwhile


class Clients:
    """
    Args:
        ask: called with the number of a client whose URL the caller's function gives; returns it.
    """

    def __init__(self, ask: Callable[[int], str]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Client, int]] = {}  # and how many mounts use it

    def use(self, number: int, settings: dict[str, Any]) -> Client:
        """The client of this number; `leave` it afterwards."""
        with self._lock:
            client, users = self._open.get(number, (None, 0))
            if client is None:
                client = self._made(number, settings)
            self._open[number] = (client, users + 1)
            return client

    def leave(self, number: int) -> None:
        with self._lock:
            client, users = self._open.pop(number)
            if users > 1:
                self._open[number] = (client, users - 1)
                return
        with contextlib.suppress(errors.Error):
            client.close()

    def close(self) -> None:
        """Close all, whoever uses them: what they keep in the database by their sessions goes with these."""
        for number in list(self._open):
            client, _ = self._open.pop(number)
            with contextlib.suppress(errors.Error):
                client.close()

    def _made(self, number: int, settings: dict[str, Any]) -> Client:
        url = settings["url"]
        return Client(
            (lambda: str(self._ask(number))) if settings["asks"] else url,
            environment=settings["environment"],
            listen_url=settings["listen_url"],
            connections_max=max(CONNECTIONS_MIN, settings["connections_max"]),
            auto_migrate=False,
            signing_keys=hidden([bytes.fromhex(key) for key in settings["signing_keys"]]),
            telemetry=False,  # what the kernel asks for is no operation of the program's
        )


def settings_of(client: Client) -> dict[str, Any]:
    """The settings of *client*, as plain values."""
    settings = client.settings
    asks = callable(settings.url)
    return {
        "url": None if asks else settings.configured_url(),
        "asks": asks,
        "listen_url": settings.listen_url,
        "environment": settings.effective_environment,
        "connections_max": settings.connections_max,
        "signing_keys": [key.hex() for key in settings.signing_keys],
    }
