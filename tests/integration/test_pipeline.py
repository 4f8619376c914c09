"""The pipeline of examples/: the main job, on small files, with a worker that dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

PIPELINE = Path(__file__).parents[2] / "examples" / "pipeline.py"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Sixty small files in three directories, each of its own number of lines and words."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(60):
        file = folder / f"part{number % 3}" / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("some words in a line\n" * number + "unfinished")
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "ignored.txt").write_text("not of this library\n")
    return folder


@pytest.fixture
def environ(database):
    return {**os.environ, "PGSTORE_URL": database, "NO_COLOR": "1", "COLUMNS": "120"}


def run(environ, *arguments):
    command = [sys.executable, str(PIPELINE), *map(str, arguments)]
    return subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=120)


def totals(output):
    """The rows of the table of totals, as numbers."""
    rows = [
        re.findall(r"[\d,]+", line.partition("│")[2])
        for line in output.splitlines()
        if re.search(" the Dict|Volume |themselves", line)
    ]
    return [tuple(int(number.replace(",", "")) for number in row) for row in rows]


def pipeline_stores(url):
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT kind, entries FROM pgstore.store_sizes WHERE name LIKE 'pipeline-%'"
        ).fetchall()


def test_a_killed_worker_loses_nothing_and_doubles_nothing(environ, database, texts):
    """
    What no other storage layer of this kind can do: a call, its file, its report and what it counts are one.
    """
    done = run(environ, texts, "--workers", 3, "--kill")

    assert done.returncode == 0, done.stderr
    assert (
        len(re.findall(r"^worker-\d+ is killed, with part\d/\d+.txt all but committed$", done.stdout, re.MULTILINE))
        == 1
    )
    assert re.findall(r"│ done  │ +(\d+) │ +(\d+) │", done.stdout) == [("1", "59"), ("2", "1")]
    lines = sum(range(60))
    assert totals(done.stdout) == [(60, lines, 5 * lines + 60)] * 3
    assert pipeline_stores(database) == []


def test_stores_that_are_kept_can_be_read_with_sql(environ, own_database, texts):
    """
    And hold what was asked for, no more.
    """
    environ["PGSTORE_URL"] = own_database

    done = run(environ, texts, "--workers", 1, "--limit", 7, "--pattern", "1*.txt", "--keep")

    assert done.returncode == 0, done.stderr
    assert sorted(pipeline_stores(own_database)) == [("dict", 3), ("queue", 0), ("volume", 7), ("volume", 7)]


def test_workers_do_not_wait_for_each_other(environ, own_database, texts):
    """
    Calls that sleep in their transactions are made four at a time: nothing of a store is locked until the commit.
    """
    environ["PGSTORE_URL"] = own_database
    sleep_seconds, tasks = 0.5, 24

    done = run(environ, texts, "--workers", 4, "--limit", tasks, "--sleep", sleep_seconds, "--keep")

    assert done.returncode == 0, done.stderr
    commits = commit_times(own_database)
    assert len(commits) == tasks
    # The quickest half of them in a row: how long processes take to start is not the question. One worker sleeps at least so long:
    half = tasks // 2
    one_worker = half * sleep_seconds
    four_workers = min(last - first for first, last in zip(commits, commits[half:], strict=False))
    assert one_worker / four_workers >= 2


def commit_times(url):
    """When each report was committed, in seconds, by the server's clock."""
    statement = """
        SELECT extract(epoch FROM v.committed_at)::float8
          FROM pgstore.store s
          JOIN pgstore.volume_version v ON v.store_id = s.id
         WHERE s.name LIKE '%-reports'
         ORDER BY 1
    """
    with psycopg.connect(url) as connection:
        return [seconds for (seconds,) in connection.execute(statement)]


def test_files_that_do_not_exist_are_said_before_anything_is_stored(environ, database, tmp_path):
    """
    An empty run would look like a success.
    """
    missing = run(environ, tmp_path / "missing")
    empty = run(environ, tmp_path)

    assert missing.returncode == 1
    assert missing.stderr == f"error: [Errno 2] No such file or directory: '{tmp_path / 'missing'}'\n"
    assert empty.returncode == 2
    assert empty.stderr == f"error: there is no file '*' in {tmp_path}\n"
    assert pipeline_stores(database) == []


def test_files_without_a_name_in_them_are_counted_too(environ, database, tmp_path):
    """
    A table without rows is a table.
    """
    (tmp_path / "numbers").write_text("1 2\n")

    done = run(environ, tmp_path, "--workers", 1)

    assert done.returncode == 0, done.stderr
    assert "The totals agree" in done.stdout


def test_an_interrupted_pipeline_leaves_no_stores_and_no_workers(environ, own_database, texts):
    """
    Ctrl-C in a terminal reaches the parent and all workers.
    """
    environ["PGSTORE_URL"] = own_database
    command = [sys.executable, PIPELINE, texts, "--workers", "2", "--sleep", "0.5"]
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for_reports(own_database)

        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    assert process.returncode == 130, err
    assert re.fullmatch(r"pgstore: \d+ spawned calls were cancelled\n", err)
    assert pipeline_stores(own_database) == []
    wait_for_silence(own_database)


def wait_for_silence(url):
    """Until nobody else is connected; a killed process is, until the server has noticed."""
    deadline = time.monotonic() + 10
    others = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        while left := connection.execute(others).fetchall():
            assert time.monotonic() < deadline, f"still connected: {left}"
            time.sleep(0.02)


def wait_for_reports(url):
    deadline = time.monotonic() + 60
    while not any(kind == "dict" and entries for kind, entries in pipeline_stores(url)):
        assert time.monotonic() < deadline, "no call has ended"
        time.sleep(0.05)
