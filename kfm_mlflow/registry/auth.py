"""The governed server behind MLflow's basic-auth (``--app-name kfm-auth``)."""

from __future__ import annotations

from typing import Any


def create_auth_app() -> Any:
    """Return MLflow's application with logins and ours on it."""
    raise NotImplementedError
