"""What `Bucket` promises, over all providers."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgstore import errors

DATA = bytes(range(256)) * 20
ODD_KEYS = [
    *("plain", "with space", "über/漢字/🎉", "100%", "%41", "a+b", "a&b=c?d#e", "quote'\"", "back\\slash", "tab\there"),
    *("a//b", "dir/", "trailing ", " leading", "semi;colon", "[brackets]", "*?", "~", "<xml>&amp;", ".hidden"),
]


def keys_of(pages):
    return [info.key for page in pages for info in page.objects]


def is_same(found, info):
    """Whether *found* is what was put; S3 answers a put without the time of the object: it is taken for that of the answer."""
    return found[:3] == info[:3] and abs(found.mtime_ns - info.mtime_ns) <= 2_000_000_000


def read(bucket, info, offset=0):
    return b"".join(bytes(piece) for piece in bucket.stream(info.key, offset, info.tag))


# One object.


def test_what_was_put_is_read(bucket):
    info = bucket.put("a/b.bin", DATA)

    assert is_same(bucket.head("a/b.bin"), info)
    assert (info.key, info.size_bytes) == ("a/b.bin", len(DATA))
    assert read(bucket, info) == DATA


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_kinds_of_bytes_can_be_put(bucket, kind):
    info = bucket.put("k", kind(DATA))

    assert read(bucket, info) == DATA


def test_there_is_no_object_before_it_is_put(bucket):
    assert bucket.head("none") is None


def test_an_empty_object_is_read(bucket):
    info = bucket.put("empty", b"")

    assert info.size_bytes == 0
    assert read(bucket, info) == b""
    assert is_same(bucket.head("empty"), info)
    bucket.read_into("empty", memoryview(bytearray()), 0, info.tag)


@pytest.mark.parametrize("offset", [0, 1, 255, len(DATA) - 1, len(DATA)])
def test_a_stream_begins_where_it_is_asked_to(bucket, offset):
    info = bucket.put("k", DATA)

    assert read(bucket, info, offset) == DATA[offset:]


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, len(DATA)), (100, 1000), (len(DATA) - 1, 1), (5, 0)])
def test_a_range_is_read(bucket, offset, length):
    info = bucket.put("k", DATA)
    buffer = bytearray(length)

    bucket.read_into("k", memoryview(buffer), offset, info.tag)

    assert buffer == DATA[offset : offset + length]


def test_a_stream_can_be_left(bucket):
    """
    What is not read any more is not asked for any more, and the connection is free for the next request.
    """
    info = bucket.put("k", DATA * 500)

    for _ in range(3):
        pieces = bucket.stream("k", 0, info.tag)
        assert bytes(next(pieces)) == (DATA * 500)[: 1 << 20]
        pieces.close()

    assert is_same(bucket.head("k"), info)


def test_another_state_is_never_read(bucket):
    """
    A reader that goes on after the object was replaced would mix the bytes of two.
    """
    old = bucket.put("k", b"old")
    new = bucket.put("k", b"new")

    assert old.tag != new.tag
    with pytest.raises(errors.StaleFile):
        read(bucket, old)
    with pytest.raises(errors.StaleFile):
        read(bucket, old, 1)
    with pytest.raises(errors.StaleFile):
        bucket.read_into("k", memoryview(bytearray(2)), 0, old.tag)
    assert read(bucket, new) == b"new"


def test_a_deleted_object_is_not_read(bucket):
    info = bucket.put("k", b"data")
    bucket.delete(["k"])

    with pytest.raises(errors.StaleFile):
        read(bucket, info)
    with pytest.raises(errors.StaleFile):
        bucket.read_into("k", memoryview(bytearray(1)), 0, info.tag)


def test_it_is_created_once(bucket):
    bucket.put("k", b"first", if_missing=True)

    with pytest.raises(errors.FileExists) as caught:
        bucket.put("k", b"second", if_missing=True)

    assert caught.value.filename == "k"
    assert read(bucket, bucket.head("k")) == b"first"


def test_of_many_that_create_it_one_wins(bucket):
    """
    `open("x")` is a lock for many programs.
    """
    barrier = threading.Barrier(8)

    def create(number):
        barrier.wait()
        try:
            bucket.put("lock", str(number).encode(), if_missing=True)
        except errors.FileExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        won = [each for each in pool.map(create, range(8)) if each is not None]

    assert len(won) == 1
    assert read(bucket, bucket.head("lock")) == str(won[0]).encode()


def test_times_are_of_now_and_the_same_everywhere(bucket):
    """
    Programs compare them: one that changes between a listing and a look at the object is a change to them.
    """
    info = bucket.put("k", b"data")

    [listed] = [each for page in bucket.list() for each in page.objects]
    assert listed == bucket.head("k")
    assert is_same(listed, info)
    assert abs(info.mtime_ns - time.time_ns()) < 60e9


# In parts.


def test_an_upload_is_seen_when_it_is_complete(place, bucket):
    upload = bucket.begin_upload("big")
    parts = [bytes([number]) * place.part_bytes for number in range(3)] + [b"the end"]
    for number in (4, 2, 1, 3):
        upload.put_part(number, parts[number - 1])
    assert bucket.head("big") is None
    assert keys_of(bucket.list()) == []

    info = upload.complete()

    assert info == bucket.head("big")
    assert info.size_bytes == sum(map(len, parts))
    assert read(bucket, info) == b"".join(parts)
    upload.abort()
    assert is_same(bucket.head("big"), info)


def test_parts_are_put_by_several_threads(place, bucket):
    upload = bucket.begin_upload("big")
    parts = [bytes([number]) * place.part_bytes for number in range(12)]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(upload.put_part, itertools.count(1), parts))

    assert read(bucket, upload.complete()) == b"".join(parts)


def test_an_upload_without_parts_is_an_empty_object(bucket):
    info = bucket.begin_upload("empty").complete()

    assert (info.size_bytes, read(bucket, info)) == (0, b"")


def test_nothing_is_left_of_an_aborted_upload(place, bucket):
    bucket.put("k", b"before")
    upload = bucket.begin_upload("k")
    upload.put_part(1, b"x" * place.part_bytes)

    upload.abort()
    upload.abort()

    assert read(bucket, bucket.head("k")) == b"before"


def test_an_upload_replaces_what_was_there(bucket):
    old = bucket.put("k", b"before")
    upload = bucket.begin_upload("k")
    upload.put_part(1, b"after")

    new = upload.complete()

    assert new.tag != old.tag
    assert read(bucket, new) == b"after"


def test_an_upload_creates_only_what_is_missing(bucket):
    """
    The condition counts when the upload is completed: others may have been quicker.
    """
    upload = bucket.begin_upload("k", if_missing=True)
    upload.put_part(1, b"mine")
    bucket.put("k", b"theirs")

    with pytest.raises(errors.FileExists):
        upload.complete()
    upload.abort()

    assert read(bucket, bucket.head("k")) == b"theirs"


# Listing.


def check_impossible(bucket, key):
    """
    What the provider would take for another key is refused, and nothing happens to that one.
    """
    info = bucket.put(key.replace("\\", "/"), b"data")

    for put in (lambda: bucket.put(key, b"x"), lambda: bucket.begin_upload(key), lambda: bucket.copy(info.key, key)):
        with pytest.raises(errors.FileFailed) as caught:
            put()
        assert caught.value.errno == errno.EINVAL
    assert bucket.head(key) is None
    bucket.delete([key])
    bucket.delete([key, "none"])
    assert is_same(bucket.head(info.key), info)


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_keys(place, bucket, key):
    if place.impossible and place.impossible in key:
        check_impossible(bucket, key)
        return
    info = bucket.put(key, b"data")

    assert keys_of(bucket.list()) == [key]
    assert keys_of(bucket.list(key)) == [key]
    assert is_same(bucket.head(key), info)
    assert read(bucket, info) == b"data"
    copied = bucket.copy(key, f"copy/{key}")
    assert read(bucket, copied) == b"data"
    bucket.delete([key, f"copy/{key}"])
    assert keys_of(bucket.list()) == []


def test_a_listing_gathers_what_goes_on_behind_a_slash(bucket):
    for key in ("a", "a/1", "a/2", "a/b/3", "b", "c/4"):
        bucket.put(key, key.encode())

    pages = list(bucket.list(delimiter="/"))
    below = list(bucket.list("a/", delimiter="/"))

    assert keys_of(pages) == ["a", "b"]
    assert [prefix for page in pages for prefix in page.prefixes] == ["a/", "c/"]
    assert keys_of(below) == ["a/1", "a/2"]
    assert [prefix for page in below for prefix in page.prefixes] == ["a/b/"]


def test_a_listing_is_of_a_prefix_in_the_order_of_keys(bucket):
    for key in ("b/2", "b/10", "a/1", "b", "b/1", "ba"):
        bucket.put(key, b"x")

    assert keys_of(bucket.list("b/")) == ["b/1", "b/10", "b/2"]
    assert keys_of(bucket.list()) == ["a/1", "b", "b/1", "b/10", "b/2", "ba"]
    assert keys_of(bucket.list("none")) == []


def test_a_listing_goes_on_behind_a_key(bucket):
    for key in ("a", "b", "c", "d"):
        bucket.put(key, b"x")

    assert keys_of(bucket.list(after="b")) == ["c", "d"]
    assert keys_of(bucket.list(after="bb")) == ["c", "d"]
    assert keys_of(bucket.list(after="d")) == []


def test_a_listing_comes_in_pages_when_they_are_asked_for(bucket):
    names = [f"k{number}" for number in range(7)] + [f"d{number}/x" for number in range(7)]
    for key in names:
        bucket.put(key, b"x")

    pages = list(bucket.list(delimiter="/", page_keys=3))

    assert max(len(page.objects) + len(page.prefixes) for page in pages) <= 3
    assert keys_of(pages) == sorted(key for key in names if "/" not in key)
    assert [each for page in pages for each in page.prefixes] == [f"d{number}/" for number in range(7)]
    first = next(iter(bucket.list(page_keys=1)))
    assert len(first.objects) == 1


# Deleting and copying.


def test_deleting_what_is_missing_is_no_error(bucket):
    bucket.put("a", b"x")
    bucket.put("b", b"x")

    bucket.delete(["a", "none", "b"])
    bucket.delete([])
    bucket.delete(["none"])

    assert keys_of(bucket.list()) == []


def test_a_copy_has_the_bytes_and_a_state_of_its_own(bucket):
    bucket.put("dir/source", DATA)

    made = bucket.copy("dir/source", "dir/target")

    assert made == bucket.head("dir/target")
    assert read(bucket, made) == DATA
    bucket.put("dir/source", b"changed")
    assert read(bucket, made) == DATA


def test_a_copy_replaces_its_target(bucket):
    bucket.put("source", b"new")
    old = bucket.put("target", b"old")

    made = bucket.copy("source", "target")

    assert made.tag != old.tag
    assert read(bucket, made) == b"new"


def test_a_copy_is_of_the_state_it_names(bucket):
    old = bucket.put("source", b"old")
    new = bucket.put("source", b"new")

    with pytest.raises(errors.StaleFile):
        bucket.copy("source", "target", tag=old.tag)
    assert bucket.head("target") is None
    assert read(bucket, bucket.copy("source", "target", tag=new.tag)) == b"new"


def test_a_copy_of_nothing_is_an_error(bucket):
    with pytest.raises(errors.FileMissing) as caught:
        bucket.copy("none", "target")

    assert caught.value.filename == "none"
    assert bucket.head("target") is None


def test_a_copy_creates_only_what_is_missing(bucket):
    bucket.put("source", b"mine")
    bucket.copy("source", "new", if_missing=True)
    bucket.put("target", b"theirs")

    with pytest.raises(errors.FileExists):
        bucket.copy("source", "target", if_missing=True)

    assert read(bucket, bucket.head("new")) == b"mine"
    assert read(bucket, bucket.head("target")) == b"theirs"


def test_its_repr_and_name_have_no_credentials(place, bucket):
    for value in place.values.values():
        assert value not in repr(bucket) + bucket.shown
