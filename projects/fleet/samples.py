"""Thin script: see fleet_project/scripts.py."""

from __future__ import annotations

import sys

from fleet_project.scripts import samples
from kfm_mlflow.errors import KfmError

if __name__ == "__main__":
    try:
        samples()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
