"""``kfm sbom``: the bill of materials of a release, as SPDX 2.3 or CycloneDX 1.6."""

from __future__ import annotations

from pathlib import Path

import click

from kfm_mlflow.canonical import MAX_JSON_BYTES, write_bytes
from kfm_mlflow.errors import EvidenceError, InputError

_BILL, _CARD = "sbom.spdx.json", "model-card.json"
_SHOWN = 3


def _text(root: Path, name: str) -> bytes:
    try:
        with (root / name).open("rb") as stream:
            return stream.read(MAX_JSON_BYTES + 1)
    except OSError as exc:
        raise EvidenceError(f"cannot be read ({exc.strerror})", where=name) from exc


def release_bill(root: Path, kind: str) -> bytes:
    """Return the bill of materials of a release, after comparing it with its files.

    Args:
        root: The release directory.
        kind: ``spdx`` or ``cyclonedx``.

    Raises:
        ManifestError: The directory is no release.
        EvidenceError: What it says of itself is not valid, or is not of its files.
    """
    from kfm_mlflow.gates.content import file_facts
    from kfm_mlflow.metadata.sbom import evaluate_sbom
    from kfm_mlflow.metadata.sbom_cyclonedx import build_cyclonedx
    from kfm_mlflow.release.manifest import build_manifest

    manifest = build_manifest(root)
    facts, bill = file_facts(manifest), _text(root, _BILL)
    if kind == "cyclonedx":
        return build_cyclonedx(manifest.release_id, facts, bill=bill, card=_text(root, _CARD))
    problems = evaluate_sbom(bill, facts)
    if problems:
        raise EvidenceError("; ".join(problems[:_SHOWN]), where=_BILL)
    return bill


@click.command()
@click.argument("target")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["spdx", "cyclonedx"]),
    default="spdx",
    show_default=True,
    help="SPDX 2.3 or CycloneDX 1.6, both JSON.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file.")
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="For models:/NAME/VERSION.")
def sbom(target: str, *, kind: str, output: Path | None, server: str | None) -> None:
    """Print the bill of materials of TARGET, a release directory or a frozen models:/NAME/VERSION.

    It is compared with the release's files first. A version of a registry is also verified by its
    release id and its signature.
    """
    root = Path(target)
    if target.startswith("models:"):
        from kfm_mlflow.rollout.model_uri import parse_model_uri
        from kfm_mlflow.rollout.remote import RemoteRegistry

        root = RemoteRegistry(server).fetch(*parse_model_uri(target)).release_dir
    elif not root.is_dir():
        raise InputError(
            "no such directory",
            where=target,
            remedy="give a release directory or models:/NAME/VERSION",
        )
    data = release_bill(root, kind)
    if output is None:
        click.echo(data)
    else:
        write_bytes(output, data)
        click.echo(f"{output}  {len(data)} bytes")
