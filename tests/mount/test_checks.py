"""The checks of every verb, on files in memory that are mounted: as root and as another user, kept by the kernel and not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.checks.comparison import compare
from tests.mount.checks.exerciser import exercise
from tests.mount.checks.run import COMMON, ROOTS
from tests.mount.checks.tools import USER
from tests.mount.conftest import memory_mounting

KINDS = {
    "kept": (),
    "asked for each time": ("--seconds", "0"),
    "answered by another thread": ("--waits", "--shares-locks"),
}


@pytest.fixture(scope="module", params=KINDS)
def mounted(request, fuse):
    with memory_mounting() as mount:
        yield mount(*KINDS[request.param]).directory


def run(directory: Path, *options: str) -> dict[str, str | None]:
    """How each check failed, or None; by its name."""
    command = [sys.executable, "-m", "tests.mount.checks.run", str(directory), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return {result["check"]: result["failure"] for result in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def results(mounted):
    here = mounted / "first"
    here.mkdir()
    return run(here)


@pytest.fixture(scope="module")
def results_of_a_user(mounted):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    here = mounted / "second"
    here.mkdir()
    os.chown(here, USER, USER)
    return run(here, "--user", str(USER))


@pytest.mark.parametrize("name", COMMON)
def test_verbs_do_what_posix_says(results, name):
    assert results[name] is None, results[name]


@pytest.mark.parametrize("name", ROOTS)
def test_users_may_do_what_modes_say(results, name):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    assert results[name] is None, results[name]


@pytest.mark.parametrize("name", COMMON)
def test_verbs_do_what_posix_says_for_a_user(results_of_a_user, name):
    assert results_of_a_user[name] is None, results_of_a_user[name]


@pytest.mark.parametrize("seed", range(4))
def test_random_reads_writes_truncations_and_maps_agree_with_a_model(mounted, seed):
    exercise(mounted / "exercised", seed=seed, operations=1500)


@pytest.mark.parametrize("seed", range(2))
def test_what_one_name_of_a_file_closes_another_opens(mounted, seed):
    first, second = mounted / f"first{seed}", mounted / f"second{seed}"
    first.touch()
    os.link(first, second)

    exercise(first, second, seed=seed, operations=500)


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_of_a_tree_do_what_they_do_to_a_local_disk(mounted, tmp_path, seed):
    (mounted / f"tree{seed}").mkdir()

    compare(mounted / f"tree{seed}", tmp_path, seed=seed, operations=1500)


def test_a_tree_that_differs_is_found(tmp_path, monkeypatch):
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: None if "wrong" in str(path) else unlink(path))
    (tmp_path / "wrong").mkdir()
    (tmp_path / "right").mkdir()

    with pytest.raises(AssertionError):
        compare(tmp_path / "wrong", tmp_path / "right", seed=1, operations=300)


def test_a_wrong_byte_is_found(tmp_path, monkeypatch):
    """
    Else the exerciser would agree with anything.
    """
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[:-1] + b"?", offset))

    with pytest.raises(AssertionError, match="byte"):
        exercise(tmp_path / "file", seed=1, operations=300)


def test_a_check_that_fails_is_reported(tmp_path):
    (tmp_path / "check_unlink").mkdir()

    assert "FileExistsError" in (run(tmp_path, "check_unlink")["check_unlink"] or "")
