"""What workers do, and how it is held against the database afterwards: a module for each kind of store.

A new drill is a class with the methods of `Drill`, and a place in `ALL`.
"""

from __future__ import annotations

from tests.chaos.drills.drill import Drill
from tests.chaos.drills.entries import Chains, Counters, Ephemerals, Locks
from tests.chaos.drills.files import Appends, Renames, Writes
from tests.chaos.drills.items import Jobs, Moves, Parcels, Room

ALL: tuple[Drill, ...] = (
    Counters(),
    Chains(),
    Locks(),
    Ephemerals(),
    Parcels(),
    Jobs(),
    Moves(),
    Room(),
    Writes("volume"),
    Writes("nfs"),
    Renames("volume"),
    Renames("nfs"),
    Appends(),
)
