"""Tests of a Django project that uses pgstore, run by Django's own runner (test_frameworks.py)."""

from __future__ import annotations

import sys
import unittest

import django
from django.conf import settings
from django.db import connection, transaction
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgstore

given = conninfo_to_dict(pgstore.default_client().connection_url())
database = {"ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], "USER": given["user"]}
settings.configure(DATABASES={"default": database | {"HOST": given["host"], "PORT": given["port"]}}, USE_TZ=True)
django.setup()

from django.test import TestCase  # noqa: E402 - wants settings
from django.test.runner import DiscoverRunner  # noqa: E402


def url() -> str:
    """Where Django connects just now."""
    names = {"dbname": "NAME", "user": "USER", "host": "HOST", "port": "PORT"}
    return make_conninfo(**{name: connection.settings_dict[theirs] for name, theirs in names.items()})


pgstore.configure(url=url)
mails = pgstore.Queue.persist("django-mails")


class PlacingOrders(TestCase):
    def place(self) -> None:
        with transaction.atomic(), pgstore.transaction(connection=connection):
            assert len(mails) == 0  # whatever the other test has put
            mails.put(connection.settings_dict["NAME"])

    def test_the_test_database_is_used(self) -> None:
        self.place()
        with pgstore.transaction(connection=connection):
            assert mails.get() == f"test_{given['dbname']}"

    def test_the_other_test_is_not_seen(self) -> None:
        self.place()


runner = DiscoverRunner(interactive=False)
databases = runner.setup_databases()
result = runner.run_suite(unittest.defaultTestLoader.loadTestsFromTestCase(PlacingOrders))
pgstore.default_client().close()  # a database in use cannot be removed
runner.teardown_databases(databases)
sys.exit(not result.wasSuccessful())
