"""What ``mlflow deployments help -t kfm`` prints."""

from __future__ import annotations

from kfm_mlflow.rollout.deployments_asked import ORDERS
from kfm_mlflow.rollout.deployments_endpoints import TAG, VARIABLE
from kfm_mlflow.rollout.deployments_local import OPTIONS

HELP = f"""\
Target kfm: a registered model of a governed MLflow server (`kfm server`), served by
`kfm rollout run MODEL`. A deployment and its endpoint have the name of the registered model.

Target URI
  kfm                       the server of MLFLOW_TRACKING_URI
  kfm:/http://HOST:PORT     that server; kfm+http://HOST:PORT says the same

Verbs
  create   -m models:/NAME/VERSION      the first version: through staging to canary, or refused
  update   -m models:/NAME/VERSION      the next candidate, to canary
           -C rollout={"|".join(ORDERS)} -C reason=WHY [-C version=N]
                                        an order to the rollout that is under way
  delete   [-C version=N]               gives a candidate up; Production is not deleted
  get, list                             levels, shares, phase and verdict
  predict, explain                      scores; the release's own explanations
  run-local -m models:/NAME/VERSION     one frozen release on this machine
           [{" ".join(f"-C {option}=…" for option in OPTIONS)}]
  update-endpoint -C url=http://HOST:PORT
                                        writes down where the model is served (tag {TAG});
                                        {VARIABLE} in the environment comes first
Everything that changes a level takes -C reason=WHY, which the ledger keeps. Shares, steps and
limits are in the policy: `kfm policy show`.
"""
