"""Large objects behind slow connections, over all providers: what comes in parts is what was put, or an error."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from pgstore import errors
from pgstore.buckets import reading
from tests.fixtures.buckets import PLACES
from tests.fixtures.fault_proxy import Rule, fault_proxy

DATA = bytes(range(256)) * (3 << 12)  # 3 MiB


@pytest.fixture(params=[name for name in sorted(PLACES) if name != "memory"])
def place(request):
    return PLACES[request.param](request)


@pytest.fixture
def proxy(place):
    url = urlsplit(place.location.endpoint_url)
    with fault_proxy(f"{url.scheme}://{url.netloc}") as proxy:
        yield proxy


@pytest.fixture
def slow(monkeypatch):
    """Objects are large from 512 KiB on, and each connection is slow."""
    monkeypatch.setattr(reading, "PART_BYTES", 256 << 10)
    monkeypatch.setattr(reading, "LARGE_BYTES", 512 << 10)
    monkeypatch.setattr(reading, "MEASURED_BYTES", 1)
    monkeypatch.setattr(reading, "FAST", float("inf"))


def test_an_object_that_comes_in_parts_is_whole(place, proxy, slow):
    info = place.open().put("k", DATA)
    bucket = place.open(proxy=proxy)

    assert b"".join(map(bytes, reading.pieces(bucket, info))) == DATA
    assert b"".join(map(bytes, reading.pieces(bucket, info, 100_000))) == DATA[100_000:]
    assert len(proxy.asked("GET")) > 6


def test_a_turned_bit_in_a_part_is_found_by_who_reads_all(place, proxy, slow):
    """
    SDKs compare no ranges; the whole is compared here.
    """
    info = place.open().put("k", DATA)
    bucket = place.open(proxy=proxy)
    pieces = reading.pieces(bucket, info)
    got = bytes(next(pieces))

    proxy.rules[:] = [Rule("GET", "k", corrupt=True)]
    with pytest.raises(errors.FileFailed, match="did not arrive as it was put"):
        for piece in pieces:
            got += bytes(piece)

    assert len(got) < len(DATA)
