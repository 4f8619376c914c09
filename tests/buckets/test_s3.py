"""What is peculiar to S3, and to what has its interface."""

from __future__ import annotations

import errno
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgstore import errors
from pgstore.buckets.credentials import Credentials
from pgstore.buckets.location import Location
from pgstore.buckets.opening import forget_buckets, open_bucket
from pgstore.buckets.s3 import S3Bucket
from pgstore.buckets.writing import part_bytes
from tests.fixtures.buckets import POLICY, S3_VALUES
from tests.fixtures.fault_proxy import Rule


@pytest.fixture
def bucket(s3_place):
    return s3_place.open()


@pytest.fixture
def seen(s3_place, s3_proxy):
    """The bucket, and its requests so far."""
    return s3_place.open(proxy=s3_proxy), s3_proxy.log


def read(bucket, info, offset=0):
    return b"".join(bytes(piece) for piece in bucket.stream(info.key, offset, info.tag))


def uploads(s3, s3_place):
    return s3.list_multipart_uploads(Bucket=s3_place.location.name).get("Uploads", [])


def test_each_thing_takes_one_request(seen):
    """
    Requests are what S3 is paid by, and what takes the time.
    """
    bucket, log = seen
    info = bucket.put("k", b"data")
    bucket.head("k")
    read(bucket, info)
    bucket.read_into("k", memoryview(bytearray(2)), 1, info.tag)
    list(bucket.list())
    bucket.put("new", b"", if_missing=True)
    bucket.delete(["k"])

    assert [asked.method for asked in log] == ["PUT", "HEAD", "GET", "GET", "GET", "PUT", "DELETE"]


def test_puts_and_parts_have_a_checksum(seen):
    bucket, log = seen
    bucket.put("k", b"data")
    upload = bucket.begin_upload("big")
    upload.put_part(1, b"data")
    upload.complete()

    puts = [asked for asked in log if asked.method == "PUT"]
    assert [asked.headers.get("x-amz-checksum-crc32") for asked in puts] == ["rfPzYw=="] * 2  # of b"data"


def test_services_that_know_no_checksum_of_aws_get_md5(s3_place, s3_proxy, monkeypatch):
    """
    Those of AWS are refused by some of them: the SDK has a setting for it.
    """
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    bucket = s3_place.open(proxy=s3_proxy)
    info = bucket.put("k", b"data")
    upload = bucket.begin_upload("big")
    upload.put_part(1, b"data")
    upload.complete()

    assert read(bucket, info) == b"data"
    puts = [asked for asked in s3_proxy.log if asked.method == "PUT"]
    assert [asked.headers.get("Content-MD5") for asked in puts] == ["jXd/OF09/siBXSD3SWAm3A=="] * 2  # of b"data"
    assert not [asked for asked in puts if "x-amz-checksum-crc32" in asked.headers]


def test_a_batch_of_deletions_has_md5(seen):
    """
    Many services ask for it, and know nothing else.
    """
    bucket, log = seen
    bucket.put("a", b"")
    bucket.delete(["a", "b"])

    assert log[-1].method == "POST"
    assert log[-1].headers["Content-MD5"]
    assert bucket.head("a") is None


def test_keys_that_no_xml_can_name_are_deleted(s3, s3_place, bucket):
    keys = ["a\x01b", "plain", "tab\t"]
    for key in keys:
        bucket.put(key, b"x")

    bucket.delete(keys)

    assert "Contents" not in s3.list_objects_v2(Bucket=s3_place.location.name)


def test_a_body_is_read_as_it_is_stored(s3, s3_place, bucket):
    """
    Compressed ones are shorter than what they stand for; sizes are of what is stored.
    """
    packed = gzip.compress(b"data" * 100)
    s3.put_object(Bucket=s3_place.location.name, Key="k.gz", Body=packed, ContentEncoding="gzip")
    info = bucket.head("k.gz")

    assert info.size_bytes == len(packed)
    assert read(bucket, info) == packed
    assert read(bucket, info, 3) == packed[3:]


def test_a_service_without_ranges_is_refused(s3_place, s3_proxy):
    """
    Its answer to a part is the whole: the bytes of another place.
    """
    bucket = s3_place.open(proxy=s3_proxy)
    info = bucket.put("k", b"0123456789")
    s3_proxy.rules.append(Rule("GET", "/k", status=200, body=b"0123456789"))

    with pytest.raises(errors.FileFailed, match="asked for bytes=5-6, and sends the whole object"):
        bucket.read_into("k", memoryview(bytearray(2)), 5, info.tag)


@pytest.mark.parametrize("key", ["not-unicode-\udcff", ""])
def test_keys_that_the_sdk_does_not_take_are_errors_of_ours(bucket, key):
    with pytest.raises(errors.FileFailed) as caught:
        bucket.put(key, b"data")

    assert caught.value.errno == errno.EINVAL


def test_a_key_that_is_too_long_is_an_error_with_a_number(s3_place, s3_proxy):
    """
    S3 says so; moto takes it.
    """
    body = b"<Error><Code>KeyTooLongError</Code><Message>Your key is too long</Message></Error>"
    s3_proxy.rules.append(Rule("PUT", status=400, body=body))

    with pytest.raises(errors.FileFailed, match="Your key is too long") as caught:
        s3_place.open(proxy=s3_proxy).put("k" * 1025, b"data")

    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_bucket_that_is_not_there_is_an_error_everywhere(s3_place):
    bucket = s3_place.open(name="no-such-bucket")
    for ask in (
        lambda: bucket.head("k"),
        lambda: list(bucket.list()),
        lambda: bucket.put("k", b""),
        lambda: read(bucket, s3_place.open().put("k", b"")),
        lambda: bucket.begin_upload("k"),
        lambda: bucket.delete(["k"]),
        lambda: bucket.delete(["k", "l"]),
        lambda: bucket.copy("k", "l"),
    ):
        with pytest.raises(errors.NotFoundError, match="there is no bucket s3://no-such-bucket"):
            ask()


# Uploads.


def test_an_aborted_upload_leaves_no_parts_to_be_paid_for(s3, s3_place, bucket):
    upload = bucket.begin_upload("k")
    upload.put_part(1, b"data")
    assert len(uploads(s3, s3_place)) == 1

    upload.abort()

    assert uploads(s3, s3_place) == []


def test_of_many_uploads_that_create_it_one_wins(s3, s3_place, bucket):
    barrier = threading.Barrier(4)

    def create(number):
        upload = bucket.begin_upload("k", if_missing=True)
        upload.put_part(1, str(number).encode())
        barrier.wait()
        try:
            return upload.complete()
        except errors.FileExists:
            upload.abort()
            return None

    with ThreadPoolExecutor(4) as pool:
        won = [info for info in pool.map(create, range(4)) if info is not None]

    assert won == [bucket.head("k")]
    assert uploads(s3, s3_place) == []


# Copies.


@pytest.fixture
def in_parts(s3_place):
    """A bucket that copies as if the limit of copies in one request were 10,000 bytes and not 5 GiB."""
    return S3Bucket(s3_place.location, Credentials(S3_VALUES), POLICY, copy_bytes_max=10_000, copy_part_bytes=6_000)


@pytest.mark.parametrize("if_missing", [False, True])
@pytest.mark.parametrize("size", [10_000, 10_001, 12_000, 20_000])
def test_objects_above_the_limit_are_copied_in_parts(s3, s3_place, in_parts, size, if_missing):
    name = s3_place.location.name
    data = bytes(number % 251 for number in range(size))
    about = {"ContentType": "text/csv", "CacheControl": "no-store", "Metadata": {"mine": "yes"}}
    s3.put_object(Bucket=name, Key="source ü+%", Body=data, **about)

    info = in_parts.copy("source ü+%", "target", if_missing=if_missing)

    found = s3.head_object(Bucket=name, Key="target")
    assert read(in_parts, info) == data
    assert info == in_parts.head("target")
    assert info.tag.endswith("-4" if size == 20_000 else "-2") == (size > 10_000)
    assert {key: found[key] for key in ("ContentType", "CacheControl")} == {
        "ContentType": "text/csv",
        "CacheControl": "no-store",
    }
    assert found["Metadata"]["mine"] == "yes"
    assert uploads(s3, s3_place) == []


@pytest.mark.parametrize("if_missing", [False, True])
@pytest.mark.parametrize("size", [10, 20_000])
def test_copies_keep_the_storage_class(s3, s3_place, in_parts, size, if_missing):
    s3.put_object(Bucket=s3_place.location.name, Key="source", Body=bytes(size), StorageClass="STANDARD_IA")

    in_parts.copy("source", "target", if_missing=if_missing)

    assert s3.head_object(Bucket=s3_place.location.name, Key="target")["StorageClass"] == "STANDARD_IA"


def test_a_copy_in_parts_creates_only_what_is_missing(s3, s3_place, in_parts):
    in_parts.put("source", bytes(20_000))
    in_parts.put("target", b"theirs")

    with pytest.raises(errors.FileExists):
        in_parts.copy("source", "target", if_missing=True)

    assert read(in_parts, in_parts.head("target")) == b"theirs"
    assert uploads(s3, s3_place) == []


def test_a_copy_whose_source_changes_is_given_up(s3, s3_place, s3_proxy):
    """
    Its parts would be of two objects.
    """
    location = s3_place.location._replace(endpoint_url=s3_proxy.url)
    bucket = S3Bucket(location, Credentials(S3_VALUES), POLICY, copy_bytes_max=10_000, copy_part_bytes=6_000)
    bucket.put("source", bytes(20_000))
    changed = threading.Event()
    waits = Rule("POST", "uploads", until=changed)
    refuses = Rule("PUT", "partNumber=3", status=412, body=b"<Error><Code>PreconditionFailed</Code></Error>")
    s3_proxy.rules += waits, refuses

    with ThreadPoolExecutor(1) as pool:
        copied = pool.submit(bucket.copy, "source", "target")
        while not waits.seen:
            time.sleep(0.001)
        s3_place.open().put("source", b"another")
        changed.set()
        with pytest.raises(errors.StaleFile):
            copied.result(30)

    assert bucket.head("target") is None
    assert uploads(s3, s3_place) == []


def test_a_refusal_of_a_copy_in_parts_is_no_change_of_its_source(s3, s3_place, s3_proxy):
    """
    Ceph 16 does not find sources whose names have other characters than those of URLs.
    """
    location = s3_place.location._replace(endpoint_url=s3_proxy.url)
    bucket = S3Bucket(location, Credentials(S3_VALUES), POLICY, copy_bytes_max=10_000, copy_part_bytes=6_000)
    bucket.put("source", bytes(20_000))
    s3_proxy.rules.append(Rule("PUT", "partNumber=3", status=404, body=b"<Error><Code>NoSuchKey</Code></Error>"))

    with pytest.raises(errors.FileFailed, match="a copy in parts: 404 NoSuchKey"):
        bucket.copy("source", "target")

    assert uploads(s3, s3_place) == []


def test_an_upload_that_is_replaced_at_once_is_done_all_the_same(s3_place, s3_proxy):
    bucket = s3_place.open(proxy=s3_proxy)
    upload = bucket.begin_upload("k")
    upload.put_part(1, b"mine")
    replaced = threading.Event()
    waits = Rule("HEAD", "/k", until=replaced)
    s3_proxy.rules.append(waits)

    with ThreadPoolExecutor(1) as pool:
        completed = pool.submit(upload.complete)
        while not waits.seen:
            time.sleep(0.001)
        theirs = s3_place.open().put("k", b"theirs")
        replaced.set()
        info = completed.result(30)

    assert info.size_bytes == 4
    assert info.tag != theirs.tag


@pytest.mark.parametrize(("md5", "found"), [("jXd/OF09/siBXSD3SWAm3A==", b"data"), ("AAAAAAAAAAAAAAAAAAAAAA==", None)])
def test_the_hash_that_gcs_sends_through_its_interface_of_s3_is_compared(s3_place, s3_proxy, md5, found):
    bucket = s3_place.open(proxy=s3_proxy)
    info = bucket.put("k", b"data")
    headers = {"x-goog-hash": f"crc32c=rth90Q==,md5={md5}", "ETag": f'"{info.tag}"'}
    s3_proxy.rules.append(Rule("GET", "/k", status=200, body=b"data", headers=headers))

    if found is None:
        with pytest.raises(errors.FileFailed, match="its MD5 is jXd"):
            read(bucket, info)
    else:
        assert read(bucket, info) == found


def test_a_part_that_cannot_be_copied_leaves_nothing(s3, s3_place, s3_proxy):
    location = s3_place.location._replace(endpoint_url=s3_proxy.url)
    policy = POLICY._replace(attempts=1)
    bucket = S3Bucket(location, Credentials(S3_VALUES), policy, copy_bytes_max=10_000, copy_part_bytes=6_000)
    bucket.put("source", bytes(20_000))
    s3_proxy.rules.append(Rule("PUT", "partNumber=2", status=500))

    with pytest.raises(errors.OutcomeUnknown):
        bucket.copy("source", "target")

    assert bucket.head("target") is None
    assert uploads(s3, s3_place) == []


# Where it is.


def test_parts_are_of_one_size_where_they_have_to_be():
    """
    R2 refuses others when the upload is completed, after all bytes were sent.
    """
    values = dict(S3_VALUES)
    r2 = open_bucket(Location("s3", "my-data", endpoint_url="https://account.r2.cloudflarestorage.com"), values)
    s3 = open_bucket(Location("s3", "my-data"), values)

    sizes = [part_bytes(r2.limits, number) for number in (1, 5000, 10_000)]
    assert sizes == [32 << 20] * 3
    assert r2.limits.object_bytes_max == 10_000 * sizes[0]
    assert len({part_bytes(s3.limits, number) for number in (1, 5000, 10_000)}) == 3
    forget_buckets()


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (Location("s3", "my-data", region="eu-west-1"), "https://my-data.s3.eu-west-1.amazonaws.com/k"),
        (
            Location("s3", "my-data", region="eu-west-1", path_style=True),
            "https://s3.eu-west-1.amazonaws.com/my-data/k",
        ),
        (
            Location("s3", "my-data", endpoint_url="https://account.r2.cloudflarestorage.com"),
            "https://account.r2.cloudflarestorage.com/my-data/k",
        ),
        (Location("s3", "my-data", endpoint_url="http://minio:9000"), "http://minio:9000/my-data/k"),
        (
            Location("gcs", "my-data"),
            "https://storage.googleapis.com/my-data/k",
        ),
    ],
)
def test_objects_are_where_they_should_be(location, url):
    values = {**S3_VALUES, "GOOGLE_ACCESS_KEY_ID": "GOOG1EXAMPLE", "GOOGLE_ACCESS_KEY_SECRET": "a-secret"}
    bucket = open_bucket(location, values)

    assert isinstance(bucket, S3Bucket)
    asked = []

    def stop(request, **_):
        asked.append((request.url, request.headers["Authorization"].decode()))
        raise RuntimeError("nothing is sent")

    bucket._requests.client.meta.events.register_first("before-send.s3.HeadObject", stop)
    with pytest.raises(errors.FileFailed, match="nothing is sent"):
        bucket.head("k")
    forget_buckets()

    assert asked == [(url, asked[0][1])]
    assert f"/{location.region or 'auto'}/s3/aws4_request" in asked[0][1]
