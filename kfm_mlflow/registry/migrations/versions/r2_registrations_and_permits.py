"""Who registered a version, the permits that triggers ask for, and keys for what moves read."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, PrimaryKeyConstraint, String

from kfm_mlflow.errors import InputError

revision = "r2"
down_revision = "r1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create two tables and two indexes."""
    op.create_table(
        "kfm_registration",
        Column("model", String(256), nullable=False),
        Column("version", Integer, nullable=False),
        Column("actor", String(256), nullable=False),
        Column("at", String(32), nullable=False),
        PrimaryKeyConstraint("model", "version"),
        if_not_exists=True,
    )
    op.create_table("kfm_permit", Column("token", String(36), primary_key=True), if_not_exists=True)
    op.create_index(
        "kfm_outbox_by_version", "kfm_outbox", ["model", "version", "seq"], if_not_exists=True
    )
    op.create_index("kfm_ledger_by_model", "kfm_ledger", ["model", "seq"], if_not_exists=True)


def downgrade() -> None:
    """Refuse: who registered what is never forgotten."""
    raise InputError(
        "who registered what is never forgotten",
        where="downgrade",
        remedy="restore a backup of the database that the older release wrote",
    )
