"""The end of a program: whatever it was, no worker, mount or directory of it is left, and soon."""

from __future__ import annotations

import signal
import time

import psycopg
import pytest

from pgstore import Volume
from tests.app.running import Programs
from tests.mount.conftest import is_alive

SOON = 6.0  # seconds, in which all is gone
SLOWLY = 5.0  # seconds more, for the machine

SLOW_COMMIT = """
import sys, time
import pgstore as modal
import pgstore.app.runner

sys.modules["pgstore.app.runner.runner"].END_SECONDS = 0.3
app = modal.App()
volume = modal.Volume.from_name("{name}")

@app.function(volumes={{"/data": volume}})
def work():
    with open("/data/file", "w") as file:
        file.write("written")
    print("written", flush=True)
    time.sleep(0.5)

if __name__ == "__main__":
    work.remote()
"""

PROGRAM = """
import os, signal, sys, time
import pgstore as modal

app = modal.App()
volume = modal.Volume.from_name("{name}")

@app.function(volumes={{"/data": volume}})
def work(name, stubborn):
    with open(f"/data/{{name}}", "w") as file:
        file.write("written")
    if stubborn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(os.getpid(), child, os.environ["TMPDIR"], flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(work.starmap([("yields", False), ("stubborn", True)]))
"""


@pytest.fixture
def started(database, default_client, store_name, tmp_path):
    """The program, with two workers at work: its process, theirs, and the Volume that they write to."""
    volume = Volume.from_name(store_name, create_if_missing=True).hydrate()
    (tmp_path / "program.py").write_text(PROGRAM.format(name=store_name))
    process = Programs(database, tmp_path).python("program.py", PGSTORE_PARALLELISM="2", TMPDIR=str(tmp_path))
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(2)]
    yield process, [int(pid) for line in lines for pid in line[:2]], volume
    process.kill()
    process.communicate()


def wait_until_gone(pids, seconds):
    give_up = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < give_up:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


def test_ctrl_c_ends_a_program_and_all_that_it_has_started(started, tmp_path):
    """
    A worker that ends when it is interrupted has committed what it wrote; one that has to be killed has not.
    """
    process, pids, volume = started
    begun = time.monotonic()

    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=30)

    assert time.monotonic() - begun < SOON + SLOWLY
    assert process.returncode in (-signal.SIGINT, 130), complaints
    assert wait_until_gone(pids, 0.5)
    assert [path.name for path in tmp_path.glob("pgstore-worker-*")] == []
    assert [entry.path for entry in volume.listdir("/")] == ["yields"]


def test_the_death_of_a_program_ends_its_workers_and_what_they_have_started(started, tmp_path):
    process, pids, volume = started

    process.kill()

    assert wait_until_gone(pids, SOON + SLOWLY)
    assert [path.name for path in tmp_path.glob("pgstore-worker-*")] == []
    assert volume.listdir("/") == []


LOCK_HEAD = """
SELECT FROM pgstore.file_system
 WHERE store_id = (SELECT id FROM pgstore.store WHERE name = %s)
   FOR UPDATE
"""


def test_bytes_that_are_being_committed_are_waited_for_until_the_second_ctrl_c(
    database, default_client, store_name, tmp_path
):
    volume = Volume.from_name(store_name, create_if_missing=True).hydrate()
    (tmp_path / "program.py").write_text(SLOW_COMMIT.format(name=store_name))
    with psycopg.connect(database) as connection:
        process = Programs(database, tmp_path).python("program.py")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        connection.execute(LOCK_HEAD, [store_name])

        process.send_signal(signal.SIGINT)
        said = next(line for line in process.stderr if "still being committed" in line)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, more = process.communicate(timeout=20)

    assert time.monotonic() - begun < SLOWLY
    assert said == "what the worker of work has written is still being committed; Ctrl-C discards it\n"
    assert "what the worker of work has not committed is discarded: 1 files below /data" in more
    assert volume.listdir("/") == []
