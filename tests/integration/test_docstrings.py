"""The examples in docstrings are run as a reader of `help` would: each on a database of its own."""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore.serializers.keys import encode_key

ROOT = Path(__file__).parents[2]
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
OF_BUCKETS = {"pgstore.cloud_bucket_mount.CloudBucketMount"}


def documented():
    """
    All docstrings of the package that have examples, as doctests by their names: "pgstore.queue.take.Taking.get".

    Read from the files: operations are no functions, so that doctest would not find theirs.
    """
    found = {}
    parser = doctest.DocTestParser()
    for path in sorted((ROOT / "pgstore").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        outer: list[tuple[str, Any]] = [(module, ast.parse(path.read_text()))]
        while outer:
            name, node = outer.pop()
            if text := ast.get_docstring(node):
                example = parser.get_doctest(text, {}, name, str(path), node.body[0].lineno)
                if example.examples:
                    found[name] = example
            outer += [(f"{name}.{inner.name}", inner) for inner in node.body if isinstance(inner, DEFINITIONS)]
    return found


EXAMPLES = documented()


@pytest.fixture
def reader(own_database, monkeypatch, tmp_path):
    """The names that the examples take for granted, in a folder with the file weights.bin, with tables `log` and `model`."""
    with psycopg.connect(own_database) as connection:
        connection.execute("CREATE TABLE log (task text); CREATE TABLE model (version bigint)")
    (tmp_path / "weights.bin").write_bytes(b"weights")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pgstore.Client(own_database) as client:
        monkeypatch.setattr("pgstore.client.default._default", client)
        queue = pgstore.Queue.persist("queue")
        queue.put("an item")
        tasks = pgstore.Queue.persist("my-tasks")
        tasks.put("a task")
        yield {name: getattr(pgstore, name) for name in pgstore.__all__} | {
            "pgstore": pgstore,
            "Path": Path,
            "encode_key": encode_key,
            "queue": queue,
            "tasks": tasks,
            "results": pgstore.Dict.persist("my-results"),
            "volume": pgstore.Volume.persist("my-volume"),
            "work": lambda item: None,
        }


def check(example, names):
    """Run *example*, and fail with what doctest says."""
    said: list[str] = []
    example.globs = dict(names)
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(example, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - OF_BUCKETS))
def test_an_example_in_a_docstring_gives_what_it_says(name, reader):
    """
    It is what a reader tries first.
    """
    if name == "pgstore.fsspec":
        reader["pandas"] = pytest.importorskip("pandas")

    check(EXAMPLES[name], reader)


@pytest.mark.parametrize("name", sorted(OF_BUCKETS))
def test_an_example_with_a_bucket_gives_what_it_says(name, s3, moto_server, reader, monkeypatch, tmp_path):
    """
    The same, on an emulator.
    """
    s3.create_bucket(Bucket="my-data")
    for key in ("2026/jan/a.csv", "2026/jan/b.csv", "2025/c.csv"):
        s3.put_object(Bucket="my-data", Key=key, Body=b"a,b\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    monkeypatch.setenv("PGSTORE_SECRETS_DIR", str(tmp_path))
    (tmp_path / "aws-credentials.env").write_text("AWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=secret\n")

    check(EXAMPLES[name], reader)


def test_every_store_has_an_example_in_its_docstring():
    """
    `help(pgstore.Queue)` begins with one.
    """
    stores = {
        pgstore.Dict,
        pgstore.Queue,
        pgstore.Volume,
        pgstore.NetworkFileSystem,
        pgstore.CloudBucketMount,
    }

    assert {store.__name__ for store in stores} <= {name.rpartition(".")[2] for name in EXAMPLES}


def test_the_program_in_the_docstring_of_app_runs(own_database, tmp_path):
    """
    It is what somebody who comes from Modal tries first.
    """
    (program,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(pgstore.App) or "", re.DOTALL)
    (tmp_path / "count.py").write_text(program)
    environ = {**os.environ, "PGSTORE_URL": own_database, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "pgstore", "run", "count.py", "--words", "5"]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
