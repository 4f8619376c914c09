"""Where a bucket is, and how it is reached: all but the credentials."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Provider: TypeAlias = Literal["s3", "gcs", "azure"]


class Location(NamedTuple):
    """A bucket of a provider. Two that are equal are the same bucket, reached in the same way."""

    provider: Provider
    name: str
    """Of the bucket, or of the container of Azure."""
    account: str | None = None
    """Azure's: the storage account."""
    endpoint_url: str | None = None
    """Of a service with the provider's interface, as MinIO or R2 with that of S3; None: the provider's own."""
    region: str | None = None
    path_style: bool = False
    """S3's: whether URLs have the bucket in their path and never in the host name. Another service's always do."""
    requester_pays: bool = False
    role_arn: str | None = None
    """S3's: the role to be taken on (STS AssumeRole; AssumeRoleWithWebIdentity where there is a token of one)."""
    anonymous: bool = False
    """Whether requests are not signed at all, as public buckets allow it."""
    secret: str | None = None
    """What messages call the secret that the credentials come from; None: there is none."""

    @property
    def shown(self) -> str:
        """What messages call the bucket."""
        if self.provider == "azure":
            return f"az://{self.account}/{self.name}"
        scheme = {"s3": "s3", "gcs": "gs"}[self.provider]
        return f"{scheme}://{self.name}"
