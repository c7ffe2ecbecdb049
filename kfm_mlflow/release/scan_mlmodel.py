"""What MLflow would import, run or install because a release's own files say so.

``mlflow.pyfunc.load_model`` imports the module that MLmodel names, puts the release's code on the
path before that, and unpickles what the flavour wants; ``mlflow models`` installs its
requirements. Of all flavours, only ONNX's loader reads arithmetic and nothing else; and the loader
of fleets, which is a part of this package, reads arrays without pickle, and JSON.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

LOADERS = frozenset({"mlflow.onnx", "kfm_mlflow.fleet.loading"})
"""Modules that may load a release: they unpickle nothing and import nothing that it names."""
REQUIREMENT_FILES = frozenset(
    {"requirements.txt", "constraints.txt", "conda.yaml", "python_env.yaml"}
)
_FLAVORS = frozenset({"python_function", "onnx"})
_CODE_KEYS = ("code", "code_paths", "model_code_path", "python_model")
_FOREIGN_SOURCE = re.compile(
    r"[a-z0-9+.-]+://|\s@\s|(?:^|[\s\"'\[,])-(?:e|f|i|-editable|-find-links|-(?:extra-)?index-url"
    r"|-trusted-host)(?=[\s=]|$)",
    re.IGNORECASE | re.MULTILINE,
)


def _conf_problems(name: str, conf: dict[str, Any], paths: Collection[str]) -> Iterator[str]:
    for key in _CODE_KEYS:
        if conf.get(key):
            yield f"flavour {name} would run code of the release ({key})"
    loaded = conf.get("data")
    if loaded is not None and not (str(loaded) in paths and str(loaded).endswith(".onnx")):
        yield f"flavour {name} loads {str(loaded)[:120]!r}, which is no .onnx file of the release"
    providers = conf.get("providers") or []
    named = [providers] if isinstance(providers, str) else providers
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        # TensorRT's options name libraries to load, among others.
        yield f"flavour {name} gives options to an execution provider"
    options = conf.get("onnx_session_options")
    if isinstance(options, dict) and options.get("extra_session_config"):
        yield f"flavour {name} gives further settings to a session"


def scan_mlmodel(data: bytes, paths: Collection[str]) -> list[str]:
    """Return what loading a model by its MLmodel file would run; empty when nothing.

    Args:
        data: The file.
        paths: Paths of the release's files.
    """
    import yaml

    try:
        value = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ["is not YAML"]
    flavors = value.get("flavors") if isinstance(value, dict) else None
    if not isinstance(flavors, dict) or not flavors:
        return ["names no flavour"]
    found = [f"would run code of the release ({key})" for key in _CODE_KEYS if value.get(key)]
    for name, conf in flavors.items():
        if name not in _FLAVORS:
            found.append(f"flavour {str(name)[:80]} is loaded by code that is not vouched for")
        elif not isinstance(conf, dict):
            found.append(f"flavour {name} is not an object")
        else:
            found += _conf_problems(name, conf, paths)
            loader = conf.get("loader_module")
            if (name == "python_function" or loader) and str(loader) not in LOADERS:
                found.append(f"would import {str(loader)[:120]} to load the model")
    return found


def scan_requirements(data: bytes) -> list[str]:
    """Return which lines of a requirements file install from elsewhere than the reader's index.

    Args:
        data: ``requirements.txt``, ``constraints.txt``, ``conda.yaml`` or ``python_env.yaml``.
    """
    text = data.decode("utf-8", "replace")
    return [
        f"line {number} would install from a place of its own"
        for number, line in enumerate(text.splitlines(), 1)
        if _FOREIGN_SOURCE.search(line.partition(" #")[0])
    ]
