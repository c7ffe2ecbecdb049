"""Names of Serve applications: one per release and one router per registered model.

A registered model may have any name; Ray's metrics take ASCII only and its actor names take no
separator characters. A name that is not plain gets a readable stem and a digest of the whole name,
so two models never share an application.
"""

from __future__ import annotations

import hashlib
import re

from kfm_mlflow.errors import InputError

_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.]|-(?!-)){0,62}")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.]+")


def model_slug(model_name: str) -> str:
    """Return a name that Serve accepts and that belongs to this registered model alone.

    Raises:
        InputError: The name is empty.
    """
    if not model_name:
        raise InputError("a registered model needs a name", where="model_name")
    if _PLAIN.fullmatch(model_name):
        return model_name
    digest = hashlib.sha256(model_name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    stem = _FOREIGN.sub("-", model_name)[:40].strip("-.")
    return f"{stem or 'model'}-{digest}"


def release_app(model_name: str, version: int) -> str:
    """Return the name of the application that serves one release."""
    return f"{model_slug(model_name)}--v{version}"


def router_app(model_name: str) -> str:
    """Return the name of the application that splits a model's traffic."""
    return f"{model_slug(model_name)}--router"


def parse_release_app(model_name: str, app_name: str) -> int | None:
    """Return the version that an application serves; None when it is not this model's."""
    match = re.fullmatch(re.escape(model_slug(model_name)) + r"--v(\d+)", app_name)
    return int(match.group(1)) if match else None
