"""Which bucket it is, what of it, and how it is reached. Nothing is asked of a provider here."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Self, get_args
from urllib.parse import urlsplit

from pgstore import errors
from pgstore.buckets.location import Location, Provider
from pgstore.core.checks import check_bool
from pgstore.secret import Secret

_GOOGLE_HOST: Final = "storage.googleapis.com"
_R2_HOST: Final = "r2.cloudflarestorage.com"


@dataclass(frozen=True, repr=False)
class Definition:
    """The fields of a `CloudBucketMount`."""

    bucket_name: str
    bucket_endpoint_url: str | None = None
    key_prefix: str | None = None
    secret: Secret | None = None
    oidc_auth_role_arn: str | None = None
    read_only: bool = False
    requester_pays: bool = False
    force_path_style: bool = False
    _: KW_ONLY
    region: str | None = None
    anonymous: bool = False
    provider: Provider | None = None
    account_name: str | None = None

    def __post_init__(self) -> None:
        check_text(self.bucket_name, "bucket_name")
        for name in ("bucket_endpoint_url", "key_prefix", "oidc_auth_role_arn", "region", "account_name"):
            if getattr(self, name) is not None:
                check_text(getattr(self, name), name, empty=name == "key_prefix")
        for name in ("read_only", "requester_pays", "force_path_style", "anonymous"):
            check_bool(getattr(self, name), name)
        if self.secret is not None and not isinstance(self.secret, Secret):
            raise errors.InvalidError(
                f"secret must be a pgstore.Secret, not {type(self.secret).__name__}: see Secret.from_name, Secret.from_dict"
            )
        if self.key_prefix and not self.key_prefix.endswith("/"):
            raise errors.InvalidError(
                f"key_prefix {self.key_prefix!r} does not end with '/': give {self.key_prefix + '/'!r}"
            )
        if self.anonymous and (self.secret is not None or self.requester_pays):
            raise errors.InvalidError("anonymous=True cannot be combined with secret= or requester_pays=True")
        _check_endpoint(self.bucket_endpoint_url)
        if self.provider is None:
            if self.requester_pays and self.secret is None:
                raise errors.InvalidError("requester_pays=True needs a secret: the provider has to know who pays")
            object.__setattr__(self, "provider", _provider_of(self.bucket_endpoint_url))
        elif self.provider not in get_args(Provider):
            raise errors.InvalidError(f"provider is {self.provider!r}, expected 's3', 'gcs', 'azure' or None")
        if (self.provider == "azure") != (self.account_name is not None):
            raise errors.InvalidError("account_name is of Azure alone, which needs it: see from_azure_blob_storage")

    @classmethod
    def from_s3_bucket(
        cls,
        bucket_name: str,
        *,
        key_prefix: str = "",
        secret: Secret | None = None,
        read_only: bool = True,
        endpoint_url: str | None = None,
        force_path_style: bool = False,
        region: str | None = None,
        requester_pays: bool = False,
        oidc_auth_role_arn: str | None = None,
        anonymous: bool = False,
    ) -> Self:
        """
        A bucket of S3, or of a service with its interface, such as R2 and MinIO.

        Args:
            key_prefix: only keys that begin with it, which is taken to end with `/`.
            secret: has `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if there is one, `AWS_SESSION_TOKEN`. None: what boto3
                finds by itself.
            read_only: nothing can be written.
            endpoint_url: of another service than Amazon's.
            force_path_style: the name of the bucket stands in the path of URLs; so it always does with *endpoint_url*.
            region: None: `AWS_REGION` of the secret, or what boto3 finds.
            requester_pays: whoever the secret belongs to pays for requests.
            oidc_auth_role_arn: the role that is taken on.
            anonymous: requests are not signed, for public buckets.
        """
        return cls(
            bucket_name,
            endpoint_url,
            closed(key_prefix),
            secret,
            oidc_auth_role_arn,
            read_only,
            requester_pays,
            force_path_style,
            region=region,
            anonymous=anonymous,
            provider="s3",
        )

    @classmethod
    def from_gcs_bucket(
        cls,
        bucket_name: str,
        *,
        key_prefix: str = "",
        secret: Secret | None = None,
        read_only: bool = True,
        endpoint_url: str | None = None,
        requester_pays: bool = False,
        anonymous: bool = False,
    ) -> Self:
        """
        A bucket of Google Cloud Storage.

        Args:
            secret: has `SERVICE_ACCOUNT_JSON`; or the HMAC keys `GOOGLE_ACCESS_KEY_ID` and `GOOGLE_ACCESS_KEY_SECRET`, with which
                the bucket is reached by its S3 interface. None: what Google's SDK finds by itself.
            key_prefix, read_only, requester_pays, anonymous: see `from_s3_bucket`.
            endpoint_url: of an emulator.
        """
        return cls(
            bucket_name,
            endpoint_url,
            closed(key_prefix),
            secret,
            read_only=read_only,
            requester_pays=requester_pays,
            anonymous=anonymous,
            provider="gcs",
        )

    @classmethod
    def from_azure_blob_storage(
        cls,
        account_name: str,
        container_name: str,
        *,
        key_prefix: str = "",
        secret: Secret | None = None,
        read_only: bool = True,
        endpoint_url: str | None = None,
        anonymous: bool = False,
    ) -> Self:
        """
        A container of Azure Blob Storage.

        Args:
            secret: has `AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_KEY` or `AZURE_STORAGE_SAS_TOKEN`. None: what Azure's SDK
                finds by itself.
            key_prefix, read_only, anonymous: see `from_s3_bucket`.
            endpoint_url: of another service than `https://ACCOUNT.blob.core.windows.net`.
        """
        return cls(
            container_name,
            endpoint_url,
            closed(key_prefix),
            secret,
            read_only=read_only,
            anonymous=anonymous,
            provider="azure",
            account_name=account_name,
        )

    @property
    def location(self) -> Location:
        """Where the bucket is, and how it is reached: all but the credentials."""
        assert self.provider is not None
        endpoint = self.bucket_endpoint_url
        if self.provider == "gcs" and _is_of(endpoint, _GOOGLE_HOST):
            endpoint = None  # Google's own; which of its interfaces is used depends on the credentials
        region = self.region
        if region is None and _is_of(endpoint, _R2_HOST):
            region = "auto"  # the only one that it has
        return Location(
            provider=self.provider,
            name=self.bucket_name,
            account=self.account_name,
            endpoint_url=endpoint,
            region=region,
            path_style=self.force_path_style,
            requester_pays=self.requester_pays,
            role_arn=self.oidc_auth_role_arn,
            anonymous=self.anonymous,
            secret=None if self.secret is None else self.secret.name or repr(self.secret),
        )

    def __repr__(self) -> str:
        shown = [repr(f"{self.location.shown}/{self.key_prefix or ''}".rstrip("/"))]
        if self.bucket_endpoint_url is not None:
            shown.append(f"endpoint_url={self.bucket_endpoint_url!r}")
        if self.secret is not None:
            shown.append(f"secret={self.secret!r}")
        shown.append(f"read_only={self.read_only}")
        return f"pgstore.CloudBucketMount({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """The fields, of which the secret pickles itself without its values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "_"}


def closed(key_prefix: object) -> str:
    """*key_prefix* with a slash at its end."""
    prefix = check_text(key_prefix, "key_prefix", empty=True)
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def check_text(value: object, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise errors.InvalidError(f"{name} is {value!r}, expected a str{'' if empty else ' that is not empty'}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise errors.InvalidError(f"{name} is {value!r}, which is not valid UTF-8") from None
    return value


def _check_endpoint(url: str | None) -> None:
    if url is None:
        return
    try:
        parts = urlsplit(url)
    except ValueError:  # of a malformed address of IPv6
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.InvalidError(f"the endpoint of a bucket is {url!r}, expected a URL such as 'https://host:9000'")
    if parts.username is not None or parts.password is not None:  # which are not shown
        raise errors.InvalidError(
            f"the endpoint at {parts.hostname!r} is given with a user or password: give a secret instead"
        )


def _is_of(url: str | None, host: str) -> bool:
    """Whether *url* is of *host*, or of one below it."""
    found = urlsplit(url).hostname or "" if url is not None else ""
    return found == host or found.endswith(f".{host}")


def _provider_of(endpoint_url: str | None) -> Provider:
    return "gcs" if _is_of(endpoint_url, _GOOGLE_HOST) else "s3"
