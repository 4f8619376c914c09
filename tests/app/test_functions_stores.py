"""Functions and stores: mounts that code sees or not, handles in arguments, and transactions that a call would wait for."""

from __future__ import annotations

import pytest

import pgstore
from tests.app.stores_program import app, use, write

pytestmark = pytest.mark.usefixtures("default_client")

VOLUME = pgstore.Volume.persist("tests-app-stores")


@pytest.fixture(autouse=True)
def _run(default_client):
    with app.run():
        yield


def test_in_a_worker_that_has_its_mounts_a_function_is_called_plainly():
    assert use.remote("call the other here") == ("plain", "local")
    assert [b"".join(VOLUME.read_file(name)) for name in "ab"] == [b"plain", b"local"]
    with pytest.raises(pgstore.InvalidError, match="/data-of-tests is not mounted"):
        write("c", "nowhere")


def test_handles_travel_in_arguments_and_results_ephemeral_ones_too():
    with pgstore.Dict.ephemeral() as entries:
        back = use.remote("put", entries, "key", entries)

        assert back["key"]["key"] is not None
        assert entries.contains("key")


def test_an_early_exception_leaves_what_was_written_before_it():
    write.remote("kept", "kept")
    with pytest.raises(FileNotFoundError):
        use.remote("read", "missing")
    assert use.remote("read", "kept") == "kept"
