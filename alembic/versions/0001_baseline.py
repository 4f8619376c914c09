"""The baseline: all of the schema, in 0001_baseline.sql.

Explained in sql/schema.sql, as of the newest revision. The schema `pgstore` itself is made by pgstore.migrate, before alembic puts
its version table there.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.execute(statements.replace(":", r"\:"))  # SQLAlchemy takes ":word" for a parameter
    op.execute("INSERT INTO pgstore.installation (oldest_code_revision) VALUES ('0001')")


def downgrade() -> None:
    # Not a DROP: a step back keeps the data, and there is nowhere before this to keep them.
    raise NotImplementedError(
        "the first revision has no way back; DROP SCHEMA pgstore CASCADE deletes pgstore and its data"
    )
