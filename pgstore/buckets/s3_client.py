"""
Clients of boto3: their settings, and the credentials handed to them.

At level DEBUG the SDK logs what it sends, tokens of sessions among it: that is its own, and off unless asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from pgstore import errors
from pgstore.buckets import credentials as names
from pgstore.buckets.credentials import Credentials
from pgstore.buckets.location import Location
from pgstore.buckets.retries import RetryPolicy

CONNECTIONS_MAX: Final = 64
"""As many threads as may read at once; a connection is made when it is needed."""
SESSION_NAME: Final = "pgstore"
TOKEN_FILE: Final = "AWS_WEB_IDENTITY_TOKEN_FILE"


def make_client(location: Location, credentials: Credentials, policy: RetryPolicy) -> Any:
    """
    Return a client of S3.

    Raises:
        ConfigurationError: boto3 is not installed.
        botocore.exceptions.BotoCoreError, ValueError: as the SDK raises them.
    """
    try:
        import boto3
        import botocore.session
    except ImportError as exc:
        raise errors.ConfigurationError(
            f"bucket {location.shown} takes boto3, which is not installed: pip install 'pgstore[s3]'"
        ) from exc
    core = botocore.session.Session()
    core.register_component("data_loader", _loader())
    _hand_over(core, location, credentials, policy)
    session = boto3.session.Session(botocore_session=core, region_name=_region(location, credentials))
    client = session.client("s3", endpoint_url=_endpoint_url(location, credentials), config=_config(location, policy))
    events = client.meta.events
    # Said of requests whose answer is a whole object. Through the parameter ChecksumMode the SDK would compare by itself, and
    # could not where a body was cut short and resumed.
    events.register("before-sign.s3.GetObject", _ask_for_checksum)
    # Services with the interface of S3 take the checksums of AWS, or want this one as they always have.
    events.register("before-sign.s3.DeleteObjects", _add_md5)
    return client


@functools.cache
def _loader() -> Any:
    """What reads the SDK's descriptions of services, once for all clients: a tenth of a second each."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def _config(location: Location, policy: RetryPolicy) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    # GCS knows no checksums but this one's: S3Bucket gives MD5 with each body.
    checksums = {"request_checksum_calculation": "when_required"} if names.is_google(location.endpoint_url) else {}
    return Config(
        s3={"addressing_style": "path" if location.path_style else "auto"},
        retries={"mode": "standard", "total_max_attempts": policy.attempts},
        connect_timeout=policy.connect_seconds,
        read_timeout=policy.read_seconds,
        max_pool_connections=CONNECTIONS_MAX,
        tcp_keepalive=True,
        response_checksum_validation="when_required",
        user_agent_extra="pgstore",
        **({"signature_version": UNSIGNED} if location.anonymous else {}),
        **checksums,
    )


def _region(location: Location, credentials: Credentials) -> str | None:
    region = location.region or credentials.get("AWS_REGION") or credentials.get("AWS_DEFAULT_REGION")
    # Others have no regions, and want one in the signature all the same. R2 and GCS call it so; the rest takes what it gets.
    if region is None and location.endpoint_url and ".amazonaws.com" not in location.endpoint_url:
        return "auto"
    return region


def _endpoint_url(location: Location, credentials: Credentials) -> str | None:
    return location.endpoint_url or credentials.get("AWS_ENDPOINT_URL_S3") or credentials.get("AWS_ENDPOINT_URL")


def _hand_over(core: Any, location: Location, credentials: Credentials, policy: RetryPolicy) -> None:
    """Give the session of botocore its credentials: those given, else those of a role, else none, so that it looks for them."""
    role = location.role_arn or (credentials.get("AWS_ROLE_ARN") if TOKEN_FILE in credentials else None)
    if role is None:
        _give_keys(core, credentials)
        return
    fetch = _role(core, role, credentials, _region(location, credentials), policy)

    core.get_component("credential_provider").providers.insert(0, _Role(fetch))


class _Role:
    """A provider of credentials, as the SDK asks several of them in turn."""

    METHOD: Final = "assume-role"
    CANONICAL_NAME: Final = None

    def __init__(self, fetch: Callable[[], dict[str, Any]]) -> None:
        self._fetch = fetch

    def load(self) -> Any:
        from botocore.credentials import DeferredRefreshableCredentials

        return DeferredRefreshableCredentials(self._fetch, self.METHOD)


def _give_keys(core: Any, credentials: Credentials) -> None:
    # Not as arguments of a client: they would be variables of each frame below.
    if names.AWS_KEY in credentials:
        core.set_credentials(
            credentials[names.AWS_KEY], credentials[names.AWS_SECRET], credentials.get(names.AWS_TOKEN)
        )


def _role(
    core: Any, role: str, credentials: Credentials, region: str | None, policy: RetryPolicy
) -> Callable[[], dict[str, Any]]:
    """A function that takes on the role and returns what that gives; called again when it is about to end."""
    import os

    import botocore.session
    from botocore.config import Config
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        AssumeRoleWithWebIdentityCredentialFetcher,
        FileWebIdentityTokenLoader,
    )

    # A session of its own: the first one's credentials will be those of the role.
    own = botocore.session.Session()

    def make(service: str, **arguments: Any) -> Any:
        config = Config(connect_timeout=policy.connect_seconds, read_timeout=policy.read_seconds).merge(
            arguments.pop("config", None) or Config()
        )
        arguments.setdefault("region_name", region or own.get_config_variable("region") or "us-east-1")
        return own.create_client(
            service, endpoint_url=credentials.get("AWS_ENDPOINT_URL_STS"), config=config, **arguments
        )

    token_file = credentials.get(TOKEN_FILE) or (None if names.AWS_KEY in credentials else os.environ.get(TOKEN_FILE))
    named = {"RoleSessionName": SESSION_NAME}
    if token_file is not None:
        load = FileWebIdentityTokenLoader(token_file)
        return AssumeRoleWithWebIdentityCredentialFetcher(make, load, role, extra_args=named).fetch_credentials  # type: ignore[no-any-return]
    _give_keys(own, credentials)
    source = own.get_credentials()
    if source is None:
        from botocore.exceptions import NoCredentialsError

        raise NoCredentialsError
    return AssumeRoleCredentialFetcher(make, source, role, extra_args=named).fetch_credentials  # type: ignore[no-any-return]


def _ask_for_checksum(request: Any, **_: Any) -> None:
    if "Range" not in request.headers:
        request.headers["x-amz-checksum-mode"] = "ENABLED"


def _add_md5(request: Any, **_: Any) -> None:
    import base64
    import hashlib

    if "Content-MD5" not in request.headers:
        body = request.body if isinstance(request.body, bytes) else bytes(request.data or b"")
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        request.headers["Content-MD5"] = base64.b64encode(digest).decode()
