"""Verbs on names whose connection breaks: what is made, or put, happens once; of what is removed it is said if it is not known."""

from __future__ import annotations

import io

import pytest

import pgstore
from pgstore import NetworkFileSystem, connection, errors
from pgstore.fs.model import ROOT
from tests.fixtures.nodes import LiveNodeFiles
from tests.fixtures.trees import assert_sound, content


@pytest.fixture
def nfs(own_database, proxy, monkeypatch):
    """One whose connections all lead through the proxy, and are not looked at before they are used."""
    monkeypatch.setattr(connection.blocking, "_FRESH_SECONDS", 60.0)
    with pgstore.Client(proxy.url(own_database)) as client:
        nfs = NetworkFileSystem.persist("nfs", client=client).hydrate()
        nfs.put_file(io.BytesIO(b"0"), "d/first")
        yield nfs
        assert_sound(own_database, nfs)


@pytest.mark.parametrize("side", ["from_client", "from_server"])
def test_what_is_made_is_made_once(nfs, proxy, side):
    files = LiveNodeFiles(nfs)
    files.file(b"first")
    for turn in range(10):
        proxy.cut_after(**{side: turn * 20})

        made = files.file(b"%d" % turn, data=b"x")

        assert files.look_up(ROOT, b"%d" % turn).ino == made
        assert len(files.listed()) == turn + 3


@pytest.mark.parametrize("side", ["from_client", "from_server"])
def test_a_small_put_happens_once(nfs, proxy, side):
    for turn in range(10):
        proxy.cut_after(**{side: turn * 20})

        nfs.put_file(io.BytesIO(b"%d" % turn), "d/f")

        assert content(nfs, "d/f") == b"%d" % turn
        assert nfs.stat("d/f").link_count == 1


def test_of_a_removal_without_answer_it_is_not_known_whether_it_happened(nfs, proxy):
    files = LiveNodeFiles(nfs)
    for name in (b"f", b"first"):
        files.file(name)
    files.remove(ROOT, b"first")  # so that the statement is prepared
    proxy.cut_after(from_server=0)

    with pytest.raises(errors.OutcomeUnknown):
        files.remove(ROOT, b"f")

    assert files.listed() in ([b"d"], [b"d", b"f"])
