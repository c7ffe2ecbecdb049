"""``kfm doctor``: is everything that the registry's promises rest on as it should be?

Looks and never mends. A finding says how to mend it; problems that somebody made on purpose (an
edited database, an altered release) are for a person to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import KfmError
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.registry import doctor_machine as machine
from kfm_mlflow.registry.doctor_finding import Finding
from kfm_mlflow.release.freeze import local_path
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kfm_mlflow.registry.doctor_machine import Process
    from kfm_mlflow.trust.keys import PublicKey
    from kfm_mlflow.trust.ledger_head import LedgerHead

_AS_SERVER = "give doctor the same options as `kfm server`"


@dataclass(frozen=True)
class Installation:
    """A registry's parts on this machine, as ``kfm server`` names them.

    Attributes:
        registry_uri: Registry store, with ``kfm+`` where it is governed.
        artifacts_destination: Artifact root.
        key: The registry's private key.
        policy_dir: Folder of policies; None for the packaged ones.
        former_keys: Public keys that the registry signed with before.
        environ: Environment of a server that would be started now.
        folder: Where relative paths begin.
    """

    registry_uri: str
    artifacts_destination: str
    key: Path
    policy_dir: Path | None
    former_keys: tuple[PublicKey, ...]
    environ: Mapping[str, str]
    folder: Path

    @property
    def database_uri(self) -> str:
        """SQLAlchemy's URI of the database."""
        return self.registry_uri.removeprefix("kfm+")


@dataclass(frozen=True)
class ServerSays:
    """What a running server answers.

    Attributes:
        url: Where it is.
        problem: Why it gave no answer; empty when it did.
        head: Its ledger's head.
        key_id: The key that it signs with.
    """

    url: str
    problem: str = ""
    head: LedgerHead | None = None
    key_id: str = ""


def examine(
    found: Installation,
    *,
    seen: Iterable[Process],
    server: ServerSays | None = None,
    hashed: bool = False,
) -> list[Finding]:
    """Look at everything.

    Args:
        found: The registry's parts.
        seen: Processes of this machine.
        server: What a running server says; None when none was asked.
        hashed: Read every byte of every frozen release.
    """
    findings: list[Finding] = []
    if not found.registry_uri.startswith("kfm+"):
        detail = f"{machine.shown(found.registry_uri)} is not governed"
        findings.append(Finding("registry store", "problem", detail, "write kfm+ before it"))
    root = local_path(found.artifacts_destination)
    findings += machine.private_key(found.key, root)
    findings += machine.environment(found.environ, found.database_uri, found.folder)
    findings += machine.plain_servers(seen, found.database_uri, found.folder)
    findings += machine.artifact_area(found.artifacts_destination)
    return findings + _database(found, server, hashed=hashed)


def _database(found: Installation, server: ServerSays | None, *, hashed: bool) -> list[Finding]:
    from sqlalchemy.exc import SQLAlchemyError

    from kfm_mlflow.registry import doctor_database as database

    name = machine.shown(found.database_uri)
    known = machine.database_name(found.database_uri, found.folder)
    if known is not None and known[0] == "sqlite" and not Path(known[1]).is_file():
        return [Finding("database", "problem", f"{name} is not there", _AS_SERVER)]
    try:
        with database.opened(found.database_uri) as engine, engine.connect() as connection:
            findings = [
                Finding("database", "ok", name),
                *machine.database_file(found.database_uri, found.folder),
                *database.defences(connection),
            ]
            if any(f.check == "tables" and f.status == "problem" for f in findings):
                return findings
            ledger = database.read_ledger(connection, _keys(found))
            of_releases, rows = database.releases(connection, ledger)
            findings += [*ledger.findings, *database.levels(connection, ledger), *of_releases]
            findings += machine.frozen_copies(rows, found.artifacts_destination, hashed=hashed)
            try:
                policies = load_policies(found.policy_dir)
            except KfmError as exc:
                findings.append(Finding("policies", "problem", str(exc), "`kfm policy lint`"))
            else:
                findings += database.policies(connection, policies, ledger)
            if server is not None:
                findings.append(_server(server, found, connection))
            return findings
    except (SQLAlchemyError, ImportError) as exc:
        # The vendor's text may hold the URI with its password.
        detail = f"{name} cannot be read ({type(exc).__name__})"
        return [Finding("database", "problem", detail, _AS_SERVER)]


def _keys(found: Installation) -> Sequence[PublicKey]:
    try:
        return (load_private_key(found.key).public_key, *found.former_keys)
    except KfmError:
        return found.former_keys


def _server(says: ServerSays, found: Installation, connection: Any) -> Finding:
    """Compare what a running server says with what is here."""
    from sqlalchemy import select

    from kfm_mlflow.registry import tables

    if says.head is None:
        remedy = "start it with `kfm server`"
        return Finding("server", "problem", f"{says.url}: {says.problem}", remedy)
    ours = {key.key_id for key in _keys(found)}
    if says.key_id not in ours:
        detail = f"{says.url} signs with another key, {says.key_id[:16]}"
        return Finding("server", "problem", detail, _AS_SERVER)
    column = tables.ledger.c
    here = connection.execute(select(column.hash).where(column.seq == says.head.seq)).scalar()
    if says.head.seq and here != says.head.hash:
        detail = f"{says.url} keeps another ledger than this database"
        return Finding("server", "problem", detail, _AS_SERVER)
    return Finding("server", "ok", f"{says.url} is governed, and keeps this ledger")
