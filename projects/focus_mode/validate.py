"""Validate a logged release in a process of its own, under the validator's key."""

from __future__ import annotations

import sys

from focus_mode.validate import main
from kfm_mlflow.errors import KfmError

if __name__ == "__main__":
    try:
        main()
    except KfmError as error:
        sys.exit(f"kfm: {error}")
