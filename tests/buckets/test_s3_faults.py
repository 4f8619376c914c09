"""S3 that misbehaves: faults injected between boto3 and the emulator, where a rule says."""

from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgstore import errors
from pgstore.buckets.retries import RetryPolicy
from tests.fixtures.fault_proxy import Rule

DATA = bytes(range(256)) * (3 << 12)  # 3 MiB
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
ONE_READ = RetryPolicy(attempts=2, connect_seconds=1, read_seconds=0.3, pause_seconds=0.01)


@pytest.fixture
def bucket(s3_place, s3_proxy):
    return s3_place.open(proxy=s3_proxy)


@pytest.fixture
def fault(s3_proxy):
    """From now on this happens, and the log begins anew."""

    def inject(*args, **kwargs):
        s3_proxy.rules[:] = [Rule(*args, **kwargs)]
        s3_proxy.log.clear()

    return inject


def read(bucket, info, offset=0):
    return b"".join(bytes(piece) for piece in bucket.stream(info.key, offset, info.tag))


# Reading.


@pytest.mark.parametrize("cut", ["truncate", "stall"])
def test_a_body_that_ends_early_is_resumed_where_it_ended(s3_place, s3_proxy, fault, cut):
    """
    boto3 reports it, and leaves the rest to the caller.
    """
    bucket = s3_place.open(proxy=s3_proxy, policy=ONE_READ)
    info = bucket.put("k", DATA)
    fault("GET", "/k", times=2, **{cut: 1_100_000})

    assert read(bucket, info) == DATA

    ranges = [asked.headers.get("Range") for asked in s3_proxy.asked("GET")]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 1_100_000
    assert {asked.headers["If-Match"] for asked in s3_proxy.asked("GET")} == {f'"{info.tag}"'}


def test_a_range_that_ends_early_is_resumed(bucket, s3_proxy, fault):
    info = bucket.put("k", DATA)
    fault("GET", "/k", times=1, truncate=1_500_000)
    buffer = bytearray(2_000_000)

    bucket.read_into("k", memoryview(buffer), 500_000, info.tag)

    assert buffer == DATA[500_000:2_500_000]
    assert [asked.status for asked in s3_proxy.asked("GET")] == [206, 206]


def test_a_body_that_never_comes_is_an_error_in_time(s3_place, s3_proxy, fault):
    bucket = s3_place.open(proxy=s3_proxy, policy=ONE_READ)
    info = bucket.put("k", DATA)
    fault("GET", "/k", stall=0)
    began = time.monotonic()

    with pytest.raises(errors.TimedOut, match=f"{s3_place.location.shown}.*does not answer"):
        read(bucket, info)

    assert time.monotonic() - began < 5
    assert len(s3_proxy.asked("GET")) == 2


def test_a_body_that_is_always_cut_is_an_error(bucket, s3_proxy, fault):
    info = bucket.put("k", DATA)
    fault("GET", "/k", truncate=0)

    with pytest.raises(errors.StoreUnavailable) as caught:
        read(bucket, info)

    assert not isinstance(caught.value, errors.OutcomeUnknown)
    assert len(s3_proxy.asked("GET")) == 4


def test_an_object_replaced_while_a_body_is_resumed_is_stale(bucket, s3_place, s3_proxy, fault):
    """
    The rest of another state would be glued to the beginning of this one.
    """
    info = bucket.put("k", DATA)
    fault("GET", "/k", times=1, truncate=1_100_000)
    pieces = bucket.stream("k", 0, info.tag)
    next(pieces)
    s3_place.open().put("k", DATA[::-1])

    with pytest.raises(errors.StaleFile):
        list(pieces)


@pytest.mark.parametrize("in_parts", [False, True], ids=["put", "upload"])
@pytest.mark.parametrize("resumed", [False, True], ids=["whole", "resumed"])
def test_a_turned_bit_is_found_when_the_whole_is_read(bucket, s3_proxy, fault, in_parts, resumed):
    """
    boto3 compares a body that came whole with the checksum of its object, and no other.
    """
    if in_parts:
        upload = bucket.begin_upload("k")
        upload.put_part(1, DATA[:2_000_000])
        upload.put_part(2, DATA[2_000_000:])
        info = upload.complete()
    else:
        info = bucket.put("k", DATA)
    fault("GET", "/k", times=1, corrupt=True, truncate=1_100_000 if resumed else None)

    with pytest.raises(errors.FileFailed, match="did not arrive as it was put: its CRC32 is .* the provider has"):
        read(bucket, info)

    assert len(s3_proxy.asked("GET")) == (2 if resumed else 1)
    assert read(bucket, info) == DATA


@pytest.mark.parametrize("fault_of", [{"status": 503, "body": SLOW_DOWN}, {"status": 500}, {"reset": True}])
def test_a_request_that_fails_is_repeated(bucket, s3_proxy, fault, fault_of):
    info = bucket.put("k", b"data")
    fault(path="/k", times=1, **fault_of)

    assert read(bucket, info) == b"data"
    assert len(s3_proxy.asked("GET")) == 2


def test_readers_that_are_throttled_all_get_through(bucket, s3_proxy, fault):
    """
    S3 answers 503 to those that ask too often, and expects them to wait.
    """
    infos = [bucket.put(f"k{number}", b"data") for number in range(24)]
    fault("GET", every=4, status=503, body=SLOW_DOWN)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda info: read(bucket, info), infos))

    assert found == [b"data"] * 24
    assert len(s3_proxy.asked("GET", 503)) >= 6


def test_throttling_for_ever_is_an_error_that_says_so(s3_place, s3_proxy, fault):
    bucket = s3_place.open(proxy=s3_proxy, policy=ONE_READ)
    fault("GET", status=503, body=SLOW_DOWN)

    with pytest.raises(errors.StoreUnavailable, match=f"{s3_place.location.shown}.*not available.*SlowDown"):
        list(bucket.list())

    assert len(s3_proxy.asked("GET")) == 2


def test_a_server_that_is_not_there_is_an_error(s3_place):
    bucket = s3_place.open(endpoint_url="http://127.0.0.1:9")

    with pytest.raises(errors.StoreUnavailable, match=r"not available.*127\.0\.0\.1:9") as caught:
        bucket.put("k", b"")

    assert not isinstance(caught.value, errors.OutcomeUnknown)


def test_a_server_without_tls_is_not_taken_for_missing_credentials(s3_place):
    """
    The SDK's error of TLS is an OSError, as that of an unreadable file of credentials.
    """
    bucket = s3_place.open(endpoint_url=s3_place.location.endpoint_url.replace("http:", "https:"))

    with pytest.raises(errors.StoreUnavailable, match=r"not available.*SSL"):
        list(bucket.list())


@pytest.mark.parametrize(
    ("method", "use", "lacking"),
    [
        ("GET", lambda bucket: list(bucket.list()), "IsTruncated"),
        ("HEAD", lambda bucket: bucket.head("k"), "ETag"),
        ("PUT", lambda bucket: bucket.put("k", b"data"), "ETag"),
        ("POST", lambda bucket: bucket.begin_upload("k"), "UploadId"),
    ],
    ids=["list", "head", "put", "upload"],
)
def test_an_endpoint_that_says_yes_to_everything_is_not_taken_for_an_empty_bucket(bucket, fault, method, use, lacking):
    """
    Of a page of a router or a proxy the SDK makes an answer without contents.
    """
    fault(method, status=200, body=b"<html>Please log in</html>", headers={"Content-Type": "text/html"})

    with pytest.raises(errors.FileFailed, match=f"has no {lacking}; check that the endpoint") as caught:
        use(bucket)

    assert caught.value.errno == errno.EPROTO


# Writing.


@pytest.mark.parametrize("fault_of", [{"status": 500}, {"reset": True}], ids=["answered 500", "reset"])
def test_a_create_whose_answer_was_lost_is_known_as_its_own(bucket, s3_place, s3_proxy, fault, fault_of):
    """
    The SDK repeats it, and finds the object that it has made itself.
    """
    fault("PUT", "/k", times=1, after_apply=True, **fault_of)

    info = bucket.put("k", b"mine", if_missing=True)

    assert [asked.status for asked in s3_proxy.asked("PUT")][-1] == 412
    assert info == s3_place.open().head("k")
    with pytest.raises(errors.FileExists):
        bucket.put("k", b"again", if_missing=True)


@pytest.mark.parametrize("fault_of", [{"status": 500}, {"reset": True}], ids=["answered 500", "reset"])
def test_an_upload_whose_end_was_not_answered_is_complete(bucket, s3_place, s3_proxy, fault, fault_of):
    """
    The repetition finds no upload any more.
    """
    upload = bucket.begin_upload("k", if_missing=True)
    upload.put_part(1, b"mine")
    fault("POST", "uploadId", times=1, after_apply=True, **fault_of)

    info = upload.complete()

    assert len(s3_proxy.asked("POST")) == 2
    assert info == s3_place.open().head("k")
    assert read(bucket, info) == b"mine"


def test_a_copy_whose_answer_was_lost_is_known_as_its_own(bucket, s3_place, s3_proxy, fault):
    bucket.put("source", b"data")
    fault("PUT", "/target", times=1, after_apply=True, status=500)

    info = bucket.copy("source", "target", if_missing=True)

    assert len(s3_proxy.asked("PUT")) == 2
    assert info == s3_place.open().head("target")


def test_a_put_that_is_never_answered_may_have_happened(s3_place, s3_proxy, fault):
    bucket = s3_place.open(proxy=s3_proxy, policy=ONE_READ)
    fault("PUT", "/k", after_apply=True, reset=True)

    with pytest.raises(errors.OutcomeUnknown, match="may have been done"):
        bucket.put("k", b"data")

    assert s3_place.open().head("k") is not None


def test_a_create_that_is_never_answered_is_looked_for(s3_place, s3_proxy, fault):
    bucket = s3_place.open(proxy=s3_proxy, policy=ONE_READ)
    fault("PUT", "/k", after_apply=True, status=500)
    assert bucket.put("k", b"data", if_missing=True) == s3_place.open().head("k")

    upload = bucket.begin_upload("big", if_missing=True)
    upload.put_part(1, b"data")
    fault("POST", "uploadId", status=500, after_apply=True)
    assert upload.complete() == s3_place.open().head("big")

    for method in ("PUT", None):  # the service fails for this request, and for all
        fault(method, "/none", status=500)
        with pytest.raises(errors.OutcomeUnknown):
            bucket.put("none", b"data", if_missing=True)


def test_a_create_that_meets_another_waits_for_the_outcome(bucket, s3_proxy, fault):
    """
    S3 answers 409 while another object of this key is being put.
    """
    body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    fault("PUT", "/k", times=2, status=409, body=body)

    assert bucket.put("k", b"data", if_missing=True).size_bytes == 4
    assert [asked.status for asked in s3_proxy.asked("PUT")] == [409, 409, 200]
    fault("PUT", "/other", status=409, body=body)
    with pytest.raises(errors.FileFailed, match="being changed by others"):
        bucket.put("other", b"data", if_missing=True)


# Refusals.


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDenied", "does not let the credentials, those of secret 'aws', do this"),
        ("InvalidAccessKeyId", "does not accept the credentials, those of secret 'aws'"),
        ("SignatureDoesNotMatch", "does not accept the credentials, those of secret 'aws'"),
        ("ExpiredToken", "that the credentials, those of secret 'aws', have expired: renew them"),
    ],
)
def test_a_refusal_names_secret_bucket_and_provider_once_and_no_value(s3_place, s3_proxy, fault, code, sentence):
    """
    It is not tried again: nothing would be different.
    """
    bucket = s3_place.open(proxy=s3_proxy, secret="secret 'aws'")
    key = s3_place.values["AWS_ACCESS_KEY_ID"]
    body = f"<Error><Code>{code}</Code><Message>No: {key}</Message><AWSAccessKeyId>{key}</AWSAccessKeyId></Error>"
    fault(status=403, body=body.encode())

    with pytest.raises(errors.AccessDenied) as caught:
        list(bucket.list())

    assert sentence in str(caught.value)
    assert s3_place.location.shown in str(caught.value)
    assert "S3" in str(caught.value)
    assert key not in str(caught.value)
    assert len(s3_proxy.log) == 1
    with pytest.raises(PermissionError):
        bucket.put("k", b"")
    with pytest.raises(errors.AccessDenied) as caught:
        bucket.head("k")  # whose answers have no body, and so no reason
    assert sentence in str(caught.value)


def test_expired_credentials_are_said_of_an_object_too(bucket, s3_proxy):
    """
    S3 answers them with 400, and HEAD says nothing more.
    """
    s3_proxy.rules.append(Rule(status=400, body=b"<Error><Code>ExpiredToken</Code><Message>no</Message></Error>"))

    with pytest.raises(errors.AccessDenied, match="have expired"):
        bucket.head("k")

    assert [asked.path.rpartition("/")[2] for asked in s3_proxy.asked("GET")] == ["k"]


def test_an_archived_object_is_an_error_that_says_so(bucket, fault):
    """
    Its status is that of a refusal of the credentials.
    """
    info = bucket.put("k", b"data")
    fault("GET", status=403, body=b"<Error><Code>InvalidObjectState</Code><Message>no</Message></Error>")

    with pytest.raises(errors.FileFailed, match="archived, and has to be restored"):
        read(bucket, info)


def test_parts_of_a_deletion_that_fail_are_an_error(bucket, fault):
    body = b"<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    fault("POST", "delete", status=200, body=body)

    with pytest.raises(errors.AccessDenied, match="1 of them were not deleted"):
        bucket.delete(["a", "b"])
