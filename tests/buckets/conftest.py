"""Tests of buckets: `-m buckets` runs them alone, with emulators of the providers (tests/fixtures/emulators.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.buckets)
