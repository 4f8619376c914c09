"""Released revisions stay as they are, and what a release has made of a database can be upgraded, and is read by this code."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from pgstore import migrate
from pgstore.admin.check import run_checks
from tests.migration import baseline, release, release_data
from tests.migration.conftest import HEAD, ROOT

PSQL = ["-X", "-q", "-o", os.devnull, "-v", "ON_ERROR_STOP=1", "-1"]


@pytest.fixture(scope="module", params=release.released())
def upgraded(server, request):
    """A version, the URL of a database that it has made and filled, and what the upgrade to the newest schema has reported."""
    url = server.create_database()
    dump = release.RELEASES / f"{request.param}.sql"
    subprocess.run([server.bin_dir / "psql", *PSQL, "-f", dump, url], check=True, capture_output=True)
    yield request.param, url, migrate.upgrade(url, roles=None)
    server.drop_database(url)


def test_every_release_has_a_dump_and_what_is_in_it():
    """
    What is not frozen when a version is released cannot be made up for later.
    """
    assert "0.1.0" in release.released()
    assert release.released() == sorted(path.stem for path in release.RELEASES.glob("*.json"))


def test_the_database_of_a_release_comes_to_the_schema_as_described(upgraded, cluster):
    """
    As a dump writes it: what was restored from one puts other brackets into checks.
    """
    _, url, report = upgraded
    options = ("--no-owner", "--no-privileges")
    written, described = cluster.database(), cluster.database()
    cluster.psql(written, (ROOT / "sql" / "schema.sql").read_text())
    cluster.psql(described, cluster.dump(written, *options))

    assert (report.before in [f"{number:04}" for number in range(1, int(HEAD) + 1)], report.after) == (True, HEAD)
    assert cluster.dump(url, *options) == cluster.dump(described, *options)


def test_what_a_release_has_written_is_read(upgraded, monkeypatch):
    """
    Values, order, versions, attributes: what people have stored, and not only that there is a table for it.
    """
    monkeypatch.setenv("PGSTORE_SECRET_KEY", release_data.SECRET_KEY)
    version, url, _ = upgraded
    written = json.loads((release.RELEASES / f"{version}.json").read_text())

    read = release_data.read(url)

    assert {name: read[name] for name in written} == written
    assert run_checks(url).is_healthy


def test_a_released_revision_is_as_it_was():
    """
    It has run in databases of others: a change would reach none of them. It belongs into a new revision.
    """
    assert {name: release.revision_sums().get(name) for name in release.frozen_sums()} == release.frozen_sums()
    assert "alembic/versions/0001_baseline.sql" in release.frozen_sums()


def test_a_revision_that_was_changed_is_noticed(monkeypatch, tmp_path):
    """
    Also by one blank.
    """
    (tmp_path / "alembic" / "versions").mkdir(parents=True)
    for name in release.frozen_sums():
        (tmp_path / name).write_bytes((ROOT / name).read_bytes() + b" ")
    monkeypatch.setattr(release, "ROOT", tmp_path)

    assert release.revision_sums().keys() == release.frozen_sums().keys()
    assert release.revision_sums().items().isdisjoint(release.frozen_sums().items())


def test_the_first_revision_is_not_written_anew():
    with pytest.raises(SystemExit, match="0001_baseline.sql was released: a change of the schema is a new revision"):
        baseline.main()


def test_a_version_is_frozen_once():
    with pytest.raises(SystemExit, match="0.1.0 has a dump already: a release is made once"):
        release.freeze("0.1.0")
