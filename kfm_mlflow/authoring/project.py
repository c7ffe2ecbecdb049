"""What the scripts of every project do alike: options, keys, reading a release back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.export import FORMAT
from kfm_mlflow.authoring.replay import is_rebuild
from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import DataError, InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    import torch

_REMEDY = "give the torch file of a release of this project"


def add_release_options(
    parser: argparse.ArgumentParser, *, name: str, data: str, sizes: Sequence[str]
) -> None:
    """Add the options that every release script has.

    Args:
        parser: Of the script.
        name: What ``--name auto`` stands for, in words.
        data: What ``--data`` takes besides ``generated``, in words.
        sizes: Of the preset, the first by default.
    """
    parser.add_argument("--name", default="auto", help=f"registered model; auto: {name}")
    parser.add_argument("--version", default="v1.0.0")
    parser.add_argument("--data", default="generated", help=f"generated, or {data}")
    parser.add_argument("--size", default=sizes[0], choices=tuple(sizes))
    # mlflow hands numbers over as it parsed them: 42 arrives as 42.0.
    parser.add_argument("--seed", type=lambda text: int(float(text)), default=42)
    parser.add_argument(
        "--regions", default="packaged", help="packaged, or the policy's regions_file"
    )
    parser.add_argument(
        "--keys", type=Path, default=Path("keys"), help="holds trainer.pem and validator.pem"
    )


def add_validation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every validation script has."""
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--data", default="generated")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--regions", default="packaged", help="packaged, or a regions file")
    parser.add_argument(
        "--post", default="no", help="models:/NAME/VERSION: send it to the registry, too"
    )


def find_key(folder: Path, name: str) -> Path:
    """Return the private key of a duty; inside a rebuild there may be none.

    Raises:
        InputError: There is no such file.
    """
    path = folder / f"{name}.pem"
    # A rebuild signs nothing, and whoever makes one has no keys of the trainer's.
    if not path.is_file() and not is_rebuild():
        raise InputError(
            "no such key file", where=str(path), remedy=f"kfm keys new {name} --dir {folder}"
        )
    return path.resolve()


def recorded_metadata(run_id: str) -> dict[str, Any]:
    """Return ``model_metadata.json`` of the release in a run.

    Raises:
        EvidenceError: It is not strict JSON.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            f"runs:/{run_id}/release/model_metadata.json", dst_path=folder
        )
        found: dict[str, Any] = load_json(Path(path))
        return found


def require_recorded_data(metadata: Mapping[str, Any], digest: str, uri: str) -> None:
    """Refuse data that the release was not made from.

    Args:
        metadata: From :func:`recorded_metadata`.
        digest: Of the data that the validator has.
        uri: What they are called.

    Raises:
        DataError: Their digest is not recorded.
    """
    if digest not in {item["digest"] for item in metadata["data"]}:
        raise DataError(
            "is not the data that the release was made from",
            where=uri,
            remedy="give the recorded data",
        )


def restore_model(
    path: Path, build: Callable[[Mapping[str, Any]], torch.nn.Module]
) -> torch.nn.Module:
    """Read a module back from what ``save_state`` wrote, in evaluation mode; runs no code of it.

    Args:
        path: The torch file.
        build: Makes the module from its config.

    Raises:
        DataError: The file is missing, is no such file, or its weights do not fit its config.
    """
    import torch

    def said(exc: Exception) -> str:
        return " ".join(str(exc).split())[:200]

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:
        # Damaged bytes reach torch's unpickler, which raises whatever it meets.
        raise DataError(f"cannot be read ({said(exc)})", where=path.name, remedy=_REMEDY) from exc
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"is not of format {FORMAT}", where=path.name, remedy=_REMEDY)
    try:
        model = build(found["config"])
        model.load_state_dict(found["state_dict"], strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as exc:
        raise DataError(
            f"has the wrong weights ({said(exc)})", where=path.name, remedy=_REMEDY
        ) from exc
    return model.eval()
