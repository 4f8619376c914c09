"""What downloads leave on this machine."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from pgstore.files.local import Target


def test_a_target_that_nobody_has_any_more_leaves_nothing(tmp_path):
    """
    The call that opened it was cancelled, so nobody was given it to abandon it.
    """
    (tmp_path / "file").write_bytes(b"old")
    target = Target(tmp_path / "file", 0o644)
    target.write([b"new"])
    assert len(list(tmp_path.iterdir())) == 2

    del target
    gc.collect()

    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_target_is_closed_when_the_call_that_is_at_work_is_done(tmp_path):
    """
    The number of a file that is closed is given to the next one that is opened, which must not get the bytes.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    target = Target(pipe, 0o644)
    data = os.urandom(1 << 20)  # more than a pipe holds
    thread = threading.Thread(target=target.write, args=([data],))
    thread.start()
    os.set_blocking(reader, True)
    got = os.read(reader, 1)

    target.abandon()

    while len(got) < len(data):
        got += os.read(reader, 1 << 16)
    thread.join()
    assert got == data
    assert os.read(reader, 1) == b""  # closed
    os.close(reader)


@pytest.mark.parametrize("name", ["\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 85, "x" * 255])
def test_the_longest_names_can_be_written(tmp_path, name):
    """
    A file has another name while it is incomplete, which may not be longer.
    """
    target = Target(tmp_path / name, 0o644)
    target.write([b"data"])
    target.finish(4)

    assert (tmp_path / name).read_bytes() == b"data"
