"""The documents that every release holds, whoever made its model: CARE, card, lineage, bill, item.

One rests on the other: CARE reads every text that is there, the card names the outcome, the lineage
and the bill of materials list what was written before them, and the STAC item, which comes last,
lists the checksum of everything else. Nothing here asks the clock or the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, write_bytes, write_json
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.care.screen import OutputGrid, screen_release
from kfm_mlflow.metadata.card import build_card
from kfm_mlflow.metadata.facts import FileFact, ReleaseFact, TensorFact, read_file_fact
from kfm_mlflow.metadata.packages import resolved_packages
from kfm_mlflow.metadata.prov import build_prov, prov_views
from kfm_mlflow.metadata.sbom import build_sbom
from kfm_mlflow.metadata.stac import build_item
from kfm_mlflow.release.bundle import ITEM_PATH
from kfm_mlflow.release.manifest import Manifest, build_manifest
from kfm_mlflow.release.texts import is_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from kfm_mlflow.authoring.imported_spec import ImportedSpec
    from kfm_mlflow.authoring.spec import ReleaseSpec


class ReleaseFiles:
    """The files of a release that is being written; each is read once, when it first appears."""

    def __init__(self, root: Path) -> None:
        """Begin with whatever lies in a directory."""
        self._root = root
        self._known: dict[str, FileFact] = {}

    def of(self, path: str) -> FileFact:
        """Return the fact of one file."""
        if path not in self._known:
            self._known[path] = read_file_fact(self._root, path)
        return self._known[path]

    def all(self) -> tuple[FileFact, ...]:
        """Return the facts of all files that exist by now, sorted by path."""
        found = (p.relative_to(self._root).as_posix() for p in self._root.rglob("*") if p.is_file())
        return tuple(self.of(path) for path in sorted(found))

    def manifest(self) -> Manifest:
        """Return the manifest of what was written."""
        return build_manifest(self._root, written={f.path: f.sha256 for f in self.all()})


def _texts(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    named = {path.relative_to(root).as_posix(): path for path in files}
    return {name: path.read_text(encoding="utf-8") for name, path in named.items() if is_text(name)}


def write_screening(
    root: Path, care: Mapping[str, Any], spec: ReleaseSpec | ImportedSpec, regions: Path | None
) -> str:
    """Screen everything readable that is there by now, write ``care.json``, return the status.

    Args:
        root: The release.
        care: Its CARE block.
        spec: What the release is.
        regions: GeoJSON of sovereign regions; None takes the packaged, illustrative extents.
    """
    screening = screen_release(
        care,
        outputs=OutputGrid.from_mapping(care.get("output_grid")),
        texts=_texts(root),
        regions=load_regions(regions),
        now=spec.released_at,
    )
    write_json(root / "care.json", screening.to_dict())
    return str(screening.status)


def tensor_entries(facts: Iterable[TensorFact]) -> list[dict[str, Any]]:
    """Return inputs or outputs as ``model_metadata.json`` lists them."""
    return [fact.to_dict() for fact in facts]


def model_metadata(
    spec: ReleaseSpec | ImportedSpec,
    weights: FileFact,
    tensors: Mapping[str, Any],
    *,
    architecture: str,
    framework: Mapping[str, str],
) -> dict[str, Any]:
    """Describe identity, code, data and weights of a release.

    Args:
        spec: What the release is.
        weights: The file of the weights.
        tensors: ``inputs`` and ``outputs``, as :func:`tensor_entries` returns them.
        architecture: Name of the architecture.
        framework: ``name`` and ``version``.
    """
    return {
        "schema_version": "1",
        "model_name": spec.name,
        "release_version": spec.version,
        "family": spec.family,
        "task": spec.task,
        "architecture": architecture,
        "framework": dict(framework),
        "hyperparameters": dict(spec.hyperparameters),
        "seed": spec.run.seed,
        **tensors,
        "data": [
            {
                "name": dataset.name,
                "role": dataset.role,
                "uri": dataset.uri,
                "digest": dataset.sha256,
                "license": dataset.license,
                "selection": dataset.selection,
            }
            for dataset in spec.datasets
        ],
        "code": {
            "git_commit": spec.run.git_commit,
            "git_url": spec.run.git_url,
            "entry_point": spec.run.entry_point,
        },
        "run_id": spec.run.run_id,
        "created_at": spec.released_at.isoformat().replace("+00:00", "Z"),
        "weights": {
            "path": weights.path,
            "digest": weights.sha256,
            "multihash": weights.multihash,
        },
    }


def release_fact(spec: ReleaseSpec | ImportedSpec, **facts: Any) -> ReleaseFact:
    """Return what a release says about itself.

    Args:
        spec: What the release is.
        facts: Fields of a :class:`ReleaseFact` that do not stand in every specification alike.
    """
    return ReleaseFact(
        model_name=spec.name,
        release_version=spec.version,
        family=spec.family,
        task=spec.task,
        released_at=spec.released_at,
        license=spec.license,
        description=spec.description or f"{spec.name} {spec.version}",
        hyperparameters=dict(spec.hyperparameters) or {"seed": spec.run.seed},
        metrics=dict(spec.metrics),
        bbox=spec.bbox,
        predecessor=spec.predecessor,
        **facts,
    )


def write_documents(
    root: Path,
    files: ReleaseFiles,
    fact: ReleaseFact,
    spec: ReleaseSpec | ImportedSpec,
    *,
    item_path: str = ITEM_PATH,
) -> Manifest:
    """Write card, lineage, bill of materials and STAC item, and return the manifest.

    Args:
        root: The release; everything else is there.
        files: Its files.
        fact: What it says about itself.
        spec: What it is.
        item_path: Where the STAC item lies.
    """
    card = build_card(fact, files.all(), spec.datasets, spec.run, item_path=item_path)
    write_json(root / "model-card.json", card)
    prov = canonical_bytes(build_prov(fact, files.all(), spec.datasets, spec.run, spec.agents))
    write_bytes(root / "provenance" / "provenance.json", prov)
    views = prov_views(prov)
    write_bytes(root / "provenance" / "provenance.provn", views["provn"].encode())
    write_bytes(root / "provenance" / "provenance.ttl", views["ttl"].encode())
    later = ("sbom.spdx.json", item_path)
    sbom = build_sbom(fact, files.all(), spec.datasets, resolved_packages(None), excluded=later)
    write_bytes(root / "sbom.spdx.json", sbom)
    item = build_item(fact, files.all(), spec.datasets, spec.run, item_path=item_path)
    write_json(root / item_path, item)
    return files.manifest()
