"""``kfm care screen``: the CARE checks over a release, and a report that a council can read."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.canonical import write_bytes
from kfm_mlflow.errors import InputError, KfmError
from kfm_mlflow.release.bundle import bundle_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.care.screening import Screening
    from kfm_mlflow.gates.evidence import EvidenceReader
    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.rollout.remote import RemoteRegistry

_DIRECTORY = (
    "Not asked of a directory: what it tells beside the release that is public now, and what "
    "authorities signed. The registry knows both: kfm care screen models:/NAME/VERSION"
)


@dataclass(frozen=True)
class _Asked:
    """What is screened, and what a registry knows of it.

    Attributes:
        bundle: The release, on this machine.
        name: Registered model; empty for a directory.
        production: Version at Production; None when there is none.
        target: What is known of that version's release.
        said: What authorities signed, as the registry counts it; None for a directory.
    """

    bundle: Bundle
    name: str = ""
    version: int = 1
    envelopes: Sequence[bytes] = ()
    production: int | None = None
    target: Mapping[str, object] = field(default_factory=dict)
    said: Mapping[str, Any] | None = None


@click.command("screen")
@click.argument("target", metavar="PATH|models:/NAME/VERSION")
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Whose regions, limits and keys count; else the packaged defaults.",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="For models:/NAME/VERSION.")
@click.option("--json", "as_json", is_flag=True, help="Print the screening as JSON.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report as one HTML page as well.",
)
def screen(
    *,
    target: str,
    policy_dir: Path | None,
    server: str | None,
    as_json: bool,
    html_file: Path | None,
) -> int:
    """Screen a release for CARE and sovereignty conflicts; changes nothing.

    Of models:/NAME/VERSION also what it tells beside the release at Production, and what
    authorities signed about it. Exit code 0 when no conflict is known and no signature is missing,
    1 otherwise. No name or place that may not be shown is.
    """
    from kfm_mlflow.care.screen import assemble
    from kfm_mlflow.care.screen_authorities import authority_sections, missing_regions
    from kfm_mlflow.care.screen_report import Beside, report_html, report_lines
    from kfm_mlflow.cli.release import _stated
    from kfm_mlflow.gates.care import (
        differencing_checks,
        fair_care_score,
        measured_checks,
        why_not_compared,
    )
    from kfm_mlflow.gates.evidence import EvidenceReader, care_subject
    from kfm_mlflow.gates.findings import Move
    from kfm_mlflow.gates.ruling import ruling_of, settled
    from kfm_mlflow.policy.levels import Level
    from kfm_mlflow.policy.load import load_policies

    now, reader = datetime.now(UTC), EvidenceReader()
    with ExitStack() as stack:
        asked = _asked(target, server, reader, stack)
        stated = _stated(asked.bundle.release_dir)
        policy = load_policies(policy_dir).policy(str(stated.get("family", "baseline")))
        evidence = reader.read(
            asked.bundle, policy, now=now, envelopes=asked.envelopes, target=asked.target
        )
    if evidence.screening is None:
        raise InputError(evidence.manifest_problem or "is no release", where=target)
    subject = care_subject(evidence.content, policy)
    name = asked.name or str(stated.get("model_name", target))
    move = Move(name, asked.version, Level.CANDIDATE, Level.STAGING, 0, asked.production, now)
    checks = (*evidence.screening.checks, *differencing_checks(evidence, policy, move))
    found = assemble(subject, checks).with_measured(measured_checks(evidence, policy, move))
    left = settled(found.checks, ruling_of(evidence, move))
    approved = {a.id for a, b in zip(found.checks, left, strict=True) if a.findings != b.findings}
    screening = assemble(subject, left, found.unasked)
    notes = _notes(asked, screening, why_not_compared(evidence, move))
    stopped = missing_regions(asked.said) if asked.said else ()
    beside = Beside(
        authorities={
            subject.called(region): None
            if region.authority is None
            else subject.regions.shown(region.authority)
            for region in subject.regions.regions
        },
        score=fair_care_score(evidence.content, screening.checks),
        said=authority_sections(asked.said) if asked.said else (),
        settled=frozenset(approved),
        notes=notes,
        stopped=stopped,
    )
    title = subject.regions.shown(f"{name} {stated.get('release_version', '')}".strip())
    if html_file is not None:
        write_bytes(html_file, report_html(screening, title, now, beside).encode())
    if as_json:
        document = {
            **screening.to_dict()["screening"],
            "fair_care": beside.score.to_dict() if beside.score else {},
            "notes": notes,
            **({"authorities": asked.said} if asked.said else {}),
        }
        click.echo(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False))
    else:
        click.echo("\n".join(report_lines(screening, title, now, beside)))
    return 0 if screening.status == "no-known-conflict" and not stopped else 1


def _asked(target: str, server: str | None, reader: EvidenceReader, stack: ExitStack) -> _Asked:
    if not target.startswith("models:"):
        bundle = bundle_at(Path(target).resolve())
        if not bundle.release_dir.is_dir():
            raise InputError(
                "no such directory", where=target, remedy="give a release or models:/NAME/VERSION"
            )
        return _Asked(bundle)
    from kfm_mlflow.cli.release import _download
    from kfm_mlflow.rollout.model_uri import parse_model_uri
    from kfm_mlflow.rollout.remote import RemoteRegistry

    name, version = parse_model_uri(target)
    remote = RemoteRegistry(server)
    bundle, envelopes, _, _ = _download(target, server, stack)
    production = remote.levels(name).production
    known: dict[str, object] = {}
    if production not in (None, version):
        known = _predecessor(remote, name, production, reader, stack)
    said = remote.authorities(name, version)
    return _Asked(bundle, name, version, envelopes, production, known, said)


def _predecessor(
    remote: RemoteRegistry, name: str, version: int, reader: EvidenceReader, stack: ExitStack
) -> dict[str, object]:
    """Return what is known of the release at Production, as the registry's own gate is told."""
    from kfm_mlflow.release.manifest import build_manifest

    release = remote.version(name, version)["release"]
    if release is None:
        return {}
    known: dict[str, object] = {"release_id": release["id"]}
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kfm-screen-")))
    try:
        bundle = remote.download(release["frozen_uri"], folder)
        manifest = build_manifest(bundle.release_dir, reader.digests)
        if manifest.release_id == release["id"]:
            known["content"] = reader.memory.read(bundle.release_dir, manifest)
    except KfmError as exc:
        known["problems"] = (str(exc),)
    return known


def _notes(asked: _Asked, screening: Screening, not_compared: str) -> tuple[str, ...]:
    """Return what the reader has to know of what was not asked, or by which regions."""
    if asked.said is None:
        return (_DIRECTORY,)
    notes = []
    if not_compared:
        notes.append(f"Not compared with the release that is public now: {not_compared}.")
    else:
        notes.append(f"Compared with version {asked.production}, the release that is public now.")
    if asked.said["regions_digest"] != screening.regions_digest:
        notes.append(
            f"The checks above go by regions file {screening.regions_digest}, the registry by "
            f"{asked.said['regions_digest']}. Give its policy with --policy-dir."
        )
    return tuple(notes)
