"""Run the revisions on the connection, or into the text, that `pgstore.migrate` prepared.

The transaction, its lock and the schema `pgstore` are there when this runs: see pgstore/migrate/run.py, the only caller.
There is no alembic.ini and no logging setup, since all of this happens inside other people's processes.
"""

from __future__ import annotations

from alembic import context

connection = context.config.attributes.get("connection")
if connection is None and not context.is_offline_mode():
    raise RuntimeError("run `pgstore migrate` or pgstore.migrate.upgrade(url) instead of alembic's own commands")

context.configure(
    connection=connection,
    dialect_name="postgresql",
    dialect_opts={"paramstyle": "named"},  # in the text for a DBA a % stays one %
    # In our schema, under our name: the host application may have an alembic of its own in this database.
    version_table="schema_revision",
    version_table_schema="pgstore",
)
context.run_migrations()  # no begin_transaction(): pgstore.migrate commits, after granting rights
