"""Where fields come from: generated, or read from a file of the user's."""

from downscaling.fieldset import FieldSet, digest_fields
from downscaling.kansas import generate_kansas
from downscaling.reader import load_fields
from kfm_mlflow.canonical import digest_path

__all__ = ["FieldSet", "digest_fields", "digest_path", "generate_kansas", "load_fields"]
