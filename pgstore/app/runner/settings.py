"""The settings of the program's default client, for the workers: what is done there is done in the same database."""

from __future__ import annotations

import contextlib
from typing import Any

from pgstore import errors
from pgstore.client import default_client


class Settings:
    """As they are when a worker starts."""

    def __init__(self) -> None:
        self._settings = default_client().settings

    @property
    def environment(self) -> str:
        return self._settings.effective_environment

    def told(self) -> dict[str, Any]:
        """What the worker is told. The URL as it is here: a secret of the function's may be called DATABASE_URL."""
        settings = self._settings
        url = None
        if not callable(settings.url):
            with contextlib.suppress(errors.ConfigurationError):  # the worker says so, if it needs it
                url = settings.configured_url()
        return {
            "url": url,
            "asks": callable(settings.url),
            "environment": settings.environment,
            "listen_url": settings.listen_url,
            "connections_max": settings.connections_max,
            "auto_migrate": settings.auto_migrate,
            "signing_keys": list(settings.signing_keys),
        }

    def url(self) -> str | None:
        """The URL for one more connection, where a function gives it."""
        return self._settings.configured_url()
