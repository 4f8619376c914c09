"""A small run of `python -m tests.verify_queue`."""

from __future__ import annotations

import pytest

from tests.verify_queue import verify


@pytest.mark.slow
def test_processes_that_roll_back_and_are_killed_lose_nothing_and_get_nothing_twice(own_database):
    verdict = verify(own_database, 12_000, kill_every=0.7)

    assert verdict.is_good, verdict
