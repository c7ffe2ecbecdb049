"""Which rollout controller leads a model, and until when."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, String

from kfm_mlflow.errors import InputError

revision = "r3"
down_revision = "r2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of leases."""
    op.create_table(
        "kfm_rollout_lease",
        Column("model", String(256), primary_key=True),
        Column("holder", String(128), nullable=False),
        Column("token", Integer, nullable=False),
        Column("ttl_ms", Integer, nullable=False),
        Column("expires_at", String(32), nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Refuse: a token that was given once is never given again."""
    raise InputError(
        "a token that was given once is never given again",
        where="downgrade",
        remedy="restore a backup of the database that the older release wrote",
    )
