"""Thin script: see fleet_project/validate.py."""

from __future__ import annotations

import sys

from fleet_project.validate import main
from kfm_mlflow.errors import KfmError

if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
