"""JSON about policies in force under ``/kfm/api/v1``, on :data:`kfm_mlflow.registry.api.api`."""
