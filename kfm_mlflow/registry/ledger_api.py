"""JSON about the ledger under ``/kfm/api/v1``; registered on :data:`kfm_mlflow.registry.api.api`."""
