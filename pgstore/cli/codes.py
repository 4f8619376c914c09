"""Exit codes of `pgstore`; a command may have more, which its help tells."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_CHECKED: Final = 3
INTERRUPTED: Final = 130  # as shells report SIGINT


class NotChecked(Exception):
    """What kept `pgstore check` from looking, which says nothing about damage: the cause."""
