"""Which revisions there are, and how alembic runs them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pgstore.migrate import directories

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_REVISION = "0001"
"""The revision this code was written for: the newest in alembic/versions."""

OLDEST_SCHEMA_REVISION = "0001"
"""The oldest revision this code works with; below it a client raises SchemaOutdated."""

OLDEST_SERVER = 140000
"""The oldest PostgreSQL, as in server_version_num."""

# alembic's `context` and `op` stand for one migration per process at a time. Taken before the advisory lock: in the
# other order two threads, each with one of the two, would wait for each other for ever.
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Be the only migration of this process, and leave nothing of it in the host application's log."""
    with _one_at_a_time, _silent_alembic():
        yield


def configuration() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(directories.migration_directory()).replace("%", "%%"))
    return config


def known_revisions(config: Config) -> list[str]:
    """Return all revisions, the newest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]


def run(config: Config, revision: str, *, as_text: bool = False) -> None:
    from alembic import command

    with _inside_another_run():
        command.upgrade(config, revision, sql=as_text)


@contextlib.contextmanager
def _inside_another_run() -> Iterator[None]:
    """
    Give alembic back to the run that this one is a part of, if it is: a revision of the host application may call us.

    `context` and `op` stand for one run. At the end of ours alembic would take them away from all.
    """
    from alembic import context, op

    outer = [proxy for module in (context, op) if (proxy := getattr(module, "_proxy", None)) is not None]
    try:
        yield
    finally:
        for proxy in outer:
            proxy._install_proxy()


@contextlib.contextmanager
def _silent_alembic() -> Iterator[None]:
    """Keep alembic's steps out of the host application's log, without a change to how that is configured."""
    thread = threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger("alembic.runtime.migration"), logging.getLogger("alembic.runtime.plugins")]
    for logger in loggers:
        logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(from_elsewhere)
