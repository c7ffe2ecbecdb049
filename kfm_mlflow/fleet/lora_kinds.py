"""Which LoRA adapters may be merged: a settings file judged field by field.

peft merges some kinds without a word and wrongly: with one adapter at weight 1.0, rsLoRA's logits
were off by 0.42 relative, those of ``lora_bias`` by 1.0, of DoRA by 0.42, of KaSA by 1.3 (peft
#3761), and merges with ``rank_pattern`` cannot be loaded again (peft #3737). So the rule is the
other way round: what is not known to be plain LoRA is refused, new fields too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_REASONS = {
    "use_rslora": "is rsLoRA, whose scaling peft loses when it merges (peft #3761)",
    "use_dora": "is DoRA, whose magnitudes peft does not merge (peft #3761)",
    "lora_bias": "has lora_bias, which peft drops when it merges (peft #3761)",
    "kasa_config": "is KaSA, whose diagonal peft does not merge (peft #3761)",
    "rank_pattern": "has rank_pattern, and peft cannot load what it merges so (peft #3737)",
    "alpha_pattern": "has alpha_pattern, which peft's merge does not keep",
    "modules_to_save": "replaces whole modules, which cannot be added up",
    "fan_in_fan_out": "holds transposed weights",
    "loftq_config": "changes the weights of its base",
}
_READ = frozenset({"peft_type", "r", "lora_alpha", "target_modules", "bias", "init_lora_weights"})
# They say how it was trained, or where; the sum B A x alpha / r is the same.
_HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)


@dataclass(frozen=True)
class PlainLora:
    """Settings of a plain LoRA adapter: what it adds is ``B A x lora_alpha / rank``.

    Attributes:
        rank: Columns of B, rows of A.
        lora_alpha: Numerator of the scaling.
        target_modules: Names of the modules that it adapts, sorted.
    """

    rank: int
    lora_alpha: float
    target_modules: tuple[str, ...]

    @property
    def scaling(self) -> float:
        """What ``B A`` is multiplied by."""
        return self.lora_alpha / self.rank


def parse_plain_lora(settings: Mapping[str, Any], *, where: str) -> PlainLora:
    """Read ``adapter_config.json`` of a plain LoRA adapter.

    Args:
        settings: The file's JSON.
        where: Which file, for messages.

    Raises:
        InputError: It is another kind, or a field is wrong; says which.
    """
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise InputError(
            f"is of kind {str(kind)[:40]}, not LORA", where=where, remedy="only LoRA is merged"
        )
    for name, value in settings.items():
        if name in _READ or name in _HARMLESS or value in (None, False, "", [], {}):
            continue
        raise InputError(
            _REASONS.get(name, f"sets {name[:40]}, which is not known to merge"),
            where=where,
            remedy="merge it into its own base instead, or train it as plain LoRA",
        )
    if settings.get("bias", "none") != "none":
        raise InputError("changes biases, which cannot be added up", where=f"{where}: bias")
    if settings.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise InputError(
            "was begun from its base's own weights, which that way of training changes",
            where=f"{where}: init_lora_weights",
        )
    return _numbers(settings, where)


def _numbers(settings: Mapping[str, Any], where: str) -> PlainLora:
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= 2**16:
        raise InputError("must be a whole number, 1 or more", where=f"{where}: r")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InputError("must be a number", where=f"{where}: lora_alpha")
    modules = settings.get("target_modules")
    if (
        not isinstance(modules, list)
        or not modules
        or not all(isinstance(name, str) and name for name in modules)
    ):
        raise InputError(
            "must list the modules by name",
            where=f"{where}: target_modules",
            remedy="a pattern may mean other modules of another base",
        )
    return PlainLora(rank, float(alpha), tuple(sorted(set(modules))))
