"""Whole files in memory: what `pathlib.Path` has, on what stores and buckets have for themselves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from pgstore import errors
from pgstore.core.operation import Op, operation


class WholeFiles:
    """read_bytes, read_text, write_bytes, write_text, for a class that reads and writes a file at a time."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def _runner(self) -> Any: ...

        @property
        def _bound(self) -> Any: ...

    def _read_whole(self, path: str) -> Op[bytes]:
        raise NotImplementedError

    def _write_whole(self, path: str, data: bytes | bytearray | memoryview) -> Op[None]:
        raise NotImplementedError

    @operation
    def read_bytes(self, path: str) -> Op[bytes]:
        """Return the contents of a file, as `pathlib.Path.read_bytes` does. Errors are those of `read_file`."""
        return (yield from self._read_whole(path))

    @operation
    def read_text(self, path: str, encoding: str = "utf-8", errors: str = "strict") -> Op[str]:
        """
        Return the contents of a text file, with one newline character at the end of each line, as `pathlib.Path.read_text` does.

        Raises:
            UnicodeDecodeError: it is no text of this *encoding*.
        """
        text = io.TextIOWrapper(io.BytesIO((yield from self._read_whole(path))), encoding, errors)
        return text.read()

    @operation
    def write_bytes(self, path: str, data: bytes | bytearray | memoryview) -> Op[int]:
        """Make *data* the contents of a file, as `put_file` does, and return how many bytes they are."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise errors.InvalidError(f"write_bytes takes bytes, not {type(data).__name__}; write_text takes str")
        yield from self._write_whole(path, data)
        return memoryview(data).nbytes

    @operation
    def write_text(self, path: str, data: str, encoding: str = "utf-8", errors: str = "strict") -> Op[int]:
        """Make *data* the contents of a file, as `put_file` does, and return how many characters they are."""
        if not isinstance(data, str):
            raise _invalid(f"write_text takes str, not {type(data).__name__}; write_bytes takes bytes")
        yield from self._write_whole(path, data.encode(encoding, errors))
        return len(data)


def _invalid(message: str) -> errors.InvalidError:
    # Where `errors` is an argument.
    return errors.InvalidError(message)
