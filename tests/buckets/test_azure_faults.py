"""Azure that misbehaves, faults injected between the SDK and the emulator; and what only its provider has."""

from __future__ import annotations

import errno
import gc
import time
from datetime import UTC, datetime, timedelta

import pytest

from pgstore import errors
from pgstore.buckets.opening import forget_buckets
from pgstore.buckets.retries import RetryPolicy
from tests.fixtures.buckets import PLACES
from tests.fixtures.emulators import AZURE_ACCOUNT, AZURE_KEY, azure_connection_string
from tests.fixtures.fault_proxy import Rule, fault_proxy

DATA = bytes(range(256)) * (9 << 12)  # 9 MiB: three ranges, as Azure has checksums of 4 MiB at most
ONE_READ = RetryPolicy(attempts=2, connect_seconds=1, read_seconds=0.3, pause_seconds=0.01)


# The SDK drops an answer that it asks for again without closing its connection, which is closed when the garbage is collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def no_garbage():
    yield
    forget_buckets()
    gc.collect()


@pytest.fixture
def place(request):
    return PLACES["azure"](request)


@pytest.fixture
def proxy(azurite):
    with fault_proxy(azurite.url) as proxy:
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


# Reading.


def test_a_body_that_ends_early_is_read_again(place, bucket, proxy, fault):
    info = place.open().put("k", DATA[: 1 << 20])
    fault("GET", "/k", times=1, truncate=300_000)

    assert read(bucket, info) == DATA[: 1 << 20]

    assert len(proxy.asked("GET")) == 2


def test_all_ranges_are_of_one_state(place, bucket, proxy):
    """
    What is asked for ahead is of the object that was opened, too, or is nothing.
    """
    info = place.open().put("k", DATA)

    assert read(bucket, info) == DATA
    assert len(proxy.asked("GET")) == 3
    assert {asked.headers["If-Match"] for asked in proxy.asked("GET")} == {f'"{info.tag}"'}

    pieces = bucket.stream("k", 0, info.tag)
    next(pieces)
    place.open().put("k", DATA[::-1])
    with pytest.raises(errors.StaleFile):
        for _ in pieces:
            pass


def test_a_stream_that_is_left_asks_for_no_more(place, bucket, proxy):
    info = place.open().put("k", DATA)
    pieces = bucket.stream("k", 0, info.tag)
    for _ in range(4):
        next(pieces)
    assert len(proxy.asked("GET")) == 1  # nothing ahead before the first is used up

    pieces.close()

    assert bucket.head("k") == info
    assert len(proxy.asked("GET")) == 1


@pytest.mark.parametrize("times", [1, None])
def test_a_turned_bit_is_found_in_any_range(place, bucket, fault, times):
    """
    The SDK compares only where it is told to. Once it is read again; again and again it is an error.
    """
    info = place.open().put("k", DATA[:100_000])
    fault("GET", "/k", times=times, corrupt=True)
    buffer = bytearray(1000)

    if times == 1:
        bucket.read_into("k", memoryview(buffer), 500, info.tag)
        assert buffer == DATA[500:1500]
    else:
        with pytest.raises(errors.FileFailed, match="MD5"):
            bucket.read_into("k", memoryview(buffer), 500, info.tag)


def test_a_body_that_never_comes_is_an_error_in_time(place, proxy, fault):
    info = place.open().put("k", DATA[:100_000])
    bucket = place.open(proxy=proxy, policy=ONE_READ)
    fault("GET", "/k", stall=0)
    began = time.monotonic()

    with pytest.raises(errors.TimedOut, match=f"{place.location.shown}.*does not answer"):
        read(bucket, info)

    assert time.monotonic() - began < 5


# Answers that pass, and such as do not.


@pytest.mark.parametrize("injected", [{"status": 503}, {"status": 500}, {"reset": True}])
def test_what_passes_is_asked_again(bucket, proxy, fault, injected):
    info = bucket.put("k", DATA[:1000])
    for method, path, ask in (
        ("GET", "/k", lambda: read(bucket, info) == DATA[:1000]),
        ("HEAD", "/k", lambda: bucket.head("k") == info),
        ("GET", "comp=list", lambda: [len(page.objects) for page in bucket.list()] == [1]),
        ("PUT", "/k2", lambda: bucket.put("k2", b"x").size_bytes == 1),
        ("PUT", "/k3", lambda: bucket.copy("k", "k3").size_bytes == 1000),
        ("DELETE", "/k3", lambda: bucket.delete(["k3"]) is None),
        ("POST", "comp=batch", lambda: bucket.delete(["k2", "k3"]) is None),
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


def test_a_container_that_is_missing_is_named(place):
    bucket = place.open(name="no-such-container")

    for ask in (
        lambda: bucket.head("k"),
        lambda: next(bucket.list()),
        lambda: bucket.put("k", b"y"),
        lambda: bucket.delete(["k"]),
        lambda: bucket.copy("k", "k2"),
        lambda: bucket.begin_upload("k").complete(),
    ):
        with pytest.raises(errors.NotFoundError, match=f"az://{AZURE_ACCOUNT}/no-such-container"):
            ask()


# Writing.


@pytest.mark.parametrize("lost", [{"status": 500}, {"reset": True}])
def test_a_create_whose_answer_was_lost_knows_itself_again(bucket, proxy, fault, lost):
    fault("PUT", "/k", times=1, after_apply=True, **lost)

    info = bucket.put("k", DATA[:1000], if_missing=True)

    assert info == bucket.head("k")
    assert [asked.status for asked in proxy.asked("PUT")][1:] == [409]
    fault("PUT", "/k", times=1, status=503)
    with pytest.raises(errors.FileExists):
        bucket.put("k", b"another", if_missing=True)


@pytest.mark.parametrize("lost", [{"status": 500}, {"reset": True}])
@pytest.mark.parametrize("if_missing", [False, True])
def test_an_upload_whose_last_answer_was_lost_is_done(bucket, proxy, fault, lost, if_missing):
    upload = bucket.begin_upload("k", if_missing=if_missing)
    upload.put_part(1, DATA[:1000])
    fault("PUT", "comp=blocklist", times=1, after_apply=True, **lost)

    info = upload.complete()

    assert info == bucket.head("k")
    assert len(proxy.asked("PUT")) == 2
    assert read(bucket, info) == DATA[:1000]


@pytest.mark.parametrize("lost", [{"status": 500}, {"reset": True}])
def test_a_copy_whose_answer_was_lost_knows_itself_again(bucket, fault, lost):
    bucket.put("source", DATA[:1000])
    fault("PUT", "/target", times=1, after_apply=True, **lost)

    info = bucket.copy("source", "target", if_missing=True)

    assert info == bucket.head("target")
    with pytest.raises(errors.FileExists):
        bucket.copy("source", "target", if_missing=True)


def test_of_two_uploads_that_overlap_the_second_fails(bucket):
    """
    Azure drops all parts of a name at each commit. That must not pass for an object that was put.
    """
    first, second, third = (bucket.begin_upload("k", if_missing=each) for each in (False, False, True))
    for upload in (first, second, third):
        upload.put_part(1, DATA[:100])
    info = first.complete()

    with pytest.raises(errors.StaleFile, match="put it again"):
        second.complete()
    with pytest.raises(errors.FileExists):
        third.complete()

    assert bucket.head("k") == info


def test_bytes_that_arrive_damaged_are_not_put(place, azurite):
    """
    Azure compares them with the checksum that comes with them.
    """
    from azure.core.exceptions import HttpResponseError

    from tests.fixtures.buckets import azure_client

    seen = []

    def damaged(request):
        seen.append(request.http_request.headers["Content-MD5"])
        request.http_request.headers["Content-MD5"] = "AAAAAAAAAAAAAAAAAAAAAA=="

    with azure_client(azurite.url, place.location.name) as client:
        blob = client.get_blob_client("k")
        with pytest.raises(HttpResponseError) as caught:
            blob.upload_blob(b"data", validate_content=True, raw_request_hook=damaged)
    assert (len(seen), getattr(caught.value, "error_code", None)) == (1, "Md5Mismatch")
    assert place.open().head("k") is None


def test_what_is_put_comes_with_its_checksum(bucket, proxy):
    bucket.put("k", b"data")
    upload = bucket.begin_upload("k2")
    upload.put_part(1, b"data")

    assert {asked.headers.get("Content-MD5") for asked in proxy.asked("PUT")} == {"jXd/OF09/siBXSD3SWAm3A=="}


# Credentials.


def container_sas(place, **rights):
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    end = rights.pop("end", datetime.now(UTC) + timedelta(hours=1))
    return generate_container_sas(
        AZURE_ACCOUNT,
        place.location.name,
        account_key=AZURE_KEY,
        permission=ContainerSasPermissions(**rights),
        expiry=end,
    )


def test_a_shared_access_signature_lets_do_what_it_says(place):
    info = place.open().put("k", b"data")
    place.values = {"AZURE_STORAGE_SAS_TOKEN": "?" + container_sas(place, read=True, list=True)}
    bucket = place.open(secret="secret 'azure'")

    assert read(bucket, info) == b"data"
    assert [each.key for page in bucket.list() for each in page.objects] == ["k"]
    for ask in (lambda: bucket.put("k", b"x"), lambda: bucket.delete(["k"]), lambda: bucket.delete(["k", "k2"])):
        with pytest.raises(errors.AccessDenied, match="'azure'"):
            ask()
    assert bucket.head("k") == info


def test_a_shared_access_signature_that_may_write_does_all(place):
    rights = dict.fromkeys(("read", "list", "write", "create", "delete", "add"), True)
    place.values = {"AZURE_STORAGE_SAS_TOKEN": container_sas(place, **rights)}
    bucket = place.open()

    bucket.put("k", b"data", if_missing=True)
    copied = bucket.copy("k", "k2")
    upload = bucket.begin_upload("k3")
    upload.put_part(1, b"data")
    upload.complete()

    assert read(bucket, copied) == b"data"
    bucket.delete(["k", "k2", "k3"])
    assert list(bucket.list()) == []


def test_a_signature_whose_time_is_over_says_so(place):
    ended = datetime.now(UTC) - timedelta(minutes=1)
    token = container_sas(place, read=True, end=ended)
    place.values = {"AZURE_STORAGE_SAS_TOKEN": token}

    with pytest.raises(errors.AccessDenied, match="secret 'azure'") as caught:
        place.open(secret="secret 'azure'").head("k")

    assert token.rpartition("sig=")[2] not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_connection_string_says_where_and_who(place, azurite, proxy):
    place.values = {"AZURE_STORAGE_CONNECTION_STRING": azure_connection_string(proxy.url)}

    info = place.open(endpoint_url=None).put("k", b"data")

    assert place.open(endpoint_url=None).head("k") == info
    assert len(proxy.log) == 2


@pytest.mark.parametrize("key", ["bm8ga2V5", "no base64!"])
def test_a_wrong_key_is_told_with_its_secret(place, key):
    place.values = {"AZURE_STORAGE_KEY": key}

    with pytest.raises(errors.AccessDenied, match=f"az://.*{place.location.name}.*secret 'azure'") as caught:
        place.open(secret="secret 'azure'").put("k", b"x")

    assert key not in str(caught.value)


def test_the_environment_is_looked_at_where_nothing_is_given(place, monkeypatch):
    place.values = {}
    monkeypatch.setenv("AZURE_STORAGE_KEY", AZURE_KEY)

    assert place.open().put("k", b"data").size_bytes == 4


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

    with pytest.raises(errors.FileFailed, match="has no (known form|ETag); check that the endpoint") as caught:
        use(bucket)

    assert caught.value.errno == errno.EPROTO
