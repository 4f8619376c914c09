"""CloudBucketMount: which bucket it is, and how it is reached."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest

import pgstore
from pgstore import CloudBucketMount, Secret, errors
from pgstore.buckets.location import Location

SECRET = Secret.from_dict({"AWS_ACCESS_KEY_ID": "not-to-be-seen", "AWS_SECRET_ACCESS_KEY": "nor-this"})


def test_the_specifications_constructors_read_only_by_default():
    for mount in (
        CloudBucketMount.from_s3_bucket("b"),
        CloudBucketMount.from_gcs_bucket("b"),
        CloudBucketMount.from_azure_blob_storage("account", "b"),
    ):
        assert mount.read_only
        assert mount.bucket_name == "b"


@pytest.mark.parametrize(
    ("mount", "location"),
    [
        (CloudBucketMount.from_s3_bucket("b"), Location("s3", "b")),
        (CloudBucketMount.from_gcs_bucket("b"), Location("gcs", "b")),
        (CloudBucketMount.from_azure_blob_storage("a", "b"), Location("azure", "b", account="a")),
        (CloudBucketMount("b"), Location("s3", "b")),
        (
            CloudBucketMount("b", "https://minio.example:9000", force_path_style=True),
            Location("s3", "b", endpoint_url="https://minio.example:9000", path_style=True),
        ),
        (
            CloudBucketMount("b", "https://x.r2.cloudflarestorage.com"),
            Location("s3", "b", endpoint_url="https://x.r2.cloudflarestorage.com", region="auto"),
        ),
        (CloudBucketMount("b", "https://storage.googleapis.com"), Location("gcs", "b")),
        (
            CloudBucketMount.from_s3_bucket(
                "b", region="eu-central-1", oidc_auth_role_arn="arn:aws:iam::1:role/r", requester_pays=True
            ),
            Location("s3", "b", region="eu-central-1", role_arn="arn:aws:iam::1:role/r", requester_pays=True),
        ),
        (CloudBucketMount.from_gcs_bucket("b", anonymous=True), Location("gcs", "b", anonymous=True)),
        (
            CloudBucketMount.from_s3_bucket("b", secret=Secret.from_name("aws-credentials")),
            Location("s3", "b", secret="aws-credentials"),
        ),
    ],
    ids=["s3", "gcs", "azure", "plain", "minio", "r2", "google", "options", "anonymous", "secret"],
)
def test_a_bucket_is_where_its_arguments_say(mount, location):
    """
    The plain constructor tells the provider by the host of the endpoint, as Modal's does.
    """
    assert mount.location == location


def test_the_plain_constructor_has_modals_arguments_and_defaults():
    plain = [p for p in inspect.signature(CloudBucketMount).parameters.values() if p.kind is not p.KEYWORD_ONLY]

    assert [(parameter.name, parameter.default) for parameter in plain] == [
        ("bucket_name", inspect.Parameter.empty),
        ("bucket_endpoint_url", None),
        ("key_prefix", None),
        ("secret", None),
        ("oidc_auth_role_arn", None),
        ("read_only", False),
        ("requester_pays", False),
        ("force_path_style", False),
    ]


def test_a_prefix_ends_in_a_slash():
    """
    Modal's constructor wants it; the specification's adds it.
    """
    with pytest.raises(ValueError, match="key_prefix 'a' does not end with '/': give 'a/'"):
        CloudBucketMount("b", key_prefix="a")

    assert CloudBucketMount("b", key_prefix="a/").key_prefix == "a/"
    assert CloudBucketMount.from_s3_bucket("b", key_prefix="a/b").key_prefix == "a/b/"
    assert CloudBucketMount.from_s3_bucket("b", key_prefix="a/").key_prefix == "a/"
    assert CloudBucketMount.from_s3_bucket("b").key_prefix == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CloudBucketMount(""), "bucket_name is '', expected a str that is not empty"),
        (lambda: CloudBucketMount(7), "bucket_name is 7"),  # type: ignore[arg-type]
        (lambda: CloudBucketMount("b", "minio:9000"), "endpoint of a bucket is 'minio:9000', expected a URL"),
        (lambda: CloudBucketMount("b", "https://[bad"), "expected a URL"),
        (lambda: CloudBucketMount("b", requester_pays=True), "requester_pays=True needs a secret"),
        (lambda: CloudBucketMount("b", read_only="yes"), "read_only"),  # type: ignore[arg-type]
        (lambda: CloudBucketMount.from_s3_bucket("b", secret="aws"), "secret must be a pgstore.Secret, not str"),  # type: ignore[arg-type]
        (lambda: CloudBucketMount.from_s3_bucket("b", key_prefix=None), "key_prefix is None"),  # type: ignore[arg-type]
        (lambda: CloudBucketMount.from_s3_bucket("b", secret=SECRET, anonymous=True), "anonymous=True cannot be"),
        (lambda: CloudBucketMount("b", account_name="a"), "account_name is of Azure alone"),
        (lambda: CloudBucketMount.from_azure_blob_storage("", "b"), "account_name is ''"),
        (lambda: CloudBucketMount("b", provider="ftp"), "provider is 'ftp', expected 's3', 'gcs', 'azure' or None"),  # type: ignore[arg-type]
        (lambda: CloudBucketMount.from_s3_bucket("b", key_prefix="\ud800"), "key_prefix is .*not valid UTF-8"),
    ],
    ids=range(13),
)
def test_arguments_that_cannot_work_are_refused_at_once(make, message):
    with pytest.raises(errors.InvalidError, match=message):
        make()


def test_a_password_in_an_endpoint_is_refused_and_not_shown():
    with pytest.raises(errors.InvalidError, match="give a secret instead") as caught:
        CloudBucketMount("b", "https://user:pass-word@host")

    assert "pass-word" not in str(caught.value)


def test_no_value_of_a_secret_is_shown_or_pickled():
    mount = CloudBucketMount.from_s3_bucket("b", key_prefix="p", secret=SECRET)
    mount._tree()  # which has found the values

    assert repr(mount) == f"pgstore.CloudBucketMount('s3://b/p', secret={SECRET!r}, read_only=True)"
    assert "not-to-be-seen" not in repr(vars(mount))
    for written in (pickle.dumps(mount), repr(mount).encode()):
        assert b"not-to-be-seen" not in written
        assert b"nor-this" not in written


def test_a_pickle_is_the_same_bucket():
    mount = CloudBucketMount.from_s3_bucket("b", key_prefix="p", secret=Secret.from_name("aws"), region="r")
    mount.__dict__["_opened"] = "of this process"

    for other in (pickle.loads(pickle.dumps(mount)), copy.copy(mount), copy.deepcopy(mount)):
        assert other.location == mount.location
        assert (other.key_prefix, other.read_only) == ("p/", True)
        assert "_opened" not in vars(other)


def test_it_is_immutable():
    mount = CloudBucketMount("b")

    with pytest.raises(dataclasses.FrozenInstanceError):
        mount.read_only = True  # type: ignore[misc]

    assert mount == CloudBucketMount("b")
    assert len({mount, CloudBucketMount("b")}) == 1
    assert mount != CloudBucketMount("b", read_only=True)


def test_it_is_where_modal_has_it():
    assert pgstore.CloudBucketMount is pgstore.cloud_bucket_mount.CloudBucketMount is CloudBucketMount
