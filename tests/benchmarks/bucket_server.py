"""A server with the interface of S3, for figures: as near, or as far away, as it is told to be.

    python -m tests.benchmarks.bucket_server --directory DIRECTORY [--processes 2] [--latency-ms 30 --megabytes 60]

It says `http://127.0.0.1:PORT` when it listens. Emulators read whole objects for each range, and cannot show what parallel ranges
are good for. This one sends slices of mapped files, in several processes that share the port; *latency* is before each answer, and
*megabytes* is what one connection gets in a second. It knows objects (with ranges, If-Match and the CRC-32 they were put with),
parts, copies, listings and deletes; it checks no signatures. The keys of bucket `listing` are computed, and have no bytes.
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import mmap
import os
import re
import socket
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

LISTED_KEYS: Final = 100_000
PAGE_KEYS: Final = 1000
SENT_BYTES: Final = 1 << 20
MODIFIED: Final = "2026-01-01T00:00:00.000Z"


class Settings(NamedTuple):
    directory: Path
    latency_seconds: float
    bytes_per_second: float


class Stored(NamedTuple):
    """An object as it is."""

    data: memoryview
    etag: str
    about: Mapping[str, str]
    """Its metadata and its checksum, as headers."""


class Objects:
    """Files of a directory, one for each object, by its bucket and quoted key; beside it one with what it was put with."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mapped: dict[str, tuple[int, Stored]] = {}

    def path(self, bucket: str, key: str) -> Path:
        return self._directory / bucket / quote(key, safe="")

    def get(self, bucket: str, key: str) -> Stored | None:
        path = self.path(bucket, key)
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        kept = self._mapped.get(str(path))
        if kept is None or kept[0] != found.st_mtime_ns:
            about = json.loads(self._beside(path).read_text())
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if found.st_size else b""
            etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
            kept = self._mapped[str(path)] = (found.st_mtime_ns, Stored(memoryview(data), etag, about))
        return kept[1]

    def _beside(self, path: Path) -> Path:
        return path.parent.with_name(path.parent.name + ".about") / path.name

    def put(self, bucket: str, key: str, parts: list[bytes | memoryview], about: Mapping[str, str]) -> str:
        path = self.path(bucket, key)
        for folder in (path.parent, self._beside(path).parent):
            folder.mkdir(exist_ok=True)
        scratch = self._directory / f"{os.getpid()}.{threading.get_ident()}"
        scratch.write_text(json.dumps(dict(about)))
        scratch.replace(self._beside(path))
        with scratch.open("wb", buffering=0) as file:
            for part in parts:
                file.write(part)
        found = scratch.stat()
        scratch.replace(path)
        return f'"{found.st_mtime_ns:x}-{found.st_size:x}"'

    def delete(self, bucket: str, key: str) -> None:
        self.path(bucket, key).unlink(missing_ok=True)

    def keys(self, bucket: str) -> list[str]:
        if bucket == "listing":
            return _listing()
        folder = self._directory / bucket
        return sorted(unquote(each) for each in os.listdir(folder)) if folder.exists() else []


@functools.cache
def _listing() -> list[str]:
    return [f"{number // 1000:03}/{number:06}.bin" for number in range(LISTED_KEYS)]


@functools.lru_cache(2000)
def _listed_page(prefix: str, delimiter: str, after: str, count: int) -> bytes:
    """Of the computed bucket: made once, so that the time is that of clients."""
    return _page("listing", _listing(), prefix, delimiter, after, count, lambda key: (0, '"0"'))


def _page(
    bucket: str, keys: list[str], prefix: str, delimiter: str, after: str, count: int, of_key: Any
) -> bytes:  # fmt: skip
    shown: dict[str, bool] = {}
    for key in keys:
        if not key.startswith(prefix):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key if end < 0 else key[: end + 1]
        if name > after:
            shown.setdefault(name, end < 0)
            if len(shown) > count:
                break
    names = list(shown)[:count]
    out = [
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{bucket}</Name><KeyCount>{len(names)}</KeyCount>'
    ]
    out.append(f"<IsTruncated>{str(len(shown) > count).lower()}</IsTruncated>")
    if len(shown) > count:
        out.append(f"<NextContinuationToken>{base64.b64encode(names[-1].encode()).decode()}</NextContinuationToken>")
    for name in names:
        if shown[name]:
            size, etag = of_key(name)
            out.append(
                f"<Contents><Key>{quote(name, safe='/')}</Key><LastModified>{MODIFIED}</LastModified>"
                f"<ETag>{escape(etag)}</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        else:
            out.append(f"<CommonPrefixes><Prefix>{quote(name, safe='/')}</Prefix></CommonPrefixes>")
    return "".join([*out, "<EncodingType>url</EncodingType></ListBucketResult>"]).encode()


class Connection:
    """One client, until it hangs up."""

    def __init__(self, connection: socket.socket, objects: Objects, settings: Settings) -> None:
        self._socket = connection
        self._objects = objects
        self._settings = settings

    def serve(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = self._socket.makefile("rb", buffering=1 << 20)
        try:
            while line := reader.readline():
                method, target, _ = line.decode("latin-1").split(" ", 2)
                headers: dict[str, str] = {}
                while (line := reader.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                if headers.get("expect"):
                    self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._answer(method, target, headers, *_body(reader, headers))
        except (OSError, ValueError):
            pass
        finally:
            self._socket.close()

    def _answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | memoryview, checksum: str | None
    ) -> None:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        _, bucket, *rest = unquote(url.path).split("/", 2)
        key = rest[0] if rest else ""
        match method:
            case "GET" if not key:
                self._list(bucket, query)
            case "GET" | "HEAD":
                self._get(method, bucket, key, headers)
            case "POST" if "delete" in query:
                for found in re.findall(rb"<Key>([^<]*)</Key>", bytes(body)):
                    self._objects.delete(bucket, found.decode())
                self._send(200, body=b"<DeleteResult></DeleteResult>")
            case "POST" if "uploads" in query:
                upload = os.urandom(8).hex()
                self._objects.put("uploads", upload, [], _metadata(headers))
                self._send(200, body=_xml("InitiateMultipartUploadResult", UploadId=upload))
            case "POST":
                parts = sorted(int(each) for each in re.findall(rb"<PartNumber>(\d+)</PartNumber>", bytes(body)))
                upload = query["uploadId"]
                stored = [self._objects.get(f"{upload}.parts", str(number)) for number in parts]
                begun = self._objects.get("uploads", upload)
                assert begun is not None
                etag = self._objects.put(bucket, key, [each.data for each in stored if each is not None], begun.about)
                for number in parts:
                    self._objects.delete(f"{upload}.parts", str(number))
                self._send(200, body=_xml("CompleteMultipartUploadResult", ETag=etag))
            case "PUT" if key and "x-amz-copy-source" in headers:
                source = unquote(headers["x-amz-copy-source"]).lstrip("/").split("/", 1)
                found_ = self._objects.get(*source)
                assert found_ is not None
                etag = self._objects.put(bucket, key, [found_.data], found_.about)
                self._send(200, body=_xml("CopyObjectResult", ETag=etag, LastModified=MODIFIED))
            case "PUT":
                place = (f"{query['uploadId']}.parts", query["partNumber"]) if "uploadId" in query else (bucket, key)
                about = _metadata(headers)
                if checksum is not None:
                    about["x-amz-checksum-crc32"] = checksum
                etag = self._objects.put(*place, [body], about) if key else ""
                self._send(200, {"ETag": etag})
            case "DELETE":
                self._objects.delete(bucket, key)
                self._send(204)
            case _:
                self._send(501)

    def _list(self, bucket: str, query: Mapping[str, str]) -> None:
        after = query.get("start-after", "")
        if "continuation-token" in query:
            after = base64.b64decode(query["continuation-token"]).decode()
        count = min(PAGE_KEYS, int(query.get("max-keys", PAGE_KEYS)))
        asked = query.get("prefix", ""), query.get("delimiter", ""), after, count
        if bucket == "listing":
            self._send(200, body=_listed_page(*asked))
            return

        def of_key(key: str) -> tuple[int, str]:
            found = self._objects.get(bucket, key)
            return (0, '""') if found is None else (len(found.data), found.etag)

        self._send(200, body=_page(bucket, self._objects.keys(bucket), *asked, of_key))

    def _get(self, method: str, bucket: str, key: str, headers: Mapping[str, str]) -> None:
        found = self._objects.get(bucket, key)
        if found is None:
            self._send(404, body=b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if headers.get("if-match", found.etag).strip('"') != found.etag.strip('"'):
            self._send(412, body=b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        about = {"ETag": found.etag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
        about |= {name: value for name, value in found.about.items() if name.startswith("x-amz-meta-")}
        data = found.data
        if method == "HEAD":
            self._send(200, about, length=len(data))
            return
        asked = re.match(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked is None:
            checksum = found.about.get("x-amz-checksum-crc32")
            if checksum is not None and headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
                about |= {"x-amz-checksum-crc32": checksum, "x-amz-checksum-type": "FULL_OBJECT"}
            self._send(200, about, body=data)
            return
        start = int(asked[1])
        end = min(int(asked[2]) if asked[2] else len(data) - 1, len(data) - 1)
        if start >= len(data):
            self._send(416, body=b"<Error><Code>InvalidRange</Code></Error>")
            return
        self._send(206, {**about, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, body=data[start : end + 1])

    def _send(
        self,
        status: int,
        headers: Mapping[str, str] = {},
        *,
        body: bytes | memoryview = b"",
        length: int | None = None,
    ) -> None:
        lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        if self._settings.latency_seconds:
            time.sleep(self._settings.latency_seconds)
        if len(body) < 1 << 16:
            self._socket.sendall(head + bytes(body))
            return
        self._socket.sendall(head)
        if not self._settings.bytes_per_second:
            self._socket.sendall(body)
            return
        began = time.monotonic()
        for start in range(0, len(body), SENT_BYTES):
            self._socket.sendall(body[start : start + SENT_BYTES])
            due = began + min(start + SENT_BYTES, len(body)) / self._settings.bytes_per_second
            time.sleep(max(0.0, due - time.monotonic()))


def _body(reader: Any, headers: Mapping[str, str]) -> tuple[bytes | memoryview, str | None]:
    """The bytes, and their CRC-32 as the client gave it."""
    checksum = headers.get("x-amz-checksum-crc32")
    if "chunked" in headers.get("transfer-encoding", ""):
        chunks = []
        while size := int(reader.readline(), 16):
            chunks.append(reader.read(size))
            reader.readline()
        reader.readline()
        raw = b"".join(chunks)
    else:
        raw = reader.read(int(headers.get("content-length") or 0))
    if "aws-chunked" not in headers.get("content-encoding", ""):
        return raw, checksum
    data, at = [], 0
    while True:
        line = raw.index(b"\r\n", at)
        size = int(raw[at:line].split(b";")[0], 16)
        if not size:
            break
        data.append(memoryview(raw)[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
    trailer = re.search(rb"x-amz-checksum-crc32:\s*([\w+/=]+)", raw[at:])
    if trailer is not None:
        checksum = trailer[1].decode()
    return data[0] if len(data) == 1 else b"".join(data), checksum


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}


def _xml(name: str, **fields: str) -> bytes:
    inner = "".join(f"<{field}>{escape(value)}</{field}>" for field, value in fields.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'.encode()


def checksum_of(data: bytes) -> str:
    """As S3 has it of a whole object."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    return listener


def _run(listener: socket.socket, settings: Settings) -> None:
    objects = Objects(settings.directory)
    while True:
        connection, _ = listener.accept()
        serve = Connection(connection, objects, settings).serve
        threading.Thread(target=serve, daemon=True).start()


def main() -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--megabytes", type=float, default=0, help="a second, for each connection")
    arguments = parser.parse_args()
    settings = Settings(arguments.directory, arguments.latency_ms / 1e3, arguments.megabytes * 1e6)
    listener = _listener(0)
    port = listener.getsockname()[1]
    for _ in range(arguments.processes - 1):
        parent = os.getpid()
        if os.fork() == 0:
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
            listener.close()
            listener = _listener(port)
            break
    else:
        print(f"http://127.0.0.1:{port}", flush=True)
    _run(listener, settings)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


if __name__ == "__main__":
    main()
