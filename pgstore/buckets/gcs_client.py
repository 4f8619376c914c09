"""Clients of google-cloud-storage: their settings, and the credentials handed to them."""

from __future__ import annotations

import json
from typing import Any, Final

import google.auth.credentials
import google.auth.exceptions
import google.oauth2.credentials
import google.oauth2.service_account
from google.cloud import storage
from requests.adapters import HTTPAdapter

from pgstore.buckets.credentials import SERVICE_ACCOUNT, Credentials
from pgstore.buckets.location import Location

CONNECTIONS_MAX: Final = 64
SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)


def make_client(location: Location, credentials: Credentials) -> storage.Client:
    """
    Return a client, for many threads.

    Raises:
        google.auth.exceptions.GoogleAuthError, ValueError: as the SDK raises them.
    """
    options = {"api_endpoint": location.endpoint_url} if location.endpoint_url else None
    taken = _credentials(location, credentials)
    project = getattr(taken, "project_id", None)
    client = storage.Client(project=project, credentials=taken, client_options=options)
    if hasattr(client, "_bucket_metadata_cache"):
        # Attributes for traces, which a thread of the SDK would ask for with a right that few credentials have.
        client._bucket_metadata_cache = None
    for scheme in ("https://", "http://"):
        # The default of requests is ten, and more are made and thrown away.
        client._http.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS_MAX))
    return client


def _credentials(location: Location, credentials: Credentials) -> Any:
    """None: the SDK looks for its own."""
    # Their modules have no types.
    of_users: Any = google.oauth2.credentials.Credentials
    of_services: Any = google.oauth2.service_account.Credentials
    anonymous: Any = google.auth.credentials.AnonymousCredentials
    malformed: Any = google.auth.exceptions.MalformedError
    if location.anonymous:
        return anonymous()
    if SERVICE_ACCOUNT not in credentials:
        return None
    info = json.loads(credentials[SERVICE_ACCOUNT])
    match info["type"]:
        case "service_account":
            if not all(isinstance(info.get(each), str) for each in ("client_email", "token_uri", "private_key")):
                raise malformed("client_email, token_uri or private_key is missing")
            return of_services.from_service_account_info(info, scopes=SCOPES)
        case "authorized_user":
            return of_users.from_authorized_user_info(info, scopes=SCOPES)
        case _:
            # The others name programs and addresses that the SDK asks for tokens: it takes them from a file, not from a secret.
            raise malformed("its type is neither service_account nor authorized_user")
