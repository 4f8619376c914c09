"""The examples, run as a reader runs them: all of them once, two at a time, on one database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pgstore.mount import attach
from tests.mount.conftest import skip_without_fuse

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LINES_MAX = 66
NEED_FUSE = {"mount.py", "functions.py"}

PRINTED = {
    "quickstart.py": "hello world {'greeting': 'hello', 'last': 'world'} [(1,)]\nmoon\n",
    "own_tables.py": ("out of tables\n[(1, 'a lamp')]\n[{'order': 1, 'text': 'thank you for ordering a lamp'}]\n"),
    "async_queue.py": "".join(f"{number} {number**2}\n" for number in range(6)),
    "functions.py": "[3, 3] 6\n",
    "mount.py": "b'apple\\nfig\\npear\\n' 3\nb'hello\\n'\n",
    "pandas_parquet.py": "{'rows': 3} 21\nweather.csv\n",
    "sqlalchemy_session.py": "['ann'] ['ann']\n",
    "outbox.py": "mail about order 1: sent\nnothing was ordered\n[('send_mail', 'done')]\n",
    "fastapi_orders.py": (
        "ordered {'detail': 'nothing was ordered'}\n[(1, 'lamp')] one lamp\n 404\ncancelled [1, 'lamp was cancelled']\n"
    ),
    "flask_orders.py": "ordered 422\n[(1, 'lamp')] [1] one lamp\n 404\n",
    "django_orders.py": "nothing was ordered\n1 order [{'order': 1}] one lamp\n",
    "celery_orders.py": (
        "nothing was ordered\nto the customer of order 1: one lamp: 5 EUR | [(1, 'one lamp: 5 EUR')] 0\n"
        "\nworker: Warm shutdown (MainProcess)\n"
    ),
    "trigger_worker.py": "thank you, ann | thank you, bob | 0 left\n[(1, True), (2, True)]\n",
    "memoize_cache.py": ("{'all that was sold in June'} computed 1 time\nall that was sold in June computed 2 times\n"),
    "crawler.py": "['/', '/a', '/b', '/c', '/deadly'] killed: 1\n",
    "dataset_versions.py": "slope 3.0, error 0.0\nslope 5.0, error 0.0\n",
    "nfs_processes.py": "ann True\nbob True\n",
    "bucket_sync.py": (
        "[('data/readme.txt', 5), ('data/days/1.csv', 5), ('data/days/2.csv', 5)]\n"
        "[('data/days/1.csv', 5), ('data/days/2.csv', 7)]\n"
    ),
}
# Celery says so to root, whom tests in containers run as.
ALLOWED_WARNINGS = {"celery_orders.py": ",ignore:You're running the worker with superuser privileges"}


def test_the_readme_says_what_to_install_for_the_examples():
    """
    A reader with pgstore alone would meet ModuleNotFoundError.
    """
    command = re.search(r"^pip install (.*)$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert command
    named = set(re.findall(r"\w+", command[1]))
    comes_with = {"psycopg", "sqlalchemy", "rich"}  # pgstore

    imported = {
        name
        for path in EXAMPLES.glob("*.py")
        for name in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE)
        if name not in sys.stdlib_module_names
    }

    assert imported - named - comes_with == set()


@pytest.fixture(scope="module")
def examples_database(server, migrated_template) -> Iterator[str]:
    """The URL of a database for all of them: their stores have names of their own."""
    url = server.create_database(template=migrated_template)
    yield url
    server.drop_database(url)


def run(name: str, url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "PGSTORE_URL": url,
        "PYTHONUNBUFFERED": "1",  # what processes print comes in the order in which they do, as in a terminal
        "PYTHONWARNINGS": "error" + ALLOWED_WARNINGS.get(name, ""),
        **variables,
    }
    return subprocess.run(
        [sys.executable, EXAMPLES / name], check=False, env=environ, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def runs(request, examples_database) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Those of the examples that are to be tested, under way: most of their time some do nothing but wait."""
    test = test_an_example_runs_and_prints_what_it_promises.__name__
    wanted = [item.callspec.params["name"] for item in request.session.items if item.name.startswith(test)]
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(run, name, examples_database)
            for name in wanted
            if name not in NEED_FUSE or attach.is_possible() is None
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_and_prints_what_it_promises(name, runs):
    """
    An example that does not run teaches the wrong thing.
    """
    if name in NEED_FUSE:
        skip_without_fuse(attach.is_possible())

    done = runs[name].result()

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PRINTED[name]


def test_the_notebook_runs(examples_database, monkeypatch):
    """
    Cell by cell, in a kernel, as people do.
    """
    monkeypatch.setenv("PGSTORE_URL", examples_database)
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)

    NotebookClient(notebook, timeout=60).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert 'progress max="355" value="355"' in outputs[0]["data"]["text/html"]
    assert "weather/4.csv    27" in outputs[-1]["data"]["text/plain"]


def test_the_tests_of_a_program_pass(server):
    """
    As its authors run them; the fixtures are those of an installed pgstore.
    """
    options = {
        "PYTEST_ADDOPTS": "-p pgstore.pytest_plugin -W error",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # those of this machine take longer than the tests
        "PYTHONPATH": str(ROOT),
    }

    done = run("pytest_rollback.py", server.url(), PGSTORE_TEST_URL=server.url(), **options)

    assert "3 passed" in done.stdout, done.stdout
    assert done.returncode == 0


def test_the_notebook_is_kept_without_outputs():
    """
    They would change with each run, and whoever reads a change sees nothing else.
    """
    for cell in nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4).cells:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")


def test_every_example_is_run_by_a_test():
    """
    One that is added must be added here.
    """
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        *PRINTED,
        "pipeline.py",
        "notebook.ipynb",
        "pytest_rollback.py",
        "README.md",
    }


def test_the_readme_of_the_examples_names_each():
    """
    What is not named is not found.
    """
    named = re.findall(r"\]\((\w+\.(?:py|ipynb))\)", (EXAMPLES / "README.md").read_text())

    assert set(named) == {*PRINTED, "pipeline.py", "notebook.ipynb", "pytest_rollback.py"}


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
