"""Tests of pgstore; conftest.py lists the fixtures, each folder says what belongs into it."""
