"""How large files become that programs make: a guess by the ends of their names, from those that were made before.

To pass a file through (`mount.contents.passed`) takes as long as a few writes do. That pays for files that are written to often,
and not for many small ones.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final

LARGE_BYTES: Final = 128 * 1024  # from here on it pays
_AT_FIRST: Final = 1024 * 1024
_COUNTED_MAX: Final = 4 * 1024 * 1024  # of one file, so that after a very large one small ones are believed again
_WEIGHT: Final = 0.25  # of the latest
_SUFFIXES_MAX: Final = 256


class Expected:
    """Mean sizes, of which the latest count most."""

    def __init__(self) -> None:
        self._means: OrderedDict[bytes, float] = OrderedDict()

    def is_large(self, suffix: bytes) -> bool:
        return self._means.get(suffix, _AT_FIRST) >= LARGE_BYTES

    def note(self, suffix: bytes, size_bytes: int) -> None:
        """A file that was made has become so large."""
        mean = self._means.get(suffix, _AT_FIRST)
        self._means[suffix] = mean + _WEIGHT * (min(size_bytes, _COUNTED_MAX) - mean)
        self._means.move_to_end(suffix)
        if len(self._means) > _SUFFIXES_MAX:
            self._means.popitem(last=False)


def suffix_of(name: bytes) -> bytes:
    return os.path.splitext(name)[1]
