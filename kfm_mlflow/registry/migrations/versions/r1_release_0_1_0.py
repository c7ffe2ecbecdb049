"""The tables of release 0.1.0, which were made without a history.

Everything is created only where it is missing, so that a database of that release is adopted, and
one whose making was interrupted is completed.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, PrimaryKeyConstraint, String, Text, UniqueConstraint

from kfm_mlflow.errors import InputError

revision = "r1"
down_revision = None
branch_labels = None
depends_on = None

_NAME, _DIGEST, _INSTANT = String(256), String(71), String(32)


def upgrade() -> None:
    """Create what is missing."""
    op.create_table(
        "kfm_lock",
        Column("name", String(300), primary_key=True),
        Column("taken_count", Integer, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "kfm_model",
        Column("name", _NAME, primary_key=True),
        Column("family", String(64), nullable=False),
        if_not_exists=True,
    )
    _create_release_ledger_outbox()
    op.create_table(
        "kfm_attestation",
        Column("digest", _DIGEST, primary_key=True),
        Column("release_id", _DIGEST, nullable=False),
        Column("kind", String(32), nullable=False),
        Column("received_at", _INSTANT, nullable=False),
        Column("envelope", Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index(
        "ix_kfm_attestation_release_id", "kfm_attestation", ["release_id"], if_not_exists=True
    )
    op.create_table(
        "kfm_journal",
        Column("model", _NAME, primary_key=True),
        Column("generation", Integer, nullable=False),
        Column("updated_at", _INSTANT, nullable=False),
        Column("state", Text, nullable=False),
        if_not_exists=True,
    )


def _create_release_ledger_outbox() -> None:
    op.create_table(
        "kfm_release",
        Column("model", _NAME, nullable=False),
        Column("version", Integer, nullable=False),
        Column("release_id", _DIGEST, nullable=False),
        Column("release_version", String(64), nullable=False),
        Column("frozen_uri", Text, nullable=False),
        Column("frozen_at", _INSTANT, nullable=False),
        PrimaryKeyConstraint("model", "version"),
        UniqueConstraint("model", "release_version", name="kfm_release_version_once"),
        if_not_exists=True,
    )
    op.create_table(
        "kfm_ledger",
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("at", _INSTANT, nullable=False),
        Column("kind", String(32), nullable=False),
        Column("model", _NAME, nullable=False),
        Column("version", Integer, nullable=False),
        Column("body", Text, nullable=False),
        Column("prev_hash", _DIGEST, nullable=False),
        Column("hash", _DIGEST, nullable=False, unique=True),
        if_not_exists=True,
    )
    op.create_index("kfm_ledger_by_version", "kfm_ledger", ["model", "version"], if_not_exists=True)
    op.create_table(
        "kfm_outbox",
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("at", _INSTANT, nullable=False),
        Column("event", String(32), nullable=False),
        Column("model", _NAME, nullable=False),
        Column("version", Integer, nullable=False),
        Column("level", String(16), nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Refuse: a ledger is never taken down."""
    raise InputError(
        "a ledger is never taken down",
        where="downgrade",
        remedy="restore a backup of the database that the older release wrote",
    )
