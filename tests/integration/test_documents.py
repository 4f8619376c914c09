"""The code blocks of the documents are run as they stand there: SQL by psql, commands by a shell."""

from __future__ import annotations

import datetime as dt
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.documents import ROOT, blocks_of
from tests.fixtures.filled import filled

DOCUMENTS = ["README.md", "CHANGELOG.md", "sql/README.md"]
BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
RUN_HERE = [block for block in BLOCKS if block.run_by is None]
PRINTED = {
    block: below.text
    for block, below in itertools.pairwise(BLOCKS)
    if (block.language, below.language) == ("python", "text")
}


@pytest.fixture(scope="module")
def filled_database(server, migrated_template):
    """The URL of a database with something in every kind of store. Roles that its users make go with it."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        roles_before = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
    url = server.create_database(template=migrated_template)

    with filled(url):
        yield url

    server.drop_database(url)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")} - roles_before
        for role in sorted(roles):
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def environ(server, filled_database, tmp_path):
    """The environment of a reader: the programs of the server and of pgstore, and a database."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGSTORE_", "PG"))}
    programs = [Path(sys.executable).parent, server.bin_dir]
    return {
        **kept,
        "PATH": ":".join([*map(str, programs), kept["PATH"]]),
        "PGSTORE_URL": filled_database,
        "PGSTORE_SERVER_DIR": str(tmp_path / "server"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }


COMMANDS = {
    "sql": ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"],
    "sh": ["bash", "-e", "-u", "-o", "pipefail", "-s"],
    "python": [sys.executable, "-i", "-q"],  # as pasted: a line after the other, each answered before the next
}


def run(block, environ, folder, url):
    """Run *block* against *url*, and return what it printed."""
    command = COMMANDS[block.language]
    done = subprocess.run(
        [*command, url] if block.language == "sql" else command,
        input=block.text,
        env={**environ, "PGSTORE_URL": url},
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, re.findall("(?m)^.*(?:ERROR|Error|Traceback).*$", done.stderr)) == (0, []), done.stderr
    return done.stdout


# What the queries of sql/README.md answer about the database of tests/fixtures/filled.py: a part of it, and how many rows.
ANSWERS = {
    "1. Which stores are there, and how large are they?": ("main|volume|models|4|600", 8),
    "2. What takes the disk space?": ("chunk|", 10),
    "3. What is in a Dict?": ('limits|{"cpu": 2, "queues": ["fast", "slow"]}|', 4),
    "4. Which entries have a certain value?": ("limits|fast", 1),
    "5. What was changed last, in any Dict?": ("staging|settings|greeting|", 6),
    "6. What expires within the next two hours?": ("main|settings|token|", 1),
    "7. Who holds a lock of a Dict?": ("main|settings|nightly|", 1),
    "8. Which queues are behind?": ("main|tasks|4|", 2),
    "9. What waits in a queue, by partition?": ("later|1|", 2),
    "10. Which items come next?": ('|{"text": "a lamp", "order": 2}', 3),
    "11. What is being worked on, and until when?": ('|{"text": "a lamp", "order": 1}', 1),
    "12. What has failed for good, and why?": ('|the lamp is broken|{"text": "a lamp", "order": 0}', 1),
    "13. Which calls run, wait or have failed?": ("|example-outbox|send_mail|pending|0|", 1),
    "14. What is in a directory?": ("v1/weights.bin|file|300000|", 4),
    "15. Which files are the largest?": ("main|models|v1/weights.bin|293 kB", 5),
    "16. What does a file say?": ("12|300000|\\x", 1),
    "17. Which files contain a word?": ("v1/train.py", 1),
    "18. Which versions of a Volume are kept?": ("|t\n3|", 4),
    "19. What has changed between two versions?": ("v1/config.json|14|14", 3),
    "20. Which programs are there, and which transaction holds the others back?": ("|psql|", 2),
}


def test_the_sql_readme_has_twenty_queries():
    """
    Each has its answer above; one that is added must be added there.
    """
    headings = {block.heading for block in blocks_of("sql/README.md", "sql") if block.heading[0].isdigit()}

    assert headings == set(ANSWERS)
    assert len(ANSWERS) == 20


@pytest.mark.parametrize("question", ANSWERS)
def test_a_query_answers_its_question(question, environ, tmp_path):
    """
    A query that runs may still show nothing, or something else.
    """
    (block,) = (block for block in BLOCKS if block.heading == question)
    part, rows = ANSWERS[question]

    printed = run(block, environ, tmp_path, environ["PGSTORE_URL"])

    assert part in printed
    assert printed.count("\n") == rows


@pytest.mark.parametrize(
    "block",
    [block for block in RUN_HERE if block.language in COMMANDS and block.heading not in ANSWERS],
    ids=lambda block: block.id,
)
def test_what_a_document_shows_can_be_run(block, environ, request, tmp_path):
    """
    Views and commands change; their description must follow.
    """
    if block.language == "sh" or block.needs_empty_database:
        environ["OTHER_URL"] = request.getfixturevalue("empty_database")

    printed = run(block, environ, tmp_path, environ["OTHER_URL" if block.needs_empty_database else "PGSTORE_URL"])

    assert printed == PRINTED.get(block, printed)


def test_a_block_that_another_test_runs_names_one_that_there_is():
    """
    A test that was renamed no longer runs it.
    """
    named = [block.run_by.partition("::") for block in BLOCKS if block.run_by]

    assert [(file, name) for file, _, name in named if name and f"def {name}(" not in (ROOT / file).read_text()] == []


def test_the_test_command_is_that_of_ci():
    """
    Who checks a change runs the same.
    """
    (command,) = [block.text for block in BLOCKS if block.run_by == ".ci/run"]
    script = (ROOT / ".ci" / "run").read_text()

    for part in ("-m venv", "pip install", "-e '.[dev,embedded]'", "python -m pytest"):
        assert part in command
        assert part in script


def test_what_is_to_be_installed_can_be():
    """
    Extras change; so must every line that names one.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    texts = [path.read_text() for path in [*map(ROOT.joinpath, DOCUMENTS), *(ROOT / "pgstore").rglob("*.py")]]
    named = [
        found for text in texts for found in re.findall(r"pip install (?:-e )?['\"]?(?:pgstore|\.)\[([\w,]+)\]", text)
    ]

    assert len(named) > 5
    assert {extra for each in named for extra in each.split(",")} <= extras


@pytest.mark.parametrize("document", [*DOCUMENTS, "tests/README.md", "tests/benchmarks/README.md"])
def test_a_link_leads_to_a_file(document):
    """
    Links within the repository; there is no other host to ask.
    """
    targets = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / document).read_text())
    local = [target for target in targets if "://" not in target]

    assert [target for target in local if not ((ROOT / document).parent / target).exists()] == []


def test_the_commands_of_the_tests_readme_name_what_there_is():
    """
    They take minutes to hours, so that nothing runs them here.
    """
    (block,) = blocks_of("tests/README.md", "sh")
    modules = re.findall(r"python -m (tests\.[\w.]+)", block.text + (ROOT / "tests/README.md").read_text())
    markers = re.findall(r"pytest -m '?(?:not )?(\w+)", block.text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = {marker.partition(":")[0] for marker in project["tool"]["pytest"]["ini_options"]["markers"]}

    assert len(modules) > 4
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    assert {"slow", "buckets", "everyday"} == set(markers) <= known


def test_the_readme_names_every_extra_for_users():
    """
    It is where they are looked for.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"`(?:pgstore)?\[(\w+)\]`", (ROOT / "README.md").read_text()))

    assert named == set(project["optional-dependencies"]) - {"buckets", "docs", "test", "bench", "dev"}


def test_the_newest_section_of_the_changelog_is_dated_and_all_of_it_a_page():
    """
    It tells users what there is, and not how it came about.
    """
    text = (ROOT / "CHANGELOG.md").read_text()

    newest = re.findall(r"(?m)^## \[.+\] - (\S+)$", text)[0]

    assert newest == dt.date.fromisoformat(newest).isoformat()
    assert len(text.splitlines()) <= 80


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_section_of_a_document_says_something(document):
    """
    A heading that was made for later is a promise to the reader.
    """
    lines = [line for line in (ROOT / document).read_text().splitlines() if line]
    depth = [len(line) - len(line.lstrip("#")) if re.match("#+ ", line) else 0 for line in lines]

    assert [
        line for line, own, following in zip(lines, depth, [*depth[1:], 1], strict=True) if own and 0 < following <= own
    ] == []


def test_the_readme_is_short():
    """
    It invites; what is said at length has its place elsewhere.
    """
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_every_kind_of_block_is_run_by_something():
    """
    A language that nobody runs would be left out silently.
    """
    assert {block.language for block in RUN_HERE} <= {*COMMANDS, "text"}
