"""Thin script: see fleet_project/release.py."""

from __future__ import annotations

import subprocess
import sys

from fleet_project.release import main
from kfm_mlflow.errors import KfmError

if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
