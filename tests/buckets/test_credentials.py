"""From the variables of a secret to a bucket: which are understood, what is wrong with them, and that nobody sees a value."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import textwrap
import traceback
from typing import Any, cast

import pytest

from pgstore import errors
from pgstore.buckets import credentials
from pgstore.buckets.location import Location
from pgstore.buckets.opening import forget_buckets, open_bucket
from pgstore.buckets.retries import RetryPolicy
from pgstore.buckets.s3 import S3Bucket
from pgstore.secret.values import Values
from tests.fixtures.emulators import moto
from tests.fixtures.fault_proxy import Rule

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEXAMPLE/TOKEN+and=more"
S3 = Location("s3", "my-data", secret="secret 'aws'")
GCS = Location("gcs", "my-data", secret="secret 'gcp'")
AZURE = Location("azure", "my-data", account="my-account", secret="secret 'azure'")
SERVICE_ACCOUNT = json.dumps({"type": "service_account", "client_email": "a@b", "private_key": "PRIVATE KEY OF A TEST"})
QUICK = RetryPolicy(attempts=1, connect_seconds=5, read_seconds=20)
IMPATIENT = QUICK._replace(read_seconds=0.5)


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    """The SDKs find nothing on this machine but what a test sets."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


# What is understood.


@pytest.mark.parametrize(
    ("location", "values", "taken"),
    [
        (
            S3,
            {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        ),
        (
            S3,
            {
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_SESSION_TOKEN": TOKEN,
                "AWS_REGION": "eu-1",
            },
            ["AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
        ),
        (S3, {"AWS_SESSION_TOKEN": TOKEN, "OTHER": "x", "AWS_ACCESS_KEY_ID": ""}, []),
        (
            S3._replace(endpoint_url="https://storage.googleapis.com"),
            {"GOOGLE_ACCESS_KEY_ID": KEY, "GOOGLE_ACCESS_KEY_SECRET": SECRET},
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        ),
        (S3, {"GOOGLE_ACCESS_KEY_ID": KEY, "GOOGLE_ACCESS_KEY_SECRET": SECRET}, []),
        (
            GCS,
            {"GOOGLE_ACCESS_KEY_ID": KEY, "GOOGLE_SECRET_ACCESS_KEY": SECRET},
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        ),
        (GCS, {"SERVICE_ACCOUNT_JSON": SERVICE_ACCOUNT, "GOOGLE_ACCESS_KEY_ID": KEY}, ["SERVICE_ACCOUNT_JSON"]),
        (AZURE, {"AZURE_STORAGE_KEY": SECRET}, ["AZURE_STORAGE_KEY"]),
        (AZURE, {"AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=abc"}, ["AZURE_STORAGE_SAS_TOKEN"]),
        (
            AZURE,
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=b==", "AZURE_STORAGE_KEY": SECRET},
            ["AZURE_STORAGE_CONNECTION_STRING"],
        ),
        (AZURE, {}, []),
    ],
)
def test_the_keys_that_secrets_have_are_understood(location, values, taken):
    assert sorted(credentials.of(location, values)) == taken


@pytest.mark.parametrize(
    ("location", "values", "fault"),
    [
        (S3, {"AWS_ACCESS_KEY_ID": KEY}, "in secret 'aws', there is AWS_ACCESS_KEY_ID, and no AWS_SECRET_ACCESS_KEY"),
        (S3, {"AWS_SECRET_ACCESS_KEY": SECRET}, "there is AWS_SECRET_ACCESS_KEY, and no AWS_ACCESS_KEY_ID"),
        (
            GCS,
            {"GOOGLE_ACCESS_KEY_ID": KEY},
            "in secret 'gcp', there is GOOGLE_ACCESS_KEY_ID, and no GOOGLE_ACCESS_KEY_SECRET",
        ),
        (
            S3,
            {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": f"{SECRET}\n{SECRET}"},
            "AWS_SECRET_ACCESS_KEY has characters that it cannot have, such as a line break",
        ),
        (
            S3,
            {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": f"{TOKEN}\ud800ü"},
            "in secret 'aws', AWS_SESSION_TOKEN has characters that it cannot have",
        ),
        (GCS, {"SERVICE_ACCOUNT_JSON": SECRET}, "in secret 'gcp', SERVICE_ACCOUNT_JSON is not the JSON of a key"),
        (GCS, {"SERVICE_ACCOUNT_JSON": json.dumps({"private_key": SECRET})}, "has to be an object with type"),
        (
            AZURE,
            {"AZURE_STORAGE_CONNECTION_STRING": SECRET},
            "in secret 'azure', AZURE_STORAGE_CONNECTION_STRING is no",
        ),
    ],
)
def test_half_a_pair_is_an_error_that_names_secret_and_bucket(location, values, fault):
    """
    The other half is not taken from elsewhere, which would be that of somebody else.
    """
    with pytest.raises(errors.AccessDenied) as caught:
        open_bucket(location, Values(values))

    assert fault in str(caught.value)
    assert location.shown in str(caught.value)
    assert_unseen(caught.value, values.values())


def test_without_credentials_the_error_says_what_was_looked_for(moto_server):
    location = S3._replace(endpoint_url=moto_server.url)

    with pytest.raises(
        errors.AccessDenied, match="s3://my-data: secret 'aws' has no credentials of S3 at .*its SDK found none"
    ):
        open_bucket(location, Values({"OTHER": "variable"}), policy=QUICK).head("k")
    with pytest.raises(errors.AccessDenied, match="s3://my-data: there are no credentials: give secret="):
        open_bucket(location._replace(secret=None), Values(), policy=QUICK).head("k")


def test_what_the_sdk_finds_by_itself_is_used_when_there_is_no_secret(s3_place, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    assert open_bucket(s3_place.location, Values(), policy=QUICK).put("k", b"x").size_bytes == 1


def test_renewed_credentials_of_a_profile_are_read(s3_place, s3_proxy, monkeypatch, tmp_path):
    """
    Those of a role end after an hour, and a tool writes the next ones into the file.
    """
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    location = s3_place.location._replace(endpoint_url=s3_proxy.url)

    for key in ("AKIATHEFIRSTONE", "AKIATHESECONDONE"):
        (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=x\n")
        open_bucket(location, Values(), policy=QUICK).put("k", b"")

    assert [asked.headers["Authorization"].split("/")[0].split("=")[1] for asked in s3_proxy.log] == [
        "AKIATHEFIRSTONE",
        "AKIATHESECONDONE",
    ]


def test_a_public_bucket_is_read_without_a_signature(s3, s3_place, s3_proxy):
    info = s3_place.open().put("k", b"public")
    s3.put_object_acl(Bucket=s3_place.location.name, Key="k", ACL="public-read")
    private = s3_place.open().put("private", b"not for all")

    bucket = open_bucket(s3_place.location._replace(endpoint_url=s3_proxy.url, anonymous=True), Values(), policy=QUICK)

    assert b"".join(bucket.stream("k", 0, info.tag)) == b"public"
    assert [asked.headers.get("Authorization") for asked in s3_proxy.log] == [None]
    with pytest.raises(errors.AccessDenied, match="does not let those without credentials do this"):
        list(bucket.stream("private", 0, private.tag))


def test_the_keys_of_a_secret_sign_its_requests(s3_place, s3_proxy, monkeypatch):
    """
    Those of the environment are of somebody else.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHEENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-environment")
    location = s3_place.location._replace(endpoint_url=s3_proxy.url)
    values = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "eu-north-1"}

    open_bucket(location, Values(values), policy=QUICK).head("k")
    open_bucket(location, Values({**values, "AWS_SESSION_TOKEN": TOKEN}), policy=QUICK).head("k")
    open_bucket(location._replace(region="eu-west-3"), Values(values), policy=QUICK).head("k")

    heads = [asked.headers for asked in s3_proxy.log if asked.path.endswith("/k")]
    assert [f"Credential={KEY}/" in each["Authorization"] for each in heads] == [True] * 3
    assert [each["Authorization"].split("/")[2] for each in heads] == ["eu-north-1", "eu-north-1", "eu-west-3"]
    assert [each.get("X-Amz-Security-Token") for each in heads] == [None, TOKEN, None]


def test_a_bucket_is_paid_for_by_its_reader_where_that_is_asked_for(s3_place, s3_proxy):
    bucket = s3_place.open(proxy=s3_proxy, requester_pays=True)
    info = bucket.put("k", b"data")
    b"".join(bucket.stream("k", 0, info.tag))
    list(bucket.list())
    bucket.copy("k", "l")
    bucket.delete(["k", "l"])
    upload = bucket.begin_upload("m")
    upload.put_part(1, b"x")
    upload.complete()

    assert {asked.headers.get("x-amz-request-payer") for asked in s3_proxy.log} == {"requester"}


def test_gcs_with_keys_of_s3_goes_through_its_interface_of_s3():
    bucket = open_bucket(GCS, Values({"GOOGLE_ACCESS_KEY_ID": KEY, "GOOGLE_ACCESS_KEY_SECRET": SECRET}))

    assert isinstance(bucket, S3Bucket)
    assert bucket.shown == "gs://my-data"
    assert bucket._requests.client.meta.endpoint_url == "https://storage.googleapis.com"
    assert bucket._requests.client.meta.config.request_checksum_calculation == "when_required"


# Roles.


@pytest.fixture(scope="module")
def strict_s3():
    """S3 that knows whom it has given keys to: a user that may do nothing but take on a role, which may use S3."""
    import boto3

    with moto() as program:
        root = {"aws_access_key_id": "root", "aws_secret_access_key": "root", "region_name": "us-east-1"}
        iam = boto3.client("iam", endpoint_url=program.url, **root)
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        role = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=policy)["Role"]["Arn"]
        boto3.client("s3", endpoint_url=program.url, **root).create_bucket(Bucket="my-data")
        yield program, role


def test_a_role_is_taken_on_with_the_keys_of_the_secret(strict_s3):
    program, role = strict_s3
    from tests.fixtures.fault_proxy import fault_proxy

    with fault_proxy(program.url) as proxy:
        values = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL_STS": proxy.url}
        bucket = open_bucket(S3._replace(endpoint_url=proxy.url, role_arn=role), Values(values), policy=QUICK)
        for name in ("a", "b"):
            bucket.put(name, b"data")

    asked, *puts = proxy.log
    assert f"Credential={KEY}/" in asked.headers["Authorization"]
    assert [each.method for each in puts] == ["PUT", "PUT"]
    for each in puts:
        assert KEY not in each.headers["Authorization"]
        assert each.headers["X-Amz-Security-Token"]


def test_a_role_is_taken_on_with_a_token_of_its_own(strict_s3, tmp_path):
    program, role = strict_s3
    from tests.fixtures.fault_proxy import fault_proxy

    (tmp_path / "token").write_text("a-web-identity-token")
    with fault_proxy(program.url) as proxy:
        values = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ENDPOINT_URL_STS": proxy.url}
        open_bucket(S3._replace(endpoint_url=proxy.url, role_arn=role), Values(values), policy=QUICK).put("a", b"data")

    asked, put = proxy.log
    assert "Authorization" not in asked.headers
    assert put.headers["X-Amz-Security-Token"]


@pytest.mark.parametrize("values", [{"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}, {}])
def test_a_role_that_is_refused_is_a_denial(strict_s3, values):
    program, role = strict_s3
    from tests.fixtures.fault_proxy import fault_proxy

    with fault_proxy(program.url) as proxy:
        body = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>not for you</Message></Error></ErrorResponse>"
        proxy.rules.append(Rule("POST", status=403, body=body))
        given = Values({**values, "AWS_ENDPOINT_URL_STS": proxy.url})
        with pytest.raises(errors.AccessDenied, match="bucket s3://my-data") as caught:
            open_bucket(S3._replace(endpoint_url=proxy.url, role_arn=role), given, policy=QUICK).put("a", b"data")

    assert_unseen(caught.value, values.values())


def test_a_token_that_is_not_there_is_a_denial(tmp_path):
    values = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "none")}

    with pytest.raises(errors.AccessDenied, match="bucket s3://my-data: secret 'aws' has no credentials.*No such file"):
        open_bucket(S3._replace(role_arn="arn:aws:iam::123456789012:role/x"), Values(values), policy=QUICK).head("k")


# Nobody sees a value.


def assert_unseen(exc, values):
    """No value is in a report of the error: neither in its text, nor among the variables of its frames below those of tests."""
    for each in (exc, exc.__cause__, exc.__context__):
        while each is not None and each.__traceback__ is not None:
            if each.__traceback__.tb_frame.f_code.co_filename != __file__:
                break
            each.__traceback__ = each.__traceback__.tb_next
    report = "".join(traceback.TracebackException.from_exception(exc, capture_locals=True).format())
    report += repr(exc) + str(exc) + repr(exc.args) + repr(vars(exc))
    for value in values:
        if len(value) >= 6:
            assert value not in report


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 403, "body": f"<Error><Code>AccessDenied</Code><Message>{KEY} {TOKEN}</Message></Error>".encode()},
        {"status": 403, "body": f"<Error><Code>X</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>".encode()},
        {"status": 500},
        {"reset": True},
        {"latency_seconds": 0.8},
        {"status": 400, "body": TOKEN.encode()},
    ],
    ids=["told", "shown", "failing", "reset", "stalled", "garbage"],
)
def test_no_report_of_a_failure_has_a_value(s3_place, s3_proxy, caplog, capfd, fault):
    """
    Reports with the variables of all frames are common (rich, pytest, Sentry); those of the SDKs hold what they sent.
    """
    caplog.set_level(logging.INFO)
    values = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
    info = s3_place.open().put("k", b"data")
    location = s3_place.location._replace(endpoint_url=s3_proxy.url)
    bucket = open_bucket(location, Values(values), policy=IMPATIENT)
    s3_proxy.rules.append(Rule(**fault))

    for ask in (
        lambda: list(bucket.stream("k", 0, info.tag)),
        lambda: bucket.put("k", b"data"),
        lambda: bucket.head("k"),
    ):
        with pytest.raises(errors.Error) as caught:
            ask()
        assert_unseen(caught.value, values.values())

    shown = (
        caplog.text
        + repr(bucket)
        + repr(vars(bucket))
        + repr(credentials.of(location, values))
        + "".join(capfd.readouterr())
    )
    for value in values.values():
        assert value not in shown


def test_a_wrong_endpoint_is_an_error_without_values():
    values = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
    for url in ("http://", "https://[", "http://a b", "http://127.0.0.1:99999"):
        with pytest.raises(errors.Error, match="my-data") as caught:
            open_bucket(S3._replace(endpoint_url=url), Values(values), policy=QUICK).head("k")
        assert_unseen(caught.value, values.values())


def test_plain_dicts_are_not_seen_either():
    """
    The frame that was given them holds them no longer when something fails.
    """
    with pytest.raises(errors.AccessDenied) as caught:
        open_bucket(S3, {"AWS_SECRET_ACCESS_KEY": SECRET})

    frames = list(traceback.walk_tb(caught.value.__traceback__))[1:]
    assert len(frames) > 1
    assert all(SECRET not in repr(frame.f_locals) for frame, _ in frames)


def test_credentials_are_not_pickled():
    with pytest.raises(errors.SerializationError):
        pickle.dumps(credentials.of(S3, {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}))


# Opening.


def test_a_bucket_is_opened_once_for_equal_credentials(s3_place):
    """
    A client of an SDK has connections, and takes its time.
    """
    first = s3_place.open()

    assert s3_place.open() is first
    assert s3_place.open(region="eu-west-1") is not first
    other = open_bucket(s3_place.location, {**s3_place.values, "AWS_SECRET_ACCESS_KEY": "another-one"})
    assert other is not first
    forget_buckets()
    assert s3_place.open() is not first


def test_a_bucket_that_was_denied_is_opened_anew(s3_place, s3_proxy):
    """
    An SDK looks once for credentials; those of a machine's role may come a little later.
    """
    location = s3_place.location._replace(endpoint_url=s3_proxy.url)
    bucket = open_bucket(location, Values(), policy=QUICK)
    assert open_bucket(location, Values(), policy=QUICK) is bucket

    with pytest.raises(errors.AccessDenied):
        bucket.head("k")

    assert open_bucket(location, Values(), policy=QUICK) is not bucket
    given = s3_place.open(proxy=s3_proxy)
    s3_proxy.rules.append(Rule(status=403, body=b"<Error><Code>AccessDenied</Code></Error>"))
    with pytest.raises(errors.AccessDenied):
        given.head("not-for-me")
    assert s3_place.open(proxy=s3_proxy) is given


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_child_process_has_connections_of_its_own(s3_place):
    import multiprocessing

    parent = s3_place.open()
    parent.put("k", b"data")
    queue = multiprocessing.get_context("fork").SimpleQueue()

    def child():
        bucket = s3_place.open()
        queue.put((bucket is parent, bucket.head("k").size_bytes))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)

    assert queue.get() == (False, 4)


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        (Location(cast("Any", "ftp"), "b"), "provider of a bucket is 'ftp', expected 's3', 'gcs' or 'azure'"),
        (Location("s3", ""), "name of a bucket is ''"),
        (Location("s3", "s3://b"), "name of a bucket is 's3://b', expected one such as 'my-data', without a URL"),
        (Location("s3", "b/prefix"), "name of a bucket is 'b/prefix'"),
        (Location("s3", "b\n"), r"name of a bucket is 'b\n'"),
        (Location("s3", "b", endpoint_url="host:9000"), "is 'host:9000', expected a URL such as"),
    ],
)
def test_what_is_no_bucket_is_an_error_that_says_what_is(location, fault):
    with pytest.raises(errors.InvalidError) as caught:
        open_bucket(location, {})

    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "module", "fault"),
    [
        ("s3", "boto3", "takes boto3, which is not installed: pip install 'pgstore[s3]'"),
        ("gcs", "google.cloud.storage", "pip install 'pgstore[gcs]'"),
        ("azure", "azure.storage.blob", "pip install 'pgstore[azure]'"),
    ],
)
def test_a_missing_sdk_is_an_error_that_names_the_extra(provider, module, fault):
    """
    And pgstore by itself needs none of them.
    """
    program = f"""
        import sys
        sys.modules[{module!r}] = None  # as if it were not installed
        from pgstore import errors
        from pgstore.buckets.location import Location
        from pgstore.buckets.opening import open_bucket
        assert not [name for name in sys.modules if name.startswith(("boto", "google.cloud", "azure."))
                    and sys.modules[name] is not None]
        try:
            open_bucket(Location({provider!r}, "b", account="a"), {{}})
        except errors.ConfigurationError as exc:
            print(exc)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )

    assert fault in done.stdout, done.stderr
