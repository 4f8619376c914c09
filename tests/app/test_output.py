"""What workers print, on its way to the program's own output."""

from __future__ import annotations

import os

import pytest

from pgstore.app.runner.output import Output


@pytest.fixture
def printed():
    """The output of a worker, and where it writes to."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb", buffering=0) as worker:
        yield Output(pipe, "stdout"), worker


def test_what_was_drained_since_it_was_told_of_is_not_waited_for(printed, capfd):
    """
    The last line of a call and its end may come at once; whoever waited here would never hear of another call.
    """
    output, worker = printed
    worker.write(b"line\nrest")

    output.drain()

    assert output.read()
    assert capfd.readouterr().out == "line\nrest"


def test_the_end_of_the_worker_is_told(printed):
    output, worker = printed
    worker.close()

    assert not output.read()
