"""The MLflow side: admission at the doors of the registry, pages and API."""
