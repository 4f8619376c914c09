"""${message}.

Runs before | after the new code does: say which, and why old code keeps working (or raise oldest_code_revision).
Four digits, one more than the last: clients compare revisions as text. SCHEMA_REVISION and sql/schema.sql change with it.
"""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    # SQL written out in full, every name qualified. op.execute() takes ":word" for a parameter: write "\:word".
    ${upgrades if upgrades else 'op.execute(r"""\n    """)'}


def downgrade() -> None:
    ${downgrades if downgrades else 'raise NotImplementedError("say how, or why not")'}
