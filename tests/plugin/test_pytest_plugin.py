"""The fixtures that programs test themselves with, each in a run of pytest of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import psycopg
import pytest

from pgstore.embedded import throw_away_server

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("program.py")
NAMES = re.findall(r"^(?:async )?def (test_\w+)", PROGRAM.read_text(), re.MULTILINE)

# As an entry point; where pgstore is installed with its own, so are all others, which takes as long as the rest of a run.
OPTIONS = "-p pgstore.pytest_plugin -p no:cacheprovider -W error"
INSTALLED = "-p no:cacheprovider -W error -o asyncio_default_fixture_loop_scope=function"
ASYNCHRONOUS = (
    *("-p", "anyio.pytest_plugin", "-p", "pytest_asyncio.plugin"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
)


def run(
    folder: Path, *options: str, url: str | None = None, installed: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PGSTORE"))}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, *([installed] if installed else ()))))
    if url is not None:
        environment["PGSTORE_TEST_URL"] = url
    if installed is None:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    chosen = OPTIONS if installed is None else INSTALLED
    command = [sys.executable, "-m", "pytest", *chosen.split(), *options]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("program")


@pytest.fixture(scope="module")
def said(folder, server) -> str:
    """What a run of the program's tests has said, test by test."""
    (folder / "test_program.py").write_text(PROGRAM.read_text())
    return run(folder, *ASYNCHRONOUS, "-v", f"--junitxml={folder / 'times.xml'}", url=server.url()).stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_test_of_a_program_passes(said, name):
    outcomes = re.findall(rf"::{name}(?:\[.*?\])? (\w+)", said)

    assert outcomes, said
    assert {"PASSED"} == set(outcomes), said


def test_a_transaction_adds_less_than_five_milliseconds_to_a_test(said, folder):
    """
    The best of many: other tests use the machine as well.
    """
    cases = ET.parse(folder / "times.xml").iter("testcase")
    seconds = [float(case.attrib["time"]) for case in cases if case.attrib["name"].startswith("test_that_does_nothing")]

    assert len(seconds) == 30, said
    assert min(seconds) <= 0.005


def test_databases_are_dropped_at_the_end(said, server):
    with psycopg.connect(server.url()) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'pgstore_test_%'").fetchall()

    assert "passed" in said
    assert found == []


A_TEST = """
import pgstore

def test_it(pgstore_transaction):
    pgstore.Dict.from_name("d", create_if_missing=True)["k"] = 1
"""


def test_without_a_url_a_server_is_made_for_the_run_and_goes_with_it(tmp_path):
    (tmp_path / "test_it.py").write_text(A_TEST + "    import os; print('URL', os.environ['PGSTORE_URL'])\n")

    ran = run(tmp_path, "-s")

    assert "1 passed" in ran.stdout, ran.stdout
    directory = re.search(r"URL.*host=(\S+?)/run", ran.stdout)
    assert directory is not None, ran.stdout
    assert not Path(directory[1]).exists()


def test_each_worker_of_xdist_has_its_own_database(tmp_path, server):
    test = (
        "import os, pathlib\n"
        + A_TEST
        + "    pathlib.Path(os.environ['PGSTORE_URL'].split('dbname=')[-1].split()[0]).touch()\n"
    )
    (tmp_path / "test_a.py").write_text(test)
    (tmp_path / "test_b.py").write_text(test)

    ran = run(tmp_path, "-p", "xdist.plugin", "-n", "2", "--dist", "loadfile", url=server.url())

    assert "2 passed" in ran.stdout, ran.stdout
    assert len(list(tmp_path.glob("pgstore_test_*"))) == 2


def test_a_role_that_may_not_create_databases_is_told_what_to_do(tmp_path, server):
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE without_rights LOGIN")
    (tmp_path / "test_it.py").write_text(A_TEST)

    ran = run(tmp_path, url=server.url().replace("postgres@", "without_rights@"))

    assert "AccessDenied" in ran.stdout
    assert "run `ALTER ROLE … CREATEDB`, or unset PGSTORE_TEST_URL" in ran.stdout


def test_where_pgstore_is_installed_pytest_finds_the_fixtures_by_itself(tmp_path, server):
    """
    By the entry point of the distribution, whose modules it then loads in its own way, with assertions that tell more.
    """
    metadata = tmp_path / "site" / "pgstore-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: pgstore\nVersion: 0.1.0\n")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    lines = [f"{name} = {module}" for name, module in declared.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    modules = (path.relative_to(ROOT) for path in (ROOT / "pgstore").rglob("*.py"))
    (metadata / "RECORD").write_text("".join(f"{module},,\n" for module in modules))
    (tmp_path / "test_it.py").write_text(A_TEST)

    ran = run(tmp_path, url=server.url(), installed=metadata.parent)

    assert "1 passed" in ran.stdout, ran.stdout


def test_a_run_that_uses_no_fixture_imports_no_driver(tmp_path):
    (tmp_path / "test_it.py").write_text("import sys\ndef test_it():\n    assert 'psycopg' not in sys.modules\n")

    assert "1 passed" in (ran := run(tmp_path)).stdout, ran.stdout


def test_a_server_for_tests_goes_with_the_program_that_is_killed():
    program = "from pgstore.embedded import throw_away_server as t\nwith t() as url: print(url, flush=True); input()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        psycopg.connect(url).close()
        directory = Path(url.partition("host=")[2].partition("/run")[0])
        assert directory.is_dir()
        process.send_signal(signal.SIGKILL)

    until = time.monotonic() + 30
    while directory.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not directory.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_a_server_for_tests_does_not_wait_for_the_disk():
    with throw_away_server() as url, psycopg.connect(url) as connection:
        settings = [connection.execute(f"SHOW {name}").fetchone() for name in ("fsync", "synchronous_commit")]

    assert settings == [("off",), ("off",)]


def test_the_example_of_its_docstring_passes(server, tmp_path):
    """
    It is what a reader tries first.
    """
    text = (ROOT / "pgstore" / "pytest_plugin.py").read_text().partition("from __future__")[0]
    (example,) = re.findall(r"(?m)^ {4}def test_.*\n(?: {8}.*\n|\n(?= {8}))+", text)
    program = 'import pgstore\n\n\ndef count_visit(page):\n    pgstore.Dict.persist("visits").increment(page)\n\n\n'
    (tmp_path / "test_visits.py").write_text(program + textwrap.dedent(example))

    done = run(tmp_path, "-q", url=server.url())

    assert (done.returncode, done.stdout.splitlines()[-1].partition(" in ")[0]) == (0, "1 passed"), done.stdout
