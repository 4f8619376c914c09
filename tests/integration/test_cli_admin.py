"""What `pgstore status`, `calls`, `gc`, `check`, `migrate` and `server` have in common: --env after the verb, and --json."""

from __future__ import annotations

import json
import uuid

import psycopg
import pytest

import pgstore
from pgstore import cli, migrate


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command and returns its exit code, what it printed, and what it complained about."""

    def run(*arguments):
        capsys.readouterr()
        code = cli.run(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def environment():
    """Of the test's own, on the shared database."""
    return f"test-{uuid.uuid4().hex[:12]}"


def test_status_calls_and_gc_take_the_environment_after_the_verb(run, database, environment):
    """
    It is the place where one thinks of it; before the command it still counts.
    """
    with pgstore.Client(database) as client:
        pgstore.Dict.from_name("it", environment_name=environment, create_if_missing=True, client=client).hydrate()

    after = run("--url", database, "status", "--env", environment, "--json")
    both = run("--url", database, "-e", "elsewhere", "status", "-e", environment, "--json")

    assert after == both
    assert [each["environment"] for each in json.loads(after[1])["stores"]] == [environment]
    assert run("--url", database, "calls", "-e", environment, "--json") == (0, "[]\n", "")
    assert run("--url", database, "gc", "--env", environment, "--json") == (0, "[]\n", "")
    assert "'it'" in run("--url", database, "gc", "it", "--env", environment)[2]
    for command in (["status"], ["calls"], ["gc"], ["worker", "x.py"], ["demo"], ["mount", "volume", "x", "/x"]):
        code, _, err = run("--url", database, *command, "-e", "two words")
        assert (code, "two words" in err) == (2, True), command


def test_gc_as_json_has_a_number_for_each_column(run, database, environment):
    with pgstore.Client(database) as client:
        volume = pgstore.Volume.from_name(
            "it", environment_name=environment, create_if_missing=True, client=client, keep=1
        )
        for number in range(3):
            volume.write_text("a", f"{number}" * 100_000)

    code, out, _ = run("--url", database, "gc", "it", "-e", environment, "--grace", "0", "--json")

    (found,) = json.loads(out)
    assert code == 0
    assert {name: found[name] for name in ("environment", "kind", "name")} == {
        "environment": environment,
        "kind": "volume",
        "name": "it",
    }
    assert all(type(value) is int for name, value in found.items() if name not in ("environment", "kind", "name"))


def test_check_as_json_says_what_was_found_and_done(run, own_database):
    """
    For monitoring, which reads no tables.
    """
    sound = run("--url", own_database, "check", "--json")
    with psycopg.connect(own_database) as connection:
        connection.execute("INSERT INTO pgstore.queue_item (store_id, payload) VALUES (1, '')")
    damaged = run("--url", own_database, "check", "--json")

    report = json.loads(sound[1])
    assert (sound[0], report["findings"], report["failures"], report["repairs"]) == (0, [], [], [])
    assert len(report["checks"]) > 10
    found = json.loads(damaged[1])["findings"]
    assert damaged[0] == 1
    assert [each["check"] for each in found] == ["orphans"]
    assert found[0]["rows"]


def test_migrate_as_json_says_what_it_did(run, empty_database):
    first = json.loads(run("--url", empty_database, "migrate", "--json")[1])
    second = json.loads(run("--url", empty_database, "migrate", "--json")[1])

    assert (first["before"], first["after"]) == (None, migrate.SCHEMA_REVISION)
    assert (second["before"], second["after"]) == (migrate.SCHEMA_REVISION, migrate.SCHEMA_REVISION)
    assert "pgstore_writer" in first["roles_granted"]
    assert "not both" in run("migrate", "--sql", "--json")[2]


def test_server_status_as_json(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PGSTORE_SERVER_DIR", str(tmp_path / "server"))

    code, out, _ = run("server", "status", "--json")

    found = json.loads(out)
    assert (code, found["running"], found["pid"]) == (1, False, None)
    assert found["directory"] == str(tmp_path / "server")
