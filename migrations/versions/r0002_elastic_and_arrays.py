"""What a running attempt is asked to change to and what it answered; how busy it keeps its device; arrays of jobs."""

from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ATTEMPTS = (
    ("wanted_number", sa.BigInteger()),
    ("wanted_micro_batch", sa.BigInteger()),
    ("wanted_limit_bytes", sa.BigInteger()),
    ("wanted_at", sa.Float()),
    ("heeded_number", sa.BigInteger()),
    ("peak_bytes", sa.BigInteger()),
    ("peak_step", sa.BigInteger()),
    ("busy_share", sa.Float()),
    ("preempted_for", sa.BigInteger()),
)
JOBS = (("array_id", sa.BigInteger()), ("variant", sa.Text()))


def upgrade() -> None:
    rebuilt: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    for table, columns in (("attempts", ATTEMPTS), ("jobs", JOBS)):
        with op.batch_alter_table(table, recreate=rebuilt, table_kwargs={"sqlite_autoincrement": True}) as batch:
            for name, kind in columns:
                batch.add_column(sa.Column(name, kind, nullable=True))
    # A table that is rebuilt is read back first, and its index with it: without the DESC.
    op.drop_index("ix_jobs_queue", table_name="jobs")
    op.create_index("ix_jobs_queue", "jobs", ["state", sa.text("priority DESC"), "id"], unique=False)
    op.create_index("ix_jobs_array_id", "jobs", ["array_id"], unique=False)
