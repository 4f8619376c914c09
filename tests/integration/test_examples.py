"""The examples, run as a reader runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgstore.mount import attach
from tests.mount.conftest import skip_without_fuse

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LINES_MAX = 40

PRINTED = {
    "quickstart.py": "hello world {'greeting': 'hello', 'last': 'world'} [(1,)]\nmoon\n",
    "own_tables.py": ("out of tables\n[(1, 'a lamp')]\n[{'order': 1, 'text': 'thank you for ordering a lamp'}]\n"),
    "async_queue.py": "".join(f"{number} {number**2}\n" for number in range(6)),
    "functions.py": "[3, 3] 6\n",
    "mount.py": "b'apple\\nfig\\npear\\n' 3\nb'hello\\n'\n",
    "pandas_parquet.py": "{'rows': 3} 21\nweather.csv\n",
    "sqlalchemy_session.py": "['ann'] ['ann']\n",
    "outbox.py": "mail about order 1: sent\nnothing was ordered\n[('send_mail', 'done')]\n",
}


def run(file, url):
    environ = {**os.environ, "PGSTORE_URL": url, "PYTHONWARNINGS": "error"}
    return subprocess.run([sys.executable, file], check=False, env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_and_prints_what_it_promises(name, own_database):
    """
    An example that does not run teaches the wrong thing.
    """
    if name in ("mount.py", "functions.py"):
        skip_without_fuse(attach.is_possible())

    done = run(EXAMPLES / name, own_database)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PRINTED[name]


def test_every_example_is_run_by_a_test():
    """
    One that is added must be added here.
    """
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTED, "pipeline.py"}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_is_one_idea(name):
    """
    Short enough to be read standing.
    """
    assert len((EXAMPLES / name).read_text().splitlines()) <= LINES_MAX


def test_the_pipeline_is_a_page_or_five():
    """
    It is read more often than run.
    """
    assert len((EXAMPLES / "pipeline.py").read_text().splitlines()) < 250


def test_the_readme_shows_the_quickstart_as_it_runs():
    """
    Pasted from the README, it works.
    """
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = (EXAMPLES / "quickstart.py").read_text()

    assert example.partition('"""\n\n')[2] == blocks[0]
