"""What the doctor sees in the registry's database: defences, ledger, and levels against ledger.

Reads only; nothing is created or mended. The registry itself mends triggers and tables at its
next start; what was written past it, a person must judge.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
)
from mlflow.store.workspace.dbmodels import SqlWorkspace
from sqlalchemy import func, inspect, or_, select

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.policy.levels import ALIASES, STAGES, Level, level_of_alias
from kfm_mlflow.registry import migrations, reading, tables, triggers
from kfm_mlflow.registry.doctor_finding import Finding, judged
from kfm_mlflow.registry.history import History, read_entry
from kfm_mlflow.release.area import DEFAULT_WORKSPACE
from kfm_mlflow.trust.ledger import MOVED, POLICY
from kfm_mlflow.trust.ledger_rows import verify_rows
from kfm_mlflow.trust.model_key import model_key, split_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Engine

    from kfm_mlflow.policy.load import PolicySet
    from kfm_mlflow.registry.history import Entry
    from kfm_mlflow.trust.keys import PublicKey

_PAGE_ROWS = 500
_PATIENCE_S = 30.0
"""How long to wait for a server that is writing to a SQLite database."""
_RESTART = "stop the servers and start one with this release's `kfm server`: it mends them"
_EDITED = (
    "somebody wrote to the database directly: keep a copy, look at `kfm ledger list MODEL`, and "
    "put the ledger's level back by hand with the servers stopped"
)
_VERSIONS, _ALIASES = SqlModelVersion.__table__, SqlRegisteredModelAlias.__table__
_LEVEL_ALIASES = sorted(name for names in ALIASES.values() for name in names)


@contextmanager
def opened(database_uri: str) -> Iterator[Engine]:
    """Open a database for reading; a SQLite file is not made when there is none.

    Args:
        database_uri: SQLAlchemy's own, without ``kfm+``.
    """
    import sqlite3
    from pathlib import Path
    from urllib.parse import quote

    from sqlalchemy import create_engine, make_url
    from sqlalchemy.pool import NullPool

    url = make_url(database_uri)
    if url.get_backend_name() == "sqlite":
        where = f"file:{quote(str(Path(url.database or '').absolute()))}?mode=ro"
        engine = create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(where, _PATIENCE_S, uri=True),
            poolclass=NullPool,
        )
    else:
        engine = create_engine(url, poolclass=NullPool)
    try:
        yield engine
    finally:
        engine.dispose()


def defences(connection: Connection) -> list[Finding]:
    """Look at our tables, their revision, the triggers and open permits.

    Returns:
        Findings; the last is a problem when there is nothing further to look at.
    """
    present = set(inspect(connection).get_table_names())
    if "model_versions" not in present:
        return [Finding("tables", "problem", "MLflow's tables are not there", _RESTART)]
    lacking = sorted(set(tables.metadata.tables) - present)
    revision = migrations.current_revision(connection)
    findings = [
        judged(
            "tables",
            lacking,
            "tables of the registry are missing",
            _RESTART,
            "all of the registry's tables are there",
        )
    ]
    if revision == migrations.HEAD:
        findings.append(Finding("revision", "ok", f"tables are at revision {revision}"))
    else:
        detail = f"tables are at revision {revision or 'none'}, not {migrations.HEAD}"
        findings.append(Finding("revision", "problem", detail, _RESTART))
    if not lacking:
        findings.append(
            judged(
                "triggers",
                triggers.missing_triggers(connection),
                "missing or altered, so that other software can write past the registry",
                _RESTART,
                "every trigger is there as this release makes it",
            )
        )
        permits = triggers.open_permit_count(connection)
        detail = f"kfm_permit holds {permits} rows, and every one opens all triggers"
        findings.append(
            Finding("permits", "problem", detail, _RESTART)
            if permits
            else Finding("permits", "ok", "no permit is open")
        )
    return findings


@dataclass
class LedgerReading:
    """What one pass over the ledger gives.

    Attributes:
        findings: Whether it verifies.
        histories: What is now, of every model that ever moved.
        frozen: (model, version) -> what the decision that froze it signed.
        policies: Family -> digest of the policy recorded last.
    """

    findings: list[Finding] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)
    frozen: dict[tuple[str, int], Entry] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in a row.

        Raises:
            EvidenceError: It cannot be read.
        """
        if row["kind"] not in {MOVED, POLICY}:
            return
        entry = read_entry(row)
        if entry.change is not None:
            self.policies[str(entry.change["family"])] = str(entry.change["after"])
            return
        history = self.histories.setdefault(entry.model, History(entry.model))
        history.add(entry)
        history.past.clear()
        if entry.frozen_uri:
            self.frozen.setdefault((entry.model, entry.version), entry)


def read_ledger(connection: Connection, keys: Sequence[PublicKey]) -> LedgerReading:
    """Verify the ledger and read what it says, in one pass.

    Args:
        connection: Open connection.
        keys: The registry's keys; none verifies the chain alone.
    """
    found = LedgerReading()
    query = select(tables.ledger).order_by(tables.ledger.c.seq)
    result = connection.execution_options(yield_per=_PAGE_ROWS).execute(query)

    def watched() -> Iterator[dict[str, Any]]:
        for mapping in result.mappings():
            row = dict(mapping)
            yield row
            # Asked for the next row, the verifier has found this one good.
            found.take(row)

    try:
        report = verify_rows(watched(), keys=keys)
    except EvidenceError as exc:
        found.findings.append(Finding("ledger", "problem", str(exc), _EDITED))
        return found
    if report.finding is not None:
        remedy = "nothing from there on is proved; compare with an export or a head kept elsewhere"
        found.findings.append(Finding("ledger", "problem", str(report.finding), remedy))
    else:
        signed = "every one signed by the registry" if keys else "signatures not looked at: no key"
        detail = f"{report.row_count} rows, chain intact, {signed}"
        found.findings.append(Finding("ledger", "ok" if keys else "skipped", detail))
    return found


def levels(connection: Connection, ledger: LedgerReading) -> list[Finding]:
    """Compare MLflow's stages and aliases with what the ledger says of every model."""
    session: Any = connection  # Both execute statements, and no more is asked of them here.
    wrong: list[str] = []
    count = 0
    # Only a model's versions have a registration; it goes when the model is deleted.
    registered = connection.execute(select(tables.registration.c.model).distinct()).scalars()
    governed = {*ledger.histories, *registered}
    for key in sorted(_models(connection) | set(ledger.histories)):
        workspace, name = _place(key)
        prompt = reading.is_prompt(session, workspace, name)
        if prompt:
            if key in governed:
                wrong.append(f"{key} is a governed model, and calls itself a prompt")
            continue
        if prompt is None:
            wrong.append(f"{key} is in the ledger and not in the registry")
            continue
        here = reading.levels(session, workspace, name)
        history = ledger.histories.get(key)
        said = history.levels() if history else {}
        count += len(said)
        wrong += [
            f"{key} v{version} is {here.get(version, Level.CANDIDATE)}, and by the ledger "
            f"{said.get(version, Level.CANDIDATE)}"
            for version in sorted({*here, *said})
            if here.get(version) is not said.get(version)
        ]
        wrong += _stray_aliases(connection, key, said)
    fine = f"{count} versions above candidate are where the ledger says"
    return [judged("levels", wrong, "not as decided", _EDITED, fine), _workspaces(connection)]


def _models(connection: Connection) -> set[str]:
    """Return the key of every model of which something may be above candidate."""
    staged = select(_VERSIONS.c.workspace, _VERSIONS.c.name).where(
        or_(*(_VERSIONS.c.current_stage == stage for stage in sorted(set(STAGES.values())))),
    )
    named = select(_ALIASES.c.workspace, _ALIASES.c.name).where(
        func.lower(_ALIASES.c.alias).in_(_LEVEL_ALIASES),
    )
    return {
        model_key(str(row.workspace), str(row.name))
        for query in (staged, named)
        for row in connection.execute(query.distinct())
    }


def _place(key: str) -> tuple[str, str]:
    """Return workspace and name of a model in MLflow's own tables."""
    workspace, name = split_key(key)
    return workspace or DEFAULT_WORKSPACE, name


def _stray_aliases(connection: Connection, key: str, said: Mapping[int, Level]) -> list[str]:
    """Return where aliases that name a level point elsewhere than the level's version."""
    workspace, name = _place(key)
    query = select(_ALIASES.c.alias, _ALIASES.c.version).where(
        _ALIASES.c.workspace == workspace,
        _ALIASES.c.name == name,
        func.lower(_ALIASES.c.alias).in_(_LEVEL_ALIASES),
    )
    found = {str(alias): int(version) for alias, version in connection.execute(query)}
    wrong = [
        f"alias {alias} of {key} names v{version}, which the ledger has at "
        f"{said.get(version, Level.CANDIDATE)}"
        for alias, version in sorted(found.items())
        if said.get(version) is not level_of_alias(alias)
    ]
    for version, level in sorted(said.items()):
        if level in {Level.CANARY, Level.PRODUCTION}:
            wrong += [
                f"alias {alias} of {key} does not name v{version}"
                for alias in ALIASES[level]
                if alias not in found
            ]
    return wrong


def _workspaces(connection: Connection) -> Finding:
    models, known = SqlRegisteredModel.__table__.c, SqlWorkspace.__table__.c
    lost = connection.execute(
        select(models.workspace)
        .where(models.workspace != DEFAULT_WORKSPACE, models.workspace.not_in(select(known.name)))
        .distinct()
    ).scalars()
    return judged(
        "workspaces",
        sorted(str(name) for name in lost),
        "hold models, and there are no such workspaces, so that no server reaches them",
        "start with --enable-workspaces and make them again",
        "every registered model is in a workspace that there is",
    )


@dataclass(frozen=True)
class Released:
    """What the registry says of a frozen release."""

    model: str
    version: int
    release_id: str
    frozen_uri: str


def releases(connection: Connection, ledger: LedgerReading) -> tuple[list[Finding], list[Released]]:
    """Compare recorded releases, and where versions are read from, with what was signed."""
    locations = {
        (model_key(str(row.workspace), str(row.name)), int(row.version)): row.storage_location
        for row in connection.execute(
            select(
                _VERSIONS.c.workspace,
                _VERSIONS.c.name,
                _VERSIONS.c.version,
                _VERSIONS.c.storage_location,
            ).where(_VERSIONS.c.storage_location.is_not(None))
        )
    }
    rows = [
        Released(str(row.model), int(row.version), str(row.release_id), str(row.frozen_uri))
        for row in connection.execute(select(tables.release).order_by(tables.release.c.model))
    ]
    wrong = []
    for row in rows:
        key, what = (row.model, row.version), f"{row.model} v{row.version}"
        signed = ledger.frozen.get(key)
        if signed is None:
            wrong.append(f"{what} has a frozen release that no decision names")
        elif (signed.release_id, signed.frozen_uri) != (row.release_id, row.frozen_uri):
            wrong.append(f"{what} has another frozen release than its decision names")
        if locations.get(key) != row.frozen_uri:
            wrong.append(f"{what} is not read from its frozen copy")
    recorded = {(row.model, row.version) for row in rows}
    wrong += [
        f"{model} v{version} was frozen, and is not recorded"
        for model, version in sorted(set(ledger.frozen) - recorded)
    ]
    fine = f"{len(rows)} frozen releases are recorded as signed, and versions are read from them"
    return [judged("releases", wrong, "not as decided", _EDITED, fine)], rows


def policies(connection: Connection, found: PolicySet, ledger: LedgerReading) -> list[Finding]:
    """Look at what the policies trust and allow, and whether they are those in force."""
    used = {str(name) for name in connection.execute(select(tables.model.c.family)).scalars()}
    nobody, open_to, changed = [], [], []
    for family, policy in sorted(found.policies.items()):
        trust = policy.trust
        if not (trust.all_signers and trust.validators and trust.council.members):
            nobody.append(family)
        if policy.access.unauthenticated != "never":
            open_to.append(family)
        if family in ledger.policies and ledger.policies[family] != policy.digest:
            changed.append(family)
    blocked = [family for family in nobody if family in used]
    trusts = Finding("trust", "ok", "every family in use trusts signers, validators and a council")
    if blocked or len(nobody) == len(found.policies):
        trusts = Finding(
            "trust",
            "problem",
            "lack signers, validators or a council, so nothing of them can be released: "
            + ", ".join(blocked or nobody),
            "write a policy: `kfm policy init`, and give it as --policy-dir",
        )
    access = Finding("access", "ok", "no policy allows anything without a login")
    if open_to:
        access = Finding(
            "access",
            "warning",
            f"without a login, everybody on this machine may move: {', '.join(open_to)}",
            "start with --app-name kfm-auth and write access.unauthenticated: never",
        )
    in_force = judged(
        "policy in force",
        changed,
        "these differ from the ones that the registry last started under",
        "restart the server, or give doctor the --policy-dir of the server",
        "the policies are those that the registry last started under",
    )
    return [trusts, access, in_force]
