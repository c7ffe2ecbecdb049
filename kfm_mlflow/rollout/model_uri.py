"""How people name models and versions: MLflow's ``models:/`` URIs, with a workspace or without."""

from __future__ import annotations

import os
import re

from kfm_mlflow.errors import InputError
from kfm_mlflow.trust.model_key import current_key

_MODEL_URI = re.compile(r"models:/((?:[^/@]+/)?[^/@]+)/(\d+)")
_REGISTERED = re.compile(r"models:/([^/@]+|[^/@]+/(?!\d+$)[^/@]+)")


def parse_registered_model(text: str) -> str:
    """Read ``models:/NAME`` or ``models:/WORKSPACE/NAME``.

    Returns:
        The model's key; a name without a workspace is in the one of ``MLFLOW_WORKSPACE``.

    Raises:
        InputError: The text is something else.
    """
    match = _REGISTERED.fullmatch(text)
    if match is None:
        raise InputError(
            "is not models:/NAME", where=text, remedy="for example models:/climate-downscaler"
        )
    return current_key(match.group(1), os.environ)


def parse_model_uri(text: str) -> tuple[str, int]:
    """Read ``models:/NAME/VERSION`` or ``models:/WORKSPACE/NAME/VERSION``.

    Returns:
        The model's key, as :func:`parse_registered_model` gives it, and the version.

    Raises:
        InputError: The text is something else.
    """
    match = _MODEL_URI.fullmatch(text)
    if match is None:
        raise InputError(
            "is not models:/NAME/VERSION",
            where=text,
            remedy="for example models:/climate-downscaler/3",
        )
    return current_key(match.group(1), os.environ), int(match.group(2))
