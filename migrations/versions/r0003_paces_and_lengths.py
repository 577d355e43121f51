"""How fast each configuration was seen to go, alone and beside others; how long a queued job is thought to take."""

from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    rebuilt: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("jobs", recreate=rebuilt, table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("remaining_seconds", sa.Float(), server_default=sa.text("0"), nullable=False))
    # A table that is rebuilt is read back first, and its index with it: without the DESC.
    op.drop_index("ix_jobs_queue", table_name="jobs")
    op.create_index("ix_jobs_queue", "jobs", ["state", sa.text("priority DESC"), "id"], unique=False)
    op.create_index(
        "ix_jobs_shortest", "jobs", ["state", "user_name", sa.text("priority DESC"), "remaining_seconds", "id"]
    )
    op.create_table(
        "paces",
        sa.Column("configuration", sa.Text(), nullable=False),
        sa.Column("beside", sa.Text(), nullable=False),
        sa.Column("seconds_per_step", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("configuration", "beside", name="pk_paces"),
    )
