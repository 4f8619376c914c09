"""Clients of azure-storage-blob: their settings, and the credentials handed to them."""

from __future__ import annotations

import os
from typing import Any, Final

import requests
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import ContainerClient
from requests.adapters import HTTPAdapter

from pgstore.buckets.credentials import AZURE_KEY, AZURE_SAS, AZURE_STRING, Credentials
from pgstore.buckets.location import Location
from pgstore.buckets.retries import RetryPolicy

CONNECTIONS_MAX: Final = 64
PUT_BYTES_MAX: Final = 5000 << 20  # Put Blob: of what is put in one request
CHECKED_BYTES: Final = 4 << 20  # Get Blob, x-ms-range-get-content-md5: of a longer range Azure gives no checksum


class NoCredentialsError(Exception):
    """Nothing was given, and what would look for some is not installed."""


def make_client(location: Location, credentials: Credentials, policy: RetryPolicy) -> ContainerClient:
    """
    Return a client of a container, for many threads.

    Raises:
        NoCredentialsError
        azure.core.exceptions.AzureError, ValueError: as the SDK raises them.
    """
    options = client_options(policy)
    given = credentials or _of_environment()
    if AZURE_STRING in given and not location.anonymous:
        return ContainerClient.from_connection_string(given[AZURE_STRING], location.name, **options)
    url = location.endpoint_url or f"https://{location.account}.blob.core.windows.net"
    return ContainerClient(url, location.name, credential=_credential(location, given), **options)


def client_options(policy: RetryPolicy) -> dict[str, Any]:
    """Keyword arguments of the SDK's clients: they wait and retry as *policy* says."""
    session = requests.Session()
    for scheme in ("https://", "http://"):
        # The default of requests is ten, and more are made and thrown away.
        session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS_MAX))
    retries = policy.attempts - 1
    return {
        "transport": RequestsTransport(
            session=session, connection_timeout=policy.connect_seconds, read_timeout=policy.read_seconds
        ),
        "retry_total": retries,
        "retry_connect": retries,
        "retry_read": retries,
        "retry_status": retries,
        # The SDK waits initial_backoff, then initial_backoff + increment_base ** n, give or take the jitter.
        "initial_backoff": policy.pause_seconds / 2,
        "increment_base": 1.7 if policy.pause_seconds >= 0.5 else policy.pause_seconds,
        "random_jitter_range": policy.pause_seconds / 2,
        "max_single_put_size": PUT_BYTES_MAX,
        "max_chunk_get_size": CHECKED_BYTES,
        "max_single_get_size": CHECKED_BYTES,
    }


def _of_environment() -> Credentials:
    """What Azure's own programs look for in the environment."""
    return Credentials(
        {name: os.environ[name] for name in (AZURE_STRING, AZURE_KEY, AZURE_SAS) if os.environ.get(name)}
    )


def _credential(location: Location, given: Credentials) -> Any:
    if location.anonymous:
        return None
    if AZURE_KEY in given:
        return AzureNamedKeyCredential(location.account or "", given[AZURE_KEY])
    if AZURE_SAS in given:
        return AzureSasCredential(given[AZURE_SAS].removeprefix("?"))
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as exc:
        raise NoCredentialsError(
            "azure-identity is not installed, which looks for credentials on this machine"
        ) from exc
    return DefaultAzureCredential(exclude_interactive_browser_credential=True)
