"""Our tables in the registry's database.

They have their own metadata, so that MLflow's schema check and migrations never see them, a
prefix of their own, and no foreign keys into MLflow's tables (which are renamed and rebuilt). What
is written here must be what the revisions in ``migrations/`` make; a test compares.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
_NAME = String(256)
_DIGEST = String(71)
_INSTANT = String(32)

lock = Table(
    "kfm_lock",
    metadata,
    Column("name", String(300), primary_key=True),
    Column("taken_count", Integer, nullable=False),
)
"""One row per model and one for the ledger: the first statement of every unit of work."""

model = Table(
    "kfm_model",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("family", String(64), nullable=False),
)
"""Which family a registered model belongs to, fixed when it is created."""

release = Table(
    "kfm_release",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("release_id", _DIGEST, nullable=False),
    Column("release_version", String(64), nullable=False),
    Column("frozen_uri", Text, nullable=False),
    Column("frozen_at", _INSTANT, nullable=False),
    UniqueConstraint("model", "release_version", name="kfm_release_version_once"),
)
"""What was frozen when a version entered Staging; a release version is unique for ever."""

ledger = Table(
    "kfm_ledger",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", _INSTANT, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("model", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("prev_hash", _DIGEST, nullable=False),
    Column("hash", _DIGEST, nullable=False, unique=True),
    Index("kfm_ledger_by_version", "model", "version"),
    Index("kfm_ledger_by_model", "model", "seq"),
)
"""Append-only and hash-chained; ``body`` is the signed decision as a DSSE envelope."""

outbox = Table(
    "kfm_outbox",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", _INSTANT, nullable=False),
    Column("event", String(32), nullable=False),
    Column("model", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("level", String(16), nullable=False),
    Index("kfm_outbox_by_version", "model", "version", "seq"),
)
"""What the rollout controller must know, written with the ledger row of the same number."""

attestation = Table(
    "kfm_attestation",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("release_id", _DIGEST, nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("received_at", _INSTANT, nullable=False),
    Column("envelope", Text, nullable=False),
)
"""Signed statements that arrive after the release was frozen: votes, verdicts, rollbacks."""

journal = Table(
    "kfm_journal",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("updated_at", _INSTANT, nullable=False),
    Column("state", Text, nullable=False),
)
"""The rollout controller's own state, one row per model, written by compare-and-set."""

rollout_lease = Table(
    "kfm_rollout_lease",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("token", Integer, nullable=False),
    Column("ttl_ms", Integer, nullable=False),
    Column("expires_at", _INSTANT, nullable=False),
)
"""Which controller leads a model, until when by the registry's clock; no holder once released."""

registration = Table(
    "kfm_registration",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("actor", String(256), nullable=False),
    Column("at", _INSTANT, nullable=False),
)
"""Who registered a version; nobody approves their own."""

permit = Table("kfm_permit", metadata, Column("token", String(36), primary_key=True))
"""A row stands here inside a unit of work only, never committed; triggers let its writes pass."""
