"""One small Focus Mode release and ten broken ones: composed, signed, validated, judged.

The model is trained and exported once. A defect of the model is measured on the broken module and
on the fusion baseline that it freezes, and its claims are bound to the honest release; a defect of
anything else is composed.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from authoring import made_release

from focus_mode import checks
from focus_mode import draft as drafts
from focus_mode.checks import inspect_release
from focus_mode.defects import DEFECTS
from focus_mode.documents import fusion_weights
from focus_mode.draft import draft_of, one_row_per_cell
from focus_mode.reserved import care_evidence, without_reserved
from kfm_mlflow.authoring import compose
from kfm_mlflow.authoring.attestations import provenance_of, write_attestations
from kfm_mlflow.authoring.validation import CurrentInputs, OpenedRelease, check_drift, measure
from kfm_mlflow.canonical import write_json
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.focus.fusion import measure_fusion
from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.evidence import EvidenceReader
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.trust.keys import generate_key, load_private_key
from kfm_mlflow.trust.signing import sign_release
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    import pytest

    from kfm_mlflow.gates.findings import GateReport
    from kfm_mlflow.release.bundle import Bundle

NAME, VERSION, AT = "focus-mode", "v1.0.0", made_release.AT
OWN_SEED = 43


def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute only once what the same module gives again: ONNX, explanation, metrics."""
    for module, name in (
        (compose, "export_onnx"),
        (drafts, "explain_focus"),
        (drafts, "measure_fusion"),
        (checks, "explain_focus"),
        (checks, "evaluate"),
    ):
        monkeypatch.setattr(module, name, _once(getattr(module, name)))


def _once(function):
    known = {}

    @functools.wraps(function)
    def asked(first, *rest, **named):
        # An inference is a partial of its model.
        key = id(first.args[0] if isinstance(first, functools.partial) else first)
        if key not in known:
            known[key] = (first, function(first, *rest, **named))
        return known[key][1]

    return asked


@dataclass
class Workshop:
    """Where releases of one trained model are made.

    Attributes:
        folder: For releases and keys.
        draft: The honest one.
    """

    folder: Path
    draft: drafts.Draft

    @classmethod
    def open(cls, folder, trained, world):
        """Prepare a folder with the keys of a trainer and a validator."""
        for who in ("trainer", "validator"):
            generate_key(folder / "keys" / who)
        regions = load_regions(None)
        kept = without_reserved(world, regions)
        return cls(folder, draft_of(trained, world, kept, regions, 42))

    def compose(self, name: str, draft: drafts.Draft) -> Bundle:
        """Compose and sign a release of a draft."""
        bundle = bundle_at(self.folder / name / "release")
        spec = made_release.make_spec(
            model=draft.model,
            inputs=draft.baseline_rows,
            name=NAME,
            version=VERSION,
            family=NAME,
            task="classification",
            config={},
            metrics={"situation_accuracy": 0.5},
            care=dict(draft.care),
            cell_size_deg=draft.cell_size_deg,
            baseline="sample-mean",
            contents=draft.contents(load_regions(None), AT),
        )
        manifest = compose.compose_release(spec, bundle.release_dir)
        bundle.evidence_dir.mkdir()
        trainer = self.folder / "keys" / "trainer"
        sign_release(bundle.release_dir, bundle.signature_path, trainer)
        write_attestations(
            bundle,
            Binding(NAME, VERSION, manifest.release_id),
            provenance_of(spec),
            load_private_key(trainer),
            AT,
            item_path=spec.contents.item_path,
        )
        return bundle

    def measure(self, bundle: Bundle, draft: drafts.Draft) -> dict:
        """Return what a validator finds in a release, whose model is the draft's."""
        world, regions = draft.world, load_regions(None)
        current = CurrentInputs(
            world.rows[one_row_per_cell(world, seed=OWN_SEED)], has_report=False
        )
        return measure(
            bundle.release_dir,
            evaluate=lambda _: {},
            inputs=world.rows[world.is_held_out][:8],
            data={"name": world.name, "digest": world.digest},
            validator="validator",
            now=AT,
            care=care_evidence(draft.predict, world, regions, seed=OWN_SEED),
            drift=check_drift(bundle.release_dir, current, AT)[0],
            model=draft.model,
            inspect=lambda opened: inspect_release(
                OpenedRelease(self._files(opened.release_dir, draft), draft.predict, draft.model),
                world,
                regions,
                AT,
                seed=OWN_SEED,
            ),
        )

    def _files(self, release_dir: Path, draft: drafts.Draft) -> Path:
        """Return the files of a release; of a broken model, with the baseline that it freezes."""
        if draft.model is self.draft.model:
            return release_dir
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "release"
        shutil.copytree(release_dir, folder)
        trained = draft.world.rows[~draft.world.is_held_out]
        frozen = fusion_weights(measure_fusion(draft.predict, trained), seed=draft.seed)
        write_json(folder / "fusion_weights.json", frozen)
        return folder

    def judge(self, bundle: Bundle, document: dict) -> GateReport:
        """Sign a validation beside a release, and ask every gate on the way to Staging."""
        statement = build_statement(
            "validation", Binding(NAME, VERSION, document["release_id"]), document, AT
        )
        key = load_private_key(self.folder / "keys" / "validator")
        (bundle.evidence_dir / "validation.intoto.json").write_bytes(sign_statement(statement, key))
        policy = made_release.make_policy(self.folder / "keys", NAME)
        evidence = EvidenceReader().read(bundle, policy, now=AT)
        move = Move(NAME, 1, Level.CANDIDATE, Level.STAGING, 0, None, AT)
        return evaluate(evidence, policy, move)

    def broken(self, name: str, honest: Bundle) -> GateReport:
        """Return how the gates judge a release with a defect."""
        draft = DEFECTS[name].apply(self.draft)
        is_composed = draft.model is self.draft.model
        bundle = self.compose(name, draft) if is_composed else honest
        return self.judge(bundle, self.measure(bundle, draft))


def refusing(report: GateReport) -> set[str]:
    """Return the gates that did not pass."""
    return {gate.gate for gate in report.gates if str(gate.verdict) != "PASS"}
