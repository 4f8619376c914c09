"""`pgstore.transaction(connection=…)` with Django's connections, in real programs of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("django_program.py")
CLAIMS = [
    name
    for name in re.findall(r"^def (\w+)\(\) -> None:", PROGRAM.read_text(), re.MULTILINE)
    if not name.startswith("_") and name != "main"
]


def run(*command: str, url: str) -> str:
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=PROGRAM.parents[2],
        env=os.environ | {"PGSTORE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return ran.stdout


@pytest.fixture(scope="module")
def said(server, migrated_template) -> str:
    url = server.create_database(template=migrated_template)
    try:
        return run("-m", "tests.integration.django_program", url=url)
    finally:
        server.drop_database(url)


@pytest.mark.parametrize("claim", CLAIMS)
def test_with_django(said, claim):
    assert f"HOLDS {claim}\n" in said, said


def test_djangos_connection_on_psycopg2_is_refused_with_what_to_install(own_database):
    """
    Django takes psycopg 3 where it can be imported, as it always can where pgstore is; so it is hidden while Django looks.
    """
    program = """if True:
        import sys
        sys.modules["psycopg"] = None
        import django.db.backends.postgresql.base
        del sys.modules["psycopg"]

        from tests.integration import django_program as program
        with program.atomic():
            print(program.message_of(program.pgstore.InvalidError, lambda: program.join().__enter__()))
    """

    said = run("-c", program, url=own_database)

    assert "Django's connection 'default' is of psycopg2, not psycopg 3" in said
    assert "pip install 'psycopg[binary]'" in said


def test_joining_does_not_import_django(own_database):
    program = """if True:
        import os, sys, psycopg, pgstore
        with psycopg.connect(os.environ["PGSTORE_URL"]) as connection, pgstore.transaction(connection=connection):
            print("django" in sys.modules)
    """

    assert run("-c", program, url=own_database) == "False\n"
