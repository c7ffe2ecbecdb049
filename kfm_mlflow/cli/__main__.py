"""Run the command line as ``python -m kfm_mlflow.cli``."""

from kfm_mlflow.cli.main import main

main()
