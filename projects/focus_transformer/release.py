"""Thin script: see focus_transformer/release.py. The rows are those of the Focus Mode project beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "focus_mode"))

from focus_transformer.release import main
from kfm_mlflow.errors import KfmError

if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
