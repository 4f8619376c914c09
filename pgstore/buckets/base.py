"""What a provider of buckets is asked for: `Bucket`, on keys and bytes. No paths, and nothing of a provider's SDK.

An object is replaced as a whole or not at all, and whoever reads it is sure to read one state of it: `tag` names the state (the
ETag of S3 and Azure, the generation of GCS), and reading with a tag fails with `StaleFile` once it is another. There are no
directories: `list` gathers keys that go on behind a `/`.

All methods block, and are called by several threads at once. They fail with pgstore's errors: `FileMissing`, `FileExists`,
`StaleFile`, `AccessDenied` (the credentials, or what they may do), `NotFoundError` (no such bucket), `StoreUnavailable` and
`TimedOut` (the provider does not answer, after retries), `FileFailed` with an errno for all else. A module of this package is a
provider; `open_bucket` finds it.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, MutableSequence, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview
PAGE_KEYS: Final = 1000  # what S3 gives at most


class ObjectInfo(NamedTuple):
    """What is known of an object without reading it."""

    key: str
    size_bytes: int
    tag: str
    """Names this state of the object; of another it differs."""
    mtime_ns: int
    """When it was put, in nanoseconds since 1970."""


class Page(NamedTuple):
    """A piece of a listing."""

    objects: Sequence[ObjectInfo]
    prefixes: Sequence[str]
    """What keys have in common up to and with the next `/`, once for all of them."""


class Limits(NamedTuple):
    """Of what is put in parts."""

    part_bytes_min: int
    """Of all parts but the last."""
    part_bytes_max: int
    parts_max: int
    object_bytes_max: int
    equal_parts: bool = False
    """Whether all parts but the last have to be of one size."""


class Check(Protocol):
    """Compares all bytes of an object with its checksum."""

    def update(self, data: Bytes, /) -> object:
        """Go on with *data*, in the order of the object."""

    def fault(self) -> str | None:
        """What is wrong, after the last byte; None: nothing."""


class Upload(abc.ABC):
    """An object that is put in parts. Nobody sees anything of it before `complete`."""

    @abc.abstractmethod
    def put_part(self, number: int, data: Bytes) -> None:
        """Put the part *number*, from 1. Several threads may, in any order."""

    @abc.abstractmethod
    def complete(self) -> ObjectInfo:
        """
        Make one object of all parts, in the order of their numbers.

        Raises:
            FileExists: the upload was begun with *if_missing*, and there is an object.
        """

    @abc.abstractmethod
    def abort(self) -> None:
        """Have the provider drop what was put. Does nothing after `complete` or another `abort`."""


class Bucket(abc.ABC):
    """A bucket of S3 or GCS, or a container of Azure."""

    limits: Limits

    @property
    @abc.abstractmethod
    def shown(self) -> str:
        """What messages call it: provider and name, as `s3://name`, `gs://name`, `az://account/name`."""

    @property
    def was_denied(self) -> bool:
        """Whether its credentials were refused, or there were none: others may be there by now."""
        return False

    @abc.abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """What is known of the object; None: there is none."""

    @abc.abstractmethod
    def read_into(self, key: str, buffer: memoryview, offset: int, tag: str) -> None:
        """
        Fill *buffer* with the bytes of the object from *offset* on, which are there.

        A body that is cut short is resumed where it ended.

        Raises:
            StaleFile: the object is not the one that *tag* names.
        """

    @abc.abstractmethod
    def stream(self, key: str, offset: int, tag: str) -> Iterator[Bytes]:
        """
        The bytes of the object from *offset* to its end, in pieces of about 1 MiB, by one request. Resumed as `read_into` is.

        Read from its beginning to its end, they are compared with the checksum that the provider has, where it has one. Closing
        the iterator ends the request.
        """

    def stream_to_check(self, key: str, tag: str, checks: MutableSequence[Check]) -> Iterator[Bytes]:
        """
        `stream` from the beginning, for who may leave it before its end and get the rest otherwise.

        Args:
            checks: gets, with the first piece, what compares the whole with the checksum that the provider has, if it has one. The
                stream does not compare by itself then.
        """
        return self.stream(key, 0, tag)

    @abc.abstractmethod
    def put(self, key: str, data: Bytes, *, if_missing: bool = False) -> ObjectInfo:
        """
        Put an object, in one request, with a checksum.

        A create (*if_missing*) that was done, though its answer was lost, is recognised as one's own when it is tried again.

        Raises:
            FileExists: *if_missing*, and there is an object.
        """

    @abc.abstractmethod
    def begin_upload(self, key: str, *, if_missing: bool = False) -> Upload:
        """Begin an object that is put in parts."""

    @abc.abstractmethod
    def list(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", page_keys: int = PAGE_KEYS
    ) -> Iterator[Page]:
        """
        The objects whose keys begin with *prefix*, in pages as the provider gives them, in the order of keys.

        A request is made when its page is asked for, not before: whoever takes one page pays for one.

        Args:
            delimiter: `/`: keys that go on behind the next `/` are not listed, but what they begin with.
            after: only keys that come behind this one.
            page_keys: how many objects and prefixes a page has at most; fewer for who asks only whether there are any.
        """

    @abc.abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. What is missing is no error."""

    @abc.abstractmethod
    def copy(self, source: str, target: str, *, tag: str | None = None, if_missing: bool = False) -> ObjectInfo:
        """
        Have the provider copy an object, whatever its size. With *tag*, only that state of it.

        Raises:
            FileMissing, StaleFile: of the source.
            FileExists: *if_missing*, and there is a target.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End all connections. Nothing is asked for afterwards."""
