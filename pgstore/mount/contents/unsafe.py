"""What was written to one file of a NetworkFileSystem and is perhaps not on the server's disk yet (see `disk`).

What was written at an offset, or cut, is done again wherever the file ends. What was appended goes to the end that the file has
after all that came before. So a file never has both here: whoever does the one waits until the other is on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pgstore.mount.contents.disk import Commit, Disk
from pgstore.mount.contents.ranges import Range, Ranges


@dataclass
class Appended:
    """Bytes that were appended, and where that was."""

    commit: Commit
    offset: int
    data: bytes


class Unsafe:
    """Not for several threads at once: whoever has it has a lock."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._written: list[tuple[Commit, Ranges]] = []  # of these the stage has the bytes
        self._cuts: list[tuple[Commit, int]] = []
        self.appended: list[Appended] = []

    def __bool__(self) -> bool:
        return bool(self._written or self._cuts or self.appended)

    def wrote(self, commit: Commit, parts: Iterable[Range]) -> None:
        ranges = Ranges()
        for start, end in parts:
            ranges.add(start, end)
        self._written.append((commit, ranges))

    def cut(self, commit: Commit, size: int) -> None:
        self._cuts.append((commit, size))

    def forget_behind(self, size: int) -> None:
        """The file was cut to *size*."""
        for _, ranges in self._written:
            ranges.remove(size, max(size, ranges.end))

    def remove(self, start: int, end: int) -> None:
        """What was written there is not wanted any more."""
        for _, ranges in self._written:
            ranges.remove(start, end)

    @property
    def has_placed(self) -> bool:
        """Whether something was written at an offset, or the file was cut."""
        return bool(self._written or self._cuts)

    @property
    def appended_bytes(self) -> int:
        return sum(len(each.data) for each in self.appended)

    @property
    def written(self) -> list[Range]:
        return [each for _, ranges in self._written for each in ranges]

    def has_before(self, mark: int) -> bool:
        """Whether there is something that was committed before *mark* was taken."""
        return (
            any(commit.number < mark for commit, _ in self._written)
            or any(commit.number < mark for commit, _ in self._cuts)
            or any(each.commit.number < mark for each in self.appended)
        )

    @property
    def has_cut(self) -> bool:
        """Whether the file was cut, and a crash may take that: what was written since is to be written again then, safe or not."""
        return any(not self._disk.is_safe(commit) for commit, _ in self._cuts)

    def forget_safe(self) -> list[Range]:
        """Forget what is on the disk by now, and does not go by cutting the file again. Returns where it was written."""
        is_safe = self._disk.is_safe
        cut = min((commit.number for commit, _ in self._cuts if not is_safe(commit)), default=math.inf)
        safe = [each for commit, ranges in self._written if is_safe(commit) and commit.number < cut for each in ranges]
        self._written = [each for each in self._written if not (is_safe(each[0]) and each[0].number < cut)]
        self._cuts = [each for each in self._cuts if not is_safe(each[0])]
        self.appended = [each for each in self.appended if not is_safe(each.commit)]
        return safe

    def take_lost(self) -> tuple[list[Range], int | None]:
        """Forget what was written and may be lost; returns it, and the least size to which the file was cut then."""
        is_lost = self._disk.is_lost
        lost = [each for commit, ranges in self._written if is_lost(commit) for each in ranges]
        cut = min((size for commit, size in self._cuts if is_lost(commit)), default=None)
        # Also that of which nothing is left to be written again.
        self._written = [each for each in self._written if not is_lost(each[0])]
        self._cuts = [each for each in self._cuts if not is_lost(each[0])]
        return lost, cut

    @property
    def has_lost_end(self) -> bool:
        """Whether a crash may have changed where the file ends, and what is there."""
        return self.has_lost_appended or any(self._disk.is_lost(commit) for commit, _ in self._cuts)

    @property
    def has_lost_appended(self) -> bool:
        return any(self._disk.is_lost(each.commit) for each in self.appended)
