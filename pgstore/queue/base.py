"""What every part of Queue rests on: partitions, and how items become bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from pgstore import errors
from pgstore.core.operation import Op
from pgstore.handle import Store
from pgstore.registry import Facts
from pgstore.serializers import check_size, dumps, loads

PARTITION_BYTES_MAX: Final = 64
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


class QueueBase(Store):
    """Partitions and items."""

    _kind: ClassVar = "queue"
    _noun: ClassVar = "Queue"
    _id_prefix: ClassVar = "qu"
    _name_space: ClassVar = "queue"

    @staticmethod
    def validate_partition_key(partition: str | None) -> bytes:
        """
        Return *partition* as bytes, empty for None, the default partition.

        Raises:
            InvalidError: it is not of 1 to 64 bytes of UTF-8.
        """
        return partition_name(partition).encode()

    def _open(self) -> Op[Facts]:
        facts = self._facts
        return facts if facts is not None else (yield from self._know())

    def _encode(self, item: Any) -> bytes:
        payload = dumps(item, "item")
        check_size(len(payload), f"an item for {self!r}")
        return payload

    def _decode(self, row: Sequence[Any]) -> Any:
        """The item of a row that starts with id, put_at, codec, payload."""
        if row[2] == "j":
            import json

            return json.loads(row[3])
        return loads(row[3], f"item {row[0]} of {self!r}")


def partition_name(partition: str | None) -> str:
    """The name of *partition* in the table, if it can be one."""
    if partition is None:
        return ""
    if not isinstance(partition, str):
        raise errors.InvalidError(f"partition must be a str, not {type(partition).__name__}: {partition!r}")
    if not 1 <= len(partition.encode(errors="replace")) <= PARTITION_BYTES_MAX or _UNSTORABLE.search(partition):
        raise errors.InvalidError(
            f"partition {partition!r} is not of 1 to {PARTITION_BYTES_MAX} bytes of UTF-8, without NUL and lone surrogates; "
            "leave it out for the default"
        )
    return partition


def check_count(n: object, noun: str) -> int:
    """Return *n* if it is a number of items."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise errors.InvalidError(f"{noun} takes the number of items, 1 or more, not {n!r}")
    return n
