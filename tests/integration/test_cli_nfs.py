"""`pgstore nfs`: what differs from `pgstore volume`, whose commands these are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pgstore import NetworkFileSystem
from pgstore.core.operation import Query
from pgstore.fs.notifications import WAITING, notice_head


@pytest.fixture
def nfs(client, commands, store_name):
    return NetworkFileSystem.from_name(
        store_name, environment_name=commands.environment, create_if_missing=True, client=client
    ).hydrate()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_network_file_system_from_its_creation_to_its_end(commands, store_name):
    created = commands.done("nfs", "create", store_name, "--storage", "large_object")
    again = commands.fails("nfs", "create", store_name)
    found = json.loads(commands.done("nfs", "info", store_name, "--json"))
    listed = [each["name"] for each in json.loads(commands.done("nfs", "list", "--json"))]
    commands.done("nfs", "delete", store_name, "--yes")

    assert f'pgstore.NetworkFileSystem.from_name("{store_name}")' in created
    assert again == f"NetworkFileSystem {store_name!r} exists already in environment {commands.environment!r}"
    assert (found["storage"], found["version"], found["versions_kept"]) == ("large_object", None, None)
    assert listed == [store_name]
    assert "`pgstore nfs list` shows" in commands.fails("nfs", "ls", store_name)


def test_put_replaces_what_is_there(commands, nfs, store_name, folder):
    """
    As Modal's does: one file system for several programs has no other state than the present one.
    """
    nfs.write_text("d/a.txt", "old")
    os.mkdir("d")
    (folder / "d/a.txt").write_text("new")

    commands.done("nfs", "put", store_name, "d")
    assert nfs.read_text("d/a.txt") == "new"

    commands.done("nfs", "put", store_name, "-", "/d/a.txt", stdin=b"newer")
    assert nfs.read_text("d/a.txt") == "newer"

    assert "no such option: -f" in commands.fails("nfs", "put", store_name, "d", "-f", code=2)


def test_files_go_about_and_out(commands, nfs, store_name, folder):
    for path in ("logs/a/x.txt", "logs/b/x.txt", "logs/b/y.bin"):
        nfs.write_text(path, path)

    commands.done("nfs", "get", store_name, "logs/*/*.txt", "here")
    commands.done("nfs", "cp", store_name, "logs/a/x.txt", "logs/b/y.bin", "logs")
    commands.done("nfs", "mv", store_name, "logs", "old")
    commands.done("nfs", "mkdir", store_name, "new")
    commands.done("nfs", "rm", store_name, "old/b", "-r")

    assert (folder / "here/a/x.txt").read_text() == "logs/a/x.txt"
    assert (folder / "here/b/x.txt").read_text() == "logs/b/x.txt"
    assert commands.in_bytes("nfs", "cat", store_name, "old/x.txt") == (0, b"logs/a/x.txt", "")
    assert sorted(commands.done("nfs", "ls", store_name, "-r").split()) == [
        "new", "old", "old/a", "old/a/x.txt", "old/x.txt", "old/y.bin"
    ]  # fmt: skip
    assert json.loads(commands.done("nfs", "du", store_name, "--json"))[-1] == {"path": "/", "files": 3, "size": 36}


def test_there_are_no_versions(commands, nfs, store_name):
    assert "--at" in commands.fails("nfs", "ls", store_name, "--at", "1", code=2)
    assert "--at" in commands.fails("nfs", "get", store_name, "x", "--at", "1", code=2)
    for verb in ("versions", "restore", "rename"):
        assert verb in commands.fails("nfs", verb, store_name, code=2)


def test_watch_prints_changes_as_they_come(commands, nfs, store_name):
    command = [sys.executable, "-c", "from pgstore.cli import main; main()"]
    command += ["--url", commands.url, "--env", commands.environment, "nfs", "watch", store_name]
    nfs.write_text("d/a.txt", "old")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        deadline = time.monotonic() + 30
        while not nfs._runner.run(_is_watched(nfs._runner.run(nfs._resolve_id()))):
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.01)
        nfs.write_text("d/two\nlines", "")
        seen = [process.stdout.readline()]
        with nfs.open("d/a.txt", "r+") as file:
            file.write("new")
        seen.append(process.stdout.readline())
        nfs.remove_file("d/a.txt")
        while "removed" not in seen[-1]:
            seen.append(process.stdout.readline())
            assert seen[-1], "it goes on until it is interrupted"
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)

    assert [*dict.fromkeys(seen)] == ['changed "d/two\\nlines"\n', "changed d/a.txt\n", "removed d/a.txt\n"]
    assert (process.returncode, rest, err) == (130, "", "")


def _is_watched(store_id):
    key, _ = notice_head(store_id)
    return bool((yield Query(WAITING, key)))
