"""Cloud Storage that misbehaves, faults injected between the SDK and the emulator; and what only its provider has."""

from __future__ import annotations

import errno
import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgstore import errors
from pgstore.buckets.base import ObjectInfo
from pgstore.buckets.retries import RetryPolicy
from tests.fixtures.buckets import PLACES
from tests.fixtures.fault_proxy import Rule, fault_proxy

DATA = bytes(range(256)) * (3 << 12)  # 3 MiB
ONE_READ = RetryPolicy(attempts=2, connect_seconds=1, read_seconds=0.3, pause_seconds=0.01)
UNIT = 256 << 10


@pytest.fixture
def place(request):
    return PLACES["gcs"](request)


@pytest.fixture
def proxy(gcs_server):
    with fault_proxy(gcs_server.url) as proxy:
        yield proxy


@pytest.fixture
def bucket(place, proxy):
    return place.open(proxy=proxy)


@pytest.fixture
def fault(proxy):
    """From now on this happens, and the log begins anew."""

    def inject(*args, **kwargs):
        proxy.rules[:] = [Rule(*args, **kwargs)]
        proxy.log.clear()

    return inject


def read(bucket, info, offset=0):
    return b"".join(bytes(piece) for piece in bucket.stream(info.key, offset, info.tag))


def put(place, data, key="k"):
    """Without faults, and in chunks: the emulator takes long to find the end of the parts of one request."""
    upload = place.open().begin_upload(key)
    upload.put_part(1, data)
    return upload.complete()


# Reading.


@pytest.mark.parametrize("cut", ["truncate", "stall"])
def test_a_body_that_ends_early_is_resumed_where_it_ended(place, proxy, fault, cut):
    bucket = place.open(proxy=proxy, policy=ONE_READ)
    info = put(place, DATA)
    fault("GET", "/o/k", times=2, **{cut: 1_100_000})

    assert read(bucket, info) == DATA

    ranges = [asked.headers.get("Range") for asked in proxy.asked("GET")]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert 1 << 20 <= int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 1_100_000
    assert all(f"ifGenerationMatch={info.tag}" in asked.path for asked in proxy.asked("GET"))


def test_a_range_that_ends_early_is_resumed(place, bucket, proxy, fault):
    info = put(place, DATA)
    fault("GET", "/o/k", times=1, truncate=1_500_000)
    buffer = bytearray(2_000_000)

    bucket.read_into("k", memoryview(buffer), 500_000, info.tag)

    assert buffer == DATA[500_000:2_500_000]
    assert [asked.status for asked in proxy.asked("GET")] == [206, 206]


def test_a_body_is_not_resumed_with_the_bytes_of_another_object(place, bucket, fault):
    info = put(place, DATA)
    fault("GET", "/o/k", times=1, truncate=2_100_000)
    pieces = bucket.stream("k", 0, info.tag)
    got = bytes(next(pieces))
    put(place, DATA[::-1])

    with pytest.raises(errors.StaleFile):
        for piece in pieces:
            got += bytes(piece)

    assert got == DATA[: len(got)]


def test_a_body_that_never_comes_is_an_error_in_time(place, proxy, fault):
    bucket = place.open(proxy=proxy, policy=ONE_READ)
    info = put(place, DATA)
    fault("GET", "/o/k", stall=0)
    began = time.monotonic()

    with pytest.raises(errors.TimedOut, match=f"{place.location.shown}.*does not answer"):
        read(bucket, info)

    assert time.monotonic() - began < 5
    assert len(proxy.asked("GET")) == 2


def test_a_turned_bit_is_found_by_who_reads_all(place, bucket, fault):
    info = put(place, DATA)
    fault("GET", "/o/k", corrupt=True)

    with pytest.raises(errors.FileFailed, match="CRC-32C"):
        read(bucket, info)


# Answers that pass.


@pytest.mark.parametrize("injected", [{"status": 503}, {"status": 429}, {"reset": True}])
def test_what_passes_is_asked_again(bucket, proxy, fault, injected):
    info = bucket.put("k", DATA[:1000])
    for method, path, ask in (
        ("GET", "/o/k", lambda: read(bucket, info) == DATA[:1000]),
        ("GET", "/o/k", lambda: bucket.head("k") == info),
        ("GET", "/o?", lambda: [len(page.objects) for page in bucket.list()] == [1]),
        ("POST", "/upload", lambda: bucket.put("k2", b"x").size_bytes == 1),
        ("POST", "rewriteTo", lambda: bucket.copy("k", "k3").size_bytes == 1000),
        ("DELETE", "/o/k3", lambda: bucket.delete(["k3"]) is None),
    ):
        fault(method, path, times=2, **injected)
        assert ask()
        assert len([asked for asked in proxy.asked(method) if path in asked.path]) == 3


def test_what_does_not_pass_is_an_error_after_some_attempts(place, bucket, proxy, fault):
    info = bucket.put("k", b"x")
    fault(status=503)

    with pytest.raises(errors.StoreUnavailable, match=place.location.shown) as caught:
        read(bucket, info)
    assert not isinstance(caught.value, errors.OutcomeUnknown)
    assert len(proxy.log) == 4
    with pytest.raises(errors.OutcomeUnknown):
        bucket.put("k", b"y")


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_forbidden_is_asked_once(place, bucket, proxy, fault, status):
    info = bucket.put("k", b"x")
    fault(status=status)

    for ask in (
        lambda: bucket.head("k"),
        lambda: read(bucket, info),
        lambda: next(bucket.list()),
        lambda: bucket.put("k", b"y"),
        lambda: bucket.delete(["k"]),
        lambda: bucket.begin_upload("k").complete(),
    ):
        proxy.log.clear()
        with pytest.raises(errors.AccessDenied, match=place.location.shown):
            ask()
        assert len(proxy.log) == 1


def test_a_bucket_that_is_missing_is_named(place):
    bucket = place.open(name="no-such-bucket")

    for ask in (
        lambda: bucket.head("k"),
        lambda: next(bucket.list()),
        lambda: bucket.put("k", b"y"),
        lambda: bucket.delete(["k"]),
        lambda: bucket.copy("k", "k2"),
        lambda: bucket.begin_upload("k").complete(),
    ):
        with pytest.raises(errors.NotFoundError, match="gs://no-such-bucket"):
            ask()


# Writing.


@pytest.mark.parametrize("lost", [{"status": 500}, {"reset": True}])
def test_a_create_whose_answer_was_lost_knows_itself_again(bucket, proxy, fault, lost):
    fault("POST", "/upload", times=1, after_apply=True, **lost)

    info = bucket.put("k", DATA[:1000], if_missing=True)

    assert info == bucket.head("k")
    assert [asked.status for asked in proxy.asked("POST")][1:] == [412]
    fault("POST", "/upload", times=1, status=503)
    with pytest.raises(errors.FileExists):
        bucket.put("k", b"another", if_missing=True)


@pytest.mark.parametrize("lost", [{"status": 500}, {"reset": True}])
def test_a_copy_whose_answer_was_lost_knows_itself_again(bucket, fault, lost):
    bucket.put("source", DATA[:1000])
    fault("POST", "rewriteTo", times=1, after_apply=True, **lost)

    info = bucket.copy("source", "target", if_missing=True)

    assert info == bucket.head("target")
    with pytest.raises(errors.FileExists):
        bucket.copy("source", "target", if_missing=True)


def test_a_large_copy_is_made_in_steps(place, bucket, proxy):
    put(place, DATA, "source")
    proxy.log.clear()

    info = bucket.copy("source", "target")

    assert len(proxy.asked("POST")) == 3
    assert read(bucket, info) == DATA


@pytest.mark.parametrize("lost", [{"status": 503}, {"reset": True}, {"status": 503, "after_apply": True}])
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_chunk_goes_on_from_what_arrived(bucket, proxy, fault, chunk, lost):
    """
    The provider says what it has; nothing of it is sent again, and nothing of the rest is left out.
    """
    upload = bucket.begin_upload("k")
    upload.put_part(1, DATA[:UNIT])  # kept: the last request is to have some
    fault("PUT", "upload_id", times=chunk, **lost)

    upload.put_part(2, DATA[UNIT : 3 * UNIT + 5])
    upload.put_part(3, DATA[3 * UNIT + 5 :])
    info = upload.complete()

    assert read(bucket, info) == DATA
    arrived = [asked for asked in proxy.asked("PUT") if asked.status in (200, 308) or lost.get("after_apply")]
    sent = [int(asked.headers["Content-Length"]) for asked in arrived]
    assert sum(sent) == len(DATA)


@pytest.mark.parametrize("lost", [{"status": 500}, {"reset": True}])
@pytest.mark.parametrize("if_missing", [False, True])
def test_an_upload_whose_last_answer_was_lost_is_done(bucket, proxy, fault, lost, if_missing):
    upload = bucket.begin_upload("k", if_missing=if_missing)
    upload.put_part(1, DATA[:1000])
    fault("PUT", "upload_id", times=1, after_apply=True, **lost)

    info = upload.complete()

    assert info == bucket.head("k")
    assert [asked.status for asked in proxy.asked("PUT")][1:] == [200]
    assert read(bucket, info) == DATA[:1000]


def test_the_last_request_of_an_upload_has_the_checksum_of_all(place, bucket, proxy):
    upload = bucket.begin_upload("k")
    for number in range(4):
        upload.put_part(number + 1, DATA[number * 3 * UNIT : (number + 1) * 3 * UNIT])
    upload.complete()

    *before, last = proxy.asked("PUT")
    given = {name.lower(): value for name, value in last.headers.items()}["x-goog-hash"]
    assert len(before) >= 3
    with urllib.request.urlopen(f"{place.location.endpoint_url}/storage/v1/b/{place.location.name}/o/k") as answer:
        assert given == f"crc32c={json.load(answer)['crc32c']}"


def test_an_aborted_upload_is_cancelled(bucket, proxy):
    upload = bucket.begin_upload("k")
    upload.put_part(1, DATA)

    upload.abort()

    [cancelled] = proxy.asked("DELETE")
    assert ("upload_id" in cancelled.path, cancelled.status) == (True, 499)
    assert bucket.head("k") is None


def test_parts_of_threads_are_sent_in_their_order(bucket, proxy):
    """
    The provider takes chunks one after the other; a part that comes early waits, and the memory for it is its thread's.
    """
    parts = [bytes([number]) * (UNIT + number) for number in range(16)]
    upload = bucket.begin_upload("k")
    begin = threading.Barrier(8)

    def put(thread):
        begin.wait()
        for number in range(thread, 16, 8):
            upload.put_part(number + 1, parts[number])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, reversed(range(8))))
    info = upload.complete()

    assert read(bucket, info) == b"".join(parts)
    starts = [int(asked.headers["Content-Range"].split()[1].split("-")[0]) for asked in proxy.asked("PUT")]
    assert starts == sorted(set(starts))


def test_an_upload_that_failed_stays_failed(bucket, fault):
    upload = bucket.begin_upload("k")
    fault("PUT", "upload_id", status=503)
    with pytest.raises(errors.OutcomeUnknown):
        upload.put_part(1, DATA)
    fault("PUT", "nothing")

    with pytest.raises(errors.OutcomeUnknown):
        upload.put_part(2, DATA)
    with pytest.raises(errors.OutcomeUnknown):
        upload.complete()
    upload.abort()

    assert bucket.head("k") is None


# Credentials.


@pytest.fixture(scope="module")
def key_file():
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "a-project",
        "private_key_id": "an-id-of-a-key",
        "private_key": private.decode(),
        "client_email": "someone@a-project.iam.gserviceaccount.com",
        "client_id": "1",
    }


def with_key(place, proxy, key_file, **changes):
    place.values["SERVICE_ACCOUNT_JSON"] = json.dumps({**key_file, "token_uri": f"{proxy.url}/token", **changes})
    return place.open(proxy=proxy, anonymous=False, secret="secret 'gcp-credentials'")


def test_a_key_of_a_service_account_signs_requests(place, proxy, key_file):
    token = json.dumps({"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"}).encode()
    proxy.rules.append(Rule("POST", "/token", status=200, body=token, headers={"Content-Type": "application/json"}))
    bucket = with_key(place, proxy, key_file)

    info = bucket.put("k", b"data")
    upload = bucket.begin_upload("k2")
    upload.put_part(1, b"data")
    upload.complete()

    assert read(bucket, info) == b"data"
    signed = [asked for asked in proxy.log if asked.path != "/token"]
    authorised = {asked.headers.get("authorization", asked.headers.get("Authorization")) for asked in signed}
    assert authorised == {"Bearer a-token"}
    assert len([asked for asked in proxy.log if asked.path == "/token"]) == 1


def test_a_requester_pays(place, proxy, key_file):
    token = json.dumps({"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"}).encode()
    proxy.rules.append(Rule("POST", "/token", status=200, body=token, headers={"Content-Type": "application/json"}))
    place.location = place.location._replace(requester_pays=True)
    bucket = with_key(place, proxy, key_file)

    info = bucket.put("k", b"data")
    read(bucket, info)
    upload = bucket.begin_upload("k2")
    upload.put_part(1, b"data")
    upload.complete()
    bucket.copy("k", "k3")
    list(bucket.list())
    bucket.delete(["k"])

    about = [asked.path for asked in proxy.log if "/o" in asked.path]
    assert len(about) >= 8
    assert all("userProject=a-project" in path for path in about)


def test_a_key_that_is_not_accepted_is_told_with_its_secret(place, proxy, key_file):
    refused = json.dumps({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}).encode()
    proxy.rules.append(Rule("POST", "/token", status=400, body=refused, headers={"Content-Type": "application/json"}))
    bucket = with_key(place, proxy, key_file)

    for ask in (
        lambda: bucket.head("k"),
        lambda: read(bucket, ObjectInfo("k", 1, "1", 0)),
        lambda: bucket.put("k", b"x"),
    ):
        with pytest.raises(errors.AccessDenied, match="'gcp-credentials'") as caught:
            ask()
        assert place.location.shown in str(caught.value)


@pytest.mark.parametrize("changes", [{"private_key": "no key"}, {"type": "external_account"}, {"client_email": None}])
def test_a_key_file_that_is_none_is_told_at_once(place, proxy, key_file, changes):
    with pytest.raises(errors.AccessDenied, match="'gcp-credentials'") as caught:
        with_key(place, proxy, key_file, **changes)

    assert key_file["private_key_id"] not in str(caught.value)
    assert proxy.log == []


@pytest.mark.parametrize(
    "use",
    [lambda bucket: list(bucket.list()), lambda bucket: bucket.head("k")],
    ids=["list", "head"],
)
def test_an_endpoint_that_says_yes_to_everything_is_an_error_that_says_so(bucket, fault, use):
    """
    As the page of a router or a proxy does.
    """
    fault(status=200, body=b"<html>Please log in</html>", headers={"Content-Type": "text/html"})

    with pytest.raises(errors.FileFailed, match="has no JSON; check that the endpoint") as caught:
        use(bucket)

    assert caught.value.errno == errno.EPROTO
