"""CARE and sovereignty: regions, generalisation, screening, and the masking of answers.

:func:`mask` and :class:`Masked` are loaded when they are first used, so that importing this package
loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfm_mlflow.care.mask_terms import MaskTerms as MaskTerms
    from kfm_mlflow.care.masking import Masked as Masked
    from kfm_mlflow.care.masking import mask as mask

__all__ = ["MaskTerms", "Masked", "mask"]

_HOMES = {"MaskTerms": "mask_terms", "Masked": "masking", "mask": "masking"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
