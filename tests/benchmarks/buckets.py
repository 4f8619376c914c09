"""Buckets: CloudBucketMount against boto3 by itself, and other mounts, on a server with the interface of S3 (`bucket_server`).

Once with the server near (no delay), once far away: 30 ms before each answer, and 60 MB/s for each connection, as of S3 in another
region. What is read through a mount is read by a process of its own, after the kernel has dropped its pages.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pgstore
from tests.benchmarks.bucket_server import checksum_of
from tests.benchmarks.harness import Contest, Limit, Skipped, Turn
from tests.benchmarks.mount_peers import Foreign, Load
from tests.benchmarks.peers import missing
from tests.fixtures.processes import mortal

MIB: Final = 1 << 20
SIZE_MIB = 256  # of the object that is read and put
SMALL_OBJECTS = 1000
SMALL_BYTES = 16 << 10
SMALL_IN_ORDER = 100  # of those: one after the other takes long
THREADS = 16
LATENCY_MS = 30
MEGABYTES = 60  # a second, for each connection
ROUNDS_MAX = 5
SERVER_PROCESSES = 2

KEYS: Final = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}

Events = Iterator[Contest | Limit | Skipped]


def contests(url: str) -> Events:
    """Hold what is promised of buckets. The database is not used."""
    memory_files = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # the figures are not those of a disk
    with tempfile.TemporaryDirectory(prefix="pgstore-buckets-", dir=memory_files) as folder:
        objects = Path(folder, "objects")
        objects.mkdir()
        local = Path(folder, "local.bin")
        with local.open("wb") as file:
            for _ in range(SIZE_MIB // 16):
                file.write(os.urandom(16 * MIB))
        with served(objects) as near, served(objects, far=True) as far:
            fill(near, local)
            yield from without_mount("near", near, local, stream_goal=0.9)
            yield from without_mount("far", far, local, stream_goal=4.0)
            yield listing(near)
            yield Limit("far: memory of a process that reads and puts", lambda: memory(far, local), 200, "MB", 2)
            if why := missing(program="fusermount3"):
                yield Skipped("through the mount", why)
                return
            yield from mounted(Path(folder), "near", near, stream_goal=0.6 * 0.9)
            yield from mounted(Path(folder), "far", far, stream_goal=0.6 * 4.0)


@contextlib.contextmanager
def served(objects: Path, *, far: bool = False) -> Iterator[str]:
    """The URL of a server over the files in *objects*."""
    command = [sys.executable, "-m", "tests.benchmarks.bucket_server", "--directory", str(objects)]
    command += ["--processes", str(SERVER_PROCESSES)]
    if far:
        command += ["--latency-ms", str(LATENCY_MS), "--megabytes", str(MEGABYTES)]
    process = subprocess.Popen(
        mortal(command, signal_name="TERM"), stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@functools.cache
def boto3_client(url: str) -> Any:
    """As people make one."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=32),
    )


def ours(url: str, bucket: str = "bench", **options: Any) -> pgstore.CloudBucketMount:
    return pgstore.CloudBucketMount.from_s3_bucket(
        bucket, endpoint_url=url, secret=pgstore.Secret.from_dict(KEYS), read_only=False, **options
    )


def fill(url: str, local: Path) -> None:
    client = boto3_client(url)
    data = local.read_bytes()
    client.put_object(Bucket="bench", Key="large", Body=data, ChecksumAlgorithm="CRC32")
    assert client.head_object(Bucket="bench", Key="large")["ContentLength"] == len(data)
    answer = client.get_object(Bucket="bench", Key="large", ChecksumMode="ENABLED")
    assert answer["ChecksumCRC32"] == checksum_of(data)
    answer["Body"].close()
    small = data[:SMALL_BYTES]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(
            lambda number: client.put_object(Bucket="bench", Key=f"small/{number:04}", Body=small),
            range(SMALL_OBJECTS),
        ):
            pass


def without_mount(where: str, url: str, local: Path, *, stream_goal: float) -> Events:
    """Through the Python API."""
    client = boto3_client(url)
    files = ours(url)
    size = SIZE_MIB * MIB

    def opened() -> float:
        buffer = bytearray(MIB)
        done = 0
        with files.open("large", "rb") as file:
            while count := file.readinto(buffer):
                done += count
        return _all(done, size)

    def yielded() -> float:
        return _all(sum(len(piece) for piece in files.read_file("large")), size)

    def streamed() -> float:
        body = client.get_object(Bucket="bench", Key="large")["Body"]
        return _all(sum(len(piece) for piece in body.iter_chunks(MIB)), size)

    def put() -> float:
        files.put_file(local, "put")
        return size / 1e6

    def uploaded() -> float:
        client.upload_file(str(local), "bench", "uploaded")
        return size / 1e6

    reference = "boto3 stream"
    rate: dict[str, Any] = {"unit": "MB/s", "rounds_max": ROUNDS_MAX}
    yield Contest(f"{where}: open, read", opened, streamed, stream_goal, reference_name=reference, **rate)
    yield Contest(f"{where}: read_file", yielded, streamed, stream_goal, reference_name=reference, **rate)
    yield Contest(f"{where}: put_file", put, uploaded, 0.9, reference_name="boto3 upload_file", **rate)


def listing(url: str) -> Contest:
    client = boto3_client(url)
    files = ours(url, "listing")

    def listed() -> float:
        return sum(1 for _ in files.iterdir("/", recursive=True))

    def paged() -> float:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="listing")
        return sum(len(page["Contents"]) for page in pages)

    return Contest(
        "near: list 100,000 keys", listed, paged, 0.8, "keys/s", reference_name="bare paginator", rounds_max=2
    )


def memory(url: str, local: Path) -> float:
    """The most that a new process has taken, in MB, which reads the object and puts it."""
    command = [sys.executable, "-m", "tests.benchmarks.bucket_load", url, str(local)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return float(done.stdout)


# Through mounts.


def mounted(folder: Path, where: str, url: str, *, stream_goal: float) -> Events:
    """Ours, and those of others that start here."""
    client = boto3_client(url)
    size = SIZE_MIB * MIB

    def streamed() -> float:
        body = client.get_object(Bucket="bench", Key="large")["Body"]
        return _all(sum(len(piece) for piece in body.iter_chunks(MIB)), size)

    rate: dict[str, Any] = {"unit": "MB/s", "rounds_max": ROUNDS_MAX}
    path = folder / f"ours {where}"
    path.mkdir()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours(url).mount(path, mode="fuse"))
        load = _load(stack)
        read = functools.partial(load.turn, "read_large_cold")
        reference = "boto3 stream"
        yield Contest(
            f"{where}: read, mounted",
            lambda: read(str(path / "large")),
            streamed,
            stream_goal,
            reference_name=reference,
            **rate,
        )
        for peer in (S3fs(folder, where, url), Rclone(folder, where, url)):
            if why := missing(program=peer.program):
                yield Skipped(f"{where}: read, {peer.program}", why)
                continue
            stack.callback(peer.end)
            peer.start()
            yield Contest(
                f"{where}: read, mounted",
                lambda: read(str(path / "large")),
                lambda peer=peer: read(str(peer.path / "large")),  # type: ignore[misc]
                reference_name=peer.program,
                **rate,
            )
        if where == "far":
            yield small(path)
        yield Limit(f"{where}: memory of the daemon", daemon_megabytes, 200, "MB", 1)


def small(path: Path) -> Contest:
    """Small objects through the mount: several threads have their requests under way at a time."""
    numbers = iter(range(10**9))

    def take(count: int) -> list[Path]:
        start = next(numbers) * count
        return [path / "small" / f"{(start + each) % SMALL_OBJECTS:04}" for each in range(count)]

    def read(file: Path) -> int:
        # Anew, whatever the kernel has kept.
        fd = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return len(os.read(fd, SMALL_BYTES))
        finally:
            os.close(fd)

    def together() -> float:
        time.sleep(1.1)  # what was looked up is forgotten
        with ThreadPoolExecutor(THREADS) as pool:
            return _all(sum(pool.map(read, take(SMALL_OBJECTS))), SMALL_OBJECTS * SMALL_BYTES, SMALL_OBJECTS)

    def in_order() -> float:
        time.sleep(1.1)
        return _all(sum(map(read, take(SMALL_IN_ORDER))), SMALL_IN_ORDER * SMALL_BYTES, SMALL_IN_ORDER)

    return Contest(
        f"far: {SMALL_OBJECTS} small objects, mounted, {THREADS} threads", _without_pause(together), _without_pause(in_order),
        8.0, "objects/s", reference_name="one after the other", rounds_max=3,
    )  # fmt: skip


def _without_pause(candidate: Callable[[], float]) -> Callable[[], Turn]:
    def run() -> Turn:
        cpu, began = time.process_time(), time.perf_counter()
        amount = candidate()
        return Turn(amount, time.perf_counter() - began - 1.1, time.process_time() - cpu)

    return run


def daemon_megabytes() -> float:
    """The most that the daemon of mounts ever had."""
    from pgstore.mount.daemon import backends, caller

    pid = caller.daemon(backends.FACTORIES["bucket"]).pid
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def _load(stack: contextlib.ExitStack) -> Load:
    load = Load()
    stack.callback(load.end)
    return load


def _all(found: int, expected: int, amount: float | None = None) -> float:
    """The amount done; megabytes, if nothing else is said."""
    if found != expected:
        raise RuntimeError(f"{found} bytes were read, not {expected}")
    return expected / 1e6 if amount is None else amount


class _Peer(Foreign):
    program = ""

    def __init__(self, folder: Path, where: str, url: str) -> None:
        self.name = f"{self.program} {where}"
        super().__init__(folder)
        self._url = url


class S3fs(_Peer):
    program = "s3fs"

    def command(self) -> list[str]:
        keys = self.folder / "s3fs keys"
        keys.write_text("key:secret")
        keys.chmod(0o600)
        options = f"url={self._url},use_path_request_style,passwd_file={keys},parallel_count={THREADS}"
        return ["s3fs", "bench", str(self.path), "-f", "-o", options]


class Rclone(_Peer):
    program = "rclone"

    def command(self) -> list[str]:
        place = f":s3,provider=Other,access_key_id=key,secret_access_key=secret,endpoint='{self._url}':bench"
        return ["env", "-u", "AWS_CA_BUNDLE", "rclone", "mount", place, str(self.path), "--config", os.devnull]
