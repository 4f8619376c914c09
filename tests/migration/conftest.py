"""Databases, logins and roles of a cluster for one test, all gone after it; and a revision that does not exist yet."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgstore import migrate
from tests.fixtures.server import Server

ROOT = Path(__file__).parents[2]
HEAD = migrate.SCHEMA_REVISION  # also while `next_revision` has the code one further on


class Cluster:
    """A server as its administrator sees it. Names are by chance: roles are shared by all databases and all tests."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._databases: list[str] = []
        self._roles: list[str] = []

    def database(self, options: str = "TEMPLATE template0") -> str:
        """Create a database and return its URL, of a superuser."""
        name = f"migration_{uuid.uuid4().hex[:12]}"
        self.server.execute(sql.SQL("CREATE DATABASE {} ").format(sql.Identifier(name)) + sql.SQL(options))
        self._databases.append(self.server.url(name))
        return self._databases[-1]

    def login(self, options: str = "") -> str:
        """Create a role that may log in, and return its name, which needs quoting."""
        name = f"Login-{uuid.uuid4().hex[:12]}"
        self.server.execute(sql.SQL("CREATE ROLE {} LOGIN ").format(sql.Identifier(name)) + sql.SQL(options))
        self._roles.append(name)
        return name

    def roles(self) -> migrate.Roles:
        """Return names for roles, none of which exist."""
        unique = uuid.uuid4().hex[:12]
        roles = migrate.Roles(f"Reader {unique}", f"Writer {unique}", f"Owner {unique}")
        self._roles[:0] = roles  # dropped first: logins have granted membership in them
        return roles

    def create(self, roles: migrate.Roles) -> None:
        """Create what `roles` named, as a DBA would."""
        for name in roles:
            self.server.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))

    def grant(self, right: str, role: str) -> None:
        """Grant a role to another."""
        self.server.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(right), sql.Identifier(role)))

    def execute(self, url: str, statement: str, *parameters: object) -> list[tuple]:
        """Run one statement and return its rows, if it has any."""
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def psql(self, url: str, script: str) -> str:
        """Run a script as DBAs do, and return what it printed."""
        command = [str(self.server.bin_dir / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout + done.stderr

    def dump(self, url: str, *options: str) -> str:
        """Return the definition of everything in a database."""
        command = [str(self.server.bin_dir / "pg_dump"), "--schema-only", *options, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        # \restrict comes with a word by chance.
        return "".join(
            line for line in done.stdout.splitlines(True) if not line.startswith(("\\restrict", "\\unrestrict"))
        )

    def close(self) -> None:
        for url in self._databases:
            self.server.drop_database(url)
        for name in self._roles:
            self.server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def url_as(url: str, role: str, **parameters: str) -> str:
    """Return *url* for another role; the tests' servers trust everybody."""
    return psycopg.conninfo.make_conninfo(url, user=role, **parameters)


@pytest.fixture
def cluster(server) -> Iterator[Cluster]:
    """The server shared by this worker, from its administrator's chair."""
    cluster = Cluster(server)
    yield cluster
    cluster.close()


@pytest.fixture(params=["server", "server18"])
def each_cluster(request) -> Iterator[Cluster]:
    """The shared server, then one of PostgreSQL 18, in which membership and CREATEROLE mean something else."""
    cluster = Cluster(request.getfixturevalue(request.param))
    yield cluster
    cluster.close()


NEXT = '''
from alembic import op

revision = "9999"
down_revision = {head!r}


def upgrade():
    op.execute(r"""
    CREATE TABLE pgstore.novelty (store_id bigint PRIMARY KEY, share text DEFAULT '100 %');
    ALTER TABLE pgstore.dict_entry ADD COLUMN novelty text;
    CREATE FUNCTION pgstore.dict_size(store bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
    DECLARE
        total bigint \\:= 0;
        entry pgstore.dict_entry%ROWTYPE;
    BEGIN
        SELECT count(*) INTO total FROM pgstore.dict_entry e WHERE e.store_id = store;
        RETURN total;
    END $$;
    CREATE FUNCTION pgstore.dict_forget(store bigint) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM pgstore.dict_entry e WHERE e.store_id = store;
    END $$
    """)
'''


@pytest.fixture
def next_revision(monkeypatch, tmp_path):
    """A call after which the code is one revision further on, with a table, a column and two functions that are new."""

    def advance() -> str:
        folder = tmp_path / "alembic"
        shutil.copytree(ROOT / "alembic", folder)
        (folder / "versions" / "9999_next.py").write_text(NEXT.format(head=migrate.SCHEMA_REVISION))
        monkeypatch.setattr(migrate.directories, "migration_directory", lambda: folder)
        monkeypatch.setattr(migrate.revisions, "SCHEMA_REVISION", "9999")
        return "9999"

    return advance


@pytest.fixture
def environ() -> dict[str, str]:
    """An environment for child processes that import this checkout, wherever they start."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}
