"""Masking what a release answers, before anything of it leaves the replica.

The rules are the policy's regions and the release's own CARE block. What cannot be masked is
refused with 451; masking that goes wrong is refused too, and counted against the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json
from kfm_mlflow.care.mask_fields import FieldMask, with_gaps
from kfm_mlflow.care.mask_terms import terms_of_release
from kfm_mlflow.care.masking import Masked, guarded, mask_value
from kfm_mlflow.care.regions import load_regions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from kfm_mlflow.rollout.plane import MaskingOrder


@dataclass(frozen=True)
class AnswerMask:
    """Masks the answers of one release.

    Attributes:
        fields: How its arrays are masked.
    """

    fields: FieldMask

    @classmethod
    def load(cls, release_dir: Path, order: MaskingOrder) -> AnswerMask:
        """Read the CARE block of a release and the regions of its policy.

        Args:
            release_dir: Directory of the release; without ``care.json``, the strictest mode holds
                and no grid is known.
            order: Which regions.

        Raises:
            DataError: The regions file is missing, or has changed since the policy was loaded.
            EvidenceError: ``care.json`` is no JSON.
        """
        regions = load_regions(order.regions_file, digest=order.regions_digest)
        path = release_dir / "care.json"
        document = load_json(path) if path.is_file() else {}
        block = document.get("care") if isinstance(document, dict) else None
        return cls(FieldMask(terms_of_release(block, regions, order.public_terms)))

    def mask(self, outputs: Mapping[str, NDArray[Any]], now: datetime | None = None) -> Masked:
        """Return what may be published of a model's outputs.

        Args:
            outputs: Name -> finite array, batch first.
            now: The instant whose rules hold (aware); None takes the clock's.

        Returns:
            Name -> array; one in which a value is withheld holds None there.
        """
        at = now or datetime.now(UTC)
        terms = self.fields.terms

        def work() -> Masked:
            coverage, _ = terms.at(at)
            arrays, changed, hidden = self.fields.mask(outputs, coverage)
            shown = {name: with_gaps(array) for name, array in arrays.items()}
            counts = {"pixels": changed} if changed else {}
            return Masked(shown, counts=counts, withheld_count=hidden)

        return guarded(terms, at, work)

    def mask_json(self, value: Any, now: datetime | None = None) -> Masked:
        """Return what may be published of JSON with cells and texts in it.

        Args:
            value: JSON.
            now: The instant whose rules hold (aware); None takes the clock's.
        """
        at = now or datetime.now(UTC)
        terms = self.fields.terms
        return guarded(terms, at, lambda: mask_value(value, terms, at))
